"""Describe how the box of a tracked person moves, independent of frame rate and picture size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SPANS_S = (0.2, 0.8)
# A speed above this, in heights per second, is a jump of the tracker.
_LIMIT = 8.0

BOX_MOTION_DIM = 4 * len(_SPANS_S) + 1
"""Length of a vector of box motion."""
BOX_MIRROR_SIGNS = np.array([*[-1.0, 1.0, 1.0, 1.0] * len(_SPANS_S), 1.0], np.float32)
"""`vector * BOX_MIRROR_SIGNS` is the vector of the mirrored picture."""


def box_motion(time_s: NDArray[np.float64], xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Describe how the boxes of one track move, `float32 [N, BOX_MOTION_DIM]`.

    For each box, over a short and a longer span around its time: velocity of the centre, right and down, in heights of
    the person per second; growth of height and of width in shares per second (derivatives of their logarithms). The
    last value is the logarithm of width over height: a lying person is wide.

    Args:
        time_s: `float64 [N]`, rising.
        xyxy: `float32 [N, 4]`, pixels.
    """
    sides = np.maximum(xyxy[:, 2:] - xyxy[:, :2], 1.0).astype(np.float64)
    centre = (xyxy[:, 2:] + xyxy[:, :2]) / 2.0
    tracked = np.column_stack([centre, np.log(sides[:, ::-1])])
    columns = []
    for span_s in _SPANS_S:
        for index, change in enumerate(rate_of_change(time_s, tracked, span_s).T):
            columns.append(change / sides[:, 1] if index < 2 else change)
    columns.append(np.log(sides[:, 0] / sides[:, 1]))
    return np.column_stack(columns).clip(-_LIMIT, _LIMIT).astype(np.float32)


def rate_of_change(time_s: NDArray[np.float64], values: NDArray[np.float64], span_s: float) -> NDArray[np.float64]:
    """Return the change per second of values `float64 [N, D]`, over a span around each of their times."""
    before = np.maximum(time_s - span_s / 2, time_s[0])
    after = np.minimum(time_s + span_s / 2, time_s[-1])
    seconds = np.maximum(after - before, 1e-6)
    changes = [(np.interp(after, time_s, column) - np.interp(before, time_s, column)) / seconds for column in values.T]
    return np.stack(changes, axis=1)
