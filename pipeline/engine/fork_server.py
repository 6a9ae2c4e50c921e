"""A process that forks workers. It has imported their modules before, since the imports take longer than a short job.

It computes nothing and starts no threads, so no lock is held when it forks. It ends when the process that started it
ends, for whatever reason.
"""

from __future__ import annotations

import gc
import itertools
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_NUMBER = struct.Struct("!Q")
# Variables that Python and libraries read only at their start. Later changes have no effect.
_READ_AT_START = ("MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON")


class ForkServer:
    """The server, seen from the process that started it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the server with these environment variables. Do not wait until its imports are done."""
        self._socket, there = socket.socketpair()
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(there.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(there.fileno(),),
                # Ctrl-C must reach only the job, which lets its workers finish.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id of the server, whose children are the workers."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can start workers."""
        return self._process.poll() is None

    def start(self, start: int, pipe: int, stderr: int) -> int:
        """Fork a worker.

        Args:
            start: A file that tells the worker what to do, as `processes.work` reads it.
            pipe: The worker's end of its pipe.
            stderr: The file of its standard error.

        Returns:
            The worker's number, for `end`. If the server has died, the only sign of it is a closed pipe.
        """
        number = next(self._numbers)
        with suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._socket, [_NUMBER.pack(number)], [start, pipe, stderr])
        return number

    def end(self, number: int) -> None:
        """Kill a worker if it still runs, and return when it has ended.

        If the server has died, the worker ends as soon as its pipe is closed.
        """
        with self._lock, suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(_NUMBER.pack(number))
            self._socket.recv(1)


class _Current:
    """The server of this process."""

    server: ForkServer | None = None
    started_for: tuple[object, ...] = ()


_lock = threading.Lock()


def fork_server() -> ForkServer:
    """Return this process's server. Start one if there is no suitable one."""
    environment = environment_of_workers()
    # A process that was itself forked must not use the server of its parent.
    wanted_for = os.getpid(), *((k, v) for k, v in sorted(environment.items()) if k.startswith(_READ_AT_START))
    with _lock:
        if _Current.server is None or _Current.started_for != wanted_for or not _Current.server.is_alive:
            _Current.server, _Current.started_for = ForkServer(environment), wanted_for
        return _Current.server


def environment_of_workers() -> dict[str, str]:
    """Return the environment variables of a worker."""
    # Workers import the same copy of the package that runs here.
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # One thread per worker, because there is one worker per core.
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(path)}


def _serve(orders: socket.socket) -> None:
    """Fork and end workers on request: a number with files starts a worker, a number without files ends it."""
    # Local jobs must start fast, so their modules are imported here. Other workers import the rest themselves.
    from pipeline.engine import local, processes  # noqa: F401

    # Garbage collection would write to pages that are shared with the workers.
    gc.freeze()
    pids: dict[int, int] = {}
    while True:
        order, files, _, _ = socket.recv_fds(orders, _NUMBER.size, 3)
        if not order:
            return
        (number,) = _NUMBER.unpack(order)
        if not files:
            pid = pids.pop(number)
            # Only this process waits for the worker, so its process id can't have been reused yet.
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            orders.sendall(b"\0")
            continue
        pids[number] = os.fork()
        if not pids[number]:
            orders.close()
            processes.work(*files)
        for file in files:
            os.close(file)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
