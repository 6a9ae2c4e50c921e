"""Count attempts per chunk across the deaths of workers, and give up chunks that keep failing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from pipeline.archive.refs import VideoRef
from pipeline.errors import VideoError
from pipeline.lake.store import Lake
from pipeline.lake.work import ChunkKey, Piece, Receipt, empty_rows, pieces_before_the_end, write_piece
from pipeline.steps.decode import ChunkTask, worker_name

# How many files are probed in one batch. Batches are smaller if there are less than two of them for each worker.
_PROBE_BATCH = 32
_UNKNOWN = ("worker_died", "its worker died each time")


class Attempt(NamedTuple):
    """One attempt of a worker to process a chunk."""

    number: int
    """From 1."""
    kind: str
    """What ended the previous attempt: the kind of failure ..."""
    cause: str
    """... and the cause in words."""


class Ledger:
    """Knows how often each chunk was attempted. It lives apart from the workers, so their death does not affect it.

    If its own process dies, it restarts and counts from zero. A chunk that kills its workers is then given up some
    attempts later.
    """

    def __init__(self) -> None:
        self._attempts: Counter[ChunkKey] = Counter()
        self._causes: dict[ChunkKey, tuple[str, str]] = {}
        self._stopping = False

    def begin(self, key: ChunkKey, finished: ChunkKey | None = None) -> Attempt | None:
        """Count an attempt, and forget the chunk that the same worker finished before.

        Return None if the job is being stopped and no new chunk may be started.
        """
        if finished is not None:
            self._attempts.pop(finished, None)
            self._causes.pop(finished, None)
        if self._stopping:
            return None
        self._attempts[key] += 1
        return Attempt(self._attempts[key], *self.cause(key))

    def cause(self, key: ChunkKey) -> tuple[str, str]:
        """Return why the last attempt ended: the kind of failure, and the cause in words."""
        return self._causes.get(key, _UNKNOWN)

    def note(self, key: ChunkKey, kind: str, cause: str) -> None:
        """Note why an attempt is being ended."""
        self._causes[key] = kind, cause

    def stop(self) -> None:
        """Let workers finish their current chunk, and start no other."""
        self._stopping = True


def give_up(lake: Lake, task: ChunkTask, attempt: Attempt, vectors: Mapping[str, int]) -> list[Receipt]:
    """Give up a chunk: end it with the pieces of earlier attempts, and return all its receipts."""
    folder = lake.work_folder(task.shard)
    kept = [
        Piece(lake, f"{folder}/{name}").receipt()
        for name in pieces_before_the_end(lake.work_names(task.shard), task.key)
    ]
    end = Receipt(
        task.shard,
        task.video_id,
        task.chunk.index,
        len(kept),
        True,
        failure_kind=attempt.kind,
        failure_message=f"{task.uri}: given up after {attempt.number - 1} attempts; {attempt.cause}",
        attempts=attempt.number - 1,
        worker=worker_name(),
    )
    write_piece(lake, end, empty_rows(vectors))
    return [*kept, end]


def take_up(
    lake: Lake, task: ChunkTask, attempt: Attempt | None, max_attempts: int, vectors: Mapping[str, int]
) -> tuple[ChunkTask, list[Receipt]] | None:
    """Return a chunk with the number of its attempt. After too many, give it up and return its receipts, too.

    Return None if the job is being stopped and nothing more is to be done.
    """
    if attempt is None:
        return None
    task = replace(task, attempts=attempt.number)
    if attempt.number <= max_attempts:
        return task, []
    return task, give_up(lake, task, attempt, vectors)


def never_opened(ref: VideoRef, attempts: int, kind: str, cause: str) -> VideoError:
    """Return the failure of a video whose probes all ended their process. The ledger gives `kind` and `cause`."""
    return VideoError(kind, f"{ref.uri}: given up after {attempts} attempts to open it; {cause}")


def batch_size(n_files: int, n_workers: int) -> int:
    """Return how many files a worker probes at once."""
    return max(1, min(_PROBE_BATCH, n_files // (2 * n_workers)))
