"""How unlike all that it has learnt from something is, as a model says it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.activity.model import ActivityModel
from pipeline.activity.spec import ModelSpec
from pipeline.training.calibration import with_energies, with_temperature
from pipeline.training.dataset import LabelledVideo
from pipeline.training.sequences import IGNORE, LabelledSequence


def test_it_is_the_share_of_what_was_learnt_that_is_more_familiar() -> None:
    """Logits of 3 and 1 have a free energy of -3.127 (by hand), a quarter of the way from the third to the fourth."""
    model = ActivityModel(ModelSpec(("frame",), 4, 2, "linear", energies=(-9.0, -5.0, -3.377, -2.377, 0.0)))
    logits = np.array([[3.0, 1.0], [20.0, 0.0], [-8.0, -8.0]], np.float32)
    novelty = model.classifier().scored(logits).novelty
    assert novelty is not None
    assert novelty.tolist() == pytest.approx([(2 + 0.25) / 4, 0.0, 1.0], abs=1e-3)


def test_a_model_of_before_does_not_know() -> None:
    assert (
        ActivityModel(ModelSpec(("frame",), 4, 2, "linear")).classifier().scored(np.zeros((3, 2), np.float32)).novelty
        is None
    )


def linear() -> ActivityModel:
    """A model whose logits are the first two of its nine inputs."""
    model = ActivityModel(ModelSpec(("box",), 0, 2, "linear", temperature=2.0)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.zero_()
            if name.endswith("weight"):
                weights[0, 0] = weights[1, 1] = 1.0
    return model


def of(inputs: np.ndarray, draws: int = 1) -> LabelledVideo:
    sequence = LabelledSequence(inputs.astype(np.float16), np.zeros(len(inputs), np.int64), draws=draws)
    return LabelledVideo("v", (sequence,), ())


def test_of_what_was_learnt_equal_parts_are_equally_new() -> None:
    """Nothing of it depends on the temperature, which comes later."""
    rng = np.random.default_rng(0)
    known, new = rng.normal(3, 1, (2000, 9)), rng.normal(-3, 1, (500, 9))
    model = with_temperature(with_energies(linear(), [of(known)], 4000), 0.5)
    classifier = model.classifier()
    novelties = []
    for inputs in (known, new):
        logits = np.concatenate(list(classifier.logits([inputs.astype(np.float16)])))
        novelty = classifier.scored(logits).novelty
        assert novelty is not None
        novelties.append(novelty)
    assert np.quantile(novelties[0], [0.1, 0.5, 0.95]) == pytest.approx([0.1, 0.5, 0.95], abs=0.01)
    assert novelties[1].min() > 0.95


def test_who_is_drawn_more_often_counts_for_more() -> None:
    often, seldom = np.full((10, 9), 4.0), np.full((10, 9), -4.0)
    energies = with_energies(linear(), [of(often, draws=9), of(seldom)], 256).spec.energies
    assert len(energies) == 101
    assert sum(energy < 0 for energy in energies) == pytest.approx(91, abs=1)


def test_of_nothing_learnt_nothing_is_known() -> None:
    assert with_energies(linear(), [LabelledVideo("v", (), ())], 256).spec.energies == ()


def test_what_has_no_label_was_not_learnt_and_a_long_sequence_rules_nobody() -> None:
    """An epoch draws 100 of 2,000 steps, as many as of another sequence in all."""
    known, unknown = np.full((2000, 9), 4.0), np.full((900, 9), -4.0)
    sequence = LabelledSequence(
        np.concatenate([known, unknown]).astype(np.float16), np.repeat([0, IGNORE], [2000, 900])
    )
    energies = with_energies(linear(), [LabelledVideo("v", (sequence,), ())], 100).spec.energies
    assert max(energies) < 0
    energies = with_energies(linear(), [of(known), of(np.full((100, 9), -4.0))], 100).spec.energies
    assert sum(energy < 0 for energy in energies) == pytest.approx(50, abs=2)
