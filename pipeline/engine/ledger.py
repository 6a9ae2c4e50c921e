"""Count attempts per chunk across the deaths of workers, and enforce deadlines."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

import ray

from pipeline.lake.work import ChunkKey

DEADLINE_EXIT_CODE = 75


class Ledger:
    """Knows how often each chunk was taken up; runs beside the driver, so the death of a worker does not touch it."""

    def __init__(self) -> None:
        self._attempts: Counter[ChunkKey] = Counter()
        self._overdue: set[ChunkKey] = set()

    def begin(self, key: ChunkKey) -> tuple[int, bool]:
        """Count an attempt, and return `(its number, whether an earlier one passed its deadline)`."""
        self._attempts[key] += 1
        return self._attempts[key], key in self._overdue

    def finish(self, key: ChunkKey) -> None:
        """Forget a finished chunk."""
        self._attempts.pop(key, None)
        self._overdue.discard(key)

    def overdue(self, key: ChunkKey) -> None:
        """Note that a chunk passed its deadline."""
        self._overdue.add(key)


class Deadline:
    """Ends this process if a chunk takes too long: a decoder that hangs inside C code can't be stopped otherwise."""

    def __init__(self, ledger: Any, key: ChunkKey, limit_s: float) -> None:
        self._ledger, self._key = ledger, key
        self._timer = threading.Timer(limit_s, self._end)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        try:
            ray.get(self._ledger.overdue.remote(self._key), timeout=5)
        finally:
            os._exit(DEADLINE_EXIT_CODE)
