"""Label Studio's export as JSON: timelines of a video, spans in seconds, or a choice for the whole video."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats.located import field_of, read_json, span_of


def is_one(content: Any) -> bool:
    """Whether parsed JSON is of this format."""
    return isinstance(content, list) and any(isinstance(task, dict) and "data" in task for task in content)


def read(path: Path) -> list[Annotation]:
    """Read submitted annotations. Cancelled ones and predictions are skipped."""
    tasks = read_json(path)
    if not is_one(tasks):
        raise UsageError(f"{path}: not an export of Label Studio as JSON, a list of tasks with their data")
    annotations: dict[Annotation, None] = {}
    for task in tasks:
        where = f"{path}, line {getattr(task, 'line', 1)}"
        if "annotations" not in task:
            raise UsageError(f"{where}: this task has no 'annotations'; export as JSON, not as JSON-MIN")
        for submitted in field_of(where, task, "annotations", list):
            if submitted.get("was_cancelled"):
                continue
            for result in field_of(where, submitted, "result", list):
                for found in _spans(path, task, result):
                    # Several people may have labelled one task, and agree.
                    annotations.setdefault(found)
    return list(annotations)


def _spans(path: Path, task: dict[str, Any], result: Any) -> list[Annotation]:
    where = f"{path}, line {getattr(result, 'line', 1)}"
    kind, value = result.get("type"), result.get("value")
    if not isinstance(value, dict) or kind not in ("timelinelabels", "labels", "choices"):
        return []
    video = _video(where, task, result)
    found = []
    for label in field_of(where, value, kind, list):
        if kind == "choices":
            found.append(Annotation(video, label, where=where))
        elif kind == "labels":
            start_s, end_s = span_of(where, [value.get("start"), value.get("end")], "'start', 'end'")
            found.append(Annotation(video, label, start_s, end_s, where=where))
        else:
            for each in field_of(where, value, "ranges", list):
                # Frames are counted from 1, and the last one belongs to the span.
                first, last = field_of(where, each, "start", int), field_of(where, each, "end", int)
                if last < first:
                    raise UsageError(f"{where}: a range ends with frame {last}, before its first, {first}")
                found.append(Annotation(video, label, frames=(max(0, first - 1), last), where=where))
    return found


def _video(where: str, task: dict[str, Any], result: dict[str, Any]) -> str:
    """Return the file name behind the task's path or URL."""
    data = field_of(where, task, "data", dict)
    # `to_name` names the tag. Its value usually has the same name, or else it is the only text that there is.
    named = data.get(str(result.get("to_name"))) or data.get("video") or next(iter(data.values()), None)
    if not isinstance(named, str):
        raise UsageError(f"{where}: nothing in its task's data names a video")
    parts = urlsplit(named)
    # Files of a mounted folder are served as /data/local-files/?d=folder/name.mp4.
    local = parse_qs(parts.query).get("d", [""])[0]
    return posixpath.basename(unquote(local or parts.path))
