"""The progress of a job: counts for its display, and the chunks that its shards still wait for."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.lake.plans import planned_work, read_plan
from pipeline.lake.store import Lake
from pipeline.lake.work import ChunkKey, Receipt, finished_chunks, lost_pieces
from pipeline.steps.breaker import Breaker
from pipeline.steps.commit import ShardSummary
from pipeline.steps.decode import ChunkTask, tasks_of

log = logging.getLogger(__name__)

MOST_FAILURES_KEPT = 10
"""How many failure messages are kept for the display. The table `failures` has all."""


@dataclass
class JobState:
    """How far the job is."""

    lake: str
    run_id: str
    started: float = field(default_factory=time.monotonic)
    stage: str = "starting"
    """`starting`, `planning`, `extracting` or `done`."""
    n_videos: int = 0
    n_videos_before: int = 0
    """Videos that an earlier run had committed."""
    n_videos_done: int = 0
    n_chunks: int = 0
    n_chunks_before: int = 0
    """Chunks that an earlier run had finished; they are not decoded again."""
    n_chunks_done: int = 0
    video_s: float = 0.0
    """Seconds of video to be read by this run."""
    video_done_s: float = 0.0
    n_decoded: int = 0
    """Frames that left the decoders."""
    n_frames: int = 0
    """Frames sampled."""
    n_boxes: int = 0
    stage_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of work, summed over workers, by stage."""
    n_failed: int = 0
    n_partial: int = 0
    n_failures: int = 0
    failures: list[str] = field(default_factory=list)
    """The first failure messages."""
    label_n: Counter[str] = field(default_factory=Counter)
    label_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    covered_s: float = 0.0
    judged_s: float = 0.0
    """Seconds of people or frames for which the models can tell how much they differ from the training data."""
    unlike_s: float = 0.0
    """The part of `judged_s` that differs from it."""
    n_forecasts: int = 0
    """Forecasts made. One forecast is for one person at one time, with all steps ahead."""
    runtime: str = ""
    layout: str = ""
    advice: str = ""
    """What would make the next such job faster, if anything was idle."""
    wall_s: float = 0.0


class Board:
    """Tracks which chunks are still unfinished, and therefore which shards are ready to be committed.

    Chunks are taken up in waves of whole shards, so that the chunks in memory do not grow with the archive.
    """

    def __init__(self, lake: Lake, shards: Mapping[int, int], state: JobState) -> None:
        """Take the shards, with the number of videos of each, and count the work to do in them."""
        self._lake = lake
        self._state = state
        self._open: dict[int, set[ChunkKey]] = {}
        self._pieces: dict[ChunkKey, set[int]] = defaultdict(set)
        self._ends: dict[ChunkKey, int] = {}
        self._tasks: dict[ChunkKey, ChunkTask] = {}
        self._breaker = Breaker("chunks")
        # Unexpected errors: the message for each outstanding chunk, and all shards concerned.
        self._unforeseen: dict[ChunkKey, str] = {}
        self.doubtful_shards: set[int] = set()
        committed = set(lake.committed())
        state.n_videos = sum(shards.values())
        state.n_videos_before = sum(n for shard, n in shards.items() if shard in committed)
        self._waiting = deque(shard for shard in shards if shard not in committed)
        for shard in self._waiting:
            _, n_chunks, duration_s = planned_work(lake, shard)
            state.n_chunks += n_chunks
            state.video_s += duration_s
        if state.n_videos_before:
            log.info("resuming: %d videos were committed before", state.n_videos_before)

    def next_wave(self, n_chunks: int) -> bool:
        """Take up shards until about `n_chunks` chunks are outstanding. Return whether any was taken up."""
        n_before = self._state.n_chunks_before
        taken = False
        while self._waiting and len(self._tasks) < n_chunks:
            self._take_up(self._waiting.popleft())
            taken = True
        if self._state.n_chunks_before > n_before:
            log.info("resuming: %d chunks were finished before", self._state.n_chunks_before - n_before)
        return taken

    def _take_up(self, shard: int) -> None:
        names = self._lake.work_names(shard)
        # Chunks that failed with an unexpected error are retried by the next run, not within one run.
        for name in lost_pieces(names):
            self._lake.delete(self._lake.work_folder(shard), name)
        finished = finished_chunks(set(names) - set(lost_pieces(names)))
        tasks = [task for video in read_plan(self._lake, shard) for task in tasks_of(shard, video)]
        todo = {task.key: task for task in tasks if task.key not in finished}
        n_before = len(tasks) - len(todo)
        self._state.n_chunks -= n_before
        self._state.n_chunks_before += n_before
        self._state.video_s -= sum(task.chunk.duration_s for task in tasks if task.key in finished)
        self._open[shard] = set(todo)
        self._tasks |= todo

    def pop_ready(self) -> list[int]:
        """Return the shards without outstanding chunks, each only once."""
        ready = [shard for shard, out in self._open.items() if not out]
        for shard in ready:
            del self._open[shard]
        return ready

    def outstanding(self) -> list[ChunkTask]:
        """Return the unfinished chunks, in the order in which they should be done."""
        return list(self._tasks.values())

    def recount(self) -> None:
        """Look in the lake for finished chunks whose receipts were lost."""
        for shard, out in self._open.items():
            if out:
                for key in out & finished_chunks(self._lake.work_names(shard)).keys():
                    self._finish(shard, key)

    def received(self, receipt: Receipt) -> None:
        """Record the receipt of a piece.

        Raises:
            SystematicError: So many chunks failed with unexpected errors that the videos are not the cause.
        """
        state = self._state
        state.n_frames += receipt.n_frames
        state.n_boxes += receipt.n_boxes
        state.n_decoded += receipt.n_decoded
        for stage in ("decode", "detect", "embed", "write"):
            state.stage_s[stage] += getattr(receipt, f"{stage}_s")
        key = receipt.key
        if key not in self._tasks:
            return
        self._pieces[key].add(receipt.piece)
        if receipt.is_lost:
            self._unforeseen.setdefault(key, receipt.failure_message)
            self.doubtful_shards.add(receipt.shard)
        if receipt.last:
            self._ends[key] = receipt.piece
        # In the split layout the pieces of a chunk come in any order.
        if len(self._pieces[key]) > self._ends.get(key, len(self._pieces[key])):
            self._finish(receipt.shard, key)
            self._breaker.count(self._unforeseen.pop(key, ""))

    def _finish(self, shard: int, key: ChunkKey) -> None:
        self._state.n_chunks_done += 1
        self._state.video_done_s += self._tasks.pop(key).chunk.duration_s
        self._pieces.pop(key, None)
        self._ends.pop(key, None)
        self._open[shard].discard(key)

    def committed(self, summary: ShardSummary) -> None:
        """Record a committed shard."""
        state = self._state
        state.n_videos_done += summary.n_videos
        state.n_failed += summary.n_failed
        state.n_partial += summary.n_partial
        state.n_failures += len(summary.failures)
        state.failures += summary.failures[: MOST_FAILURES_KEPT - len(state.failures)]
        state.covered_s += summary.covered_s
        state.judged_s += summary.judged_s
        state.unlike_s += summary.unlike_s
        state.label_n += summary.label_n
        for label, seconds in summary.label_s.items():
            state.label_s[label] += seconds
        state.stage_s["label"] += summary.wall_s
