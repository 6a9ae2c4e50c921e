"""Stop a job on Ctrl-C or SIGTERM: work in progress gets some time to finish, and no process is left running."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from pipeline.errors import Interrupted

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
GOES_ON = "what is finished is kept, the same command goes on from there"
"""What is true of every job that writes to a lake."""


class StopRequest:
    """What is known of the wish to stop.

    The first signal winds the job down: what is under way has `grace_s` seconds to be finished. Where nothing is under
    way, or when that time is over, `Interrupted` is raised in the main thread. A second signal ends everything at once.
    """

    def __init__(self, grace_s: float, left: str = GOES_ON) -> None:
        self.signum: int | None = None
        self._left = left
        self._grace_s = grace_s
        self._wind_down: Callable[[], None] | None = None
        self._is_over = False

    def take_over(self) -> None:
        """Handle the signals from now on; to be called again after Ray has put its own handlers there."""
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                signal.signal(signum, self._handle)

    @contextmanager
    def winding_down_by(self, wind_down: Callable[[], None]) -> Iterator[None]:
        """While a block runs, a signal calls this, and the block has time to come to its end; then it is left."""
        self._wind_down = wind_down
        try:
            yield
        finally:
            self._wind_down = None
        self.check()

    def check(self) -> None:
        """Raise if the job is to stop.

        Raises:
            Interrupted: It is.
        """
        if self.signum is not None:
            raise Interrupted(self.signum, self._left)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if self._is_over:
            # Not a signal from outside, but the end of the grace time; it comes in this way to reach the main thread.
            self._is_over = False
            self.check()
        if self.signum is not None:
            _end_at_once(signum)
        self.signum = signum
        if self._wind_down is None:
            self.check()
        # Ray must not be called from within a signal handler, which may have come in the midst of a call to it.
        threading.Thread(target=self._run, args=(self._wind_down,), daemon=True).start()

    def _run(self, wind_down: Callable[[], None]) -> None:
        log.warning(
            "stopping: chunks under way are finished, for at most %g s; once more to stop at once", self._grace_s
        )
        timer = threading.Timer(self._grace_s, self._run_out)
        timer.daemon = True
        timer.start()
        wind_down()

    def _run_out(self) -> None:
        if self._wind_down is not None:
            self._is_over = True
            # A real signal, and to this very thread: only that wakes it where it waits for a lock.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def stopping_on_signals(grace_s: float, left: str = GOES_ON) -> Iterator[StopRequest]:
    """Handle Ctrl-C and SIGTERM while a block runs in the main thread, the only one that receives signals.

    Args:
        grace_s: Seconds that work under way has to be finished.
        left: What is left of it, and what the same command does with that.
    """
    request = StopRequest(grace_s, left)
    before = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    request.take_over()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for signum, handler in before.items():
                signal.signal(signum, handler)


def _end_at_once(signum: int) -> None:
    """End this process and all that it started, without any tidying up: a rerun does that."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(128 + signum)
