"""Prepare the inputs of the networks from frames: crops of people, changes between frames, motion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.video.decode import FrameBatch
from pipeline.vision.detector import Boxes
from pipeline.vision.flow import FlowEstimator, describe_flow

# A crop extends the box by this share of its width or height on each side: hands and feet often lie outside the box.
_CROP_MARGIN = 0.1
# Smallest assumed height of a person, in pixels of the decoded frame, when motion is measured in heights.
_SMALLEST_PX = 8.0
# Value of an unchanged pixel in the image of a change.
_GREY = 128
# Parts across and down whose means are compared between frames.
_PARTS = (64, 36)


class Views:
    """The images of one piece for the embedder: whole frames, crops, and the change of either to the next frame."""

    def __init__(self, embedded: Sequence[str], frames: FrameBatch | None, boxes: Sequence[Boxes]) -> None:
        """Cut the images of the wanted inputs out of frames and the boxes of each frame; None gives no images."""
        self.images: list[NDArray[np.uint8]] = []
        self._sizes: list[tuple[tuple[str, bool], int]] = []
        if frames is None:
            return
        still = frames.images
        changes = frame_changes(frames) if {"frame_change", "crop_change"} & set(embedded) else still
        if "frame" in embedded:
            self._add("embedding", False, list(still))
        if "frame_change" in embedded:
            self._add("change", False, list(changes))
        if "crop" in embedded:
            self._add("embedding", True, crops(still, boxes))
        if "crop_change" in embedded:
            self._add("change", True, crops(changes, boxes))

    def _add(self, column: str, of_boxes: bool, images: list[NDArray[np.uint8]]) -> None:
        self.images += images
        self._sizes.append(((column, of_boxes), len(images)))

    def ranges(self) -> Iterator[tuple[tuple[str, bool], int, int]]:
        """Yield for each kind of image its column, whether it is of boxes, and its range among the images."""
        end = 0
        for kind, size in self._sizes:
            yield kind, end, end + size
            end += size


def changed_frames(images: NDArray[np.uint8], threshold: float) -> NDArray[np.intp]:
    """Return the indices of the first image, and of each image that differs from the last one returned before it.

    Two images differ if the mean grey of any of their parts differs by more than the threshold. The noise of a sensor
    hardly changes such a mean; a person at the horizon does.
    """
    changed: list[int] = []
    last = np.empty(0)
    for index, image in enumerate(images):
        parts = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), _PARTS, interpolation=cv2.INTER_AREA).astype(
            np.int16
        )
        if not changed or np.abs(parts - last).max() > threshold:
            changed.append(index)
            last = parts
    return np.array(changed, np.intp)


def frame_changes(frames: FrameBatch) -> NDArray[np.uint8]:
    """Return grey plus the next frame minus this one, saturated, `uint8 [T, H, W, 3]`; plain grey at the end."""
    after = frames.images[-1] if frames.after is None else frames.after
    changes = np.empty_like(frames.images)
    for target, this, following in zip(changes, frames.images, [*frames.images[1:], after], strict=True):
        cv2.addWeighted(following, 1.0, this, -1.0, _GREY, dst=target)
    return changes


def crops(images: NDArray[np.uint8], boxes: Sequence[Boxes]) -> list[NDArray[np.uint8]]:
    """Return the part of its image that each box shows, `uint8 [h, w, 3]` of any size, image after image."""
    return [crop(image, box) for image, found in zip(images, boxes, strict=True) for box in found.xyxy]


def crop(image: NDArray[Any], box: NDArray[np.float32]) -> NDArray[Any]:
    """Return a person's part of an image, with a margin."""
    margin_x, margin_y = (box[2] - box[0]) * _CROP_MARGIN, (box[3] - box[1]) * _CROP_MARGIN
    left, top = max(0, int(box[0] - margin_x)), max(0, int(box[1] - margin_y))
    right = min(image.shape[1], max(left + 1, round(float(box[2] + margin_x))))
    bottom = min(image.shape[0], max(top + 1, round(float(box[3] + margin_y))))
    return image[top:bottom, left:right]


@dataclass(frozen=True)
class Motion:
    """The motion in T frames and in their boxes, as far as it is wanted."""

    vectors: Mapping[bool, NDArray[np.float16]]
    """`float16 [N, FLOW_DIM]`, under True for boxes and under False for whole frames."""
    camera_speed: NDArray[np.float32]
    """`float32 [T]`: the speed of most of the picture, in picture heights per second; NaN: not measured."""


def describe_motion(
    estimator: FlowEstimator,
    embedded: Sequence[str],
    frames: FrameBatch,
    boxes: Sequence[Boxes],
    rate: float,
    look_every: int,
) -> Motion:
    """Describe the motion from each frame to the next.

    Args:
        estimator: Finds the flow between two frames.
        embedded: The wanted inputs. Without a flow input among them, flow is computed only now and then, to measure
            the camera's motion.
        frames: The frames, with the one that follows.
        boxes: The boxes of each frame.
        rate: Frames per second.
        look_every: The camera's motion is measured in the frames shown at multiples of this many steps of the grid.
    """
    for_people = bool({"frame_flow", "crop_flow"} & set(embedded))
    last_step = frames.steps + frames.n_steps - 1
    looked = last_step // look_every > (frames.steps - 1) // look_every
    following = [*frames.images[1:], frames.after]
    found = [
        estimator.flow(image, after) if for_people or look else None
        for image, after, look in zip(frames.images, following, looked, strict=True)
    ]
    height = frames.images.shape[1]
    speed = np.array(
        [
            np.hypot(*flow.camera) * (rate / height) if flow is not None and after is not None and look else np.nan
            for flow, after, look in zip(found, following, looked, strict=True)
        ],
        np.float32,
    )
    vectors = {}
    flows = [flow.points for flow in found if flow is not None]
    if "frame_flow" in embedded:
        vectors[False] = describe_flow(flows, [rate / height] * len(flows))
    if "crop_flow" in embedded:
        ratio = flows[0].shape[0] / height
        parts = [crop(flow, box * ratio) for flow, of_frame in zip(flows, boxes, strict=True) for box in of_frame.xyxy]
        heights = [max(_SMALLEST_PX, float(box[3] - box[1])) for of_frame in boxes for box in of_frame.xyxy]
        vectors[True] = describe_flow(parts, [rate / px for px in heights])
    return Motion(vectors, speed)
