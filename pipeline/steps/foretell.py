"""Foretell the paths of the people of a video: rows of `forecasts`, out of its boxes."""

from __future__ import annotations

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
from pipeline.motion.trajectories import Trajectory, Windows, cut_windows, on_grid

_EPSILON = 1e-6
# A box may be missing for so long, and the path still counts as seen.
_GAP_S = 1.0


@dataclass(frozen=True)
class ForetellOptions:
    """What is foretold."""

    horizon_s: float | None = None
    """How far ahead. None: as far as the forecaster was trained for."""
    every_s: float = 0.4
    """Forecasts are made at multiples of this, which is one of the forecaster's step."""

    def steps(self, bundle: ForecasterBundle) -> tuple[int, int]:
        """Return how many steps ahead are told, and how many lie between two forecasts.

        Raises:
            UsageError: The forecaster does not reach so far, or does not step so.
        """
        horizon_s = bundle.longest_s if self.horizon_s is None else self.horizon_s
        n_ahead = int(np.floor(horizon_s / bundle.step_s + _EPSILON))
        if not 1 <= n_ahead <= bundle.longest_s / bundle.step_s + _EPSILON:
            raise UsageError(
                f"--horizon {horizon_s:g}: forecaster {bundle.name!r} tells {bundle.step_s:g} to {bundle.longest_s:g} "
                "s ahead; train one for more with `actionlake train-forecaster --ahead`"
            )
        every = self.every_s / bundle.step_s
        if every < 1 - _EPSILON or abs(every - round(every)) > _EPSILON:
            raise UsageError(
                f"--every {self.every_s:g}: forecaster {bundle.name!r} goes in steps of {bundle.step_s:g} s; name a "
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
    ) -> pa.Table:
        """Return the rows of a video, sorted by `made_at_s`, `track_id`, `horizon_s`.

        There is none for somebody who was not seen for as long as the forecaster looks back.

        Args:
            video_id: The video.
            time_s: `float64 [N]`: when each box was seen; rising within a track.
            track_ids: `int64 [N]`: whose it is.
            xyxy: `float32 [N, 4]`, source pixels.
        """
        order = np.lexsort((time_s, track_ids))
        rows_of = np.split(order, np.flatnonzero(np.diff(track_ids[order])) + 1) if len(order) else []
        grid = on_grid(
            [Trajectory.of_boxes(time_s[rows], xyxy[rows], self._ground) for rows in rows_of],
            self.bundle.step_s,
            _GAP_S,
        )
        windows = cut_windows(grid, self.bundle.n_observed, 0, int(self.bundle.spec.get("n_others", 0)), self._every)
        # Tracks stand by id already: within a time they stay so.
        windows = windows.take(np.argsort(windows.step, kind="stable"))
        if not len(windows):
            return schemas.FORECASTS.empty_table()
        # Rounded, so that 7 steps of 0.4 s are 2.8 s, as one would write it.
        made_at_s = np.round(windows.step.astype(np.float64) * self.bundle.step_s, 9)
        boxes = np.stack(
            [
                _box_at(time_s[rows_of[who]], xyxy[rows_of[who]], at)
                for who, at in zip(windows.who, made_at_s, strict=True)
            ]
        )
        return self._rows(video_id, windows, np.array([track_ids[rows[0]] for rows in rows_of]), made_at_s, boxes)

    def _rows(
        self,
        video_id: str,
        windows: Windows,
        ids: NDArray[np.int64],
        made_at_s: NDArray[np.float64],
        boxes: NDArray[np.float32],
    ) -> pa.Table:
        places, covariance = self._in_pixels(windows)
        n, ahead = len(windows), self._n_ahead
        deviation = np.sqrt(covariance[..., [0, 1], [0, 1]])
        feet = np.column_stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]])
        moved = (boxes[:, None] + np.tile(places - feet[:, None], 2)).astype(np.float32).reshape(-1, 4)
        columns = {
            "video_id": pa.array([video_id] * (n * ahead), pa.string()),
            "track_id": np.repeat(ids[windows.who], ahead),
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
        return self._ground.to_pixels(places), self._ground.spread_in_pixels(places, covariance)


def _box_at(time_s: NDArray[np.float64], xyxy: NDArray[np.float32], at_s: float) -> NDArray[np.float32]:
    """Return the last box `float32 [4]` that was seen by then."""
    box: NDArray[np.float32] = xyxy[max(0, int(np.searchsorted(time_s, at_s + _EPSILON, side="right")) - 1)]
    return box
