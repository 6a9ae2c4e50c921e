"""Probe files on the cluster."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.archive.probe import Probe
from pipeline.archive.refs import VideoRef
from pipeline.config import Config
from pipeline.engine.ledger import batch_size, never_opened
from pipeline.engine.ray.ledger import note_to
from pipeline.engine.worker import probe_batch, probe_key
from pipeline.errors import VideoError
from pipeline.steps.plan import Probed

log = logging.getLogger(__name__)

# How many batches per CPU are in progress at once.
_AHEAD = 2


def _probe(refs: list[VideoRef], config: Config, ledger: Any) -> list[Probe | VideoError]:
    return probe_batch(refs, config, note_to(ledger))


def probe_all(refs: Iterator[VideoRef], n_refs: int, config: Config, ledger: Any) -> Iterator[Probed]:
    """Probe files on the cluster, in order. Any file may kill the process that probes it."""
    probe = ray.remote(num_cpus=1, max_retries=0)(_probe)
    # There may be no CPU yet, if nodes are still to come.
    cpus = max(1, int(ray.cluster_resources().get("CPU", 0)))
    size = batch_size(n_refs, cpus)
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
            # The process or its node died. Probe each file in its own process, until it is probed or given up.
            for ref in batch:
                yield ref, _probe_alone(probe, ref, config, ledger)


def _probe_alone(probe: Any, ref: VideoRef, config: Config, ledger: Any) -> Probe | VideoError:
    for _ in range(config.max_attempts):
        try:
            found: list[Probe | VideoError] = ray.get(probe.remote([ref], config, ledger))
            return found[0]
        except RayTaskError:
            raise
        except RayError as error:
            log.info("%s: the process that opened it died (%s)", ref.uri, type(error).__name__)
    return never_opened(ref, config.max_attempts, *ray.get(ledger.cause.remote(probe_key(ref))))
