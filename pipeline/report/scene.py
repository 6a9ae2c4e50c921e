"""The people in a stretch of a video, their positions and activities: the content of the overlay."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.lake.forecasts import TrackForecasts, read_forecasts
from pipeline.lake.query import LakeReader
from pipeline.motion.trajectories import feet_of, rows_by

# Seconds of the past path that are shown with a forecast.
PAST_S = 3.0
SHOWN_S = 1.0
"""A forecast is shown for this many seconds after it was made, or until there is a newer one."""
_EPSILON_S = 1e-6
# Between two views of a person, the box is interpolated. Longer gaps than this, in seconds, are not bridged.
_BRIDGED_S = 0.5


@dataclass(frozen=True)
class Path:
    """The path of a person's feet around the time of a forecast, in source pixels."""

    past: NDArray[np.float64]
    """`float64 [N, 2]`: positions up to the forecast."""
    foretold: NDArray[np.float64]
    """`float64 [P, 2]`: forecast positions."""
    spread: NDArray[np.float64]
    """`float64 [P, 3]`: standard deviations of the forecast in x and y, and their correlation."""
    came_true: NDArray[np.float64]
    """`float64 [M, 2]`: true positions in the time of the forecast, as far as they were seen."""


@dataclass(frozen=True)
class Person:
    """A person at one moment, in pixels of the source video."""

    track_id: int
    xyxy: NDArray[np.float32]
    """`float32 [4]`."""
    keypoints: NDArray[np.float32]
    """`float32 [K, 3]`: x, y, score; K is 0 where they are unknown."""
    kind: str = "person"
    """Class of the detector."""
    label: str | None = None
    """The activity, if a segment gives one."""
    path: Path | None = None
    """The past, the forecast and the true path."""

    @property
    def caption(self) -> str:
        """The text beside the box."""
        return f"{self.kind} {self.track_id}" + (f": {self.label}" if self.label else "")


@dataclass(frozen=True)
class TrackViews:
    """The views of one track in a stretch, in order of time."""

    kind: str
    """Class of the detector."""
    pts_s: NDArray[np.float64]
    """`float64 [N]`."""
    xyxy: NDArray[np.float32]
    """`float32 [N, 4]`."""
    keypoints: NDArray[np.float32]
    """`float32 [N, K, 3]`."""

    def at(self, time_s: float) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return box and keypoints at a time, interpolated between two views. None: the person is not in sight.

        The score of a keypoint is the lower one of both views.
        """
        after = int(np.searchsorted(self.pts_s, time_s, side="right"))
        before = after - 1
        if before < 0:
            return None
        gap_s = self.pts_s[after] - self.pts_s[before] if after < len(self.pts_s) else np.inf
        if gap_s > _BRIDGED_S:
            near = time_s - self.pts_s[before] <= _BRIDGED_S / 2
            return (self.xyxy[before], self.keypoints[before]) if near else None
        share = np.float32((time_s - self.pts_s[before]) / gap_s)
        xyxy = self.xyxy[before] + share * (self.xyxy[after] - self.xyxy[before])
        keypoints = self.keypoints[before] + share * (self.keypoints[after] - self.keypoints[before])
        keypoints[:, 2] = np.minimum(self.keypoints[before, :, 2], self.keypoints[after, :, 2])
        return xyxy, keypoints

    def feet(self, start_s: float, end_s: float) -> NDArray[np.float64]:
        """Return the positions of the feet between two times, both included, `float64 [N, 2]`."""
        return feet_of(self.xyxy[(self.pts_s >= start_s - _EPSILON_S) & (self.pts_s <= end_s + _EPSILON_S)])


@dataclass(frozen=True)
class Scene:
    """The tracks of a stretch of a video, with their segments and forecasts."""

    tracks: dict[int, TrackViews]
    segments: dict[int, list[tuple[float, float, str, float]]]
    """By track id: a list of `(start_s, end_s, label, score)`."""
    forecasts: dict[int, TrackForecasts] = field(default_factory=dict)
    """By track id."""

    def at(self, time_s: float) -> list[Person]:
        """Return the people in sight at a time, sorted by track id."""
        people = []
        for track_id, views in sorted(self.tracks.items()):
            found = views.at(time_s)
            if found is not None:
                label, path = self._label(track_id, time_s), self._path(track_id, time_s)
                people.append(Person(track_id, *found, views.kind, label, path))
        return people

    def _label(self, track_id: int, time_s: float) -> str | None:
        running = [
            (score, label) for start, end, label, score in self.segments.get(track_id, ()) if start <= time_s < end
        ]
        return max(running)[1] if running else None

    def _path(self, track_id: int, time_s: float) -> Path | None:
        told, views = self.forecasts.get(track_id), self.tracks[track_id]
        number = told.last_before(time_s, SHOWN_S) if told is not None else None
        if told is None or number is None:
            return None
        made_at_s = float(told.made_at_s[number])
        return Path(
            views.feet(made_at_s - PAST_S, made_at_s),
            told.mean[number],
            np.column_stack([told.deviation[number], told.rho[number]]),
            views.feet(made_at_s, made_at_s + float(told.horizon_s[-1])),
        )


def read_scene(
    lake: LakeReader, video_id: str, start_s: float = 0.0, end_s: float = float("inf"), model: str | None = None
) -> Scene:
    """Read the people from `start_s` to `end_s` of a video, and their activities as labelled by a model.

    Forecasts are those of the forecaster that is first by name.

    Args:
        lake: The lake with the boxes.
        video_id: The video.
        start_s: Seconds into the video.
        end_s: Seconds into the video; the end is excluded.
        model: The model whose segments are read. None: all models; the segment with the highest score gives the label.
    """
    forecaster, forecasts = next(iter(lake.store.models("forecasts")), None), dict[int, TrackForecasts]()
    since_s, until_s = start_s, end_s
    if forecaster is not None:
        forecasts = read_forecasts(lake, video_id, forecaster, start_s - SHOWN_S, end_s)
        # Paths begin before the shown stretch and end after it.
        since_s -= SHOWN_S + PAST_S
        until_s += max((float(told.horizon_s[-1]) for told in forecasts.values()), default=0.0)
    followed = pc.field("track_id").is_valid() & (pc.field("pts_s") >= since_s) & (pc.field("pts_s") < until_s)
    columns = ["track_id", "label", "pts_s", "x1", "y1", "x2", "y2", "keypoints"]
    boxes = lake.rows_of("detections", video_id, columns, followed).sort_by(
        [("track_id", "ascending"), ("pts_s", "ascending")]
    )
    track_ids = boxes["track_id"].to_numpy()
    xyxy = np.stack([boxes[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1).astype(np.float32)
    keypoints, pts_s, kinds = _keypoints(boxes["keypoints"]), boxes["pts_s"].to_numpy(), boxes["label"].to_pylist()
    tracks = {
        int(track_ids[part[0]]): TrackViews(kinds[part[0]], pts_s[part], xyxy[part], keypoints[part])
        for part in rows_by(track_ids)
    }
    segments: dict[int, list[tuple[float, float, str, float]]] = defaultdict(list)
    said = pc.field("track_id").is_valid()
    said &= (pc.field("start_s") < end_s) & (pc.field("end_s") > start_s)
    if model is not None:
        said &= pc.field("model") == model
    for row in lake.rows_of("segments", video_id, ["track_id", "start_s", "end_s", "label", "score"], said).to_pylist():
        segments[row["track_id"]].append((row["start_s"], row["end_s"], row["label"], row["score"]))
    return Scene(tracks, segments, forecasts)


def _keypoints(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """Return a column of keypoints as `float32 [N, K, 3]`. K is 0 if some rows have none."""
    if not len(column) or column.null_count:
        return np.empty((len(column), 0, 3), np.float32)
    numbers = column.combine_chunks().flatten().flatten().to_numpy()
    points: NDArray[np.float32] = numbers.reshape(len(column), -1, 3)
    return points
