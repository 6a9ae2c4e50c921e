"""The activity network: a CNN sees one frame, the head remembers the ones before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.heads import make_head
from pipeline.activity.spec import OF_TRACKS, ModelSpec, seen


def normalised(x: torch.Tensor, spec: ModelSpec, wanted: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the wanted inputs out of `[..., input_dim]`, each vector scaled to mean 0 and variance 1.

    This replaces stored feature statistics, because embeddings of one network differ from camera to camera more in
    scale than in direction. The motion of a box or a body has meaningful units, and stays as it is. Unlike in a layer
    norm, no weights follow, because the next linear layer has its own. So no gradient is computed for the widest of all
    layers.
    """
    parts = dict(zip(spec.inputs, torch.split(x, list(spec.dims), dim=-1), strict=True))
    return {
        name: parts[name] if name in OF_TRACKS else functional.layer_norm(parts[name], parts[name].shape[-1:])
        for name in wanted
    }


class Member(nn.Module):
    """`inputs -> normalised [-> linear] -> head`: a logit for each activity at every time step."""

    def __init__(self, spec: ModelSpec, number: int = 0, input_dropout: float = 0.0, dropout: float = 0.0) -> None:
        """Make the network untrained.

        Args:
            spec: The description of the whole model.
            number: Number of this member.
            input_dropout: Share of a sequence's inputs that are left out in training.
            dropout: Share that is left out between the layers of the head.
        """
        super().__init__()
        self.spec = spec
        self.view = spec.views[number]
        own = replace(spec, inputs=seen(self.view, spec.inputs))
        self.inputs = own.inputs
        """The inputs that it sees."""
        self.encoded_dim = own.encoded_dim
        """Length of the head's input at a step."""
        self.input_dropout = input_dropout
        self.projection = nn.Linear(own.input_dim, spec.projection_dim) if spec.projection_dim else nn.Identity()
        self.head = make_head(own, dropout)

    def encode(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the head's input, `float32 [..., encoded_dim]`, for normalised inputs."""
        encoded: torch.Tensor = self.projection(self._side_by_side(parts))
        return encoded

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return logits `float32 [N, n_labels]` for packed sequences of `float32 [N, input_dim]`, in the same order.

        Packing lets sequences of a few steps and of hundreds share a batch without computing any padding.
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

        This is as accurate here as a mask for each step. Drawing such masks took a fifth of the training's time.
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
        """Return the model that averages these networks, in evaluation mode."""
        return cls(replace(members[0].spec, views=tuple(member.view for member in members)), members).eval()

    def forward(self, x: PackedSequence) -> torch.Tensor:
        """Return probabilities `float32 [N, n_labels]` for packed sequences of `float32 [N, input_dim]`."""
        return self.scores(self.together([member(x) for member in self.members]))

    def together(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the mean of the members' logits, `float32 [N, n_labels]`."""
        return torch.stack(list(logits)).mean(dim=0)

    def scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Return probabilities `float32 [N, n_labels]` for logits."""
        return (logits / self.spec.temperature).softmax(dim=-1)

    def classifier(self) -> SequenceClassifier:
        """Return the model for inference."""
        return SequenceClassifier(self.spec, self.weights())

    def weights(self) -> dict[str, NDArray[np.floating]]:
        """Return the parameters, by name, as a bundle holds them."""
        return {name: each.detach().cpu().numpy() for name, each in self.state_dict().items()}
