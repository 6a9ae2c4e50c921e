"""Labels of people in pictures, in Ultralytics' layout: boxes and keypoints, which are moved when a picture is cut."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline.vision.keypoints import KEYPOINTS, MIRRORED

Image = NDArray[np.uint8]

NOT_LABELLED, HIDDEN, VISIBLE = 0, 1, 2
"""Values of the third number of a keypoint, as in COCO."""

_JPEG_QUALITY = 92
# The range of a part's sides, as shares of the whole picture's sides.
_PART_SHARES = (0.35, 0.75)
# A person is not labelled in a part that contains less than this share of the box.
_LEAST_VISIBLE = 0.4
_SHOULDERS = [KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("right_shoulder")]
_HIPS = [KEYPOINTS.index("left_hip"), KEYPOINTS.index("right_hip")]


@dataclass(frozen=True)
class People:
    """The people of one picture."""

    xyxy: NDArray[np.float32]
    """`float32 [N, 4]`: left, top, right, bottom in pixels."""
    keypoints: NDArray[np.float32]
    """`float32 [N, K, 3]`: x and y in pixels, and 0 (not labelled), 1 (hidden) or 2 (visible); K is 17 as in COCO, or 0
    if only boxes are known."""


def draw_part(name: str, held_out: float, seed: int) -> tuple[np.random.Generator, str]:
    """Return the random generator of a video or picture, seeded by its name, and its part: `train` or `val`."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return rng, "val" if rng.random() < held_out else "train"


def part_of(image: Image, people: People, rng: np.random.Generator) -> tuple[Image, People]:
    """Return a random part of a picture with the people in it. If there are people, it is around one of them."""
    height, width = image.shape[:2]
    share = rng.uniform(*_PART_SHARES)
    part_w, part_h = round(width * share), round(height * share)
    centre = np.array([width, height]) * rng.random(2)
    if len(people.xyxy):
        box = people.xyxy[rng.integers(len(people.xyxy))]
        centre = (box[:2] + box[2:]) / 2 + rng.normal(0, 0.15, 2) * (part_w, part_h)
    left = int(np.clip(centre[0] - part_w / 2, 0, width - part_w))
    top = int(np.clip(centre[1] - part_h / 2, 0, height - part_h))
    moved = people.xyxy - np.array([left, top, left, top], np.float32)
    clipped = moved.clip(0, np.array([part_w, part_h] * 2, np.float32))
    kept = _area(clipped) >= _LEAST_VISIBLE * _area(moved)
    keypoints = people.keypoints[kept] - np.array([left, top, 0], np.float32)
    return image[top : top + part_h, left : left + part_w], People(clipped[kept], keypoints)


def write_picture(root: Path, part: str, name: str, image: Image, people: People) -> None:
    """Write a picture and its label file into a data set in the layout of Ultralytics.

    Args:
        root: Folder of the data set.
        part: `train` or `val`.
        name: Name of the files, without a suffix.
        image: `uint8 [H, W, 3]`, RGB.
        people: The people in it. Keypoints outside the picture are written as not labelled.
    """
    for kind in ("images", "labels"):
        (root / kind / part).mkdir(parents=True, exist_ok=True)
    size = np.array([image.shape[1], image.shape[0]], np.float32)
    centres = (people.xyxy[:, :2] + people.xyxy[:, 2:]) / 2 / size
    sides = (people.xyxy[:, 2:] - people.xyxy[:, :2]) / size
    keypoints = people.keypoints.copy()
    keypoints[..., :2] /= size
    outside = ((keypoints[..., :2] < 0) | (keypoints[..., :2] > 1)).any(axis=-1)
    keypoints[outside | (keypoints[..., 2] == NOT_LABELLED)] = 0.0
    rows = np.hstack([centres, sides, keypoints.reshape(len(keypoints), 3 * keypoints.shape[1])])
    lines = ["0 " + " ".join(f"{value:.6g}" for value in row) + "\n" for row in rows]
    (root / "labels" / part / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    path = root / "images" / part / f"{name}.jpg"
    cv2.imwrite(str(path), image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


def describe_data_set(root: Path, class_name: str, has_keypoints: bool) -> Path:
    """Write the `data.yaml` of a data set, and return its path.

    If no picture is held out, the training pictures are used for validation, too.
    """
    held_out = (root / "images" / "val").is_dir()
    record: dict[str, Any] = {
        "path": str(root.absolute()),
        "train": "images/train",
        "val": "images/val" if held_out else "images/train",
        "names": {0: class_name},
    }
    if has_keypoints:
        record |= {"kpt_shape": [len(KEYPOINTS), 3], "flip_idx": MIRRORED}
    data = root / "data.yaml"
    data.write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    return data


def trunks(keypoints: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the width and height of the trunk of people `[N, 17, 3]`, as `[N, 2]`, and whether they are known."""
    known = (keypoints[:, _SHOULDERS + _HIPS, 2] > 0).all(axis=1)
    reach = np.abs(keypoints[:, _SHOULDERS, :2].mean(axis=1) - keypoints[:, _HIPS, :2].mean(axis=1))
    return reach, np.asarray(known)


def within_reach(truth: NDArray[np.float32], given: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return whether the visible keypoints of people, both `[N, 17, 3]`, are where they should be.

    That is, within a fifth of the trunk's length. People whose trunk is not labelled do not count.
    """
    trunk, known = trunks(truth)
    reach = np.where(known, 0.2 * np.hypot(trunk[:, 0], trunk[:, 1]), np.nan)
    far = np.hypot(*np.moveaxis(truth[..., :2] - given[..., :2], -1, 0))
    counts = (truth[..., 2] == VISIBLE) & known[:, None]
    return np.asarray((far <= reach[:, None])[counts])


def _area(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    area: NDArray[np.float32] = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    return area
