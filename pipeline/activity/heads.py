"""Heads of the activity network: from encoded steps to a score for each activity.

All see the same input and are trained by the same loop. The LSTM is the default; the others are there to compare with,
the last two to know what is gained by remembering at all.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from pipeline.activity.spool import Spool

if TYPE_CHECKING:
    from pipeline.activity.spec import ModelSpec

REMEMBERING = ("lstm", "gru", "transformer")
"""Names of the heads that know of the steps before."""
HEADS = (*REMEMBERING, "linear", "majority")
"""Names of all heads. `linear` sees one step and forgets it, `majority` sees none: it knows what is frequent."""
# Of the transformer's: enough for the widths that come into question, which must be multiples of it.
_ATTENTION_HEADS = 4


class Head(nn.Module):
    """From encoded steps to logits, for whole sequences side by side in training, or for a long one piece by piece."""

    def streamed(self, encoded: Spool) -> Iterator[torch.Tensor]:
        """Yield logits `float32 [t, n_labels]` for each piece of one sequence, as one pass over all of it would.

        A head that sees steps one by one needs nothing but the piece.
        """
        for piece in encoded.pieces():
            yield self(PackedSequence(piece, torch.ones(len(piece), dtype=torch.int64)))

    def side_by_side(self, encoded: Sequence[Spool]) -> list[torch.Tensor]:
        """Return logits `float32 [t, n_labels]` for each of some sequences that fit into memory; none is empty.

        A head that gains nothing by it goes through one after the other.
        """
        return [torch.cat(list(self.streamed(of_one))) for of_one in encoded]


def make_head(spec: ModelSpec, dropout: float = 0.0) -> Head:
    """Build the head of a network.

    It takes packed sequences of `float32 [N, encoded_dim]` and returns logits `float32 [N, n_labels]`, in that order.
    """
    if spec.head in ("lstm", "gru"):
        return RecurrentHead(spec, dropout)
    if spec.head == "transformer":
        return TransformerHead(spec, dropout)
    if spec.head == "linear":
        return LinearHead(spec, dropout)
    if spec.head == "majority":
        return MajorityHead(spec)
    raise ValueError(f"head = {spec.head!r} is not one of {', '.join(HEADS)}")


class RecurrentHead(Head):
    """LSTM or GRU layers, then a linear layer: the state carries what matters from step to step."""

    def __init__(self, spec: ModelSpec, dropout: float = 0.0) -> None:
        super().__init__()
        kind = nn.LSTM if spec.head == "lstm" else nn.GRU
        self.recurrence = kind(
            spec.encoded_dim,
            spec.hidden_dim,
            num_layers=spec.num_layers,
            batch_first=True,
            bidirectional=spec.bidirectional,
            dropout=dropout if spec.num_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(spec.hidden_dim * (2 if spec.bidirectional else 1), spec.n_labels)

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return logits `float32 [N, n_labels]`."""
        hidden, _ = self.recurrence(x)
        logits: torch.Tensor = self.output(self.dropout(hidden.data))
        return logits

    def streamed(self, encoded: Spool) -> Iterator[torch.Tensor]:
        """Yield logits piece by piece; the state is carried from one to the next.

        Layer after layer is run over all pieces. A bidirectional layer runs its backward direction from the last piece
        to the first.
        """
        for hidden in self._through_layers(encoded, 0):
            yield self.output(hidden)

    def side_by_side(self, encoded: Sequence[Spool]) -> list[torch.Tensor]:
        """Return logits for each sequence; a step of all of them is one pass.

        For eight of one length it takes half the time. Shorter ones are made as long as the longest.
        """
        wholes = [torch.cat(list(of_one.pieces())) for of_one in encoded]
        lengths = torch.tensor([len(whole) for whole in wholes])
        hidden = pad_sequence(wholes)
        for directions in self._layers:
            ways = [directions[0](hidden)[0]]
            if len(directions) > 1:
                ways.append(_turned_round(directions[1](_turned_round(hidden, lengths))[0], lengths))
            hidden = torch.cat(ways, dim=2)
        logits = self.output(hidden)
        return [logits[:length, index] for index, length in enumerate(lengths.tolist())]

    @functools.cached_property
    def _layers(self) -> list[list[nn.RNNBase]]:
        """For each layer its forward and, if it has one, its backward direction."""
        ways = [False, True] if self.recurrence.bidirectional else [False]
        layers = range(self.recurrence.num_layers)
        return [[_direction(self.recurrence, layer, reverse) for reverse in ways] for layer in layers]

    def _through_layers(self, below: Spool, layer: int) -> Iterator[torch.Tensor]:
        if layer == len(self._layers):
            yield from below.pieces()
            return
        directions = self._layers[layer]
        hidden_dim = directions[0].hidden_size
        with Spool(hidden_dim) as backward, Spool(hidden_dim * len(directions)) as out:
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


class TransformerHead(Head):
    """Encoder layers (Vaswani et al. 2017, normalised first) whose attention reaches so many steps and no further.

    How far away a step is counts, not where it is: a learnt bias for each distance (Shaw et al. 2018). So a sequence of
    any length can be run in pieces that overlap by `halo` steps.
    """

    def __init__(self, spec: ModelSpec, dropout: float = 0.0) -> None:
        super().__init__()
        self.reach = spec.reach
        self.halo = spec.reach * spec.num_layers
        self.bidirectional = spec.bidirectional
        self.entry = nn.Linear(spec.encoded_dim, spec.hidden_dim)
        self.layers = nn.ModuleList(_EncoderLayer(spec.hidden_dim, dropout) for _ in range(spec.num_layers))
        self.distance_bias = nn.Parameter(torch.zeros(spec.num_layers, _ATTENTION_HEADS, 2 * spec.reach + 1))
        self.output = nn.Sequential(
            nn.LayerNorm(spec.hidden_dim), nn.Dropout(dropout), nn.Linear(spec.hidden_dim, spec.n_labels)
        )

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return logits `float32 [N, n_labels]`."""
        # Without its indices the batch stays in packed order, the longest first.
        padded, lengths = pad_packed_sequence(PackedSequence(x.data, x.batch_sizes), batch_first=True)
        logits = self.attend(padded, lengths)
        return pack_padded_sequence(logits, lengths, batch_first=True).data

    def attend(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Return logits `float32 [B, T, n_labels]` for padded sequences `float32 [B, T, encoded_dim]`."""
        steps = torch.arange(x.shape[1], device=x.device)
        distance = steps[None, :] - steps[:, None]
        near = (distance.abs() if self.bidirectional else -distance).clamp(min=-1)
        seen = (near >= 0) & (near <= self.reach)
        # A step of the padding sees itself, since who sees nothing has no average; nobody reads what comes of it.
        seen = seen & ((steps < lengths.to(x.device)[:, None, None]) | (distance == 0))
        index = distance.clamp(-self.reach, self.reach) + self.reach
        hidden = self.entry(x)
        for layer, bias in zip(self.layers, self.distance_bias, strict=True):
            hidden = layer(hidden, bias[:, index].masked_fill(~seen[:, None], -math.inf))
        logits: torch.Tensor = self.output(hidden)
        return logits

    def streamed(self, encoded: Spool) -> Iterator[torch.Tensor]:
        """Yield logits piece by piece; each is seen with what lies within its reach on either side."""
        before = torch.empty(0)
        waiting: torch.Tensor | None = None
        for piece in itertools.chain(encoded.pieces(), [None]):
            if waiting is not None:
                after = waiting[:0] if piece is None else piece[: self.halo]
                window = torch.cat([before.reshape(-1, waiting.shape[1]), waiting, after])
                n_before = len(window) - len(waiting) - len(after)
                logits = self.attend(window[None], torch.tensor([len(window)]))[0]
                yield logits[n_before : n_before + len(waiting)]
                before = waiting[-self.halo :]
            waiting = piece


class _EncoderLayer(nn.Module):
    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.joined = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * dim, dim)
        )

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        n, t, dim = x.shape
        query, key, value = (
            self.query_key_value(self.norm(x)).view(n, t, 3, _ATTENTION_HEADS, dim // _ATTENTION_HEADS).unbind(dim=2)
        )
        attended = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=bias.to(query.dtype)
        )
        x = x + self.dropout(self.joined(attended.transpose(1, 2).reshape(n, t, dim)))
        grown: torch.Tensor = x + self.dropout(self.feed_forward(x))
        return grown


class LinearHead(Head):
    """A linear probe of each step by itself; averaged over a clip it is the usual frame-wise baseline."""

    def __init__(self, spec: ModelSpec, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(spec.encoded_dim, spec.n_labels)

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return logits `float32 [N, n_labels]`."""
        logits: torch.Tensor = self.output(self.dropout(x.data))
        return logits


class MajorityHead(Head):
    """The same scores whatever is seen: how frequent each activity was."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.output = nn.Parameter(torch.zeros(spec.n_labels))

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return logits `float32 [N, n_labels]`."""
        return self.output.expand(len(x.data), -1)


def _direction(stacked: nn.RNNBase, layer: int, reverse: bool) -> nn.RNNBase:
    """Return one layer of stacked LSTMs or GRUs, in one direction, as one of its own with the same weights."""
    suffix = f"_l{layer}{'_reverse' if reverse else ''}"
    weights = {name: getattr(stacked, f"{name}{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    kind = nn.LSTM if isinstance(stacked, nn.LSTM) else nn.GRU
    single = kind(weights["weight_ih"].shape[1], stacked.hidden_size)
    single.load_state_dict({f"{name}_l0": weight for name, weight in weights.items()})
    return single.eval()


def _turned_round(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return sequences `[T, B, D]` from last to first step, the padding behind still behind; twice gives `x` again."""
    steps = (lengths - 1 - torch.arange(len(x))[:, None]) % len(x)
    return x[steps, torch.arange(len(lengths))]


def _run(layer: nn.RNNBase, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    state = None
    for piece in pieces:
        hidden, state = layer(piece, state)
        yield hidden
