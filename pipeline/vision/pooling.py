"""Take apart what one look at an image told, and describe its parts by the network's own maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
"""`float32 [C, h, w]`: what a network saw at each place of a grid."""

_HEAD_STRIDES = (8, 16, 32)


def take_apart(
    row: NDArray[np.float32], kinds: Sequence[tuple[int, int]], height: int, width: int
) -> tuple[NDArray[np.float32], list[Map]]:
    """Return the predictions `float32 [P, A]` and the maps that lie in a row one after the other.

    Args:
        row: `float32 [...]`, of one image.
        kinds: Channels and stride of each map.
        height: Of the network's input, in pixels; a multiple of 32.
        width: The same.
    """
    n_anchors = sum((height // stride) * (width // stride) for stride in _HEAD_STRIDES)
    shapes = [(channels, height // stride, width // stride) for channels, stride in kinds]
    ends = np.cumsum([int(np.prod(shape)) for shape in reversed(shapes)])[::-1]
    predictions = row[: len(row) - (int(ends[0]) if shapes else 0)].reshape(-1, n_anchors)
    maps = []
    for end, shape in zip(ends, shapes, strict=True):
        start = len(row) - int(end)
        maps.append(row[start : start + int(np.prod(shape))].reshape(shape))
    return predictions, maps


def area_means(maps: Sequence[Map], strides: Sequence[int], xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of maps over boxes, `float32 [N, sum of C]`; a place counts by how much of it a box covers.

    It is RoIAlign (He and others, "Mask R-CNN", 2017) to one cell, computed exactly instead of from samples.

    Args:
        maps: What to average.
        strides: Pixels of the network's input between two places, for each map.
        xyxy: `float32 [N, 4]`, in pixels of the network's input.
    """
    columns = []
    for grid, stride in zip(maps, strides, strict=True):
        across = _covered(xyxy[:, 0::2] / np.float32(stride), grid.shape[2])
        down = _covered(xyxy[:, 1::2] / np.float32(stride), grid.shape[1])
        rows = np.tensordot(down, grid, axes=(1, 1))
        columns.append(np.einsum("ncw,nw->nc", rows, across))
    return np.concatenate(columns, axis=1)


def _covered(spans: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """Return for each span `float32 [N, 2]` which share of it lies in each of n cells, `float32 [N, n]`."""
    cells = np.arange(n, dtype=np.float32)
    overlap = np.minimum(spans[:, 1:], cells + 1) - np.maximum(spans[:, :1], cells)
    overlap = overlap.clip(0, None)
    shares: NDArray[np.float32] = overlap / np.maximum(overlap.sum(axis=1, keepdims=True), 1e-6)
    return shares
