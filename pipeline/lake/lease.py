"""A lease lets one job at a time write to a lake. The job renews it; if the job dies, the lease lapses."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
from filelock import FileLock
from pyarrow import fs as pafs

from pipeline.errors import ActionlakeError, UsageError
from pipeline.lake.store import Lake

log = logging.getLogger(__name__)

_NAME = "_lease.json"
_BEAT_S = 5.0
_LOOKS_EVERY_S = 1.0
_LAPSES_AFTER_S = 60.0
# An object store has no locks. If two jobs write a lease at once, both wait this long, and the later write wins.
_SETTLES_AFTER_S = 2.0


@dataclass(frozen=True)
class _Holder:
    """The holder of a lease."""

    token: str
    purpose: str
    host: str
    """Names of the machine, its boot and its process namespace. A process id is valid only within these."""
    pid: int
    started: float
    """When the process started: a later process may have the same id."""
    beat: int = 0
    """Grows while the holder lives. So no clock is compared with that of another machine."""

    @classmethod
    def here(cls, purpose: str) -> _Holder:
        return cls(uuid.uuid4().hex, purpose, _host(), os.getpid(), psutil.Process().create_time())

    def is_alive_here(self) -> bool | None:
        """Whether the process lives; None: it runs on another machine."""
        if self.host != _host():
            return None
        try:
            return bool(psutil.Process(self.pid).create_time() == self.started)
        except psutil.NoSuchProcess:
            return False


class Lease:
    """The right to write to a lake, as long as it is renewed."""

    def __init__(self, lake: Lake, holder: _Holder) -> None:
        self._lake, self._holder = lake, holder
        self._renewed = time.monotonic()
        self._lost = ""
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise if the lease is not held any more.

        Raises:
            ActionlakeError: Another job has it, or it could not be renewed in time.
        """
        if self._lost:
            raise ActionlakeError(f"{self._lake.uri}: {self._lost}; this one stops, what is finished is kept")

    def release(self) -> None:
        """Give the lease back."""
        self._released.set()
        with contextlib.suppress(OSError):
            there = _read(self._lake)
            if there is not None and there.token == self._holder.token:
                self._lake.fs.delete_file(self._lake.path(_NAME))

    def _beat(self) -> None:
        holder = self._holder
        while not self._released.wait(_BEAT_S):
            try:
                there = _read(self._lake)
                if there is not None and there.token != holder.token:
                    self._lost = f"{_describe(there)} took it over"
                    return
                holder = replace(holder, beat=holder.beat + 1)
                _write(self._lake, holder)
                self._renewed = time.monotonic()
            except OSError as error:
                log.info("the lease of %s could not be renewed (%s); trying again", self._lake.uri, error)
                if time.monotonic() - self._renewed > _LAPSES_AFTER_S:
                    self._lost = f"its lease could not be renewed for {_LAPSES_AFTER_S:g} s ({error})"
                    return


@contextmanager
def leased(lake: Lake, purpose: str) -> Iterator[Lease]:
    """Hold a lake's lease while a block runs.

    If the holder died on this machine, its lease is taken over at once. A holder on another machine can't be checked:
    its lease is taken over after a minute without a renewal.

    Args:
        lake: The lake, which need not exist yet.
        purpose: What the lease is for, as other jobs are told.

    Raises:
        UsageError: Another job works on the lake.
    """
    mine = _Holder.here(purpose)
    elsewhere = _take(lake, mine)
    while elsewhere is not None:
        _wait_until_lapsed(lake, elsewhere)
        elsewhere = _take(lake, mine, elsewhere)
    lease = Lease(lake, mine)
    try:
        yield lease
    finally:
        lease.release()


def held_by(lake: Lake) -> str:
    """Describe who holds the lease of a lake, and when it was last renewed; empty if nobody holds it."""
    holder = _read(lake)
    if holder is None or holder.is_alive_here() is False:
        return ""
    renewed_ns = lake.fs.get_file_info(lake.path(_NAME)).mtime_ns
    ago = f", seen {max(0.0, time.time() - renewed_ns / 1e9):.0f} s ago" if renewed_ns else ""
    return f"{_describe(holder)}{ago}"


def _take(lake: Lake, mine: _Holder, lapsed: _Holder | None = None) -> _Holder | None:
    """Take the lease if it is free, or has lapsed, or belongs to a dead process of this machine; then return None.

    Return the holder if it is on another machine, because it can't be checked. Raise if it is alive on this machine.
    """
    if isinstance(lake.fs, pafs.LocalFileSystem):
        Path(lake.root).mkdir(parents=True, exist_ok=True)
        with FileLock(lake.path("_lease.lock")):
            return _take_unless_held(lake, mine, lapsed)
    elsewhere = _take_unless_held(lake, mine, lapsed)
    if elsewhere is None:
        time.sleep(_SETTLES_AFTER_S)
        there = _read(lake)
        if there is None or there.token != mine.token:
            raise _refusal(lake, there)
    return elsewhere


def _take_unless_held(lake: Lake, mine: _Holder, lapsed: _Holder | None) -> _Holder | None:
    there = _read(lake)
    if there is not None and there != lapsed:
        alive = there.is_alive_here()
        if alive is None:
            return there
        if alive:
            raise _refusal(lake, there)
    _write(lake, mine)
    return None


def _wait_until_lapsed(lake: Lake, first: _Holder) -> None:
    """Wait until a lease that is held on another machine has lapsed; raise if it is renewed."""
    log.warning("%s: waiting to see whether %s still works on it", lake.uri, _describe(first))
    until = time.monotonic() + _LAPSES_AFTER_S
    while time.monotonic() < until:
        time.sleep(_LOOKS_EVERY_S)
        there = _read(lake)
        if there is None:
            return
        if there != first:
            raise _refusal(lake, there)


def _refusal(lake: Lake, there: _Holder | None) -> UsageError:
    who = _describe(there) if there is not None else "another job"
    return UsageError(f"{lake.uri}: {who} works on it; wait until it is done, stop it, or use another lake")


def _describe(holder: _Holder) -> str:
    return f"{holder.purpose} (process {holder.pid} on {holder.host.split(' ', maxsplit=1)[0]})"


def _read(lake: Lake) -> _Holder | None:
    try:
        return _Holder(**json.loads(lake.read_bytes(_NAME)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        # A lease is written whole, so this is no lease, or one of another version: it does not count.
        return None


def _write(lake: Lake, holder: _Holder) -> None:
    lake.write_bytes(_NAME, json.dumps(asdict(holder)).encode())


def _host() -> str:
    parts = [socket.gethostname()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            parts.append(os.readlink(path) if os.path.islink(path) else Path(path).read_text().strip())
    return " ".join(parts)
