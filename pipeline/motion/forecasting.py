"""Forecast where a person will be: an encoder reads the past, a decoder writes the future, step by step.

The future is a mixture of paths; see `Mixture`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional

from pipeline.errors import UsageError
from pipeline.motion.mixture import Mixture

LEARNING = ("lstm", "gru", "transformer")
BASELINES = ("constant_velocity", "still")
KINDS = (*LEARNING, *BASELINES)
"""Names of all forecasters. The last two are baselines: the person continues as in the last step, or stays. They learn
only how large their errors are."""
# Smallest standard deviation, as a share of a usual step, and largest correlation.
_LEAST_SPREAD, _MOST_CORRELATED = 0.02, 0.95
# Standard deviation before training, in usual steps, for each step ahead.
_FIRST_SPREAD = 0.125
_ATTENTION_HEADS = 4
# Number of futures that are computed at a time.
_AT_ONCE = 4096


@dataclass(frozen=True)
class ForecasterSpec:
    """The description of a forecaster."""

    kind: str = "lstm"
    """One of `KINDS`."""
    n_observed: int = 8
    """Steps that it sees, up to now."""
    n_foretold: int = 12
    """Steps that it forecasts."""
    step_s: float = 0.4
    """Seconds from one step to the next."""
    unit: str = "m"
    """Unit of its places: `m`, metres on the ground, or `heights` of the person in the picture."""
    hidden_dim: int = 64
    """Units of the encoder and of the decoder."""
    n_paths: int = 6
    """Paths of the mixture."""
    n_others: int = 0
    """Number of nearest others that it looks at; 0: none."""
    slowest: float = 0.1
    """Smallest length of a step to which a past is scaled, in units. Faster people are scaled by the lengths of their
    own steps, so that a place where people run, or a camera of another scale, looks the same."""
    n_members: int = 1
    """Number of networks, trained from different seeds, whose mixtures are combined."""
    spread: tuple[float, ...] = ()
    """For each step, the factor for the mixture's standard deviations with which the ellipses of one Gaussian hold the
    right share of what comes true: a mixture has longer tails. Empty: 1."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"kind = {self.kind!r} is not one of {', '.join(KINDS)}")
        if self.n_observed < 2 or self.n_foretold < 1 or not self.step_s > 0:
            raise UsageError(f"{self.n_observed} steps seen, {self.n_foretold} foretold, {self.step_s} s each")


class Forecaster(nn.Module):
    """One network, or several whose mixtures are combined."""

    def __init__(self, spec: ForecasterSpec) -> None:
        """Build it untrained."""
        super().__init__()
        self.spec = spec
        self.members = nn.ModuleList(_make_member(spec) for _ in range(spec.n_members))

    def forward(
        self, past: torch.Tensor, others: torch.Tensor | None = None, present: torch.Tensor | None = None
    ) -> Mixture:
        """Return the futures of B people.

        Args:
            past: `float32 [B, n_observed, 2]` in the forecaster's unit; the last place is now.
            others: `float32 [B, K, 4]`: offset from the person now, and last step, of people nearby; None: no one is.
            present: `bool [B, K]`: which of them exist.
        """
        origin = past[:, -1:]
        past = past - origin
        turn, scale = _own_frame(past, self.spec.slowest)
        seen = past @ turn.mT / scale
        if others is None or present is None:
            others, present = past.new_zeros(len(past), 0, 4), past.new_zeros(len(past), 0, dtype=torch.bool)
        nearby = torch.cat([others[..., :2] @ turn.mT, others[..., 2:] @ turn.mT], dim=-1) / scale
        told = [member(seen, nearby, present) for member in self.members]
        log_weight = torch.cat([each[0] for each in told], dim=1) - math.log(len(told))
        mean = torch.cat([each[1] for each in told], dim=1) * scale[:, None]
        covariance = torch.cat([each[2] for each in told], dim=1) * scale[:, None] ** 2
        return Mixture(log_weight, mean @ turn[:, None] + origin[:, None], _turned_back(covariance, turn))

    @classmethod
    def of(cls, several: Sequence[Forecaster]) -> Forecaster:
        """Return the forecaster that combines trained ones, in evaluation mode."""
        made = cls(replace(several[0].spec, n_members=len(several)))
        made.members = nn.ModuleList(member for each in several for member in each.members)
        return made.eval()

    def in_batches(
        self, past: torch.Tensor, others: torch.Tensor, present: torch.Tensor
    ) -> Iterator[tuple[slice, Mixture]]:
        """Yield the futures of any number of people in batches, each with its slice of all people."""
        with torch.inference_mode():
            for start in range(0, len(past), _AT_ONCE):
                some = slice(start, start + _AT_ONCE)
                yield some, self(past[some], others[some], present[some])


def _own_frame(past: torch.Tensor, slowest: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrix `[B, 2, 2]` that turns each past so that it goes right, and the length of its steps.

    The length, `[B, 1, 1]`, is the mean over the past, and no less than `slowest`.
    """
    # Two steps jitter less than one. A person who stood still in them has the direction of the whole past.
    lately = past[:, -1] - past[:, max(-3, -past.shape[1])]
    way = torch.where(lately.norm(dim=-1, keepdim=True) < slowest / 4, past[:, -1] - past[:, 0], lately)
    length = way.norm(dim=-1, keepdim=True)
    ahead = torch.where(
        length < slowest / 4, torch.tensor([1.0, 0.0], device=past.device), way / length.clamp(min=1e-9)
    )
    cosine, sine = ahead.unbind(-1)
    turn = torch.stack([torch.stack([cosine, sine], -1), torch.stack([-sine, cosine], -1)], 1)
    steps = (past[:, -1] - past[:, 0]).norm(dim=-1) / (past.shape[1] - 1)
    return turn, steps.clamp(min=slowest)[:, None, None]


def _turned_back(covariance: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """Convert covariances `[B, M, P, 3]` of turned places to those of the places before the turn."""
    xx, yy, xy = covariance.unbind(-1)
    cosine, sine = turn[:, 0, 0][:, None, None], turn[:, 0, 1][:, None, None]
    both = 2 * cosine * sine * xy
    return torch.stack(
        [
            cosine**2 * xx - both + sine**2 * yy,
            sine**2 * xx + both + cosine**2 * yy,
            cosine * sine * (xx - yy) + (cosine**2 - sine**2) * xy,
        ],
        dim=-1,
    )


_Told = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _make_member(spec: ForecasterSpec) -> nn.Module:
    if spec.kind in BASELINES:
        return _Baseline(spec)
    return _Transformer(spec) if spec.kind == "transformer" else _Recurrent(spec)


class _Baseline(nn.Module):
    """Continues as in the last step, or stays; it learns only how large its error is."""

    def __init__(self, spec: ForecasterSpec) -> None:
        super().__init__()
        self._moves = spec.kind == "constant_velocity"
        self.register_buffer("ahead", torch.arange(1.0, spec.n_foretold + 1), persistent=False)
        self.spread = nn.Parameter(torch.zeros(spec.n_foretold, 3))

    def forward(self, past: torch.Tensor, _others: torch.Tensor, _present: torch.Tensor) -> _Told:
        step = (past[:, -1:] - past[:, -2:-1]) * (1.0 if self._moves else 0.0)
        mean = (step * self.get_buffer("ahead")[:, None])[:, None]
        covariance = _covariance(self.spread.expand(len(past), 1, -1, -1), self.get_buffer("ahead"))
        return past.new_zeros(len(past), 1), mean, covariance


def _covariance(said: torch.Tensor, ahead: torch.Tensor) -> torch.Tensor:
    """Return covariances `[..., P, 3]` for a network's output `[..., P, 3]`, in usual steps."""
    deviation = _LEAST_SPREAD + (_FIRST_SPREAD * ahead[:, None]) * said[..., :2].clamp(-6, 6).exp()
    of_both = deviation.prod(dim=-1) * _MOST_CORRELATED * torch.tanh(said[..., 2])
    return torch.cat([deviation**2, of_both[..., None]], dim=-1)


class _Learning(nn.Module):
    """The common part of the learning forecasters: the encoding of other people, and the output for a step."""

    def __init__(self, spec: ForecasterSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("ahead", torch.arange(1.0, spec.n_foretold + 1), persistent=False)
        self.weigh = nn.Linear(spec.hidden_dim, spec.n_paths)
        self.say = nn.Linear(spec.hidden_dim, spec.n_paths * 5)
        if spec.n_others:
            self.meet = nn.Sequential(
                nn.Linear(4, spec.hidden_dim), nn.ReLU(), nn.Linear(spec.hidden_dim, spec.hidden_dim)
            )

    def company(self, others: torch.Tensor, present: torch.Tensor) -> torch.Tensor | None:
        """Return the encoding of the others, `[B, hidden_dim]`, pooled as in S-GAN; None without others."""
        if not self.spec.n_others:
            return None
        if not others.shape[1]:
            return others.new_zeros(len(others), self.spec.hidden_dim)
        met: torch.Tensor = functional.relu(self.meet(others)) * present[..., None]
        return met.max(dim=1).values

    def said(self, state: torch.Tensor) -> torch.Tensor:
        """Return the output for each path's step, `[B, n_paths, 5]`, from a decoder's state `[B, hidden_dim]`."""
        said: torch.Tensor = self.say(state).view(len(state), self.spec.n_paths, 5)
        return said

    def told(self, weight: torch.Tensor, said: torch.Tensor, last: torch.Tensor) -> _Told:
        """Return paths from their logits `[B, M]`, the outputs for their steps `[B, M, P, 5]`, and the last step seen.

        A path is the sum of its steps. A step is given by its difference from the last step seen, `[B, 2]`.
        """
        mean = (last[:, None, None] + said[..., :2]).cumsum(dim=2)
        return weight.log_softmax(-1), mean, _covariance(said[..., 2:], self.get_buffer("ahead"))


def _read(past: torch.Tensor) -> torch.Tensor:
    """Return an encoder's input for a past `[B, T, 2]`: places and steps, `[B, T, 4]`."""
    steps = torch.diff(past, dim=1)
    return torch.cat([past, torch.cat([steps[:, :1], steps], dim=1)], dim=-1)


class _Recurrent(_Learning):
    """LSTM or GRU, sequence to sequence: the decoder starts from the encoder's state, and reads its last output."""

    def __init__(self, spec: ForecasterSpec) -> None:
        super().__init__(spec)
        kind, cell = (nn.LSTM, nn.LSTMCell) if spec.kind == "lstm" else (nn.GRU, nn.GRUCell)
        self.encoder = kind(4, spec.hidden_dim, batch_first=True)
        self.decoder = cell(2, spec.hidden_dim)
        if spec.kind == "lstm":
            longest = spec.n_observed + spec.n_foretold
            for bias in (self.encoder.get_parameter("bias_hh_l0"), self.decoder.get_parameter("bias_hh")):
                _let_remember(bias, longest)

    def forward(self, past: torch.Tensor, others: torch.Tensor, present: torch.Tensor) -> _Told:
        _, state = self.encoder(_read(past))
        state = tuple(each[0] for each in state) if isinstance(state, tuple) else state[0]
        company = self.company(others, present)
        if company is not None:
            state = (state[0] + company, state[1]) if isinstance(state, tuple) else state + company
        weight = self.weigh(_hidden(state))
        likely = weight.softmax(-1)[..., None]
        last = past[:, -1] - past[:, -2]
        read, said = last, []
        for _ in range(self.spec.n_foretold):
            state = self.decoder(read, state)
            said.append(self.said(_hidden(state)))
            # It reads the mean of its own steps over all paths, weighted by their likelihoods.
            read = last + (likely * said[-1][..., :2]).sum(1)
        return self.told(weight, torch.stack(said, dim=2), last)


def _let_remember(bias: torch.Tensor, n_steps: int) -> None:
    """Initialize the cells of an LSTM with memories of all lengths up to `n_steps` (Tallec and Ollivier 2018)."""
    n = len(bias) // 4
    with torch.no_grad():
        lengths = torch.empty(n).uniform_(1.0, max(2.0, n_steps - 1.0)).log()
        # PyTorch's gates: input, forget, cell, output.
        bias[:n].copy_(-lengths)
        bias[n : 2 * n].copy_(lengths)


def _hidden(state: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the hidden state of an LSTM, or the only state of a GRU."""
    return state[0] if isinstance(state, tuple) else state


class _Transformer(_Learning):
    """Encoder and decoder of Vaswani et al. 2017; the decoder computes all steps at once."""

    def __init__(self, spec: ForecasterSpec) -> None:
        super().__init__(spec)
        width = spec.hidden_dim
        self.entry = nn.Linear(4, width)
        self.places = nn.Parameter(torch.randn(spec.n_observed, width) * 0.1)
        self.questions = nn.Parameter(torch.randn(spec.n_foretold, width) * 0.1)
        encoder = nn.TransformerEncoderLayer(width, _ATTENTION_HEADS, 2 * width, dropout=0.0, batch_first=True)
        decoder = nn.TransformerDecoderLayer(width, _ATTENTION_HEADS, 2 * width, dropout=0.0, batch_first=True)
        self.encoder, self.decoder = nn.TransformerEncoder(encoder, 2), nn.TransformerDecoder(decoder, 1)

    def forward(self, past: torch.Tensor, others: torch.Tensor, present: torch.Tensor) -> _Told:
        memory = self.encoder(self.entry(_read(past)) + self.places)
        company = self.company(others, present)
        if company is not None:
            memory = torch.cat([memory, company[:, None]], dim=1)
        states = self.decoder(self.questions.expand(len(past), -1, -1), memory)
        said = torch.stack([self.said(state) for state in states.unbind(1)], dim=2)
        return self.told(self.weigh(memory[:, self.spec.n_observed - 1]), said, past[:, -1] - past[:, -2])
