"""Export to Label Studio: tasks whose predictions are activities on the timeline, and people's boxes."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from pipeline.report.exports.found import Box, Found, Segment, Video
from pipeline.report.exports.names import cleaned


def write_label_studio(out: Path, found: Found) -> None:
    """Write a JSON file with a task for each video, and its labelling interface beside it, as `.config.xml`.

    A task names its video by its URI. Serve that URI, or let Label Studio's storage reach it. Frames count from 1, by
    the average rate of the file. The score of a prediction is the mean of its segments' scores.
    """
    kinds = {"person"}
    with open(out, "w", encoding="utf-8") as file:
        opening = "[\n"
        for video, segments in found.by_video():
            boxes = found.boxes(video)
            kinds.update(cleaned(box.label) for box in boxes if box.track_id is not None)
            file.write(f"{opening}{json.dumps(_task(video, segments, boxes, found.model))}")
            opening = ",\n"
        file.write("]\n" if opening == ",\n" else "[]\n")
    _write_config(out.with_suffix(".config.xml"), {cleaned(segment.label) for segment in found.segments}, kinds)


def _task(video: Video, segments: list[Segment], boxes: list[Box], model: str) -> dict[str, Any]:
    result = [_timeline(video, number, segment) for number, segment in enumerate(segments, start=1)]
    of_track: dict[int, list[Box]] = defaultdict(list)
    for box in boxes:
        if box.track_id is not None:
            of_track[box.track_id].append(box)
    result += [_rectangle(video, track, of_track[track]) for track in sorted(of_track)]
    prediction: dict[str, Any] = {"model_version": model, "result": result}
    if segments:
        prediction["score"] = sum(segment.score for segment in segments) / len(segments)
    return {"data": {"video": video.uri, "fps": video.fps}, "annotations": [], "predictions": [prediction]}


def _timeline(video: Video, number: int, segment: Segment) -> dict[str, Any]:
    first, end = video.frames_of(segment)
    region = {
        "id": f"segment-{number}",
        "from_name": "activity",
        "to_name": "video",
        "type": "timelinelabels",
        "origin": "prediction",
        "score": segment.score,
        "value": {"ranges": [{"start": first + 1, "end": end}], "timelinelabels": [cleaned(segment.label)]},
    }
    return {**region, "meta": {"text": [segment.who]}} if segment.who else region


def _rectangle(video: Video, track: int, boxes: list[Box]) -> dict[str, Any]:
    assert video.width
    assert video.height
    across, down = 100 / video.width, 100 / video.height
    sequence = {}
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        frame = video.frame_at(box.pts_s) + 1
        sequence[frame] = {
            "x": x1 * across, "y": y1 * down, "width": (x2 - x1) * across, "height": (y2 - y1) * down,
            "rotation": 0, "frame": frame, "time": box.pts_s, "enabled": True,
        }  # fmt: skip
    # Without this, the last box would stay to the end of the video.
    sequence[max(sequence)]["enabled"] = False
    duration_s = video.duration_s or boxes[-1].pts_s
    return {
        "id": f"track-{track}",
        "from_name": "box",
        "to_name": "video",
        "type": "videorectangle",
        "origin": "prediction",
        "score": sum(box.score for box in boxes) / len(boxes),
        "meta": {"text": [f"person {track}"]},
        "value": {
            "framesCount": video.n_frames or max(sequence),
            "duration": duration_s,
            "labels": [cleaned(boxes[0].label)],
            "sequence": list(sequence.values()),
        },
    }


def _write_config(path: Path, activities: Iterable[str], kinds: Iterable[str]) -> None:
    view = Element("View")
    for tag, name, child, values in (
        ("TimelineLabels", "activity", "Label", activities),
        ("Labels", "kind", "Label", kinds),
    ):
        control = SubElement(view, tag, name=name, toName="video")
        for value in sorted(values):
            SubElement(control, child, value=value)
    SubElement(view, "Video", name="video", value="$video", framerate="$fps")
    SubElement(view, "VideoRectangle", name="box", toName="video", smart="true")
    indent(view)
    ElementTree(view).write(path, encoding="utf-8")
