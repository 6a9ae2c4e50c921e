"""The content of an export: the videos of a lake, a model's segments, and the boxes of one video at a time."""

from __future__ import annotations

import datetime
import logging
import math
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.lake.query import LakeReader

log = logging.getLogger(__name__)

_VIDEO_COLUMNS = ["video_id", "uri", "size_bytes", "duration_s", "width", "height", "fps", "recorded_at"]
_BOX_COLUMNS = ["pts_s", "track_id", "label", "score", "x1", "y1", "x2", "y2"]
_MOST_NAMED = 5


@dataclass(frozen=True)
class Video:
    """A video as annotation tools see it: frames, numbered from 0.

    The number of a frame is `round(seconds * fps)`. `fps` is the average rate of the file: in files of a variable rate
    the numbers may be off by as much as the rate varies.
    """

    video_id: str
    name: str
    """The name that its files are named after: its URI, plus its id if the lake holds that URI several times."""
    uri: str
    size_bytes: int | None
    duration_s: float | None
    width: int | None
    height: int | None
    fps: float | None
    recorded_at: datetime.datetime | None

    @property
    def has_numbered_frames(self) -> bool:
        """Whether its frame rate and size are known."""
        return bool(self.fps and self.width and self.height)

    @property
    def n_frames(self) -> int | None:
        """Number of frames. None: unknown."""
        return max(1, _nearest(self.duration_s * self.fps)) if self.duration_s and self.fps else None

    def frame_at(self, seconds: float) -> int:
        """Return the number of the frame at a time."""
        assert self.fps
        return max(0, _nearest(seconds * self.fps))

    def frames_of(self, segment: Segment) -> tuple[int, int]:
        """Return the half-open span of frames of a segment: at least one frame, and none after the video's end."""
        first = self.frame_at(segment.start_s)
        if self.n_frames is not None:
            first = min(first, self.n_frames - 1)
            return first, max(first + 1, min(self.frame_at(segment.end_s), self.n_frames))
        return first, max(first + 1, self.frame_at(segment.end_s))

    def at(self, seconds: float) -> datetime.datetime | None:
        """Return the time of day of a moment, in UTC. None: the recording time is unknown."""
        return None if self.recorded_at is None else self.recorded_at + datetime.timedelta(seconds=seconds)


@dataclass(frozen=True)
class Segment:
    """A span of a video with a label: of one person if it has a track, else of the whole frame."""

    video_id: str
    uri: str
    label: str
    start_s: float
    end_s: float
    score: float
    track_id: int | None
    box: tuple[float, float, float, float] | None
    """Mean box `x1, y1, x2, y2` in pixels. None: it has no box."""

    @property
    def who(self) -> str:
        """Name of the person: `person 7`. Empty: the whole frame."""
        return "" if self.track_id is None else f"person {self.track_id}"


@dataclass(frozen=True)
class Box:
    """One box of one frame, in pixels."""

    pts_s: float
    track_id: int | None
    label: str
    score: float
    xyxy: tuple[float, float, float, float]
    keypoints: Sequence[Sequence[float]] | None
    """`(x, y, score)` of each keypoint. None: there are no keypoints, or they were not requested."""


@dataclass(frozen=True)
class Found:
    """The content of an export."""

    lake: LakeReader
    model: str
    videos: Sequence[Video]
    """Sorted by URI."""
    segments: Sequence[Segment]
    """Sorted by URI, start and track."""

    def by_video(self) -> Iterator[tuple[Video, list[Segment]]]:
        """Yield each video with its segments."""
        segments: dict[str, list[Segment]] = defaultdict(list)
        for segment in self.segments:
            segments[segment.video_id].append(segment)
        for video in self.videos:
            yield video, segments[video.video_id]

    def boxes(self, video: Video, keypoints: bool = False) -> list[Box]:
        """Return the boxes of a video, sorted by time. Only the rows of this video are read."""
        columns = [*_BOX_COLUMNS, *(["keypoints"] if keypoints else [])]
        rows = self.lake.rows_of("detections", video.video_id, columns).to_pylist()
        return [
            Box(
                row["pts_s"], row["track_id"], row["label"] or "person", row["score"], _sides(row), row.get("keypoints")
            )
            for row in sorted(rows, key=lambda row: float(row["pts_s"]))
        ]

    def with_numbered_frames(self) -> Found:
        """Return the videos, with their segments, whose frames can be numbered. Log the others."""
        kept = [video for video in self.videos if video.has_numbered_frames]
        lost = [video.uri for video in self.videos if not video.has_numbered_frames]
        if not lost:
            return self
        more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
        log.warning(
            "left out, for their frame rate or size is not known and this format counts frames: %s%s; csv, boris, elan "
            "and excel count seconds",
            ", ".join(lost[:_MOST_NAMED]),
            more,
        )
        ids = {video.video_id for video in kept}
        return replace(self, videos=kept, segments=[each for each in self.segments if each.video_id in ids])


def find(lake: LakeReader, where: str | None, model: str | None) -> Found:
    """Return the segments of a model that meet a condition, with their videos. Without a condition: all videos.

    Raises:
        UsageError: There is no such model, or `where` is no condition.
    """
    table = lake.segments(where, model)
    segments = [
        Segment(
            row["video_id"],
            row["uri"],
            row["label"],
            row["start_s"],
            row["end_s"],
            row["score"],
            row["track_id"],
            _sides_of(row),
        )
        for row in table.select(
            ["video_id", "uri", "label", "start_s", "end_s", "score", "track_id", "x1", "y1", "x2", "y2"]
        ).to_pylist()
    ]
    videos = lake.table("videos", _VIDEO_COLUMNS, _with_segments(table) if where is not None else None)
    rows = sorted(videos.to_pylist(), key=lambda row: str(row["uri"]))
    shared = Counter(row["uri"] for row in rows)
    named = [
        Video(name=_named(row["uri"], row["video_id"]) if shared[row["uri"]] > 1 else row["uri"], **row) for row in rows
    ]
    return Found(lake, lake.model(model), named, segments)


def _named(uri: str, video_id: str) -> str:
    stem, suffix = posixpath.splitext(uri)
    return f"{stem}-{video_id}{suffix}"


def _with_segments(segments: pa.Table) -> pc.Expression:
    return pc.field("video_id").isin(pc.unique(segments["video_id"].combine_chunks()))


def _sides(row: dict[str, Any]) -> tuple[float, float, float, float]:
    return row["x1"], row["y1"], row["x2"], row["y2"]


def _sides_of(row: dict[str, Any]) -> tuple[float, float, float, float] | None:
    sides = _sides(row)
    return None if any(side is None or math.isnan(side) for side in sides) else sides


def _nearest(value: float) -> int:
    """Return the nearest whole number. Halves are rounded up, so that equal spans stay equal."""
    return math.floor(value + 0.5)
