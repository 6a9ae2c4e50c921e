"""What a person sees: live progress, plain lines where there is no terminal, and a closing table."""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.engine.board import JobState
    from pipeline.lake.progress import LakeProgress
    from pipeline.training.cases import LakeEvaluation

# Without a terminal, a line at most this often.
_PLAIN_EVERY_S = 10.0
# Control, formatting (among them those that reverse a line), halves of surrogate pairs, line and paragraph separators.
_NOT_SHOWN = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
# Without these some scripts, and emoji of several parts, can't be read.
_JOINERS = "\u200c\u200d"
_STAGE_NAMES = {
    "decode": "decoding",
    "detect": "detecting",
    "embed": "embedding",
    "write": "writing",
    "label": "labelling",
}


def plain(text: str) -> str:
    """Return what a message quotes so that a terminal shows it and does nothing else: no markup, no control character.

    File names and labels come from outside; they may hold escape sequences, line ends, or marks that turn text around.
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
    """Return what another program says, of one line or several, as `plain` does with each line."""
    return "\n".join(plain(line) for line in text.split("\n"))


class ProgressDisplay:
    """Shows how far a job is; a context manager, to be told by `update` whenever something is finished."""

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
    """Return how far a lake is, in one line; with an earlier look also how fast that is."""
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


def closing_table(console: Console, state: JobState) -> None:
    """Print what a job found and where its time went."""
    if state.label_n:
        table = Table(title="segments")
        for heading in ("label", "segments", "hours"):
            table.add_column(heading, justify="left" if heading == "label" else "right")
        for label, seconds in _largest_first(state.label_s):
            table.add_row(plain(label), str(state.label_n[label]), f"{seconds / 3600:.3f}")
        console.print(table)
    before = f", {state.n_videos_before} were done before" if state.n_videos_before else ""
    again = f", {state.n_chunks_before} chunks were finished before" if state.n_chunks_before else ""
    speed = state.video_done_s / state.wall_s if state.wall_s else 0.0
    lines = [
        f"{state.n_videos_done} videos, {state.covered_s / 3600:.3f} h covered, "
        f"{state.n_failed} failed, {state.n_partial} partial{before}{again}",
        f"{state.wall_s:.1f} s, {speed:.1f} video-hours/h; {state.n_chunks_done} chunks decoded, "
        f"{state.n_decoded} frames decoded, {state.n_frames} sampled, {state.n_boxes} boxes",
    ]
    total_s = sum(state.stage_s.values())
    if state.n_chunks_done and total_s:
        shares = ", ".join(
            f"{_STAGE_NAMES[stage]} {seconds:.1f} s"
            for stage, seconds in _largest_first(state.stage_s)
            if seconds >= 0.05
        )
        worst, worst_s = _largest_first(state.stage_s)[0]
        lines.append(f"worker time: {shares}; bottleneck: {_STAGE_NAMES[worst]} ({100 * worst_s / total_s:.0f} %)")
    lines += [f"layout {state.layout}; {state.runtime}".removesuffix("; ")]
    lines += [state.advice] if state.advice else []
    lines += [f"failed: {message}" for message in state.failures]
    if state.n_failures > len(state.failures):
        lines.append(f"... and {state.n_failures - len(state.failures)} more: SELECT * FROM failures")
    lines.append(f"lake: {state.lake}")
    for line in lines:
        console.print(plain(line), highlight=False, soft_wrap=True)


_FIGURE_NAMES = {
    "accuracy": "accuracy over annotated spans",
    "frame_accuracy": "frame accuracy",
    "edit": "edit score",
    "f1@10": "F1 at an overlap of 10 %",
    "f1@25": "F1 at an overlap of 25 %",
    "f1@50": "F1 at an overlap of 50 %",
    "map@0.5": "mAP at tIoU 0.5",
    "map@0.3:0.7": "mAP, mean of tIoU 0.3 to 0.7",
    "map@0.5:0.95": "mAP, mean of tIoU 0.5 to 0.95",
    "boundary_error_s": "error of starts and ends (s)",
    "calibration_error": "expected calibration error",
}


def evaluation_tables(console: Console, found: LakeEvaluation) -> None:
    """Print what was measured of a lake's segments: the figures with their intervals, then label by label."""
    evaluation = found.evaluation
    figures = Table(title=f"{plain(found.model)}: {evaluation.n_spans} spans in {evaluation.n_videos} videos")
    for heading in ("figure", "value", "95 % over videos"):
        figures.add_column(heading, justify="left" if heading == "figure" else "right")
    for name, heading in _FIGURE_NAMES.items():
        figure = evaluation.figures[name]
        figures.add_row(heading, f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}")
    console.print(figures)
    labels = Table(title="by label, segments at an overlap of 25 %")
    for heading in ("label", "annotated", "found", "precision", "recall", "F1", "AP at 0.5"):
        labels.add_column(heading, justify="left" if heading == "label" else "right")
    for name, of_label in evaluation.per_label.items():
        rates = (of_label["precision"], of_label["recall"], of_label["f1"], evaluation.average_precision[name]["0.5"])
        counts = (f"{of_label['n_true']:.0f}", f"{of_label['n_found']:.0f}")
        labels.add_row(plain(name), *counts, *(f"{rate:.3f}" for rate in rates))
    console.print(labels)
    if found.n_missing:
        console.print(f"{found.n_missing} annotated videos are not in the lake and were left out", highlight=False)


def _largest_first(totals: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(totals.items(), key=lambda item: -item[1])
