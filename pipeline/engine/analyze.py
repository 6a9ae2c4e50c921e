"""The main job: an archive in, a lake of labelled segments out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.archive.recorded import check_options
from pipeline.archive.refs import Listing
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.engine.board import Board, JobState
from pipeline.engine.breaker import SystematicError
from pipeline.engine.commit import CommitWorker
from pipeline.engine.extract import NetworkFacts, describe_networks
from pipeline.engine.interrupts import StopRequest
from pipeline.engine.ledger import start_ledger
from pipeline.engine.metrics import JobMetrics
from pipeline.engine.models import DEFAULT_MODEL, NAMES, check_fit, choose_models, config_for
from pipeline.engine.planning import plan_archive
from pipeline.engine.resources import choose_layout, joined, new_run_id
from pipeline.errors import ActionlakeError, UsageError, describe
from pipeline.lake.compact import tidy
from pipeline.lake.lease import Lease, leased
from pipeline.lake.store import Lake
from pipeline.vision.detector import check_trust

log = logging.getLogger(__name__)

# So many chunks, of whole shards, are taken up at a time: enough that starting the workers anew and waiting for the
# last of them does not count, and little enough to be held in memory.
_WAVE_CHUNKS = 20_000
_WAVE_CHUNKS_PER_WORKER = 400

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
        model: A bundle, the folder of one, `"default"`, or `"none"` or None to extract features alone.
        config: Options. None: the defaults, with what the model was trained with.
        address: A Ray cluster to join; without it `$RAY_ADDRESS`, and without that Ray starts on this machine.
        observer: Called whenever something is finished.

    Returns:
        What was done and found.

    Raises:
        UsageError: The sources, the options, the model or the lake can't be used.
        ActionlakeError: The job can't go on.
    """
    if config is None and isinstance(model, (str, Path)) and model not in NAMES:
        model = load_bundle(model)
    scope = config.scope if config is not None else model.scope if isinstance(model, Bundle) else Config().scope
    bundles = choose_models(model, scope)
    fitting = config_for(bundles)
    config = config or Config(scope=scope, **fitting)
    if bundles and not config.inputs:
        config = replace(config, inputs=fitting["inputs"])
    check_fit(bundles, config)
    check_options(config.name_time, config.time_zone, config.camera)
    if config.sees_people:
        check_trust(config.detector, config.pickled_weights)
    config = replace(config, run_id=config.run_id or new_run_id())
    assert config.run_id is not None
    videos = list_videos([sources] if isinstance(sources, str) else sources)
    target = Lake(lake)
    state = JobState(target.uri, config.run_id)
    target.check(config.feature_options())
    notify = observer or (lambda _: None)
    notify(state)
    # A lake is not made for networks that do not load.
    networks = describe_networks(config)
    # Starting Ray is mostly waiting, and importing Ray Data is not.
    Thread(target=import_module, args=("pipeline.engine.graph",), daemon=True).start()
    with (
        leased(target, f"run {config.run_id}") as lease,
        joined(address, config) as stop,
        closing(_Job(target, bundles, networks, config, state, notify, lease, stop)) as job,
    ):
        job.run(videos)
    return state


class _Job:
    """One run over one lake, on a cluster that is joined."""

    def __init__(
        self, lake: Lake, bundles: Sequence[Bundle], networks: NetworkFacts, config: Config, state: JobState,
        notify: Observer, lease: Lease, stop: StopRequest,
    ) -> None:  # fmt: skip
        self._lake, self._bundles, self._networks, self._config = lake, bundles, networks, config
        self._state, self._observer = state, notify
        self._metrics = JobMetrics(lake.uri)
        self._lease, self._stop = lease, stop
        self._layout = choose_layout(config)
        self._ledger = start_ledger()
        # Beside the planning.
        self._warm_up = Thread(target=_warm_up, daemon=True)
        self._warm_up.start()
        # In a list, and held here: Ray shall neither resolve nor forget what a restarted actor needs again.
        self._shared_bundles = [ray.put(list(bundles))]
        self._committers: list[Any] = []
        self._commits: list[ray.ObjectRef] = []

    def close(self) -> None:
        """End the actors of the job, which would live as long as the driver."""
        self._warm_up.join()
        for actor in (self._ledger, *self._committers):
            with suppress(RayError):
                ray.kill(actor)

    def run(self, videos: Listing) -> None:
        """Plan, extract, commit."""
        self._state.layout = str(self._layout)
        self._enter("planning")
        if not self._lake.exists():
            self._lake.claim(self._config.feature_options())
        tidy(self._lake)
        shards = plan_archive(self._lake, videos, self._config, self._ledger, self._lease.check)
        for bundle in self._bundles:
            _check_labelled(self._lake, shards, bundle)
        board = Board(self._lake, shards, self._state)
        self._warm_up.join()
        self._start_committers()
        self._enter("extracting")
        wave_chunks = max(_WAVE_CHUNKS, _WAVE_CHUNKS_PER_WORKER * self._layout.decoders)
        with self._stop.winding_down_by(self._ledger.stop.remote):
            started = time.monotonic()
            try:
                while self._stop.signum is None and board.next_wave(wave_chunks):
                    self._extract(board)
            except SystematicError:
                self._take_back(board)
                raise
            self._state.advice = self._layout.advice(
                self._state.stage_s, time.monotonic() - started, self._config.sampling
            )
            while self._commits:
                self._collect(board, wait=True)
        # The workers of a node that was given up for dead may have written on for a while.
        self._lake.sweep()
        self._state.wall_s = time.monotonic() - self._state.started
        self._enter("done")

    def _notify(self, state: JobState) -> None:
        self._metrics.update(state)
        self._observer(state)

    def _enter(self, stage: str) -> None:
        self._state.stage = stage
        self._notify(self._state)

    def _extract(self, board: Board) -> None:
        """Extract the chunks of a wave, and give every shard that has all of its own to be committed."""
        from pipeline.engine.graph import extract_features

        self._commit_ready(board)
        dim = self._networks.dim
        while tasks := board.outstanding():
            for receipts in extract_features(tasks, self._lake.uri, self._config, self._layout, self._ledger, dim):
                for receipt in receipts:
                    board.received(receipt)
                    self._state.runtime = self._state.runtime or receipt.runtime
                self._commit_ready(board)
                self._collect(board)
                self._notify(self._state)
            if self._stop.signum is not None:
                return
            # A node that died may have taken receipts, or decoded frames, with it.
            board.recount()
            self._commit_ready(board)
            if len(board.outstanding()) == len(tasks):
                raise ActionlakeError(f"{len(tasks)} chunks never came back; the same command tries them again")

    def _commit_ready(self, board: Board) -> None:
        for shard in board.pop_ready():
            self._lease.check()
            committer = self._committers[shard % len(self._committers)]
            self._commits.append(committer.commit.remote(shard, self._networks))

    def _collect(self, board: Board, wait: bool = False) -> None:
        """Take note of what was committed; `wait` for one more."""
        self._lease.check()
        if not self._commits:
            return
        n_wanted = 1 if wait else len(self._commits)
        done, self._commits = ray.wait(self._commits, num_returns=n_wanted, timeout=None if wait else 0)
        try:
            summaries = ray.get(done)
        except RayTaskError as error:
            if isinstance(error.cause, ActionlakeError):
                raise error.cause from error
            raise ActionlakeError(
                f"a shard can't be committed, a fault of the program: {describe(error.cause)}; the traceback is in the "
                "log. What is finished is kept, and the same command tries it again"
            ) from error
        for summary in summaries:
            board.committed(summary)
            self._notify(self._state)

    def _take_back(self, board: Board) -> None:
        """Take out shards that hold what failed in a way that nobody foresaw: the next run does them again."""
        while self._commits:
            self._collect(board, wait=True)
        for shard in board.doubtful_shards & set(self._lake.committed()):
            self._lake.drop_shard(shard)

    def _start_committers(self) -> None:
        committer = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")(
            CommitWorker
        )
        self._committers = [
            committer.remote(self._lake.uri, self._config, self._shared_bundles)
            for _ in range(self._layout.classifiers)
        ]


def _warm_up() -> None:
    """Let Ray Data start what it needs beside the workers, which takes a second or two, while there is other work."""
    from pipeline.engine.graph import warm_up

    with suppress(RayError):
        warm_up()


def _check_labelled(lake: Lake, shards: Collection[int], bundle: Bundle) -> None:
    """Raise if shards were committed without this model's segments: they would silently stay without."""
    without = set(shards) & set(lake.committed()) - set(lake.labelled(bundle.name))
    if without:
        there = f"by {', '.join(lake.models())}" if lake.models() else "as features alone"
        raise UsageError(
            f"{lake.uri}: {len(without)} shards were committed {there}, not by model {bundle.name!r}; "
            f"label them with `actionlake classify {lake.uri} --model ...`, then run this again"
        )
