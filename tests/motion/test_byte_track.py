"""What is expected is always what the tracker of Ultralytics says of the same boxes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ultralytics.trackers.byte_tracker import BYTETracker

import pipeline
from pipeline.motion.byte_track import ByteTrack

Frames = Sequence[tuple[np.ndarray, np.ndarray]]
"""Boxes and scores of each frame."""


@dataclass(frozen=True)
class Detections:
    """Boxes as Ultralytics' tracker reads them."""

    xyxy: np.ndarray
    conf: np.ndarray

    @property
    def cls(self) -> np.ndarray:
        return np.zeros(len(self.conf))

    @property
    def xywh(self) -> np.ndarray:
        sides = self.xyxy[:, 2:] - self.xyxy[:, :2]
        return np.concatenate([self.xyxy[:, :2] + sides / 2, sides], axis=1)

    def __getitem__(self, chosen: np.ndarray) -> Detections:
        return Detections(self.xyxy[chosen], self.conf[chosen])

    def __len__(self) -> int:
        return len(self.conf)


def same_ids(frames: Frames, new_score: float = 0.25, most_lost: int = 20) -> list[list[int]]:
    """Return the ids of every frame's boxes, which are as expected; so is what is remembered after the last."""
    tracker = ByteTrack(new_score, most_lost)
    expected = BYTETracker(
        SimpleNamespace(
            track_high_thresh=new_score, track_low_thresh=min(0.1, new_score), new_track_thresh=new_score,
            track_buffer=most_lost, match_thresh=0.8, fuse_score=True,
        )
    )  # fmt: skip
    all_ids = []
    for xyxy, scores in frames:
        ids = [0] * len(scores)
        for *_, track, _, _, box in expected.update(Detections(xyxy, scores)):
            ids[int(box)] = int(track)
        assert tracker.update(xyxy, scores).tolist() == ids
        all_ids.append(ids)
    tracks = expected.tracked_stracks + expected.lost_stracks
    assert tracker._tracks["id"].tolist() == [track.track_id for track in tracks]
    for ours, track in zip(tracker._tracks, tracks, strict=True):
        # Ultralytics has four values, then how they change.
        np.testing.assert_allclose(ours["mean"].T.ravel(), track.mean, rtol=1e-9, atol=1e-12)
        together = track.covariance.reshape(2, 4, 2, 4)
        for value in range(4):
            np.testing.assert_allclose(ours["covariance"][value], together[:, value, :, value], rtol=1e-9)
    return all_ids


def absences(all_ids: Sequence[Sequence[int]]) -> list[int]:
    """Return after how many frames tracks were found again."""
    when: dict[int, list[int]] = {}
    for number, ids in enumerate(all_ids):
        for track in set(ids) - {0}:
            when.setdefault(track, []).append(number)
    return [after - before for seen in when.values() for before, after in pairwise(seen) if after - before > 1]


def test_people_on_a_street_get_the_same_ids(street: Path) -> None:
    found = pipeline.detect(pipeline.decode(street, fps=10), detector="person_nano", min_score=0.1)
    frames = [(boxes.xyxy, boxes.scores) for boxes in found]
    ids = same_ids(frames)
    # Some are lost and found again, and some are followed by boxes of low scores.
    assert absences(ids)
    assert any(
        ((scores < 0.25) & (np.array(of_frame) > 0)).any() for (_, scores), of_frame in zip(frames, ids, strict=True)
    )
    for new_score, most_lost in ((0.25, 3), (0.5, 5), (0.7, 1)):
        same_ids(frames, new_score, most_lost)


@dataclass(frozen=True)
class Crowd:
    """People who walk about at random, and what a detector may make of them."""

    seed: int
    n: int
    side_px: float
    """They walk in a square of this side."""
    pace_px: float
    unseen: float
    """The share of people who are not found in a frame; as many are found twice."""
    weak: float
    """What share of scores is low."""
    grid_px: float
    """Boxes lie on a grid, so that some are equal, and costs are, too."""

    def frames(self, n_frames: int) -> Frames:
        random = np.random.default_rng(self.seed)
        places = random.uniform(0, self.side_px, (self.n, 2))
        paces = random.normal(0, self.pace_px, (self.n, 2))
        sides = random.uniform(15, 60, (self.n, 1)) * random.uniform([0.5, 1.5], [1.5, 3], (self.n, 2))
        frames = []
        for _ in range(n_frames):
            paces = paces + random.normal(0, self.pace_px / 4, paces.shape)
            places = np.abs(places + paces)
            places = np.where(places > self.side_px, 2 * self.side_px - places, places)
            found = np.flatnonzero(random.random(self.n) >= self.unseen)
            found = np.concatenate([found, found[random.random(len(found)) < self.unseen]])
            # Something big may hide all but one.
            if random.random() < self.unseen:
                found = found[:1]
            noise = random.normal(0, 2, (2, len(found), 2))
            size = sides[found] + noise[1]
            size[random.random(size.shape) < 0.03] = 0
            corner = places[found] - sides[found] / 2 + noise[0]
            xyxy = np.hstack([corner, corner + size])
            if self.grid_px:
                xyxy = np.round(xyxy / self.grid_px) * self.grid_px
            scores = np.where(random.random(len(found)) < self.weak, *random.uniform([[0], [0.3]], 1, (2, len(found))))
            order = np.argsort(-scores)
            frames.append((xyxy[order].astype(np.float32), scores[order].astype(np.float32)))
        return frames


CROWDS = st.builds(
    Crowd,
    seed=st.integers(0, 2**32 - 1),
    n=st.sampled_from([1, 2, 4, 9, 20]),
    side_px=st.sampled_from([60, 150, 400]),
    pace_px=st.sampled_from([0, 1, 4, 10]),
    unseen=st.sampled_from([0, 0.05, 0.2, 0.5]),
    weak=st.sampled_from([0, 0.3, 0.8]),
    grid_px=st.sampled_from([0, 1, 8]),
)


@settings(max_examples=80, deadline=None)
@given(CROWDS, st.sampled_from([0.0, 0.05, 0.25, 0.6]), st.sampled_from([1, 2, 5, 30]))
def test_any_crowd_gets_the_same_ids(crowd: Crowd, new_score: float, most_lost: int) -> None:
    same_ids(crowd.frames(50), new_score, most_lost)


ROWS = st.lists(
    st.lists(st.tuples(st.integers(0, 8), st.sampled_from([0.1, 0.25, 0.6, 0.9])), max_size=5), min_size=4, max_size=12
)
"""Frames of people: the number of a place, and a score."""


@settings(max_examples=400, deadline=None)
@given(ROWS, st.sampled_from([0.005, 0.1, 1 / 3, 1]), st.sampled_from([0.1, 0.25, 0.6]), st.sampled_from([1, 4]))
def test_where_costs_are_equal_the_order_of_tracks_decides(
    rows: list[list[tuple[int, float]]], px: float, new_score: float, most_lost: int
) -> None:
    """People of one size stand in a row, so that a box lies as near to one as to another."""
    frames = []
    for row in rows:
        lefts = np.array([place for place, _ in row]).reshape(-1, 1) * 10
        xyxy = np.hstack([lefts, lefts * 0 + 7, lefts + 40, lefts * 0 + 107]) * px
        frames.append((xyxy.astype(np.float32), np.array([score for _, score in row], np.float32)))
    same_ids(frames, new_score, most_lost)


def people(*lefts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a frame with people at some places."""
    xyxy = np.array([[left, 50, left + 40, 150] for left in lefts], np.float32).reshape(-1, 4)
    return xyxy, np.full(len(lefts), 0.9, np.float32)


def test_one_who_was_removed_and_came_back_is_not_waited_for_again() -> None:
    """A removed track is still found in the next frame. It counts as removed until 1000 others are."""
    back = [people(10)] * 2 + [people()] * 3 + [people(10)]
    again = [people(), people(10), people(10)]
    assert same_ids([*back, *again], most_lost=2)[-4:] == [[1], [], [0], [2]]
    for n_others, expected in ((1000, 1002), (1001, 1)):
        others = [people(10, 500 + 100 * number) for number in range(n_others)]
        assert same_ids([*back, *others, *again], most_lost=2)[-1] == [expected]


def test_following_needs_neither_pytorch_nor_ultralytics() -> None:
    program = """
import sys
import numpy as np
from pipeline.motion.tracking import track_video
from pipeline.vision.detector import Boxes
boxes = Boxes(np.array([[0, 0, 9, 9]], np.float32), np.ones(1, np.float32), np.zeros(1, np.int32))
assert [ids.tolist() for ids in track_video([(0.0, boxes), (0.1, boxes)], 10.0)] == [[1], [1]]
assert not {"torch", "ultralytics"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
