"""The engine that runs a job's steps on Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.activity.bundle import Bundle
from pipeline.archive.refs import VideoRef
from pipeline.config import Config
from pipeline.engine.board import JobState
from pipeline.engine.interrupts import StopRequest
from pipeline.engine.job import commit_failed
from pipeline.engine.ray.ledger import start_ledger
from pipeline.engine.ray.metrics import JobMetrics
from pipeline.engine.ray.probing import probe_all
from pipeline.engine.ray.resources import choose_layout, joined
from pipeline.engine.ray.workers import CommitActor
from pipeline.errors import ActionlakeError, describe
from pipeline.lake.work import Receipt
from pipeline.steps.commit import ShardSummary
from pipeline.steps.decode import ChunkTask
from pipeline.steps.extract import NetworkFacts
from pipeline.steps.plan import Probed


@contextmanager
def on_ray(
    lake_uri: str, bundles: Sequence[Bundle], networks: NetworkFacts, config: Config, stop: StopRequest,
    address: str | None,
) -> Iterator[RayEngine]:  # fmt: skip
    """Join a cluster, or start Ray on this machine, while a block runs. Then end what the job has started there.

    Raises:
        ActionlakeError: There is no such cluster, or the work on it can't go on.
    """
    with joined(address, config, stop):
        engine = RayEngine(lake_uri, bundles, networks, config)
        try:
            yield engine
        finally:
            engine.close()


class RayEngine:
    """Runs the steps of one job on the cluster that is joined."""

    def __init__(self, lake_uri: str, bundles: Sequence[Bundle], networks: NetworkFacts, config: Config) -> None:
        """Choose a layout, and start the ledger."""
        self._lake_uri, self._networks, self._config = lake_uri, networks, config
        self._metrics = JobMetrics(lake_uri)
        self._layout = choose_layout(config)
        self.layout, self.n_workers = str(self._layout), self._layout.decoders
        self._ledger = start_ledger()
        # In a list, so that Ray does not resolve it; held here, so that a restarted actor can read it again.
        self._shared_bundles = [ray.put(list(bundles))]
        self._committers: list[Any] = []
        self._commits: list[ray.ObjectRef] = []

    def close(self) -> None:
        """End the actors of the job. Otherwise they would live as long as the driver."""
        for actor in (self._ledger, *self._committers):
            with suppress(RayError):
                ray.kill(actor)

    def probe(self, refs: Iterator[VideoRef], n_refs: int) -> Iterator[Probed]:
        """Probe `n_refs` videos, in order."""
        return probe_all(refs, n_refs, self._config, self._ledger)

    def extract(self, tasks: Sequence[ChunkTask]) -> Iterator[list[Receipt]]:
        """Extract chunks, and yield the receipts of their pieces in groups, after they are written."""
        from pipeline.engine.ray.graph import extract_features

        self._start_committers()
        return extract_features(tasks, self._lake_uri, self._config, self._layout, self._ledger, self._networks.dim)

    def commit(self, shard: int) -> None:
        """Begin to label and commit a shard whose features are all written."""
        self._start_committers()
        committer = self._committers[shard % len(self._committers)]
        self._commits.append(committer.commit.remote(shard, self._networks))

    @property
    def n_committing(self) -> int:
        """How many shards are being committed."""
        return len(self._commits)

    def committed(self, wait: bool = False) -> list[ShardSummary]:
        """Return the shards committed since the last call. With `wait`, wait for one if any is in progress."""
        if not self._commits:
            return []
        n_wanted = 1 if wait else len(self._commits)
        done, self._commits = ray.wait(self._commits, num_returns=n_wanted, timeout=None if wait else 0)
        try:
            summaries: list[ShardSummary] = ray.get(done)
        except RayTaskError as error:
            if isinstance(error.cause, ActionlakeError):
                raise error.cause from error
            raise commit_failed(describe(error.cause)) from error
        return summaries

    def wind_down(self) -> None:
        """Let workers finish their current chunks, and start no others."""
        self._ledger.stop.remote()

    def observe(self, state: JobState) -> None:
        """Export the progress of the job as metrics of Ray."""
        self._metrics.update(state)

    def advice(self, state: JobState, wall_s: float) -> str:
        """Return what would make the next such job faster, if anything was idle in the `wall_s` of extraction."""
        return self._layout.advice(state.stage_s, wall_s, self._config.sampling)

    def _start_committers(self) -> None:
        if self._committers:
            return
        committer = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy="SPREAD")(
            CommitActor
        )
        self._committers = [
            committer.remote(self._lake_uri, self._config, self._shared_bundles)
            for _ in range(self._layout.classifiers)
        ]
