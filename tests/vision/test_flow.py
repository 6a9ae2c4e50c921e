from __future__ import annotations

import cv2
import numpy as np
import pytest

from pipeline.vision.flow import FLOW_DIM, FlowEstimator, describe_flow

CELLS, BINS = 6, 8


@pytest.fixture
def scene() -> np.ndarray:
    """Something to hold on to everywhere: smooth noise."""
    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)


def test_a_part_that_moves_moves_by_so_much(scene: np.ndarray) -> None:
    following = scene.copy()
    following[80:160, 100:180] = np.roll(scene, 4, axis=1)[80:160, 100:180]
    flow = FlowEstimator().flow(scene, following).points
    assert flow.shape == (240, 320, 2)
    assert flow[100:140, 120:160].mean(axis=(0, 1)) == pytest.approx([4.0, 0.0], abs=0.3)
    assert np.abs(flow[:60]).max() < 0.5


def test_the_camera_does_not_count(scene: np.ndarray) -> None:
    flow, camera = FlowEstimator().flow(scene, np.roll(scene, (2, 5), axis=(0, 1)))
    assert np.abs(flow[30:210, 30:290]).mean() < 0.2
    assert camera == pytest.approx([5.0, 2.0], abs=0.2)


def test_nothing_moves_after_the_last_frame(scene: np.ndarray) -> None:
    assert not FlowEstimator().flow(scene, None).points.any()


def test_large_frames_are_measured_in_their_own_pixels(scene: np.ndarray) -> None:
    large = cv2.resize(scene, (1280, 960))
    following = large.copy()
    following[320:640, 400:720] = np.roll(large, 16, axis=0)[320:640, 400:720]
    flow = FlowEstimator().flow(large, following).points
    assert flow.shape == (240, 320, 2)
    assert flow[100:140, 120:160].mean(axis=(0, 1)) == pytest.approx([0.0, 16.0], abs=1.2)


def uniform(x: float, y: float) -> np.ndarray:
    return np.full((60, 30, 2), (x, y), np.float32)


def test_histograms_by_hand() -> None:
    """Motion to the right is in the middle bin; 2 pixels a frame at 8 frames/s and a height of 4 pixels: root of 4."""
    right, left_down = describe_flow([uniform(2, 0), uniform(-1, 1)], [8 / 4, 1.0]).astype(float)
    assert len(right) == FLOW_DIM
    hof = right[: CELLS**2 * BINS].reshape(BINS, CELLS, CELLS)
    assert hof[4] == pytest.approx(np.full((CELLS, CELLS), 2.0))
    assert hof.sum() == pytest.approx(2.0 * CELLS**2)
    # What moves as a whole has no gradient.
    assert not right[CELLS**2 * BINS :].any()
    # 135 degrees lie on a bin, and the length is the root of two.
    diagonal = left_down[: CELLS**2 * BINS].reshape(BINS, CELLS, CELLS)
    assert diagonal[7] == pytest.approx(np.full((CELLS, CELLS), 2**0.25), abs=1e-3)


def test_who_moves_apart_has_gradients_there() -> None:
    """The left half moves left, the right half right: u changes along x in the middle, v nowhere."""
    flow = np.zeros((48, 48, 2), np.float32)
    flow[:, :24, 0], flow[:, 24:, 0] = -1, 1
    described = describe_flow([flow], [1.0])[0].astype(float)
    mbh_u, mbh_v = described[CELLS**2 * BINS :].reshape(2, BINS, 4, 4)
    assert mbh_u[4, :, 1:3].min() > 0.1
    assert not mbh_u[:, :, [0, 3]].any()
    assert not mbh_v.any()


def test_no_parts_give_no_vectors() -> None:
    assert describe_flow([], []).shape == (0, FLOW_DIM)
