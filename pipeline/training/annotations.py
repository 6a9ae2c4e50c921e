"""The record that every label format is read into, and the checks that hold for all formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import UsageError

SPLIT_VALUES = ("train", "val", "test")


@dataclass(frozen=True)
class Annotation:
    """One labelled span of one video."""

    video: str
    """The video's name in the file of labels; once `VideoFolder` has found it, its path in that folder."""
    label: str
    start_s: float | None = None
    """None: from the video's start."""
    end_s: float | None = None
    """None: to the video's end. Equal to the start: an event of one moment, which is one step of the grid."""
    splits: dict[str, str] = field(default_factory=dict, hash=False)
    """For each split: `train`, `val`, `test`, or empty if the video takes no part."""
    group: str = ""
    """What the video belongs to (a person, a camera, a longer recording). A group is never split. Empty: itself."""
    alternatives: tuple[str, ...] = field(default=(), compare=False)
    """Labels that may be right, too: nobody has said which of them is."""
    draws: int = 1
    """How often an epoch draws the video, so that a few clips of one kind can weigh as much as many of another."""
    box: tuple[float, float, float, float] | None = None
    """Who does it: left, top, right, bottom in source pixels, the mean over the span. None: unknown."""
    frames: tuple[int, int] | None = None
    """Half-open span of frame numbers, if the format counts frames. It becomes seconds when the video is found."""
    where: str = field(default="", compare=False)
    """File and line, for messages."""

    @property
    def is_point(self) -> bool:
        """Whether it marks one moment: a span of one step of the sampling grid."""
        return self.end_s is not None and self.end_s == (self.start_s or 0.0)


def checked(annotations: Sequence[Annotation], source: str | Path) -> list[Annotation]:
    """Return the annotations if there are any, each is valid, and they are consistent.

    Raises:
        UsageError: A name or label is empty, a span ends before it starts or occurs twice, or a split is unknown.
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
        if not all(each.alternatives):
            raise UsageError(f"{each.where}: or = {'|'.join(each.alternatives)!r} has an empty label")
        if each.label in each.alternatives:
            raise UsageError(f"{each.where}: or names {each.label!r}, which is the label already")
        if len(set(each.alternatives)) < len(each.alternatives):
            raise UsageError(f"{each.where}: or = {'|'.join(each.alternatives)!r} names a label twice")
        if each.draws < 1:
            raise UsageError(f"{each.where}: draws = {each.draws} is not above 0; leave the row out instead")
        start_s = each.start_s or 0.0
        if start_s < 0:
            raise UsageError(f"{each.where}: it starts at {start_s:g} s, before the video does")
        if each.end_s is not None and each.end_s < start_s:
            raise UsageError(f"{each.where}: it ends at {each.end_s:g} s, before its start at {start_s:g} s")
        key = (each.video, each.label, each.start_s, each.end_s, each.frames, each.box)
        if key in seen:
            raise UsageError(f"{each.where}: the same as {seen[key]}; remove one")
        seen[key] = each.where
    return list(annotations)


def read_label_map(path: str | Path) -> dict[str, str]:
    """Read a CSV file with columns `from` and `to`: the new names of annotated labels.

    Raises:
        UsageError: The file can't be read, lacks a column, or names a label twice.
    """
    return {label: other for _, label, other in _pairs(path, "from", "to", may_be_empty=True)}


def read_meanings(path: str | Path, labels: Sequence[str]) -> dict[str, str]:
    """Read a CSV file with columns `label` and `meaning`: what the labels stand for, in words.

    Raises:
        UsageError: The file can't be read, lacks a column, or names a label twice or an unknown one.
    """
    meanings: dict[str, str] = {}
    for where, label, meaning in _pairs(path, "label", "meaning"):
        if label not in labels:
            raise UsageError(f"{where}: {label!r} is none of the labels {', '.join(labels)}")
        meanings[label] = meaning
    return meanings


def _pairs(path: str | Path, first: str, second: str, may_be_empty: bool = False) -> Iterator[tuple[str, str, str]]:
    """Yield the place in the file, the label and the meaning of each row. No label has two meanings."""
    from pipeline.training.formats.rows import read_table

    said: dict[str, str] = {}
    for row in read_table(Path(path)).rows:
        label, meaning = row.cells.get(first), row.cells.get(second)
        if not label or meaning is None or not (meaning or may_be_empty):
            raise UsageError(f"{row.where}: needed are columns {first} and {second}, both named in the first line")
        if said.setdefault(label, meaning) != meaning:
            raise UsageError(f"{row.where}: {label!r} has two meanings")
        yield row.where, label, meaning


def apply_label_map(annotations: Sequence[Annotation], mapping: dict[str, str]) -> list[Annotation]:
    """Return annotations under their new labels. Those that are mapped to nothing are left out.

    Raises:
        UsageError: A mapped label is not among the annotated ones. Most likely it is a typing error.
    """
    annotated = {label for annotation in annotations for label in (annotation.label, *annotation.alternatives)}
    unknown = sorted(mapping.keys() - annotated)
    if unknown:
        raise UsageError(f"the label map names {', '.join(unknown)}; annotated are {', '.join(sorted(annotated))}")
    return [renamed for each in annotations if (renamed := _renamed(each, mapping)).label]


def _renamed(annotation: Annotation, mapping: dict[str, str]) -> Annotation:
    label, *others = (mapping.get(name, name) for name in (annotation.label, *annotation.alternatives))
    # Two labels may have become one.
    alternatives = tuple(name for name in dict.fromkeys(others) if name and name != label)
    return replace(annotation, label=label, alternatives=alternatives)


def check_alternatives(annotations: Sequence[Annotation], labels: Sequence[str]) -> None:
    """Raise `UsageError` if an annotation leaves open a label that is none of those to learn."""
    for each in annotations:
        if unknown := sorted(set(each.alternatives) - set(labels)):
            raise UsageError(f"{each.where}: or = {', '.join(unknown)}: no label; there are {', '.join(labels)}")
