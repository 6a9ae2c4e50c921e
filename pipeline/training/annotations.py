"""Read labels: which activity, in which video, from when to when, in which split."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipeline.errors import UsageError

SPLIT_VALUES = ("train", "val", "test")


@dataclass(frozen=True)
class Annotation:
    """One labelled span of one video."""

    video: str
    """Path of the video, relative to the folder of videos."""
    label: str
    start_s: float | None = None
    """None: from the video's start."""
    end_s: float | None = None
    """None: to the video's end."""
    splits: dict[str, str] = field(default_factory=dict)
    """For each column of splits: `train`, `val`, `test`, or empty where the video takes no part."""
    line: int = 0
    """Line of the file, for messages."""


def read_annotations(path: str | Path) -> list[Annotation]:
    """Read a CSV file with columns `video`, `label`, and optionally `start_s`, `end_s` and `split...`.

    That covers spans (`video,start_s,end_s,label[,split]`) and whole clips with several splits
    (`label,video,split1,split2,split3`).

    Raises:
        UsageError: The file can't be read, lacks a column, or a line makes no sense; the message names the line.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or []]
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: can't be read as CSV ({error})") from error
    missing = [name for name in ("video", "label") if name not in columns]
    if missing:
        raise UsageError(
            f"{path}: no column {' nor '.join(missing)}; needed are video and label, "
            f"optional start_s, end_s and split; it has {', '.join(columns) or 'none'}"
        )
    split_columns = [name for name in columns if name.startswith("split")]
    seen: dict[tuple[str, str, float | None, float | None], int] = {}
    annotations = []
    for line, row in rows:
        annotation = _parse(
            path, line, {key.strip(): (value or "").strip() for key, value in row.items() if key}, split_columns
        )
        key = (annotation.video, annotation.label, annotation.start_s, annotation.end_s)
        if key in seen:
            raise UsageError(f"{path}, line {line}: the same as line {seen[key]}; remove one")
        seen[key] = line
        annotations.append(annotation)
    if not annotations:
        raise UsageError(f"{path}: no annotations in it")
    return annotations


def _parse(path: str | Path, line: int, row: dict[str, str], split_columns: list[str]) -> Annotation:
    where = f"{path}, line {line}"
    if not row.get("video") or not row.get("label"):
        raise UsageError(f"{where}: the {'video' if not row.get('video') else 'label'} is empty")
    splits = {name: row.get(name, "").lower() for name in split_columns}
    for name, value in splits.items():
        if value and value not in SPLIT_VALUES:
            raise UsageError(f"{where}: {name} = {value!r} is not one of {', '.join(SPLIT_VALUES)}")
    start_s, end_s = _seconds(where, "start_s", row), _seconds(where, "end_s", row)
    if end_s is not None and end_s <= (start_s or 0.0):
        raise UsageError(f"{where}: it ends at {end_s:g} s, not after its start at {start_s or 0.0:g} s")
    return Annotation(row["video"], row["label"], start_s, end_s, splits, line)


def _seconds(where: str, name: str, row: dict[str, str]) -> float | None:
    text = row.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise UsageError(f"{where}: {name} = {text!r} is not a time in seconds")
    return value


def read_label_map(path: str | Path) -> dict[str, str]:
    """Read a CSV file with columns `from` and `to`: what annotated labels shall be called.

    Raises:
        UsageError: The file can't be read, lacks a column, or names a label twice.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [
                {key.strip(): (value or "").strip() for key, value in row.items() if key}
                for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: can't be read as CSV ({error})") from error
    mapping: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        if not row.get("from") or "to" not in row:
            raise UsageError(f"{path}, line {line}: needed are columns from and to, both named in the first line")
        if mapping.setdefault(row["from"], row["to"]) != row["to"]:
            raise UsageError(f"{path}, line {line}: {row['from']!r} has two meanings")
    return mapping


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
