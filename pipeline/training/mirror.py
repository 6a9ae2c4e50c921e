"""Compute a model's inputs for a mirrored picture from its inputs for the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.spec import OF_TRACKS, of_tracks_alone
from pipeline.errors import UsageError
from pipeline.motion.kinematics import BOX_MIRROR_SIGNS, BOX_MOTION_DIM
from pipeline.motion.poses import MIRROR_ORDER, MIRROR_SIGNS

_MIRRORS = {"box": (np.arange(BOX_MOTION_DIM), BOX_MIRROR_SIGNS), "pose": (MIRROR_ORDER, MIRROR_SIGNS)}


@dataclass(frozen=True)
class Mirror:
    """Turns the inputs of a picture into those of the mirrored one."""

    order: NDArray[np.intp]
    signs: NDArray[np.float32]

    def of(self, inputs: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return inputs `float16 [T, D]` mirrored."""
        return (inputs[:, self.order] * self.signs).astype(np.float16)


def mirror_of(inputs: Sequence[str]) -> Mirror:
    """Return the `Mirror` for vectors of these inputs.

    Raises:
        UsageError: An embedding or flow is among them. Their values for a mirrored picture are not known.
    """
    if not of_tracks_alone(inputs):
        raise UsageError(f"mirror = true needs inputs {' and '.join(OF_TRACKS)} alone; here are {', '.join(inputs)}")
    starts = np.cumsum([0, *(OF_TRACKS[name] for name in inputs)])
    order = [start + _MIRRORS[name][0] for start, name in zip(starts, inputs, strict=False)]
    return Mirror(np.concatenate(order), np.concatenate([_MIRRORS[name][1] for name in inputs]))
