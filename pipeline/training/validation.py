"""Measure a model on videos that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import BACKGROUND
from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions, StepRun, find_segments
from pipeline.training.dataset import LabelledVideo
from pipeline.training.metrics import Span, expected_calibration_error, f1, reliability, segment_counts
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

    Where several people are seen, each step's scores are averaged over them, weighted by their size; where nobody is,
    a span or a step counts as wrong.

    Returns:
        `accuracy`: share of annotated spans whose highest mean log score is that of their label;
        `mean_class_accuracy`: the same, averaged over labels; `frame_accuracy`: share of labelled steps that are right;
        `segment_f1`: F1 of segments that overlap an annotated span of their label by a quarter of the union (F1@25),
        background left out; `calibration_error`: by how much the mean score of an answer over its span differs from the
        share of such answers that is right, where somebody was found, and `reliability`, the bins it is made of:
        confidence, accuracy, number; `recall`: for each label, the share of spans that
        a segment of it touches; `n_spans`; `n_unseen`: spans in which nobody was found; `confusion`:
        `[n_labels][n_labels]`, rows are the truth.
    """
    classifier = SequenceClassifier(model)
    n_labels = len(labels)
    confusion: NDArray[np.int64] = np.zeros((n_labels, n_labels), np.int64)
    touched: NDArray[np.int64] = np.zeros(n_labels, np.int64)
    n_spans_of: NDArray[np.int64] = np.zeros(n_labels, np.int64)
    n_right = n_steps = n_unseen = 0
    sure: list[tuple[float, float]] = []
    counts = np.zeros(3)
    background = labels.index(BACKGROUND) if BACKGROUND in labels else None
    for video in videos:
        end = max([item.end_step for item in video.items] + [s.first_step + len(s.label_ids) for s in video.sequences])
        truth = np.full(end, IGNORE, np.int64)
        weight, score, log_score = np.zeros((end, 1)), np.zeros((end, n_labels)), np.zeros((end, n_labels))
        runs: list[StepRun] = []
        for sequence in video.sequences:
            scores = np.concatenate(list(classifier.scores([sequence.inputs])))
            runs += find_segments([scores], sequence.first_step, sample_fps, options)
            steps = slice(sequence.first_step, sequence.first_step + len(scores))
            share = np.ones((len(scores), 1)) if sequence.weights is None else sequence.weights[:, None]
            weight[steps] += share
            score[steps] += share * scores
            log_score[steps] += share * np.log(np.maximum(scores, 1e-9))
            truth[steps] = np.where(truth[steps] == IGNORE, sequence.label_ids, truth[steps])
        for item in video.items:
            span = slice(item.first_step, item.end_step)
            n_spans_of[item.label_id] += 1
            if weight[span].any():
                answer = int(log_score[span].sum(axis=0).argmax())
                confusion[item.label_id, answer] += 1
                sure.append((float(score[span, answer].sum() / weight[span].sum()), float(answer == item.label_id)))
            else:
                n_unseen += 1
            truth[span] = np.where(truth[span] == IGNORE, item.label_id, truth[span])
            touched[item.label_id] += any(
                run.label_id == item.label_id and run.first_step < item.end_step and item.first_step < run.end_step
                for run in runs
            )
        n_steps += int((truth != IGNORE).sum())
        n_right += int(((score.argmax(axis=1) == truth) & (weight[:, 0] > 0)).sum())
        wanted, found = (
            [Span(each.label_id, each.first_step, each.end_step) for each in spans if each.label_id != background]
            for spans in (video.items, runs)
        )
        counts += segment_counts(wanted, found, _OVERLAP)
    bins = reliability(*np.array(sure, float).reshape(-1, 2).T)
    present = n_spans_of > 0
    per_label = confusion.diagonal()[present] / n_spans_of[present]
    return {
        "accuracy": float(confusion.trace() / max(1, n_spans_of.sum())),
        "mean_class_accuracy": float(per_label.mean()) if present.any() else 0.0,
        "frame_accuracy": n_right / max(1, n_steps),
        "segment_f1": f1(*counts),
        "calibration_error": expected_calibration_error(bins),
        "reliability": [[each.confidence, each.accuracy, each.weight] for each in bins],
        "recall": {label: float(touched[i] / n_spans_of[i]) for i, label in enumerate(labels) if present[i]},
        "n_spans": int(n_spans_of.sum()),
        "n_unseen": n_unseen,
        "confusion": confusion.tolist(),
    }


def means_of_splits(results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the figures averaged over splits; the calibration error is that of all their answers together.

    Of a few hundred answers in fifteen bins even chance makes an error of several hundredths.
    """
    together = np.concatenate([np.array(result["reliability"], float).reshape(-1, 3) for result in results])
    bins = reliability(*together.T)
    means = {figure: float(np.mean([result[figure] for result in results])) for figure in FIGURES}
    return means | {"calibration_error": expected_calibration_error(bins)}
