"""A job on any engine: plan, extract, commit, and stop in good order."""

from __future__ import annotations

import datetime
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Protocol

from pipeline.activity.bundle import Bundle
from pipeline.archive.refs import Listing, VideoRef
from pipeline.config import Config
from pipeline.engine.board import Board, JobState
from pipeline.engine.interrupts import StopRequest
from pipeline.errors import ActionlakeError, UsageError
from pipeline.lake.compact import tidy
from pipeline.lake.lease import Lease
from pipeline.lake.parts import footer_at, states
from pipeline.lake.store import Lake, model_folder
from pipeline.lake.work import Receipt
from pipeline.steps.breaker import SystematicError
from pipeline.steps.commit import ShardSummary
from pipeline.steps.decode import ChunkTask
from pipeline.steps.label import model_facts
from pipeline.steps.plan import Probed, plan_archive

log = logging.getLogger(__name__)

# How many chunks are taken up at a time, in whole shards: enough that restarting the workers and waiting for the last
# one hardly matters, and few enough to fit in memory.
_WAVE_CHUNKS = 20_000
_WAVE_CHUNKS_PER_WORKER = 400
# The tracks, labels and rows of a video take a core a fortieth of the time of its extraction.
_WORKERS_PER_CLASSIFIER = 32

Observer = Callable[[JobState], None]


class Engine(Protocol):
    """Runs the steps of one job.

    When a worker ends for any reason, that counts as an attempt of its current chunk. After `max_attempts` the chunk is
    given up with a row in `failures`. Results are written to the lake before they are yielded or returned.
    """

    layout: str
    """How many workers do what, in words."""
    n_workers: int
    """How many workers decode."""

    def probe(self, refs: Iterator[VideoRef], n_refs: int) -> Iterator[Probed]:
        """Probe `n_refs` videos, in order."""

    def extract(self, tasks: Sequence[ChunkTask]) -> Iterator[list[Receipt]]:
        """Extract chunks, and yield the receipts of their pieces in groups, after they are written."""

    def commit(self, shard: int) -> None:
        """Begin to label and commit a shard whose features are all written."""

    def committed(self, wait: bool = False) -> list[ShardSummary]:
        """Return the shards committed since the last call. With `wait`, wait for one if any is in progress."""

    @property
    def n_committing(self) -> int:
        """How many shards are being committed."""

    def wind_down(self) -> None:
        """Let workers finish their current chunks, and start no others."""

    def observe(self, state: JobState) -> None:
        """Pass on the progress of the job, for whoever collects metrics."""

    def advice(self, state: JobState, wall_s: float) -> str:
        """Return what would make the next such job faster, if anything was idle in the `wall_s` of extraction."""


class Job:
    """One run over one lake."""

    def __init__(
        self, lake: Lake, bundles: Sequence[Bundle], config: Config, state: JobState, observer: Observer, lease: Lease,
        stop: StopRequest,
    ) -> None:  # fmt: skip
        self._lake, self._bundles, self._config = lake, bundles, config
        self._state, self._observer = state, observer
        self._lease, self._stop = lease, stop

    def plan(self, engine: Engine, videos: Listing) -> Board:
        """Plan the new videos, and return what is to be done."""
        self._enter(engine, "planning")
        if not self._lake.exists():
            self._lake.claim(self._config.feature_options())
        tidy(self._lake)
        shards = plan_archive(self._lake, videos, self._config, engine.probe, self._lease.check)
        committed = set(shards) & set(self._lake.committed())
        for bundle in self._bundles:
            _check_labelled(self._lake, committed, bundle)
            _warn_of_other_segments(self._lake, committed, bundle)
        return Board(self._lake, shards, self._state)

    def run(self, engine: Engine, board: Board) -> None:
        """Extract and commit all that is to be done."""
        self._state.layout = engine.layout
        self._enter(engine, "extracting")
        wave_chunks = max(_WAVE_CHUNKS, _WAVE_CHUNKS_PER_WORKER * engine.n_workers)
        with self._stop.winding_down_by(engine.wind_down):
            started = time.monotonic()
            try:
                while self._stop.signum is None and board.next_wave(wave_chunks):
                    self._extract(engine, board)
            except SystematicError:
                self._take_back(engine, board)
                raise
            self._state.advice = engine.advice(self._state, time.monotonic() - started)
            while engine.n_committing:
                self._collect(engine, board, wait=True)
        # Workers that were considered dead may have kept writing for a while.
        self._lake.sweep()
        self._state.wall_s = time.monotonic() - self._state.started
        self._enter(engine, "done")

    def _notify(self, engine: Engine) -> None:
        engine.observe(self._state)
        self._observer(self._state)

    def _enter(self, engine: Engine, stage: str) -> None:
        self._state.stage = stage
        self._notify(engine)

    def _extract(self, engine: Engine, board: Board) -> None:
        """Extract the chunks of a wave, and start to commit every shard whose chunks are all finished."""
        self._commit_ready(engine, board)
        while tasks := board.outstanding():
            for receipts in engine.extract(tasks):
                for receipt in receipts:
                    board.received(receipt)
                    self._state.runtime = self._state.runtime or receipt.runtime
                self._commit_ready(engine, board)
                self._collect(engine, board)
                self._notify(engine)
            if self._stop.signum is not None:
                return
            # If a node died, receipts or decoded frames may be lost.
            board.recount()
            self._commit_ready(engine, board)
            if len(board.outstanding()) == len(tasks):
                raise ActionlakeError(f"{len(tasks)} chunks gave no result; the same command tries them again")

    def _commit_ready(self, engine: Engine, board: Board) -> None:
        for shard in board.pop_ready():
            self._lease.check()
            engine.commit(shard)

    def _collect(self, engine: Engine, board: Board, wait: bool = False) -> None:
        """Record the committed shards. With `wait`, wait for one more."""
        self._lease.check()
        for summary in engine.committed(wait):
            board.committed(summary)
            self._notify(engine)

    def _take_back(self, engine: Engine, board: Board) -> None:
        """Drop committed shards that had unexpected errors, so that the next run does them again."""
        while engine.n_committing:
            self._collect(engine, board, wait=True)
        for shard in board.doubtful_shards & set(self._lake.committed()):
            self._lake.drop_shard(shard)


def choose_classifiers(config: Config, n_workers: int) -> int:
    """Return how many processes label finished shards while `n_workers` extract."""
    return config.classifiers or math.ceil(n_workers / _WORKERS_PER_CLASSIFIER)


def new_run_id() -> str:
    """Return a name for a run: the time, and random digits to distinguish runs of the same second."""
    now = datetime.datetime.now(datetime.UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def commit_failed(cause: str) -> ActionlakeError:
    """Return the error that ends a job when a shard can't be committed for an unexpected reason."""
    return ActionlakeError(
        f"a shard can't be committed, a fault of the program: {cause}; the traceback is in the log. What is finished "
        "is kept, and the same command tries it again"
    )


def _check_labelled(lake: Lake, committed: AbstractSet[int], bundle: Bundle) -> None:
    """Raise if committed shards have none of this model's segments. They would silently stay without them."""
    without = committed - set(lake.labelled(bundle.name))
    if without:
        there = f"by {', '.join(lake.models())}" if lake.models() else "as features alone"
        raise UsageError(
            f"{lake.uri}: {len(without)} shards were committed {there}, not by model {bundle.name!r}; "
            f"label them with `actionlake classify --lake {lake.uri} --model ...`, then run this again"
        )


def _warn_of_other_segments(lake: Lake, committed: AbstractSet[int], bundle: Bundle) -> None:
    """Warn if committed shards have segments of other weights or options of a model.

    Only the first, the middle and the last one are looked at: a lake may have thousands.
    """
    numbers, folder, facts = sorted(committed), model_folder("segments", bundle.name), model_facts(bundle)
    some = {numbers[0], numbers[len(numbers) // 2], numbers[-1]} if numbers else set()
    # A damaged part is no obstacle to the other shards; `actionlake verify` finds it.
    with suppress(ActionlakeError):
        if not all(states(footer_at(lake, folder, shard), facts) for shard in some):
            log.warning(
                "%s: videos in it were labelled by another version of model %r, or with other limits, and keep those "
                "segments; `actionlake classify --lake %s` with the same --model and --most-novel labels them again",
                lake.uri, bundle.name, lake.uri,
            )  # fmt: skip
