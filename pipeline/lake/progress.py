"""The progress of a job, read from its lake alone: for jobs that run elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pyarrow.compute as pc

from pipeline.lake.lease import held_by
from pipeline.lake.parts import read_part
from pipeline.lake.plans import planned_work, read_plan
from pipeline.lake.store import Lake
from pipeline.lake.work import finished_chunks


@dataclass
class LakeProgress:
    """How far a lake is."""

    n_videos: int = 0
    """Videos planned."""
    n_videos_committed: int = 0
    n_failed: int = 0
    """Of those committed."""
    n_partial: int = 0
    """Of those committed."""
    n_chunks: int = 0
    n_chunks_done: int = 0
    video_s: float = 0.0
    """Seconds of video planned."""
    video_done_s: float = 0.0
    """Seconds of video extracted."""
    at_work: str = ""
    """Who holds the lake's lease; empty: nobody."""
    looked: float = field(default_factory=time.monotonic)

    @property
    def is_done(self) -> bool:
        """Whether all planned videos are committed, and no job holds the lease, which might plan more."""
        return not self.at_work and 0 < self.n_videos == self.n_videos_committed


def progress_of(lake: Lake) -> LakeProgress:
    """Return the progress of a lake. Reads small columns and file names, no features.

    Raises:
        UsageError: There is no lake.
    """
    lake.features_made_with()
    found = LakeProgress(at_work=held_by(lake))
    committed = set(lake.committed())
    for shard in sorted(committed):
        status = pc.value_counts(read_part(lake, "videos", shard, ["status"])["status"]).to_pylist()
        of_status = {each["values"]: each["counts"] for each in status}
        found.n_videos_committed += sum(of_status.values())
        found.n_failed += of_status.get("failed", 0)
        found.n_partial += of_status.get("partial", 0)
    for shard in lake.planned():
        n_videos, n_chunks, video_s = planned_work(lake, shard)
        found.n_videos += n_videos
        found.n_chunks += n_chunks
        found.video_s += video_s
        if shard in committed:
            found.n_chunks_done += n_chunks
            found.video_done_s += video_s
            continue
        done = finished_chunks(lake.work_names(shard)).keys()
        if done:
            chunks = [(video.video_id, chunk) for video in read_plan(lake, shard) for chunk in video.chunks]
            finished = [chunk for video_id, chunk in chunks if (video_id, chunk.index) in done]
            found.n_chunks_done += len(finished)
            found.video_done_s += sum(chunk.duration_s for chunk in finished)
    return found
