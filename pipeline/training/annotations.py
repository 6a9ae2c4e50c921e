"""The record that every label format is read into, and the checks that hold for all formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import UsageError

SPLIT_VALUES = ("train", "val", "test")


@dataclass(frozen=True)
class Annotation:
    """One labelled span of one video."""

    video: str
    """What the file of labels calls the video; once `VideoFolder` has found it, its path in that folder."""
    label: str
    start_s: float | None = None
    """None: from the video's start."""
    end_s: float | None = None
    """None: to the video's end. The same as the start: an event of one moment, which is one step of the grid."""
    splits: dict[str, str] = field(default_factory=dict, hash=False)
    """For each division: `train`, `val`, `test`, or empty where the video takes no part."""
    group: str = ""
    """What the video belongs to (a person, a camera, a longer recording): a group is never divided. Empty: itself."""
    draws: int = 1
    """How often an epoch of training draws the video: a few clips of one kind can weigh as much as many of another."""
    frames: tuple[int, int] | None = None
    """Half-open span of frame numbers, where the format counts frames; becomes seconds when the video is found."""
    where: str = field(default="", compare=False)
    """File and line, for messages."""

    @property
    def is_point(self) -> bool:
        """Whether it is of one moment: a span of one step of the sampling grid."""
        return self.end_s is not None and self.end_s == (self.start_s or 0.0)


def checked(annotations: Sequence[Annotation], source: str | Path) -> list[Annotation]:
    """Return the annotations if there are any, each is valid, and they are consistent.

    Raises:
        UsageError: A name or label is empty, a span ends before it starts or stands there twice, a split is unknown.
    """
    if not annotations:
        raise UsageError(f"{source}: no annotations in it")
    seen: dict[tuple[object, ...], str] = {}
    for each in annotations:
        if not each.video or not each.label:
            raise UsageError(f"{each.where}: the {'label' if each.video else 'video'} is empty")
        for name, value in each.splits.items():
            if value and value not in SPLIT_VALUES:
                raise UsageError(f"{each.where}: {name} = {value!r} is not one of {', '.join(SPLIT_VALUES)}")
        if each.draws < 1:
            raise UsageError(f"{each.where}: draws = {each.draws} is not above 0; leave the row out instead")
        start_s = each.start_s or 0.0
        if start_s < 0:
            raise UsageError(f"{each.where}: it starts at {start_s:g} s, before the video does")
        if each.end_s is not None and each.end_s < start_s:
            raise UsageError(f"{each.where}: it ends at {each.end_s:g} s, before its start at {start_s:g} s")
        key = (each.video, each.label, each.start_s, each.end_s, each.frames)
        if key in seen:
            raise UsageError(f"{each.where}: the same as {seen[key]}; remove one")
        seen[key] = each.where
    return list(annotations)


def read_label_map(path: str | Path) -> dict[str, str]:
    """Read a CSV file with columns `from` and `to`: what annotated labels shall be called.

    Raises:
        UsageError: The file can't be read, lacks a column, or names a label twice.
    """
    from pipeline.training.formats.rows import read_table

    mapping: dict[str, str] = {}
    table = read_table(Path(path))
    for row in table.rows:
        if not row.cells.get("from") or "to" not in row.cells:
            raise UsageError(f"{row.where}: needed are columns from and to, both named in the first line")
        if mapping.setdefault(row.cells["from"], row.cells["to"]) != row.cells["to"]:
            raise UsageError(f"{row.where}: {row.cells['from']!r} has two meanings")
    return mapping


def read_meanings(path: str | Path, labels: Sequence[str]) -> dict[str, str]:
    """Read a CSV file with columns `label` and `meaning`: what the labels stand for, in words.

    Raises:
        UsageError: The file can't be read, lacks a column, or names a label twice or one that there is not.
    """
    from pipeline.training.formats.rows import read_table

    meanings: dict[str, str] = {}
    for row in read_table(Path(path)).rows:
        label, meaning = (row.cells.get(name, "") for name in ("label", "meaning"))
        if not label or not meaning:
            raise UsageError(f"{row.where}: needed are columns label and meaning, both named in the first line")
        if label not in labels:
            raise UsageError(f"{row.where}: {label!r} is none of the labels {', '.join(labels)}")
        if meanings.setdefault(label, meaning) != meaning:
            raise UsageError(f"{row.where}: {label!r} has two meanings")
    return meanings


def apply_label_map(annotations: Sequence[Annotation], mapping: dict[str, str]) -> list[Annotation]:
    """Return annotations under their new labels; those that are mapped to nothing are left out.

    Raises:
        UsageError: A mapped label is not among those annotated: a typing error, most likely.
    """
    annotated = {annotation.label for annotation in annotations}
    unknown = sorted(mapping.keys() - annotated)
    if unknown:
        raise UsageError(f"the label map names {', '.join(unknown)}; annotated are {', '.join(sorted(annotated))}")
    renamed = [replace(each, label=mapping.get(each.label, each.label)) for each in annotations]
    return [annotation for annotation in renamed if annotation.label]
