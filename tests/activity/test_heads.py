"""What the heads remember, and what they see of each other's sequences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from pipeline.activity.classifier import PIECE_STEPS
from pipeline.activity.heads import HEADS
from pipeline.activity.model import ActivityModel
from pipeline.activity.spec import ModelSpec
from pipeline.training.fit import FitOptions, fit
from pipeline.training.sequences import LabelledSequence

_DIM = 8


def _cued(n_steps: int, label_id: int, rng: np.random.Generator) -> LabelledSequence:
    """Noise, but for the first step, which alone tells the label of all steps."""
    inputs = rng.normal(size=(n_steps, _DIM))
    inputs[0] = 0
    inputs[0, label_id] = 4
    return LabelledSequence(inputs.astype(np.float16), np.full(n_steps, label_id, np.int64))


def _trained(head: str) -> tuple[ActivityModel, list[LabelledSequence]]:
    rng = np.random.default_rng(5)
    training = [_cued(int(rng.integers(10, 60)), i % 2, rng) for i in range(256)]
    options = FitOptions(
        head=head, hidden_dim=16, bidirectional=False, members=1, epochs=15, batch_size=32, learning_rate=1e-2,
        weight_decay=0.0, input_dropout=0.0, dropout=0.0, min_crop=1.0, join=0.0,
    )  # fmt: skip
    return fit(training, ("frame",), 2, options), [_cued(1100, i % 2, rng) for i in range(20)]


@pytest.mark.parametrize("head", ["lstm", pytest.param("gru", marks=pytest.mark.long)])
def test_a_cue_is_remembered_over_a_thousand_steps(head: str) -> None:
    """The answer after 1,100 steps, more than one piece holds, is what the first told; 18 times as far as learnt.

    A classifier that resets the state between pieces fails this.
    """
    model, sequences = _trained(head)
    assert PIECE_STEPS < 1000
    for sequence in sequences:
        in_pieces = np.concatenate(list(model.classifier().scores([sequence.inputs])))
        assert in_pieces[1000:].argmax(axis=1).tolist() == sequence.label_ids[1000:].tolist()


@pytest.mark.parametrize("head", [pytest.param("transformer", marks=pytest.mark.long), "linear", "majority"])
def test_who_does_not_see_so_far_can_not_know(head: str) -> None:
    """The counter-proof: the answer after 1,000 steps is not to be had from those steps themselves."""
    model, sequences = _trained(head)
    right = [
        np.concatenate(list(model.classifier().scores([sequence.inputs])))[1000:].argmax(axis=1)
        == sequence.label_ids[1000:]
        for sequence in sequences
    ]
    assert 0.35 < float(np.mean(right)) < 0.65


@pytest.mark.parametrize("head", HEADS)
def test_sequences_of_a_batch_do_not_see_each_other(head: str) -> None:
    torch.manual_seed(3)
    model = ActivityModel(ModelSpec(("frame",), _DIM, 3, head, 8, reach=4)).eval()
    sequences = [torch.randn(n, _DIM) for n in (7, 30, 1, 12)]
    together = pack_sequence(sequences, enforce_sorted=False)
    of_all = model(together)
    first_of_step = np.concatenate([[0], np.cumsum(together.batch_sizes.numpy())])
    assert together.sorted_indices is not None
    for place, index in enumerate(together.sorted_indices.tolist()):
        alone = model(pack_sequence([sequences[index]]))
        rows = first_of_step[: len(sequences[index])] + place
        torch.testing.assert_close(of_all[rows], alone, atol=1e-5, rtol=1e-5)
