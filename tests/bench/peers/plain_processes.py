"""Peer with the functions of actionlake in two plain processes. It shows the cost of Ray."""

from __future__ import annotations

import multiprocessing as mp
import os
from typing import Any

from pipeline.archive.plan import plan_shards
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.lake.plans import write_plan
from pipeline.lake.store import Lake
from pipeline.steps.decode import ChunkTask, decode_pieces, tasks_of
from pipeline.steps.extract import Extractor, describe_networks
from tests.bench.peers.common import Task, run
from tests.bench.peers.job import config_of

_worker: dict[str, Any] = {}


def _start(config: Config) -> None:
    _worker["config"], _worker["extractor"] = config, Extractor(config)


def _extract(lake_uri: str, task: ChunkTask) -> int:
    lake = Lake(lake_uri)
    pieces = decode_pieces(task, _worker["config"])
    return sum(receipt.n_boxes for piece in pieces for receipt in _worker["extractor"].extract(lake, [piece]))


def main(task: Task) -> None:
    config = config_of(task.weights)
    networks = describe_networks(config)
    (ref,) = list_videos([str(task.video)])
    (planned,) = plan_shards(
        [(ref, probe_video(ref, config.limits))], config.grid_rate, config.chunk_s, 1, config.shard_hours
    )
    lake = Lake(str(task.out))
    lake.claim(config.feature_options())
    write_plan(lake, 0, planned)
    work = [(lake.uri, chunk) for video in planned for chunk in tasks_of(0, video)]
    with mp.get_context("spawn").Pool(os.cpu_count(), _start, (config,)) as pool:
        pool.starmap(_extract, work, chunksize=1)
    from pipeline.steps.commit import ShardCommitter

    ShardCommitter(config, []).commit(lake, 0, networks)


if __name__ == "__main__":
    run(main)
