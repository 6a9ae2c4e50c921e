"""Let a strong detector label the frames of your own videos, as training data for a small detector."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.archive.plan import plan_video
from pipeline.archive.probe import probe_video
from pipeline.archive.refs import VideoRef
from pipeline.errors import VideoError
from pipeline.training.people import (
    HIDDEN,
    NOT_LABELLED,
    VISIBLE,
    People,
    describe_data_set,
    draw_part,
    part_of,
    write_picture,
)
from pipeline.video.decode import decode_chunk
from pipeline.vision.detector import Detector
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.landmarks import LandmarkNetwork
from pipeline.vision.turned import QUARTERS, detect_turned

log = logging.getLogger(__name__)

_BATCH_FRAMES = 16
_WHOLE_CHUNK_S = 86_400.0
# Keypoints that fit their box less well than this are not used as labels.
_LEAST_TRUST = 0.4
# A keypoint is visible from this score on; below the other it is not labelled.
_VISIBLE_SCORE, _HIDDEN_SCORE = 0.5, 0.1


@dataclass(frozen=True)
class LabelOptions:
    """Which frames are labelled, and how they are kept."""

    every_s: float = 0.2
    """Seconds between two labelled frames."""
    frame_px: int = 640
    """Longest side of a kept frame in pixels; smaller ones are not enlarged."""
    parts: int = 1
    """Number of random parts that are also kept of a frame larger than `student_px`. They show small people larger."""
    student_px: int = 320
    """Longest side of the input of the detector that will learn."""
    class_name: str = "person"
    """The student's class for everything that the teacher returns."""
    held_out: float = 0.05
    """Share of the videos kept for validation, by name."""
    seed: int = 0


class Teacher:
    """Strong networks that label a picture."""

    def __init__(self, detector: Detector, landmarks: LandmarkNetwork | None = None, turns: bool = False) -> None:
        """Take the networks.

        Args:
            detector: Finds the boxes.
            landmarks: Finds the keypoints of the person in each box. None: boxes alone.
            turns: Whether to look at each picture in four orientations.
        """
        self._detector, self._landmarks = detector, landmarks
        self._quarters = QUARTERS if turns else (0,)

    @property
    def n_keypoints(self) -> int:
        """Keypoints of a person, 0 without a network for them."""
        return len(KEYPOINTS) if self._landmarks else 0

    def label(self, image: NDArray[np.uint8]) -> People:
        """Return the people in a picture `uint8 [H, W, 3]`, RGB."""
        found = detect_turned(self._detector, image, self._quarters)
        keypoints = np.zeros((len(found.quarters), self.n_keypoints, 3), np.float32)
        if self._landmarks:
            for target, box, quarters in zip(keypoints, found.boxes.xyxy, found.quarters, strict=True):
                points, trust = self._landmarks.keypoints(image, box, int(quarters))
                if trust >= _LEAST_TRUST:
                    target[:] = points
                    target[:, 2] = np.select(
                        [points[:, 2] >= _VISIBLE_SCORE, points[:, 2] >= _HIDDEN_SCORE], [VISIBLE, HIDDEN], NOT_LABELLED
                    )
        return People(found.boxes.xyxy, keypoints)


def label_videos(refs: Sequence[VideoRef], teacher: Teacher, folder: str | Path, options: LabelOptions) -> Path:
    """Write a data set in the layout of Ultralytics: images, one label file each, and `data.yaml`.

    A video that can't be read is left out with a warning. The same videos give the same data set.

    Args:
        refs: Videos, or spans of them.
        teacher: Labels the frames; all that it returns become labels of one class.
        folder: The target folder; created if missing.
        options: Which frames.

    Returns:
        The path of `data.yaml`.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    n_images = 0
    for ref in refs:
        rng, part = draw_part(ref.uri, options.held_out, options.seed)
        try:
            for step, image in _frames(ref, options):
                for number, (view, people) in enumerate(_views(image, teacher.label(image), options, rng)):
                    write_picture(root, part, f"{ref.video_id}-{step:06d}-{number}", view, people)
                    n_images += 1
        except VideoError as error:
            log.warning("left out: %s", error)
    data = describe_data_set(root, options.class_name, teacher.n_keypoints > 0)
    log.info("%d images: %s", n_images, data)
    return data


def _frames(ref: VideoRef, options: LabelOptions) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    rate = Fraction(1 / options.every_s).limit_denominator(1000)
    probe = probe_video(ref)
    for chunk in plan_video(ref, probe, rate, _WHOLE_CHUNK_S).chunks:
        for batch in decode_chunk(ref.uri, probe, chunk, rate, options.frame_px, _BATCH_FRAMES):
            yield from zip(batch.steps.tolist(), batch.images, strict=True)


def _views(
    image: NDArray[np.uint8], people: People, options: LabelOptions, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.uint8], People]]:
    """Yield a frame and its kept parts, with the people in each."""
    yield image, people
    if max(image.shape[:2]) > options.student_px:
        for _ in range(options.parts):
            yield part_of(image, people, rng)
