"""Errors by kind: what a user can mend, and what belongs to one video only."""

from __future__ import annotations


class ActionlakeError(Exception):
    """The job can't go on. The message names what is wrong and the way out; it is shown without a traceback."""


class UsageError(ActionlakeError):
    """The command was given something that can't work: an option, a path, a configuration."""


class VideoError(ActionlakeError):
    """One video can't be read, or not to its end. It becomes a row in `failures`; the job goes on.

    `kind` is one of `missing`, `empty`, `not_video`, `no_video_stream`, `corrupt`, `truncated`, `io`, `worker_died`,
    `deadline`, `memory`, `too_large`.
    """

    def __init__(self, kind: str, message: str) -> None:
        # Both in `args`, so that it can travel between processes.
        super().__init__(kind, message)
        self.kind = kind

    def __str__(self) -> str:
        return str(self.args[1])


class Interrupted(BaseException):
    """The job was told to stop, by Ctrl-C or SIGTERM; what is finished is kept.

    Like `KeyboardInterrupt` it is no `Exception`: nothing that mends errors shall take it for one.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum
