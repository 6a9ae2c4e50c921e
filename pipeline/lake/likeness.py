"""Likeness of two stretches: the cosine of short vectors, in which what is common in the whole lake counts little."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.lake.stretches import Parts, unit

DIM = 64
"""Greatest length of a stretch's vector. With 48, as many neighbours have the same label; with 128, fewer do."""
WEIGHTS = {"embedding": 4.0, "flow": 1.0, "places": 1.0, "trend": 0.25, "pace": 1.0, "box": 0.5}
"""The weight of each part."""
# In spreads. A value farther from the median is a mistake of the detector as likely as not.
_FARTHEST = 2.5
# Half of whitening: without it the first few directions would dominate, and with full whitening noise would.
_EXPONENT = 0.25
# Shares of the strongest direction's variance: a weaker direction is numeric noise, a much weaker one is dropped.
_WEAK, _NOTHING = 1e-3, 1e-7


@dataclass(frozen=True)
class Basis:
    """Turns the parts of a stretch into its vector. It is fitted to a lake, and all stretches of the lake share it."""

    parts: tuple[str, ...]
    """Names of the parts, in the order in which they stand side by side."""
    middle: NDArray[np.float32]
    """`float32 [D]`: the median of each number over the lake."""
    scale: NDArray[np.float32]
    """`float32 [D]`: the factor that gives each number about the same spread."""
    weight: NDArray[np.float32]
    """`float32 [D]`: a further factor that gives each part its weight."""
    directions: NDArray[np.float32]
    """`float32 [D, d]`: principal directions."""

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self.directions.shape[1])

    @classmethod
    def fit(cls, sample: Parts) -> Basis:
        """Fit a basis to a sample of a lake's stretches; the same sample gives the same basis.

        Each number is centred on its median and divided by its spread. Each part is divided by its usual length. The
        principal components of all parts together are kept; those with more variance are scaled down.

        Args:
            sample: The parts of at least one stretch.
        """
        names = tuple(name for name in WEIGHTS if name in sample)
        raw = np.hstack([sample[name] for name in names]).astype(np.float64)
        known = np.isfinite(raw)
        # A column without any known value is set to 0, so that it does not count.
        raw[:, ~known.any(axis=0)] = 0.0
        middle = np.nanmedian(raw, axis=0)
        centred = np.where(known, raw - middle, 0.0)
        # If most numbers are the same, the median of the distances is 0, so the mean of squares is used, too.
        spread = np.maximum(1.4826 * np.median(np.abs(centred), axis=0), 0.5 * np.sqrt(np.mean(centred**2, axis=0)))
        scale = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > _NOTHING)
        standard = np.clip(centred * scale, -_FARTHEST, _FARTHEST)
        weight = np.empty(raw.shape[1])
        ends = np.cumsum([sample[name].shape[1] for name in names])
        for name, start, end in zip(names, np.append(0, ends), ends, strict=False):
            length = np.sqrt(np.mean(np.sum(standard[:, start:end] ** 2, axis=1)))
            weight[start:end] = np.sqrt(WEIGHTS[name]) / length if length > 0 else 0.0
        directions = _directions(unit((standard * weight).astype(np.float32)).astype(np.float64))
        return cls(names, *(array.astype(np.float32) for array in (middle, scale, weight, directions)))

    def vectors(self, parts: Parts) -> NDArray[np.float32]:
        """Return the vectors of some stretches, `float32 [n, d]`, of length 1. Their dot products are likenesses."""
        raw = np.hstack([parts[name] for name in self.parts])
        standard = np.nan_to_num((raw - self.middle) * self.scale, nan=0.0).clip(-_FARTHEST, _FARTHEST)
        return unit(unit(standard * self.weight) @ self.directions)

    def to_bytes(self) -> bytes:
        """Return the basis as the content of an `.npz` file."""
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ("middle", "scale", "weight", "directions")}
        np.savez(file, parts=np.array(self.parts), **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Basis:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, KeyError, OSError: The content is damaged.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = [file[name] for name in ("middle", "scale", "weight", "directions")]
            return cls(tuple(str(name) for name in file["parts"]), *arrays)


def _directions(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the strongest directions `[D, d]` of rows `[n, D]`; those with more variance are scaled down."""
    n, width = rows.shape
    # Both products have the same nonzero eigenvalues; the smaller one is used.
    small = rows.T @ rows if n >= width else rows @ rows.T
    values, vectors = np.linalg.eigh(small / n)
    values, vectors = values[::-1][:DIM], vectors[:, ::-1][:, :DIM]
    kept = values > _NOTHING * max(values[0], _NOTHING)
    if not kept.any():
        # All stretches are the same: return one direction, along which all are 0.
        return np.zeros((width, 1))
    values, vectors = values[kept], vectors[:, kept]
    if n < width:
        vectors = rows.T @ vectors / np.sqrt(n * values)
    return np.asarray(vectors / (values + _WEAK * values[0]) ** _EXPONENT)


def thinned(parts: Sequence[Parts], most: int) -> Parts:
    """Join several descriptions of stretches into one, evenly thinned to at most `most` stretches."""
    joined = {name: np.concatenate([each[name] for each in parts]) for name in parts[0]}
    n = len(next(iter(joined.values())))
    if n <= most:
        return joined
    chosen = np.linspace(0, n - 1, most).astype(np.int64)
    return {name: values[chosen] for name, values in joined.items()}
