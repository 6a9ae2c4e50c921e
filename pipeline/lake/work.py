"""Features of chunks between extraction and commit: small Arrow files in `_work/`, each with a receipt.

A chunk gives one or more pieces. A file's name tells the video, the chunk, the piece, and whether the piece is the last
one or is lost. A lost piece has no rows, because of an unexpected error. So the names alone tell which chunks are
finished, and a retry overwrites its own pieces.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.lake.patience import patiently
from pipeline.lake.schemas import work_schema
from pipeline.lake.store import Lake

ChunkKey = tuple[str, int]
"""`(video_id, number of the chunk within it)`."""

_NAME = re.compile(r"([0-9a-f]{16})-c(\d+)-p(\d+)(-last)?(-lost)?\.arrow$")
_RECEIPT = b"receipt"


@dataclass(frozen=True)
class Receipt:
    """The outcome of one piece of a chunk. Counts and times are those of the piece."""

    shard: int
    video_id: str
    chunk: int
    piece: int
    last: bool
    """Whether the chunk ends with this piece."""
    n_frames: int = 0
    """Frames sampled."""
    n_boxes: int = 0
    n_decoded: int = 0
    """Frames that left the decoder; of the whole chunk, on its last piece."""
    decode_s: float = 0.0
    embed_s: float = 0.0
    detect_s: float = 0.0
    write_s: float = 0.0
    end_s: float = 0.0
    """How far the chunk was seen, in seconds of the video; on its last piece."""
    reached_eof: bool = False
    """Whether the file ended within the chunk; on its last piece."""
    n_errors: int = 0
    """Damaged packets and frames; on the last piece."""
    n_joins: int = 0
    """Places at which the file goes on with another recording; on the last piece."""
    n_join_errors: int = 0
    """Damage at such places; on the last piece."""
    first_error: str = ""
    failure_kind: str = ""
    """On the last piece, the kind of the error that ended the chunk early, if any; on a lost piece, `internal`."""
    failure_stage: str = "decode"
    """Which stage of the work failed, if any did."""
    failure_message: str = ""
    attempts: int = 1
    worker: str = ""
    runtime: str = ""
    """Device, precision and library that computed it."""

    @property
    def key(self) -> ChunkKey:
        """The key of its chunk within the shard."""
        return self.video_id, self.chunk

    @property
    def is_lost(self) -> bool:
        """Whether an unexpected error lost the piece; the next run tries it again."""
        return self.failure_kind == "internal"

    def to_json(self) -> str:
        """Return the receipt as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Receipt:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class WorkRows:
    """The rows of one piece, column by column; see `work_schema`."""

    step: NDArray[np.int64]
    n_steps: NDArray[np.int32]
    pts_s: NDArray[np.float64]
    camera_speed: NDArray[np.float32]
    """How fast most of the frame moves, in frame heights per second; NaN: not measured."""
    box: NDArray[np.int32]
    class_id: NDArray[np.int32]
    score: NDArray[np.float32]
    xyxy: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    """`float32 [N, K, 3]`, zeros for frames; K is 0 if the detector has no keypoints."""
    vectors: Mapping[str, NDArray[np.float16]]
    """For each column of vectors `float16 [N, D]`; zeros for a row without a vector."""

    def to_batch(self, receipt: Receipt) -> pa.RecordBatch:
        """Return the rows as Arrow, with the receipt in the schema's metadata."""
        columns: list[NDArray[Any]] = [self.step, self.n_steps, self.pts_s, self.camera_speed]
        columns += [self.box, self.class_id, self.score, *self.xyxy.T]
        n_keypoints = self.keypoints.shape[1]
        schema = work_schema({name: matrix.shape[1] for name, matrix in self.vectors.items()}, n_keypoints)
        arrays = [pa.array(np.ascontiguousarray(column)) for column in columns]
        lists: list[NDArray[Any]] = [self.keypoints.reshape(len(self.step), 3 * n_keypoints)] if n_keypoints else []
        vectors = [
            pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])
            for matrix in [*lists, *self.vectors.values()]
        ]
        schema = schema.with_metadata({_RECEIPT: receipt.to_json().encode()})
        return pa.RecordBatch.from_arrays([*arrays, *vectors], schema=schema)


def piece_name(receipt: Receipt) -> str:
    """Return the file name of a piece."""
    ending = ("-last" if receipt.last else "") + ("-lost" if receipt.is_lost else "")
    return f"{receipt.video_id}-c{receipt.chunk:05d}-p{receipt.piece:05d}{ending}.arrow"


def write_piece(lake: Lake, receipt: Receipt, rows: WorkRows) -> None:
    """Write one piece atomically."""
    batch = rows.to_batch(receipt)

    def write() -> None:
        with (
            lake.open_new(lake.work_folder(receipt.shard), piece_name(receipt)) as sink,
            pa.ipc.new_file(sink, batch.schema) as writer,
        ):
            writer.write_batch(batch)

    patiently(lake.uri, write)


def empty_rows(vectors: Mapping[str, int]) -> WorkRows:
    """Return zero rows of the right types, with vectors of these lengths."""
    none_i32, none_f32 = np.empty(0, np.int32), np.empty(0, np.float32)
    return WorkRows(
        np.empty(0, np.int64), none_i32, np.empty(0), none_f32, none_i32, none_i32, none_f32,
        np.empty((0, 4), np.float32), np.empty((0, 0, 3), np.float32),
        {name: np.empty((0, dim), np.float16) for name, dim in vectors.items()},
    )  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A piece in the lake; its columns are read when needed."""

    lake: Lake
    path: str

    @functools.cached_property
    def _schema(self) -> pa.Schema:
        with self.lake.fs.open_input_file(self.lake.path(self.path)) as source:
            return pa.ipc.open_file(source).schema

    def read(self, *columns: str) -> pa.RecordBatch:
        """Return some columns of the rows; the others are not read from disk."""
        names = self._schema.names
        options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns])
        with self.lake.fs.open_input_file(self.lake.path(self.path)) as source:
            return pa.ipc.open_file(source, options=options).get_batch(0)

    def has(self, column: str) -> bool:
        """Whether the piece has a column of that name."""
        return column in self._schema.names

    def receipt(self) -> Receipt:
        """Return the receipt of the piece."""
        return Receipt.from_json(self._schema.metadata[_RECEIPT])


def pieces_before_the_end(names: Iterable[str], key: ChunkKey) -> list[str]:
    """Return the names of an unfinished chunk's pieces, in order, up to the first gap."""
    found = {int(m.group(3)): name for name in names if (m := _NAME.match(name)) and _key(m) == key and not m.group(4)}
    return [found[i] for i in itertools.takewhile(found.__contains__, itertools.count())]


def _key(match: re.Match[str]) -> ChunkKey:
    return match.group(1), int(match.group(2))


def lost_pieces(names: Iterable[str]) -> list[str]:
    """Return the names of the lost pieces. If these are deleted, their chunks are not finished."""
    return [name for name in names if (m := _NAME.match(name)) and m.group(5)]


def finished_chunks(names: Iterable[str]) -> dict[ChunkKey, list[str]]:
    """Return the finished chunks among the files of a work folder: for each the names of its pieces, in order.

    A chunk is finished when its last piece and all pieces before it exist, even if some are lost.
    """
    pieces: dict[ChunkKey, dict[int, str]] = {}
    ends: dict[ChunkKey, int] = {}
    # If one attempt lost a piece and the next made it, both names exist; the one that is not lost counts.
    matches = sorted((m for name in names if (m := _NAME.match(name))), key=lambda match: match.group(5) or "")
    for match in matches:
        key, piece = _key(match), int(match.group(3))
        if match.group(4) and key not in ends:
            ends[key] = piece
            pieces.setdefault(key, {})[piece] = match.group(0)
        else:
            # A piece that a dead worker left under the number of the last piece does not count.
            pieces.setdefault(key, {}).setdefault(piece, match.group(0))
    return {
        key: [pieces[key][i] for i in range(end + 1)]
        for key, end in sorted(ends.items())
        if all(i in pieces[key] for i in range(end + 1))
    }
