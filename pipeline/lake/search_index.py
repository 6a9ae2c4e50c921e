"""The vectors of a lake's stretches, kept in `_search/` beside its tables: a file for each shard, and their basis.

All of it is computed from the tables, so it may be deleted at any time. A file that no longer fits them is made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import fs as pafs

from pipeline.errors import ActionlakeError
from pipeline.lake.likeness import WEIGHTS, Basis, thinned
from pipeline.lake.parts import read_part
from pipeline.lake.sequences import StepSequence, VideoRows, committed_videos
from pipeline.lake.store import Lake, part_name
from pipeline.lake.stretches import Parts, cut, describe, mean_looks, sequences_of, steps_per_second
from pipeline.motion.tracking import NO_TRACK

log = logging.getLogger(__name__)

FOLDER = "_search"
_VERSION = 1
_KEY = b"made_of"
_BASIS = "basis.npz"
# The basis is fitted to at most this many stretches, from this many videos of each of this many shards.
_SAMPLE, _SAMPLE_VIDEOS, _SAMPLE_SHARDS = 4096, 64, 16
# At most this many stretches of a recording are described at a time. Each has some thousand numbers.
_AT_ONCE = 1024

Progress = Callable[[int, int], None]
"""Called with the number of ready shards and the number of all shards."""
_Describe = Callable[[VideoRows, StepSequence, NDArray[np.int64]], NDArray[np.float32]]
"""Returns the vectors `float32 [n, d]`, of length 1, of n stretches of a sequence."""


@dataclass(frozen=True)
class ShardIndex:
    """The stretches of one kind in one shard, in the order of its videos; arrays of one length."""

    video_ids: tuple[str, ...]
    """The videos that have stretches."""
    video: NDArray[np.int32]
    """Index in `video_ids`."""
    track_id: NDArray[np.int64]
    """`NO_TRACK` for whole frames."""
    start_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    vectors: NDArray[np.float16]
    """`float16 [n, d]`, of length 1; memory-mapped if the file is local."""


def open_index(
    lake: Lake, options: dict[str, Any], kind: str, progress: Progress | None = None
) -> tuple[Basis, list[ShardIndex]] | None:
    """Return the index of a lake's stretches of one kind. Missing or outdated files are made and stored.

    If the lake can't be written to, they are not stored, and a warning is logged. The same lake gives the same index.

    Args:
        lake: The lake.
        options: The options of its features.
        kind: `PERSON` or `FRAME`.
        progress: Called for each shard.

    Returns:
        The basis and the shards; None if the lake has no such stretch.

    Raises:
        UsageError: A shard's features were not kept.
        ActionlakeError: A part is damaged.
    """
    keeper = _Keeper(lake, kind)
    made_of = _made_of(lake)
    basis_key, basis = _basis(keeper, options, made_of)
    if basis is None:
        return None
    fitted = basis

    def vectors(rows: VideoRows, sequence: StepSequence, stretches: NDArray[np.int64]) -> NDArray[np.float32]:
        return fitted.vectors(describe(rows, sequence, stretches, options["inputs"]))

    keys = {shard: _digest(basis_key, made) for shard, made in made_of.items()}
    return basis, _shards(keeper, options, kind, keys, basis.dim, vectors, progress)


def open_looks(
    lake: Lake, options: dict[str, Any], kind: str, dim: int, progress: Progress | None = None
) -> list[ShardIndex]:
    """Return the index of the mean embeddings of a lake's stretches of one kind, as `open_index` does.

    No basis is used: it mixes embeddings with poses, shifts and weighs them, and drops most directions, so a text has
    no place in it. These vectors lie in the embedder's own space, so a dot product with a text's vector is a cosine.
    They are half floats, as the features are; this changes cosines of 512 numbers by less than 0.00005 (100,000 tried).
    If each query read the features instead, it would take as long as making the index.

    Args:
        lake: The lake.
        options: The options of its features, which hold embeddings of this kind.
        kind: `PERSON` or `FRAME`.
        dim: Length of an embedding.
        progress: Called for each shard.

    Raises:
        UsageError: A shard's features were not kept.
        ActionlakeError: A part is damaged.
    """
    recipe = json.dumps([_VERSION, options], sort_keys=True)
    keys = {shard: _digest(recipe, made) for shard, made in _made_of(lake).items()}
    return _shards(_Keeper(lake, f"{kind}-looks"), options, kind, keys, dim, mean_looks, progress)


def _made_of(lake: Lake) -> dict[int, str]:
    """Return for each shard a digest that changes whenever its features or boxes do."""
    return {shard: _content(lake, shard) for shard in lake.committed()}


def _shards(
    keeper: _Keeper,
    options: dict[str, Any],
    kind: str,
    keys: Mapping[int, str],
    dim: int,
    vectors_of: _Describe,
    progress: Progress | None,
) -> list[ShardIndex]:
    """Return the stretches of all shards. Those that are not stored under the shard's key are made and stored."""
    indexes = []
    for number, (shard, key) in enumerate(keys.items()):
        if progress is not None:
            progress(number, len(keys))
        index = keeper.read(shard, key)
        if index is None:
            index = _make(keeper.lake, options, kind, shard, dim, vectors_of)
            keeper.write(shard, key, index)
        indexes.append(index)
    keeper.tidy(list(keys))
    return indexes


def _make(lake: Lake, options: dict[str, Any], kind: str, shard: int, dim: int, vectors_of: _Describe) -> ShardIndex:
    """Return the stretches of a shard."""
    rate = steps_per_second(options)
    video_ids: list[str] = []
    videos: list[int] = []
    tracks: list[int] = []
    spans, vectors = [np.empty((0, 2))], [np.empty((0, dim), np.float16)]
    for video_id, rows, track_ids, _ in committed_videos(lake, shard):
        for sequence in sequences_of(rows, track_ids, kind, rate):
            stretches = cut(sequence.n_steps, rate)
            if not video_ids or video_ids[-1] != video_id:
                video_ids.append(video_id)
            videos += [len(video_ids) - 1] * len(stretches)
            tracks += [NO_TRACK if sequence.track_id is None else sequence.track_id] * len(stretches)
            spans.append((stretches + sequence.first_step) / float(rate))
            for first in range(0, len(stretches), _AT_ONCE):
                some = vectors_of(rows, sequence, stretches[first : first + _AT_ONCE])
                vectors.append(some.astype(np.float16))
    times = np.concatenate(spans)
    return ShardIndex(
        tuple(video_ids), np.array(videos, np.int32), np.array(tracks, np.int64),
        np.ascontiguousarray(times[:, 0]), np.ascontiguousarray(times[:, 1]), np.concatenate(vectors),
    )  # fmt: skip


def _basis(keeper: _Keeper, options: dict[str, Any], made_of: dict[int, str]) -> tuple[str, Basis | None]:
    """Return the key and the basis of a lake's vectors; the basis is None if there is no stretch to fit it to."""
    recipe = json.dumps([_VERSION, sorted(WEIGHTS.items()), options], sort_keys=True)
    shards = sorted(made_of)
    # Only the first 2^k shards are used, so a growing lake keeps its basis and index until it has twice as many.
    first = shards[: 1 << (len(shards).bit_length() - 1)] if shards else []
    some = first[:: -(-len(first) // _SAMPLE_SHARDS) or 1]
    for chosen, most_videos in ((some, _SAMPLE_VIDEOS), (shards, None)):
        # If there is nobody in these shards, there may be somebody in others.
        key = _digest(recipe, *(made_of[shard] for shard in chosen))
        known = keeper.read_basis(key)
        if known is not None:
            return key, known
        most = max(1, _SAMPLE // max(1, len(chosen)))
        found = (_sample(keeper.lake, options, keeper.kind, shard, most_videos, most) for shard in chosen)
        samples = [sample for sample in found if sample is not None]
        if samples:
            basis = Basis.fit(thinned(samples, _SAMPLE))
            keeper.write_basis(key, basis)
            return key, basis
    return "", None


def _sample(
    lake: Lake, options: dict[str, Any], kind: str, shard: int, most_videos: int | None, most: int
) -> Parts | None:
    """Return descriptions of stretches, drawn evenly from some or all videos of a shard; None if it has no stretch."""
    rate = steps_per_second(options)
    n_videos = len(read_part(lake, "videos", shard, ["video_id"]))
    every = max(1, -(-n_videos // most_videos)) if most_videos else 1
    found = []
    for number, (_, rows, track_ids, _) in enumerate(committed_videos(lake, shard)):
        of_video = []
        for sequence in sequences_of(rows, track_ids, kind, rate) if number % every == 0 else ():
            stretches = cut(sequence.n_steps, rate)
            some = stretches[:: -(-len(stretches) // _SAMPLE_VIDEOS)]
            of_video.append(describe(rows, sequence, some, options["inputs"]))
        if of_video:
            found.append(thinned(of_video, most))
    return thinned(found, most) if found else None


class _Keeper:
    """Reads and writes the files of an index. After the first failed write it writes no more."""

    def __init__(self, lake: Lake, kind: str) -> None:
        self.lake, self.kind = lake, kind
        self._writable = True

    def read(self, shard: int, key: str) -> ShardIndex | None:
        """Return a shard's stretches if they are stored and up to date."""
        try:
            path = self.lake.path(FOLDER, self.kind, _name(shard))
            if isinstance(self.lake.fs, pafs.LocalFileSystem):
                source = pa.memory_map(path)
            else:
                source = self.lake.fs.open_input_file(path)
            reader = pa.ipc.open_file(source)
            if (reader.schema.metadata or {}).get(_KEY) != key.encode():
                return None
            return _from_batch(reader.get_batch(0))
        except (OSError, pa.ArrowException, KeyError, ValueError):
            # The file is missing or cut off, so it is made again.
            return None

    def write(self, shard: int, key: str, index: ShardIndex) -> None:
        """Store a shard's stretches."""
        batch = _to_batch(index, key)

        def put(sink: pa.NativeFile) -> None:
            with pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)

        self._put(_name(shard), put)

    def read_basis(self, key: str) -> Basis | None:
        """Return the basis if it is stored and up to date."""
        try:
            made_of, _, content = self.lake.read_bytes(FOLDER, self.kind, _BASIS).partition(b"\n")
            return Basis.from_bytes(content) if made_of == key.encode() else None
        except (OSError, ValueError, KeyError, EOFError):
            return None

    def write_basis(self, key: str, basis: Basis) -> None:
        """Store the basis."""
        content = key.encode() + b"\n" + basis.to_bytes()
        self._put(_BASIS, lambda sink: sink.write(content))

    def _put(self, name: str, write: Callable[[pa.NativeFile], Any]) -> None:
        if not self._writable:
            return
        try:
            with self.lake.open_new(FOLDER, self.kind, name) as sink:
                write(sink)
        except (OSError, ActionlakeError) as error:
            self._writable = False
            log.warning(
                "%s: can't be written to (%s); the search works, but keeps no index: the next makes it again",
                self.lake.uri, error,
            )  # fmt: skip

    def tidy(self, shards: Sequence[int]) -> None:
        """Delete the files of shards that no longer exist, as after `compact`."""
        selector = pafs.FileSelector(self.lake.path(FOLDER, self.kind), allow_not_found=True)
        expected = {_BASIS, *map(_name, shards)}
        try:
            for info in self.lake.fs.get_file_info(selector):
                if self._writable and info.base_name.endswith(".arrow") and info.base_name not in expected:
                    self.lake.fs.delete_file(info.path)
        except OSError as error:
            log.info("%s: an old file of its search index stays (%s)", self.lake.uri, error)


def _name(shard: int) -> str:
    return f"{shard:05d}.arrow"


def _to_batch(index: ShardIndex, key: str) -> pa.RecordBatch:
    n, dim = index.vectors.shape
    videos = pa.DictionaryArray.from_arrays(pa.array(index.video), pa.array(index.video_ids, pa.string()))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(index.vectors.reshape(n * dim)), dim)
    columns = {
        "video_id": videos, "track_id": pa.array(index.track_id), "start_s": pa.array(index.start_s),
        "end_s": pa.array(index.end_s), "vector": vectors,
    }  # fmt: skip
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    return batch.replace_schema_metadata({_KEY: key})


def _from_batch(batch: pa.RecordBatch) -> ShardIndex:
    vectors, videos = batch.column("vector"), batch.column("video_id")
    # NumPy reads Arrow's half floats straight from the buffer. Nothing is copied, so the file stays mapped.
    numbers = np.frombuffer(vectors.values.buffers()[1] or b"", np.float16)
    dim = vectors.type.list_size
    return ShardIndex(
        tuple(videos.dictionary.to_pylist()), videos.indices.to_numpy(), batch.column("track_id").to_numpy(),
        batch.column("start_s").to_numpy(), batch.column("end_s").to_numpy(),
        numbers[: len(batch) * dim].reshape(len(batch), dim),
    )  # fmt: skip


def _content(lake: Lake, shard: int) -> str:
    """Return a digest of the footers of a shard's features and boxes; it changes whenever these do.

    A footer holds the sizes, the extremes and the offsets of all columns, and the run that wrote them. A copy of a lake
    has the same footers.
    """
    return _digest(*(_footer(lake, lake.path(table, part_name(shard))) for table in ("features", "detections")))


def _footer(lake: Lake, path: str) -> bytes:
    """Return the footer of a Parquet file; empty if there is no such file."""
    try:
        with lake.fs.open_input_file(path) as file:
            size = file.size()
            length = int.from_bytes(file.read_at(8, max(0, size - 8))[:4], "little")
            start = max(0, size - 8 - length)
            return bytes(file.read_at(size - start, start))
    except FileNotFoundError:
        return b""


def _digest(*parts: str | bytes) -> str:
    made = hashlib.sha1()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        made.update(len(content).to_bytes(8, "little") + content)
    return made.hexdigest()
