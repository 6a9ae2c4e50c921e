"""Forecast the paths of the people in a lake from their bounding boxes. Nothing is decoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.activity.bundle import check_name
from pipeline.config import Config
from pipeline.engine.shards import over_shards, shards_without
from pipeline.errors import UnforeseenError, stage
from pipeline.lake import schemas
from pipeline.lake.forecasts import check_followed
from pipeline.lake.parts import by_video, read_part
from pipeline.lake.store import Lake, open_part
from pipeline.motion.forecaster_bundle import ForecasterBundle, load_forecaster
from pipeline.motion.ground import Ground, read_ground
from pipeline.steps.breaker import Breaker
from pipeline.steps.foretell import Foreteller, ForetellOptions, forecasts_folder

log = logging.getLogger(__name__)

_COLUMNS = ("video_id", "pts_s", "track_id", "x1", "y1", "x2", "y2")


class ShardForecasts(NamedTuple):
    """The result of one shard."""

    n_videos: int
    n_forecasts: int
    failures: list[str]
    """Why some videos have no forecasts."""


@dataclass
class ForecastState:
    """The progress so far."""

    model: str
    n_shards: int
    n_done: int = 0
    """Shards that this forecaster has finished, now or before."""
    n_videos: int = 0
    """Videos of the shards that were finished now."""
    n_forecasts: int = 0
    """Forecasts made now. One forecast is for one person at one time, with all steps ahead."""
    failures: list[str] = field(default_factory=list)
    """Unexpected errors that left videos without forecasts. The next call retries their shards."""


def forecast(
    lake: str,
    model: str | Path | ForecasterBundle,
    options: ForetellOptions | None = None,
    ground: str | Path | None = None,
    address: str | None = None,
    observer: Callable[[ForecastState], None] | None = None,
) -> ForecastState:
    """Forecast where the people in the committed videos of a lake will be. Forecasts of other models are kept.

    Shards that are complete for exactly this forecaster and these options are left as they are, so an interrupted run
    continues where it stopped.

    Args:
        lake: The lake.
        model: A forecaster, its folder, or the name of one that comes with the package.
        options: How far ahead and how often to forecast.
        ground: File of the camera's homography, for a forecaster in metres; see `read_ground`.
        address: A Ray cluster to join.
        observer: Called whenever a shard is done.

    Raises:
        UsageError: There is no lake, no person is tracked in it, or the forecaster or an option does not fit.
    """
    bundle = model if isinstance(model, ForecasterBundle) else load_forecaster(model)
    check_name(bundle.name)
    target = Lake(lake)
    made_with = target.features_made_with()
    plane = read_ground(ground) if ground is not None else None
    options = options or ForetellOptions()
    facts = Foreteller(bundle, options, plane).facts
    check_followed(target.uri, made_with)
    shards, waiting = shards_without(target, "forecasts", facts)
    state = ForecastState(bundle.name, len(shards), len(shards) - len(waiting))
    notify = observer or (lambda _: None)
    notify(state)
    if not waiting:
        return state
    arguments = (target.uri, bundle, options, plane)
    purpose = f"forecast by {bundle.name}"
    with over_shards(target, purpose, waiting, foretell_shard, arguments, Config(), address) as told:
        breaker = Breaker("foretold videos")
        for said in told:
            state.n_done, state.n_videos = state.n_done + 1, state.n_videos + said.n_videos
            state.n_forecasts += said.n_forecasts
            state.failures += said.failures
            breaker.count_all(said.n_videos, said.failures)
            notify(state)
    return state


def foretell_shard(
    shard: int, lake_uri: str, bundle: ForecasterBundle, options: ForetellOptions, ground: Ground | None
) -> ShardForecasts:
    """Make the forecasts of one shard and write them."""
    import torch

    # With several threads, sums would differ in their last bit.
    torch.set_num_threads(1)
    lake, foreteller = Lake(lake_uri), Foreteller(bundle, options, ground)
    uris = dict(zip(*read_part(lake, "videos", shard, ["video_id", "uri"]).to_pydict().values(), strict=True))
    boxes = read_part(lake, "detections", shard, _COLUMNS)
    boxes = boxes.filter(pc.is_valid(boxes["track_id"]))
    failures = dict[str, str]()
    while True:
        try:
            n_rows = _write(lake, shard, foreteller, boxes, failures)
            break
        except _VideoUnforeseenError as error:
            # Some rows of this video may have been written. Start the part again without it.
            failures[error.video_id] = str(error.cause.failure(uris[error.video_id]))
            log.error("%s", failures[error.video_id], exc_info=error.cause)
    n_ahead, _ = options.steps(bundle)
    return ShardForecasts(len(uris), n_rows // n_ahead, list(failures.values()))


class _VideoUnforeseenError(Exception):
    """An unexpected error prevents the forecasts of a video."""

    def __init__(self, video_id: str, cause: UnforeseenError) -> None:
        super().__init__(video_id, cause)
        self.video_id, self.cause = video_id, cause


def _write(lake: Lake, shard: int, foreteller: Foreteller, boxes: pa.Table, without: Collection[str]) -> int:
    """Write the part for these boxes, except for the videos in `without`. Return its number of rows."""
    facts: dict[str, Any] = foreteller.facts | ({"untold": list(without)} if without else {})
    n_rows = 0
    with open_part(
        lake, forecasts_folder(foreteller.bundle), shard, schemas.with_footer(schemas.FORECASTS, **facts)
    ) as part:
        for video_id, rows, _ in by_video(boxes):
            if video_id in without:
                continue
            column = {name: rows[name].to_numpy() for name in _COLUMNS[1:]}
            xyxy = np.column_stack([column[name] for name in _COLUMNS[3:]]).astype(np.float32)
            try:
                with stage("forecast", passing=(OSError,)):
                    for table in foreteller.foretell(video_id, column["pts_s"], column["track_id"], xyxy):
                        part.write(table)
                        n_rows += len(table)
            except UnforeseenError as error:
                raise _VideoUnforeseenError(video_id, error) from error
    return n_rows
