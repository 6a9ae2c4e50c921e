"""Turn some of a detector's training images by quarters."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from pipeline.vision.turned import turn_boxes, turn_image, turn_points


def turning_trainer(share: float, has_keypoints: bool) -> type[Any]:
    """Return a trainer of Ultralytics that turns images of the training set before it cuts, scales and mixes them.

    Args:
        share: Share of the images, from 0 to 1. Each is turned by one, two or three quarters, drawn anew each time.
        has_keypoints: Whether the network learns keypoints as well.
    """
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.models.yolo.pose import PoseTrainer

    class TurningTrainer(PoseTrainer if has_keypoints else DetectionTrainer):  # type: ignore[misc]
        def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
            dataset = super().build_dataset(img_path, mode, batch)
            if mode == "train" and share > 0:
                dataset.get_image_and_label = _Turned(dataset.get_image_and_label, share)
            return dataset

    return TurningTrainer


class _Turned:
    """Reads an image and its labels, and turns some of them. It is a class so that reading processes can pickle it."""

    def __init__(self, read: Any, share: float) -> None:
        self._read, self._share = read, share

    def __call__(self, index: int) -> dict[str, Any]:
        label: dict[str, Any] = self._read(index)
        return turn_label(label, random.randint(1, 3)) if random.random() < self._share else label


def turn_label(label: dict[str, Any], quarters: int) -> dict[str, Any]:
    """Turn an image and its labels, as Ultralytics' data sets give them, by quarters counterclockwise.

    Args:
        label: `img`, `uint8 [H, W, 3]`, and `instances` with boxes as centre and sides, and keypoints
            `float32 [N, K, 3]`, in shares of the image. Changed in place.
        quarters: How often it is turned; negative ones turn back.

    Returns:
        The same label.
    """
    label["img"] = turn_image(label["img"], quarters)
    instances = label["instances"]
    instances.convert_bbox("xyxy")
    instances.bboxes[:] = turn_boxes(instances.bboxes, quarters, 1, 1)
    instances.convert_bbox("xywh")
    if instances.keypoints is not None:
        points, given = np.split(instances.keypoints, [2], axis=-1)
        # Keypoints that are not labelled stay at the corner, where Ultralytics expects them.
        points[:] = np.where(given > 0, turn_points(points, quarters, 1, 1), points)
    if quarters % 2:
        for key in ("ori_shape", "resized_shape"):
            label[key] = label[key][::-1]
    return label
