"""Label the shards of a lake on a Ray cluster, a task each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ray

from pipeline.activity.bundle import Bundle
from pipeline.config import Config
from pipeline.engine.relabel import ShardLabels, label_shard


def label_shards(shards: Sequence[int], lake_uri: str, bundle: Bundle, config: Config) -> Iterator[ShardLabels]:
    """Label shards on the cluster that is joined, in any order."""
    shared = ray.put(bundle)
    task = ray.remote(num_cpus=1, max_retries=3)(label_shard)
    pending = [task.remote(shard, lake_uri, shared, config) for shard in shards]
    while pending:
        done, pending = ray.wait(pending)
        yield ray.get(done[0])
