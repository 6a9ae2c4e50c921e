"""Project paths that are known in metres into simulated cameras, to train forecasters for any picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.motion.forecaster_bundle import HEIGHTS
from pipeline.motion.trajectories import Trajectory
from pipeline.training.trajectories import SceneTracks

PERSON_M = 1.7
"""The assumed height of people, in metres."""
# Camera positions: metres above the ground, degrees below the horizon, metres from the middle of the scene.
_HEIGHT_M, _TILT, _DISTANCE_M = (2.5, 12.0), (15.0, 60.0), (6.0, 20.0)
# A person nearer to the camera than this, in metres along its axis, is not in the picture.
_NEAREST_M = 2.0


def seen_by_cameras(scene: SceneTracks, n: int, seed: int = 0) -> list[SceneTracks]:
    """Return a scene in metres as seen by n cameras at random positions: places of feet, and heights of people.

    Lengths are those in pictures with a focal length of 1. It cancels out in units of people's heights.
    """
    rng = np.random.default_rng(seed)
    points = np.concatenate([each.xy for each in scene.trajectories])
    middle, seen = np.median(points, axis=0), []
    for number in range(n):
        around, tilt = rng.uniform(0, 2 * np.pi), np.radians(rng.uniform(*_TILT))
        height_m, distance_m = rng.uniform(*_HEIGHT_M), rng.uniform(*_DISTANCE_M)
        forward = np.array([np.cos(around), np.sin(around)])
        camera = middle - distance_m * forward
        tracks = [_seen(each, camera, forward, height_m, tilt) for each in scene.trajectories]
        kept = [part for parts in tracks for part in parts]
        seen.append(SceneTracks(f"{scene.name}, camera {number}", kept, HEIGHTS))
    return seen


def _seen(
    trajectory: Trajectory, camera: NDArray[np.float64], forward: NDArray[np.float64], height_m: float, tilt: float
) -> Sequence[Trajectory]:
    """Return a path in the picture. It is divided where it leaves the space in front of the camera."""
    feet, depth = _projected(trajectory.xy, 0.0, camera, forward, height_m, tilt)
    head, _ = _projected(trajectory.xy, PERSON_M, camera, forward, height_m, tilt)
    is_before = depth > _NEAREST_M
    parts = np.split(np.arange(len(depth)), np.flatnonzero(np.diff(is_before)) + 1)
    size = np.maximum(feet[:, 1] - head[:, 1], 1e-3)
    return [
        replace(trajectory, time_s=trajectory.time_s[part], xy=feet[part], size=size[part])
        for part in parts
        if len(part) and is_before[part[0]]
    ]


def _projected(
    xy: NDArray[np.float64],
    z: float,
    camera: NDArray[np.float64],
    forward: NDArray[np.float64],
    height_m: float,
    tilt: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the places in the picture, right and down, of points `float64 [N, 2]` at a height, and their depths."""
    ahead, right = (xy - camera) @ forward, (xy - camera) @ np.array([forward[1], -forward[0]])
    below = height_m - z
    depth = ahead * np.cos(tilt) + below * np.sin(tilt)
    down = below * np.cos(tilt) - ahead * np.sin(tilt)
    safe = np.maximum(depth, 1e-3)
    return np.column_stack([right / safe, down / safe]), depth
