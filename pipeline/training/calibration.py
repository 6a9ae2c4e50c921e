"""Calibrate what a model says of itself: of answers with a score of 0.8, four in five are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.model import ActivityModel, free_energy
from pipeline.training.dataset import LabelledVideo

_LOWEST, _HIGHEST = 0.2, 5.0
_SMALLEST = 1e-9
# A hundredth of what was learnt from lies between two of them.
_N_ENERGIES, _ENOUGH_SEQUENCES = 101, 2000


Answers = tuple[ActivityModel, Sequence[LabelledVideo]]
"""A model, and videos that it was not trained on."""


def fit_temperature(tried: Sequence[Answers]) -> float:
    """Return what to divide a model's logits by, from what such models say of videos that are new to them.

    It is the temperature at which the mean scores over annotated spans are most likely (Guo et al. 2017), span by span
    rather than step by step: neighbouring steps err together. Each model weighs as much as any other, however many
    videos are its own. 1 where nothing can be told.
    """
    spans_of = [spans for spans in (_spans(model, videos) for model, videos in tried) if spans]
    if not spans_of:
        return 1.0

    def surprise(log_temperature: float) -> float:
        return float(np.mean([_surprise(spans, np.exp(log_temperature)) for spans in spans_of]))

    found = minimize_scalar(surprise, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def _spans(model: ActivityModel, videos: Sequence[LabelledVideo]) -> list[tuple[NDArray[np.float64], int]]:
    """Return log scores `float64 [t, n_labels]` over each annotated span at temperature 1, and its label."""
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
    return spans


def _surprise(spans: Sequence[tuple[NDArray[np.float64], int]], temperature: float) -> float:
    """Return the mean negative logarithm of the scores of what is right."""
    total = 0.0
    for log_scores, label_id in spans:
        tempered = torch.from_numpy(log_scores / temperature).softmax(dim=-1)
        total -= float(np.log(max(_SMALLEST, float(tempered[:, label_id].mean()))))
    return total / len(spans)


def calibrated_by_others(name: str, tried: Mapping[str, Answers]) -> ActivityModel:
    """Return a split's model with the temperature that fits what those of the other splits say of what they left out.

    Whoever or whatever is new to a model makes it err more often than what it was merely not trained on. What this
    split measures on is left out, should it be among that.
    """
    model, test = tried[name]
    measured = {video.video for video in test}
    others = [
        (other, [video for video in videos if video.video not in measured])
        for other_name, (other, videos) in tried.items()
        if other_name != name
    ]
    return with_temperature(model, fit_temperature(others))


def with_temperature(model: ActivityModel, temperature: float) -> ActivityModel:
    """Return a model of the same networks whose logits are divided by a temperature."""
    return ActivityModel(replace(model.spec, temperature=temperature), list(model.members)).eval()  # type: ignore[arg-type]


def with_energies(model: ActivityModel, videos: Sequence[LabelledVideo]) -> ActivityModel:
    """Return a model that knows the free energies of what it was trained on, and so what is unlike it.

    They are those of all steps of some two thousand sequences, evenly taken, each as often as an epoch draws it.
    """
    classifier = SequenceClassifier(model)
    sequences = [sequence for video in videos for sequence in video.sequences]
    energies: list[NDArray[np.float32]] = []
    draws: list[int] = []
    for sequence in sequences[:: max(1, len(sequences) // _ENOUGH_SEQUENCES)]:
        for logits in classifier.logits([sequence.inputs]):
            energies.append(free_energy(logits).numpy())
            draws += [sequence.draws] * len(logits)
    if not energies:
        return model
    together = np.concatenate(energies)
    order = np.argsort(together)
    share = np.cumsum(np.array(draws, float)[order])
    places = np.searchsorted(share, np.linspace(0, share[-1], _N_ENERGIES)).clip(max=len(order) - 1)
    spec = replace(model.spec, energies=tuple(round(float(energy), 4) for energy in together[order][places]))
    return ActivityModel(spec, list(model.members)).eval()  # type: ignore[arg-type]
