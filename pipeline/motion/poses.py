"""Describe the posture and motion of a tracked person, independent of the camera's distance and frame rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.motion.kinematics import rate_of_change
from pipeline.vision.keypoints import KEYPOINTS, MIRRORED

_N = len(KEYPOINTS)
# A keypoint with a lower score is a guess. Its place is interpolated between the times before and after.
_SEEN_SCORE = 0.3
_SPAN_S = 0.2
# In lengths of the person: a keypoint further away is an error of the network, a faster one an error of the tracker.
_FARTHEST, _FASTEST = 1.5, 8.0

POSE_DIM = 5 * _N
"""Length of a pose vector."""


def pose_motion(
    time_s: NDArray[np.float64], xyxy: NDArray[np.float32], keypoints: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Describe the poses of one track, `float32 [N, POSE_DIM]`.

    First the place of each of COCO's keypoints, x and y from the middle of the box in lengths of the person; then their
    scores; then their velocities, x and y in lengths per second over a fifth of a second. A person's length is the
    longer side of the box, so that a fall does not change it.

    Args:
        time_s: `float64 [N]`, rising.
        xyxy: `float32 [N, 4]`, pixels.
        keypoints: `float32 [N, 17, 3]`: x, y in pixels, score.
    """
    length = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 1.0).max(axis=1).astype(np.float64)[:, None]
    centre = ((xyxy[:, :2] + xyxy[:, 2:]) / 2).astype(np.float64)
    points = np.empty((len(time_s), 2 * _N))
    for number in range(_N):
        seen = keypoints[:, number, 2] >= _SEEN_SCORE
        for axis in range(2):
            values = keypoints[:, number, axis].astype(np.float64)
            # A keypoint that is never seen is placed at the middle of the box.
            points[:, 2 * number + axis] = (
                np.interp(time_s, time_s[seen], values[seen]) if seen.any() else centre[:, axis]
            )
    places = (points - np.tile(centre, _N)) / length
    velocities = rate_of_change(time_s, points, _SPAN_S) / length
    return np.hstack(
        [places.clip(-_FARTHEST, _FARTHEST), keypoints[:, :, 2], velocities.clip(-_FASTEST, _FASTEST)]
    ).astype(np.float32)


def _mirror() -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    pairs = np.array([[2 * number, 2 * number + 1] for number in MIRRORED]).reshape(-1)
    order = np.concatenate([pairs, 2 * _N + np.array(MIRRORED), 3 * _N + pairs])
    sideways = np.tile(np.array([-1.0, 1.0], np.float32), _N)
    return order, np.concatenate([sideways, np.ones(_N, np.float32), sideways])


MIRROR_ORDER, MIRROR_SIGNS = _mirror()
"""`vector[..., MIRROR_ORDER] * MIRROR_SIGNS` is the pose vector of the mirrored picture."""
