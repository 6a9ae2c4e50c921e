"""The activity network: a CNN sees one frame, the head remembers the ones before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from pipeline.activity.heads import make_head
from pipeline.motion.kinematics import BOX_MOTION_DIM
from pipeline.vision.flow import FLOW_DIM

ALL, MOTION = VIEWS = ("all", "motion")
"""What a network may see of the inputs."""


def seen(view: str, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return which inputs a network with that view sees.

    `motion`: what tells how a person moves; where nothing does, how anything moves; where nothing does, all.
    """
    if view == MOTION:
        moving = [name for name in inputs if name == "box" or name.endswith(("_change", "_flow"))]
        of_person = [name for name in moving if not name.startswith("frame")]
        return tuple(of_person or moving or inputs)
    return tuple(inputs)


def input_dim(name: str, embedding_dim: int) -> int:
    """Return the length of one input."""
    if name == "box":
        return BOX_MOTION_DIM
    return FLOW_DIM if name.endswith("_flow") else embedding_dim


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed to build the network before its weights are read."""

    inputs: tuple[str, ...]
    """What stands side by side in an input vector: embeddings (`frame`, `frame_change`, `crop`, `crop_change`), motion
    (`frame_flow`, `crop_flow`), and `box`."""
    embedding_dim: int
    """Length of an embedding."""
    n_labels: int
    """Number of activities."""
    head: str = "lstm"
    """What remembers; one of `HEADS`."""
    hidden_dim: int = 128
    """Units of one layer of the head, in one direction."""
    bidirectional: bool = True
    """Whether a step also sees what comes after it."""
    num_layers: int = 2
    """Stacked layers of the head."""
    projection_dim: int | None = None
    """The input is brought down to this length before the head. None: it is not."""
    reach: int = 64
    """So many steps back and ahead a layer of a transformer sees; the others see all."""
    views: tuple[str, ...] = (ALL,)
    """So many networks of this kind are averaged; one of `VIEWS` for each."""
    temperature: float = 1.0
    """Logits are divided by it when they become scores, so that a score is the share of such answers that is right."""

    @property
    def dims(self) -> tuple[int, ...]:
        """Length of each input."""
        return tuple(input_dim(name, self.embedding_dim) for name in self.inputs)

    @property
    def input_dim(self) -> int:
        """Length of an input vector."""
        return sum(self.dims)

    @property
    def encoded_dim(self) -> int:
        """Length of what the head reads at a step."""
        return self.projection_dim or self.input_dim


def normalised(x: torch.Tensor, spec: ModelSpec, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the wanted of the inputs `[..., input_dim]`, each vector by itself at mean 0 and variance 1, but `box`.

    It takes the place of stored feature statistics: embeddings of one network differ in scale from camera to camera
    more than in direction. The motion of a box has units that mean something, and stays as it is. No weights follow as
    in a layer norm, for the linear layer after it has its own; so no gradient is computed for the widest of all layers.
    """
    parts = dict(zip(spec.inputs, torch.split(x, list(spec.dims), dim=-1), strict=True))
    return {
        name: parts[name] if name == "box" else functional.layer_norm(parts[name], parts[name].shape[-1:])
        for name in wanted
    }


class Member(nn.Module):
    """`inputs -> normalised [-> linear] -> head`: a logit for each activity at every time step."""

    def __init__(self, spec: ModelSpec, number: int = 0, input_dropout: float = 0.0, dropout: float = 0.0) -> None:
        """Make the network untrained.

        Args:
            spec: Of the model that it is a member of.
            number: Which of its members.
            input_dropout: Share of a sequence's inputs that are left out in training.
            dropout: The same between the layers of the head.
        """
        super().__init__()
        self.spec = spec
        self.view = spec.views[number]
        own = replace(spec, inputs=seen(self.view, spec.inputs))
        self.inputs = own.inputs
        """Those that it sees."""
        self.encoded_dim = own.encoded_dim
        """Length of what the head reads at a step."""
        self.input_dropout = input_dropout
        self.projection = nn.Linear(own.input_dim, spec.projection_dim) if spec.projection_dim else nn.Identity()
        self.head = make_head(own, dropout)

    def encode(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return what the head reads, `float32 [..., encoded_dim]`, for normalised inputs."""
        encoded: torch.Tensor = self.projection(self._side_by_side(parts))
        return encoded

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return logits `float32 [N, n_labels]` for packed sequences of `float32 [N, input_dim]`, in the same order.

        Packed, sequences of a few steps and of hundreds share a batch without a step of padding being computed.
        """
        normed = self._side_by_side(normalised(x.data, self.spec, self.inputs))
        if self.training and self.input_dropout:
            normed = normed * self._dropped(x._replace(data=normed))
        logits: torch.Tensor = self.head(x._replace(data=self.projection(normed)))
        return logits

    def _side_by_side(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([parts[name] for name in self.inputs], dim=-1)

    def _dropped(self, x: PackedSequence) -> torch.Tensor:
        """Draw one mask per sequence, the same at all of its steps (variational dropout, Gal and Ghahramani 2016).

        As accurate here as a mask for each step, of which the drawing took a fifth of the training's time.
        """
        sizes = x.batch_sizes.tolist()
        # Four times as fast as functional.dropout, which draws by bernoulli_.
        kept = torch.rand(sizes[0], x.data.shape[1], device=x.data.device) >= self.input_dropout
        masks = kept.to(x.data.dtype) / (1 - self.input_dropout)
        return masks[torch.cat([torch.arange(size, device=masks.device) for size in sizes])]


class ActivityModel(nn.Module):
    """One network, or several that were trained from different seeds and whose logits are averaged."""

    def __init__(self, spec: ModelSpec, members: Sequence[Member] | None = None) -> None:
        """Take the members, or make untrained ones."""
        super().__init__()
        self.spec = spec
        self.members = nn.ModuleList(members or [Member(spec, number) for number in range(len(spec.views))])

    @classmethod
    def of(cls, members: Sequence[Member]) -> ActivityModel:
        """Return the model that such networks are together, in evaluation mode."""
        return cls(replace(members[0].spec, views=tuple(member.view for member in members)), members).eval()

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return probabilities `float32 [N, n_labels]` for packed sequences of `float32 [N, input_dim]`."""
        return self.scores([member(x) for member in self.members])

    def scores(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return probabilities `float32 [N, n_labels]` for the logits of each member."""
        return (torch.stack(list(logits)).mean(dim=0) / self.spec.temperature).softmax(dim=-1)
