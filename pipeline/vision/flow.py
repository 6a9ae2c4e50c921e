"""Describe the motion in a frame or around a person by histograms of dense optical flow.

An embedding describes what a place looks like, so that a classifier may learn the place. These histograms describe
motion alone. They are the descriptors of dense trajectories (Wang et al. 2013) on a fixed grid: histograms of flow
(HOF), and of the gradients of both flow components (MBH), which are not affected by the motion of the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_FLOW_PX = 320
_SIDE = 48
_HOF_CELLS, _MBH_CELLS, _BINS = 6, 4, 8
# The data of this many parts stays in a processor's cache; hundreds at once take nearly twice as long.
_AT_ONCE = 16

FLOW_DIM = (_HOF_CELLS**2 + 2 * _MBH_CELLS**2) * _BINS
"""Length of the vector that describes one part's motion."""


class Flow(NamedTuple):
    """The motion from one frame to the next, in pixels of the frame, to the right and down."""

    points: NDArray[np.float32]
    """`float32 [h, w, 2]`: the motion of each point, minus the camera's."""
    camera: NDArray[np.float32]
    """`float32 [2]`: the median motion, taken as the camera's."""


class FlowEstimator:
    """Dense flow between frames, by DIS (Kroeger et al. 2016), minus the camera's motion."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def flow(self, frame: NDArray[np.uint8], following: NDArray[np.uint8] | None) -> Flow:
        """Return the motion of each point of a frame, and the motion of the camera.

        The flow is computed at 320 px at most. Its median is taken as the camera's motion and subtracted.

        Args:
            frame: `uint8 [H, W, 3]`.
            following: The next sampled frame; None at the end of the video, where nothing moves.
        """
        small = _small_grey(frame)
        if following is None:
            return Flow(np.zeros((*small.shape, 2), np.float32), np.zeros(2, np.float32))
        flow: NDArray[np.float32] = np.asarray(
            self._dis.calc(small, _small_grey(following), None),  # type: ignore[call-overload]
            np.float32,
        )
        camera = np.median(flow.reshape(-1, 2)[::7], axis=0)
        flow -= camera
        ratio = np.float32(frame.shape[0] / small.shape[0])
        return Flow(flow * ratio, camera * ratio)


def describe_flow(parts: Sequence[NDArray[np.float32]], scales: Sequence[float]) -> NDArray[np.float16]:
    """Describe the motion in parts of frames, `float16 [N, FLOW_DIM]`: HOF on 6 x 6 cells, MBH of u and v on 4 x 4.

    Square roots are taken, as is usual for HOG and HOF (RootSIFT), so that a fast limb does not outweigh the rest.

    Args:
        parts: N pieces of flow, `float32 [h, w, 2]` of any sizes, in pixels per frame; each is stretched to a square.
        scales: The factor for the flow of each piece. Frames per second divided by the person's height in pixels gives
            heights per second, which do not depend on frame rate or distance.
    """
    pieces = range(0, len(parts), _AT_ONCE)
    described = [_describe(parts[at : at + _AT_ONCE], scales[at : at + _AT_ONCE]) for at in pieces]
    return np.concatenate([np.empty((0, FLOW_DIM), np.float16), *described])


def _describe(parts: Sequence[NDArray[np.float32]], scales: Sequence[float]) -> NDArray[np.float16]:
    """Do the work of `describe_flow` for a few parts."""
    squares = np.empty((len(parts), _SIDE, _SIDE, 2), np.float32)
    for square, part, scale in zip(squares, parts, scales, strict=True):
        square[:] = cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA) * np.float32(scale)
    histograms = [_histograms(squares[..., 0], squares[..., 1], _HOF_CELLS)]
    for component in (0, 1):
        down, right = (np.asarray(np.gradient(squares[..., component], axis=axis)) for axis in (1, 2))
        histograms.append(_histograms(right, down, _MBH_CELLS))
    return np.concatenate(histograms, axis=1).astype(np.float16)


def _histograms(x: NDArray[np.float32], y: NDArray[np.float32], n_cells: int) -> NDArray[np.float32]:
    """Return histograms of direction, weighted by length, `float32 [N, cells * cells * bins]`, for vectors `[N, S, S]`.

    A direction between two bins counts for both; the nearer bin gets more of it.
    """
    n, side = x.shape[:2]
    length = np.hypot(x, y)
    turn = (np.arctan2(y, x) + np.pi) * (_BINS / (2 * np.pi))
    lower = turn.astype(np.int64)
    above = length * (turn - lower)
    px = side // n_cells
    cell = np.arange(side) // px
    first_bin = _BINS * (np.arange(n)[:, None, None] * n_cells**2 + cell[:, None] * n_cells + cell)
    sums = np.zeros(n * n_cells**2 * _BINS)
    for bin_, weight in ((lower, length - above), (lower + 1, above)):
        sums += np.bincount((first_bin + bin_ % _BINS).ravel(), weight.ravel(), len(sums))
    means = sums.reshape(n, n_cells, n_cells, _BINS).transpose(0, 3, 1, 2) / px**2
    roots: NDArray[np.float32] = np.sqrt(means).reshape(n, -1).astype(np.float32)
    return roots


def _small_grey(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = _FLOW_PX / max(grey.shape)
    if scale < 1:
        size = (max(12, round(grey.shape[1] * scale)), max(12, round(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return np.asarray(grey, np.uint8)
