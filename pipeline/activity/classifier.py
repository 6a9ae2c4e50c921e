"""Run an activity model over a whole sequence, in order and in bounded memory."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from threading import Lock
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from pipeline.activity.heads import RecurrentHead, TransformerHead
from pipeline.activity.model import ActivityModel, Member, normalised
from pipeline.stopwatch import Stopwatch

PIECE_STEPS = 512
"""Steps of one pass. Input is cut anew into pieces of this length, so the result does not depend on how it came."""
# Outputs of a layer up to this size stay in memory; those of a longer video go to a temporary file.
_SPOOL_BYTES = 16 << 20


class SequenceClassifier:
    """Scores every step of a sequence as one pass over all of it would, with memory for a few pieces.

    A recurrent head carries its state from piece to piece. Layer after layer is run over all pieces; a bidirectional
    layer runs its backward direction from the last piece to the first. A transformer sees each piece with what lies
    within its reach on either side. The other heads see steps one by one.
    """

    def __init__(self, model: ActivityModel) -> None:
        """Take a model in evaluation mode."""
        self._model = model.eval()
        self.busy_s = 0.0
        """Seconds that it has computed, in all threads."""
        self._lock = Lock()
        self._members = [_Steps(member) for member in model.members]

    def scores(self, inputs: Iterable[NDArray[np.float16]]) -> Iterator[NDArray[np.float32]]:
        """Yield probabilities `float32 [t, n_labels]` for the inputs `[t, input_dim]` of one sequence.

        The blocks that come out are cut differently from those that go in; together they are as long. Several threads
        may score a sequence each.
        """
        busy = Stopwatch()
        with torch.inference_mode(), ExitStack() as stack:
            encoded = [stack.enter_context(_Spool(member.encoded_dim)) for member in self._members]
            spec = self._model.spec
            for piece in _repiece(inputs):
                with busy:
                    parts = normalised(torch.from_numpy(piece.astype(np.float32)), spec, spec.inputs)
                    for member, spool in zip(self._members, encoded, strict=True):
                        spool.append(member.encode(parts))
            logits = [member.logits(spool) for member, spool in zip(self._members, encoded, strict=True)]
            for of_members in busy.over(zip(*logits, strict=True)):
                yield self._model.scores(of_members).numpy()
        with self._lock:
            self.busy_s += busy.seconds


class _Steps:
    """Runs one member over the encoded pieces of a sequence."""

    def __init__(self, member: nn.Module) -> None:
        assert isinstance(member, Member)
        self.encode, self.encoded_dim = member.encode, member.encoded_dim
        self._head = member.head
        self._layers = _directions(self._head.recurrence) if isinstance(self._head, RecurrentHead) else []

    def logits(self, encoded: _Spool) -> Iterator[torch.Tensor]:
        """Yield logits `float32 [t, n_labels]` for each piece."""
        head = self._head
        if isinstance(head, RecurrentHead):
            return (head.output(hidden) for hidden in self._through_layers(encoded, 0))
        if isinstance(head, TransformerHead):
            return _overlapping(encoded.pieces(), head)
        return (head(_packed(piece)) for piece in encoded.pieces())

    def _through_layers(self, below: _Spool, layer: int) -> Iterator[torch.Tensor]:
        if layer == len(self._layers):
            yield from below.pieces()
            return
        directions = self._layers[layer]
        hidden_dim = directions[0].hidden_size
        with _Spool(hidden_dim) as backward, _Spool(hidden_dim * len(directions)) as out:
            if len(directions) > 1:
                for hidden in _run(directions[1], (below.read(i).flip(0) for i in reversed(range(below.n_pieces)))):
                    backward.append(hidden.flip(0))
            forward = _run(directions[0], below.pieces())
            for index, hidden in enumerate(forward):
                if len(directions) == 1:
                    out.append(hidden)
                else:
                    out.append(torch.cat([hidden, backward.read(below.n_pieces - 1 - index)], dim=1))
            yield from self._through_layers(out, layer + 1)


def _directions(stacked: nn.RNNBase) -> list[list[nn.RNNBase]]:
    """Return for each of stacked layers its forward and, if it has one, its backward direction."""
    ways = [False, True] if stacked.bidirectional else [False]
    return [[_direction(stacked, layer, reverse) for reverse in ways] for layer in range(stacked.num_layers)]


def _direction(stacked: nn.RNNBase, layer: int, reverse: bool) -> nn.RNNBase:
    """Return one layer of stacked LSTMs or GRUs, in one direction, as one of its own with the same weights."""
    suffix = f"_l{layer}{'_reverse' if reverse else ''}"
    weights = {name: getattr(stacked, f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    kind = nn.LSTM if isinstance(stacked, nn.LSTM) else nn.GRU
    single = kind(weights["weight_ih"].shape[1], stacked.hidden_size)
    single.load_state_dict({f"{name}_l0": weight for name, weight in weights.items()})
    return single.eval()


def _run(layer: nn.RNNBase, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    state = None
    for piece in pieces:
        hidden, state = layer(piece, state)
        yield hidden


def _overlapping(pieces: Iterable[torch.Tensor], head: TransformerHead) -> Iterator[torch.Tensor]:
    """Run a transformer over each piece with a halo of what comes before and after it."""
    before = torch.empty(0)
    waiting: torch.Tensor | None = None
    for piece in itertools.chain(pieces, [None]):
        if waiting is not None:
            after = waiting[:0] if piece is None else piece[: head.halo]
            window = torch.cat([before.reshape(-1, waiting.shape[1]), waiting, after])
            n_before = len(window) - len(waiting) - len(after)
            logits = head.attend(window[None], torch.tensor([len(window)]))[0]
            yield logits[n_before : n_before + len(waiting)]
            before = waiting[-head.halo :]
        waiting = piece


def _packed(piece: torch.Tensor) -> PackedSequence:
    return PackedSequence(piece, torch.ones(len(piece), dtype=torch.int64))


def _repiece(blocks: Iterable[NDArray[np.float16]]) -> Iterator[NDArray[np.float16]]:
    """Cut blocks of any lengths into pieces of `PIECE_STEPS`; only the last one is shorter."""
    waiting: list[NDArray[np.float16]] = []
    n_waiting = 0
    for block in blocks:
        waiting.append(block)
        n_waiting += len(block)
        if n_waiting >= PIECE_STEPS:
            joined = np.concatenate(waiting)
            whole = n_waiting // PIECE_STEPS * PIECE_STEPS
            yield from np.split(joined[:whole], whole // PIECE_STEPS)
            waiting, n_waiting = [joined[whole:]], n_waiting - whole
    if n_waiting:
        yield np.concatenate(waiting)


class _Spool:
    """Pieces `float32 [t, dim]` written one after the other and read in any order, in memory or in a temporary file."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115
        self._offsets = [0]

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def n_pieces(self) -> int:
        return len(self._offsets) - 1

    def append(self, piece: torch.Tensor) -> None:
        self._file.seek(self._offsets[-1])
        self._offsets.append(self._offsets[-1] + self._file.write(piece.contiguous().numpy().tobytes()))

    def pieces(self) -> Iterator[torch.Tensor]:
        return (self.read(index) for index in range(self.n_pieces))

    def read(self, index: int) -> torch.Tensor:
        start, end = self._offsets[index], self._offsets[index + 1]
        self._file.seek(start)
        values = np.frombuffer(bytearray(self._file.read(end - start)), np.float32)
        return torch.from_numpy(values.reshape(-1, self._dim))
