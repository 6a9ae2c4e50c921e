"""A pose vector tells how the body is held and moves, whatever the camera."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.motion.poses import MIRROR_ORDER, MIRROR_SIGNS, POSE_DIM, pose_motion
from pipeline.vision.keypoints import KEYPOINTS, MIRRORED

N = len(KEYPOINTS)
TIMES = np.arange(30) / 15.0


def walker(rng: np.random.Generator, height: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes and keypoints of somebody who goes to the right, a height a second, and swings the limbs."""
    left = height * TIMES[:, None]
    xyxy = np.hstack([left, np.zeros_like(left), left + 0.4 * height, np.full_like(left, height)]).astype(np.float32)
    rest, swing = rng.uniform(0, 1, (N, 2)) * (0.4 * height, height), rng.uniform(-0.1, 0.1, (N, 2)) * height
    points = rest + swing * np.sin(6 * TIMES)[:, None, None]
    points[..., 0] += left
    return xyxy, np.concatenate([points, np.ones((30, N, 1))], axis=-1).astype(np.float32)


def test_it_is_the_same_near_and_far_here_and_there() -> None:
    near = pose_motion(TIMES, *walker(np.random.default_rng(0), 400.0))
    xyxy, keypoints = walker(np.random.default_rng(0), 100.0)
    far = pose_motion(TIMES, xyxy + 50, keypoints + np.float32([50, 50, 0]))
    assert near.shape == (30, POSE_DIM)
    np.testing.assert_allclose(near, far, atol=1e-3)


def test_velocities_are_in_lengths_per_second() -> None:
    vectors = pose_motion(TIMES, *walker(np.random.default_rng(0)))
    assert vectors[5:-5, 3 * N :: 2].mean() == pytest.approx(1.0, abs=0.15), "to the right, but for the limbs' swing"
    assert abs(vectors[5:-5, 3 * N + 1 :: 2].mean()) < 0.15


def test_the_mirrored_vector_is_that_of_the_mirrored_picture() -> None:
    xyxy, keypoints = walker(np.random.default_rng(1))
    there = keypoints[:, MIRRORED].copy()
    there[..., 0] = 640 - there[..., 0]
    flipped = np.stack([640 - xyxy[:, 2], xyxy[:, 1], 640 - xyxy[:, 0], xyxy[:, 3]], axis=1)
    expected = pose_motion(TIMES, flipped, there)
    np.testing.assert_allclose(pose_motion(TIMES, xyxy, keypoints)[:, MIRROR_ORDER] * MIRROR_SIGNS, expected, atol=1e-4)


def test_a_keypoint_that_is_not_seen_for_a_while_goes_on_between() -> None:
    xyxy, keypoints = walker(np.random.default_rng(2))
    hidden = keypoints.copy()
    hidden[10:13, 9] = (-1e6, 1e6, 0.0)
    seen, guessed = pose_motion(TIMES, xyxy, keypoints), pose_motion(TIMES, xyxy, hidden)
    np.testing.assert_allclose(guessed[:, 18:20], seen[:, 18:20], atol=0.03)
    assert guessed[11, 2 * N + 9] == 0, "its score says that it is a guess"
    hidden[:, 9, 2] = 0.0
    assert np.isfinite(pose_motion(TIMES, xyxy, hidden)).all()
    assert not pose_motion(TIMES, xyxy, hidden)[:, 18:20].any()


def test_one_box_is_a_track_that_does_not_move() -> None:
    xyxy, keypoints = walker(np.random.default_rng(3))
    vector = pose_motion(TIMES[:1], xyxy[:1], keypoints[:1])
    assert not vector[0, 3 * N :].any()
