"""Export to BORIS's "tabular events": one row for the start of a state, and one for its stop."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline.errors import UsageError
from pipeline.report.exports.found import Found, Segment, Video
from pipeline.report.exports.names import cleaned, lanes

# Order of events at the same time: a stop comes before a start.
_ORDER = ("STOP", "POINT", "START")
_HEADINGS = (
    "Observation id", "Observation date", "Description", "Observation duration", "Observation type", "Source",
    "Time offset (s)", "Media duration (s)", "FPS", "Subject", "Behavior", "Behavioral category", "Behavior type",
    "Time", "Media file name", "Image index", "Image file path", "Comment",
)  # fmt: skip


def write_boris(out: Path, found: Found) -> None:
    """Write one table with an observation for each video. Columns are separated by commas in `.csv`, else by tabs.

    A segment is a state of the subject `person 7`. A segment of no length is a point event. A BORIS state can't overlap
    itself: a segment that overlaps one of the same label and person belongs to `person 7 (2)`. `Image index` is the
    number of the frame, from 0, by the average frame rate.

    Raises:
        UsageError: A video's name holds a character that BORIS separates names by.
    """
    with open(out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="," if out.suffix.lower() == ".csv" else "\t")
        writer.writerow(_HEADINGS)
        for video, segments in found.by_video():
            if segments and (";" in video.uri or "|" in video.uri):
                raise UsageError(
                    f"{video.uri}: BORIS divides the names of files by ; and |, so it can't be named in its table; "
                    "rename the file, or leave it out with --where \"uri NOT LIKE '%;%' AND uri NOT LIKE '%|%'\""
                )
            writer.writerows(_rows(video, segments, found.model))


def _rows(video: Video, segments: Sequence[Segment], model: str) -> list[list[str]]:
    uri, duration = cleaned(video.uri), "NA" if video.duration_s is None else f"{video.duration_s:.3f}"
    date = "" if video.recorded_at is None else video.recorded_at.strftime("%Y-%m-%d %H:%M:%S")
    fps = f"{video.fps:.3f}" if video.fps else "NA"
    about = [
        uri,
        date,
        cleaned(f"found by {model}"),
        duration,
        "Media file(s)",
        f"player #1:{uri}",
        "0.0",
        duration,
        fps,
    ]
    events = []
    for segment, subject in _subjects(segments):
        behaviour, comment = cleaned(segment.label), f"score {segment.score:.3f}"
        kinds = [("START", segment.start_s), ("STOP", segment.end_s)]
        for kind, time_s in kinds if segment.end_s > segment.start_s else [("POINT", segment.start_s)]:
            frame = str(video.frame_at(time_s)) if video.fps else "NA"
            of_event = [subject, behaviour, "", kind, _seconds(time_s), uri, frame, "NA", comment]
            events.append((time_s, _ORDER.index(kind), [*about, *of_event]))
    return [row for *_, row in sorted(events, key=lambda event: event[:2])]


def _subjects(segments: Sequence[Segment]) -> list[tuple[Segment, str]]:
    """Return each segment with its subject. No two states of one subject and label overlap."""
    alike: dict[tuple[str, str], list[Segment]] = defaultdict(list)
    for segment in segments:
        alike[segment.who, cleaned(segment.label)].append(segment)
    found = []
    for (who, _), same in alike.items():
        for segment, lane in zip(same, lanes([(each.start_s, each.end_s) for each in same]), strict=True):
            found.append((segment, f"{who} ({lane + 1})".strip() if lane else who))
    return found


def _seconds(seconds: float) -> str:
    """Return a time with all its digits and without an exponent."""
    return np.format_float_positional(seconds, trim="0")
