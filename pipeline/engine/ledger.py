"""Count attempts per chunk across the deaths of workers."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.lake.work import ChunkKey


class Attempt(NamedTuple):
    """One time that a worker takes up a chunk."""

    number: int
    """From 1."""
    kind: str = "worker_died"
    """What ended the one before, as kind of a failure ..."""
    cause: str = "its worker died each time"
    """... and in words."""


class Ledger:
    """Knows how often each chunk was taken up; runs beside the driver, so the death of a worker does not touch it.

    If its own process dies it starts anew and counts from nothing: a chunk that kills its workers is then given up some
    attempts later.
    """

    def __init__(self) -> None:
        self._attempts: Counter[ChunkKey] = Counter()
        self._causes: dict[ChunkKey, tuple[str, str]] = {}
        self._stopping = False

    def begin(self, key: ChunkKey) -> Attempt | None:
        """Count an attempt; None: the job is being stopped, and nothing more is to be taken up."""
        if self._stopping:
            return None
        self._attempts[key] += 1
        return Attempt(self._attempts[key], *self._causes.get(key, ()))

    def finish(self, key: ChunkKey) -> None:
        """Forget a finished chunk."""
        self._attempts.pop(key, None)
        self._causes.pop(key, None)

    def note(self, key: ChunkKey, kind: str, cause: str) -> None:
        """Note why an attempt is being ended."""
        self._causes[key] = kind, cause

    def stop(self) -> None:
        """Let workers finish the chunk that they are at, and no other."""
        self._stopping = True


def start_ledger() -> Any:
    """Start the ledger of a job beside the driver: if that node goes, all goes."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here, max_restarts=-1, max_task_retries=-1)(Ledger)
    return actor.remote()
