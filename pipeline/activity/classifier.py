"""Run an activity model over a whole sequence, in order and in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.activity.model import ActivityModel

PIECE_STEPS = 512
"""Steps of one pass. Input is cut anew into pieces of this length, so the result does not depend on how it came."""
# Outputs of a layer up to this size stay in memory; those of a longer video go to a temporary file.
_SPOOL_BYTES = 16 << 20


class SequenceClassifier:
    """Scores every step of a sequence, carrying the LSTM's state from piece to piece.

    Layer after layer is run over all pieces; a bidirectional layer runs its backward direction from the last piece to
    the first. So the scores are those of one pass over the whole sequence, at any length, with memory for one piece.
    """

    def __init__(self, model: ActivityModel) -> None:
        """Take a model in evaluation mode."""
        self._model = model.eval()
        self._layers = [
            [
                _direction(model.lstm, layer, reverse)
                for reverse in ([False, True] if model.spec.bidirectional else [False])
            ]
            for layer in range(model.spec.num_layers)
        ]

    def scores(self, inputs: Iterable[NDArray[np.float16]]) -> Iterator[NDArray[np.float32]]:
        """Yield probabilities `float32 [t, n_labels]` for the inputs `[t, input_dim]` of one sequence.

        The blocks that come out are cut differently from those that go in; together they are as long.
        """
        with torch.inference_mode(), _Spool(self._model.spec.encoded_dim) as first:
            for piece in _repiece(inputs):
                first.append(self._model.encode(torch.from_numpy(piece.astype(np.float32))))
            yield from self._through_layers(first, 0)

    def _through_layers(self, below: _Spool, layer: int) -> Iterator[NDArray[np.float32]]:
        if layer == len(self._layers):
            for index in range(below.n_pieces):
                logits = self._model.head(below.read(index))
                yield logits.softmax(dim=-1).numpy()
            return
        directions = self._layers[layer]
        with (
            _Spool(self._model.spec.hidden_dim) as backward,
            _Spool(self._model.spec.hidden_dim * len(directions)) as out,
        ):
            if len(directions) > 1:
                for hidden in _run(directions[1], (below.read(i).flip(0) for i in reversed(range(below.n_pieces)))):
                    backward.append(hidden.flip(0))
            forward = _run(directions[0], (below.read(i) for i in range(below.n_pieces)))
            for index, hidden in enumerate(forward):
                if len(directions) == 1:
                    out.append(hidden)
                else:
                    out.append(torch.cat([hidden, backward.read(below.n_pieces - 1 - index)], dim=1))
            yield from self._through_layers(out, layer + 1)


def _direction(lstm: nn.LSTM, layer: int, reverse: bool) -> nn.LSTM:
    """Return one layer of a stacked LSTM, in one direction, as an LSTM of its own with the same weights."""
    suffix = f"_l{layer}{'_reverse' if reverse else ''}"
    weights = {name: getattr(lstm, f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    single = nn.LSTM(weights["weight_ih"].shape[1], lstm.hidden_size)
    single.load_state_dict({f"{name}_l0": weight for name, weight in weights.items()})
    return single.eval()


def _run(lstm: nn.LSTM, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    state: tuple[torch.Tensor, torch.Tensor] | None = None
    for piece in pieces:
        hidden, state = lstm(piece, state)
        yield hidden


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

    def read(self, index: int) -> torch.Tensor:
        start, end = self._offsets[index], self._offsets[index + 1]
        self._file.seek(start)
        values = np.frombuffer(bytearray(self._file.read(end - start)), np.float32)
        return torch.from_numpy(values.reshape(-1, self._dim))
