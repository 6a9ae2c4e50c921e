"""The figures that the field reports, computed only from spans and labels, without a model or a lake.

Detection of activities in time: average precision as in ActivityNet's evaluation (Heilbron et al. 2015). Segmentation:
edit score and F1 at an overlap as in MS-TCN (Lea et al. 2017; Farha and Gall 2019). Calibration: expected calibration
error (Guo et al. 2017). Intervals: percentile bootstrap over videos, never over windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

TIOUS_COARSE = (0.3, 0.4, 0.5, 0.6, 0.7)
"""Overlaps of THUMOS' mean average precision."""
TIOUS_FINE = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""Overlaps of ActivityNet's mean average precision, 0.5 to 0.95."""
F1_OVERLAPS = (0.10, 0.25, 0.50)
"""Overlaps at which F1 is reported."""
_Label = TypeVar("_Label", int, str)


@dataclass(frozen=True)
class Span:
    """A labelled half-open span of one video, true or found."""

    label_id: int
    start_s: float
    end_s: float
    score: float = 1.0
    """The confidence; without meaning for a true span."""


def tiou(a: Span, b: Span) -> float:
    """Return the share of the union that two spans have in common, whatever their labels; 0 if they do not overlap."""
    shared = min(a.end_s, b.end_s) - max(a.start_s, b.start_s)
    union = max(a.end_s, b.end_s) - min(a.start_s, b.start_s)
    return max(0.0, shared) / union if union > 0 else 0.0


def found_for_longest(
    labels: Sequence[_Label], start: float, end: float, found: Iterable[tuple[_Label, float, float]]
) -> _Label:
    """Return which of some labels was found for longest within a span; the first if none was.

    Args:
        labels: The labels to choose from.
        start: Start of the span, in any unit.
        end: Its end.
        found: Label, start and end of what was found.
    """
    lengths = dict.fromkeys(labels, 0.0)
    for label, first, last in found:
        if label in lengths:
            lengths[label] += max(0.0, min(last, end) - max(first, start))
    return max(lengths, key=lambda label: lengths[label])


def detection_hits(true: Sequence[Span], found: Sequence[Span], least: float) -> list[tuple[float, bool]]:
    """Return the score of each found span of one label in one video, and whether it hits a true one.

    Found spans choose by descending score. Each takes the free true span with the largest overlap, if that is at least
    `least`.
    """
    free = set(range(len(true)))
    hits = []
    for span in sorted(found, key=lambda each: -each.score):
        overlaps = sorted(((tiou(span, true[i]), -i) for i in free), reverse=True)
        hit = bool(overlaps) and overlaps[0][0] >= least
        if hit:
            free.remove(-overlaps[0][1])
        hits.append((span.score, hit))
    return hits


def average_precision(
    scores: NDArray[np.float64], hits: NDArray[np.bool_], n_true: float, weights: NDArray[np.float64] | None = None
) -> float:
    """Return the area under the precision-recall curve, with monotonic precision (interpolated at every point).

    Args:
        scores: `float64 [N]` of the found spans of all videos.
        hits: `bool [N]`, whether each hits a true one.
        n_true: Number of true spans.
        weights: `float64 [N]`: how often each counts, for a bootstrap. None: once.
    """
    if not n_true:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    weight = np.ones(len(scores)) if weights is None else weights[order]
    right, all_found = np.cumsum(weight * hits[order]), np.cumsum(weight)
    recall = np.concatenate([[0.0], right / n_true])
    precision = right / np.maximum(all_found, 1e-12)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * falling))


def segment_counts(true: Sequence[Span], found: Sequence[Span], least: float) -> tuple[int, int, int]:
    """Return hits, false alarms and misses among the segments of one video, as MS-TCN counts them.

    Found segments choose in their order. Each chooses the true segment of its label with the largest overlap. If the
    overlap is below `least`, or the true segment is taken, it is a false alarm.
    """
    taken = [False] * len(true)
    n_hits = 0
    for span in found:
        overlaps = [tiou(span, other) if other.label_id == span.label_id else -1.0 for other in true]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] >= least and not taken[best]:
            taken[best] = True
            n_hits += 1
    return n_hits, len(found) - n_hits, len(true) - n_hits


def f1(n_hits: float, n_false: float, n_missed: float) -> float:
    """Return the harmonic mean of precision and recall; 0 if there are neither true nor found segments."""
    return 2 * n_hits / max(1e-12, 2 * n_hits + n_false + n_missed)


def edit_score(true: Sequence[int], found: Sequence[int]) -> float:
    """Return one minus the edit distance between two orders of labels, divided by the longer length, in 0 to 1."""
    if not true and not found:
        return 1.0
    row = list(range(len(found) + 1))
    for i, wanted in enumerate(true, start=1):
        diagonal, row[0] = row[0], i
        for j, label in enumerate(found, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (label != wanted))
    return 1.0 - row[-1] / max(len(true), len(found))


@dataclass(frozen=True)
class ReliabilityBin:
    """Answers whose confidence lies in one range."""

    confidence: float
    """Their mean confidence."""
    accuracy: float
    """Share of them that is right."""
    weight: float
    """The sum of their weights."""


def reliability(
    confidence: NDArray[np.float64],
    right: NDArray[np.float64],
    weights: NDArray[np.float64] | None = None,
    n_bins: int = 15,
) -> list[ReliabilityBin]:
    """Sort answers by confidence into bins of equal width. Empty bins are left out.

    Args:
        confidence: `float64 [N]` in 0 to 1.
        right: `float64 [N]`: 1 for a right answer, 0 for a wrong one, or the share of it that is right.
        weights: `float64 [N]`: the weight of each answer. None: all the same.
        n_bins: Number of bins.
    """
    weight = np.ones(len(confidence)) if weights is None else weights
    # A bin holds its upper edge: (0.8, 0.9].
    index = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    total = np.bincount(index, weight, n_bins)
    sums = [np.bincount(index, weight * values, n_bins) for values in (confidence, right)]
    return [
        ReliabilityBin(float(sums[0][i] / total[i]), float(sums[1][i] / total[i]), float(total[i]))
        for i in np.flatnonzero(total)
    ]


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Return the difference between confidence and accuracy, averaged over the answers of all bins."""
    total = sum(each.weight for each in bins)
    return sum(each.weight * abs(each.confidence - each.accuracy) for each in bins) / max(1e-12, total)


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval over videos."""

    value: float
    low: float
    high: float


def bootstrap(
    figure: Callable[[NDArray[np.float64]], float], n_videos: int, n_draws: int = 500, seed: int = 0
) -> Figure:
    """Return a figure with its 2.5th and 97.5th percentiles over videos drawn with replacement.

    Args:
        figure: Takes how often each video counts, `float64 [n_videos]`, and returns the figure. NaN is left out.
        n_videos: Number of videos.
        n_draws: How often they are resampled.
        seed: Seed of the draws.
    """
    value = figure(np.ones(n_videos))
    if n_videos < 2:
        return Figure(value, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [figure(rng.multinomial(n_videos, [1 / n_videos] * n_videos).astype(float)) for _ in range(n_draws)]
    )
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return Figure(value, float("nan"), float("nan"))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Figure(value, float(low), float(high))
