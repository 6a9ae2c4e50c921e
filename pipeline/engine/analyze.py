"""The main job: an archive in, a lake of labelled segments out."""

from __future__ import annotations

import datetime
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.activity.bundle import DEFAULT_BUNDLES, Bundle, load_bundle
from pipeline.archive.sources import VideoRef, list_videos
from pipeline.config import Config
from pipeline.engine.commit import ShardCommitter, ShardSummary
from pipeline.engine.extract import ChunkTask, NetworkFacts, describe_networks, tasks_of
from pipeline.engine.graph import extract_features
from pipeline.engine.ledger import Ledger
from pipeline.engine.planning import plan_archive
from pipeline.engine.resources import choose_layout, connect
from pipeline.errors import ActionlakeError, UsageError
from pipeline.lake.plans import read_plan
from pipeline.lake.store import Lake
from pipeline.lake.work import ChunkKey, Receipt, finished_chunks

log = logging.getLogger(__name__)

DEFAULT_MODEL = "default"
"""Stands for the bundles that come with the package, one for each scope."""


@dataclass
class JobState:
    """How far the job is; every field but `started` only grows."""

    lake: str
    run_id: str
    started: float = field(default_factory=time.monotonic)
    stage: str = "starting"
    """`starting`, `planning`, `extracting` or `done`."""
    n_videos: int = 0
    n_videos_before: int = 0
    """Videos that an earlier run had committed."""
    n_videos_done: int = 0
    n_chunks: int = 0
    n_chunks_before: int = 0
    """Chunks that an earlier run had finished; they are not decoded again."""
    n_chunks_done: int = 0
    video_s: float = 0.0
    """Seconds of video to be read by this run."""
    video_done_s: float = 0.0
    n_decoded: int = 0
    """Frames that left the decoders."""
    n_frames: int = 0
    """Frames sampled."""
    n_boxes: int = 0
    stage_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of work, summed over workers, by stage."""
    n_failed: int = 0
    n_partial: int = 0
    failures: list[str] = field(default_factory=list)
    label_n: Counter[str] = field(default_factory=Counter)
    label_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    covered_s: float = 0.0
    runtime: str = ""
    layout: str = ""
    wall_s: float = 0.0


Observer = Callable[[JobState], None]


def choose_models(model: str | Path | Bundle | None, scope: str) -> list[Bundle]:
    """Return the models of a job: what is named, or those that come with the package for its scope.

    Raises:
        UsageError: A bundle can't be read, or labels what the scope does not see.
    """
    scopes = ("frame", "person") if scope == "both" else (scope,)
    if model is None:
        return []
    if model == DEFAULT_MODEL:
        return [load_bundle(DEFAULT_BUNDLES[name]) for name in scopes]
    bundle = model if isinstance(model, Bundle) else load_bundle(model)
    if bundle.scope not in scopes:
        raise UsageError(f"model {bundle.name!r} labels in scope {bundle.scope!r}, but scope = {scope!r}; use the same")
    return [bundle]


def config_for(bundles: Sequence[Bundle]) -> dict[str, Any]:
    """Return the options of `Config` that models were trained with."""
    inputs = tuple(dict.fromkeys(name for bundle in bundles for name in bundle.model.spec.inputs))
    fitting: dict[str, Any] = {"inputs": inputs} if inputs else {}
    for bundle in bundles:
        fitting |= {"sample_fps": bundle.sample_fps, "embedder": bundle.embedder}
        if bundle.scope == "person":
            fitting["classes"] = bundle.classes
    return fitting


def analyze(
    sources: Sequence[str] | str,
    lake: str,
    model: str | Path | Bundle | None = DEFAULT_MODEL,
    config: Config | None = None,
    address: str | None = None,
    observer: Observer | None = None,
) -> JobState:
    """Analyse videos into a lake, or take up where an earlier run of the same lake was cut off.

    Args:
        sources: Files, folders, globs or manifests, local or remote.
        lake: Folder or bucket prefix to write to.
        model: A bundle, the folder of one, `"default"`, or None to extract features alone.
        config: Options. None: the defaults, with what the model was trained with.
        address: A Ray cluster to join; without it `$RAY_ADDRESS`, and without that Ray starts on this machine.
        observer: Called whenever something is finished.

    Returns:
        What was done and found.

    Raises:
        UsageError: The sources, the options, the model or the lake can't be used.
        ActionlakeError: The job can't go on.
    """
    if config is None and isinstance(model, (str, Path)) and model != DEFAULT_MODEL:
        model = load_bundle(model)
    scope = config.scope if config is not None else model.scope if isinstance(model, Bundle) else Config().scope
    bundles = choose_models(model, scope)
    config = config or Config(scope=scope, **config_for(bundles))
    for bundle in bundles:
        _check_fit(bundle, config)
    _check_labels(bundles, config)
    config = replace(config, run_id=config.run_id or _new_run_id())
    assert config.run_id is not None
    refs = list_videos([sources] if isinstance(sources, str) else sources)
    target = Lake(lake)
    state = JobState(target.uri, config.run_id)
    notify = observer or (lambda _: None)
    target.check(config.feature_options())
    started_ray = connect(address, config)
    try:
        _run(target, refs, bundles, config, state, notify)
    except RayError as error:
        log.info("the cause", exc_info=error)
        cause = getattr(error, "cause", None) or error
        raise ActionlakeError(
            f"the job stopped ({type(cause).__name__}: {' '.join(str(cause).split())}); what is finished is kept, "
            "and the same command goes on from there; -v shows where it happened"
        ) from error
    finally:
        if started_ray:
            ray.shutdown()
    state.stage, state.wall_s = "done", time.monotonic() - state.started
    notify(state)
    return state


def _run(
    lake: Lake, refs: Sequence[VideoRef], bundles: Sequence[Bundle], config: Config, state: JobState, notify: Observer
) -> None:
    layout = choose_layout(config)
    state.layout = str(layout)
    state.stage = "planning"
    notify(state)
    # What takes long to load starts now, beside the planning.
    description = ray.remote(num_cpus=0, max_retries=2)(describe_networks).remote(config)
    committer = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=3)(_Committer)
    # The list keeps Ray from resolving, and so from forgetting, what a restarted actor needs again.
    shared_bundles = [ray.put(list(bundles))]
    committers = [committer.remote(lake.uri, config, shared_bundles) for _ in range(layout.classifiers)]
    networks = ray.get(description)
    if isinstance(networks, UsageError):
        raise networks
    lake.claim(config.feature_options())
    lake.sweep()
    shards = plan_archive(lake, refs, config)
    for bundle in bundles:
        _check_labelled(lake, shards, bundle)
    board = _Board(lake, shards, state)
    state.stage = "extracting"
    notify(state)
    # Beside the driver: if that node goes, all goes.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    ledger = ray.remote(num_cpus=0, scheduling_strategy=here)(Ledger).remote()
    commits: list[ray.ObjectRef] = []

    def collect(wait_for_all: bool) -> None:
        nonlocal commits
        done, commits = (
            ray.wait(commits, num_returns=len(commits), timeout=None if wait_for_all else 0) if commits else ([], [])
        )
        for summary in ray.get(done):
            board.committed(summary)
            notify(state)

    def commit(shard: int) -> None:
        commits.append(committers[shard % len(committers)].commit.remote(shard, networks))

    for shard in board.ready():
        commit(shard)
    while tasks := board.outstanding():
        for receipt in extract_features(tasks, lake.uri, config, layout, ledger, networks.dim):
            if receipt.runtime and not state.runtime:
                state.runtime = receipt.runtime
                log.info("networks run on %s", receipt.runtime)
            if board.received(receipt):
                commit(receipt.shard)
            collect(wait_for_all=False)
            notify(state)
        # A node that died may have taken receipts, or decoded frames, with it.
        for shard in board.recount():
            commit(shard)
        if len(board.outstanding()) == len(tasks):
            raise ActionlakeError(f"{len(tasks)} chunks never came back; the same command tries them again")
    while commits:
        collect(wait_for_all=True)


class _Board:
    """Keeps track of which chunks are still out, and so of which shards are ready to be committed."""

    def __init__(self, lake: Lake, shards: Sequence[int], state: JobState) -> None:
        self._state = state
        self._open: dict[int, set[ChunkKey]] = {}
        self._pieces: dict[ChunkKey, set[int]] = defaultdict(set)
        self._ends: dict[ChunkKey, int] = {}
        self._durations: dict[ChunkKey, float] = {}
        self._lake = lake
        self._tasks: list[ChunkTask] = []
        committed = set(lake.committed())
        for shard in shards:
            videos = read_plan(lake, shard)
            state.n_videos += len(videos)
            if shard in committed:
                state.n_videos_before += len(videos)
                continue
            finished = finished_chunks(lake.work_names(shard))
            tasks = [task for video in videos for task in tasks_of(shard, video)]
            todo = [task for task in tasks if task.key not in finished]
            state.n_chunks += len(todo)
            state.n_chunks_before += len(tasks) - len(todo)
            self._open[shard] = {task.key for task in todo}
            self._durations |= {task.key: task.chunk.duration_s for task in todo}
            self._tasks += todo
        state.video_s = sum(self._durations.values())
        if state.n_videos_before or state.n_chunks_before:
            log.info(
                "resuming: %d videos were committed and %d chunks finished before; they are not decoded again",
                state.n_videos_before,
                state.n_chunks_before,
            )

    def ready(self) -> list[int]:
        """Return the shards of which no chunk is out."""
        return [shard for shard, out in self._open.items() if not out]

    def outstanding(self) -> list[ChunkTask]:
        """Return the chunks that are out, in the order in which they should be done."""
        return [task for task in self._tasks if task.key in self._open[task.shard]]

    def recount(self) -> list[int]:
        """Look in the lake for finished chunks whose receipts were lost; return the shards that are ready by that."""
        ready = []
        for shard, out in self._open.items():
            if out:
                for key in out & finished_chunks(self._lake.work_names(shard)).keys():
                    self._finish(shard, key)
                if not out:
                    ready.append(shard)
        return ready

    def received(self, receipt: Receipt) -> bool:
        """Take note of a piece; return whether it was the last that its shard waited for."""
        state = self._state
        state.n_frames += receipt.n_frames
        state.n_boxes += receipt.n_boxes
        state.n_decoded += receipt.n_decoded
        for stage in ("decode", "detect", "embed", "write"):
            state.stage_s[stage] += getattr(receipt, f"{stage}_s")
        key = receipt.key
        self._pieces[key].add(receipt.piece)
        if receipt.last:
            self._ends[key] = receipt.piece
        # In the split layout the pieces of a chunk come in any order.
        if (
            len(self._pieces[key]) <= self._ends.get(key, len(self._pieces[key]))
            or key not in self._open[receipt.shard]
        ):
            return False
        self._finish(receipt.shard, key)
        return not self._open[receipt.shard]

    def _finish(self, shard: int, key: ChunkKey) -> None:
        self._state.n_chunks_done += 1
        self._state.video_done_s += self._durations.pop(key)
        self._pieces.pop(key, None)
        self._ends.pop(key, None)
        self._open[shard].discard(key)

    def committed(self, summary: ShardSummary) -> None:
        """Take note of a committed shard."""
        state = self._state
        state.n_videos_done += summary.n_videos
        state.n_failed += summary.n_failed
        state.n_partial += summary.n_partial
        state.failures += summary.failures
        state.covered_s += summary.covered_s
        state.label_n += summary.label_n
        for label, seconds in summary.label_s.items():
            state.label_s[label] += seconds
        state.stage_s["label"] += summary.wall_s


class _Committer:
    """Labels and commits shards beside the decoders."""

    def __init__(self, lake_uri: str, config: Config, bundles: list[Any]) -> None:
        """Take what `ShardCommitter` takes, the bundles as a list of one reference to them."""
        import torch

        torch.set_num_threads(1)
        self._lake = Lake(lake_uri)
        self._committer = ShardCommitter(config, ray.get(bundles[0]))

    def commit(self, shard: int, networks: NetworkFacts) -> ShardSummary:
        return self._committer.commit(self._lake, shard, networks)


def _check_fit(bundle: Bundle, config: Config) -> None:
    """Raise if a model can't label these features; warn if it was trained on others."""
    if bundle.embedder != config.embedder:
        raise UsageError(
            f"model {bundle.name!r} reads embeddings of {bundle.embedder!r}, but embedder = {config.embedder!r}; "
            "use the same, or train a model for it"
        )
    missing = [name for name in bundle.model.spec.inputs if name not in config.embedded]
    if missing:
        raise UsageError(
            f"model {bundle.name!r} reads {', '.join(bundle.model.spec.inputs)}, but inputs lack {', '.join(missing)}; "
            "name them, or train a model for what there is"
        )
    if bundle.sample_fps != config.sample_fps:
        log.warning(
            "model %r was trained at %g frames/s; at %g its scores are less sure",
            bundle.name, bundle.sample_fps, config.sample_fps,
        )  # fmt: skip


def _check_labels(bundles: Sequence[Bundle], config: Config) -> None:
    known = [label for bundle in bundles for label in bundle.labels if label != bundle.background]
    unknown = [label for label in config.labels if label not in known]
    if unknown and bundles:
        names = " and ".join(repr(bundle.name) for bundle in bundles)
        raise UsageError(f"model {names} has no label {', '.join(map(repr, unknown))}; it knows {', '.join(known)}")


def _check_labelled(lake: Lake, shards: Sequence[int], bundle: Bundle) -> None:
    """Raise if shards were committed without this model's segments: they would silently stay without."""
    without = set(shards) & set(lake.committed()) - set(lake.labelled(bundle.name))
    if without:
        there = f"by {', '.join(lake.models())}" if lake.models() else "as features alone"
        raise UsageError(
            f"{lake.uri}: {len(without)} shards were committed {there}, not by model {bundle.name!r}; use another lake"
        )


def _new_run_id() -> str:
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"
