"""Compute probabilities and the novelty of each step from the logits of an activity model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.segments import Scored


def scored(logits: NDArray[np.float32], temperature: float, energies: Sequence[float]) -> Scored:
    """Return a model's result for logits `float32 [N, n_labels]`.

    Args:
        logits: Logits of successive steps.
        temperature: `ModelSpec.temperature`.
        energies: `ModelSpec.energies`; empty if the model does not know novelty.
    """
    scores = np.asarray(probabilities(logits, temperature), np.float32)
    return Scored(scores, novelty(logits, energies) if energies else None)


def probabilities(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.floating]:
    """Return the softmax of logits `[..., n_labels]` that are divided by a temperature, in their dtype."""
    tempered = logits / logits.dtype.type(temperature)
    powers = np.exp(tempered - tempered.max(axis=-1, keepdims=True))
    shares: NDArray[np.floating] = powers / powers.sum(axis=-1, keepdims=True)
    return shares


def free_energy(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the free energy `float32 [N]` of logits `float32 [N, n_labels]`."""
    largest = logits.max(axis=-1)
    return np.asarray(-largest - np.log(np.exp(logits - largest[:, None]).sum(axis=-1)), np.float32)


def novelty(logits: NDArray[np.float32], energies: Sequence[float]) -> NDArray[np.float32]:
    """Return how unlike the training data each step is, `float32 [N]` in 0 to 1, for logits `[N, n_labels]`.

    The novelty is the share of the training data that was more familiar, which means that its free energy was lower
    (Liu et al. 2020). The free energy falls as the logits rise.

    Args:
        logits: Logits of the steps.
        energies: `ModelSpec.energies`; at least two.
    """
    known, energy = np.array(energies, np.float32), free_energy(logits)
    place = np.searchsorted(known, energy).clip(1, len(known) - 1)
    low, high = known[place - 1], known[place]
    between = ((energy - low) / np.maximum(high - low, np.float32(1e-6))).clip(0, 1)
    return np.asarray((place - 1 + between) / (len(known) - 1), np.float32)
