"""Give the boxes of one person, or thing, one id through one video, by Ultralytics' ByteTrack."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from pipeline.vision.detector import Boxes

NO_TRACK = -1
"""Track id of a box that belongs to no track."""


@dataclass(frozen=True)
class TrackOptions:
    """What makes boxes one track. What is not named here is as in Ultralytics' `bytetrack.yaml`."""

    new_score: float = 0.25
    """A track begins with a box of this score; weaker ones only carry it on."""
    gap_s: float = 2.0
    """Somebody may be out of sight for so long and keep the id."""


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
    """The tracker of one class in one unbroken stretch of video; a new one starts without memory."""

    def __init__(self, fps: float, options: TrackOptions) -> None:
        """Start a stretch whose frames come at `fps` per second."""
        from ultralytics.trackers.byte_tracker import BYTETracker

        self._tracker = BYTETracker(
            SimpleNamespace(
                track_high_thresh=options.new_score,
                track_low_thresh=min(0.1, options.new_score),
                new_track_thresh=options.new_score,
                track_buffer=max(1, round(options.gap_s * fps)),
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


def track_video(
    frames: Iterable[tuple[float, Boxes]], fps: float, options: TrackOptions | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield the track ids of each frame's boxes, through one video from its first frame to its last.

    Classes are followed apart, so that a person does not turn into the bicycle. Nobody is followed across a hole in
    the video longer than the options' `gap_s`; ids, from 1 on, stay unique all the same.

    Args:
        frames: `(time in seconds, boxes)` of every sampled frame, those without boxes too.
        fps: How many frames usually come per second.
        options: What makes a track.
    """
    options = options or TrackOptions()
    trackers: dict[int, Tracker] = {}
    # Ids in order of appearance, by the stretch, the class and the id that its tracker knows.
    ids: dict[tuple[int, int, int], int] = {}
    stretch, last_s = 0, float("-inf")
    for time_s, boxes in frames:
        if time_s - last_s > options.gap_s:
            trackers.clear()
            stretch += 1
        last_s = time_s
        track_ids = np.full(len(boxes.scores), NO_TRACK, np.int64)
        # A class seen before is told of every frame, also of those without it, so that its gaps are counted.
        for class_id in sorted({*trackers, *boxes.class_ids.tolist()}):
            of_class = np.flatnonzero(boxes.class_ids == class_id)
            tracker = trackers.get(class_id) or trackers.setdefault(class_id, Tracker(fps, options))
            found = tracker.update(Boxes(boxes.xyxy[of_class], boxes.scores[of_class], boxes.class_ids[of_class]))
            for index, raw in zip(of_class, found.tolist(), strict=True):
                if raw != NO_TRACK:
                    track_ids[index] = ids.setdefault((stretch, class_id, raw), len(ids) + 1)
        yield track_ids
