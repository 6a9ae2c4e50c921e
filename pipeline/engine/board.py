"""How far a job is: what is counted for its display, and which chunks its shards still wait for."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.engine.commit import ShardSummary
from pipeline.engine.decoding import ChunkTask, tasks_of
from pipeline.lake.plans import read_plan
from pipeline.lake.store import Lake
from pipeline.lake.work import ChunkKey, Receipt, finished_chunks

log = logging.getLogger(__name__)


@dataclass
class JobState:
    """How far the job is; every field but `started` only grows."""

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
    failures: list[str] = field(default_factory=list)
    label_n: Counter[str] = field(default_factory=Counter)
    label_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    covered_s: float = 0.0
    runtime: str = ""
    layout: str = ""
    wall_s: float = 0.0


class Board:
    """Keeps track of which chunks are still out, and so of which shards are ready to be committed."""

    def __init__(self, lake: Lake, shards: Sequence[int], state: JobState) -> None:
        self._state = state
        self._open: dict[int, set[ChunkKey]] = {}
        self._pieces: dict[ChunkKey, set[int]] = defaultdict(set)
        self._ends: dict[ChunkKey, int] = {}
        self._durations: dict[ChunkKey, float] = {}
        self._lake = lake
        self._tasks: list[ChunkTask] = []
        committed = set(lake.committed())
        for shard in shards:
            videos = read_plan(lake, shard)
            state.n_videos += len(videos)
            if shard in committed:
                state.n_videos_before += len(videos)
                continue
            finished = finished_chunks(lake.work_names(shard))
            tasks = [task for video in videos for task in tasks_of(shard, video)]
            todo = [task for task in tasks if task.key not in finished]
            state.n_chunks += len(todo)
            state.n_chunks_before += len(tasks) - len(todo)
            self._open[shard] = {task.key for task in todo}
            self._durations |= {task.key: task.chunk.duration_s for task in todo}
            self._tasks += todo
        state.video_s = sum(self._durations.values())
        if state.n_videos_before or state.n_chunks_before:
            log.info(
                "resuming: %d videos were committed and %d chunks finished before; they are not decoded again",
                state.n_videos_before,
                state.n_chunks_before,
            )

    def ready(self) -> list[int]:
        """Return the shards of which no chunk is out."""
        return [shard for shard, out in self._open.items() if not out]

    def outstanding(self) -> list[ChunkTask]:
        """Return the chunks that are out, in the order in which they should be done."""
        return [task for task in self._tasks if task.key in self._open[task.shard]]

    def recount(self) -> list[int]:
        """Look in the lake for finished chunks whose receipts were lost; return the shards that are ready by that."""
        ready = []
        for shard, out in self._open.items():
            if out:
                for key in out & finished_chunks(self._lake.work_names(shard)).keys():
                    self._finish(shard, key)
                if not out:
                    ready.append(shard)
        return ready

    def received(self, receipt: Receipt) -> bool:
        """Take note of a piece; return whether it was the last that its shard waited for."""
        state = self._state
        state.n_frames += receipt.n_frames
        state.n_boxes += receipt.n_boxes
        state.n_decoded += receipt.n_decoded
        for stage in ("decode", "detect", "embed", "write"):
            state.stage_s[stage] += getattr(receipt, f"{stage}_s")
        key = receipt.key
        self._pieces[key].add(receipt.piece)
        if receipt.last:
            self._ends[key] = receipt.piece
        # In the split layout the pieces of a chunk come in any order.
        if (
            len(self._pieces[key]) <= self._ends.get(key, len(self._pieces[key]))
            or key not in self._open[receipt.shard]
        ):
            return False
        self._finish(receipt.shard, key)
        return not self._open[receipt.shard]

    def _finish(self, shard: int, key: ChunkKey) -> None:
        self._state.n_chunks_done += 1
        self._state.video_done_s += self._durations.pop(key)
        self._pieces.pop(key, None)
        self._ends.pop(key, None)
        self._open[shard].discard(key)

    def committed(self, summary: ShardSummary) -> None:
        """Take note of a committed shard."""
        state = self._state
        state.n_videos_done += summary.n_videos
        state.n_failed += summary.n_failed
        state.n_partial += summary.n_partial
        state.failures += summary.failures
        state.covered_s += summary.covered_s
        state.label_n += summary.label_n
        for label, seconds in summary.label_s.items():
            state.label_s[label] += seconds
        state.stage_s["label"] += summary.wall_s
