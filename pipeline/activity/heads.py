"""Heads of the activity network: from encoded steps to a score for each activity.

All heads see the same input and are trained by the same loop; `pipeline.activity.streams` runs them over long
sequences. The LSTM is the default. The others serve for comparison; the last two show what memory gains at all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from pipeline.activity.shapes import ATTENTION_HEADS

if TYPE_CHECKING:
    from pipeline.activity.spec import ModelSpec

REMEMBERING = ("lstm", "gru", "transformer")
"""Names of the heads that remember previous steps."""
HEADS = (*REMEMBERING, "linear", "majority")
"""Names of all heads. `linear` sees each step alone. `majority` sees none; it knows what is frequent."""


def make_head(spec: ModelSpec, dropout: float = 0.0) -> nn.Module:
    """Build the head of a network.

    It takes packed sequences of `float32 [N, encoded_dim]` and returns logits `float32 [N, n_labels]` in their order.
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


class RecurrentHead(nn.Module):
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


class TransformerHead(nn.Module):
    """Encoder layers (Vaswani et al. 2017, normalised first) whose attention reaches at most `reach` steps.

    Only the distance of a step counts, not its position: there is a learnt bias for each distance (Shaw et al. 2018).
    So a sequence of any length can be run in pieces that overlap by `halo` steps.
    """

    def __init__(self, spec: ModelSpec, dropout: float = 0.0) -> None:
        super().__init__()
        self.reach = spec.reach
        self.halo = spec.reach * spec.num_layers
        self.bidirectional = spec.bidirectional
        self.entry = nn.Linear(spec.encoded_dim, spec.hidden_dim)
        self.layers = nn.ModuleList(_EncoderLayer(spec.hidden_dim, dropout) for _ in range(spec.num_layers))
        self.distance_bias = nn.Parameter(torch.zeros(spec.num_layers, ATTENTION_HEADS, 2 * spec.reach + 1))
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
        # A padding step sees itself, because attention to nothing has no average; its output is not used.
        seen = seen & ((steps < lengths.to(x.device)[:, None, None]) | (distance == 0))
        index = distance.clamp(-self.reach, self.reach) + self.reach
        hidden = self.entry(x)
        for layer, bias in zip(self.layers, self.distance_bias, strict=True):
            hidden = layer(hidden, bias[:, index].masked_fill(~seen[:, None], -math.inf))
        logits: torch.Tensor = self.output(hidden)
        return logits

    def streamed(self, pieces: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield logits piece by piece; each piece is run together with `halo` steps on either side."""
        before = torch.empty(0)
        waiting: torch.Tensor | None = None
        for piece in itertools.chain(pieces, [None]):
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
            self.query_key_value(self.norm(x)).view(n, t, 3, ATTENTION_HEADS, dim // ATTENTION_HEADS).unbind(dim=2)
        )
        attended = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=bias.to(query.dtype)
        )
        x = x + self.dropout(self.joined(attended.transpose(1, 2).reshape(n, t, dim)))
        grown: torch.Tensor = x + self.dropout(self.feed_forward(x))
        return grown


class LinearHead(nn.Module):
    """A linear probe of each step by itself; averaged over a clip it is the usual frame-wise baseline."""

    def __init__(self, spec: ModelSpec, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(spec.encoded_dim, spec.n_labels)

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return logits `float32 [N, n_labels]`."""
        logits: torch.Tensor = self.output(self.dropout(x.data))
        return logits


class MajorityHead(nn.Module):
    """Gives the same scores for any input: how frequent each activity was."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.output = nn.Parameter(torch.zeros(spec.n_labels))

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return logits `float32 [N, n_labels]`."""
        return self.output.expand(len(x.data), -1)
