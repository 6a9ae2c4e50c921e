"""What an activity network is built from, told without the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.motion.kinematics import BOX_MOTION_DIM
from pipeline.motion.poses import POSE_DIM
from pipeline.vision.flow import FLOW_DIM

OF_TRACKS = {"box": BOX_MOTION_DIM, "pose": POSE_DIM}
"""Inputs that follow from a track alone, in units that mean something, and their lengths."""
ALL, MOTION = VIEWS = ("all", "motion")
"""What a network may see of the inputs."""


def seen(view: str, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return which inputs a network with that view sees.

    `motion`: what tells how a person moves; where nothing does, how anything moves; where nothing does, all.
    """
    if view == MOTION:
        moving = [name for name in inputs if name in OF_TRACKS or name.endswith(("_change", "_flow"))]
        of_person = [name for name in moving if not name.startswith("frame")]
        return tuple(of_person or moving or inputs)
    return tuple(inputs)


def of_tracks_alone(inputs: Sequence[str]) -> bool:
    """Whether all inputs follow from tracks, so that nothing of the pictures is read."""
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
    """What stands side by side in an input vector: embeddings (`frame`, `frame_change`, `crop`, `crop_change`), motion
    (`frame_flow`, `crop_flow`), `box` and `pose`."""
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
    energies: tuple[float, ...] = ()
    """Free energies, rising, below which equal parts of what was learnt from lie; the first is the least, the last the
    largest. Empty: not known, as of models of earlier versions."""

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
