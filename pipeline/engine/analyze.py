"""The main job: an archive in, a lake of labelled segments out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.archive.sources import VideoRef, list_videos
from pipeline.config import Config
from pipeline.engine.board import Board, JobState
from pipeline.engine.commit import ShardCommitter, ShardSummary
from pipeline.engine.extract import NetworkFacts, describe_networks
from pipeline.engine.graph import extract_features
from pipeline.engine.ledger import Ledger
from pipeline.engine.models import DEFAULT_MODEL, check_fit, choose_models, config_for
from pipeline.engine.planning import plan_archive
from pipeline.engine.resources import choose_layout, joined, new_run_id
from pipeline.errors import ActionlakeError, UsageError
from pipeline.lake.store import Lake

log = logging.getLogger(__name__)

Observer = Callable[[JobState], None]


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
    fitting = config_for(bundles)
    config = config or Config(scope=scope, **fitting)
    if bundles and not config.inputs:
        config = replace(config, inputs=fitting["inputs"])
    check_fit(bundles, config)
    config = replace(config, run_id=config.run_id or new_run_id())
    assert config.run_id is not None
    refs = list_videos([sources] if isinstance(sources, str) else sources)
    target = Lake(lake)
    state = JobState(target.uri, config.run_id)
    notify = observer or (lambda _: None)
    target.check(config.feature_options())
    with joined(address, config):
        _run(target, refs, bundles, config, state, notify)
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
    if not lake.exists():
        # A lake is not made for networks that do not load.
        _described(description)
        lake.claim(config.feature_options())
    lake.sweep()
    shards = plan_archive(lake, refs, config)
    for bundle in bundles:
        _check_labelled(lake, shards, bundle)
    board = Board(lake, shards, state)
    state.stage = "extracting"
    notify(state)
    if not board.outstanding() and not board.ready():
        return
    networks = _described(description)
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


def _described(description: ray.ObjectRef) -> NetworkFacts:
    networks: NetworkFacts | UsageError = ray.get(description)
    if isinstance(networks, UsageError):
        raise networks
    return networks


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


def _check_labelled(lake: Lake, shards: Sequence[int], bundle: Bundle) -> None:
    """Raise if shards were committed without this model's segments: they would silently stay without."""
    without = set(shards) & set(lake.committed()) - set(lake.labelled(bundle.name))
    if without:
        there = f"by {', '.join(lake.models())}" if lake.models() else "as features alone"
        raise UsageError(
            f"{lake.uri}: {len(without)} shards were committed {there}, not by model {bundle.name!r}; "
            f"label them with `actionlake classify {lake.uri} --model ...`, then run this again"
        )
