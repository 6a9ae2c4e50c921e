"""CVAT's XML, "CVAT for video 1.1": tracks of boxes, numbered by frame, with attributes that may change on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats.located import read_xml

# An attribute with one of these names tells what a tracked person does. Otherwise the track's own label does.
_ACTIVITY = ("activity", "action", "activities", "actions", "behavior", "behaviour", "label")
# The attribute's value while nothing is chosen: the person is visible, and does nothing that has a name.
_UNDEFINED = "__undefined__"


def read(path: Path) -> list[Annotation]:
    """Read the labels of each track. A span lasts from its appearance or change to the next change or its end."""
    root, lines = read_xml(path)
    if root.tag != "annotations":
        raise UsageError(f"{path}: its root is <{root.tag}>, not <annotations> as in an export of 'CVAT for video 1.1'")
    if root.find("image") is not None:
        raise UsageError(f"{path}: was exported as 'CVAT for images'; export it as 'CVAT for video 1.1'")
    sources, stops = _tasks(root)
    annotations: dict[tuple[str, str, tuple[int, int]], Annotation] = {}
    for track in root.iter("track"):
        task = track.get("task_id", "")
        video = track.get("source") if task not in sources else sources[task]
        for label, start, end, shape in _runs(track, stops.get(task)):
            where = f"{path}, line {lines[shape]}"
            if not video:
                raise UsageError(f"{where}: nothing tells the video of this track; <meta> should have a <source>")
            # Two people may do the same at the same time: that is one span of the video.
            annotations.setdefault(
                (video, label, (start, end)), Annotation(video, label, frames=(start, end), where=where)
            )
    return list(annotations.values())


def _tasks(root: Element) -> tuple[dict[str, str], dict[str, int]]:
    """Return for each task its video and the number of its last frame. A single task also has the empty id."""
    sources, stops = {}, {}
    tasks = list(root.iterfind("meta//task")) or list(root.iterfind("meta//job"))
    for task in tasks:
        source = task.findtext("source") or root.findtext("meta/source") or task.findtext("name") or ""
        for number in {task.findtext("id") or "", "" if len(tasks) == 1 else task.findtext("id") or ""}:
            sources[number] = source
            stop = task.findtext("stop_frame") or ""
            if stop.isdigit():
                stops[number] = int(stop)
    return sources, stops


def _runs(track: Element, last_frame: int | None) -> Iterator[tuple[str, int, int, Element]]:
    """Yield `(label, first frame, frame after the last, its first shape)` of each stretch without a change."""
    current: tuple[str, int, Element] | None = None
    frame = -1
    for shape in track:
        if not (shape.get("frame") or "").isdigit():
            continue
        frame = int(shape.get("frame", ""))
        outside = shape.get("outside") == "1"
        label = _label(track, shape)
        outside = outside or label == _UNDEFINED
        if current and (outside or label != current[0]):
            yield current[0], current[1], frame, current[2]
            current = None
        if not outside and current is None:
            current = (label, frame, shape)
    if current:
        yield current[0], current[1], max(frame, last_frame if last_frame is not None else frame) + 1, current[2]


def _label(track: Element, shape: Element) -> str:
    for attribute in (*shape.iterfind("attribute"), *track.iterfind("attribute")):
        if (attribute.get("name") or "").lower() in _ACTIVITY and (attribute.text or "").strip():
            return (attribute.text or "").strip()
    return track.get("label", "").strip()
