"""Retries and timeouts for a storage that fails for a moment, or never answers."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from pipeline.errors import ActionlakeError

log = logging.getLogger(__name__)

_STALLED_AFTER_S = 120.0
_PAUSES_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENAMETOOLONG}
# Arrow's clients for S3, Google and Azure give no error number. Their message contains the store's own word.
_REFUSED = ("ACCESS_DENIED", "PERMISSION_DENIED", "AuthorizationPermissionMismatch")

_T = TypeVar("_T")


def patiently(uri: str, action: Callable[[], _T]) -> _T:
    """Run an idempotent operation on a storage; if it fails, retry it with growing pauses.

    Raises:
        ActionlakeError: Every attempt failed, or the error is one that waiting does not mend.
    """
    for pause_s in (*_PAUSES_S, None):
        try:
            return action()
        except OSError as error:
            if pause_s is None or _is_hopeless(error):
                raise ActionlakeError(
                    f"{uri}: can't be written to ({error.strerror or error}); what is finished is kept. Mend the "
                    "cause, and the same command goes on from there"
                ) from error
            log.warning("%s: can't be written to (%s); trying again in %g s", uri, error.strerror or error, pause_s)
            time.sleep(pause_s)
    raise AssertionError("the last try returns or raises")


def _is_hopeless(error: OSError) -> bool:
    """Whether waiting does not mend an error, such as a full disk or a missing permission."""
    return error.errno in _HOPELESS or any(word in str(error) for word in _REFUSED)


def unless_it_stalls(action: Callable[[], None]) -> None:
    """Run an operation that may never return; after a timeout it counts as failed."""
    done: Future[None] = Future()

    def act() -> None:
        try:
            action()
            done.set_result(None)
        except Exception as error:  # Any error is raised again in the thread that waits.
            done.set_exception(error)

    threading.Thread(target=act, daemon=True).start()
    try:
        done.result(timeout=_STALLED_AFTER_S)
    except TimeoutError as error:
        raise TimeoutError(f"no answer for {_STALLED_AFTER_S:g} s") from error
