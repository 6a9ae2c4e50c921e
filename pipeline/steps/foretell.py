"""Foretell the paths of the people of a video: rows of `forecasts`, out of its boxes."""

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
# A box may be missing for so long in the past, and the path still counts as seen.
_GAP_S = 1.0
# Who was not seen for longer than this, now, is out of sight.
_IN_SIGHT_S = 0.3
# Nearer to the camera than this share of how far away somebody is now, a path has left the picture.
_NEAREST = 0.1
# So many forecasts are made at a time.
_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class ForetellOptions:
    """What is foretold."""

    horizon_s: float | None = None
    """How far ahead. None: as far as the forecaster was trained for."""
    every_s: float | None = None
    """Forecasts are made at multiples of this, which is one of the forecaster's step. None: at each step."""

    def steps(self, bundle: ForecasterBundle) -> tuple[int, int]:
        """Return how many steps ahead are told, and how many lie between two forecasts.

        Raises:
            UsageError: The forecaster does not reach so far, or does not step so.
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
    """Return where a forecaster's rows lie in a lake."""
    return model_folder("forecasts", bundle.name)


class Foreteller:
    """Foretells with one forecaster, video by video."""

    def __init__(self, bundle: ForecasterBundle, options: ForetellOptions, ground: Ground | None = None) -> None:
        """Take the forecaster.

        Args:
            bundle: The forecaster.
            options: What is foretold.
            ground: The ground that people walk on, for a forecaster of metres.

        Raises:
            UsageError: The forecaster does not reach so far, or its unit wants a ground or none.
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
        """What the footer of a part says of how it was made."""
        ground = self._ground.matrix.tolist() if self._ground is not None else None
        options = {"spec": self.bundle.options_digest, "ahead": self._n_ahead, "every": self._every, "ground": ground}
        return {"model": self.bundle.name, "model_sha256": self.bundle.sha256, "model_options": digest(options)}

    def foretell(
        self, video_id: str, time_s: NDArray[np.float64], track_ids: NDArray[np.int64], xyxy: NDArray[np.float32]
    ) -> Iterator[pa.Table]:
        """Yield the rows of a video, some forecasts at a time, sorted by `made_at_s`, `track_id`, `horizon_s`.

        There is none for somebody who was not seen for as long as the forecaster looks back, or who is out of sight.

        Args:
            video_id: The video.
            time_s: `float64 [N]`: when each box was seen; rising within a track.
            track_ids: `int64 [N]`: whose it is.
            xyxy: `float32 [N, 4]`, source pixels.
        """
        rows_of = rows_by(track_ids)
        paths = [Trajectory.of_boxes(time_s[rows], xyxy[rows], self._ground) for rows in rows_of]
        grid = on_grid(paths, self.bundle.step_s, _GAP_S)
        windows = cut_windows(grid, self.bundle.n_observed, 0, int(self.bundle.spec["n_others"]), self._every)
        # Tracks stand by id already: within a time they stay so.
        windows = windows.take(np.argsort(windows.step, kind="stable"))
        # Rounded, so that 7 steps of 0.4 s are 2.8 s, as one would write it.
        made_at_s = np.round(windows.step.astype(np.float64) * self.bundle.step_s, 9)
        box = _last_boxes(rows_of, time_s, windows.who, made_at_s)
        # Between two boxes that are far apart, where somebody is now is known afterwards alone.
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
        # Who passes the camera leaves the picture at its edge, and stays there.
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
    """Return which row `int64 [N]` is the last box of each track that was seen by a time."""
    last = np.empty(len(who), np.int64)
    for part in rows_by(who):
        rows = rows_of[int(who[part[0]])]
        place = np.searchsorted(time_s[rows], at_s[part] + _EPSILON, side="right") - 1
        last[part] = rows[place.clip(0)]
    return last
