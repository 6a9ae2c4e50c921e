"""Decode a chunk piece by piece: the task, the decoded piece and its receipt."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipeline.archive.plan import Chunk, PlannedVideo
from pipeline.archive.probe import Probe
from pipeline.config import Config
from pipeline.errors import ActionlakeError, UnforeseenError, VideoError
from pipeline.lake.work import ChunkKey, Receipt
from pipeline.video.decode import FrameBatch, decode_chunk, scaled_size
from pipeline.video.frames import DecodeReport

log = logging.getLogger(__name__)

# The frames of a piece have about this size in all: enough to fill network batches, and small enough to send to a node.
_PIECE_BYTES = 32 << 20
_MOST_PIECE_FRAMES = 256
_IO_RETRIES_S = (1.0, 5.0, 25.0)


@dataclass(frozen=True)
class ChunkTask:
    """One chunk to extract: all that a worker must know of it."""

    shard: int
    video_id: str
    uri: str
    probe: Probe
    chunk: Chunk
    attempts: int = 1
    """Number of attempts to extract it, including this one."""

    @property
    def key(self) -> ChunkKey:
        """The key of the chunk within its shard."""
        return self.video_id, self.chunk.index


@dataclass(frozen=True)
class DecodedPiece:
    """Some of a chunk's frames, decoded, with the receipt as far as it is known."""

    task: ChunkTask
    receipt: Receipt
    frames: FrameBatch | None
    """None if a chunk ends without a frame."""
    in_lake: bool = False
    """Whether its features are already written, so that only the receipt is passed on."""


@dataclass
class Clock:
    """Measures how long the parts of a pass take."""

    started: float = field(default_factory=time.perf_counter)

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        now = time.perf_counter()
        lap, self.started = now - self.started, now
        return lap


def tasks_of(shard: int, video: PlannedVideo) -> list[ChunkTask]:
    """Return the tasks of a planned video; none if it can't be read."""
    if video.probe is None:
        return []
    return [ChunkTask(shard, video.video_id, video.ref.uri, video.probe, chunk) for chunk in video.chunks]


def worker_name() -> str:
    """Name this process for the tables: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def decode_pieces(task: ChunkTask, config: Config) -> Iterator[DecodedPiece]:
    """Decode a chunk piece by piece; errors of the file go into the receipt of the last piece.

    If a file can't be reached, it is retried with growing pauses before that counts as a failure.
    """
    n_given = 0
    for pause_s in (*_IO_RETRIES_S, None):
        for piece in _decode_once(task, config):
            unreachable = piece.receipt.failure_kind == "io"
            if unreachable and pause_s is not None:
                log.warning("%s; trying again in %g s", piece.receipt.failure_message, pause_s)
                time.sleep(pause_s)
                break
            if unreachable and piece.receipt.piece < n_given:
                # An earlier try got further; its pieces are kept.
                yield DecodedPiece(task, replace(piece.receipt, piece=n_given, n_frames=0), None)
                return
            n_given = max(n_given, piece.receipt.piece + 1)
            yield piece
        else:
            return


def _decode_once(task: ChunkTask, config: Config) -> Iterator[DecodedPiece]:
    report = DecodeReport()
    clock = Clock()
    width, height = scaled_size(task.probe.width, task.probe.height, config.decoded_px)
    batch_frames = min(_MOST_PIECE_FRAMES, max(8, _PIECE_BYTES // (width * height * 3)))
    receipt = Receipt(
        task.shard, task.video_id, task.chunk.index, 0, False, attempts=task.attempts, worker=worker_name()
    )
    held: FrameBatch | None = None
    failure: VideoError | None = None
    try:
        for batch in decode_chunk(
            task.uri, task.probe, task.chunk, config.grid_rate, config.decoded_px, batch_frames, report,
            look_ahead=True, limits=config.limits, sampling=config.sampling,
        ):  # fmt: skip
            if held is not None:
                held = replace(held, after=batch.images[0])
                yield DecodedPiece(task, replace(receipt, n_frames=len(held.steps), decode_s=clock.lap()), held)
                receipt = replace(receipt, piece=receipt.piece + 1)
                clock.lap()
            held = batch
    except VideoError as error:
        failure = error
    except ActionlakeError:
        raise
    except Exception as error:  # Any error ends only this chunk, and the frames decoded before are kept.
        log.exception("%s: decoding failed", task.uri)
        failure = UnforeseenError("decode", error).failure(task.uri)
    end_s = report.end_s
    if held is not None:
        held = replace(held, after=report.after)
    if failure is not None and held is not None:
        end_s = float((held.steps[-1] + held.n_steps[-1]) / config.grid_rate)
    yield DecodedPiece(
        task,
        replace(
            receipt,
            last=True,
            n_frames=0 if held is None else len(held.steps),
            n_decoded=report.n_decoded,
            decode_s=clock.lap(),
            end_s=end_s,
            reached_eof=report.reached_eof,
            n_errors=report.n_errors,
            n_joins=report.n_joins,
            n_join_errors=report.n_join_errors,
            first_error=report.first_error,
            failure_kind="" if failure is None else failure.kind,
            failure_message="" if failure is None else str(failure),
        ),
        held,
    )
