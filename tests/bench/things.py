"""Things that detectors take for people, so that a model learns to say nothing about them.

`everyday_things.csv` says where some are, annotated by eye: clothes on a rack, a chair, a sign. Whatever a detector
follows there gets a row of its own in the table of labels, with its box: a person who does nothing that has a name.
The labels of the other people in the video are then not about it. What a model says of a thing counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import BACKGROUND
from pipeline.archive.sources import list_videos
from pipeline.lake.query import open_lake
from pipeline.lake.store import Lake
from pipeline.training.videos import VideoFolder
from tests.bench.cut_clips import Span
from tests.bench.default_annotations import by_eye

CORNERS = ("x1", "y1", "x2", "y2")
"""Columns of the table that say who is meant."""
DRAWS = 10
"""How often an epoch draws a thing."""
# So much of the mean box of what is followed lies within the thing's.
_LEAST_WITHIN = 0.7


def rows_of_things(spans: Sequence[Span], folder: VideoFolder, lake: Lake) -> Iterator[Span]:
    """Yield a row for each thing that was followed in videos, by whichever detector.

    Args:
        spans: The rows of the videos.
        folder: Where the videos are.
        lake: What detectors have found in them.
    """
    # Left, top, right, bottom of the things in each video, in pixels.
    places = defaultdict(list)
    for row in by_eye("things"):
        places[row["video"]].append(np.array([float(row[name]) for name in CORNERS]))
    reader = open_lake(lake.uri)
    of_uri = {folder.uri(span["video"]): span for span in spans if _shown(span["video"]) in places}
    # A lake may also know earlier versions of the files.
    of_id = {ref.video_id: of_uri[ref.uri] for ref in list_videos(sorted(of_uri))}
    rate = float(reader.feature_options["sample_fps"])
    for video_id, rows, track_ids in reader.videos(list(of_id)):
        span = of_id[video_id]
        for track in rows.track_sequences(track_ids):
            first, end = track.first_step, track.first_step + track.n_steps
            box = track.mean_box(first, end)
            assert box is not None
            if any(_within(box, place) >= _LEAST_WITHIN for place in places[_shown(span["video"])]):
                times = {"start_s": f"{first / rate:.4f}", "end_s": f"{end / rate:.4f}"}
                corners = dict(zip(CORNERS, (f"{side:.1f}" for side in box), strict=True))
                yield span | times | corners | {"label": BACKGROUND, "or": "", "draws": str(DRAWS)}


def _shown(video: str) -> str:
    """Return the name of a video that also has one for each detector that has looked at it."""
    return video.partition("/")[2] if video.startswith("by-") else video


def _within(box: NDArray[np.float32], place: NDArray[np.float64]) -> float:
    """Return the share of a box `[4]` that lies within a place `[4]`."""
    sides = np.minimum(box[2:], place[2:]) - np.maximum(box[:2], place[:2])
    return float(sides.clip(0).prod() / (box[2:] - box[:2]).prod())
