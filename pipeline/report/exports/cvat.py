"""Export to "CVAT for video 1.1": tracks of boxes by frame, whose attribute `activity` changes over time."""

from __future__ import annotations

import bisect
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from pipeline.report.exports.found import Box, Found, Segment, Video
from pipeline.report.exports.names import cleaned, lanes, make_room, one_line, paths_like_videos

ATTRIBUTE = "activity"
# CVAT's own value for an attribute where nothing is chosen.
UNDEFINED = "__undefined__"
_PICTURE = "picture"


def write_cvat(out: Path, found: Found) -> None:
    """Write `labels.json`, and an XML file for every video, in the same subfolders as the videos.

    A CVAT task accepts the XML if it has the labels of `labels.json`. Its label editor takes that file as "raw".
    Each track is a CVAT track with all its boxes. Its attribute `activity` is `__undefined__` where there is no
    segment. CVAT's videos have no tags, so a segment of the whole frame is a track labelled `picture` with a box
    around the frame. A second activity at the same time is a second track with the same `group_id`. Two spans of one
    activity that touch become one. Scores are not written. Frames count from 0, by the average rate of the file.
    """
    paths = paths_like_videos(out, [video.name for video in found.videos], ".xml")
    activities = sorted({one_line(segment.label) for segment in found.segments})
    kinds: set[str] = {"person", _PICTURE}
    for video, segments in found.by_video():
        tracks = list(_tracks(video, segments, found.boxes(video)))
        kinds.update(track.kind for track in tracks)
        root = _document(video, activities, sorted({_PICTURE, "person", *(track.kind for track in tracks)}))
        for number, track in enumerate(tracks):
            _add(root, number, track, video)
        indent(root)
        ElementTree(root).write(make_room(paths[video.name]), encoding="utf-8", xml_declaration=True)
    make_room(out / "labels.json").write_text(json.dumps(_labels(activities, kinds), indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class _Track:
    kind: str
    group: int
    """Number, from 1, that the tracks of one person share. 0: there is only one track."""
    boxes: Mapping[int, tuple[float, ...]]
    """By frame. Between two frames, boxes are interpolated."""
    spans: Sequence[tuple[int, int, str]]
    """`(first frame, frame after the last, activity)`. They do not overlap."""
    shows_all: bool
    """Whether the box is also shown where there is no activity."""


def _tracks(video: Video, segments: Sequence[Segment], boxes: Sequence[Box]) -> Iterator[_Track]:
    of_track: dict[int | None, list[Segment]] = defaultdict(list)
    for segment in segments:
        of_track[segment.track_id].append(segment)
    placed: dict[int | None, dict[int, tuple[float, ...]]] = defaultdict(dict)
    kinds: dict[int | None, str] = {None: _PICTURE}
    for box in boxes:
        if box.track_id is not None:
            placed[box.track_id][_within(video, video.frame_at(box.pts_s))] = box.xyxy
            kinds.setdefault(box.track_id, one_line(box.label))
    picture = (0.0, 0.0, float(video.width or 0), float(video.height or 0))
    for group, track in enumerate(sorted({*of_track, *placed}, key=lambda track: -1 if track is None else track), 1):
        spans = [(*video.frames_of(each), one_line(each.label)) for each in of_track[track]]
        # A track may have no boxes in the lake. Then the mean box of the segment is the best estimate.
        stand_in = {frame: each.box or picture for each in of_track[track] for frame in video.frames_of(each)}
        places = placed[track] or stand_in
        of_lane = lanes([span[:2] for span in spans]) or [0]
        for lane in range(max(of_lane) + 1):
            alone = [span for span, number in zip(spans, of_lane, strict=False) if number == lane]
            shows_all = lane == 0 and bool(placed[track])
            yield _Track(kinds.get(track, "person"), group if max(of_lane) else 0, places, alone, shows_all)


def _within(video: Video, frame: int) -> int:
    return frame if video.n_frames is None else min(frame, video.n_frames - 1)


def _add(root: Element, number: int, track: _Track, video: Video) -> None:
    """Add a track: a box at each frame where one was seen, the activity changes, or the box leaves."""
    element = SubElement(root, "track", id=str(number), label=track.kind, source="auto")
    if track.group:
        element.set("group_id", str(track.group))
    starts, ends = [start for start, *_ in track.spans], [end for _, end, _ in track.spans]
    last = max([*ends, *(frame + 1 for frame in track.boxes if track.shows_all)])
    seen, keys = sorted(track.boxes), {*starts, *ends, last}
    frames = sorted({*keys, *seen})
    corners = [np.interp(frames, seen, side) for side in zip(*(track.boxes[frame] for frame in seen), strict=True)]
    for frame, *sides in zip(frames, *corners, strict=True):
        span = bisect.bisect_right(starts, frame) - 1
        activity = track.spans[span][2] if span >= 0 and frame < ends[span] else UNDEFINED
        outside = frame >= last or (activity == UNDEFINED and not track.shows_all)
        # A track that lasts to the last frame does not leave: there is no frame after it.
        if (outside and frame not in keys) or (video.n_frames is not None and frame >= video.n_frames):
            continue
        box = SubElement(element, "box", frame=str(frame), keyframe="1", outside=str(int(outside)), occluded="0")
        for name, value in zip(("xtl", "ytl", "xbr", "ybr"), sides, strict=True):
            box.set(name, f"{value:.2f}")
        box.set("z_order", "0")
        SubElement(box, "attribute", name=ATTRIBUTE).text = activity


def _document(video: Video, activities: Sequence[str], kinds: Sequence[str]) -> Element:
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    task = SubElement(SubElement(root, "meta"), "task")
    about = {"name": video.uri, "mode": "interpolation", "start_frame": "0"}
    if video.n_frames is not None:
        about |= {"size": str(video.n_frames), "stop_frame": str(video.n_frames - 1)}
    for name, text in about.items():
        SubElement(task, name).text = cleaned(text)
    labels = SubElement(task, "labels")
    for kind in kinds:
        label = SubElement(labels, "label")
        SubElement(label, "name").text = kind
        attribute = SubElement(SubElement(label, "attributes"), "attribute")
        values = "\n".join([UNDEFINED, *activities])
        for name, text in (
            ("name", ATTRIBUTE),
            ("mutable", "True"),
            ("input_type", "select"),
            ("default_value", UNDEFINED),
            ("values", values),
        ):
            SubElement(attribute, name).text = text
    size = SubElement(task, "original_size")
    SubElement(size, "width").text, SubElement(size, "height").text = str(video.width), str(video.height)
    SubElement(task, "source").text = cleaned(video.uri)
    return root


def _labels(activities: Sequence[str], kinds: set[str]) -> list[dict[str, object]]:
    attribute = {
        "name": ATTRIBUTE,
        "mutable": True,
        "input_type": "select",
        "default_value": UNDEFINED,
        "values": [UNDEFINED, *activities],
    }
    return [{"name": kind, "attributes": [attribute]} for kind in sorted(kinds)]
