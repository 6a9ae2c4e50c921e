"""Labelled sequences, and how an epoch of training draws from them: cropped, joined, and in batches of one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IGNORE = -1
"""Label id of a step that no annotation covers: it takes no part in the loss."""
# So many batches are drawn at a time, to be sorted by length.
_SORTED_BATCHES = 32


@dataclass(frozen=True)
class LabelledSequence:
    """One video's (or one track's) inputs on the sampling grid, with a label for each step."""

    inputs: NDArray[np.float16]
    """`float16 [T, D]`."""
    label_ids: NDArray[np.int64]
    """`int64 [T]`, `IGNORE` where nothing is annotated."""
    first_step: int = 0
    """Where on the video's sampling grid it starts."""
    weights: NDArray[np.float32] | None = None
    """`float32 [T]`: how much each step says about the whole video, the larger person's more. None: all the same."""


@dataclass(frozen=True)
class DrawOptions:
    """How sequences are changed anew in every epoch."""

    batch_size: int
    max_steps: int
    """A longer sequence is cropped at random to so many steps."""
    min_crop: float
    """A crop keeps at least this share of a shorter sequence."""
    join: float
    """Share of sequences followed by another one without a break, so that the state learns to let go."""


def draw_batches(
    sequences: Sequence[LabelledSequence], options: DrawOptions, rng: np.random.Generator
) -> Iterator[list[LabelledSequence]]:
    """Yield every sequence once, in batches of about one length: the longest tells how many passes an LSTM takes."""
    order = rng.permutation(len(sequences))
    size = options.batch_size
    for start in range(0, len(order), size * _SORTED_BATCHES):
        drawn = [_draw(sequences, int(index), options, rng) for index in order[start : start + size * _SORTED_BATCHES]]
        # Not quite by length, so that it is not always the same that learn together.
        drawn.sort(key=lambda sequence: len(sequence.label_ids) * rng.uniform(0.75, 1.25))
        batches = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        for index in rng.permutation(len(batches)):
            yield batches[index]


def _draw(
    sequences: Sequence[LabelledSequence], index: int, options: DrawOptions, rng: np.random.Generator
) -> LabelledSequence:
    drawn = _crop(sequences[index], options, rng)
    if rng.random() < options.join:
        other = _crop(sequences[int(rng.integers(len(sequences)))], options, rng)
        drawn = LabelledSequence(
            np.concatenate([drawn.inputs, other.inputs]), np.concatenate([drawn.label_ids, other.label_ids])
        )
    return drawn


def _crop(sequence: LabelledSequence, options: DrawOptions, rng: np.random.Generator) -> LabelledSequence:
    """Return a random stretch that holds at least one labelled step."""
    n = len(sequence.label_ids)
    longest = min(n, options.max_steps)
    length = int(rng.integers(max(1, int(longest * options.min_crop)), longest + 1))
    labelled = np.flatnonzero(sequence.label_ids != IGNORE)
    anchor = int(rng.choice(labelled))
    first = int(rng.integers(max(0, anchor - length + 1), min(anchor, n - length) + 1))
    return LabelledSequence(sequence.inputs[first : first + length], sequence.label_ids[first : first + length])
