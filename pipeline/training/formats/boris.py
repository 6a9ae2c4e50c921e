"""BORIS, the tool of those who annotate behaviour: projects, and its exports of tabular and aggregated events.

A state begins and ends with an event each; a point is an event of one moment. Who is observed is not part of the label.
"""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.bounded import LABELS_BYTES, read_bounded
from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats.located import field_of
from pipeline.training.formats.rows import Row, Table
from pipeline.training.formats.times import seconds_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Event:
    """Something that begins, ends, or happens at one moment."""

    where: str
    video: str
    time_s: float
    label: str
    who: tuple[str, ...]
    """What tells events of one state from those of another: observation, subject, behaviour, modifiers."""
    kind: str
    """`START`, `STOP`, `POINT`, or `STATE` where the two are told by turns."""


def is_heading(cells: Sequence[str]) -> bool:
    """Whether cells are the heading of events that BORIS exported."""
    names = {cell.lower() for cell in cells}
    tabular = bool({"behavior type", "status"} & names) and "time" in names
    aggregated = {"start (s)", "stop (s)"} <= names
    return "behavior" in names and (tabular or aggregated) and bool(_MEDIA & names)


_MEDIA = {"media file name", "media file path", "media file"}


def read_events(table: Table) -> list[Annotation]:
    """Return the spans of tabular or aggregated events.

    Raises:
        UsageError: A state begins and never ends, or ends and never began.
    """
    rows = [Row(row.where, {key.lower(): value for key, value in row.cells.items()}) for row in table.rows]
    if any("start (s)" in row.cells for row in rows):
        found = [_aggregated(row) for row in rows]
        log.info("aggregated events of BORIS: %d", len(found))
    else:
        found = list(_paired([_tabular(row) for row in rows]))
        log.info("tabular events of BORIS: %d events, %d spans", len(rows), len(found))
    return _once(found)


def read(path: Path) -> list[Annotation]:
    """Read a project, all its observations of media.

    Raises:
        UsageError: It is no project, or a state begins and never ends.
    """
    project = _parsed(path)
    if not is_one(project):
        raise UsageError(f"{path}: not a project of BORIS, which has behaviors_conf and observations")
    kinds = {
        str(each.get("code")): "POINT" if "point" in str(each.get("type", "")).lower() else "STATE"
        for each in project["behaviors_conf"].values()
        if isinstance(each, dict)
    }
    events: list[_Event] = []
    for name, observation in project["observations"].items():
        where = f"{path}, observation {name!r}"
        if observation.get("type", "MEDIA") == "MEDIA":
            events += _events_of(where, name, observation, kinds)
    found = list(_paired(events))
    log.info("%s: a project of BORIS: %d observations, %d spans", path, len(project["observations"]), len(found))
    return _once(found)


def is_one(content: Any) -> bool:
    """Whether parsed JSON is a project."""
    return isinstance(content, dict) and {"behaviors_conf", "observations"} <= content.keys()


def _parsed(path: Path) -> Any:
    try:
        content = read_bounded(path, LABELS_BYTES)
        if content[:2] == b"\x1f\x8b":
            with gzip.open(path) as file:
                content = file.read(LABELS_BYTES + 1)
            if len(content) > LABELS_BYTES:
                raise UsageError(f"{path}: unpacks to more than {LABELS_BYTES >> 20} MiB")
        return json.loads(content.decode("utf-8-sig"))
    except (OSError, EOFError, UnicodeDecodeError, RecursionError, json.JSONDecodeError) as error:
        raise UsageError(f"{path}: can't be read as a project of BORIS ({error})") from error


def _events_of(where: str, name: str, observation: dict[str, Any], kinds: dict[str, str]) -> Iterator[_Event]:
    files = field_of(where, observation, "file", (dict, list))
    first_player = files.get("1", []) if isinstance(files, dict) else files
    media = [str(each) for each in first_player]
    if not media:
        raise UsageError(f"{where}: names no media file; leave it out of the project")
    info = observation.get("media_info") or {}
    lengths = info.get("length") or {}
    for number, event in enumerate(field_of(where, observation, "events", list), start=1):
        at = f"{where}, event {number}"
        if not isinstance(event, list) or len(event) < 3:
            raise UsageError(f"{at}: should be [time, subject, behaviour, ...], but is {event!r:.60}")
        time_s, subject, code = event[:3]
        modifier = str(event[3]) if len(event) > 3 else ""
        video, time_s = _in_queue(at, media, lengths, float(time_s))
        who = (name, str(subject), str(code), modifier)
        yield _Event(at, video, time_s, str(code), who, kinds.get(str(code), "STATE"))


def _in_queue(where: str, media: list[str], lengths: dict[str, Any], time_s: float) -> tuple[str, float]:
    """Return which of several files, played one after the other, shows a time, and when in it."""
    for path in media[:-1]:
        length_s = lengths.get(path)
        if not isinstance(length_s, (int, float)):
            raise UsageError(f"{where}: nothing tells how long {path} is, which is played before others")
        if time_s < length_s:
            return path, time_s
        time_s -= length_s
    return media[-1], time_s


def _aggregated(row: Row) -> Annotation:
    start_s, stop_s = (
        seconds_of(row.where, name, "" if text in ("NA", "nan") else text)
        for name in ("start (s)", "stop (s)")
        for text in [row.cells.get(name, "")]
    )
    # A point has no length; some versions leave its end empty.
    return Annotation(
        _media_of(row), row.cells.get("behavior", ""), start_s, start_s if stop_s is None else stop_s, where=row.where
    )


def _tabular(row: Row) -> _Event:
    kind = (row.cells.get("behavior type") or row.cells.get("status") or "").upper()
    if kind not in ("START", "STOP", "POINT"):
        raise UsageError(f"{row.where}: the behavior type is {kind!r}, not START, STOP or POINT")
    time_s = seconds_of(row.where, "time", row.cells.get("time", ""))
    if time_s is None:
        raise UsageError(f"{row.where}: the time is empty")
    label = row.cells.get("behavior", "")
    modifiers = tuple(value for name, value in sorted(row.cells.items()) if name.startswith("modifier"))
    who = (row.cells.get("observation id", ""), row.cells.get("subject", ""), label, *modifiers)
    return _Event(row.where, _media_of(row), time_s, label, who, kind)


def _media_of(row: Row) -> str:
    for name in ("media file name", "media file", "media file path"):
        if text := row.cells.get(name, ""):
            # Several that were played at once, or one after the other.
            return text.split(";")[0].removeprefix("player #1:").strip()
    raise UsageError(f"{row.where}: names no media file")


def _paired(events: Sequence[_Event]) -> Iterator[Annotation]:
    """Yield the spans between the events that begin and end a state, and those of points."""
    begun: dict[tuple[str, ...], _Event] = {}
    for event in sorted(events, key=lambda each: (each.who[0], each.video, each.time_s, each.kind != "STOP")):
        if event.kind == "POINT":
            yield Annotation(event.video, event.label, event.time_s, event.time_s, where=event.where)
            continue
        start = begun.pop(event.who, None)
        if start is None and event.kind == "STOP":
            raise UsageError(f"{event.where}: {event.label!r} ends, but it never began; add its start in BORIS")
        if start is None:
            begun[event.who] = event
        elif event.kind == "START":
            raise UsageError(f"{event.where}: {event.label!r} begins again before it ended; add its stop in BORIS")
        elif start.video != event.video:
            # It goes on in the next file of a queue: what of it lies in each is a span there.
            yield Annotation(start.video, start.label, start.time_s, None, where=start.where)
            yield Annotation(event.video, event.label, 0.0, event.time_s, where=event.where)
        else:
            yield Annotation(event.video, event.label, start.time_s, event.time_s, where=start.where)
    for event in begun.values():
        raise UsageError(f"{event.where}: {event.label!r} begins and never ends; add its stop in BORIS")


def _once(annotations: Sequence[Annotation]) -> list[Annotation]:
    """Two may do the same at the same time: that is one span of the video."""
    return list({(each.video, each.label, each.start_s, each.end_s): each for each in annotations}.values())
