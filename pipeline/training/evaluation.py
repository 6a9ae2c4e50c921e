"""Compare found spans with annotated ones, video by video, and compute the figures that the field reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.training.metrics import (
    F1_OVERLAPS,
    TIOUS_COARSE,
    TIOUS_FINE,
    Figure,
    ReliabilityBin,
    Span,
    average_precision,
    bootstrap,
    detection_hits,
    edit_score,
    expected_calibration_error,
    f1,
    reliability,
    segment_counts,
    tiou,
)

NONE = -1
"""Label id of a moment without a found or an annotated span."""
_TIOUS = tuple(sorted({*TIOUS_COARSE, *TIOUS_FINE}))
# The boundary error counts found spans that share at least half of the union with a true one.
_BOUNDARY_TIOU = 0.5


@dataclass(frozen=True)
class Case:
    """One video with its annotated and its found spans."""

    video: str
    true: tuple[Span, ...]
    found: tuple[Span, ...]
    """Each is the segment of one person."""
    weights: tuple[float, ...] = ()
    """How much each found span counts for the whole video; a larger person counts more. Empty: all the same."""

    def weight(self, index: int) -> float:
        """Return the weight of a found span."""
        return self.weights[index] if self.weights else 1.0


@dataclass(frozen=True)
class Evaluation:
    """The figures of one model on annotated videos."""

    labels: tuple[str, ...]
    n_videos: int
    n_spans: int
    figures: dict[str, Figure]
    """By name, each with its interval over videos."""
    average_precision: dict[str, dict[str, float]]
    """For each label, by overlap: `0.5` and so on."""
    per_label: dict[str, dict[str, float]]
    """For each label: `n_true`, `n_found`, `precision`, `recall` and `f1` of segments at an overlap of a quarter."""
    confusion: list[list[int]]
    """`[n_labels][n_labels + 1]`: rows are the annotated spans, columns the labels found; the last column is none."""
    reliability: list[ReliabilityBin]
    """Scores of segments, compared with the share of their time that is right."""

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class _Counted:
    """The contribution of one video to each figure."""

    n_spans: int
    n_right_spans: int
    n_steps: int
    n_right_steps: int
    edit: float
    segments: NDArray[np.float64]
    """`[overlaps, labels, 3]`: hits, false alarms, misses."""
    boundary: NDArray[np.float64]
    """`[2]`: sum of the errors at both ends of hits in seconds, and number of ends."""
    confidence: NDArray[np.float64]
    """`[N, 3]`: score of a found span, share of its annotated time that is right, and its annotated time in steps."""


def evaluate_cases(
    cases: Sequence[Case], labels: Sequence[str], step_s: float, background: str | None = None, n_draws: int = 500
) -> Evaluation:
    """Evaluate found spans against annotated ones.

    If several people are found, annotations count for the whole video, not for one person. For spans, what several
    people do at once is one span. For moments, the label with the highest score times size wins. If annotated spans
    overlap, the one that starts later counts.

    Args:
        cases: The videos.
        labels: The names of the label ids.
        step_s: Seconds of one step in which moments are counted.
        background: The label, if any, of doing nothing in particular. Finding nothing there is right.
        n_draws: How often the videos are resampled for the intervals.
    """
    background_id = labels.index(background) if background is not None and background in labels else None
    spans = [_as_spans(case, background_id) for case in cases]
    confusion = np.zeros((len(labels), len(labels) + 1), np.int64)
    counted = [
        _count(case, *of_case, len(labels), step_s, background_id, confusion)
        for case, of_case in zip(cases, spans, strict=True)
    ]
    wanted = [i for i in range(len(labels)) if i != background_id and any(s.label_id == i for t, _ in spans for s in t)]
    detections = {i: _Detections(spans, i) for i in wanted}
    figures = _figures(counted, detections, len(cases), n_draws)
    quarter = sum((each.segments[F1_OVERLAPS.index(0.25)] for each in counted), np.zeros((len(labels), 3)))
    return Evaluation(
        labels=tuple(labels),
        n_videos=len(cases),
        n_spans=sum(each.n_spans for each in counted),
        figures=figures,
        average_precision={
            labels[i]: {f"{least:g}": detections[i].precision(least) for least in _TIOUS} for i in wanted
        },
        per_label={labels[i]: _per_label(*quarter[i]) for i in wanted},
        confusion=confusion.tolist(),
        reliability=_reliability(counted, np.ones(len(cases))),
    )


def _figures(
    counted: Sequence[_Counted], detections: dict[int, _Detections], n_videos: int, n_draws: int
) -> dict[str, Figure]:
    def share(part: str, whole: str) -> Callable[[NDArray[np.float64]], float]:
        parts, wholes = (np.array([getattr(each, name) for each in counted], float) for name in (part, whole))
        return lambda weights: float(weights @ parts) / max(1e-12, float(weights @ wholes))

    edits = np.array([each.edit for each in counted])
    segments = np.array([each.segments.sum(axis=1) for each in counted])
    boundaries = np.array([each.boundary for each in counted])

    def mean_precision(tious: Sequence[float]) -> Callable[[NDArray[np.float64]], float]:
        def of(weights: NDArray[np.float64]) -> float:
            values = [of_label.precision(least, weights) for of_label in detections.values() for least in tious]
            return float(np.nanmean(values)) if values and not np.isnan(values).all() else float("nan")

        return of

    def boundary_s(weights: NDArray[np.float64]) -> float:
        total, number = weights @ boundaries
        return float(total / number) if number else float("nan")

    measured: dict[str, Callable[[NDArray[np.float64]], float]] = {
        "accuracy": share("n_right_spans", "n_spans"),
        "frame_accuracy": share("n_right_steps", "n_steps"),
        "edit": lambda weights: float(weights @ edits / weights.sum()),
        **{
            f"f1@{round(100 * least)}": lambda weights, i=i: f1(*(weights @ segments[:, i]))  # type: ignore[misc]
            for i, least in enumerate(F1_OVERLAPS)
        },
        **{f"map@{least:g}": mean_precision([least]) for least in TIOUS_COARSE},
        "map@0.3:0.7": mean_precision(TIOUS_COARSE),
        "map@0.5:0.95": mean_precision(TIOUS_FINE),
        "boundary_error_s": boundary_s,
        "calibration_error": lambda weights: expected_calibration_error(_reliability(counted, weights)),
    }
    return {name: bootstrap(figure, n_videos, n_draws) for name, figure in measured.items()}


class _Detections:
    """The found spans of one label in all videos, and which of them are hits at each overlap."""

    def __init__(self, spans: Sequence[tuple[list[Span], list[Span]]], label_id: int) -> None:
        self._n_true = np.array([sum(s.label_id == label_id for s in true) for true, _ in spans], float)
        video: list[int] = []
        scores: list[float] = []
        hits: dict[float, list[bool]] = {least: [] for least in _TIOUS}
        for number, (true, found) in enumerate(spans):
            mine = [span for span in found if span.label_id == label_id]
            wanted = [span for span in true if span.label_id == label_id]
            for least in _TIOUS if mine else ():
                of_video = detection_hits(wanted, mine, least)
                hits[least] += [hit for _, hit in of_video]
            scores += sorted((span.score for span in mine), reverse=True)
            video += [number] * len(mine)
        self._video, self._scores = np.array(video, np.int64), np.array(scores)
        self._hits = {least: np.array(of_least, np.bool_) for least, of_least in hits.items()}

    def precision(self, least: float, weights: NDArray[np.float64] | None = None) -> float:
        weights = np.ones(len(self._n_true)) if weights is None else weights
        n_true = float(weights @ self._n_true)
        return average_precision(self._scores, self._hits[least], n_true, weights[self._video])


def _as_spans(case: Case, background_id: int | None) -> tuple[list[Span], list[Span]]:
    """Return the true and the found spans in order, without background. What several people do at once is one span."""
    true = sorted((s for s in case.true if s.label_id != background_id), key=lambda s: (s.start_s, s.end_s))
    merged: list[Span] = []
    for span in sorted(case.found, key=lambda s: (s.label_id, s.start_s)):
        last = merged[-1] if merged else None
        if span.label_id == background_id:
            continue
        if last is not None and last.label_id == span.label_id and span.start_s < last.end_s:
            merged[-1] = Span(span.label_id, last.start_s, max(last.end_s, span.end_s), max(last.score, span.score))
        else:
            merged.append(span)
    return true, sorted(merged, key=lambda s: (s.start_s, s.end_s))


def _count(
    case: Case,
    true: Sequence[Span],
    found: Sequence[Span],
    n_labels: int,
    step_s: float,
    background_id: int | None,
    confusion: NDArray[np.int64],
) -> _Counted:
    n_right_spans = 0
    for span in case.true:
        label_id = _taken_for(case, span)
        confusion[span.label_id, label_id] += 1
        n_right_spans += label_id == span.label_id or (label_id == NONE and span.label_id == background_id)
    truth, taken = _timelines(case, n_labels, step_s)
    taken[taken == NONE] = NONE if background_id is None else background_id
    annotated = truth != NONE
    segments = np.zeros((len(F1_OVERLAPS), n_labels, 3))
    for i, least in enumerate(F1_OVERLAPS):
        for label_id in {span.label_id for span in (*true, *found)}:
            wanted, mine = ([s for s in spans if s.label_id == label_id] for spans in (true, found))
            segments[i, label_id] = segment_counts(wanted, mine, least)
    ends = [
        abs(at - other_at)
        for span in found
        for other in true
        if span.label_id == other.label_id and tiou(span, other) >= _BOUNDARY_TIOU
        for at, other_at in ((span.start_s, other.start_s), (span.end_s, other.end_s))
    ]
    confidence = []
    for span in case.found:
        steps = truth[_steps(span, step_s)]
        known = steps[steps != NONE]
        if len(known):
            confidence.append((span.score, float((known == span.label_id).mean()), float(len(known))))
    return _Counted(
        n_spans=len(case.true),
        n_right_spans=n_right_spans,
        n_steps=int(annotated.sum()),
        n_right_steps=int((taken == truth)[annotated].sum()),
        edit=edit_score(_order(true), _order(found)),
        segments=segments,
        boundary=np.array([sum(ends), len(ends)], float),
        confidence=np.array(confidence, float).reshape(-1, 3),
    )


def _taken_for(case: Case, span: Span) -> int:
    """Return the label with the highest sum of score times size times seconds in a span; NONE if nothing was found."""
    votes: dict[int, float] = {}
    for i, found in enumerate(case.found):
        shared = min(span.end_s, found.end_s) - max(span.start_s, found.start_s)
        if shared > 0:
            votes[found.label_id] = votes.get(found.label_id, 0.0) + shared * found.score * case.weight(i)
    return max(votes, key=lambda label_id: votes[label_id]) if votes else NONE


def _timelines(case: Case, n_labels: int, step_s: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the annotated and the found label of each step, NONE if there is none."""
    n_steps = max((_steps(span, step_s).stop for span in (*case.true, *case.found)), default=0)
    truth = np.full(n_steps, NONE, np.int64)
    for span in sorted(case.true, key=lambda each: each.start_s):
        truth[_steps(span, step_s)] = span.label_id
    votes = np.zeros((n_steps, n_labels))
    for i, span in enumerate(case.found):
        votes[_steps(span, step_s), span.label_id] += span.score * case.weight(i)
    taken = np.where(votes.any(axis=1), votes.argmax(axis=1), NONE) if n_steps else truth.copy()
    return truth, taken


def _steps(span: Span, step_s: float) -> slice:
    first, end = (int(np.ceil(at / step_s - 1e-6)) for at in (span.start_s, span.end_s))
    return slice(first, max(first, end))


def _order(spans: Sequence[Span]) -> list[int]:
    """Return the labels in order, without repeats of the label before."""
    labels = [span.label_id for span in spans]
    return [label for i, label in enumerate(labels) if i == 0 or label != labels[i - 1]]


def _reliability(counted: Sequence[_Counted], weights: NDArray[np.float64]) -> list[ReliabilityBin]:
    rows = np.concatenate([each.confidence for each in counted]) if counted else np.empty((0, 3))
    of_video = np.repeat(weights, [len(each.confidence) for each in counted])
    return reliability(rows[:, 0], rows[:, 1], rows[:, 2] * of_video)


def _per_label(n_hits: float, n_false: float, n_missed: float) -> dict[str, float]:
    return {
        "n_true": n_hits + n_missed,
        "n_found": n_hits + n_false,
        "precision": n_hits / (n_hits + n_false) if n_hits + n_false else 0.0,
        "recall": n_hits / (n_hits + n_missed) if n_hits + n_missed else 0.0,
        "f1": f1(n_hits, n_false, n_missed),
    }
