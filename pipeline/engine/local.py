"""The engine that runs a job's steps in processes of this machine, without Ray."""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from pipeline.activity.bundle import Bundle
from pipeline.archive.probe import Probe
from pipeline.archive.refs import VideoRef
from pipeline.config import Config
from pipeline.engine.board import JobState
from pipeline.engine.job import choose_classifiers, commit_failed
from pipeline.engine.ledger import Ledger, batch_size, never_opened, take_up
from pipeline.engine.processes import Event, Pool, Requests
from pipeline.engine.watchdog import Note
from pipeline.engine.worker import ChunkDecoder, CommitWorker, finished_receipts, load_extractor, probe_batch, probe_key
from pipeline.errors import UsageError, VideoError
from pipeline.lake.schemas import vector_dims
from pipeline.lake.store import Lake
from pipeline.lake.work import ChunkKey, Receipt
from pipeline.steps.commit import ShardSummary
from pipeline.steps.decode import ChunkTask
from pipeline.steps.extract import NetworkFacts
from pipeline.steps.plan import Probed

# How many batches per worker are probed ahead of the file whose result is yielded next.
_AHEAD = 4
# The job ends with an error after this many commits of one shard that killed their process.
_MOST_FAILED_COMMITS = 10


class Extraction:
    """Runs in a worker process: probes files and extracts chunks."""

    def __init__(self, note: Note, lake_uri: str, config: Config) -> None:
        """Load the networks."""
        self._note, self._config = note, config
        self._lake = Lake(lake_uri)
        self._decoder = ChunkDecoder(config, note)
        self._extractor = load_extractor(config)

    def probe(self, refs: Sequence[VideoRef]) -> Iterator[list[Probe | VideoError]]:
        """Probe some files, and yield the results in one list."""
        yield probe_batch(refs, self._config, self._note)

    def extract(self, task: ChunkTask) -> Iterator[list[Receipt]]:
        """Decode and extract a chunk, and yield the receipts of its pieces."""
        for piece in self._decoder.decode(task):
            yield self._extractor.extract(self._lake, [piece])


class Commits:
    """Runs in the other worker processes: labels and commits shards."""

    def __init__(self, note: Note, lake_uri: str, config: Config, bundles: Sequence[Bundle]) -> None:  # noqa: ARG002
        self._worker = CommitWorker(lake_uri, config, bundles)

    def commit(self, shard: int, networks: NetworkFacts) -> Iterator[ShardSummary]:
        """Label a shard and commit it."""
        yield self._worker.commit(shard, networks)


class LocalEngine:
    """Runs the steps of one job in worker processes. One that dies uses up an attempt of its chunk and is replaced."""

    def __init__(self, lake_uri: str, bundles: Sequence[Bundle], networks: NetworkFacts, config: Config) -> None:
        """Choose the number of workers. They start when there is something to do.

        Raises:
            UsageError: The options ask for something that this machine does not have.
        """
        if config.layout == "split":
            raise UsageError("layout = 'split' needs --engine ray: on one machine frames need not leave their process")
        self._config, self._networks = config, networks
        self._lake = Lake(lake_uri)
        self._vectors = vector_dims(config.embedded, networks.dim)
        self._ledger = Ledger()
        self.n_workers = config.workers or os.cpu_count() or 1
        gpus = _gpus() if config.device != "cpu" else []
        if gpus:
            self.n_workers = config.workers or _workers_on(gpus, config, self.n_workers)
            config = replace(config, gpus_per_actor=min(1.0, len(gpus) / self.n_workers))
        elif config.device == "cuda":
            raise UsageError("device = 'cuda', but this machine has no NVIDIA GPU; use device = 'auto' or 'cpu'")
        elif config.precision == "f16":
            raise UsageError("precision = 'f16' needs a GPU; use bf16 or f32 on CPUs")
        self._workers = Pool(
            Extraction,
            (lake_uri, config),
            self.n_workers,
            self._ledger.note,
            [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}],
        )
        n_committers = choose_classifiers(config, self.n_workers)
        self._committers = Pool(Commits, (lake_uri, config, list(bundles)), n_committers)
        self._commits = Requests(
            self._committers,
            _MOST_FAILED_COMMITS,
            lambda _: commit_failed("the process that commits it dies each time"),
        )
        on_gpus = f" on {len(gpus)} GPUs" if gpus else ""
        self.layout = f"local: {self.n_workers} workers decode and extract{on_gpus}, {n_committers} label"

    def close(self) -> None:
        """End all workers at once."""
        self._workers.close()
        self._committers.close()

    def probe(self, refs: Iterator[VideoRef], n_refs: int) -> Iterator[Probed]:
        """Probe `n_refs` videos, in order."""
        size = batch_size(n_refs, self.n_workers)
        # Even one file may be work for two workers.
        self._workers.start(max(2, math.ceil(n_refs / size)))
        probing = _Probing(refs, size, size * self.n_workers * _AHEAD, self._config.max_attempts, self._ledger)
        while True:
            while self._workers.has_room and (batch := probing.next_batch()):
                self._workers.ask(batch, "probe", batch.refs)
            if not self._workers.n_busy:
                return
            for event in self._workers.events():
                probing.take(event)
            yield from probing.in_order()

    def extract(self, tasks: Sequence[ChunkTask]) -> Iterator[list[Receipt]]:
        """Extract chunks, and yield the receipts of their pieces in groups, after they are written."""
        self._workers.start(len(tasks))
        # A committer is ready when the first shard is. Started earlier, it would delay the start of the other workers.
        self._committers.start(1)
        waiting = deque(tasks)
        # Receipts are yielded only when their chunk is finished. Otherwise those of failed attempts would count, too.
        received: dict[ChunkKey, list[Receipt]] = {}
        while True:
            while self._workers.has_room and waiting:
                task = waiting.popleft()
                attempt = self._ledger.begin(task.key)
                begun = take_up(self._lake, task, attempt, self._config.max_attempts, self._vectors)
                if begun is None:
                    waiting.clear()
                    break
                task, given_up = begun
                if given_up:
                    yield given_up
                else:
                    received[task.key] = []
                    self._workers.ask(task, "extract", task)
            if not self._workers.n_busy:
                return
            for event in self._workers.events():
                key = event.request.key
                if event.kind == "item":
                    received[key] += event.value
                elif event.kind == "done":
                    yield received.pop(key)
                elif finished := finished_receipts(self._lake, [event.request]):
                    yield finished[key]
                else:
                    waiting.appendleft(event.request)

    def commit(self, shard: int) -> None:
        """Begin to label and commit a shard whose features are all written."""
        self._commits.add(shard, "commit", shard, self._networks)

    @property
    def n_committing(self) -> int:
        """How many shards are being committed."""
        return self._commits.n_left

    def committed(self, wait: bool = False) -> list[ShardSummary]:
        """Return the shards committed since the last call. With `wait`, wait for one if any is in progress."""
        return [summary for _, summary in self._commits.items(wait)]

    def wind_down(self) -> None:
        """Let workers finish their current chunks, and start no others."""
        self._ledger.stop()

    def observe(self, state: JobState) -> None:
        """Do nothing: nobody collects metrics of one machine."""

    def advice(self, state: JobState, wall_s: float) -> str:  # noqa: ARG002
        """Return no advice: the worker that decodes a frame also extracts it, so nothing is idle."""
        return ""


@dataclass(frozen=True)
class _Batch:
    """Files that a worker probes."""

    first: int
    """The index of the first one among all files."""
    refs: list[VideoRef]


class _Probing:
    """Hands out files to be probed, and yields the results in order."""

    def __init__(self, refs: Iterator[VideoRef], size: int, most_ahead: int, max_attempts: int, ledger: Ledger) -> None:
        self._refs, self._size, self._most_ahead = refs, size, most_ahead
        self._max_attempts, self._ledger = max_attempts, ledger
        # Files whose worker died. Each is tried again by itself.
        self._again: deque[_Batch] = deque()
        self._attempts: Counter[int] = Counter()
        self._found: dict[int, Probed] = {}
        self._n_asked = self._n_given = 0

    def next_batch(self) -> _Batch | None:
        """Return the next batch to probe, if there is one."""
        if self._again:
            return self._again.popleft()
        if self._n_asked - self._n_given >= self._most_ahead:
            return None
        batch = _Batch(self._n_asked, list(islice(self._refs, self._size)))
        self._n_asked += len(batch.refs)
        return batch if batch.refs else None

    def take(self, event: Event) -> None:
        """Record an event of a batch."""
        batch: _Batch = event.request
        if event.kind == "item":
            pairs = zip(batch.refs, event.value, strict=True)
            self._found |= dict(enumerate(pairs, start=batch.first))
        elif event.kind == "died" and len(batch.refs) > 1:
            self._again.extend(_Batch(number, [ref]) for number, ref in enumerate(batch.refs, start=batch.first))
        elif event.kind == "died":
            self._attempts[batch.first] += 1
            (ref,) = batch.refs
            if self._attempts[batch.first] < self._max_attempts:
                self._again.append(batch)
            else:
                self._found[batch.first] = (
                    ref,
                    never_opened(ref, self._max_attempts, *self._ledger.cause(probe_key(ref))),
                )

    def in_order(self) -> Iterator[Probed]:
        """Yield the results so far, up to the first file that has none."""
        while self._n_given in self._found:
            yield self._found.pop(self._n_given)
            self._n_given += 1


def _gpus() -> list[str]:
    """Return the NVIDIA GPUs that this process may use, by their names in `CUDA_VISIBLE_DEVICES`."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name]
    with suppress(OSError):
        return [str(number) for number, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    return []


def _workers_on(gpus: Sequence[str], config: Config, n_cpus: int) -> int:
    """Return how many workers share the GPUs: one for each CPU, or fewer if `gpus_per_actor` requires it."""
    if config.gpus_per_actor is None:
        return n_cpus
    return max(1, min(n_cpus, int(len(gpus) / config.gpus_per_actor)))
