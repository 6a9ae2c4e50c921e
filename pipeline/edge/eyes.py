"""Find people and their keypoints in pictures, one picture at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.detector import Boxes, best_boxes
from pipeline.vision.keypoint_network import N_CELLS, STRIDE, read_heatmaps, regions_of
from pipeline.vision.letterbox import Letterbox
from pipeline.vision.pooling import sampled, take_apart


class Eyes:
    """The detector of a pack, with its keypoint head."""

    def __init__(self, detector: dict[str, Any], networks: Any) -> None:
        """Take the facts about the detector from `pack.json`, and the networks."""
        self._told, self._networks = detector, networks
        self._kinds = [(channels, stride) for channels, stride in detector["maps"]]

    def look(self, image: NDArray[np.uint8], size: tuple[int, int]) -> Boxes:
        """Return the people in an image `uint8 [H, W, 3]`, RGB, in pixels of the source of this width and height."""
        told = self._told
        letterbox = Letterbox(image.shape[0], image.shape[1], told["px"])
        given = np.empty((1, *letterbox.size, 3), np.uint8)
        letterbox.place(image, given[0])
        predictions, maps = take_apart(self._networks.detect(given)[0], self._kinds, *letterbox.size)
        found = best_boxes(
            predictions, told["n_classes"], told["class_ids"], told["min_score"], told["max_boxes"], told["same_iou"]
        )
        found = found[letterbox.is_solid(found)]
        keypoints = np.zeros((len(found), told["n_keypoints"], 3), np.float32)
        if len(found):
            regions = regions_of(found[:, :4])
            parts = sampled(maps[-1], regions / np.float32(STRIDE), N_CELLS)
            keypoints = read_heatmaps(self._networks.keypoints(parts), regions)
            keypoints[..., :2] = letterbox.to_image(keypoints[..., :2])
        to_source = np.array(size, np.float32) / np.array(image.shape[1::-1], np.float32)
        keypoints[..., :2] *= to_source
        xyxy = letterbox.to_image(found[:, :4].reshape(-1, 2, 2)).reshape(-1, 4) * np.tile(to_source, 2)
        return Boxes(xyxy, found[:, 4], found[:, 5].astype(np.int32), keypoints)
