"""In which order segments are reviewed: what teaches most first, and some at random so that figures stay honest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# One in so many is drawn at random: from these alone it is told how often the model is right.
_RANDOM_EVERY = 4
# By so much a segment says less after each that was asked of the same label, or of the same video.
_SAME_LABEL, _SAME_VIDEO = 0.9, 0.6
# What is unlike what the model has learnt from teaches about as much as what it is unsure of.
_NOVELTY_WEIGHT = 0.5


def order(rows: Sequence[Mapping[str, Any]], seed: int = 0) -> Iterator[tuple[int, str]]:
    """Yield the number of each row, and whether it was `random` or `asked`.

    What is asked for is what the model is unsure of and what is novel to it, spread over labels and videos. The same
    rows come in the same order for every reviewer, so that two of them answer the same ones.

    Args:
        rows: Rows of `segments`.
        seed: Of what is drawn at random.
    """
    drawn = iter(np.random.default_rng(seed).permutation(len(rows)).tolist())
    asked = _by_worth(rows)
    done: set[int] = set()
    while len(done) < len(rows):
        is_random = len(done) % _RANDOM_EVERY == _RANDOM_EVERY - 1
        number = next(each for each in (drawn if is_random else asked) if each not in done)
        done.add(number)
        yield number, "random" if is_random else "asked"


def _by_worth(rows: Sequence[Mapping[str, Any]]) -> Iterator[int]:
    """Yield the numbers of rows, the one first that teaches most beside those before it."""
    groups: dict[tuple[str, str], list[tuple[float, int]]] = defaultdict(list)
    for number, row in enumerate(rows):
        novelty = 0.5 if row["novelty"] is None else row["novelty"]
        groups[row["label"], row["video_id"]].append((1 - row["score"] + _NOVELTY_WEIGHT * novelty, number))
    names = list(groups)
    waiting = [sorted(group, key=lambda each: (-each[0], each[1])) for group in groups.values()]
    labels, videos = (_numbered([name[k] for name in names]) for k in (0, 1))
    best = np.array([group[0][0] for group in waiting])
    n_label, n_video = np.zeros(labels.max(initial=-1) + 1), np.zeros(videos.max(initial=-1) + 1)
    taken = [0] * len(waiting)
    for _ in rows:
        group = int(np.argmax(best * _SAME_LABEL ** n_label[labels] * _SAME_VIDEO ** n_video[videos]))
        yield waiting[group][taken[group]][1]
        taken[group] += 1
        left = taken[group] < len(waiting[group])
        best[group] = waiting[group][taken[group]][0] if left else -np.inf
        n_label[labels[group]] += 1
        n_video[videos[group]] += 1


def _numbered(names: Sequence[str]) -> np.typing.NDArray[np.int64]:
    known = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([known[name] for name in names], np.int64)
