"""People as skeletons in 3D, seen as a detector would see them from any place: poses to learn from without a video.

A camera stands at a random place around each skeleton. Its view is projected, then degraded as networks and pictures
degrade it: keypoints tremble, limbs are hidden, furniture and the picture's border cut people off, boxes jump.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import BACKGROUND
from pipeline.activity.spec import OF_TRACKS, of_tracks_alone
from pipeline.errors import UsageError
from pipeline.motion.kinematics import box_motion
from pipeline.motion.poses import pose_motion
from pipeline.training.sequences import IGNORE, LabelledSequence
from pipeline.vision.keypoints import KEYPOINTS

_INDEX = {name: number for number, name in enumerate(KEYPOINTS)}
_LEGS = [_INDEX[f"{side}_{joint}"] for joint in ("knee", "ankle") for side in ("left", "right")]
_ANKLES, _SHOULDERS, _NOSE = _LEGS[2:], [_INDEX["left_shoulder"], _INDEX["right_shoulder"]], _INDEX["nose"]
# Each list is for the face, then shoulders, elbows, wrists, hips, knees, ankles: a network's score in plain view; the
# share of the score that is left beyond the picture's border; and where a keypoint beyond it is put: its distance from
# the border as a share of the visible body. A network completes the body: hips keep scores, legs move into the box.
_SCORES, _LEFT_BEYOND, _PUT_INSIDE = (
    np.repeat(values, [5, 2, 2, 2, 2, 2, 2])
    for values in (
        [0.96, 0.97, 0.9, 0.8, 0.98, 0.9, 0.85],
        [0.75, 0.9, 0.75, 0.6, 0.95, 0.75, 0.33],
        [0.05, 0.1, 0.2, 0.2, 0.3, 0.24, 0.13],
    )
)
_ARMS = [_INDEX[f"{side}_{joint}"] for joint in ("elbow", "wrist") for side in ("left", "right")]
# If a larger share of a person than the first value is outside the picture, the activity can't be told. Beyond the
# second value, the person is not seen.
_MOST_GONE, _ALL_GONE = 0.5, 0.9


@dataclass(frozen=True)
class Skeletons:
    """Sequences of a body's keypoints in 3D, with a label for each step."""

    joints: NDArray[np.float32]
    """`float32 [sum T, 17, 3]`: COCO's keypoints in metres; y is up, and the ground at 0."""
    label_ids: NDArray[np.int64]
    """`int64 [sum T]`: numbers into `names`; `IGNORE` where a step has no label."""
    lengths: NDArray[np.int64]
    """`int64 [N]`: steps of each sequence."""
    names: tuple[str, ...]
    """Labels."""
    needs_legs: NDArray[np.bool_]
    """`bool [n_names]`: labels that can't be told while the legs are out of the picture. They become `background`."""
    rate: float
    """Steps per second."""

    def parts(self) -> list[slice]:
        """Return the steps of each sequence, as slices."""
        ends = np.cumsum(self.lengths)
        return [slice(end - length, end) for end, length in zip(ends, self.lengths, strict=True)]


def read_skeletons(path: str | Path) -> Skeletons:
    """Read skeletons from a file of NumPy arrays, `.npz`, with the fields of `Skeletons`.

    Raises:
        UsageError: It can't be read, or its arrays do not fit together.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            joints, label_ids, lengths = file["joints"].astype(np.float32), file["label_ids"], file["lengths"]
            names, needs_legs, rate = tuple(file["names"].tolist()), file["needs_legs"], float(file["rate"])
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{path}: can't be read as skeletons ({error}); it is an .npz file with joints, label_ids, lengths, names, "
            "needs_legs and rate"
        ) from error
    if lengths.ndim != 1 or not len(lengths) or needs_legs.shape != (len(names),):
        raise UsageError(f"{path}: lengths has no number for each sequence, or needs_legs none for each of the names")
    n_steps = int(lengths.sum())
    if joints.shape != (n_steps, len(KEYPOINTS), 3) or label_ids.shape != (n_steps,) or not np.isfinite(joints).all():
        raise UsageError(
            f"{path}: joints {joints.shape} and label_ids {label_ids.shape} do not fit {n_steps} steps of "
            f"{len(KEYPOINTS)} keypoints with finite x, y, z"
        )
    if rate <= 0 or (lengths < 1).any() or not set(np.unique(label_ids)) <= {IGNORE, *range(len(names))}:
        raise UsageError(f"{path}: a rate or a length is not above 0, or a label_id is none of {len(names)} names")
    return Skeletons(joints, label_ids.astype(np.int64), lengths, names, needs_legs.astype(np.bool_), rate)


def seen_from_anywhere(
    skeletons: Skeletons, labels: Sequence[str], inputs: Sequence[str], rate: float, seed: int = 0
) -> list[LabelledSequence]:
    """Return a model's inputs for each skeleton, each seen from one place. The same seed gives the same result.

    Args:
        skeletons: The skeletons to look at.
        labels: The activities, in the order of their ids.
        inputs: The inputs that form an input vector, in order.
        rate: Steps of the sampling grid per second.
        seed: Seed of cameras and degradation.

    Raises:
        UsageError: There are other inputs than those that follow from a track.
    """
    if not of_tracks_alone(inputs):
        raise UsageError(f"skeletons have no other inputs than {', '.join(OF_TRACKS)}; named are {', '.join(inputs)}")
    to_id = np.array([*(labels.index(name) for name in skeletons.names), IGNORE])
    background = labels.index(BACKGROUND) if BACKGROUND in labels else IGNORE
    needs_legs = np.append(skeletons.needs_legs, False)
    rng = np.random.default_rng(seed)
    found = []
    for part in skeletons.parts():
        steps, xyxy, keypoints, beyond = look_at(skeletons.joints[part], rate / skeletons.rate, rng)
        numbers = skeletons.label_ids[part][steps]
        label_ids = np.where(needs_legs[numbers] & (beyond[:, _LEGS].mean(axis=1) > 0.4), background, to_id[numbers])
        gone = beyond.mean(axis=1)
        label_ids[(gone > _MOST_GONE) & (label_ids != IGNORE)] = background
        label_ids[gone > _ALL_GONE] = IGNORE
        time_s = np.arange(len(steps)) / rate
        vectors = {"box": box_motion(time_s, xyxy), "pose": pose_motion(time_s, xyxy, keypoints)}
        found.append(LabelledSequence(np.hstack([vectors[name] for name in inputs]).astype(np.float16), label_ids))
    return found


def look_at(
    joints: NDArray[np.float32], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Look at one sequence from a random place, with about `share` steps for each of its own.

    Returns:
        Which of its steps are seen, `[t]`; boxes `float32 [t, 4]` and keypoints `float32 [t, 17, 3]` as a detector
        finds them; and which keypoints are beyond the picture's border, `bool [t, 17]`.
    """
    steps, resampled = _resampled(joints, share, rng)
    return steps, *_spoilt(_held_in_hand(_projected(resampled, rng), rng), rng)


def _resampled(
    joints: NDArray[np.float32], share: float, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the original step before each new step, and the joints at the new steps, a little faster or slower."""
    at = np.arange(0, max(len(joints) - 1, 1e-6), rng.uniform(0.85, 1.2) / share)
    return at.astype(np.intp), joints_at(joints, at)


def joints_at(joints: NDArray[Any], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return joints `[T, J, 3]` interpolated at fractional steps, `float64 [t, J, 3]`."""
    first = at.astype(np.intp)
    rest = (at - first)[:, None, None]
    between: NDArray[np.float64] = joints[first] * (1 - rest) + joints[np.minimum(first + 1, len(joints) - 1)] * rest
    return between


def turned(axis: NDArray[np.float64], radians: float) -> NDArray[np.float64]:
    """Return the matrix `[3, 3]` of a rotation about an axis of length 1 (Rodrigues)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix: NDArray[np.float64] = np.eye(3) + np.sin(radians) * cross + (1 - np.cos(radians)) * cross @ cross
    return matrix


def _projected(joints: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Return where a camera sees the joints, then the head's top and the toes, `[T, 20, 2]` in pixels, y down.

    The camera is 2.2 to 8 m away, 0.5 to 4 m high, looks at the person, and is a little tilted.
    """
    neck = joints[:, _SHOULDERS].mean(axis=1)
    top = joints[:, _NOSE] + 0.55 * (joints[:, _NOSE] - neck)
    toes = joints[:, _ANKLES] * [1, 0, 1] + joints[:, _ANKLES] * [0, 0.2, 0]
    points = np.concatenate([joints, top[:, None], toes], axis=1)
    points = (points - joints.mean(axis=(0, 1)) * [1, 0, 1]) @ turned(np.array([0, 1, 0]), rng.uniform(0, 2 * np.pi)).T
    height = rng.uniform(0.5, 1.8) if rng.random() < 0.5 else rng.uniform(1.8, 4)
    camera = np.array([0, height, -rng.uniform(2.2, 8)])
    ahead = np.array([0, rng.uniform(0.4, 1.0), 0]) - camera
    seen = (points - camera) @ turned(np.array([1, 0, 0]), np.arctan2(ahead[1], ahead[2])).T
    seen = seen @ turned(np.array([0, 0, 1]), rng.normal(0, np.radians(6))).T
    pixels: NDArray[np.float64] = rng.uniform(350, 700) * seen[..., :2] / np.maximum(seen[..., 2:], 0.3) * [1, -1]
    return pixels


def _held_in_hand(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """For one sequence in four, let the camera turn, zoom and shake like a hand-held one.

    In a sequence of any length, it comes at most twice as near, and turns by at most four lengths of the person.
    """
    if rng.random() >= 0.25:
        return points
    n = len(points)
    size = np.ptp(points, axis=(0, 1)).max()
    steps = np.arange(n)[:, None]
    shift = steps * rng.normal(0, 0.02, 2) + np.cumsum(rng.normal(0, 0.006, (n, 2)), axis=0)
    zoom = np.exp(_up_to(0.7, steps * rng.normal(0, 0.008) + np.cumsum(rng.normal(0, 0.002, (n, 1)), axis=0)))
    middle = points.mean(axis=(0, 1))
    held: NDArray[np.float64] = (points - middle) * zoom[..., None] + middle + (_up_to(4, shift) * size)[:, None]
    return held


def _up_to(most: float, values: NDArray[Any]) -> NDArray[Any]:
    """Return values limited smoothly to the range from -most to most."""
    bounded: NDArray[Any] = most * np.tanh(values / most)
    return bounded


def _spoilt(
    points: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return degraded boxes `[T, 4]`, keypoints `[T, 17, 3]`, and which of them are beyond the border, `[T, 17]`."""
    n, n_points = len(points), len(KEYPOINTS)
    low, high = points.min(axis=1), points.max(axis=1)
    size = (high - low).max(axis=1)
    margin = size[:, None] * np.abs(rng.normal(0.04, 0.02, (1, 4)))
    xyxy = np.hstack([low - margin[:, :2], high + margin[:, 2:]])
    trembling = rng.uniform(0.001, 0.015)
    drift = np.cumsum(rng.normal(0, trembling / 6, (n, n_points, 2)), axis=0)
    places = points[:, :n_points] + (rng.normal(0, trembling, (n, n_points, 2)) + drift) * size[:, None, None]
    usual = np.clip(_SCORES + rng.normal(0, 0.05, n_points) - abs(rng.normal(0, 0.04)), 0.15, 1)
    scores = np.clip(usual + rng.normal(0, 0.04, (n, n_points)), 0.02, 1)
    beyond = np.zeros((n, n_points), np.bool_)
    hidden = np.full(n_points, 0.1)
    hidden[_ARMS] = 0.3
    for number in np.flatnonzero(rng.random(n_points) < hidden):
        part = _stretch(n, n, rng)
        scores[part, number] *= rng.uniform(0.25, 0.8)
        places[part, number] += rng.normal(0, 0.06, (len(scores[part]), 2)) * size[part, None]
    if rng.random() < 0.2:
        for _ in range(rng.integers(1, 4)):
            part = _stretch(n, 6, rng)
            xyxy[part, rng.integers(4)] += rng.normal(0, 0.14) * size[part]
    if rng.random() < 0.3:
        beyond = _cut_off(xyxy, places, scores, low, high, size, rng)
    if rng.random() < 0.15:
        _hide_legs(xyxy, places, scores, rng)
    xyxy += rng.normal(0, rng.uniform(0.001, 0.008), (n, 4)) * size[:, None]
    xyxy += np.cumsum(rng.normal(0, 0.002, (n, 4)), axis=0) * size[:, None]
    return xyxy.astype(np.float32), np.dstack([places, scores]).astype(np.float32), beyond


def _stretch(n: int, longest: int, rng: np.random.Generator) -> slice:
    first = int(rng.integers(n))
    return slice(first, first + int(rng.integers(1, longest + 1)))


def _cut_off(
    xyxy: NDArray[np.float64], places: NDArray[np.float64], scores: NDArray[np.float64], low: NDArray[np.float64],
    high: NDArray[np.float64], size: NDArray[np.float64], rng: np.random.Generator,
) -> NDArray[np.bool_]:  # fmt: skip
    """Let the picture's border cut a person off at one side. Return which keypoints are beyond it."""
    side = int(rng.choice(4, p=[0.2, 0.2, 0.55, 0.05]))
    axis, sign = (0, 0, 1, 1)[side], (1, -1, -1, 1)[side]
    if side == 2:
        border = float(np.median(high[:, 1]) - np.median(size) * rng.uniform(0.03, 0.8))
    else:
        border = rng.uniform(np.percentile(low[:, axis], 5), np.percentile(high[:, axis], 95))
    beyond: NDArray[np.bool_] = (places[:, :, axis] - border) * sign < 0
    edge = high[:, axis] if sign > 0 else low[:, axis]
    _guess(places, scores, beyond, axis, border, sign * np.abs(edge - border), rng)
    near, far = (axis, axis + 2) if sign > 0 else (axis + 2, axis)
    clip = np.maximum if sign > 0 else np.minimum
    xyxy[:, near] = clip(xyxy[:, near], border)
    xyxy[:, far] = clip(xyxy[:, far], border + sign * 0.12 * size)
    return beyond


def _hide_legs(
    xyxy: NDArray[np.float64], places: NDArray[np.float64], scores: NDArray[np.float64], rng: np.random.Generator
) -> None:
    """Hide a person's legs behind something, such as a table or a bed. The box ends there."""
    edge = np.median(places[:, _LEGS[:2], 1]) * rng.uniform(0.9, 1.1)
    _guess(places, scores, places[:, :, 1] > edge, 1, edge, np.minimum(xyxy[:, 1] - edge, -10), rng)
    xyxy[:, 3] = np.minimum(xyxy[:, 3], np.maximum(edge, xyxy[:, 1] + 10))


def _guess(
    places: NDArray[np.float64], scores: NDArray[np.float64], unseen: NDArray[np.bool_], axis: int, border: float,
    seen: NDArray[np.float64], rng: np.random.Generator,
) -> None:  # fmt: skip
    """Put unseen keypoints where a network does: inside the border, on whose inner side `seen` pixels are visible."""
    n, n_points = scores.shape
    left = _LEFT_BEYOND ** rng.uniform(0.5, 1.7, n_points)
    inside = _PUT_INSIDE * rng.uniform(0.5, 1.4) + rng.normal(0, 0.04, n_points) + rng.normal(0, 0.01, (n, n_points))
    scores[unseen] = np.clip(scores * left, 0.03, 0.99)[unseen]
    places[:, :, axis][unseen] = (border + np.clip(inside, 0.01, 0.9) * seen[:, None])[unseen]
