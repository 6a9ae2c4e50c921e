"""Take apart what one look at an image told, and describe its parts by the network's own maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
"""`float32 [C, h, w]`: what a network saw at each place of a grid."""

_HEAD_STRIDES = (8, 16, 32)


def take_apart(
    row: NDArray[np.float32], kinds: Sequence[tuple[int, int, int]], height: int, width: int
) -> tuple[NDArray[np.float32], list[Map]]:
    """Return the predictions `float32 [P, A]` and the maps that lie in a row one after the other.

    Args:
        row: `float32 [...]`, of one image.
        kinds: Of each map its channels and stride, and what `describe` needs.
        height: Of the network's input, in pixels; a multiple of 32.
        width: The same.
    """
    n_anchors = sum((height // stride) * (width // stride) for stride in _HEAD_STRIDES)
    shapes = [(channels, height // stride, width // stride) for channels, stride, _ in kinds]
    ends = np.cumsum([int(np.prod(shape)) for shape in reversed(shapes)])[::-1]
    predictions = row[: len(row) - (int(ends[0]) if shapes else 0)].reshape(-1, n_anchors)
    maps = []
    for end, shape in zip(ends, shapes, strict=True):
        start = len(row) - int(end)
        maps.append(row[start : start + int(np.prod(shape))].reshape(shape))
    return predictions, maps


def describe(
    maps: Sequence[Map], kinds: Sequence[tuple[int, int, int]], xyxy: NDArray[np.float32]
) -> NDArray[np.float16]:
    """Return what boxes show, `float16 [N, D]`; `described_dim` tells D.

    Each map is averaged over the cells of a grid on the box, row after row, and what it says is scaled to mean 0 and
    variance 1: the loudest map does not outshout the others.

    Args:
        maps: What a network saw of an image.
        kinds: Of each map its channels, its stride in pixels of the network's input, and the cells of the grid on a
            side. One cell tells what is there; several tell also where, and so how a body is held.
        xyxy: `float32 [N, 4]`, in pixels of the network's input.
    """
    columns = []
    for grid, (_, stride, n_cells) in zip(maps, kinds, strict=True):
        means = area_means(grid, xyxy / np.float32(stride), n_cells).reshape(len(xyxy), -1)
        spread = means.std(axis=1, keepdims=True)
        columns.append((means - means.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-6))
    return np.concatenate(columns, axis=1).astype(np.float16)


def described_dim(kinds: Sequence[tuple[int, int, int]]) -> int:
    """Return the length of a description by such maps."""
    return sum(channels * n_cells**2 for channels, _, n_cells in kinds)


def area_means(grid: Map, xyxy: NDArray[np.float32], n_cells: int) -> NDArray[np.float32]:
    """Return the means of a map over the cells of each box, `float32 [N, n_cells, n_cells, C]`.

    It is RoIAlign (He and others, "Mask R-CNN", 2017), computed exactly instead of from samples: a place counts by how
    much of it a cell covers.

    Args:
        grid: What to average.
        xyxy: `float32 [N, 4]`, in places of the map.
        n_cells: A box is cut into so many cells on each side.
    """
    n = len(xyxy)
    across = _covered(xyxy[:, 0::2], n_cells, grid.shape[2]).reshape(n, n_cells, -1)
    down = _covered(xyxy[:, 1::2], n_cells, grid.shape[1])
    rows = np.tensordot(down, grid, axes=(1, 1)).reshape(n, n_cells, *grid.shape[::2])
    means: NDArray[np.float32] = (across[:, None] @ rows.swapaxes(2, 3)).astype(np.float32, copy=False)
    return means


def _covered(spans: NDArray[np.float32], n_parts: int, n_places: int) -> NDArray[np.float32]:
    """Return which share of each part of spans `[N, 2]` lies in each place, `float32 [N * n_parts, n_places]`."""
    ends = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * np.linspace(0, 1, n_parts + 1, dtype=np.float32)
    starts, ends = ends[:, :-1].reshape(-1, 1), ends[:, 1:].reshape(-1, 1)
    places = np.arange(n_places, dtype=np.float32)
    overlap = (np.minimum(ends, places + 1) - np.maximum(starts, places)).clip(0, None)
    shares: NDArray[np.float32] = overlap / np.maximum(overlap.sum(axis=1, keepdims=True), 1e-6)
    return shares
