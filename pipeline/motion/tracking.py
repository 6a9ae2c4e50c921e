"""Give the boxes of one person or object the same id throughout a video, by ByteTrack."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.motion.byte_track import LOW_SCORE, ByteTrack, overlaps
from pipeline.vision.detector import Boxes

NO_TRACK = -1
"""Track id of a box that belongs to no track."""


@dataclass(frozen=True)
class TrackOptions:
    """Options for joining boxes into tracks. All others are as Ultralytics sets them for ByteTrack."""

    new_score: float = 0.25
    """A track begins with a box of at least this score; weaker boxes only continue it."""
    gap_s: float = 2.0
    """Longest time for which a person may be out of sight and keep the id."""


# A new track continues one that was lost at most this many seconds before, and this near, as a share of their longest
# side. Chosen on falls at home and on the first half of a street: larger values join different people there.
_LOST_S, _REACH = 1.0, 0.45
# A box of no track, because it is too weak or the first, continues a track that was lost within `gap_s`, if it overlaps
# the track's last box by this share of their union.
_SAME_PLACE = 0.4
# Number of tracks that are remembered, far more than are ever in a picture.
_MOST_KNOWN = 8192


class _Follower:
    """Follows one class through one stretch, and lets a new track continue a lost one if it begins at the same place.

    ByteTrack matches boxes by their overlap. The box of a falling person changes its shape, and the detector often
    misses the person on the way down. So a track ends and another begins, both of one person. The boxes of somebody who
    lies there often have scores that are too low to begin a track, but they are where a track was lost.
    """

    def __init__(self, fps: float, options: TrackOptions, ids: Iterator[int]) -> None:
        self._tracker, self._ids = ByteTrack(options.new_score, max(1, round(options.gap_s * fps))), ids
        # Times are not whole numbers. Half a frame is added, so that their last bits do not decide.
        self._gap_s = options.gap_s + 0.5 / fps
        self._lost_s = min(_LOST_S, options.gap_s) + 0.5 / fps
        # The id of each of the tracker's own tracks, and the last of these tracks that carried each id.
        self._id_of: dict[int, int] = {}
        self._carrier: dict[int, int] = {}
        # Time and box of the last sighting of each id that was seen recently.
        self._last: dict[int, tuple[float, NDArray[np.float32]]] = {}

    def update(self, time_s: float, boxes: Boxes) -> NDArray[np.int64]:
        """Take the boxes of the next frame and return their ids, `int64 [N]`, `NO_TRACK` where there is none."""
        tracks = self._tracker.update(boxes.xyxy, boxes.scores)
        followed = tracks > 0
        ids = self._known(tracks.tolist())
        self._last = {number: seen for number, seen in self._last.items() if time_s - seen[0] <= self._gap_s}
        for index in np.flatnonzero(followed & (ids == NO_TRACK)):
            others = followed.copy()
            others[index] = False
            alone = not _are_near(boxes.xyxy[index], boxes.xyxy[others]).any()
            lost = self._lost_at(time_s, boxes.xyxy[index], set(ids.tolist())) if alone else None
            number = next(self._ids) if lost is None else lost
            track = int(tracks[index])
            self._id_of[track], self._carrier[number], ids[index] = number, track, number
        self._stay(boxes, ids)
        for index in np.flatnonzero(ids != NO_TRACK):
            self._last[int(ids[index])] = time_s, boxes.xyxy[index]
        return ids

    def _known(self, tracks: Sequence[int]) -> NDArray[np.int64]:
        """Return the ids of the tracker's own tracks, `int64 [N]`, `NO_TRACK` for new ones.

        If another track has taken over a lost track's id, the lost track carries it again if the other is not in the
        frame.
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
        """Remember the tracks that were in the picture last: a camera that runs for months has endlessly many."""
        for track in tracks:
            if track in self._id_of:
                self._id_of[track] = self._id_of.pop(track)
        if len(self._id_of) > _MOST_KNOWN:
            self._id_of = dict(list(self._id_of.items())[-_MOST_KNOWN // 2 :])
            numbers = set(self._id_of.values())
            self._carrier = {number: track for number, track in self._carrier.items() if number in numbers}

    def _stay(self, boxes: Boxes, ids: NDArray[np.int64]) -> None:
        """Give the lost ids to boxes of no track at the same places: a person who lies still is often a weak box.

        Each such box makes its place known for another `gap_s`, so the id stays for as long as somebody lies there.
        """
        present = set(ids.tolist())
        lost = [number for number in self._last if number not in present]
        rest = np.flatnonzero((ids == NO_TRACK) & (boxes.scores > LOW_SCORE))
        if not lost or not len(rest):
            return
        shared = overlaps(np.array([self._last[number][1] for number in lost]), boxes.xyxy[rest])
        while shared.max() >= _SAME_PLACE:
            row, column = np.unravel_index(shared.argmax(), shared.shape)
            ids[rest[column]] = lost[row]
            shared[row], shared[:, column] = 0, 0

    def _lost_at(self, time_s: float, box: NDArray[np.float32], present: set[int]) -> int | None:
        """Return the id that was lost where a track begins; None if there is none, or more than one."""
        lost = [
            number
            for number, (last_s, _) in self._last.items()
            if number not in present and time_s - last_s <= self._lost_s
        ]
        places = np.array([self._last[number][1] for number in lost], np.float32).reshape(-1, 4)
        near = np.flatnonzero(_are_near(box, places))
        return lost[near[0]] if len(near) == 1 else None


def _are_near(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Whether others `[N, 4]` are near a box: their centres are closer than a share of the longest side of both."""
    between = (box[:2] + box[2:] - others[:, :2] - others[:, 2:]) / 2
    longest = np.maximum((box[2:] - box[:2]).max(), (others[:, 2:] - others[:, :2]).max(axis=1))
    return np.asarray(np.hypot(between[:, 0], between[:, 1]) <= _REACH * longest)


def track_video(
    frames: Iterable[tuple[float, Boxes]], fps: float, options: TrackOptions | None = None
) -> Iterator[NDArray[np.int64]]:
    """Yield the track ids of each frame's boxes, through one video from its first frame to its last.

    Classes are followed separately, so that a person does not turn into a bicycle. A track that begins alone where one
    was just lost is the same person, because the tracker loses a falling person on the way down. No track continues
    across a gap in the video longer than the options' `gap_s`. Ids start at 1 and stay unique even then.

    Args:
        frames: `(time in seconds, boxes)` of every sampled frame, including frames without boxes.
        fps: Usual number of frames per second.
        options: Options for joining boxes into tracks.
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
        # A class seen before is updated at every frame, even at those without it, so that its gaps are counted.
        for class_id in sorted({*followers, *boxes.class_ids.tolist()}):
            of_class = boxes.class_ids == class_id
            follower = followers.get(class_id) or followers.setdefault(class_id, _Follower(fps, options, numbers))
            track_ids[of_class] = follower.update(
                time_s, Boxes(boxes.xyxy[of_class], boxes.scores[of_class], boxes.class_ids[of_class])
            )
        yield track_ids
