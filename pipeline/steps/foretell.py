"""Forecast the paths of the people in a video: make rows of `forecasts` from its boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import digest
from pipeline.errors import UsageError
from pipeline.lake import schemas
from pipeline.lake.store import model_folder
from pipeline.motion.forecaster_bundle import HEIGHTS, METRES, ForecasterBundle
from pipeline.motion.ground import Ground
from pipeline.motion.trajectories import Trajectory, Windows, cut_windows, feet_of, on_grid, rows_by

_EPSILON = 1e-6
# A path counts as seen if its boxes are missing for no longer than this.
_GAP_S = 1.0
# A person is out of sight if the last box is older than this.
_IN_SIGHT_S = 0.3
# A path has left the picture if its distance to the camera falls below this share of the person's distance now.
_NEAREST = 0.1
# At most this many forecasts are made at a time.
_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class ForetellOptions:
    """Which forecasts are made."""

    horizon_s: float | None = None
    """How far ahead. None: as far as the forecaster was trained for."""
    every_s: float | None = None
    """Forecasts are made at multiples of this, itself a multiple of the forecaster's step. None: at each step."""

    def steps(self, bundle: ForecasterBundle) -> tuple[int, int]:
        """Return the number of steps that are forecast, and the number of steps between two forecasts.

        Raises:
            UsageError: The forecaster does not reach that far, or `every_s` is not a multiple of its step.
        """
        horizon_s = bundle.longest_s if self.horizon_s is None else self.horizon_s
        every_s = bundle.step_s if self.every_s is None else self.every_s
        n_ahead = int(np.floor(horizon_s / bundle.step_s + _EPSILON)) if np.isfinite(horizon_s) else 0
        if not 1 <= n_ahead <= bundle.longest_s / bundle.step_s + _EPSILON:
            raise UsageError(
                f"--horizon {horizon_s:g}: forecaster {bundle.name!r} tells {bundle.step_s:g} to {bundle.longest_s:g} "
                "s ahead; train one for more with `actionlake train-forecaster --ahead`"
            )
        every = every_s / bundle.step_s if np.isfinite(every_s) else 0.0
        if every < 1 - _EPSILON or abs(every - round(every)) > _EPSILON:
            raise UsageError(
                f"--every {every_s:g}: forecaster {bundle.name!r} goes in steps of {bundle.step_s:g} s; name a "
                "multiple of that"
            )
        return n_ahead, round(every)


def forecasts_folder(bundle: ForecasterBundle) -> str:
    """Return the folder of a lake in which a forecaster's rows lie."""
    return model_folder("forecasts", bundle.name)


class Foreteller:
    """Makes forecasts with one forecaster, video by video."""

    def __init__(self, bundle: ForecasterBundle, options: ForetellOptions, ground: Ground | None = None) -> None:
        """Take the forecaster.

        Args:
            bundle: The forecaster.
            options: Which forecasts to make.
            ground: The ground that people walk on, for a forecaster of metres.

        Raises:
            UsageError: The options do not fit the forecaster, or its unit needs a ground or excludes one.
        """
        if bundle.unit == METRES and ground is None:
            raise UsageError(
                f"forecaster {bundle.name!r} was trained on metres, and the lake holds pixels; name the camera's "
                "ground with --ground H.csv, or a forecaster of heights"
            )
        if bundle.unit == HEIGHTS and ground is not None:
            raise UsageError(
                f"forecaster {bundle.name!r} was trained on heights of people in the picture; leave --ground out, or "
                "name a forecaster of metres"
            )
        self.bundle, self._ground = bundle, ground
        self._n_ahead, self._every = options.steps(bundle)

    @property
    def facts(self) -> dict[str, Any]:
        """What the footer of a part tells about how the part was made."""
        ground = self._ground.matrix.tolist() if self._ground is not None else None
        options = {"spec": self.bundle.options_digest, "ahead": self._n_ahead, "every": self._every, "ground": ground}
        return {"model": self.bundle.name, "model_sha256": self.bundle.sha256, "model_options": digest(options)}

    def foretell(
        self, video_id: str, time_s: NDArray[np.float64], track_ids: NDArray[np.int64], xyxy: NDArray[np.float32]
    ) -> Iterator[pa.Table]:
        """Yield the rows of a video, some forecasts at a time, sorted by `made_at_s`, `track_id`, `horizon_s`.

        A person gets no forecast if they are out of sight, or were not seen for as long as the forecaster looks back.

        Args:
            video_id: The video.
            time_s: `float64 [N]`: when each box was seen; rising within a track.
            track_ids: `int64 [N]`: the track of each box.
            xyxy: `float32 [N, 4]`, source pixels.
        """
        rows_of = rows_by(track_ids)
        paths = [Trajectory.of_boxes(time_s[rows], xyxy[rows], self._ground) for rows in rows_of]
        grid = on_grid(paths, self.bundle.step_s, _GAP_S)
        windows = cut_windows(grid, self.bundle.n_observed, 0, int(self.bundle.spec["n_others"]), self._every)
        # Tracks are already sorted by id, and a stable sort keeps that order.
        windows = windows.take(np.argsort(windows.step, kind="stable"))
        # Rounded, so that 7 steps of 0.4 s are written as 2.8 s.
        made_at_s = np.round(windows.step.astype(np.float64) * self.bundle.step_s, 9)
        box = _last_boxes(rows_of, time_s, windows.who, made_at_s)
        # Between two boxes that are far apart in time, a position is known only afterwards.
        in_sight = np.flatnonzero(made_at_s - time_s[box] <= _IN_SIGHT_S)
        for start in range(0, len(in_sight), _AT_ONCE):
            some = in_sight[start : start + _AT_ONCE]
            yield self._rows(video_id, windows.take(some), track_ids[box[some]], made_at_s[some], xyxy[box[some]])

    def _rows(
        self,
        video_id: str,
        windows: Windows,
        track_ids: NDArray[np.int64],
        made_at_s: NDArray[np.float64],
        boxes: NDArray[np.float32],
    ) -> pa.Table:
        places, covariance = self._in_pixels(windows)
        n, ahead = len(windows), self._n_ahead
        deviation = np.sqrt(covariance[..., [0, 1], [0, 1]])
        moved = (boxes[:, None] + np.tile(places - feet_of(boxes)[:, None], 2)).astype(np.float32).reshape(-1, 4)
        columns = {
            "video_id": pa.repeat(video_id, n * ahead),
            "track_id": np.repeat(track_ids, ahead),
            "made_at_s": np.repeat(made_at_s, ahead),
            "horizon_s": np.tile(np.round(np.arange(1, ahead + 1) * self.bundle.step_s, 9), n),
            "x": places[..., 0].reshape(-1),
            "y": places[..., 1].reshape(-1),
            "sx": deviation[..., 0].reshape(-1),
            "sy": deviation[..., 1].reshape(-1),
            "rho": (covariance[..., 0, 1] / deviation.prod(axis=-1)).reshape(-1),
            **{name: np.ascontiguousarray(side) for name, side in zip(("x1", "y1", "x2", "y2"), moved.T, strict=True)},
        }
        arrays = [pa.array(columns[field.name]).cast(field.type) for field in schemas.FORECASTS]
        return pa.table(arrays, schema=schemas.FORECASTS)

    def _in_pixels(self, windows: Windows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return places `float64 [N, n_ahead, 2]` and their covariances `float64 [N, n_ahead, 2, 2]`, in pixels."""
        import torch

        told = self.bundle.model.in_batches(
            *(torch.from_numpy(values) for values in (windows.places, windows.others, windows.present))
        )
        moments = [mixture.at_each_step(self.bundle.spec["spread"]) for _, mixture in told]
        mean, spread = (torch.cat(parts)[:, : self._n_ahead].double().numpy() for parts in zip(*moments, strict=True))
        size = windows.size[:, None, None]
        places = windows.origin[:, None] + mean * size
        covariance = spread[..., [[0, 2], [2, 1]]] * size[..., None] ** 2
        if self._ground is None:
            return places, covariance
        # A person who passes the camera leaves the picture at its edge; the path stays there.
        before = self._ground.depth(places) / self._ground.depth(windows.origin)[:, None] > _NEAREST
        last = np.logical_and.accumulate(before, axis=1).sum(axis=1) - 1
        step = np.minimum(np.arange(self._n_ahead), last[:, None])
        rows = np.arange(len(windows))[:, None]
        places = np.where(step[..., None] < 0, windows.origin[:, None], places[rows, step])
        covariance = covariance[rows, step.clip(0)]
        return self._ground.to_pixels(places), self._ground.spread_in_pixels(places, covariance)


def _last_boxes(
    rows_of: Sequence[NDArray[np.int64]],
    time_s: NDArray[np.float64],
    who: NDArray[np.int64],
    at_s: NDArray[np.float64],
) -> NDArray[np.int64]:
    """Return the row `int64 [N]` of the last box of each track that was seen at or before a time."""
    last = np.empty(len(who), np.int64)
    for part in rows_by(who):
        rows = rows_of[int(who[part[0]])]
        place = np.searchsorted(time_s[rows], at_s[part] + _EPSILON, side="right") - 1
        last[part] = rows[place.clip(0)]
    return last
