"""The order of segments in a review: the most informative first, with random ones between for an unbiased accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# One segment in this many is drawn at random. The accuracy of the model is estimated from these alone.
_RANDOM_EVERY = 4
# Factors on a segment's worth for each segment of the same label, or of the same video, that was asked before.
_SAME_LABEL, _SAME_VIDEO = 0.9, 0.6
# Weight of a segment's novelty beside the model's uncertainty.
_NOVELTY_WEIGHT = 0.5
# After this many segments, only their own worth counts.
_SPREAD = 2000


def order(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the number of each row, and whether it was `random` or `asked`.

    `asked` rows are those that the model is unsure of, or that are novel to it, spread over labels and videos. `random`
    rows are drawn from all rows at the start, so the first of them are a fair sample, wherever the review ends. The
    order is the same for every reviewer, so that two reviewers answer the same segments.

    Args:
        rows: Rows of `segments`.
        seed: Seed of the random rows.
    """
    drawn = np.random.default_rng(seed).permutation(len(rows))[: len(rows) // _RANDOM_EVERY].tolist()
    set_aside = set(drawn)
    asked = _by_worth(rows, [number for number in range(len(rows)) if number not in set_aside])
    at_random = iter(drawn)
    for place in range(len(rows)):
        kinds = ("random", "asked") if place % _RANDOM_EVERY == _RANDOM_EVERY - 1 else ("asked", "random")
        for kind in kinds:
            number = next(at_random if kind == "random" else asked, None)
            if number is not None:
                yield number, kind
                break


def _by_worth(rows: Sequence[Mapping[str, Any]], numbers: Sequence[int]) -> Iterator[int]:
    """Yield numbers of rows. Each is the one that adds most to those before it."""
    groups: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for number in numbers:
        row = rows[number]
        novelty = 0.5 if row["novelty"] is None else row["novelty"]
        worth = max(1e-6, 1 - row["score"] + _NOVELTY_WEIGHT * novelty)
        groups[row["label"], row["video_id"]].append((float(np.log(worth)), number))
    waiting = [sorted(group, key=lambda each: (-each[0], each[1])) for group in groups.values()]
    labels, videos = (_numbered([name[k] for name in groups]) for k in (0, 1))
    # Logarithms, since products of many factors underflow. An empty group has no worth.
    best = np.array([group[0][0] for group in waiting])
    taken = [0] * len(waiting)
    for _ in range(min(_SPREAD, len(numbers))):
        group = int(np.argmax(best))
        worth, number = waiting[group][taken[group]]
        yield number
        taken[group] += 1
        if taken[group] < len(waiting[group]):
            best[group] += waiting[group][taken[group]][0] - worth
        else:
            best[group] = -np.inf
        best[labels == labels[group]] += np.log(_SAME_LABEL)
        best[videos == videos[group]] += np.log(_SAME_VIDEO)
    left = [each for group, n in zip(waiting, taken, strict=True) for each in group[n:]]
    yield from (number for _, number in sorted(left, key=lambda each: (-each[0], each[1])))


def _numbered(names: Sequence[str]) -> np.typing.NDArray[np.int64]:
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], np.int64)
