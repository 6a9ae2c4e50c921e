"""Detect in images turned by quarter turns, too: detectors are trained on standing people and miss lying ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.detector import Boxes

QUARTERS = (0, 1, 2, 3)
# A box found in another orientation is the same person above this intersection over union, ...
_SAME_IOU = 0.45
# ... or if more than this share of the smaller box lies in the larger one: in a turned image the detector often finds
# only a part of a person.
_SAME_SHARE = 0.7


class FindsBoxes(Protocol):
    """The part of a `Detector` that is used here."""

    def detect(self, images: NDArray[np.uint8]) -> list[Boxes]:
        """Return the boxes of each of N images `uint8 [N, H, W, 3]`, RGB."""


@dataclass(frozen=True)
class TurnedBoxes:
    """The boxes of one image, best first, and how the image was turned when each was found."""

    boxes: Boxes
    quarters: NDArray[np.int32]
    """`int32 [N]`: quarter turns counterclockwise."""


def turn_image(image: NDArray[np.uint8], quarters: int) -> NDArray[np.uint8]:
    """Return an image `uint8 [H, W, 3]` turned counterclockwise, in contiguous memory for OpenCV."""
    return np.ascontiguousarray(np.rot90(image, quarters))


def turn_points(xy: NDArray[np.float32], quarters: int, width: float, height: float) -> NDArray[np.float32]:
    """Return where points of an image lie when it is turned.

    Args:
        xy: `float32 [..., 2]` in pixels.
        quarters: Quarter turns counterclockwise; negative ones turn back.
        width: Width of the image before it is turned, in pixels.
        height: Height of the image before it is turned, in pixels.
    """
    x, y = xy[..., 0], xy[..., 1]
    turned = {0: (x, y), 1: (y, width - x), 2: (width - x, height - y), 3: (height - y, x)}[quarters % 4]
    return np.stack(turned, axis=-1).astype(np.float32)


def turn_boxes(xyxy: NDArray[np.float32], quarters: int, width: float, height: float) -> NDArray[np.float32]:
    """Return where boxes `float32 [N, 4]` of an image lie when it is turned; see `turn_points`."""
    corners = turn_points(xyxy.reshape(-1, 2, 2), quarters, width, height)
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def detect_turned(detector: FindsBoxes, image: NDArray[np.uint8], quarters: Sequence[int] = QUARTERS) -> TurnedBoxes:
    """Return the boxes that a detector finds in an image in any of several orientations.

    A person found in more than one orientation has one box: that with the highest score.

    Args:
        detector: Finds boxes in upright images.
        image: `uint8 [H, W, 3]`, RGB.
        quarters: The orientations to look at, as quarter turns counterclockwise.
    """
    height, width = image.shape[:2]
    found = []
    for quarter in quarters:
        boxes = detector.detect(turn_image(image, quarter)[None])[0]
        sides = (width, height) if quarter % 2 == 0 else (height, width)
        found.append(Boxes(turn_boxes(boxes.xyxy, -quarter, *sides), boxes.scores, boxes.class_ids))
    xyxy = np.concatenate([boxes.xyxy for boxes in found])
    scores = np.concatenate([boxes.scores for boxes in found])
    class_ids = np.concatenate([boxes.class_ids for boxes in found])
    turns = np.repeat(np.array(quarters, np.int32), [len(boxes.scores) for boxes in found])
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        others = [other for other in kept if turns[other] != turns[index] and class_ids[other] == class_ids[index]]
        if not _same_as_any(xyxy[index], xyxy[others]):
            kept.append(int(index))
    return TurnedBoxes(Boxes(xyxy[kept], scores[kept], class_ids[kept]), turns[kept])


def _same_as_any(box: NDArray[np.float32], others: NDArray[np.float32]) -> bool:
    """Tell whether a box shows the same person as one of the others."""
    top_left = np.maximum(box[:2], others[:, :2])
    shared = np.clip(np.minimum(box[2:], others[:, 2:]) - top_left, 0, None).prod(axis=1)
    area = float((box[2:] - box[:2]).prod())
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1)
    union = area + areas - shared
    return bool(((shared > _SAME_IOU * union) | (shared > _SAME_SHARE * np.minimum(area, areas))).any())
