"""A process that forks workers: what they import, it has imported before, which takes longer than a short job.

It computes nothing and starts no thread of its own, so a fork finds no lock held. It ends when the process does that
started it, however that ends.
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
# What Python and libraries read as they start; later it is too late to tell them.
_READ_AT_START = ("MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON")


class ForkServer:
    """The server, seen from the process that started it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start it, with these environment variables, and do not wait until it has imported anything."""
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
                # Ctrl-C is for the job, which lets its workers finish.
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
            start: A file of which the worker learns what it is to do, as `processes.work` reads it.
            pipe: The worker's end of its pipe.
            stderr: The file of its standard error.

        Returns:
            The number by which `end` knows it. If the server has died, all that is seen of that is a closed pipe.
        """
        number = next(self._numbers)
        with suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(self._socket, [_NUMBER.pack(number)], [start, pipe, stderr])
        return number

    def end(self, number: int) -> None:
        """Kill a worker, if it still runs, and return when it has ended.

        If the server has died, a worker ends as soon as it sees its pipe closed.
        """
        with self._lock, suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(_NUMBER.pack(number))
            self._socket.recv(1)

    def close(self) -> None:
        """Let it end; workers that it has started go on."""
        self._socket.close()
        self._process.wait()


class _Current:
    """The server of this process."""

    server: ForkServer | None = None
    started_for: tuple[object, ...] = ()


_lock = threading.Lock()


def fork_server() -> ForkServer:
    """Return this process's server; start one if there is none that would do."""
    environment = environment_of_workers()
    # A process that was forked itself may not use the server of its parent.
    wanted_for = os.getpid(), *((k, v) for k, v in sorted(environment.items()) if k.startswith(_READ_AT_START))
    with _lock:
        if _Current.server is None or _Current.started_for != wanted_for or not _Current.server.is_alive:
            _Current.server, _Current.started_for = ForkServer(environment), wanted_for
        return _Current.server


def environment_of_workers() -> dict[str, str]:
    """Return the environment variables of a worker."""
    # The package that runs here, wherever it was found.
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    # One thread a worker, as there is one worker a core.
    return {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(path)}


def _serve(orders: socket.socket) -> None:
    """Fork and end workers as told: a number with files begins one, without files it ends that one."""
    # Local jobs are what shall start at once; others import the rest in the worker.
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
            # Nobody else waits for it, so the process id can't be that of another by now.
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
