"""References to videos: the facts about a file before it is opened, and a listing of many references."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import fs as pafs

from pipeline.archive import filesystem

LISTING = pa.schema(
    [
        ("uri", pa.large_string()),
        ("size_bytes", pa.int64()),
        ("modified", pa.large_string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("recorded_at", pa.string()),
    ]
)
"""The columns of a listing."""
BATCH = 4096
"""Number of references that are Python objects at a time."""


@dataclass(frozen=True)
class VideoRef:
    """A file of the archive, or a span of one, before it is opened."""

    uri: str
    """Absolute path, or URI."""
    size_bytes: int
    """-1 where the file does not exist."""
    modified: str
    """Time of the last change, as the file system reports it; part of the identity."""
    start_s: float | None = None
    """Where the wanted span starts; None: the start of the file."""
    end_s: float | None = None
    """Where the wanted span ends; None: the end of the file."""
    recorded_at: str | None = None
    """When the file's first frame was recorded, in ISO 8601, if a manifest says so; not part of the identity."""

    @property
    def video_id(self) -> str:
        """First 16 hex digits of SHA-1 over canonical URI, size, time of change, and the span if there is one."""
        parts = [self.uri, str(self.size_bytes), self.modified]
        if self.start_s is not None or self.end_s is not None:
            parts += [repr(self.start_s), repr(self.end_s)]
        return hashlib.sha1("\0".join(parts).encode()).hexdigest()[:16]


class Listing(Sequence[VideoRef]):
    """The videos of an archive, each once, sorted by URI and span.

    They are held as columns, about 100 bytes per video, and become objects when they are read.
    """

    def __init__(self, table: pa.Table) -> None:
        """Take rows in any order; one video may have several rows."""
        # A whole file comes before its spans.
        keys = {
            "uri": table["uri"],
            "start_s": pc.fill_null(table["start_s"], -1.0),
            "end_s": pc.fill_null(table["end_s"], float("inf")),
        }
        # Of several rows of one video only the first counts. Rows with a recording time come first.
        by_key = [(name, "ascending") for name in (*keys, "recorded_at")]
        order = pc.sort_indices(pa.table({**keys, "recorded_at": table["recorded_at"]}), sort_keys=by_key)
        keys = {name: column.take(order) for name, column in keys.items()}
        differs = np.ones(len(table), np.bool_)
        if len(table) > 1:
            same = [pc.equal(column[1:], column[:-1]).to_numpy() for column in keys.values()]
            differs[1:] = ~np.logical_and.reduce(same)
        self._table: pa.Table = table.take(order.filter(pa.array(differs)))

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> VideoRef: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[VideoRef]: ...
    def __getitem__(self, index: int | slice) -> VideoRef | Sequence[VideoRef]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return VideoRef(**self._table.slice(index % len(self), 1).to_pylist()[0])

    def __iter__(self) -> Iterator[VideoRef]:
        for batch in self._table.to_batches(max_chunksize=BATCH):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield VideoRef(*row)

    def id_numbers(self) -> NDArray[np.uint64]:
        """Return the ids of all videos, in order, as numbers: `uint64 [N]`."""
        return np.fromiter((int(ref.video_id, 16) for ref in self), np.uint64, len(self))


def info_of(fs: pafs.FileSystem, path: str) -> pafs.FileInfo:
    """Return the facts about a path, even if the path is not text, which Arrow does not accept."""
    if filesystem.is_text(path):
        return fs.get_file_info(path)
    if not os.path.exists(path):
        return pafs.FileInfo("", type=pafs.FileType.NotFound)
    if os.path.isdir(path):
        return pafs.FileInfo("", type=pafs.FileType.Directory)
    status = os.stat(path)
    return pafs.FileInfo("", type=pafs.FileType.File, size=status.st_size, mtime_ns=status.st_mtime_ns)


def ref_of(
    uri: str,
    info: pafs.FileInfo,
    start_s: float | None = None,
    end_s: float | None = None,
    recorded_at: str | None = None,
) -> VideoRef:
    """Return a reference to the file that `info` describes, or to a missing file."""
    if info.type == pafs.FileType.NotFound:
        return VideoRef(uri, -1, "", start_s, end_s, recorded_at)
    return VideoRef(uri, info.size or 0, str(info.mtime_ns or ""), start_s, end_s, recorded_at)
