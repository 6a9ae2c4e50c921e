"""Heads for inference, run over sequences piece by piece, or over short ones side by side, exactly as in one pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.graphs import Compiled, Weights, linear_graph, n_states, of_direction, part_of, recurrence_graph
from pipeline.activity.spec import ModelSpec
from pipeline.activity.spool import Spool


class Stream(Protocol):
    """A head for inference; several threads may call it."""

    def streamed(self, encoded: Spool) -> Iterator[NDArray[np.float32]]:
        """Yield logits `float32 [t, n_labels]` for each piece of one sequence, as one pass over all of it would."""

    def side_by_side(self, encoded: Sequence[Spool]) -> list[NDArray[np.float32]]:
        """Return logits `float32 [t, n_labels]` for each of some sequences that fit into memory; none is empty."""


def stream_of(spec: ModelSpec, weights: Weights) -> Stream:
    """Return the head of a network for inference.

    Args:
        spec: The description of the network.
        weights: The head's parameters.
    """
    if spec.head in ("lstm", "gru"):
        return RecurrentStream(spec, weights)
    if spec.head == "transformer":
        return TransformerStream(spec, weights)
    return StepStream(spec, weights)


class _OneAfterTheOther(ABC):
    """A head that gains nothing from passes over several sequences."""

    @abstractmethod
    def streamed(self, encoded: Spool) -> Iterator[NDArray[np.float32]]:
        """Yield logits for each piece of one sequence."""

    def side_by_side(self, encoded: Sequence[Spool]) -> list[NDArray[np.float32]]:
        """Return logits for each sequence."""
        return [np.concatenate(list(self.streamed(of_one))) for of_one in encoded]


class StepStream(_OneAfterTheOther):
    """A head that sees each step alone (`linear`), or none (`majority`)."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        self._same = np.asarray(weights["output"], np.float32) if spec.head == "majority" else None
        self._output = Compiled(linear_graph(part_of(weights, "output"))) if self._same is None else None

    def streamed(self, encoded: Spool) -> Iterator[NDArray[np.float32]]:
        """Yield logits piece by piece."""
        for piece in encoded.pieces():
            yield self._output(piece)[0] if self._output else np.tile(self._same, (len(piece), 1))  # type: ignore[arg-type]


class TransformerStream(_OneAfterTheOther):
    """The transformer in PyTorch; it serves for comparison."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        import torch

        from pipeline.activity.heads import TransformerHead

        self._head = TransformerHead(spec)
        self._head.load_state_dict({name: torch.from_numpy(np.float32(each)) for name, each in weights.items()})
        self._head.eval()

    def streamed(self, encoded: Spool) -> Iterator[NDArray[np.float32]]:
        """Yield logits piece by piece."""
        import torch

        with torch.inference_mode():
            for logits in self._head.streamed(torch.from_numpy(piece) for piece in encoded.pieces()):
                yield logits.numpy()


class _Direction:
    """One layer of an LSTM or a GRU, in one direction."""

    def __init__(self, kind: str, weights: Weights) -> None:
        self.hidden_dim = weights["weight_hh"].shape[1]
        self._n_states = n_states(kind)
        self._graph = Compiled(recurrence_graph(kind, weights))

    def over(self, pieces: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Yield the output `[t, H]` of each piece `[t, n_in]` of one sequence; the state is carried along."""
        state = self._at_rest(1)
        for piece in pieces:
            hidden, *state = self._graph(piece[None], *state, np.array([len(piece)], np.int32))
            yield hidden[0]

    def all_at_once(self, padded: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output `[B, T, H]` of sequences `[B, T, n_in]`."""
        n, n_steps, _ = padded.shape
        return self._graph(padded, *self._at_rest(n), np.full(n, n_steps, np.int32))[0]

    def _at_rest(self, n: int) -> list[NDArray[np.float32]]:
        return [np.zeros((n, 1, self.hidden_dim), np.float32)] * self._n_states


class RecurrentStream:
    """LSTM or GRU layers, then a linear layer: the state carries what matters from step to step."""

    def __init__(self, spec: ModelSpec, weights: Weights) -> None:
        ways = ["", "_reverse"] if spec.bidirectional else [""]
        recurrence = part_of(weights, "recurrence")
        self._layers = [
            [_Direction(spec.head, of_direction(recurrence, f"_l{layer}{way}")) for way in ways]
            for layer in range(spec.num_layers)
        ]
        self._output = Compiled(linear_graph(part_of(weights, "output")))

    def streamed(self, encoded: Spool) -> Iterator[NDArray[np.float32]]:
        """Yield logits piece by piece; the state is carried from one to the next.

        Each layer runs over all pieces before the next one. A bidirectional layer runs its backward direction from the
        last piece to the first.
        """
        for hidden in self._through_layers(encoded, 0):
            yield self._output(hidden)[0]

    def side_by_side(self, encoded: Sequence[Spool]) -> list[NDArray[np.float32]]:
        """Return logits for each sequence; one pass computes a step of all sequences.

        For eight sequences of one length it takes half the time. Shorter ones are padded to the longest.
        """
        wholes = [np.concatenate(list(of_one.pieces())) for of_one in encoded]
        lengths = np.array([len(whole) for whole in wholes])
        hidden = np.zeros((len(wholes), lengths.max(), wholes[0].shape[1]), np.float32)
        for target, whole in zip(hidden, wholes, strict=True):
            target[: len(whole)] = whole
        for directions in self._layers:
            ways = [directions[0].all_at_once(hidden)]
            if len(directions) > 1:
                ways.append(_turned_round(directions[1].all_at_once(_turned_round(hidden, lengths)), lengths))
            hidden = np.concatenate(ways, axis=2)
        return [self._output(of_one[:length])[0] for of_one, length in zip(hidden, lengths, strict=True)]

    def _through_layers(self, below: Spool, layer: int) -> Iterator[NDArray[np.float32]]:
        if layer == len(self._layers):
            yield from below.pieces()
            return
        directions = self._layers[layer]
        hidden_dim = directions[0].hidden_dim
        with Spool(hidden_dim) as backward, Spool(hidden_dim * len(directions)) as out:
            if len(directions) > 1:
                for hidden in directions[1].over(below.read(i)[::-1] for i in reversed(range(below.n_pieces))):
                    backward.append(hidden[::-1])
            forward = directions[0].over(below.pieces())
            for index, hidden in enumerate(forward):
                if len(directions) == 1:
                    out.append(hidden)
                else:
                    out.append(np.concatenate([hidden, backward.read(below.n_pieces - 1 - index)], axis=1))
            yield from self._through_layers(out, layer + 1)


def _turned_round(x: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return sequences `[B, T, D]` in reverse order; the padding stays at the end, and doing it twice restores `x`."""
    steps = (lengths[:, None] - 1 - np.arange(x.shape[1])) % x.shape[1]
    return np.ascontiguousarray(x[np.arange(len(x))[:, None], steps])
