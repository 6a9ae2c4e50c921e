"""Give the boxes of one person, or thing, one id through one video, by Ultralytics' ByteTrack."""

from __future__ import annotations

import itertools
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


# A new track is somebody who was lost at most so many seconds before, and so near, as a share of their size. Chosen on
# falls at home and on a street: farther or later joins others there.
_LOST_S, _REACH = 1.0, 0.3


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


class _Follower:
    """Follows one class through one stretch, and knows who a new track is if it begins where one was lost.

    ByteTrack goes by how much boxes overlap. The box of somebody who falls changes its shape, and often nobody is found
    on the way down. So a track ends and another begins, both of one person.
    """

    def __init__(self, fps: float, options: TrackOptions, ids: Iterator[int]) -> None:
        self._tracker, self._options, self._ids = Tracker(fps, options), options, ids
        # The ids of the tracker's own tracks, and when and where each id was last seen.
        self._known: dict[int, int] = {}
        self._last: dict[int, tuple[float, NDArray[np.float32]]] = {}

    def update(self, time_s: float, boxes: Boxes) -> NDArray[np.int64]:
        """Take the boxes of the next frame and return their ids, `int64 [N]`, `NO_TRACK` where there is none."""
        tracks = self._tracker.update(boxes)
        ids = np.full(len(tracks), NO_TRACK, np.int64)
        followed = np.flatnonzero(tracks != NO_TRACK)
        known = np.isin(tracks[followed], list(self._known))
        for index in followed[known]:
            ids[index] = self._known[int(tracks[index])]
        # A new track may be anybody who is not in the picture.
        for index in followed[~known]:
            lost = self._lost_at(time_s, boxes.xyxy[index], boxes.xyxy[ids != NO_TRACK], set(ids.tolist()))
            if lost is not None:
                # What carried this id so far does not come back under it.
                self._known = {track: number for track, number in self._known.items() if number != lost}
            ids[index] = self._known[int(tracks[index])] = next(self._ids) if lost is None else lost
        for index in followed:
            self._last[int(ids[index])] = time_s, boxes.xyxy[index]
        return ids

    def _lost_at(
        self, time_s: float, box: NDArray[np.float32], others: NDArray[np.float32], present: set[int]
    ) -> int | None:
        """Return the id that was lost where a track begins; None if there is none, or if it may be one of several."""
        longest_s = min(_LOST_S, self._options.gap_s)
        lost = [
            number
            for number, (last_s, place) in self._last.items()
            if number not in present and time_s - last_s <= longest_s and _is_near(box, place)
        ]
        alone = not any(_is_near(box, other) for other in others)
        return lost[0] if len(lost) == 1 and alone else None


def _is_near(box: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether the centres of two boxes are no further apart than a share of the longest side of both."""
    between = (box[:2] + box[2:] - other[:2] - other[2:]) / 2
    sides = np.concatenate([box[2:] - box[:2], other[2:] - other[:2]])
    return bool(np.hypot(*between) <= _REACH * sides.max())


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
    followers: dict[int, _Follower] = {}
    numbers = itertools.count(1)
    last_s = float("-inf")
    for time_s, boxes in frames:
        if time_s - last_s > options.gap_s:
            followers.clear()
        last_s = time_s
        track_ids = np.full(len(boxes.scores), NO_TRACK, np.int64)
        # A class seen before is told of every frame, also of those without it, so that its gaps are counted.
        for class_id in sorted({*followers, *boxes.class_ids.tolist()}):
            of_class = boxes.class_ids == class_id
            follower = followers.get(class_id) or followers.setdefault(class_id, _Follower(fps, options, numbers))
            track_ids[of_class] = follower.update(
                time_s, Boxes(boxes.xyxy[of_class], boxes.scores[of_class], boxes.class_ids[of_class])
            )
        yield track_ids
