"""The description of an activity network, without the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.motion.kinematics import BOX_MOTION_DIM
from pipeline.motion.poses import POSE_DIM
from pipeline.vision.flow import FLOW_DIM

OF_TRACKS = {"box": BOX_MOTION_DIM, "pose": POSE_DIM}
"""Inputs that are computed from a track alone and have meaningful units, and their lengths."""
ALL, MOTION = VIEWS = ("all", "motion")
"""Names for the part of the inputs that a network sees."""


def seen(view: str, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the inputs that a network with that view sees.

    `motion`: the inputs about a person's motion; if there are none, those about any motion; if there are none, all.
    """
    if view == MOTION:
        moving = [name for name in inputs if name in OF_TRACKS or name.endswith(("_change", "_flow"))]
        of_person = [name for name in moving if not name.startswith("frame")]
        return tuple(of_person or moving or inputs)
    return tuple(inputs)


def of_tracks_alone(inputs: Sequence[str]) -> bool:
    """Whether all inputs are computed from tracks, so that no embedding of a picture is read."""
    return set(inputs) <= set(OF_TRACKS)


def input_dim(name: str, embedding_dim: int) -> int:
    """Return the length of one input."""
    if name in OF_TRACKS:
        return OF_TRACKS[name]
    return FLOW_DIM if name.endswith("_flow") else embedding_dim


@dataclass(frozen=True)
class ModelSpec:
    """Everything that is needed to build the network before its weights are read."""

    inputs: tuple[str, ...]
    """The parts of an input vector: embeddings (`frame`, `frame_change`, `crop`, `crop_change`), motion
    (`frame_flow`, `crop_flow`), `box` and `pose`."""
    embedding_dim: int
    """Length of an embedding."""
    n_labels: int
    """Number of activities."""
    head: str = "lstm"
    """The part that remembers; one of `HEADS`."""
    hidden_dim: int = 128
    """Units of one layer of the head, in one direction."""
    bidirectional: bool = True
    """Whether a step also sees what comes after it."""
    num_layers: int = 2
    """Stacked layers of the head."""
    projection_dim: int | None = None
    """Length to which the input is projected before the head. None: it is not projected."""
    reach: int = 64
    """Steps back and ahead that a layer of a transformer sees; other heads do not use it."""
    views: tuple[str, ...] = (ALL,)
    """One of `VIEWS` for each of the networks of this kind that are averaged."""
    temperature: float = 1.0
    """Logits are divided by it before the softmax, so that a score is the share of correct answers with that score."""
    energies: tuple[float, ...] = ()
    """Rising quantiles of the free energy of the training data, at equal shares, from the least value to the largest.
    Empty: not known, as for models of earlier versions."""

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
        """Length of the head's input at a step."""
        return self.projection_dim or self.input_dim
