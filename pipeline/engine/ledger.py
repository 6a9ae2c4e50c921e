"""Count attempts per chunk across the deaths of workers."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.lake.work import ChunkKey

_UNKNOWN = ("worker_died", "its worker died each time")


class Attempt(NamedTuple):
    """One time that a worker takes up a chunk."""

    number: int
    """From 1."""
    kind: str
    """What ended the one before, as kind of a failure ..."""
    cause: str
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

    def begin(self, key: ChunkKey, finished: ChunkKey | None = None) -> Attempt | None:
        """Count an attempt, and forget the chunk that the same worker finished before.

        None: the job is being stopped, and nothing more is to be taken up.
        """
        if finished is not None:
            self._attempts.pop(finished, None)
            self._causes.pop(finished, None)
        if self._stopping:
            return None
        self._attempts[key] += 1
        return Attempt(self._attempts[key], *self.cause(key))

    def cause(self, key: ChunkKey) -> tuple[str, str]:
        """Return why the last attempt ended, as kind of a failure and in words."""
        return self._causes.get(key, _UNKNOWN)

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
