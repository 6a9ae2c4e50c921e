"""Find people, or other things, by any Ultralytics detection weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.vision.keypoint_network import KeypointNetwork
from pipeline.vision.letterbox import Letterbox
from pipeline.vision.network import ImageNetwork
from pipeline.vision.pooling import describe, described_dim, take_apart
from pipeline.vision.runtime import Runtime
from pipeline.vision.weights import exported_weights, find_weights, first_output, load_weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Boxes:
    """The boxes of one frame, best first."""

    xyxy: NDArray[np.float32]
    """`float32 [N, 4]`: left, top, right, bottom in pixels of the given image."""
    scores: NDArray[np.float32]
    """`float32 [N]`."""
    class_ids: NDArray[np.int32]
    """`int32 [N]`: class numbers as the weights define them."""
    keypoints: NDArray[np.float32] | None = None
    """`float32 [N, K, 3]`: x and y in pixels of the given image, score from 0 to 1. None if the weights give none."""


@dataclass(frozen=True)
class Look:
    """What the network finds in an image by one pass over it, and one pass of a keypoint head over each person."""

    boxes: Boxes
    frame: NDArray[np.float16]
    """`float16 [D]`: feature vector of the whole image."""
    people: NDArray[np.float16]
    """`float16 [N, D]`: feature vector of the image inside each box."""


class Detector:
    """Images in, boxes out, with the pre- and post-processing of Ultralytics."""

    def __init__(
        self,
        weights: str,
        runtime: Runtime,
        classes: Sequence[str],
        longest_px: int | None,
        min_score: float,
        max_boxes: int,
    ) -> None:
        """Load detection weights, exporting them first if this node has not used them before.

        Args:
            weights: `person_nano` or `person_pose` (embedded), the folder of a detector bundle, the path of a `.pt`
                file, or a name such as `yolo11n.pt` that Ultralytics downloads.
            runtime: Where and how to compute.
            classes: Names of the classes to keep.
            longest_px: Longest side of the network's input in pixels; images are shrunk or enlarged to it. None: the
                size that the network was trained for.
            min_score: Boxes with at most this score are dropped.
            max_boxes: Largest number of boxes per image; the best by score are kept.

        Raises:
            UsageError: The weights are missing, are of a task without boxes, or lack one of the classes.
        """
        path = find_weights(weights)
        folder = exported_weights(path)
        info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
        self.names: dict[int, str] = {int(number): name for number, name in info["names"].items()}
        self._end2end, self._same_iou = bool(info["end2end"]), float(info["same_iou"])
        self.n_keypoints, self._keypoint_dims = info["kpt_shape"]
        self._maps = [(channels, stride, n_cells) for channels, stride, n_cells in info["maps"]]
        self.dim = described_dim(self._maps)
        """Length of the feature vectors that `look` returns; 0 if the weights give none."""
        self._class_ids = _class_ids(self.names, classes, weights)
        self.longest_px = longest_px or int(info["px"])
        self._min_score, self._max_boxes = min_score, max_boxes
        self._network = ImageNetwork(
            runtime, lambda: folder / "model.xml", lambda: first_output(load_weights(path)), (0.0,) * 3, (255.0,) * 3
        )
        keypoint_map = [tuple(info["keypoint_map"])] if info["keypoint_map"] else []
        self._map_kinds = [*((channels, stride) for channels, stride, _ in self._maps), *keypoint_map]
        self._keypoint_network = (
            KeypointNetwork(runtime, lambda: folder / "keypoints.xml", lambda: _keypoint_head(path))
            if keypoint_map
            else None
        )

    @property
    def busy_s(self) -> float:
        """Seconds spent in the networks themselves."""
        keypoints_s = self._keypoint_network.busy.seconds if self._keypoint_network is not None else 0.0
        return self._network.busy.seconds + keypoints_s

    def detect(self, images: NDArray[np.uint8]) -> list[Boxes]:
        """Return the boxes of each of N images `uint8 [N, H, W, 3]`, RGB."""
        return [look.boxes for look in self.look(images)]

    def look(self, images: NDArray[np.uint8]) -> list[Look]:
        """Return boxes, keypoints and feature vectors of each of N images `uint8 [N, H, W, 3]`, RGB."""
        if not len(images):
            return []
        letterbox = Letterbox(images.shape[1], images.shape[2], self.longest_px)
        looks = []
        for rows in self._network(list(images), letterbox.size, letterbox.place):
            looks += self._read(rows, letterbox)
        return looks

    def _read(self, rows: NDArray[np.float32], letterbox: Letterbox) -> list[Look]:
        """Turn the network's output for N images, `float32 [N, ...]`, into a `Look` for each."""
        kinds = self._map_kinds
        told = [take_apart(row, kinds, *letterbox.size) if kinds else (row, []) for row in rows]
        found = []
        for predictions, _ in told:
            best = self._best(predictions)
            found.append(best[letterbox.is_solid(best)])
        if self._keypoint_network is not None and any(map(len, found)):
            boxes = [best[:, :4] for best in found]
            keypoints = self._keypoint_network.keypoints([maps[-1] for _, maps in told], boxes)
            parts = np.split(keypoints.reshape(len(keypoints), -1), np.cumsum([len(best) for best in found])[:-1])
            found = [np.hstack(pair) for pair in zip(found, parts, strict=True)]
        looks = []
        for (_, maps), best in zip(told, found, strict=True):
            vectors = np.zeros((1 + len(best), 0), np.float16)
            if self._maps:
                parts_of_image = np.concatenate([letterbox.whole, best[:, :4]])
                vectors = describe(maps[: len(self._maps)], self._maps, parts_of_image)
            looks.append(Look(self._to_boxes(best, letterbox), vectors[0], vectors[1:]))
        return looks

    def _best(self, predictions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an image's boxes `float32 [N, 6 + ...]`: xyxy, score, class, keypoints if any; best first."""
        if self._end2end:
            found = predictions[predictions[:, 4] > self._min_score]
            return found[np.isin(found[:, 5], self._class_ids)][: self._max_boxes]
        return best_boxes(
            predictions, len(self.names), self._class_ids, self._min_score, self._max_boxes, self._same_iou
        )

    def _to_boxes(self, found: NDArray[np.float32], letterbox: Letterbox) -> Boxes:
        """Return the found rows as `Boxes`, in pixels of the image."""
        xyxy = letterbox.to_image(found[:, :4].reshape(-1, 2, 2)).reshape(-1, 4)
        keypoints = None
        if self.n_keypoints:
            given = found[:, 6 : 6 + self.n_keypoints * self._keypoint_dims]
            given = given.reshape(len(found), self.n_keypoints, self._keypoint_dims)
            # If the weights give no keypoint scores, every keypoint scores 1.
            keypoints = np.ones((*given.shape[:2], 3), np.float32)
            keypoints[..., : self._keypoint_dims] = given
            keypoints[..., :2] = letterbox.to_image(keypoints[..., :2])
        return Boxes(xyxy, found[:, 4], found[:, 5].astype(np.int32), keypoints)


def best_boxes(
    predictions: NDArray[np.float32],
    n_classes: int,
    class_ids: Sequence[int],
    min_score: float,
    max_boxes: int,
    same_iou: float,
) -> NDArray[np.float32]:
    """Return the predictions of an image that non-maximum suppression keeps, `float32 [N, 6 + ...]`.

    A row holds xyxy, score, class, and the network's further values for the box: keypoints, coefficients of a mask.

    The boxes are those of Ultralytics' `non_max_suppression`. Importing it and PyTorch would cost every worker two
    seconds and 400 MB.

    Args:
        predictions: `float32 [4 + n_classes + ..., A]` for A anchors: centre, size, scores.
        n_classes: Classes of the network.
        class_ids: The wanted classes.
        min_score: Boxes with at most this score are dropped.
        max_boxes: Largest number of boxes; the best by score are kept.
        same_iou: Two boxes of one class whose intersection over union exceeds this are the same object.
    """
    scores = predictions[4 : 4 + n_classes]
    likely = np.flatnonzero(scores[list(class_ids)].max(axis=0) > min_score)
    scores = scores[:, likely]
    # An anchor counts for its best class only, even if that class is not wanted.
    best_class = scores.argmax(axis=0)
    wanted = np.isin(best_class, class_ids)
    likely, best_class, scores = likely[wanted], best_class[wanted], scores.max(axis=0)[wanted]
    size = predictions[2:4, likely].T
    corner = predictions[:2, likely].T - size / 2
    kept = cv2.dnn.NMSBoxesBatched(
        np.hstack([corner, size]).tolist(), scores.tolist(), best_class.tolist(), min_score, same_iou
    )
    others = predictions[4 + n_classes :, likely].T
    boxes = np.hstack([corner, corner + size, scores[:, None], best_class[:, None], others]).astype(np.float32)
    return boxes[np.asarray(kept, np.intp)[:max_boxes]]


def _keypoint_head(path: Path) -> torch.nn.Module:
    from pipeline.vision.people_network import keypoint_head_of

    head = keypoint_head_of(load_weights(path))
    assert head is not None
    return head


def _class_ids(names: dict[int, str], wanted: Sequence[str], weights: str) -> list[int]:
    numbers = {name: number for number, name in names.items()}
    unknown = [name for name in wanted if name not in numbers]
    if unknown:
        raise UsageError(
            f"detector {weights!r} has no class {', '.join(map(repr, unknown))}; it has {', '.join(names.values())}"
        )
    return [numbers[name] for name in wanted]
