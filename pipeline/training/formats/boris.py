"""BORIS, a tool to annotate behaviour: projects, and its exports of tabular and aggregated events.

A state begins with an event and ends with another one. A point is an event of one moment. The observed subject is not
part of the label. Times run through all files that an observation plays one after the other. They are converted to
times in each file. Observations of live scenes or of pictures have no video, and are left out.
"""

from __future__ import annotations

import gzip
import logging
import re
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pipeline.bounded import LABELS_BYTES, read_bounded
from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats.boris_events import Event, Media, by_time, spans_of
from pipeline.training.formats.located import field_of, parse_json
from pipeline.training.formats.rows import Row, Table
from pipeline.training.formats.times import seconds_of

log = logging.getLogger(__name__)

Kind = Literal["START", "STOP", "POINT"]
_MEDIA = ("media file name", "media file", "media file path")
# Prefixes in the column `Source`. Older versions name the files in lines above the table.
_PLAYER = re.compile(r"^player #1:\s*", re.IGNORECASE)
_NEXT_PLAYER = re.compile(r"\|?\s*player #[2-8]:", re.IGNORECASE)
_LIVE = ("", "NA", "LIVE")
# Larger times count seconds since 1970: they are the clock of the recording, not the time in it.
_LONGEST_S = 1e7


def is_heading(cells: Sequence[str]) -> bool:
    """Whether cells are the heading of events that BORIS exported."""
    names = {cell.lower() for cell in cells}
    tabular = bool({"behavior type", "status"} & names) and "time" in names
    aggregated = {"start (s)", "stop (s)"} <= names
    return "behavior" in names and (tabular or aggregated) and not names.isdisjoint(_MEDIA)


def read_events(table: Table) -> list[Annotation]:
    """Return the spans of tabular or aggregated events.

    Raises:
        UsageError: A state begins and never ends, or ends and never began, or the file and the time of an event are
            unclear.
    """
    rows = [Row(row.where, {key.lower(): value for key, value in row.cells.items()}) for row in table.rows]
    aggregated = "start (s)" in (heading.lower() for heading in table.headings)
    events: dict[str, list[Event]] = defaultdict(list)
    media: dict[str, Media] = {}
    for row in rows:
        name, file = row.cells.get("observation id", ""), _file_of(row)
        source = row.cells.get("source", "")
        if file.upper() in _LIVE and source.upper() in _LIVE:
            continue
        if file == "Not found":
            raise UsageError(f"{row.where}: BORIS found no file at the time of this event; remove it")
        media[name] = _media_of_row(source, row.cells.get("media duration (s)", ""))
        label = row.cells.get("behavior", "")
        modifiers = tuple(value for key, value in sorted(row.cells.items()) if key.startswith("modifier"))
        for kind, time_s in _aggregated(row) if aggregated else _tabular(row):
            events[name].append(
                Event(row.where, name, row.cells.get("subject", ""), label, modifiers, kind, time_s, file)
            )
    for name, of_observation in events.items():
        if not media[name].files:
            # In the order in which they were played.
            media[name] = Media(tuple(dict.fromkeys(event.file for event in by_time(of_observation))))
    in_order = [event for each in events.values() for event in (each if aggregated else by_time(each))]
    found = spans_of(in_order, media)
    what = "aggregated" if aggregated else "tabular"
    log.info("%s events of BORIS: %d rows, %d spans; separated by %s", what, len(rows), len(found), table.separator)
    return found


def read(path: Path) -> list[Annotation]:
    """Read a project, all its observations of media.

    Raises:
        UsageError: It is not a project, a state begins and never ends, or the file and the time of an event are
            unclear.
    """
    project = _parsed(path)
    if not is_one(project):
        raise UsageError(f"{path}: not a project of BORIS, which has behaviors_conf and observations")
    is_state = {
        field_of(str(path), each, "code", str): not str(each.get("type", "")).lower().startswith("point")
        for each in field_of(str(path), project, "behaviors_conf", dict).values()
    }
    events: list[Event] = []
    media: dict[str, Media] = {}
    for name, observation in field_of(str(path), project, "observations", dict).items():
        where = f"{path}, observation {name!r}"
        listed = field_of(where, observation, "events", list)
        if observation.get("type", "MEDIA") == "MEDIA" and listed:
            media[name] = _media_of(where, observation)
            events += _events_of(where, name, listed, is_state)
    found = spans_of(events, media)
    log.info("%s: a project of BORIS: %d observations, %d spans", path, len(project["observations"]), len(found))
    return found


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
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: can't be read as a project of BORIS ({error})") from error
    return parse_json(path, content)


def _media_of(where: str, observation: dict[str, Any]) -> Media:
    """Return the media of an observation's first player. Other players show the same from other sides."""
    players = field_of(where, observation, "file", (dict, list))
    files = tuple(str(each) for each in (players.get("1", []) if isinstance(players, dict) else players))
    if not files:
        raise UsageError(f"{where}: names no media file; leave it out of the project")
    info = observation.get("media_info")
    known = info.get("length") if isinstance(info, dict) else None
    lengths = [known.get(file) if isinstance(known, dict) else None for file in files]
    # The length of the last file does not matter.
    lengths_s = [float(each) for each in [*lengths[:-1], lengths[-1] or 1e9] if isinstance(each, (int, float))]
    return Media(files, tuple(lengths_s) if len(lengths_s) == len(files) else ())


def _events_of(where: str, name: str, listed: list[Any], is_state: dict[str, bool]) -> list[Event]:
    """Return the events of an observation in the order of time. Events of a state are starts and stops in turn."""
    logged = []
    for number, event in enumerate(listed, start=1):
        at = f"{where}, event {number}"
        if not isinstance(event, list) or len(event) < 3 or not isinstance(event[0], (int, float)):
            raise UsageError(f"{at}: should be [seconds, subject, behaviour, ...], but is {event!r:.60}")
        time_s, subject, code = float(event[0]), str(event[1]), str(event[2])
        if code not in is_state:
            raise UsageError(f"{at}: behaviour {code!r} is not in the project's ethogram; add it there in BORIS")
        if time_s > _LONGEST_S:
            raise UsageError(
                f"{at}: {time_s:g} s counts from 1970, not from the start of the file; correct it in BORIS"
            )
        modifiers = tuple(str(event[3]).split("|")) if len(event) > 3 else ()
        logged.append(Event(at, name, subject, code, modifiers, "POINT", time_s))
    events = []
    running: set[tuple[str, str, tuple[str, ...]]] = set()
    for event in by_time(logged):
        kind: Kind = "POINT"
        if is_state[event.behaviour]:
            key = (event.subject, event.behaviour, event.modifiers)
            kind = "STOP" if key in running else "START"
            running ^= {key}
        events.append(Event(event.where, name, event.subject, event.behaviour, event.modifiers, kind, event.time_s))
    return events


def _aggregated(row: Row) -> list[tuple[Kind, float]]:
    start_s, stop_s = (
        seconds_of(row.where, name, "" if text in ("NA", "nan") else text)
        for name in ("start (s)", "stop (s)")
        for text in [row.cells.get(name, "")]
    )
    if start_s is None:
        raise UsageError(f"{row.where}: the start is empty")
    # A point has no length. Some versions leave its end empty.
    if row.cells.get("behavior type", "").upper() == "POINT" or stop_s is None:
        return [("POINT", start_s)]
    return [("START", start_s), ("STOP", stop_s)]


def _tabular(row: Row) -> list[tuple[Kind, float]]:
    kind = (row.cells.get("behavior type") or row.cells.get("status") or "").upper()
    if kind not in ("START", "STOP", "POINT"):
        raise UsageError(f"{row.where}: the behavior type is {kind!r}, not START, STOP or POINT")
    time_s = seconds_of(row.where, "time", row.cells.get("time", ""))
    if time_s is None:
        raise UsageError(f"{row.where}: the time is empty")
    return [(cast(Kind, kind), time_s)]


def _file_of(row: Row) -> str:
    named = (row.cells.get(name, "") for name in _MEDIA)
    # Several files may have been played at once.
    return _PLAYER.sub("", _NEXT_PLAYER.split(next(filter(None, named), ""))[0]).split(";")[0].strip()


def _media_of_row(source: str, lengths: str) -> Media:
    """Return the media of the first player, as far as a row names them: `player #1:a.mp4;b.mp4|player #2:c.mp4`."""
    first = _PLAYER.sub("", _NEXT_PLAYER.split(source)[0])
    files = tuple(part.strip() for part in first.split(";") if part.strip().upper() not in _LIVE)
    try:
        lengths_s = tuple(float(part) for part in lengths.partition("|")[0].split(";"))
    except ValueError:
        lengths_s = ()
    return Media(files, lengths_s if len(lengths_s) == len(files) else ())
