from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_sequence

from pipeline.activity import spool
from pipeline.activity.classifier import PIECE_STEPS
from pipeline.activity.graphs import Compiled, n_step_states, step_graph
from pipeline.activity.heads import HEADS
from pipeline.activity.model import ActivityModel
from pipeline.activity.spec import VIEWS, ModelSpec

N_STEPS = 2 * PIECE_STEPS + 77


def model(bidirectional: bool, projection_dim: int | None = None, head: str = "lstm", **more: object) -> ActivityModel:
    torch.manual_seed(0)
    spec = ModelSpec(("frame",), 12, 5, head, 8, bidirectional, projection_dim=projection_dim, reach=20, **more)  # type: ignore[arg-type]
    network = ActivityModel(spec).eval()
    for weights in network.parameters():
        # Many start at zero, a transformer's bias for each distance for one, and would hide what is wrong with them.
        torch.nn.init.normal_(weights, std=0.5)
    return network


INPUTS = np.random.default_rng(0).normal(size=(N_STEPS, 12)).astype(np.float16)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("bidirectional", "projection_dim"), [(True, None), (False, None), (True, 6)])
def test_pieces_give_what_one_pass_gives(bidirectional: bool, projection_dim: int | None, head: str) -> None:
    """Resetting the state between pieces fails this, and so does a halo of one step less than a transformer's reach."""
    network = model(bidirectional, projection_dim, head)
    with torch.inference_mode():
        x = pack_sequence([torch.from_numpy(INPUTS.astype(np.float32))])
        expected = network(x).numpy()
    found = np.concatenate(list(network.classifier().scores([INPUTS])))
    np.testing.assert_allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_side_by_side_they_are_scored_as_alone(bidirectional: bool, head: str) -> None:
    """Lengths differ, one is longer than a piece; reading the padding of a shorter one from its end fails this."""
    classifier = model(bidirectional, head=head, num_layers=2).classifier()
    sequences = [INPUTS[start : start + n] for start, n in ((0, 300), (100, PIECE_STEPS + 30), (7, 1), (450, 64))]
    found = classifier.logits_side_by_side([np.array_split(sequence, min(3, len(sequence))) for sequence in sequences])
    for sequence, logits in zip(sequences, found, strict=True):
        np.testing.assert_allclose(logits, np.concatenate(list(classifier.logits([sequence]))), atol=2e-5)


def test_members_are_averaged_and_tempered() -> None:
    """By hand: the mean of the logits of both, divided by the temperature."""
    network = model(True, views=("all", "all"), temperature=1.7)
    with torch.inference_mode():
        x = pack_sequence([torch.from_numpy(INPUTS.astype(np.float32))])
        logits = [member(x) for member in network.members]
        expected = ((logits[0] + logits[1]) / 2 / 1.7).softmax(-1).numpy()
        assert (logits[0] - logits[1]).abs().max() > 1
    found = np.concatenate(list(network.classifier().scores([INPUTS])))
    np.testing.assert_allclose(found, expected, atol=5e-6)


@pytest.mark.parametrize("projection_dim", [None, 6])
def test_members_that_see_different_inputs_give_in_pieces_what_one_pass_gives(projection_dim: int | None) -> None:
    torch.manual_seed(0)
    spec = ModelSpec(("frame", "frame_change"), 12, 5, hidden_dim=8, projection_dim=projection_dim, views=VIEWS)
    network = ActivityModel(spec).eval()
    inputs = np.concatenate([INPUTS, INPUTS[::-1]], axis=1)
    with torch.inference_mode():
        expected = network(pack_sequence([torch.from_numpy(inputs.astype(np.float32))])).numpy()
    np.testing.assert_allclose(np.concatenate(list(network.classifier().scores([inputs]))), expected, atol=5e-6)


@settings(max_examples=20, deadline=None)
@given(
    cuts=st.lists(st.integers(1, N_STEPS - 1), max_size=20, unique=True).map(sorted),
    bidirectional=st.booleans(),
    head=st.sampled_from(HEADS),
)
def test_scores_do_not_depend_on_how_the_inputs_come(cuts: list[int], bidirectional: bool, head: str) -> None:
    classifier = model(bidirectional, head=head).classifier()
    whole = np.concatenate(list(classifier.scores([INPUTS])))
    assert np.array_equal(whole, np.concatenate(list(classifier.scores(np.split(INPUTS, cuts)))))


def test_long_sequences_go_through_a_file_and_come_back_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = model(True).classifier()
    in_memory = np.concatenate(list(classifier.scores([INPUTS])))
    monkeypatch.setattr(spool, "_SPOOL_BYTES", 1000)
    assert np.array_equal(in_memory, np.concatenate(list(classifier.scores([INPUTS]))))


def test_one_sequence_leaves_nothing_behind_for_the_next() -> None:
    classifier = model(True).classifier()
    first = np.concatenate(list(classifier.scores([INPUTS[:50]])))
    list(classifier.scores([INPUTS[50:]]))
    assert np.array_equal(first, np.concatenate(list(classifier.scores([INPUTS[:50]]))))
    assert list(classifier.scores([])) == []


@pytest.mark.parametrize("head", ["lstm", "gru"])
@pytest.mark.parametrize("projection_dim", [None, 6])
def test_step_by_step_a_causal_model_says_the_same(head: str, projection_dim: int | None) -> None:
    torch.manual_seed(0)
    inputs = ("frame", "frame_change", "box")
    spec = ModelSpec(inputs, 12, 5, head, 8, False, projection_dim=projection_dim, views=VIEWS, temperature=1.7)
    network = ActivityModel(spec).eval()
    given = np.random.default_rng(1).normal(size=(50, spec.input_dim)).astype(np.float16)
    expected = np.concatenate(list(network.classifier().logits([given])))
    graph = Compiled(step_graph(spec, network.weights()))
    state = np.zeros((n_step_states(spec), 1, 8), np.float32)
    for step, logits in zip(given, expected, strict=True):
        found, state = graph(step[None].astype(np.float32), state)
        np.testing.assert_allclose(found[0], logits, atol=5e-6)
