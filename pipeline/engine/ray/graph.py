"""The data path on one screen: chunks in, receipts out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from pipeline.config import Config
from pipeline.engine.ray.resources import Layout
from pipeline.engine.ray.workers import DecodeWorker, ExtractWorker, FusedWorker, pack_tasks, receipts_of
from pipeline.lake.work import Receipt
from pipeline.steps.decode import ChunkTask

# A block costs about 11 ms whatever is in it. So a block holds work for seconds, and more if there are many blocks, but
# not so much that one worker still computes when all others are done.
_BLOCK_VIDEO_S = 60.0
_MOST_BLOCKS = 1000
_MOST_BLOCK_CHUNKS = 64
_BLOCKS_PER_WORKER = 16
# A queue saves a worker the round trip to the driver, 0.1 s or more. It is short compared with the worker's share.
_LONGEST_QUEUE = 4
_QUEUES_PER_SHARE = 4
# If chunks are short, GPU batches are filled from this many pieces.
_PIECES_PER_PASS = 8


def extract_features(
    tasks: Sequence[ChunkTask], lake_uri: str, config: Config, layout: Layout, ledger: Any, dim: int
) -> Iterator[list[Receipt]]:
    """Extract chunks on the cluster, and yield the receipts of their pieces in groups, after they are written.

        chunks --> [decode, detect, embed, write] x workers --> receipts                    (fused)
        chunks --> [decode] x workers --> [detect, embed, write] x GPU actors --> receipts  (split)

    Args:
        tasks: The chunks, in the order in which they should be done.
        lake_uri: Where features are written.
        config: The job's configuration.
        layout: How many actors do what.
        ledger: The actor that counts attempts.
        dim: Length of an embedding.
    """
    _quieten()
    blocks = [pa.table({"task": pack_tasks(block)}) for block in _blocks(tasks, layout.decoders)]
    # Unlike `from_arrow`, this does not start a task for each block.
    chunks = ray.data.from_blocks(blocks)
    # An actor without a reserved GPU must not use one, even if its node has some.
    holding = {"gpus_per_actor": layout.gpus_per_actor} if layout.gpus_per_actor else {"device": "cpu"}
    shared: dict[str, Any] = {"lake_uri": lake_uri, "config": replace(config, **holding)}
    every = shared | {"ledger": ledger, "dim": dim}
    num_gpus = layout.gpus_per_actor or None
    # Pools have a fixed size. Otherwise Ray Data adds one actor per decision, which takes minutes on a large cluster.
    # Ray Data restarts a dead actor with the same block, without limit. The ledger limits the attempts to decode.
    decoders = _pool(min(layout.decoders, len(blocks)), len(blocks))
    if layout.kind == "fused":
        receipts = chunks.map_batches(
            FusedWorker,
            # For actors with GPUs Ray Data requires a number. To reach 1 it does not have to join blocks.
            batch_size=1 if num_gpus else None,
            compute=decoders,
            num_cpus=1,
            num_gpus=num_gpus,
            fn_constructor_kwargs=every,
        )
    else:
        frames = chunks.map_batches(
            DecodeWorker, batch_size=None, compute=decoders, num_cpus=1, fn_constructor_kwargs=every
        )
        receipts = frames.map_batches(
            ExtractWorker,
            batch_size=_PIECES_PER_PASS,
            compute=ActorPoolStrategy(size=layout.extractors),
            num_cpus=0,
            num_gpus=num_gpus,
            fn_constructor_kwargs=shared,
        )
    for block in receipts.iter_batches(batch_size=None, prefetch_batches=0):
        yield receipts_of(block)


def _pool(size: int, n_blocks: int) -> ActorPoolStrategy:
    """Return a pool with short queues, so that actors that start later or are faster do not lack blocks."""
    queue = n_blocks // (size * _QUEUES_PER_SHARE)
    return ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=max(1, min(_LONGEST_QUEUE, queue)))


def _blocks(tasks: Sequence[ChunkTask], workers: int) -> Iterator[list[ChunkTask]]:
    """Group chunks, in order, into blocks of useful size. Blocks become smaller as less work is left."""
    left_s = sum(task.chunk.duration_s for task in tasks)
    most_s = max(_BLOCK_VIDEO_S, left_s / _MOST_BLOCKS)
    block: list[ChunkTask] = []
    block_s = 0.0
    for task in tasks:
        block.append(task)
        block_s += task.chunk.duration_s
        aim_s = min(most_s, left_s / (workers * _BLOCKS_PER_WORKER))
        if block_s >= aim_s or len(block) >= _MOST_BLOCK_CHUNKS:
            yield block
            left_s -= block_s
            block, block_s = [], 0.0
    if block:
        yield block


def _quieten() -> None:
    """Silence Ray Data: the job has its own progress display."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
