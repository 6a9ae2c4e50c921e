"""Errors by kind: what a user can mend, and what belongs to one video only."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HERE = Path(__file__).parent
_MESSAGE_CHARS = 300


class ActionlakeError(Exception):
    """The job can't go on. The message names what is wrong and the way out; it is shown without a traceback."""


class UsageError(ActionlakeError):
    """The command was given something that can't work: an option, a path, a configuration."""


class VideoError(ActionlakeError):
    """One video can't be read, or not to its end. It becomes a row in `failures`; the job goes on.

    `kind` is one of `missing`, `empty`, `not_video`, `no_video_stream`, `corrupt`, `truncated`, `io`, `worker_died`,
    `deadline`, `memory`, `too_large`, `internal`.
    """

    def __init__(self, kind: str, message: str) -> None:
        # Both are in `args`, so that the error can be sent between processes.
        super().__init__(kind, message)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


class UnforeseenError(Exception):
    """An unexpected error in one stage of the work on one video. It costs that chunk or video, not the job."""

    def __init__(self, stage: str, cause: Exception) -> None:
        super().__init__(stage, cause)
        self.stage = stage
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.stage} failed, a fault of the program: {describe(self.cause)}"

    def failure(self, uri: str) -> VideoError:
        """Return it as the failure of a video, of kind `internal`."""
        return VideoError("internal", f"{uri}: {self}; the traceback is in the log")


@contextmanager
def stage(name: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Name the stage of work in a block; an unexpected error leaves the block as `UnforeseenError`.

    Args:
        name: `probe`, `decode`, `detect`, `embed`, `flow`, `track`, `label` or `write`, as in the table `failures`.
        passing: Further errors that pass unchanged, because the caller handles them.
    """
    foreseen: tuple[type[Exception], ...] = (ActionlakeError, UnforeseenError, *passing)
    try:
        yield
    except foreseen:
        raise
    except Exception as error:
        raise UnforeseenError(name, error) from error


def describe(error: BaseException) -> str:
    """Return type, message and place of an error in one line; the place is the last one within this package."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(_HERE)]
    text = " ".join(str(error).split())[:_MESSAGE_CHARS]
    told = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if not frames:
        return told
    frame = (ours or frames)[-1]
    path = Path(frame.filename)
    name = path.relative_to(_HERE.parent) if ours else path.name
    return f"{told} ({name}:{frame.lineno}, {frame.name})"


class Interrupted(BaseException):
    """The work was told to stop, by Ctrl-C or SIGTERM.

    `left` says what the work leaves behind, and what the same command does with that.

    Like `KeyboardInterrupt` it is no `Exception`, so that code that handles errors does not catch it.
    """

    def __init__(self, signum: int, left: str) -> None:
        super().__init__(signum, left)
        self.signum = signum
        self.left = left
