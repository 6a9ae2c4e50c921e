"""Plan the archive: probe what is new on all cores, write shards that stay as they are."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.archive.plan import plan_shards
from pipeline.archive.probe import Probe, probe_video
from pipeline.archive.refs import Listing, VideoRef
from pipeline.config import Config
from pipeline.engine.breaker import Breaker
from pipeline.engine.watchdog import Watchdog
from pipeline.errors import UnforeseenError, VideoError, stage
from pipeline.lake.plans import planned_ids, write_plan
from pipeline.lake.store import Lake

log = logging.getLogger(__name__)

_BATCH = 32
# So many batches are on their way at once, for each CPU.
_AHEAD = 2
_IO_RETRIES_S = (1.0, 5.0)
# In the ledger a probe counts as a chunk of this number.
_PROBE = -1


def plan_archive(
    lake: Lake, videos: Listing, config: Config, ledger: Any, check: Callable[[], None] = lambda: None
) -> dict[int, int]:
    """Plan what is new among the videos; return the shards that hold any of them, and how many videos each holds.

    Videos that were planned before keep their shard; new ones get new shards, in the given order. Neither the listing
    nor the plan is ever held as objects, but for the shard that is being filled.

    Args:
        lake: Where the plan is kept.
        videos: The archive.
        config: The job's configuration.
        ledger: The actor that counts attempts.
        check: Called before a shard is written; what it raises ends the planning.
    """
    ids = videos.id_numbers()
    order = np.argsort(ids)
    is_new = np.ones(len(ids), np.bool_)
    shards = {}
    for shard, of_shard in planned_ids(lake):
        at = np.searchsorted(ids, of_shard, sorter=order).clip(max=len(ids) - 1)
        known = order[at][ids[order[at]] == of_shard]
        is_new[known] = False
        if len(known):
            shards[shard] = len(of_shard)
    next_shard = max(lake.planned(), default=-1) + 1
    new = (ref for ref, wanted in zip(videos, is_new, strict=True) if wanted)
    planned = plan_shards(
        _unless_systematic(_probe_all(new, int(is_new.sum()), config, ledger)),
        config.grid_rate, config.chunk_s, config.shard_videos, config.shard_hours,
    )  # fmt: skip
    for number, members in enumerate(planned, start=next_shard):
        check()
        write_plan(lake, number, members)
        shards[number] = len(members)
    return dict(sorted(shards.items()))


def _probe_batch(refs: Sequence[VideoRef], config: Config, ledger: Any) -> list[Probe | VideoError]:
    found = []
    with closing(Watchdog(ledger, config.worker_memory_gb)) as watchdog:
        for ref in refs:
            with watchdog.over((ref.video_id, _PROBE), config.deadline_s(0.0)):
                found.append(_probe_patiently(ref, config))
    return found


def _probe_patiently(ref: VideoRef, config: Config) -> Probe | VideoError:
    """Probe a file; one that can't be reached for the moment is tried again before it counts as failed."""
    for pause_s in (*_IO_RETRIES_S, None):
        try:
            with stage("probe"):
                return probe_video(ref, config.limits, config.track)
        except VideoError as error:
            if error.kind != "io" or pause_s is None:
                return error
            time.sleep(pause_s)
        except UnforeseenError as error:
            log.error("%s: %s", ref.uri, error, exc_info=error.cause)
            return error.failure(ref.uri)
    raise AssertionError("the last try returns")


def _probe_all(
    refs: Iterator[VideoRef], n_refs: int, config: Config, ledger: Any
) -> Iterator[tuple[VideoRef, Probe | VideoError]]:
    """Probe files on the cluster, in order, without ever trusting one to leave its process alive."""
    probe = ray.remote(num_cpus=1, max_retries=0)(_probe_batch)
    # None, where nodes are yet to come.
    cpus = max(1, int(ray.cluster_resources().get("CPU", 0)))
    size = max(1, min(_BATCH, n_refs // (2 * cpus)))
    running: deque[tuple[list[VideoRef], ray.ObjectRef]] = deque()
    while True:
        while len(running) < cpus * _AHEAD and (batch := list(islice(refs, size))):
            running.append((batch, probe.remote(batch, config, ledger)))
        if not running:
            return
        batch, result = running.popleft()
        try:
            yield from zip(batch, ray.get(result), strict=True)
        except RayTaskError:
            raise
        except RayError:
            # The process died, or its node: then each file in a process of its own, until it is probed or given up.
            for ref in batch:
                yield ref, _probe_alone(probe, ref, config, ledger)


def _unless_systematic(
    probed: Iterator[tuple[VideoRef, Probe | VideoError]],
) -> Iterator[tuple[VideoRef, Probe | VideoError]]:
    """Pass on what was probed, as long as it is the videos that can't be; otherwise raise `SystematicError`."""
    breaker = Breaker("files")
    for ref, found in probed:
        breaker.count(str(found) if isinstance(found, VideoError) and found.kind == "internal" else "")
        yield ref, found


def _probe_alone(probe: Any, ref: VideoRef, config: Config, ledger: Any) -> Probe | VideoError:
    for _ in range(config.max_attempts):
        try:
            found: list[Probe | VideoError] = ray.get(probe.remote([ref], config, ledger))
            return found[0]
        except RayTaskError:
            raise
        except RayError as error:
            log.info("%s: the process that opened it died (%s)", ref.uri, type(error).__name__)
    kind, cause = ray.get(ledger.cause.remote((ref.video_id, _PROBE)))
    return VideoError(kind, f"{ref.uri}: given up after {config.max_attempts} attempts to open it; {cause}")
