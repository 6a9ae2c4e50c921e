"""Export to a FiftyOne dataset on disk: temporal detections of each video, and boxes and poses of its frames."""

from __future__ import annotations

import json
import mimetypes
import re
from pathlib import Path
from typing import Any

from pipeline.report.exports.found import Box, Found, Segment, Video
from pipeline.report.exports.names import make_room, paths_like_videos

DETECTIONS, POSES = "people", "poses"


def write_fiftyone(out: Path, found: Found) -> None:
    """Write a folder for `fiftyone.Dataset.from_dir(out, dataset_type=fiftyone.types.FiftyOneDataset)`.

    Videos are named by their URIs and not copied. Each sample has a field with the segments. It is named after the
    model. The support of a segment is its first and last frame, and its `index` is the track. `people` and `poses` are
    fields of the frames. Frames count from 1, by the average rate of the file.

    The layout is that of version 0.7, which has a file of frames for each video and needs no database schema. FiftyOne
    still reads it. It recognizes this layout because `metadata.json` has no version.
    """
    names = [video.name for video in found.videos]
    # A lake without videos gets both folders, too.
    (out / "frames").mkdir(parents=True, exist_ok=True)
    frames = paths_like_videos(out / "frames", names, ".json")
    field = _field(found.model)
    about = {"media_type": "video", "info": {"model": found.model, "exporter": "actionlake"}}
    (out / "metadata.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    with open(out / "samples.json", "w", encoding="utf-8") as file:
        opening = '{"samples": [\n'
        for video, segments in found.by_video():
            path = frames[video.name]
            make_room(path).write_text(
                json.dumps({"frames": _frames(video, found.boxes(video, keypoints=True))}), encoding="utf-8"
            )
            sample = {
                "filepath": video.uri,
                "tags": [],
                "metadata": _metadata(video),
                "frames": path.relative_to(out).as_posix(),
                field: {"_cls": "TemporalDetections", "detections": [_temporal(video, each) for each in segments]},
            }
            file.write(f"{opening}{json.dumps(sample)}")
            opening = ",\n"
        file.write("]}\n" if opening == ",\n" else '{"samples": []}\n')


def _field(model: str) -> str:
    """Return the field name of a model: letters, digits and underscores, and not one of FiftyOne's own fields."""
    name = re.sub(r"\W+", "_", model, flags=re.ASCII).strip("_")
    return name if re.match(r"[A-Za-z]", name) and name not in _OWN_FIELDS else f"model_{name}"


_OWN_FIELDS = {
    "id",
    "filepath",
    "tags",
    "metadata",
    "frames",
    "media_type",
    "created_at",
    "last_modified_at",
    "field_names",
}


def _metadata(video: Video) -> dict[str, Any]:
    return {
        "_cls": "VideoMetadata",
        "size_bytes": video.size_bytes,
        "mime_type": mimetypes.guess_type(video.uri)[0],
        "frame_width": video.width,
        "frame_height": video.height,
        "frame_rate": video.fps,
        "total_frame_count": video.n_frames,
        "duration": video.duration_s,
    }


def _temporal(video: Video, segment: Segment) -> dict[str, Any]:
    first, end = video.frames_of(segment)
    found = {
        "_cls": "TemporalDetection",
        "label": segment.label,
        "support": [first + 1, end],
        "confidence": segment.score,
        "start_s": segment.start_s,
        "end_s": segment.end_s,
    }
    return found if segment.track_id is None else {**found, "index": segment.track_id}


def _frames(video: Video, boxes: list[Box]) -> dict[str, Any]:
    """Return the labels of each frame, by its number. If two steps of the lake fall on one frame, the last counts."""
    of_frame: dict[int, list[Box]] = {}
    for box in boxes:
        there = of_frame.setdefault(video.frame_at(box.pts_s) + 1, [])
        if there and there[0].pts_s != box.pts_s:
            there.clear()
        there.append(box)
    return {str(number): _frame(video, number, there) for number, there in of_frame.items()}


def _frame(video: Video, number: int, boxes: list[Box]) -> dict[str, Any]:
    assert video.width
    assert video.height
    width, height = video.width, video.height
    detections, poses = [], []
    for box in boxes:
        x1, y1, x2, y2 = box.xyxy
        about = {"label": box.label} if box.track_id is None else {"label": box.label, "index": box.track_id}
        place = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
        detections.append({"_cls": "Detection", **about, "bounding_box": place, "confidence": box.score})
        if box.keypoints is not None:
            points = [[x / width, y / height] for x, y, _ in box.keypoints]
            scores = [score for *_, score in box.keypoints]
            poses.append({"_cls": "Keypoint", **about, "points": points, "confidence": scores})
    frame: dict[str, Any] = {"frame_number": number, DETECTIONS: {"_cls": "Detections", "detections": detections}}
    return {**frame, POSES: {"_cls": "Keypoints", "keypoints": poses}} if poses else frame
