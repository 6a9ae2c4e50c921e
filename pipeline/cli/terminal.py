"""Output while a command runs: live progress, or plain lines without a terminal, and notes."""

from __future__ import annotations

import time
import unicodedata
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from pipeline.engine.board import JobState
    from pipeline.lake.progress import LakeProgress
    from pipeline.lake.query import LakeReader

# Seconds between two lines of progress where there is no terminal.
_PLAIN_EVERY_S = 10.0
# Unicode categories: control, formatting (some reverse a line), halves of surrogate pairs, separators of lines and
# paragraphs.
_NOT_SHOWN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
# Some scripts, and emoji of several parts, can't be read without these characters.
_JOINERS = "\u200c\u200d"


def plain(text: str) -> str:
    """Return text that a terminal shows literally: without markup or control characters.

    File names and labels come from outside. They may hold escape sequences, line ends, or marks that reverse text.
    """
    return escape(printable(text))


def printable(text: str) -> str:
    """Return text with every control and formatting character spelt out."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _NOT_SHOWN and char not in _JOINERS
        else char
        for char in text
    )


def spoken(text: str) -> str:
    """Return the output of another program, each line treated as by `plain`."""
    return "\n".join(plain(line) for line in text.split("\n"))


class ProgressDisplay:
    """Shows the progress of a job. A context manager: call `update` whenever something is finished."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s = 0.0
        self._last_stage = ""
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description:<10}"),
                BarColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                console=console,
                transient=True,
            )

    def __enter__(self) -> ProgressDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, state: JobState) -> None:
        """Show the state of an analysis."""
        if self._live is None:
            self._print_line(state)
            return
        if state.stage in ("starting", "planning"):
            self._bar(state.stage, None, 0, "")
            return
        for stage in ("starting", "planning"):
            if stage in self._tasks:
                self._live.remove_task(self._tasks.pop(stage))
        self._bar("videos", state.n_videos - state.n_videos_before, state.n_videos_done, self._videos_note(state))
        self._bar("chunks", state.n_chunks, state.n_chunks_done, self._speed_note(state))

    def epoch(self, split: str, epoch: int, loss: float) -> None:
        """Show an epoch of a training run."""
        if self._live is not None:
            self._bar(split, None, epoch, f"epoch {epoch}, loss {loss:.3f}")
        elif time.monotonic() - self._last_line_s >= _PLAIN_EVERY_S:
            self._last_line_s = time.monotonic()
            self._console.print(f"training {split}: epoch {epoch}, loss {loss:.3f}", highlight=False)

    def _bar(self, name: str, total: float | None, done: float, note: str) -> None:
        assert self._live is not None
        if name not in self._tasks:
            self._tasks[name] = self._live.add_task(name, total=total, note=note)
        self._live.update(self._tasks[name], total=total, completed=done, note=note)

    def _print_line(self, state: JobState) -> None:
        now = time.monotonic()
        if state.stage == self._last_stage and now - self._last_line_s < _PLAIN_EVERY_S:
            return
        self._last_line_s, self._last_stage = now, state.stage
        if state.stage in ("extracting", "done"):
            chunks = f"{state.n_chunks_done}/{state.n_chunks} chunks"
            line = f"{self._videos_note(state)} videos, {chunks}, {self._speed_note(state)}"
        else:
            line = state.stage
        self._console.print(line, highlight=False, soft_wrap=True)

    @staticmethod
    def _videos_note(state: JobState) -> str:
        note = f"{state.n_videos_done + state.n_videos_before}/{state.n_videos}"
        if state.n_failed or state.n_partial:
            note += f" ({state.n_failed} failed, {state.n_partial} partial)"
        return note

    @staticmethod
    def _speed_note(state: JobState) -> str:
        elapsed_s = time.monotonic() - state.started
        speed = state.video_done_s / elapsed_s
        if not speed:
            return "starting workers"
        left_s = max(0.0, state.video_s - state.video_done_s) / speed
        return f"{speed:.1f} video-hours/h, {left_s / 60:.0f} min left" if left_s else f"{speed:.1f} video-hours/h"


def progress_line(now: LakeProgress, before: LakeProgress | None = None) -> str:
    """Return the progress of a lake in one line; with an earlier observation also its speed."""
    videos = f"{now.n_videos_committed}/{now.n_videos} videos"
    if now.n_failed or now.n_partial:
        videos += f" ({now.n_failed} failed, {now.n_partial} partial)"
    parts = [
        videos,
        f"{now.n_chunks_done}/{now.n_chunks} chunks",
        f"{now.video_done_s / 3600:.2f} of {now.video_s / 3600:.2f} video-hours",
    ]
    if before is not None and now.video_done_s > before.video_done_s:
        speed = (now.video_done_s - before.video_done_s) / (now.looked - before.looked)
        left_s = (now.video_s - now.video_done_s) / speed
        parts.append(f"{speed:.1f} video-hours/h, {left_s / 60:.0f} min left")
    idle = "done" if now.is_done else "nobody works on it; the same `actionlake analyze` goes on from there"
    return plain(f"{', '.join(parts)}; {now.at_work or idle}")


def warn_of_moving_cameras(console: Console, lake: LakeReader, where: str | None = None) -> None:
    """Name the videos whose camera moves: there, people's paths hold its motion, too."""
    from pipeline.lake.forecasts import moving_cameras

    if moving := moving_cameras(lake, where):
        console.print(f"[yellow]Note:[/] {plain(moving)}", highlight=False, soft_wrap=True)
