"""Measure a model on videos that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.model import ActivityModel
from pipeline.training.dataset import LabelledVideo
from pipeline.training.fit import IGNORE


def evaluate(model: ActivityModel, videos: Sequence[LabelledVideo], n_labels: int) -> dict[str, Any]:
    """Run a model over whole videos, as a job does, and compare with the annotations.

    Returns:
        `accuracy`: share of annotated spans whose highest mean log score is that of their label;
        `mean_class_accuracy`: the same, averaged over labels; `frame_accuracy`: share of labelled steps that are right;
        `n_spans`; `confusion`: `[n_labels][n_labels]`, rows are the truth.
    """
    classifier = SequenceClassifier(model)
    confusion: NDArray[np.int64] = np.zeros((n_labels, n_labels), np.int64)
    n_right = n_steps = 0
    for video in videos:
        scores = np.concatenate(list(classifier.scores([video.sequence.inputs])))
        log_scores = np.log(np.maximum(scores, 1e-9))
        for item in video.items:
            confusion[item.label_id, log_scores[item.first_step : item.end_step].mean(axis=0).argmax()] += 1
        labelled = video.sequence.label_ids != IGNORE
        n_steps += int(labelled.sum())
        n_right += int((scores.argmax(axis=1) == video.sequence.label_ids)[labelled].sum())
    per_label = confusion.sum(axis=1)
    present = per_label > 0
    return {
        "accuracy": float(confusion.trace() / max(1, confusion.sum())),
        "mean_class_accuracy": float((confusion.diagonal()[present] / per_label[present]).mean())
        if present.any()
        else 0.0,
        "frame_accuracy": n_right / max(1, n_steps),
        "n_spans": int(confusion.sum()),
        "confusion": confusion.tolist(),
    }
