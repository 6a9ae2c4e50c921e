"""The actors of the graph. Each loads once, takes blocks of rows, and calls the plain functions."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError

from pipeline.config import Config
from pipeline.engine.ledger import Attempt, take_up
from pipeline.engine.ray.ledger import note_to
from pipeline.engine.watchdog import crash_at_once
from pipeline.engine.worker import ChunkDecoder, CommitWorker, finished_receipts, load_extractor, words_of
from pipeline.errors import ActionlakeError
from pipeline.lake.schemas import vector_dims
from pipeline.lake.store import Lake
from pipeline.lake.work import ChunkKey, Receipt
from pipeline.steps.decode import ChunkTask, DecodedPiece
from pipeline.video.decode import FrameBatch

Block = dict[str, NDArray[Any]]
"""Columns of a block of rows, as Ray Data hands it over."""


def pack_tasks(tasks: list[ChunkTask]) -> list[bytes]:
    """Return tasks as the cells of a column."""
    return [pickle.dumps(task) for task in tasks]


def receipts_of(block: Block) -> list[Receipt]:
    """Return the receipts that a block of rows holds.

    Raises:
        ActionlakeError: The block holds the error that ended its work.
    """
    _raise_error_of(block)
    return [Receipt.from_json(text) for text in block["receipt"]]


def _raise_error_of(block: Block) -> None:
    for message in block["error"]:
        if message:
            raise ActionlakeError(message)


def _receipt_block(work: Callable[[], list[Receipt]]) -> Block:
    """Return receipts as a block of rows. An error is a row, too, because Ray Data would lose its message."""
    try:
        cells = [(receipt.to_json(), "") for receipt in work()]
    except RayError:
        raise
    except Exception as error:  # It ends the job: errors that affect only a chunk were caught before.
        cells = [("", words_of(error))]
    return {
        name: np.array([cell[number] for cell in cells], dtype=object)
        for number, name in enumerate(("receipt", "error"))
    }


class _ChunkRunner:
    """What every decoding actor does around a chunk: count the attempt and decode it."""

    def __init__(self, lake_uri: str, config: Config, ledger: Any, dim: int) -> None:
        self.lake = Lake(lake_uri)
        self._config = config
        self._ledger = ledger
        # Reported to the ledger together with the next attempt, because a separate call would double the cost.
        self._finished: ChunkKey | None = None
        self._decoder = ChunkDecoder(config, note_to(ledger))
        self._vectors = vector_dims(config.embedded, dim)

    def begin(self, task: ChunkTask) -> tuple[ChunkTask, list[Receipt]] | None:
        """Count an attempt. After too many, give up the chunk and return its receipts. None: the job is stopping."""
        attempt: Attempt | None = ray.get(self._ledger.begin.remote(task.key, self._finished))
        return take_up(self.lake, task, attempt, self._config.max_attempts, self._vectors)

    def decode(self, task: ChunkTask) -> Iterator[DecodedPiece]:
        """Decode a chunk."""
        yield from self._decoder.decode(task)
        self._finished = task.key


class FusedWorker:
    """Decodes and extracts in one process, which frames never leave. It uses a GPU if it holds a part of one."""

    def __init__(self, lake_uri: str, config: Config, ledger: Any, dim: int) -> None:
        self._runner = _ChunkRunner(lake_uri, config, ledger, dim)
        self._extractor = load_extractor(config)
        # Only the block of a restarted worker may contain finished chunks.
        self._is_restarted = ray.get_runtime_context().was_current_actor_reconstructed

    def __call__(self, block: Block) -> Block:
        """Take a block of tasks and return their receipts."""
        return _receipt_block(lambda: list(self._work([pickle.loads(cell) for cell in block["task"]])))

    def _work(self, tasks: list[ChunkTask]) -> Iterator[Receipt]:
        earlier = finished_receipts(self._runner.lake, tasks) if self._is_restarted else {}
        for waiting in tasks:
            if waiting.key in earlier:
                yield from earlier[waiting.key]
                continue
            begun = self._runner.begin(waiting)
            if begun is None:
                break
            task, given_up = begun
            yield from given_up
            if not given_up:
                for piece in self._runner.decode(task):
                    yield from self._extractor.extract(self._runner.lake, [piece])


class DecodeWorker:
    """Decodes on CPUs and passes resized frames on to `ExtractWorker`."""

    def __init__(self, lake_uri: str, config: Config, ledger: Any, dim: int) -> None:
        self._runner = _ChunkRunner(lake_uri, config, ledger, dim)

    def __call__(self, block: Block) -> Iterator[Block]:
        """Take a block of tasks and yield their decoded pieces. An error is yielded as a row, too."""
        try:
            for piece in self._work([pickle.loads(cell) for cell in block["task"]]):
                yield _pack_piece(piece)
        except RayError:
            raise
        except Exception as error:  # As in `_receipt_block`.
            yield _piece_block(b"", b"", words_of(error))

    def _work(self, tasks: list[ChunkTask]) -> Iterator[DecodedPiece]:
        for waiting in tasks:
            begun = self._runner.begin(waiting)
            if begun is None:
                break
            task, given_up = begun
            for receipt in given_up:
                yield DecodedPiece(task, receipt, None, in_lake=True)
            if not given_up:
                yield from self._runner.decode(task)


class ExtractWorker:
    """Extracts features of decoded pieces, on a GPU if the actor holds one."""

    def __init__(self, lake_uri: str, config: Config) -> None:
        crash_at_once()
        self._lake = Lake(lake_uri)
        self._extractor = load_extractor(config)

    def __call__(self, block: Block) -> Block:
        """Take decoded pieces and return their receipts."""
        return _receipt_block(lambda: self._work(block))

    def _work(self, block: Block) -> list[Receipt]:
        _raise_error_of(block)
        pieces = [_unpack_piece(block, row) for row in range(len(block["piece"]))]
        written = [piece.receipt for piece in pieces if piece.in_lake]
        fresh = [piece for piece in pieces if not piece.in_lake]
        return written + self._extractor.extract(self._lake, fresh)


def _pack_piece(piece: DecodedPiece) -> Block:
    """Return a piece as a block of one row. Frames are sent as bytes, which Arrow does not look into."""
    frames = piece.frames
    head = replace(piece, frames=None)
    shape = frames.images.shape if frames is not None else (0, 0, 0, 3)
    grid = (frames.pts_s, frames.steps, frames.n_steps, frames.after) if frames is not None else None
    pixels = frames.images.tobytes() if frames is not None else b""
    return _piece_block(pickle.dumps((head, shape, grid)), pixels, "")


def _piece_block(piece: bytes, pixels: bytes, error: str) -> Block:
    columns: dict[str, bytes | str] = {"piece": piece, "pixels": pixels, "error": error}
    return {name: np.array([cell], dtype=object) for name, cell in columns.items()}


def _unpack_piece(block: Block, row: int) -> DecodedPiece:
    head: DecodedPiece
    head, shape, grid = pickle.loads(block["piece"][row])
    if grid is None:
        return head
    images = np.frombuffer(block["pixels"][row], np.uint8).reshape(shape)
    return replace(head, frames=FrameBatch(images, *grid))


class CommitActor(CommitWorker):
    """The actor that commits shards. `bundles` is a list with one reference to the bundles."""

    def __init__(self, lake_uri: str, config: Config, bundles: list[Any]) -> None:
        super().__init__(lake_uri, config, ray.get(bundles[0]))
