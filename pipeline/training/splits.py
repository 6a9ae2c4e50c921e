"""Divide videos into training and test sets: by video or group, never by window."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError
from pipeline.training.dataset import LabelledVideo

HELD_OUT = "held-out"
"""Name of the split for annotations without one: about a fifth of the groups, chosen by name, is held out."""


@dataclass(frozen=True)
class Parts:
    """The videos of one split."""

    train: list[LabelledVideo]
    val: list[LabelledVideo]
    test: list[LabelledVideo]
    """The videos to measure on. If none is `test`, those of `val`; `val` is then empty."""


def hold_out_some(data: Sequence[LabelledVideo]) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    """Return the videos of four fifths of the groups, and those of the rest, which is at least one group.

    With fewer than four groups nothing is held out, because too little would be left to learn from.
    """
    groups = sorted({_group(video) for video in data}, key=lambda group: zlib.crc32(group.encode()))
    held_out = set(groups[: max(1, round(len(groups) / 5))]) if len(groups) >= 4 else set()
    parts: tuple[list[LabelledVideo], list[LabelledVideo]] = ([], [])
    for video in data:
        parts[_group(video) in held_out].append(video)
    return parts


def _group(video: LabelledVideo) -> str:
    first = video.items[0].annotation
    return first.group or first.video


def hold_out(data: Sequence[LabelledVideo]) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    """Return about four fifths of the videos and the rest, by the names of their groups. A group is never split.

    Videos without annotated spans are in the first part.
    """
    parts: tuple[list[LabelledVideo], list[LabelledVideo]] = ([], [])
    for video in data:
        if not video.items:
            parts[0].append(video)
            continue
        parts[zlib.crc32(_group(video).encode()) % 5 == 0].append(video)
    return parts


def divide(data: Sequence[LabelledVideo], name: str) -> Parts:
    """Return the videos to train on and those to measure on. A video is never in both."""
    if name == HELD_OUT:
        kept, held_out = hold_out(data)
        return Parts(kept, [], held_out)
    parts: dict[str, list[LabelledVideo]] = {"train": [], "val": [], "test": []}
    # All people of a file belong to the same part, because they are seen together.
    values: dict[str, set[str]] = defaultdict(set)
    for item in (item for video in data for item in video.items):
        values[item.annotation.video].update({item.annotation.splits.get(name, "")} - {""})
    for file, of_file in values.items():
        if len(of_file) > 1:
            raise UsageError(f"{file}: {name} is both {' and '.join(sorted(of_file))}; a video belongs to one part")
    for video in data:
        if not video.items:
            parts["train"].append(video)
            continue
        for part in values[video.items[0].annotation.video]:
            parts[part].append(video)
    if parts["test"]:
        return Parts(**parts)
    return Parts(parts["train"], [], parts["val"])
