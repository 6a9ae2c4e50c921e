"""Give the boxes of one person, or thing, one id through one video, by ByteTrack."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.motion.byte_track import ByteTrack
from pipeline.vision.detector import Boxes

NO_TRACK = -1
"""Track id of a box that belongs to no track."""


@dataclass(frozen=True)
class TrackOptions:
    """What makes boxes one track. What is not named here is as Ultralytics sets it for ByteTrack."""

    new_score: float = 0.25
    """A track begins with a box of this score; weaker ones only carry it on."""
    gap_s: float = 2.0
    """Somebody may be out of sight for so long and keep the id."""


# A new track is somebody who was lost at most so many seconds before, and so near, as a share of their longest side.
# Chosen on falls at home and on the first half of a street: farther or later joins others there.
_LOST_S, _REACH = 1.0, 0.45
# So many tracks are kept in mind, far more than are ever in a picture.
_MOST_KNOWN = 8192


class _Follower:
    """Follows one class through one stretch, and knows who a new track is if it begins where one was lost.

    ByteTrack goes by how much boxes overlap. The box of somebody who falls changes its shape, and often nobody is found
    on the way down. So a track ends and another begins, both of one person.
    """

    def __init__(self, fps: float, options: TrackOptions, ids: Iterator[int]) -> None:
        self._tracker, self._ids = ByteTrack(options.new_score, max(1, round(options.gap_s * fps))), ids
        # Times are no whole numbers: half a frame more, so that their last bits do not decide.
        self._longest_s = min(_LOST_S, options.gap_s) + 0.5 / fps
        # Whose the tracker's own tracks are, and which of them was the last to carry an id.
        self._id_of: dict[int, int] = {}
        self._carrier: dict[int, int] = {}
        # When and where those were last seen who were seen lately.
        self._last: dict[int, tuple[float, NDArray[np.float32]]] = {}

    def update(self, time_s: float, boxes: Boxes) -> NDArray[np.int64]:
        """Take the boxes of the next frame and return their ids, `int64 [N]`, `NO_TRACK` where there is none."""
        tracks = self._tracker.update(boxes.xyxy, boxes.scores)
        followed = tracks > 0
        ids = self._known(tracks.tolist())
        self._last = {number: seen for number, seen in self._last.items() if time_s - seen[0] <= self._longest_s}
        for index in np.flatnonzero(followed & (ids == NO_TRACK)):
            others = followed.copy()
            others[index] = False
            alone = not _are_near(boxes.xyxy[index], boxes.xyxy[others]).any()
            lost = self._lost_at(boxes.xyxy[index], set(ids.tolist())) if alone else None
            number = next(self._ids) if lost is None else lost
            track = int(tracks[index])
            self._id_of[track], self._carrier[number], ids[index] = number, track, number
        for index in np.flatnonzero(followed):
            self._last[int(ids[index])] = time_s, boxes.xyxy[index]
        return ids

    def _known(self, tracks: Sequence[int]) -> NDArray[np.int64]:
        """Return the ids of the tracker's own tracks, `int64 [N]`, `NO_TRACK` for new ones.

        A track that was lost, and whose id another has taken over, carries it again if that other is not in the frame.
        """
        ids = np.full(len(tracks), NO_TRACK, np.int64)
        present = set(tracks)
        self._forget_what_was_long_ago(tracks)
        for index, track in enumerate(tracks):
            number = self._id_of.get(track)
            if number is not None and (self._carrier[number] == track or self._carrier[number] not in present):
                ids[index], self._carrier[number] = number, track
        return ids

    def _forget_what_was_long_ago(self, tracks: Sequence[int]) -> None:
        """Keep in mind the tracks that were in the picture last: a camera that runs for months has no end of them."""
        for track in tracks:
            if track in self._id_of:
                self._id_of[track] = self._id_of.pop(track)
        if len(self._id_of) > _MOST_KNOWN:
            self._id_of = dict(list(self._id_of.items())[-_MOST_KNOWN // 2 :])
            numbers = set(self._id_of.values())
            self._carrier = {number: track for number, track in self._carrier.items() if number in numbers}

    def _lost_at(self, box: NDArray[np.float32], present: set[int]) -> int | None:
        """Return who was lost where a track begins; None if nobody was, or if it may be one of several."""
        lost = [number for number in self._last if number not in present]
        places = np.array([self._last[number][1] for number in lost], np.float32).reshape(-1, 4)
        near = np.flatnonzero(_are_near(box, places))
        return lost[near[0]] if len(near) == 1 else None


def _are_near(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether the centres of others `[N, 4]` are no further from a box's than a share of the longest side of both."""
    between = (box[:2] + box[2:] - others[:, :2] - others[:, 2:]) / 2
    longest = np.maximum((box[2:] - box[:2]).max(), (others[:, 2:] - others[:, :2]).max(axis=1))
    return np.asarray(np.hypot(between[:, 0], between[:, 1]) <= _REACH * longest)


def track_video(
    frames: Iterable[tuple[float, Boxes]], fps: float, options: TrackOptions | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield the track ids of each frame's boxes, through one video from its first frame to its last.

    Classes are followed apart, so that a person does not turn into the bicycle. A track that begins alone where one was
    just lost is the same person: one who falls is lost to the tracker on the way down. Nobody is followed across a hole
    in the video longer than the options' `gap_s`; ids, from 1 on, stay unique all the same.

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
