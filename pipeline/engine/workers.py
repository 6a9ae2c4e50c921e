"""The actors of the graph: they load once, take a block of rows, and call the plain functions."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.engine.extract import (
    ChunkTask,
    DecodedPiece,
    Extractor,
    decode_pieces,
    given_up,
    write_given_up,
)
from pipeline.engine.ledger import Deadline
from pipeline.lake.store import Lake
from pipeline.lake.work import Piece, Receipt, finished_chunks
from pipeline.video.decode import FrameBatch

Block = dict[str, NDArray[Any]]
"""Columns of a block of rows, as Ray Data hands it over."""


def pack_tasks(tasks: list[ChunkTask]) -> list[bytes]:
    """Return tasks as the cells of a column."""
    return [pickle.dumps(task) for task in tasks]


def receipts_of(block: Block) -> list[Receipt]:
    """Return the receipts that a block of rows holds."""
    return [Receipt.from_json(text) for text in block["receipt"]]


def _receipt_block(receipts: list[Receipt]) -> Block:
    return {"receipt": np.array([receipt.to_json() for receipt in receipts], dtype=object)}


class _ChunkRunner:
    """What every decoding actor does around a chunk: skip it if it is done, count the attempt, watch the clock."""

    def __init__(self, lake_uri: str, config: Config, ledger: Any, dim: int) -> None:
        self.lake = Lake(lake_uri)
        self.config = config
        self._ledger = ledger
        self._dim = dim

    def finished(self, tasks: list[ChunkTask]) -> dict[tuple[str, int], list[Receipt]]:
        """Return the receipts of those tasks that an earlier try of this very block finished before it died."""
        done = {}
        for shard in {task.shard for task in tasks}:
            folder = self.lake.work_folder(shard)
            for key, names in finished_chunks(self.lake.work_names(shard)).items():
                done[key] = [Piece(self.lake, f"{folder}/{name}") for name in names]
        return {task.key: [piece.receipt() for piece in done[task.key]] for task in tasks if task.key in done}

    def begin(self, task: ChunkTask) -> tuple[ChunkTask, Receipt | None]:
        """Count an attempt; after too many, write the chunk off and return its receipt."""
        attempts, overdue = ray.get(self._ledger.begin.remote(task.key))
        task = ChunkTask(task.shard, task.video_id, task.uri, task.probe, task.chunk, attempts)
        if attempts <= self.config.max_attempts:
            return task, None
        limit_s = self.config.deadline_s(task.chunk.duration_s)
        cause = f"it passed its deadline of {limit_s:g} s" if overdue else "its worker died each time"
        receipt = given_up(task, attempts - 1, cause)
        write_given_up(self.lake, receipt, self._dim)
        return task, receipt

    def deadline(self, task: ChunkTask) -> Deadline:
        return Deadline(self._ledger, task.key, self.config.deadline_s(task.chunk.duration_s))

    def finish(self, task: ChunkTask) -> None:
        self._ledger.finish.remote(task.key)


class FusedWorker:
    """Decodes and extracts in one process: frames never leave it. For nodes without a GPU."""

    def __init__(self, lake_uri: str, config: Config, ledger: Any, dim: int) -> None:
        self._runner = _ChunkRunner(lake_uri, config, ledger, dim)
        self._extractor = Extractor(config)
        # Only a worker that was started anew is given a block of which some chunks may be finished.
        self._is_restarted = ray.get_runtime_context().was_current_actor_reconstructed

    def __call__(self, block: Block) -> Block:
        """Take a block of tasks and return their receipts."""
        tasks = [pickle.loads(cell) for cell in block["task"]]
        earlier = self._runner.finished(tasks) if self._is_restarted else {}
        receipts: list[Receipt] = []
        for task in tasks:
            if task.key in earlier:
                receipts += earlier[task.key]
                continue
            begun, written_off = self._runner.begin(task)
            if written_off is not None:
                receipts.append(written_off)
                continue
            with self._runner.deadline(begun):
                for piece in decode_pieces(begun, self._runner.config):
                    receipts += self._extractor.extract(self._runner.lake, [piece])
            self._runner.finish(begun)
        return _receipt_block(receipts)


class DecodeWorker:
    """Decodes on CPUs and passes on resized frames, for `ExtractWorker`."""

    def __init__(self, lake_uri: str, config: Config, ledger: Any, dim: int) -> None:
        self._runner = _ChunkRunner(lake_uri, config, ledger, dim)

    def __call__(self, block: Block) -> Iterator[Block]:
        """Take a block of tasks and yield their decoded pieces."""
        for cell in block["task"]:
            task, written_off = self._runner.begin(pickle.loads(cell))
            if written_off is not None:
                yield _pack_piece(DecodedPiece(task, written_off, None))
                continue
            with self._runner.deadline(task):
                for piece in decode_pieces(task, self._runner.config):
                    yield _pack_piece(piece)
            self._runner.finish(task)


class ExtractWorker:
    """Extracts features of decoded pieces, on a GPU where the node has one."""

    def __init__(self, lake_uri: str, config: Config) -> None:
        self._lake = Lake(lake_uri)
        self._extractor = Extractor(config)

    def __call__(self, block: Block) -> Block:
        """Take decoded pieces and return their receipts."""
        pieces = [_unpack_piece(block, row) for row in range(len(block["piece"]))]
        # What was written off has its piece in the lake already.
        given = [piece.receipt for piece in pieces if piece.receipt.failure_kind in ("deadline", "worker_died")]
        alive = [piece for piece in pieces if piece.receipt.failure_kind not in ("deadline", "worker_died")]
        return _receipt_block(given + self._extractor.extract(self._lake, alive))


def _pack_piece(piece: DecodedPiece) -> Block:
    """Return a piece as a block of one row; frames travel as bytes, which Arrow does not look into."""
    frames = piece.frames
    head = DecodedPiece(piece.task, piece.receipt, None)
    shape = frames.images.shape if frames is not None else (0, 0, 0, 3)
    grid = (frames.pts_s, frames.steps, frames.n_steps) if frames is not None else None
    pixels = frames.images.tobytes() if frames is not None else b""
    return {
        "piece": np.array([pickle.dumps((head, shape, grid))], dtype=object),
        "pixels": np.array([pixels], dtype=object),
    }


def _unpack_piece(block: Block, row: int) -> DecodedPiece:
    head: DecodedPiece
    head, shape, grid = pickle.loads(block["piece"][row])
    if grid is None:
        return head
    images = np.frombuffer(block["pixels"][row], np.uint8).reshape(shape)
    return DecodedPiece(head.task, head.receipt, FrameBatch(images, *grid))
