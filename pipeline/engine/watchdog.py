"""End the process of a worker when a file makes it hang, spin or eat memory, since C code can't be interrupted."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from pipeline.lake.work import ChunkKey

Note = Callable[[ChunkKey, str, str], None]
"""Takes a chunk, and why the work on it ends: the kind of failure, and the cause in words."""

EXIT_CODE = 75
_LOOK_EVERY_S = 0.05
# If the interpreter is blocked, the watching thread can't run. C code then ends the process this much later.
_LAST_RESORT_S = 30.0
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)


class Watchdog:
    """Watches one task at a time; it reports the reason to the ledger before it ends the process."""

    def __init__(self, note: Note, memory_gb: float) -> None:
        """Start watching.

        Args:
            note: Tells the ledger why an attempt is being ended.
            memory_gb: Maximum memory of the process, in GiB, without what it shares with others.
        """
        crash_at_once()
        self._note = note
        self._memory_bytes = memory_gb * 2**30
        self._process = psutil.Process()
        self._watched: tuple[ChunkKey, float, float] | None = None
        self._nowhere = open(os.devnull, "w")  # noqa: SIM115 (held as long as the process lives)
        self._closed = threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._nowhere.close()

    @contextmanager
    def over(self, key: ChunkKey, limit_s: float) -> Iterator[None]:
        """Watch while a block runs; the limits hold for it alone."""
        faulthandler.dump_traceback_later(limit_s + _LAST_RESORT_S, exit=True, file=self._nowhere)
        self._watched = key, time.monotonic() + limit_s, limit_s
        try:
            yield
        finally:
            self._watched = None
            faulthandler.cancel_dump_traceback_later()

    def _look(self) -> None:
        while not self._closed.wait(_LOOK_EVERY_S):
            watched = self._watched
            if watched is None:
                continue
            key, until, limit_s = watched
            if time.monotonic() > until:
                self._end(key, "deadline", f"it passed its deadline of {limit_s:g} s (deadline_base_s, deadline_per_s)")
            if self._own_memory_bytes() > self._memory_bytes:
                limit_gb = self._memory_bytes / 2**30
                self._end(key, "memory", f"its worker needed more memory than worker_memory_gb = {limit_gb:g}")

    def _own_memory_bytes(self) -> int:
        info = self._process.memory_info()
        # Frames in a shared store are mapped into every process that reads them.
        return int(info.rss) - int(getattr(info, "shared", 0))

    def _end(self, key: ChunkKey, kind: str, cause: str) -> None:
        try:
            self._note(key, kind, cause)
        finally:
            os._exit(EXIT_CODE)


def crash_at_once() -> None:
    """Let a crash end this process at once, with its Python stack in the worker's log.

    Otherwise Ray first looks up the names of all functions on the C stack. With the libraries that are loaded here,
    that takes minutes and gigabytes.
    """
    faulthandler.disable()
    libc = ctypes.CDLL(None)
    for number in _CRASHES:
        # Python's own `signal.signal` works only in the main thread, and an actor may run in another one.
        libc.signal(int(number), int(signal.SIG_DFL))
    faulthandler.enable()
