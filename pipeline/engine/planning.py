"""Plan the archive: probe what is new on all cores, write shards that stay as they are."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.archive.plan import close_shards, plan_video
from pipeline.archive.probe import Probe, probe_video
from pipeline.archive.sources import VideoRef
from pipeline.config import Config
from pipeline.errors import VideoError
from pipeline.lake.plans import planned_ids, write_plan
from pipeline.lake.store import Lake

log = logging.getLogger(__name__)

_BATCH = 32
# So many batches are on their way at once, for each CPU.
_AHEAD = 2
_IO_RETRIES_S = (1.0, 5.0)


def plan_archive(lake: Lake, videos: Sequence[VideoRef], config: Config) -> list[int]:
    """Plan what is new among the videos, and return the shards that hold any of them, sorted.

    Videos that were planned before keep their shard; new ones get new shards, in the given order.
    """
    refs = {ref.video_id: ref for ref in videos}
    shards = set()
    for shard, ids in planned_ids(lake):
        known = [video_id for video_id in ids if video_id in refs]
        if known:
            shards.add(shard)
        for video_id in known:
            del refs[video_id]
    next_shard = max(lake.planned(), default=-1) + 1
    planned = (
        plan_video(ref, probe, config.grid_rate, config.chunk_s)
        for ref, probe in zip(refs.values(), _probe_all(list(refs.values())), strict=True)
    )
    for number, members in enumerate(close_shards(planned, config.shard_videos, config.shard_hours), start=next_shard):
        write_plan(lake, number, members)
        shards.add(number)
    return sorted(shards)


def _probe_batch(refs: Sequence[VideoRef]) -> list[Probe | VideoError]:
    return [_probe_patiently(ref) for ref in refs]


def _probe_patiently(ref: VideoRef) -> Probe | VideoError:
    """Probe a file; one that can't be reached for the moment is tried again before it counts as failed."""
    for pause_s in (*_IO_RETRIES_S, None):
        try:
            return probe_video(ref)
        except VideoError as error:
            if error.kind != "io" or pause_s is None:
                return error
            time.sleep(pause_s)
    raise AssertionError("the last try returns")


def _probe_all(refs: Sequence[VideoRef]) -> Iterator[Probe | VideoError]:
    """Probe files on the cluster, in order, without ever trusting one to leave its process alive."""
    if not refs:
        return
    probe = ray.remote(num_cpus=1, max_retries=0)(_probe_batch)
    cpus = int(ray.cluster_resources().get("CPU", 1))
    size = max(1, min(_BATCH, len(refs) // (2 * cpus)))
    batches = deque(refs[start : start + size] for start in range(0, len(refs), size))
    running: deque[tuple[Sequence[VideoRef], ray.ObjectRef]] = deque()
    while batches or running:
        while batches and len(running) < cpus * _AHEAD:
            batch = batches.popleft()
            running.append((batch, probe.remote(batch)))
        batch, result = running.popleft()
        try:
            yield from ray.get(result)
        except RayTaskError:
            raise
        except RayError:
            # The process died, or its node: then each file in a process of its own.
            for ref in batch:
                try:
                    yield ray.get(probe.remote([ref]))[0]
                except RayTaskError:
                    raise
                except RayError:
                    yield VideoError("worker_died", f"{ref.uri}: the process that opened it died; it is left out")
