"""Let a strong detector label the frames of one's own videos, for a small one to learn from."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.archive.plan import plan_video
from pipeline.archive.probe import probe_video
from pipeline.archive.refs import VideoRef
from pipeline.errors import VideoError
from pipeline.video.decode import decode_chunk
from pipeline.vision.detector import Boxes, Detector

log = logging.getLogger(__name__)

_BATCH_FRAMES = 16
_JPEG_QUALITY = 92
# An enlarged part of a frame has sides of these shares of the frame's.
_PART_SHARES = (0.35, 0.75)
# A person of whom less than this share lies within the part is no longer labelled there.
_LEAST_VISIBLE = 0.4
_WHOLE_CHUNK_S = 86_400.0


@dataclass(frozen=True)
class LabelOptions:
    """Which frames are labelled, and how they are kept."""

    every_s: float = 0.2
    """One frame in so many seconds."""
    frame_px: int = 640
    """Longest side of a kept frame in pixels; smaller ones are not enlarged."""
    parts: int = 1
    """Of a frame larger than `student_px`, so many random parts are kept as well: small people, seen larger."""
    student_px: int = 320
    """Longest side of the input of the detector that will learn."""
    class_name: str = "person"
    """What the student shall call everything that the teacher returns."""
    held_out: float = 0.05
    """Share of the videos kept for validation, by name."""
    seed: int = 0


def label_videos(refs: Sequence[VideoRef], teacher: Detector, folder: str | Path, options: LabelOptions) -> Path:
    """Write a data set in the layout of Ultralytics: images, one label file each, and `data.yaml`.

    A video that can't be read is left out with a warning. The same videos give the same data set.

    Args:
        refs: Videos, or spans of them.
        teacher: Finds the boxes; all that it returns become labels of one class.
        folder: Where to; created if missing.
        options: Which frames.

    Returns:
        The path of `data.yaml`.
    """
    root = Path(folder)
    counts = {"train": 0, "val": 0}
    for ref in refs:
        rng = np.random.default_rng([options.seed, zlib.crc32(ref.uri.encode())])
        part = "val" if rng.random() < options.held_out else "train"
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        try:
            for step, image in _frames(ref, options):
                boxes = teacher.detect(image[None])[0]
                views = [(image, boxes)]
                if max(image.shape[:2]) > options.student_px:
                    views += [_random_part(image, boxes, rng) for _ in range(options.parts)]
                for number, (view, found) in enumerate(views):
                    _write(root, part, f"{ref.video_id}-{step:06d}-{number}", view, found)
                    counts[part] += 1
        except VideoError as error:
            log.warning("left out: %s", error)
    data = root / "data.yaml"
    # A small archive may have no held-out video at all; then it is validated on what it was trained on.
    validation = "images/val" if counts["val"] else "images/train"
    record = {
        "path": str(root.absolute()),
        "train": "images/train",
        "val": validation,
        "names": {0: options.class_name},
    }
    data.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    log.info("%d images to train on, %d to validate on: %s", counts["train"], counts["val"], data)
    return data


def _frames(ref: VideoRef, options: LabelOptions) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    rate = Fraction(1 / options.every_s).limit_denominator(1000)
    probe = probe_video(ref)
    for chunk in plan_video(ref, probe, rate, _WHOLE_CHUNK_S).chunks:
        for batch in decode_chunk(ref.uri, probe, chunk, rate, options.frame_px, _BATCH_FRAMES):
            yield from zip(batch.steps.tolist(), batch.images, strict=True)


def _random_part(image: NDArray[np.uint8], boxes: Boxes, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Boxes]:
    """Return a random part of an image, around somebody if there is anybody, with the boxes in it."""
    height, width = image.shape[:2]
    share = rng.uniform(*_PART_SHARES)
    part_w, part_h = round(width * share), round(height * share)
    centre = np.array([width, height]) * rng.random(2)
    if len(boxes.scores):
        box = boxes.xyxy[rng.integers(len(boxes.scores))]
        centre = (box[:2] + box[2:]) / 2 + rng.normal(0, 0.15, 2) * (part_w, part_h)
    left, top = (int(np.clip(c - s / 2, 0, limit - s)) for c, s, limit in zip(
        centre, (part_w, part_h), (width, height), strict=True
    ))  # fmt: skip
    moved = boxes.xyxy - np.array([left, top, left, top], np.float32)
    clipped = moved.clip(0, np.array([part_w, part_h] * 2, np.float32))
    kept = _area(clipped) >= _LEAST_VISIBLE * _area(moved)
    return image[top : top + part_h, left : left + part_w], Boxes(
        clipped[kept], boxes.scores[kept], boxes.class_ids[kept]
    )


def _area(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    return area


def _write(root: Path, part: str, name: str, image: NDArray[np.uint8], boxes: Boxes) -> None:
    height, width = image.shape[:2]
    centres = (boxes.xyxy[:, :2] + boxes.xyxy[:, 2:]) / 2 / (width, height)
    sides = (boxes.xyxy[:, 2:] - boxes.xyxy[:, :2]) / (width, height)
    lines = [f"0 {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for x, y, w, h in np.hstack([centres, sides])]
    (root / "labels" / part / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    path = root / "images" / part / f"{name}.jpg"
    cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
