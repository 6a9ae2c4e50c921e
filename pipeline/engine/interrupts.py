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
"""What an interrupted job says if it writes to a lake."""


class StopRequest:
    """A request to stop, made by a signal.

    The first signal winds the job down: work in progress has `grace_s` seconds to finish. If there is none, or when
    that time is over, `Interrupted` is raised in the main thread. A second signal ends everything at once.
    """

    def __init__(self, grace_s: float, left: str = GOES_ON) -> None:
        self.signum: int | None = None
        self._left = left
        self._grace_s = grace_s
        self._wind_down: Callable[[], None] | None = None
        self._is_over = False

    def take_over(self) -> None:
        """Handle the signals from now on. Call it again after Ray has installed its own handlers."""
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                signal.signal(signum, self._handle)

    @contextmanager
    def winding_down_by(self, wind_down: Callable[[], None]) -> Iterator[None]:
        """Call `wind_down` on a signal while a block runs. The block has the grace time to finish, then it is left."""
        self._wind_down = wind_down
        try:
            yield
        finally:
            self._wind_down = None
        self.check()

    def check(self) -> None:
        """Raise if a stop was requested.

        Raises:
            Interrupted: It was.
        """
        if self.signum is not None:
            raise Interrupted(self.signum, self._left)

    def _handle(self, signum: int, _: FrameType | None) -> None:
        if self._is_over:
            # The grace time is over. `_run_out` has sent this signal, because it reaches the main thread.
            self._is_over = False
            self.check()
        if self.signum is not None:
            _end_at_once(signum)
        self.signum = signum
        if self._wind_down is None:
            self.check()
        # A signal handler must not call Ray, because it may have interrupted another call to Ray.
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
            # Only a real signal to exactly this thread wakes it if it waits for a lock.
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


@contextmanager
def stopping_on_signals(grace_s: float, left: str = GOES_ON) -> Iterator[StopRequest]:
    """Handle Ctrl-C and SIGTERM while a block runs in the main thread, the only one that receives signals.

    Args:
        grace_s: Seconds that work in progress has to finish.
        left: Text for the user: what is kept, and what the same command does with it.
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
    """End this process and all its child processes without cleanup. A rerun cleans up."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(128 + signum)
