"""Calibrate scores: of answers with a score of 0.8, four in five are right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.model import ActivityModel
from pipeline.training.dataset import LabelledVideo

_LOWEST, _HIGHEST = 0.2, 5.0
_SMALLEST = 1e-9


def fit_temperature(model: ActivityModel, videos: Sequence[LabelledVideo]) -> float:
    """Return what to divide a model's logits by, from videos that it was not trained on (Guo et al. 2017).

    It is the temperature at which the mean scores over annotated spans are most likely, span by span rather than step
    by step: neighbouring steps err together. 1 where nothing can be told.
    """
    plain = SequenceClassifier(with_temperature(model, 1.0))
    spans: list[tuple[NDArray[np.float64], int]] = []
    for video in videos:
        for sequence in video.sequences:
            scores = np.concatenate(list(plain.scores([sequence.inputs]))).astype(np.float64)
            for item in video.items:
                first, end = item.first_step - sequence.first_step, item.end_step - sequence.first_step
                steps = np.log(np.maximum(scores[max(0, first) : max(0, end)], _SMALLEST))
                if len(steps):
                    spans.append((steps, item.label_id))
    if not spans:
        return 1.0

    def surprise(log_temperature: float) -> float:
        total = 0.0
        for log_scores, label_id in spans:
            tempered = torch.from_numpy(log_scores / np.exp(log_temperature)).softmax(dim=-1)
            total -= float(np.log(max(_SMALLEST, float(tempered[:, label_id].mean()))))
        return total / len(spans)

    found = minimize_scalar(surprise, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def with_temperature(model: ActivityModel, temperature: float) -> ActivityModel:
    """Return a model of the same networks whose logits are divided by a temperature."""
    return ActivityModel(replace(model.spec, temperature=temperature), list(model.members)).eval()  # type: ignore[arg-type]
