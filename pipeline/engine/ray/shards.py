"""Process the shards of a lake on a Ray cluster, one task each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray


def shards_on_ray(shards: Sequence[int], work: Callable[..., Any], arguments: Sequence[Any]) -> Iterator[Any]:
    """Process shards on the cluster that is joined, and yield the results in any order."""
    shared = [ray.put(argument) for argument in arguments]
    task = ray.remote(num_cpus=1, max_retries=3)(work)
    pending = [task.remote(shard, *shared) for shard in shards]
    while pending:
        done, pending = ray.wait(pending)
        yield ray.get(done[0])
