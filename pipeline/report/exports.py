"""Write a model's segments in formats that other tools read: ActivityNet's results, CSV, WebVTT."""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader

_NAME_BYTES = 240
_COLUMNS = ["uri", "label", "start_s", "end_s", "score", "track_id"]


def export_segments(lake: LakeReader, out: str | Path, name: str, model: str | None = None) -> int:
    """Write the segments of a lake, and return how many there are.

    Args:
        lake: An open lake.
        out: A file for `activitynet` and `csv`; a folder for `vtt`, which is a file of subtitles for each video.
        name: One of `EXPORTS`.
        model: Whose segments. None: those of the only model.

    Raises:
        UsageError: There is no such format or model, or the place can't be written to.
    """
    if name not in _WRITERS:
        raise UsageError(f"{name!r} is no format to export to; known are {', '.join(EXPORTS)}")
    chosen = lake.model(model)
    rows = lake.table("segments", _COLUMNS, pc.field("model") == chosen).to_pylist()
    started = {row["uri"]: row["recorded_at"] for row in lake.table("videos", ["uri", "recorded_at"]).to_pylist()}
    for row in rows:
        row["start_at"], row["end_at"] = (_time_of_day(started[row["uri"]], row[side]) for side in ("start_s", "end_s"))
    rows.sort(key=lambda row: (row["uri"], row["start_s"], row["track_id"] or 0))
    try:
        _WRITERS[name](Path(out), rows, lake.table("videos", ["uri"])["uri"].to_pylist(), chosen)
    except OSError as error:
        raise UsageError(f"{out}: can't be written to ({error.strerror})") from error
    return len(rows)


def _write_activitynet(out: Path, rows: Sequence[dict[str, Any]], uris: Sequence[str], model: str) -> None:
    """Write `{"results": {id: [{"label", "score", "segment"}]}}`; a video's id is its name without suffix."""
    stems = {uri: posixpath.splitext(posixpath.basename(uri))[0] for uri in uris}
    shared = Counter(stems.values())
    ids = {uri: stem if shared[stem] == 1 else uri for uri, stem in stems.items()}
    results: dict[str, list[dict[str, Any]]] = {ids[uri]: [] for uri in sorted(uris)}
    for row in rows:
        segment = [row["start_s"], row["end_s"]]
        results[ids[row["uri"]]].append({"label": row["label"], "score": row["score"], "segment": segment})
    content = {"version": "VERSION 1.3", "results": results, "external_data": {"used": True, "details": model}}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _write_csv(out: Path, rows: Sequence[dict[str, Any]], _: Sequence[str], model: str) -> None:
    """Write a table that can be read as annotations, too."""
    with open(out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        columns = ("start_s", "end_s", "label", "score", "track_id")
        writer.writerow(["video", *columns, "model", "start_at", "end_at"])
        for row in rows:
            writer.writerow([row["uri"], *(row[name] for name in columns), model, row["start_at"], row["end_at"]])


def _time_of_day(started: datetime.datetime | None, seconds: float) -> str:
    """Return when a moment of a video was, in UTC by ISO 8601; empty where nothing tells when it was recorded."""
    if started is None:
        return ""
    return (started + datetime.timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def _write_vtt(out: Path, rows: Sequence[dict[str, Any]], uris: Sequence[str], model: str) -> None:
    """Write subtitles for every video, one without segments too, in folders as the videos lie in."""
    cues: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        cues[row["uri"]].append(f"{_clock(row['start_s'])} --> {_clock(row['end_s'])}\n{_caption(row)}\n")
    plain = {uri: uri.rpartition("://")[2].lstrip("/") for uri in uris}
    # The folder that all of them lie in says nothing.
    root = posixpath.commonpath([posixpath.dirname(path) for path in plain.values()] or [""])
    for uri, video in plain.items():
        path = out.joinpath(*(_file_name(part) for part in f"{posixpath.relpath(video, root or '.')}.vtt".split("/")))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([f"WEBVTT\n\nNOTE found by {model}\n", *cues[uri]]), encoding="utf-8")


def _file_name(part: str) -> str:
    """Return a part of a path as a name that stays within its folder and that file systems take."""
    name = re.sub(r"[\0\\]|^\.\.?$", "_", part)
    if len(name.encode()) <= _NAME_BYTES:
        return name
    short = name.encode()[: _NAME_BYTES - 40].decode(errors="ignore")
    return f"{short}-{hashlib.sha1(name.encode()).hexdigest()[:12]}{posixpath.splitext(name)[1][:8]}"


def _caption(row: dict[str, Any]) -> str:
    who = "" if row["track_id"] is None else f"person {row['track_id']}: "
    return escape(f"{who}{row['label']} ({100 * row['score']:.0f} %)".replace("\n", " "), quote=False)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, minutes = divmod(milliseconds // 60_000, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds % 60_000 / 1000:06.3f}"


_WRITERS: dict[str, Callable[[Path, Sequence[dict[str, Any]], Sequence[str], str], None]] = {
    "activitynet": _write_activitynet,
    "csv": _write_csv,
    "vtt": _write_vtt,
}
EXPORTS = tuple(_WRITERS)
"""Names of the formats that can be written."""
