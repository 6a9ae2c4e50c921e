from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.motion.kinematics import BOX_MOTION_DIM, box_motion

WALK_HEIGHTS_PER_S = 0.8


def walker(time_s: np.ndarray, height: float = 100.0, growth_per_s: float = 0.0) -> np.ndarray:
    """Somebody who walks to the right, keeps the feet on the ground, and comes nearer."""
    x = 50 + WALK_HEIGHTS_PER_S * height * time_s
    h = height * np.exp(growth_per_s * time_s)
    return np.column_stack([x - 0.2 * h, 300 - h / 2, x + 0.2 * h, 300 + h / 2]).astype(np.float32)


def test_a_steady_walk_worked_by_hand() -> None:
    time_s = np.arange(30) / 15
    motion = box_motion(time_s, walker(time_s))
    assert motion.shape == (30, BOX_MOTION_DIM)
    assert motion[:, [0, 4]] == pytest.approx(WALK_HEIGHTS_PER_S, abs=1e-3)
    assert motion[:, [1, 2, 3, 5, 6, 7]] == pytest.approx(0.0, abs=1e-3)
    assert motion[:, 8] == pytest.approx(np.log(0.4), abs=1e-4)


def test_coming_nearer_is_growth() -> None:
    time_s = np.arange(30) / 15
    motion = box_motion(time_s, walker(time_s, growth_per_s=0.5))
    assert motion[5:-5, [2, 3, 6, 7]] == pytest.approx(0.5, abs=0.01)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(fps=st.floats(8, 60), scale=st.floats(0.2, 8))
def test_neither_frame_rate_nor_camera_size_matters(fps: float, scale: float) -> None:
    slow, fast = np.arange(0, 3, 1 / 15), np.arange(0, 3, 1 / fps)
    usual = box_motion(slow, walker(slow, growth_per_s=0.2))
    other = box_motion(fast, walker(fast, growth_per_s=0.2) * np.float32(scale))
    middle, other_middle = usual[len(usual) // 2], other[np.abs(fast - slow[len(slow) // 2]).argmin()]
    assert other_middle == pytest.approx(middle, abs=0.05)


def test_one_box_alone_and_boxes_without_extent_are_finite() -> None:
    assert np.isfinite(box_motion(np.zeros(1), np.zeros((1, 4), np.float32))).all()
    jump = np.array([[0, 0, 10, 20], [5000, 0, 5010, 20]], np.float32)
    assert np.abs(box_motion(np.array([0.0, 0.03]), jump)).max() <= 8.0
