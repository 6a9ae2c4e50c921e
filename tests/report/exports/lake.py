"""A lake with all that is hard to write down, and what readers shall find of it."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pipeline.lake.query import LakeReader, open_lake
from pipeline.training.annotations import Annotation
from pipeline.training.formats import read_annotations
from tests.lakes import lake_of_segments

A, B, C, REMOTE, EMPTY = "/v/x/a.mp4", "/v/y/a.mp4", "/v/y/c d#1.mp4", "s3://bucket/e.mp4", "/v/y/empty.mp4"
SECONDS = {A: 4.0, B: 6.0, C: 8.0, REMOTE: 10.0, EMPTY: 1.0}
ODD = "a <b> & \"c\" --> 'd'"
AT = datetime.datetime(2024, 5, 3, 14, 22, 10, tzinfo=datetime.UTC)


def segment(
    uri: str, label: str, start_s: float, end_s: float, track: int | None = None, **more: Any
) -> dict[str, Any]:
    return {"uri": uri, "label": label, "start_s": start_s, "end_s": end_s, "score": 0.5, "track_id": track, **more}


SEGMENTS = [
    segment(A, "walk", 0.0, 2.0, 7, score=0.75),
    segment(A, "fall", 2.0, 4.0, 7, score=0.25),
    segment(A, "walk", 0.0, 2.0, 9),  # as another person at the same time
    segment(B, "sit", 1.0, 4.0, 1),
    segment(B, "read", 2.0, 3.0, 1),  # while it sits
    segment(B, ODD, 5.0, 6.0),  # of no person
    segment(C, "=1+1", 0.5, 1.5, 3),
    segment(C, "walk", 1.5, 2.5, 3),
    segment(REMOTE, "wave", 3.0, 3.5, 2),
]
BOXES = [
    *(
        {"uri": A, "frame_index": step, "pts_s": step / 5, "track_id": 7, "class_id": 0, "label": "person",
         "score": 0.5, "x1": 10.0 * step, "y1": 20.0, "x2": 10.0 * step + 40, "y2": 100.0,
         "keypoints": [[64.0, 48.0, 0.5]] * 17}
        for step in range(20)
    ),
    *(
        {"uri": A, "frame_index": step, "pts_s": step / 5, "track_id": 9, "class_id": 16, "label": "dog", "score": 1.0,
         "x1": 0.0, "y1": 0.0, "x2": 32.0, "y2": 24.0}
        for step in range(10)
    ),
    {"uri": A, "frame_index": 1, "pts_s": 0.2, "class_id": 0, "label": "person", "score": 0.25, "x1": 0.0, "y1": 0.0,
     "x2": 64.0, "y2": 48.0},
    *(
        {"uri": B, "frame_index": step, "pts_s": step / 5, "track_id": 1, "class_id": 0, "label": "person",
         "score": 0.5, "x1": 0.0, "y1": 0.0, "x2": 64.0, "y2": 48.0}
        for step in range(25)
    ),
]  # fmt: skip
FAILURES = [{"uri": EMPTY, "start_s": 0.0, "end_s": 1.0, "stage": "decode", "kind": "data", "message": "@broken"}]


def make_lake(folder: Path, segments: list[dict[str, Any]] | None = None, **of_videos: dict[str, Any]) -> LakeReader:
    """Write and open a lake of five videos of 10 frames/s, 640 x 480."""
    columns: dict[str, dict[str, Any]] = {
        "width": dict.fromkeys(SECONDS, 640), "height": dict.fromkeys(SECONDS, 480), "recorded_at": {A: AT},
    }  # fmt: skip
    for name, given in of_videos.items():
        columns[name] = {**columns.get(name, {}), **given}
    rows = SEGMENTS if segments is None else segments
    return open_lake(str(lake_of_segments(folder, SECONDS, rows, ("m",), BOXES, FAILURES, columns)))


@pytest.fixture
def lake(tmp_path: Path) -> LakeReader:
    return make_lake(tmp_path / "lake")


def spans(annotations: Iterable[Annotation], fps: float = 10.0) -> list[tuple[str, str, float, float]]:
    """Return what annotations say, in seconds."""
    found = []
    for each in annotations:
        times = (each.start_s or 0.0, each.end_s or 0.0) if each.frames is None else [n / fps for n in each.frames]
        found.append((each.video, each.label, *(round(time, 6) for time in times)))
    return sorted(found)


def read(path: Path) -> list[tuple[str, str, float, float]]:
    return spans(read_annotations(path))


def expected(segments: Iterable[dict[str, Any]] = SEGMENTS) -> list[tuple[str, str, float, float]]:
    """Return what a reader finds: what two people do at the same time is one span of the video."""
    return sorted({(each["uri"], each["label"], each["start_s"], each["end_s"]) for each in segments})
