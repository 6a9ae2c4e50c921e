"""Measure a model on videos that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import BACKGROUND
from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions, StepRun, find_segments
from pipeline.training.dataset import Item, LabelledVideo
from pipeline.training.metrics import (
    ReliabilityBin,
    Span,
    expected_calibration_error,
    f1,
    found_for_longest,
    reliability,
    segment_counts,
)
from pipeline.training.sequences import IGNORE

# A segment is right if it shares this much of the union with an annotated span of its label: the F1@25 of the field.
_OVERLAP = 0.25

FIGURES = ("accuracy", "mean_class_accuracy", "frame_accuracy", "segment_f1", "calibration_error")
"""The figures of one split that are averaged over splits."""


def validate(
    model: ActivityModel,
    videos: Sequence[LabelledVideo],
    labels: Sequence[str],
    sample_fps: float,
    options: SegmentOptions,
) -> dict[str, Any]:
    """Run a model over whole videos, as a job does, and compare with the annotations.

    If several people are seen, each step's scores are averaged over them, weighted by their size. If nobody is seen, a
    span or a step counts as wrong. If an annotation leaves open which of several labels is right, each of them is; as a
    segment, that of them counts which was found for longest.

    Returns:
        `accuracy`: share of annotated spans whose highest mean log score is that of their label;
        `mean_class_accuracy`: the same, averaged over labels; `frame_accuracy`: share of labelled steps that are right;
        `segment_f1`: F1 of segments that overlap an annotated span of their label by a quarter of the union (F1@25),
        without background; `calibration_error`: the difference between the mean score of an answer over its span and
        the share of such answers that is right, if somebody was found; `reliability`: the bins of that figure, each
        with confidence, accuracy, number; `recall`: for each label, the share of its spans that a segment with this
        label touches; `n_spans`; `n_unseen`: spans in which nobody was found; `confusion`: `[n_labels][n_labels]`,
        rows are the truth.
    """
    classifier = model.classifier()
    scored = (score_steps(classifier, video, len(labels), sample_fps, options) for video in videos)
    return figures_of(videos, scored, labels, options)


@dataclass(frozen=True)
class ScoredSteps:
    """A model's scores for the steps of a video, summed over the people in it. Each step has a row."""

    weight: NDArray[np.float64]
    """`[T, 1]`: the summed weights of the people seen."""
    score: NDArray[np.float64]
    """`[T, n_labels]`, weighted."""
    log_score: NDArray[np.float64]
    """`[T, n_labels]`, weighted."""
    truth: NDArray[np.int64]
    """`[T]`: the annotated label, or `IGNORE`."""
    alternatives: NDArray[np.bool_]
    """`[T, n_labels]`: labels that are right, too."""
    runs: list[StepRun]
    """The segments, of any novelty."""

    @property
    def answer(self) -> NDArray[np.int64]:
        """`int64 [T]`: the label with the highest score; `IGNORE` if nobody was seen."""
        return np.where(self.weight[:, 0] > 0, self.score.argmax(axis=1), IGNORE)

    @property
    def is_right(self) -> NDArray[np.bool_]:
        """`bool [T]`: whether the answer is an annotated label."""
        answer = self.answer
        is_other = self.alternatives[np.arange(len(answer)), answer] & (answer != IGNORE)
        right: NDArray[np.bool_] = (self.truth != IGNORE) & ((answer == self.truth) | is_other)
        return right


def score_steps(
    classifier: SequenceClassifier, video: LabelledVideo, n_labels: int, sample_fps: float, options: SegmentOptions
) -> ScoredSteps:
    """Run a model over all sequences of a video, as a job does."""
    items = video.items
    end = max([item.end_step for item in items] + [s.first_step + len(s.label_ids) for s in video.sequences])
    score, log_score = np.zeros((end, n_labels)), np.zeros((end, n_labels))
    alternatives = np.zeros((end, n_labels), np.bool_)
    steps = ScoredSteps(np.zeros((end, 1)), score, log_score, np.full(end, IGNORE, np.int64), alternatives, [])
    for sequence in video.sequences:
        blocks = list(map(classifier.scored, classifier.logits([sequence.inputs])))
        scores = np.concatenate([block.scores for block in blocks])
        steps.runs.extend(find_segments(blocks, sequence.first_step, sample_fps, options))
        seen = slice(sequence.first_step, sequence.first_step + len(scores))
        share = np.ones((len(scores), 1)) if sequence.weights is None else sequence.weights[:, None]
        steps.weight[seen] += share
        score[seen] += share * scores
        log_score[seen] += share * np.log(np.maximum(scores, 1e-9))
        steps.truth[seen] = np.where(steps.truth[seen] == IGNORE, sequence.label_ids, steps.truth[seen])
    for item in items:
        span = slice(item.first_step, item.end_step)
        steps.truth[span] = np.where(steps.truth[span] == IGNORE, item.label_id, steps.truth[span])
        of_item, wins = alternatives[span], steps.truth[span] == item.label_id
        of_item[wins] = False
        of_item[np.ix_(wins, item.alternative_ids)] = True
    return steps


def figures_of(
    videos: Iterable[LabelledVideo], scored: Iterable[ScoredSteps], labels: Sequence[str], options: SegmentOptions
) -> dict[str, Any]:
    """Return the figures of `validate` for videos and a model's scores for each of them, in the same order."""
    tally = _Tally(labels, options)
    for video, steps in zip(videos, scored, strict=True):
        tally.add(video, steps)
    return tally.figures()


def counts_of_segments(
    steps: ScoredSteps, items: Sequence[Item], options: SegmentOptions, background: int | None
) -> tuple[int, int, int]:
    """Return the counts of `segment_counts` for the segments of a video that `options` tell, but for the background."""
    runs = [(run.label_id, run.first_step, run.end_step) for run in filter(options.tells, steps.runs)]
    true = [
        (found_for_longest(item.right_ids, item.first_step, item.end_step, runs), item.first_step, item.end_step)
        for item in items
    ]
    wanted, found = ([Span(*each) for each in spans if each[0] != background] for spans in (true, runs))
    return segment_counts(wanted, found, _OVERLAP)


class _Tally:
    """Counts, video after video, what a model gets right."""

    def __init__(self, labels: Sequence[str], options: SegmentOptions) -> None:
        self._labels, self._options = labels, options
        self._background = labels.index(BACKGROUND) if BACKGROUND in labels else None
        self._confusion: NDArray[np.int64] = np.zeros((len(labels), len(labels)), np.int64)
        self._touched: NDArray[np.int64] = np.zeros(len(labels), np.int64)
        self._n_spans_of: NDArray[np.int64] = np.zeros(len(labels), np.int64)
        self._n_right = self._n_steps = self._n_unseen = 0
        # Mean score of each answer, and whether it is right.
        self._sure: list[tuple[float, float]] = []
        self._counts = np.zeros(3)

    def add(self, video: LabelledVideo, steps: ScoredSteps) -> None:
        """Count what the scores for a video say."""
        for item in video.items:
            self._count_span(item, steps)
        truth = steps.truth
        self._n_steps += int((truth != IGNORE).sum())
        self._n_right += int(steps.is_right.sum())
        self._counts += counts_of_segments(steps, video.items, self._options, self._background)

    def _count_span(self, item: Item, steps: ScoredSteps) -> None:
        span = slice(item.first_step, item.end_step)
        weight = steps.weight[span].sum()
        self._n_spans_of[item.label_id] += 1
        if weight > 0:
            answer = int(steps.log_score[span].sum(axis=0).argmax())
            is_right = answer in item.right_ids
            self._confusion[item.label_id, item.label_id if is_right else answer] += 1
            self._sure.append((float(steps.score[span, answer].sum() / weight), float(is_right)))
        else:
            self._n_unseen += 1
        self._touched[item.label_id] += any(
            run.label_id in item.right_ids and run.first_step < item.end_step and item.first_step < run.end_step
            for run in filter(self._options.tells, steps.runs)
        )

    def figures(self) -> dict[str, Any]:
        """Return the figures of `validate`."""
        bins = reliability(*np.array(self._sure, float).reshape(-1, 2).T)
        present = self._n_spans_of > 0
        per_label = self._confusion.diagonal()[present] / self._n_spans_of[present]
        n_spans = int(self._n_spans_of.sum())
        recall = self._touched / np.maximum(1, self._n_spans_of)
        return {
            "accuracy": float(self._confusion.trace() / max(1, n_spans)),
            "mean_class_accuracy": float(per_label.mean()) if present.any() else 0.0,
            "frame_accuracy": self._n_right / max(1, self._n_steps),
            "segment_f1": f1(*self._counts),
            "calibration_error": expected_calibration_error(bins),
            "reliability": [[each.confidence, each.accuracy, each.weight] for each in bins],
            "recall": {label: float(recall[i]) for i, label in enumerate(self._labels) if present[i]},
            "n_spans": n_spans,
            "n_unseen": self._n_unseen,
            "confusion": self._confusion.tolist(),
        }


def means_of_splits(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the figures averaged over splits. The calibration error is computed from all their answers together.

    With only a few hundred answers in fifteen bins, chance alone causes an error of several hundredths.
    """
    means = {figure: float(np.mean([result[figure] for result in results])) for figure in FIGURES}
    return means | {"calibration_error": expected_calibration_error(reliability_of_splits(results))}


def reliability_of_splits(results: Sequence[dict[str, Any]]) -> list[ReliabilityBin]:
    """Return the bins of the answers of all splits together."""
    together = np.concatenate([np.array(result["reliability"], float).reshape(-1, 3) for result in results])
    return reliability(*together.T)
