"""Take apart the network's output for an image, and describe parts of the image by the network's own maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
"""`float32 [C, h, w]`: a network's features at each place of a grid."""

_HEAD_STRIDES = (8, 16, 32)


def take_apart(
    row: NDArray[np.float32], kinds: Sequence[tuple[int, int]], height: int, width: int
) -> tuple[NDArray[np.float32], list[Map]]:
    """Split a row into the predictions `float32 [P, A]` and the maps that follow them.

    Args:
        row: `float32 [...]`, of one image.
        kinds: Channels of each map, and its stride in pixels of the network's input.
        height: Height of the network's input, in pixels; a multiple of 32.
        width: Width of the network's input, in pixels; a multiple of 32.
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


def describe(
    maps: Sequence[Map], kinds: Sequence[tuple[int, int, int]], xyxy: NDArray[np.float32]
) -> NDArray[np.float16]:
    """Return the feature vectors of boxes, `float16 [N, D]`; `described_dim` returns D.

    Each map is averaged over the cells of a grid on the box, row after row. The averages of a map are scaled to mean 0
    and variance 1, so that no map outweighs the others.

    Args:
        maps: A network's maps of an image.
        kinds: Channels of each map, its stride in pixels of the network's input, and the cells of the grid on a side.
            One cell shows what is in the box. Several cells also show where it is, and so the posture of a body.
        xyxy: `float32 [N, 4]`, in pixels of the network's input.
    """
    columns = []
    for grid, (_, stride, n_cells) in zip(maps, kinds, strict=True):
        means = area_means(grid, xyxy / np.float32(stride), n_cells).reshape(len(xyxy), -1)
        spread = means.std(axis=1, keepdims=True)
        columns.append((means - means.mean(axis=1, keepdims=True)) / np.maximum(spread, 1e-6))
    return np.concatenate(columns, axis=1).astype(np.float16)


def described_dim(kinds: Sequence[tuple[int, int, int]]) -> int:
    """Return the length of the vectors that `describe` makes from such maps."""
    return sum(channels * n_cells**2 for channels, _, n_cells in kinds)


def area_means(grid: Map, xyxy: NDArray[np.float32], n_cells: int) -> NDArray[np.float32]:
    """Return the means of a map over the cells of each box, `float32 [N, n_cells, n_cells, C]`.

    This is RoIAlign (He and others, "Mask R-CNN", 2017), computed exactly instead of from samples: each place is
    weighted by the part of it that a cell covers.

    Args:
        grid: The map to average.
        xyxy: `float32 [N, 4]`, in places of the map.
        n_cells: Cells on each side of a box.
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


def sampled(grid: Map, xyxy: NDArray[np.float32], n_cells: int) -> NDArray[np.float32]:
    """Return the values of a map at the cells of each box, `float32 [N, n_cells, n_cells, C]`.

    The result is that of torchvision's `roi_align(..., sampling_ratio=2, aligned=True)`, computed by two matrices per
    box: the mean of four points in each cell, each interpolated between the map's places. Points outside count 0.

    Args:
        grid: `float32 [C, h, w]`.
        xyxy: `float32 [N, 4]`, in places of the map.
        n_cells: Cells on each side of a box.
    """
    across = _interpolated(xyxy[:, 0::2], n_cells, grid.shape[2])
    down = _interpolated(xyxy[:, 1::2], n_cells, grid.shape[1])
    places = np.ascontiguousarray(grid.transpose(1, 2, 0))
    values = np.empty((len(xyxy), n_cells, n_cells, len(grid)), np.float32)
    for value, by_row, by_column in zip(values, down, across, strict=True):
        # Most of a map has nothing to do with a box.
        rows, columns = _used(by_row), _used(by_column)
        near = places[rows, columns]
        lines = by_row[:, rows] @ near.reshape(len(near), -1)
        np.matmul(by_column[:, columns], lines.reshape(n_cells, *near.shape[1:]), out=value)
    return values


def _used(weights: NDArray[np.float32]) -> slice:
    """Return the range of places that add to any part, given the weights `float32 [n_parts, n_places]`."""
    used = np.flatnonzero(weights.any(axis=0))
    return slice(used[0], used[-1] + 1) if len(used) else slice(0, 1)


_SAMPLES = 2


def _interpolated(spans: NDArray[np.float32], n_parts: int, n_places: int) -> NDArray[np.float32]:
    """Return how much each place adds to each part of spans `[N, 2]`, `float32 [N, n_parts, n_places]`."""
    shares = (np.arange(n_parts * _SAMPLES, dtype=np.float32) + 0.5) / (n_parts * _SAMPLES)
    # Position 0 is the middle of the first place.
    at = spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * shares - 0.5
    inside = (at >= -1) & (at <= n_places)
    near = 1 - np.abs(at.clip(0, n_places - 1)[..., None] - np.arange(n_places, dtype=np.float32))
    weights = (near.clip(0, None) * inside[..., None]).reshape(len(spans), n_parts, _SAMPLES, n_places)
    return np.asarray(weights.mean(axis=2))
