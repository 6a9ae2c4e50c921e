"""A review as a process of its own, and its answers as they lie on disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import REPOSITORY


class Process:
    """A running `actionlake review`."""

    def __init__(self, lake: Path, answers: Path, *options: str) -> None:
        command = [
            sys.executable,
            "-m",
            "pipeline.cli",
            "review",
            "--lake",
            str(lake),
            "--answers",
            str(answers),
            *options,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()

    def kill(self) -> None:
        """End it at once, as if the power failed."""
        self.process.kill()
        self.process.wait(timeout=30)

    def stop(self) -> str:
        """End it as Ctrl-C does, and return what it says."""
        self.process.terminate()
        said, _ = self.process.communicate(timeout=30)
        assert self.process.returncode == 0
        return said


@contextmanager
def review(lake: Path, answers: Path, *options: str) -> Iterator[Process]:
    """Run a review during a block."""
    running = Process(lake, answers, *options)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate(timeout=30)
