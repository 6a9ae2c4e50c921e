"""Export to ActivityNet results, CSV and WebVTT subtitles."""

from __future__ import annotations

import csv
import json
import posixpath
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from pipeline.report.exports.found import Found, Segment
from pipeline.report.exports.names import make_room, paths_like_videos


def write_activitynet(out: Path, found: Found) -> None:
    """Write `{"results": {id: [{"label", "score", "segment"}]}}`. The id is the name of the video without suffix."""
    stems = {video.name: posixpath.splitext(posixpath.basename(video.name))[0] for video in found.videos}
    shared = Counter(stems.values())
    results: dict[str, list[dict[str, Any]]] = {}
    for video, segments in found.by_video():
        stem = stems[video.name]
        results[stem if shared[stem] == 1 else video.name] = [
            {"label": each.label, "score": each.score, "segment": [each.start_s, each.end_s]} for each in segments
        ]
    content = {"version": "VERSION 1.3", "results": results, "external_data": {"used": True, "details": found.model}}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_csv(out: Path, found: Found) -> None:
    """Write a table that can also be read as annotations: the box identifies the person."""
    with open(out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        spans = ["video", "start_s", "end_s", "label", "score", "track_id"]
        writer.writerow([*spans, "x1", "y1", "x2", "y2", "model", "start_at", "end_at"])
        for video, segments in found.by_video():
            for each in segments:
                # Times of day in UTC, by ISO 8601. Empty: the recording time of the video is unknown.
                moments = [
                    "" if moment is None else moment.isoformat(timespec="milliseconds")
                    for moment in (video.at(each.start_s), video.at(each.end_s))
                ]
                box = each.box or [""] * 4
                span = [video.uri, each.start_s, each.end_s]
                writer.writerow([*span, each.label, each.score, each.track_id, *box, found.model, *moments])


def write_vtt(out: Path, found: Found) -> None:
    """Write subtitles for every video, even without segments, in the same subfolders as the videos."""
    paths = paths_like_videos(out, [video.name for video in found.videos], ".vtt")
    for video, segments in found.by_video():
        cues = [f"{_clock(each.start_s)} --> {_clock(each.end_s)}\n{_caption(each)}\n" for each in segments]
        text = "\n".join([f"WEBVTT\n\nNOTE found by {found.model}\n", *cues])
        make_room(paths[video.name]).write_text(text, encoding="utf-8")


def _caption(segment: Segment) -> str:
    who = f"{segment.who}: " if segment.who else ""
    return escape(f"{who}{segment.label} ({100 * segment.score:.0f} %)".replace("\n", " "), quote=False)


def _clock(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    hours, minutes = divmod(milliseconds // 60_000, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds % 60_000 / 1000:06.3f}"
