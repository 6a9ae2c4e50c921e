"""The command `actionlake`, which does something to itself in the midst of a job.

    ACTIONLAKE_CHAOS_DRIVER='{"chunks": 5, "do": "SIGINT"}' python -m tests.chaos.job ARGUMENT...

The variable tells what it does and when: in which `stage`, after so many `chunks` and `videos`; and if the signal comes
`twice`. Workers do what `tests.chaos.faults` says.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import signal
import sys
from typing import Any

import psutil

from pipeline import cli
from pipeline.cli.terminal import ProgressDisplay
from pipeline.engine.board import JobState
from tests.chaos import faults

VARIABLE = "ACTIONLAKE_CHAOS_DRIVER"


def kill_tree() -> None:
    """Kill this process and all that it started, at one blow."""
    family = psutil.Process().children(recursive=True)
    for process in family:
        process.suspend()
    for process in family:
        process.kill()
        faults.note_happened(f"tree {process.pid}")
    os.kill(os.getpid(), signal.SIGKILL)


def act(how: str) -> None:
    """Do it."""
    if how == "tree":
        kill_tree()
    elif how == "raylet":
        for process in psutil.Process().children(recursive=True):
            if process.name() == "raylet":
                process.kill()
    else:
        os.kill(os.getpid(), signal.Signals[how])


class _Again(logging.Handler):
    """Sends a second signal as soon as the first is told of."""

    def emit(self, record: logging.LogRecord) -> None:
        if "stopping" in record.getMessage():
            os.kill(os.getpid(), signal.SIGINT)


def main() -> None:
    wanted = json.loads(os.environ.get(VARIABLE, "{}"))
    done: list[JobState] = []
    show = ProgressDisplay.update

    def update(display: ProgressDisplay, state: JobState) -> None:
        show(display, state)
        reached = (
            state.stage == wanted.get("stage", "extracting")
            and state.n_chunks_done >= wanted.get("chunks", 0)
            and state.n_videos_done >= wanted.get("videos", 0)
        )
        if wanted and reached and not done:
            done.append(state)
            act(wanted["do"])

    ProgressDisplay.update = update  # type: ignore[method-assign]
    if wanted.get("twice"):
        logging.getLogger("pipeline.engine.interrupts").addHandler(_Again())
    if "ray" in sys.argv or "RAY_ADDRESS" in os.environ:
        import ray

        start: Any = ray.init
        ray.init = functools.partial(start, runtime_env=faults.RUNTIME_ENV)
    cli.main()


if __name__ == "__main__":
    main()
