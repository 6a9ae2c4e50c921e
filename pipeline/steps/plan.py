"""Plan an archive: probe new videos, and write shards that never change afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator

import numpy as np

from pipeline.archive.plan import plan_shards
from pipeline.archive.probe import Probe, probe_video
from pipeline.archive.refs import Listing, VideoRef
from pipeline.config import Config
from pipeline.errors import UnforeseenError, VideoError, stage
from pipeline.lake.plans import planned_ids, write_plan
from pipeline.lake.store import Lake
from pipeline.steps.breaker import Breaker

log = logging.getLogger(__name__)

_IO_RETRIES_S = (1.0, 5.0)

Probed = tuple[VideoRef, Probe | VideoError]
"""A video with its probe, or with the error that prevented it."""


def plan_archive(
    lake: Lake,
    videos: Listing,
    config: Config,
    probe_all: Callable[[Iterator[VideoRef], int], Iterator[Probed]],
    check: Callable[[], None] = lambda: None,
) -> dict[int, int]:
    """Plan the new videos; return the shards that hold any of the videos, and how many videos each holds.

    Videos that were planned before keep their shard; new ones get new shards, in the given order. Only the shard that
    is being filled is held as objects; the rest of the plan and the listing are not.

    Args:
        lake: Where the plan is kept.
        videos: The archive.
        config: The job's configuration.
        probe_all: Probes videos in order. Its second argument is their number.
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
        _unless_systematic(probe_all(new, int(is_new.sum()))),
        config.grid_rate, config.chunk_s, config.shard_videos, config.shard_hours,
    )  # fmt: skip
    for number, members in enumerate(planned, start=next_shard):
        check()
        write_plan(lake, number, members)
        shards[number] = len(members)
    return dict(sorted(shards.items()))


def probe_patiently(ref: VideoRef, config: Config) -> Probe | VideoError:
    """Probe a file. If it can't be reached, retry with growing pauses before it counts as failed."""
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


def _unless_systematic(probed: Iterator[Probed]) -> Iterator[Probed]:
    """Pass on the probed videos; raise `SystematicError` if so many fail that they can't be the reason."""
    breaker = Breaker("files")
    for ref, found in probed:
        breaker.count(str(found) if isinstance(found, VideoError) and found.kind == "internal" else "")
        yield ref, found
