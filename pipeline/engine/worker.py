"""What every worker does around a step, on any engine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from pipeline.activity.bundle import Bundle
from pipeline.archive.probe import Probe
from pipeline.archive.refs import VideoRef
from pipeline.config import Config
from pipeline.engine.watchdog import Note, Watchdog
from pipeline.errors import ActionlakeError, VideoError, describe
from pipeline.extras import missing
from pipeline.lake.store import Lake
from pipeline.lake.work import ChunkKey, Piece, Receipt, finished_chunks
from pipeline.steps.commit import ShardCommitter, ShardSummary
from pipeline.steps.decode import ChunkTask, DecodedPiece, decode_pieces
from pipeline.steps.extract import Extractor, NetworkFacts
from pipeline.steps.label import on_one_thread
from pipeline.steps.plan import probe_patiently
from pipeline.vision.runtime import limit_gpu_memory

log = logging.getLogger(__name__)

# Each thread holds the hidden states of a whole sequence, a part of them in memory.
_MOST_LABELLING_THREADS = 4
# In the ledger a probe counts as a chunk of this number.
_PROBE = -1


def probe_key(ref: VideoRef) -> ChunkKey:
    """Return the ledger's key of the probe of a video."""
    return ref.video_id, _PROBE


def probe_batch(refs: Sequence[VideoRef], config: Config, note: Note) -> list[Probe | VideoError]:
    """Probe some videos, each under a watchdog. It reports to `note` before it ends the process."""
    found = []
    with closing(Watchdog(note, config.worker_memory_gb)) as watchdog:
        for ref in refs:
            with watchdog.over(probe_key(ref), config.deadline_s(0.0)):
                found.append(probe_patiently(ref, config))
    return found


class ChunkDecoder:
    """Decodes chunks under a watchdog."""

    def __init__(self, config: Config, note: Note) -> None:
        """Take the options, and the function that is told why this process is being ended."""
        self._config = config
        self._watchdog = Watchdog(note, config.worker_memory_gb)

    def decode(self, task: ChunkTask) -> Iterator[DecodedPiece]:
        """Decode a chunk. The watchdog is on while a piece is decoded, not while the caller works on it."""
        log.info("chunk begun", extra=ids_of(task) | {"attempt": task.attempts})
        limit_s = self._config.deadline_s(task.chunk.duration_s)
        pieces = decode_pieces(task, self._config)
        started = time.monotonic()
        while True:
            with self._watchdog.over(task.key, limit_s):
                piece = next(pieces, None)
            if piece is None:
                break
            if piece.receipt.failure_kind:
                log.warning("chunk failed: %s", piece.receipt.failure_message, extra=ids_of(task))
            yield piece
        log.info("chunk done", extra=ids_of(task) | {"seconds": round(time.monotonic() - started, 3)})


def ids_of(task: ChunkTask) -> dict[str, Any]:
    """Return the fields of a log record that identify a chunk."""
    return {"shard": task.shard, "video_id": task.video_id, "uri": task.uri, "chunk": task.chunk.index}


def finished_receipts(lake: Lake, tasks: Sequence[ChunkTask]) -> dict[ChunkKey, list[Receipt]]:
    """Return the receipts of chunks whose features are in the lake although their worker died before reporting them."""
    done = {}
    for shard in {task.shard for task in tasks}:
        folder = lake.work_folder(shard)
        for key, names in finished_chunks(lake.work_names(shard)).items():
            done[key] = [Piece(lake, f"{folder}/{name}") for name in names]
    return {task.key: [piece.receipt() for piece in done[task.key]] for task in tasks if task.key in done}


def load_extractor(config: Config) -> Extractor:
    """Load the networks; a worker that shares a GPU takes no more than its share of the memory."""
    if config.device != "cpu" and config.gpus_per_actor is not None and config.gpus_per_actor < 1:
        limit_gpu_memory(config.gpus_per_actor)
    return Extractor(config)


class CommitWorker:
    """Labels and commits shards in a process of its own."""

    def __init__(self, lake_uri: str, config: Config, bundles: Sequence[Bundle]) -> None:
        """Take the lake, the options and the models."""
        on_one_thread(bundles)
        self._lake = Lake(lake_uri)
        # While the last shard is labelled, the other cores have nothing else to do.
        threads = min(_MOST_LABELLING_THREADS, os.cpu_count() or 1)
        self._committer = ShardCommitter(config, bundles, threads)

    def commit(self, shard: int, networks: NetworkFacts) -> ShardSummary:
        """Label a shard and commit it."""
        summary = self._committer.commit(self._lake, shard, networks)
        log.info("shard committed", extra={"shard": shard, "videos": summary.n_videos, "seconds": summary.wall_s})
        return summary


def words_of(error: BaseException) -> str:
    """Return the message to the user for an error that ends the job."""
    if isinstance(error, ModuleNotFoundError):
        error = missing(error) or error
    if isinstance(error, ActionlakeError):
        return str(error)
    log.error("a worker failed", exc_info=error)
    return f"a worker failed, a fault of the program: {describe(error)}; the traceback is in the log"
