"""Calibrate the scores of a model: of the answers with a score of 0.8, four in five are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from pipeline.activity.model import ActivityModel
from pipeline.activity.scores import free_energy, probabilities
from pipeline.training.dataset import LabelledVideo
from pipeline.training.sequences import IGNORE

_LOWEST, _HIGHEST = 0.2, 5.0
_SMALLEST = 1e-9
# Between two neighbouring energies lies a hundredth of the training data.
_N_ENERGIES, _MOST_SEQUENCES, _MOST_STEPS = 101, 2000, 2048


class Answer(NamedTuple):
    """The scores of a model for an annotated span."""

    video: str
    log_scores: NDArray[np.float64]
    """`float64 [t, n_labels]`, at temperature 1."""
    right_ids: tuple[int, ...]
    """The labels that are right: one, if nobody left open which."""


def answers(model: ActivityModel, videos: Sequence[LabelledVideo]) -> list[Answer]:
    """Return the scores of a model for all annotated spans in which somebody was seen."""
    plain = with_temperature(model, 1.0).classifier()
    said = []
    for video in videos:
        for sequence in video.sequences:
            scores = np.concatenate(list(plain.scores([sequence.inputs]))).astype(np.float64)
            for item in video.items:
                first, end = item.first_step - sequence.first_step, item.end_step - sequence.first_step
                steps = np.log(np.maximum(scores[max(0, first) : max(0, end)], _SMALLEST))
                if len(steps):
                    said.append(Answer(video.video, steps, item.right_ids))
    return said


def fit_temperature(said: Sequence[Sequence[Answer]]) -> float:
    """Return the temperature that divides a model's logits, from answers about videos not used for training.

    At this temperature the right labels are most likely by the mean scores over annotated spans (Guo et al. 2017). It
    counts spans, not steps, because neighbouring steps err together. Each model has the same weight, however many
    answers it has. The temperature is 1 if there are no answers.
    """
    of_models = [of_model for of_model in said if of_model]
    if not of_models:
        return 1.0

    def surprise(log_temperature: float) -> float:
        return float(np.mean([_surprise(of_model, np.exp(log_temperature)) for of_model in of_models]))

    found = minimize_scalar(surprise, bounds=(np.log(_LOWEST), np.log(_HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def _surprise(said: Sequence[Answer], temperature: float) -> float:
    """Return the mean negative logarithm of the scores of the right labels."""
    total = 0.0
    for answer in said:
        tempered = probabilities(answer.log_scores, temperature)
        score = float(tempered[:, list(answer.right_ids)].sum(axis=1).mean())
        total -= float(np.log(max(_SMALLEST, score)))
    return total / len(said)


def temperature_by_others(name: str, said: Mapping[str, Sequence[Answer]]) -> float:
    """Return the temperature for a split's model, fitted to the answers of the other splits' models.

    A model errs more often on people or things that are new to it than on videos that were merely held out. Videos on
    which this split is measured take no part.

    Args:
        name: The split.
        said: For each split, the answers of its model about the videos on which it is measured.
    """
    measured = {answer.video for answer in said[name]}
    others = [of_split for other, of_split in said.items() if other != name]
    return fit_temperature([[each for each in of_split if each.video not in measured] for of_split in others])


def with_temperature(model: ActivityModel, temperature: float) -> ActivityModel:
    """Return a model of the same networks whose logits are divided by a temperature."""
    return _with(model, temperature=temperature)


def _with(model: ActivityModel, **options: Any) -> ActivityModel:
    """Return a model of the same networks with other options in its spec."""
    return ActivityModel(replace(model.spec, **options), list(model.members)).eval()  # type: ignore[arg-type]


def with_energies(model: ActivityModel, videos: Sequence[LabelledVideo], max_steps: int) -> ActivityModel:
    """Return a model that knows the free energies of its training data, and so can tell what is unlike them.

    The energies are those of labelled steps of at most two thousand sequences, taken at even intervals. Each sequence
    has the weight that an epoch gives it: how often it is drawn, with at most `max_steps` steps.
    """
    classifier = model.classifier()
    labelled = [each for video in videos for each in video.sequences if (each.label_ids != IGNORE).any()]
    energies: list[NDArray[np.float32]] = []
    weights: list[NDArray[np.float64]] = []
    for sequence in labelled[:: -(-len(labelled) // _MOST_SEQUENCES) or 1]:
        inputs, label_ids = sequence.inputs[:_MOST_STEPS], sequence.label_ids[:_MOST_STEPS]
        logits = np.concatenate(list(classifier.logits([inputs])))[label_ids != IGNORE]
        energies.append(free_energy(logits))
        drawn_steps = sequence.draws * min(max_steps, len(sequence.label_ids))
        weights.append(np.full(len(logits), drawn_steps / len(inputs)))
    if not sum(map(len, energies)):
        return model
    together = np.concatenate(energies)
    order = np.argsort(together)
    share = np.cumsum(np.concatenate(weights)[order])
    places = np.searchsorted(share, np.linspace(0, share[-1], _N_ENERGIES)).clip(max=len(order) - 1)
    return _with(model, energies=tuple(float(energy) for energy in together[order][places]))
