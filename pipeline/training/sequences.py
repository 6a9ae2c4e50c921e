"""Labelled sequences, and how an epoch draws them: cropped, joined, and in batches of similar length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.training.mirror import Mirror

IGNORE = -1
"""Label id of a step that no annotation covers. It takes no part in the loss."""
# How many batches are drawn at a time and sorted by length.
_SORTED_BATCHES = 32


@dataclass(frozen=True)
class LabelledSequence:
    """One video's (or one track's) inputs on the sampling grid, with a label for each step."""

    inputs: NDArray[np.float16]
    """`float16 [T, D]`."""
    label_ids: NDArray[np.int64]
    """`int64 [T]`, `IGNORE` where nothing is annotated."""
    first_step: int = 0
    """The step on the video's sampling grid at which it starts."""
    weights: NDArray[np.float32] | None = None
    """`float32 [T]`: how much each step counts for the whole video; more for the prominent. None: all the same."""
    draws: int = 1
    """How often an epoch draws it, so that a few clips of one kind can weigh as much as many of another."""
    alternatives: NDArray[np.bool_] | None = None
    """`bool [T, n_labels]`: labels that may be right instead of that in `label_ids`. None: there are none."""


@dataclass(frozen=True)
class DrawOptions:
    """How sequences are drawn and changed in every epoch."""

    batch_size: int
    max_steps: int
    """A longer sequence is cropped at random to this many steps."""
    min_crop: float
    """A crop keeps at least this share of a shorter sequence."""
    join: float
    """Share of sequences that another one follows without a break, so that the state learns to forget."""
    row_steps: int | None = None
    """Concatenate crops and cut them into rows of this many steps. None: each crop is a sequence of its own."""
    mirror: Mirror | None = None
    """Mirrors half of the crops."""


def count_batches(sequences: Sequence[LabelledSequence], options: DrawOptions) -> int:
    """Return how many batches `draw_batches` yields."""
    if options.row_steps is None:
        return -(-sum(sequence.draws for sequence in sequences) // options.batch_size)
    kept = (1 + options.min_crop) / 2
    steps = sum(sequence.draws * min(len(sequence.label_ids), options.max_steps) for sequence in sequences) * kept
    return max(1, round(steps / (options.row_steps * options.batch_size)))


def draw_batches(
    sequences: Sequence[LabelledSequence], options: DrawOptions, rng: np.random.Generator
) -> Iterator[list[LabelledSequence]]:
    """Yield every sequence as often as its `draws` say, in batches of similar length, or in rows of equal length.

    The longest sequence determines the number of passes of an LSTM. Sequences of many lengths cost three times as much
    as rows of one length. But in rows, steps near a joint see the other sequence: rows are for models of short spans.
    """
    if options.row_steps is not None:
        yield from _draw_rows(sequences, options, options.row_steps, rng)
        return
    order = _order(sequences, rng)
    size = options.batch_size
    for start in range(0, len(order), size * _SORTED_BATCHES):
        drawn = [_draw(sequences, int(index), options, rng) for index in order[start : start + size * _SORTED_BATCHES]]
        # Sorted only roughly by length, so that batches do not always hold the same sequences.
        drawn.sort(key=lambda sequence: len(sequence.label_ids) * rng.uniform(0.75, 1.25))
        batches = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        for index in rng.permutation(len(batches)):
            yield batches[index]


def _order(sequences: Sequence[LabelledSequence], rng: np.random.Generator) -> NDArray[np.intp]:
    return rng.permutation(np.repeat(np.arange(len(sequences)), [sequence.draws for sequence in sequences]))


def _draw_rows(
    sequences: Sequence[LabelledSequence], options: DrawOptions, n_steps: int, rng: np.random.Generator
) -> Iterator[list[LabelledSequence]]:
    """Yield as many batches as `count_batches` says. The last crops of an epoch may be left out."""
    endless = itertools.chain.from_iterable(_order(sequences, rng) for _ in itertools.count())
    size = options.batch_size
    waiting, n_waiting = [], 0
    for _ in range(count_batches(sequences, options)):
        while n_waiting < size * n_steps:
            waiting.append(_crop(sequences[int(next(endless))], options, rng))
            n_waiting += len(waiting[-1].label_ids)
        row = _joined(waiting)
        yield [_part(row, slice(end - n_steps, end)) for end in range(n_steps, size * n_steps + 1, n_steps)]
        waiting = [_part(row, slice(size * n_steps, None))]
        n_waiting -= size * n_steps


def _draw(
    sequences: Sequence[LabelledSequence], index: int, options: DrawOptions, rng: np.random.Generator
) -> LabelledSequence:
    drawn = _crop(sequences[index], options, rng)
    if rng.random() < options.join:
        drawn = _joined([drawn, _crop(sequences[int(rng.integers(len(sequences)))], options, rng)])
    return drawn


def _crop(sequence: LabelledSequence, options: DrawOptions, rng: np.random.Generator) -> LabelledSequence:
    """Return a random stretch that holds at least one labelled step."""
    n = len(sequence.label_ids)
    longest = min(n, options.max_steps)
    length = int(rng.integers(max(1, int(longest * options.min_crop)), longest + 1))
    labelled = np.flatnonzero(sequence.label_ids != IGNORE)
    anchor = int(rng.choice(labelled))
    first = int(rng.integers(max(0, anchor - length + 1), min(anchor, n - length) + 1))
    crop = _part(sequence, slice(first, first + length))
    if options.mirror is not None and rng.random() < 0.5:
        return replace(crop, inputs=options.mirror.of(crop.inputs))
    return crop


def _part(sequence: LabelledSequence, steps: slice) -> LabelledSequence:
    """Return some steps of a sequence."""
    others = None if sequence.alternatives is None else sequence.alternatives[steps]
    return LabelledSequence(sequence.inputs[steps], sequence.label_ids[steps], alternatives=others)


def _joined(sequences: Sequence[LabelledSequence]) -> LabelledSequence:
    """Return sequences as one."""
    others = alternatives_of(sequences)
    return LabelledSequence(
        np.concatenate([sequence.inputs for sequence in sequences]),
        np.concatenate([sequence.label_ids for sequence in sequences]),
        alternatives=None if others is None else np.concatenate(others),
    )


def alternatives_of(sequences: Sequence[LabelledSequence]) -> list[NDArray[np.bool_]] | None:
    """Return the alternatives of each sequence, `bool [T, n_labels]`; None if no sequence has any."""
    n_labels = next((s.alternatives.shape[1] for s in sequences if s.alternatives is not None), None)
    if n_labels is None:
        return None
    return [
        np.zeros((len(s.label_ids), n_labels), np.bool_) if s.alternatives is None else s.alternatives
        for s in sequences
    ]
