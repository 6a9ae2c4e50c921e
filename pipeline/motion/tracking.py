"""Give the boxes of one person, or thing, one id through one video, by Ultralytics' ByteTrack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.detector import Boxes

NO_TRACK = -1
"""Track id of a box that belongs to no track."""
GAP_S = 2.0
"""A person may be out of sight for so long and keep the id."""


class _Detections:
    """Boxes in the shape that ByteTrack reads: `conf`, `cls` and `xywh`, by boolean indexing."""

    def __init__(self, xyxy: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int32]) -> None:
        self.xyxy, self.conf, self.cls = xyxy, scores, class_ids

    @property
    def xywh(self) -> NDArray[np.float32]:
        """Centre, width and height."""
        sides = self.xyxy[:, 2:] - self.xyxy[:, :2]
        return np.concatenate([self.xyxy[:, :2] + sides / 2, sides], axis=1)

    def __getitem__(self, chosen: NDArray[np.bool_]) -> _Detections:
        return _Detections(self.xyxy[chosen], self.conf[chosen], self.cls[chosen])

    def __len__(self) -> int:
        return len(self.conf)


class Tracker:
    """The tracker of one video; a new one starts without memory, with ids from 1."""

    def __init__(self, fps: float) -> None:
        """Start a video whose frames come at `fps` per second."""
        from ultralytics.trackers.byte_tracker import BYTETracker

        # The thresholds are those of Ultralytics' bytetrack.yaml, but for the buffer, which it counts in frames.
        self._tracker = BYTETracker(
            SimpleNamespace(
                track_high_thresh=0.25,
                track_low_thresh=0.1,
                new_track_thresh=0.25,
                track_buffer=max(1, round(GAP_S * fps)),
                match_thresh=0.8,
                fuse_score=True,
            )
        )

    def update(self, boxes: Boxes) -> NDArray[np.int64]:
        """Take the boxes of the next frame and return their track ids, `int64 [N]`, `NO_TRACK` where there is none."""
        track_ids = np.full(len(boxes.scores), NO_TRACK, np.int64)
        rows = self._tracker.update(_Detections(boxes.xyxy, boxes.scores, boxes.class_ids))
        for row in rows:
            track_ids[int(row[7])] = int(row[4])
        return track_ids


def track_video(frames: Iterable[tuple[float, Boxes]], fps: float) -> Iterator[NDArray[np.int64]]:
    """Yield the track ids of each frame's boxes, through one video from its first frame to its last.

    Nobody is followed across a hole in the video longer than `GAP_S`; ids stay unique all the same.

    Args:
        frames: `(time in seconds, boxes)` of every sampled frame, those without boxes too.
        fps: How many frames usually come per second.
    """
    tracker, last_s, used, highest = Tracker(fps), float("-inf"), 0, 0
    for time_s, boxes in frames:
        if time_s - last_s > GAP_S and highest > 0:
            tracker, used = Tracker(fps), highest
        last_s = time_s
        track_ids = tracker.update(boxes)
        track_ids[track_ids != NO_TRACK] += used
        highest = max(highest, int(track_ids.max(initial=0)))
        yield track_ids
