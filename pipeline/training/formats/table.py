"""Tables: `video,start_s,end_s,label[,or][,group][,draws][,split]`, or `label,video,split1,split2,...` for whole clips.

Columns `x1,y1,x2,y2` say which of several people is meant, as `review` writes them. The column `or` holds labels that
may be right instead, separated by `|`.

Columns may also have other usual names, and times may have any usual form; see `rows` and `times`.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats import boris
from pipeline.training.formats.rows import Row, Table, read_table
from pipeline.training.formats.times import seconds_of, spelling_of

log = logging.getLogger(__name__)

_NAMES = {
    "video": ("video", "file", "filename", "file name", "path", "filepath", "video file", "video name", "media",
              "media file", "media file name", "clip", "uri", "source", "video id"),
    "label": ("label", "activity", "behavior", "behaviour", "class", "action", "event", "category", "activity label",
              "action label", "code"),
    "start": ("start", "begin", "onset", "from", "start time", "begin time", "time start", "t start", "start sec",
              "start seconds", "in"),
    "end": ("end", "stop", "offset", "to", "end time", "stop time", "time end", "t end", "end sec", "end seconds",
            "finish", "out"),
    "duration": ("duration", "length"),
    "or": ("or",),
    "group": ("group",),
    "draws": ("draws",),
    "who": ("track id",),
    "fps": ("fps", "frame rate", "framerate", "rate"),
}  # fmt: skip
# Times in these units are refused. Otherwise their rows would count as whole videos.
_UNREAD_UNITS = re.compile(r"(frames?|ms|msecs?|milliseconds?|mins?|minutes?)")
_UNIT = re.compile(r"\s*[(\[]?\b(s|sec|secs|second|seconds|hh:mm:ss.*)\b[)\]]?$")


def plain_heading(heading: str) -> str:
    """Return a heading in the form for comparisons: lower case, without units, words separated by single spaces."""
    divided = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", heading.lstrip("\ufeff"))
    words = " ".join(re.sub(r"[_\-.]+", " ", divided.lower()).split())
    return _UNIT.sub("", words).strip() or words


def read(path: Path) -> list[Annotation]:
    """Read a table, and log how its columns are understood.

    Raises:
        UsageError: A column is missing, two columns have the same meaning, or a time is invalid.
    """
    table = read_table(path, boris.is_heading, _is_heading)
    if boris.is_heading(table.headings):
        return boris.read_events(table)
    return _read_spans(path, table)


def is_one(path: Path) -> bool:
    """Whether a text file has the heading of a table, instead of one label per line."""
    try:
        read_table(path, boris.is_heading, _is_heading)
    except UsageError:
        return False
    return True


def _is_heading(cells: list[str]) -> bool:
    """Whether several cells include a video or a label. If another column is missing, the error names it."""
    known = {plain_heading(cell) for cell in cells if cell}
    return len(known) > 1 and bool(known & {*_NAMES["video"], *_NAMES["label"]})


def _read_spans(path: Path, table: Table) -> list[Annotation]:
    columns = {meaning: column for meaning in _NAMES if (column := _column(path, table, meaning)) is not None}
    missing = [name for name in ("video", "label") if name not in columns]
    if missing:
        raise UsageError(
            f"{path}: no column {' nor '.join(missing)}; needed are video and label, optional start_s, end_s and "
            f"split; it has {', '.join(filter(None, table.headings)) or 'none'}"
        )
    for heading in table.headings:
        words = re.findall(r"[a-z]+", plain_heading(heading))
        if any(map(_UNREAD_UNITS.fullmatch, words)) and not {*words}.isdisjoint({*_NAMES["start"], *_NAMES["end"]}):
            raise UsageError(f"{path}: column {heading!r} holds no seconds; write seconds, mm:ss or hh:mm:ss:ff")
    splits = [name for name in table.headings if name.lower().startswith("split")]
    timed = [columns[name] for name in ("start", "end", "duration") if name in columns]
    used = [columns[name] for name in ("video", "start", "end", "duration", "label") if name in columns]
    spelling = spelling_of(row.cells.get(column, "") for row in table.rows for column in timed)
    log.info("%s: columns: %s; times as %s; separated by %s", path, ", ".join(used), spelling, table.separator)
    found = [_annotation(row, columns, splits) for row in table.rows]
    return _apart(found, [row.cells.get(columns.get("who", ""), "") for row in table.rows])


def _apart(annotations: list[Annotation], people: list[str]) -> list[Annotation]:
    """Return annotations without those that repeat another person's, because they are one span of the video."""
    first: dict[Annotation, str] = {}
    # A repeated row of the same person is kept, so that it is reported as a mistake.
    return [each for each, who in zip(annotations, people, strict=True) if first.setdefault(each, who) == who]


def _annotation(row: Row, columns: dict[str, str], splits: list[str]) -> Annotation:
    def text(name: str) -> str:
        return row.cells.get(columns.get(name, ""), "") or ""

    fps = seconds_of(row.where, "fps", text("fps"))

    def time(name: str) -> float | None:
        return seconds_of(row.where, columns.get(name, name), text(name), fps)

    start_s, end_s, duration_s = time("start"), time("end"), time("duration")
    if end_s is None and duration_s is not None:
        end_s = (start_s or 0.0) + duration_s
    return Annotation(
        text("video"),
        text("label"),
        start_s,
        end_s,
        {name: row.cells.get(name, "").lower() for name in splits},
        text("group"),
        tuple(label.strip() for label in text("or").split("|")) if text("or") else (),
        _count(row.where, text("draws")),
        _box(row),
        where=row.where,
    )


def _box(row: Row) -> tuple[float, float, float, float] | None:
    """Return the box of the person who is meant, if columns x1, y1, x2, y2 give it."""
    sides = [row.cells.get(name, "") for name in ("x1", "y1", "x2", "y2")]
    if not all(sides):
        return None
    try:
        x1, y1, x2, y2 = map(float, sides)
    except ValueError:
        raise UsageError(f"{row.where}: x1, y1, x2, y2 = {', '.join(sides)} are no numbers of pixels") from None
    if not (x1 < x2 and y1 < y2):
        raise UsageError(f"{row.where}: x1, y1, x2, y2 = {', '.join(sides)} are no left, top, right and bottom")
    if max(x2, y2) <= 1:
        raise UsageError(f"{row.where}: x1, y1, x2, y2 = {', '.join(sides)} are shares; pixels of the video are wanted")
    return x1, y1, x2, y2


def _count(where: str, text: str) -> int:
    try:
        return int(text or 1)
    except ValueError:
        raise UsageError(f"{where}: draws = {text!r} is no whole number") from None


def _column(path: Path, table: Table, meaning: str) -> str | None:
    """Return the heading of a meaning: the first name in `_NAMES` that a column has. Only one column may have it."""
    for name in _NAMES[meaning]:
        found = [heading for heading in table.headings if plain_heading(heading) == name]
        if len(found) > 1:
            raise UsageError(f"{path}: columns {' and '.join(found)} may both be the {meaning}; remove or rename one")
        if found:
            return found[0]
    return None
