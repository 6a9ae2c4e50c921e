"""ByteTrack: join the boxes of successive frames into tracks, including boxes with low scores.

After Zhang et al. 2022, "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", arXiv 2110.06864. The
ids are the same as those of Ultralytics' implementation, which imports PyTorch.
"""

from __future__ import annotations

import lap
import numpy as np
from numpy.typing import NDArray

LOW_SCORE = 0.1
"""Boxes with at most this score belong to no track."""
# A track and a box with a higher cost do not match. The cost is 1 minus the overlap (IoU). Overlaps with strong boxes
# are multiplied by the score, so that the surer of two boxes wins. A track of only one box is unsure and matched last.
_STRONG_LIMIT, _WEAK_LIMIT, _UNSURE_LIMIT = 0.8, 0.5, 0.7
# A followed track and a lost track are the same below this cost.
_SAME_LIMIT = 0.15
# Number of removed tracks that are remembered.
_MOST_REMOVED = 1000

_TRACK = np.dtype(
    [
        ("id", np.int64),
        # Centre x and y, aspect (width by height) and height, in pixels; each with its change per frame.
        ("mean", np.float64, (4, 2)),
        # Uncertainty of a value and its change. The four values are independent of each other.
        ("covariance", np.float64, (4, 2, 2)),
        ("first", np.int64),  # the first and the last frame with it
        ("last", np.int64),
        ("sure", np.bool_),  # seen twice, or in the first frame
        ("lost", np.bool_),
        ("box", np.int64),  # its number in the frame; -1: none
    ]
)
_Tracks = NDArray[np.void]  # records of `_TRACK`


class ByteTrack:
    """Follows objects of one class through an unbroken stretch of video."""

    def __init__(self, new_score: float, most_lost: int) -> None:
        """Start without memory.

        Args:
            new_score: A track begins with a box of at least this score, 0 to 1; weaker boxes only continue it.
            most_lost: A track that was not seen for more than this many frames is removed.
        """
        self._new_score, self._most_lost = new_score, most_lost
        self._frame = self._n_tracks = 0
        # The followed tracks, then the lost ones. If costs are equal, their order decides.
        self._tracks: _Tracks = np.empty(0, _TRACK)
        self._removed = np.empty(0, np.int64)

    def update(self, xyxy: NDArray[np.float32], scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """Take the boxes of the next frame and return their tracks.

        Args:
            xyxy: `float32 [N, 4]`: left, top, right, bottom in pixels. A box without width or height has no track.
            scores: `float32 [N]`, 0 to 1.

        Returns:
            `int64 [N]`: ids from 1 on, each for one box at most; 0 for boxes that belong to no track, or to one that
            has been seen only once and not in the first frame.
        """
        self._frame += 1
        measured, corners = _measure(xyxy)
        has_area = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
        strong = np.flatnonzero(has_area & (scores >= self._new_score))
        weak = np.flatnonzero(has_area & (scores > min(LOW_SCORE, self._new_score)) & (scores < self._new_score))

        tracks = self._tracks
        sure, unsure = np.flatnonzero(tracks["sure"]), np.flatnonzero(~tracks["sure"])
        tracks[sure] = _predict(tracks[sure])
        tracks["box"] = -1
        costs = 1 - overlaps(_corners(tracks), corners)
        by_score = 1 - (1 - costs) * scores
        strong = _match(tracks, sure, strong, by_score, _STRONG_LIMIT)
        _match(tracks, sure[(tracks["box"][sure] < 0) & ~tracks["lost"][sure]], weak, costs, _WEAK_LIMIT)
        strong = _match(tracks, unsure, strong, by_score, _UNSURE_LIMIT)

        seen = tracks["box"] >= 0
        tracks[seen] = _correct(tracks[seen], measured[tracks["box"][seen]])
        tracks["last"][seen] = self._frame
        followed = self._keep(seen, self._begin(strong, measured[strong]))
        ids = np.zeros(len(scores), np.int64)
        told = followed[followed["sure"]]
        ids[told["box"]] = told["id"]
        return ids

    def _begin(self, boxes: NDArray[np.int64], measured: NDArray[np.float32]) -> _Tracks:
        """Return new tracks that begin with boxes `[N]` of the frame."""
        tracks = np.zeros(len(boxes), _TRACK)
        tracks["id"] = self._n_tracks + 1 + np.arange(len(boxes))
        self._n_tracks += len(boxes)
        tracks["box"], tracks["first"], tracks["last"] = boxes, self._frame, self._frame
        tracks["sure"] = self._frame == 1
        tracks["mean"][..., 0] = measured
        height = tracks["mean"][:, 3, 0]
        tracks["covariance"][..., 0, 0] = _spread(height, 2 / 20, 1e-2) ** 2
        tracks["covariance"][..., 1, 1] = _spread(height, 10 / 160, 1e-5) ** 2
        return tracks

    def _keep(self, seen: NDArray[np.bool_], new: _Tracks) -> _Tracks:
        """Keep the tracks for the next frame, and return the followed ones; `seen [N]` says which have a box.

        As in the original, a removed track may still be matched in the next frame, but is not kept when it is lost
        again.
        """
        tracks = self._tracks
        sure, lost = tracks["sure"].copy(), tracks["lost"].copy()
        tracks["sure"] |= seen
        tracks["lost"] = ~seen
        followed = np.concatenate([tracks[seen & ~lost], new, tracks[seen & lost]])
        missing = np.concatenate([tracks[~seen & lost], tracks[~seen & ~lost & sure]])
        missing = missing[~np.isin(missing["id"], self._removed)]
        stale = ~seen & lost & (self._frame - tracks["last"] > self._most_lost)
        removed = [self._removed, tracks["id"][~seen & ~sure], tracks["id"][stale]]
        self._removed = np.concatenate(removed)[-_MOST_REMOVED:]

        # If two tracks are the same, the one that was known for longer stays.
        same = 1 - overlaps(_corners(followed), _corners(missing)) < _SAME_LIMIT
        older = (followed["last"] - followed["first"])[:, None] > missing["last"] - missing["first"]
        kept: _Tracks = followed[~(same & ~older).any(axis=1)]
        self._tracks = np.concatenate([kept, missing[~(same & older).any(axis=0)]])
        return kept


def _match(
    tracks: _Tracks, rows: NDArray[np.int64], boxes: NDArray[np.int64], costs: NDArray[np.float32], limit: float
) -> NDArray[np.int64]:
    """Assign boxes to the tracks `rows` at the least cost, and return the boxes that are left over.

    Costs are `float32 [tracks, boxes]` for the whole frame; no pair may cost more than the limit.
    """
    if not len(rows) or not len(boxes):
        return boxes
    _, box_of, row_of = lap.lapjv(costs[np.ix_(rows, boxes)], extend_cost=True, cost_limit=limit)
    found = box_of >= 0
    tracks["box"][rows[found]] = boxes[box_of[found]]
    remaining: NDArray[np.int64] = boxes[row_of < 0]
    return remaining


def _measure(xyxy: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return boxes as centre, aspect and height, and as corners again, `float32 [N, 4]` each.

    The conversion from corner to centre and back is that of Ultralytics: the last bits may decide between two boxes.
    """
    sides = xyxy[:, 2:] - xyxy[:, :2]
    corner = xyxy[:, :2] + sides / 2 - sides / 2
    with np.errstate(divide="ignore", invalid="ignore"):  # boxes without height are not used
        aspect = sides[:, :1] / sides[:, 1:]
    return np.hstack([corner + sides / 2, aspect, sides[:, 1:]]), np.hstack([corner, corner + sides])


def _corners(tracks: _Tracks) -> NDArray[np.float32]:
    """Return the boxes of tracks, `float32 [N, 4]`: left, top, right, bottom."""
    x, y, aspect, height = tracks["mean"][..., 0].T
    sides = np.stack([aspect * height, height], axis=1)
    corner = np.stack([x, y], axis=1) - sides / 2
    return np.hstack([corner, corner + sides]).astype(np.float32)


def overlaps(some: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the intersection over union of boxes `[N, 4]` and `[M, 4]`, given by corners, `float32 [N, M]`."""
    some = some[:, None]
    common = np.minimum(some[..., 2:], others[:, 2:]) - np.maximum(some[..., :2], others[:, :2])
    common_area = common.clip(0).prod(axis=-1)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=-1) + (some[..., 2:] - some[..., :2]).prod(axis=-1)
    return np.asarray(common_area / (areas - common_area + 1e-7), np.float32)


def _spread(height: NDArray[np.float64], share: float, of_aspect: float) -> NDArray[np.float64]:
    """Return standard deviations `float64 [N, 4]`: a share of heights `[N]`, but `of_aspect` for the aspect."""
    spread = np.repeat((share * height)[:, None], 4, axis=1)
    spread[:, 2] = of_aspect
    return spread


def _predict(tracks: _Tracks) -> _Tracks:
    """Move tracks ahead by one frame: the first step of a Kalman filter with constant speed."""
    mean, covariance = tracks["mean"], tracks["covariance"]
    height = mean[:, 3, 0]
    noise = np.stack([_spread(height, 1 / 20, 1e-2), _spread(height, 1 / 160, 1e-5)], axis=-1) ** 2
    # A lost track does not grow.
    mean[tracks["lost"], 3, 1] = 0
    mean[..., 0] += mean[..., 1]
    covariance[..., 0, :] += covariance[..., 1, :]
    covariance[..., :, 0] += covariance[..., :, 1]
    covariance[..., [0, 1], [0, 1]] += noise
    return tracks


def _correct(tracks: _Tracks, measured: NDArray[np.float32]) -> _Tracks:
    """Correct tracks by the measurements `[N, 4]`: the second step of the filter."""
    mean, covariance = tracks["mean"], tracks["covariance"]
    total = (covariance[..., 0, 0] + _spread(mean[:, 3, 0], 1 / 20, 1e-1) ** 2)[..., None]
    # The product, unlike a quotient, equals LAPACK's result for Ultralytics to the last bit.
    gain = covariance[..., :, 0] * (1 / total)
    mean += gain * (measured - mean[..., 0])[..., None]
    covariance -= gain[..., :, None] * (total * gain)[..., None, :]
    return tracks
