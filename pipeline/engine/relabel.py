"""Label an existing lake with another model, from its features. Nothing is decoded."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.config import Config
from pipeline.engine.job import new_run_id
from pipeline.engine.models import check_fit
from pipeline.engine.shards import over_shards, shards_without
from pipeline.errors import UnforeseenError, UsageError, stage
from pipeline.lake import schemas
from pipeline.lake.parts import read_part
from pipeline.lake.sequences import VideoRows, committed_videos
from pipeline.lake.store import Lake, open_part
from pipeline.steps.breaker import Breaker
from pipeline.steps.label import Labeller, model_facts, on_one_thread, segments_folder

log = logging.getLogger(__name__)


class ShardLabels(NamedTuple):
    """The result of one shard."""

    n_videos: int
    label_n: Counter[str]
    """Number of new segments, by label."""
    failures: list[str]
    """Why some videos could not be labelled."""
    judged_s: float
    """Seconds of people or frames for which the model can tell how much they differ from its training data."""
    unlike_s: float
    """The part of `judged_s` that differs from it."""


@dataclass
class ClassifyState:
    """The progress so far."""

    model: str
    n_shards: int
    n_done: int = 0
    """Shards that this model has labelled, now or before."""
    n_videos: int = 0
    """Videos that were labelled now."""
    label_n: Counter[str] = field(default_factory=Counter)
    """Number of new segments, by label."""
    judged_s: float = 0.0
    """Seconds of people or frames for which the model can tell how much they differ from its training data."""
    unlike_s: float = 0.0
    """The part of `judged_s` that differs from it."""
    failures: list[str] = field(default_factory=list)
    """Unexpected errors that left videos without segments of this model. The next call retries their shards."""


def classify(
    lake: str,
    model: str | Path | Bundle,
    labels: tuple[str, ...] = (),
    min_track_s: float | None = None,
    address: str | None = None,
    observer: Callable[[ClassifyState], None] | None = None,
    most_novel: float | None = None,
) -> ClassifyState:
    """Label the committed videos of a lake with a model. Segments of other models are kept.

    Shards that exactly these weights have labelled are left as they are, so an interrupted run continues where it
    stopped.

    Args:
        lake: The lake; its features must be kept in it.
        model: A bundle, its folder, or the name of one that comes with the package.
        labels: Activities to write; empty: all.
        min_track_s: A shorter track gives no segment. None: the default of `Config`.
        address: A Ray cluster to join.
        observer: Called whenever a shard is labelled.
        most_novel: A segment with a higher novelty is dropped. None: the model's own limits.

    Raises:
        UsageError: There is no lake, or its features are not what the model reads.
    """
    bundle = (model if isinstance(model, Bundle) else load_bundle(model)).limited(most_novel)
    target = Lake(lake)
    config = _config_of(target, bundle, labels, min_track_s)
    check_fit([bundle], config)
    shards, waiting = shards_without(target, "segments", model_facts(bundle))
    state = ClassifyState(bundle.name, len(shards), len(shards) - len(waiting))
    notify = observer or (lambda _: None)
    notify(state)
    if not waiting:
        return state
    arguments = (target.uri, bundle, config)
    purpose = f"classify by {bundle.name}"
    with over_shards(target, purpose, waiting, label_shard, arguments, config, address) as labelled:
        breaker = Breaker("labelled videos")
        for said in labelled:
            state.n_done, state.n_videos = state.n_done + 1, state.n_videos + said.n_videos
            state.label_n += said.label_n
            state.judged_s += said.judged_s
            state.unlike_s += said.unlike_s
            state.failures += said.failures
            breaker.count_all(said.n_videos, said.failures)
            notify(state)
    return state


def check_readable(lake: Lake, bundle: Bundle) -> None:
    """Raise if a lake's features are not what a model reads.

    Raises:
        UsageError: They are of another scope, or lack an input, or are those of other networks.
    """
    check_fit([bundle], _config_of(lake, bundle, (), None))


def _config_of(lake: Lake, bundle: Bundle, labels: tuple[str, ...], min_track_s: float | None) -> Config:
    """Return the options of a job, with those that the lake's features were made with."""
    made_with = {name: value for name, value in lake.features_made_with().items() if value is not None}
    config = Config.load(None, made_with, labels=labels or None, min_track_s=min_track_s)
    if config.scope not in {bundle.scope, "both"}:
        raise UsageError(
            f"{lake.uri}: its features are of scope {config.scope!r}, but model {bundle.name!r} labels in scope "
            f"{bundle.scope!r}; analyze with --scope {bundle.scope} into another lake"
        )
    return replace(config, run_id=new_run_id())


def label_shard(shard: int, lake_uri: str, bundle: Bundle, config: Config) -> ShardLabels:
    """Label one shard and write its segments."""
    on_one_thread([bundle])
    lake = Lake(lake_uri)
    labeller = Labeller(bundle, config)
    videos = read_part(lake, "videos", shard).to_pylist()
    of_id = {video["video_id"]: video for video in videos}
    rows_of_segments: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    judged_s = unlike_s = 0.0
    for video_id, rows, track_ids, class_names in committed_videos(lake, shard):
        video = of_id[video_id]
        end_s = _end_s(video["covered_s"], rows, config)
        try:
            with stage("label", passing=(OSError,)):
                said = labeller.label(video_id, video["uri"], rows, track_ids, class_names, end_s)
            rows_of_segments += said.segments
            judged_s, unlike_s = judged_s + said.judged_s, unlike_s + said.unlike_s
        except UnforeseenError as error:
            failures[video_id] = str(error.failure(video["uri"]))
            log.error("%s", failures[video_id], exc_info=error.cause)
    facts = model_facts(bundle) | ({"unlabelled": list(failures)} if failures else {})
    with open_part(lake, segments_folder(bundle), shard, schemas.with_footer(schemas.SEGMENTS, **facts)) as part:
        part.write_rows(rows_of_segments)
    counts = Counter(row["label"] for row in rows_of_segments)
    return ShardLabels(len(videos), counts, list(failures.values()), judged_s, unlike_s)


def _end_s(covered_s: float, rows: VideoRows, config: Config) -> float:
    """Return when a video ends: the end of its steps, less what they reach beyond the covered time; else infinity."""
    frames = rows.frames
    beyond_s = float(frames.n_steps.sum() / config.grid_rate) - covered_s
    return float((frames.step[-1] + frames.n_steps[-1]) / config.grid_rate) - beyond_s if beyond_s > 0 else math.inf
