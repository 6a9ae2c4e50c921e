"""Process shards of a lake in parallel: in processes of this machine, or as tasks of Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar

from pipeline.config import Config
from pipeline.engine.analyze import choose_engine
from pipeline.engine.interrupts import stopping_on_signals
from pipeline.engine.processes import Pool, Requests
from pipeline.engine.watchdog import Note
from pipeline.errors import ActionlakeError, UsageError
from pipeline.lake.lease import leased
from pipeline.lake.parts import footer_at, states
from pipeline.lake.store import Lake, model_folder

Found = TypeVar("Found")

# The call fails when one shard has killed its worker this often.
_MOST_DEATHS = 3


def shards_without(lake: Lake, table: str, facts: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Return the committed shards, and those whose part of a model's table is missing or was not made as `facts` say.

    Raises:
        UsageError: No shard is committed.
    """
    shards = lake.committed()
    if not shards:
        raise UsageError(f"{lake.uri}: nothing is committed in it yet; run `actionlake analyze` first")
    folder, there = model_folder(table, facts["model"]), set(lake.labelled(facts["model"], table))
    return shards, [shard for shard in shards if shard not in there or not _is_as(lake, folder, shard, facts)]


def _is_as(lake: Lake, folder: str, shard: int, facts: Mapping[str, Any]) -> bool:
    """Whether a part was made exactly so, and no video was left out."""
    footer = footer_at(lake, folder, shard)
    return not footer.get("unlabelled") and not footer.get("untold") and states(footer, facts)


class ShardWorker:
    """Runs in a worker process: processes one shard after the other."""

    def __init__(self, note: Note, work: Callable[..., Any], arguments: Sequence[Any]) -> None:  # noqa: ARG002
        self._work, self._arguments = work, arguments

    def work(self, shard: int) -> Iterator[Any]:
        """Process a shard and yield the result."""
        yield self._work(shard, *self._arguments)


@contextmanager
def over_shards(
    lake: Lake,
    purpose: str,
    shards: Sequence[int],
    work: Callable[..., Found],
    arguments: Sequence[Any],
    config: Config,
    address: str | None = None,
) -> Iterator[Iterator[Found]]:
    """Hold the lake's lease during a block, and give the block an iterator of the shards' results, in any order.

    Args:
        lake: The lake.
        purpose: The purpose that the lease states.
        shards: Numbers of the shards.
        work: Called with a shard and the arguments, in a worker process or task. It must be idempotent.
        arguments: Further arguments of `work`. They must be picklable.
        config: Options of the job.
        address: A Ray cluster to join.

    Raises:
        ActionlakeError: The same shard killed its process too often, or the cluster failed.
    """
    with leased(lake, purpose), stopping_on_signals(config.grace_s) as stop, ExitStack() as stack:
        if choose_engine("auto", address, config) == "ray":
            from pipeline.engine.ray.resources import joined
            from pipeline.engine.ray.shards import shards_on_ray

            stack.enter_context(joined(address, config, stop))
            yield shards_on_ray(shards, work, arguments)
        else:
            pool = Pool(ShardWorker, (work, tuple(arguments)), os.cpu_count() or 1)
            yield shards_here(shards, stack.enter_context(closing(pool)))


def shards_here(shards: Sequence[int], workers: Pool) -> Iterator[Any]:
    """Process shards in worker processes of this machine, and yield the results in any order.

    Raises:
        ActionlakeError: The same shard killed its process too often.
    """
    requests = Requests(
        workers,
        _MOST_DEATHS,
        lambda shard: ActionlakeError(f"the process that works on shard {shard} died {_MOST_DEATHS} times"),
    )
    for shard in shards:
        requests.add(shard, "work", shard)
    while requests.n_left:
        yield from (found for _, found in requests.items())
