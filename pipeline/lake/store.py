"""Where a lake's files lie, how they are written atomically, and which of them count."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs as pafs

from pipeline.archive import filesystem
from pipeline.errors import UsageError
from pipeline.lake.patience import patiently, unless_it_stalls
from pipeline.lake.schemas import OF_MODELS, SCHEMA_VERSION

_IDENTITY = "lake.json"
MERGED = "_merged"
"""The folder of a lake that tells which shards are being merged."""
_MERGED_NAME = re.compile(r"(\d{5,})\.json$")
_PART = re.compile(r"part-(\d{5,})\.parquet$")
_SCRATCH = re.compile(r"\.[0-9a-f]{32}\.tmp$")
# Small tables are gathered into row groups of this many rows.
_ROW_GROUP_ROWS = 8192
_UPLOAD_BYTES = 8 << 20


def merged_name(shard: int) -> str:
    """Return the name of the file in `_merged/` that lists the shards which a merged shard replaces."""
    return f"{shard:05d}.json"


def model_folder(table: str, model: str) -> str:
    """Return the folder of a lake in which a model's parts of a table lie."""
    return f"{table}/model={model}"


def part_name(shard: int) -> str:
    """Return the file name of a shard in every table."""
    return f"part-{shard:05d}.parquet"


class Lake:
    """A folder, local or remote, that holds the Parquet data sets of one archive.

    A file is written under another name and then renamed (object stores: uploaded at once), so it is whole or missing.
    A shard is committed as soon as its part of `videos` exists, which is written last.
    """

    def __init__(self, uri: str) -> None:
        """Name a lake; nothing is read or written yet."""
        self.uri = filesystem.canonical_uri(uri)
        self.fs, self.root = filesystem.resolve(uri)

    def path(self, *parts: str) -> str:
        """Return the path of something in the lake, on the lake's file system."""
        return filesystem.join(self.root, *parts)

    @property
    def name(self) -> str:
        """The title of a page about the lake: the last part of its URI."""
        return self.uri.rstrip("/").rpartition("/")[2] or self.uri

    def exists(self) -> bool:
        """Whether a lake lies there."""
        return bool(self.fs.get_file_info(self.path(_IDENTITY)).type == pafs.FileType.File)

    def features_made_with(self) -> dict[str, Any]:
        """Return the options that the lake's features were made with.

        Raises:
            UsageError: There is no lake, or a later version made it.
        """
        try:
            record = json.loads(self.read_bytes(_IDENTITY))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UsageError(f"{self.uri}: no lake there; `actionlake analyze` makes one") from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                f"{self.uri}/{_IDENTITY}: damaged ({error}); use another folder, or analyze again"
            ) from error
        if record.get("schema_version") != SCHEMA_VERSION:
            raise UsageError(
                f"{self.uri}: schema version {record.get('schema_version')}, this program reads {SCHEMA_VERSION}"
            )
        options: dict[str, Any] = record["features"]
        return options

    def claim(self, feature_options: dict[str, Any]) -> None:
        """Create the lake, unless it exists, for features made with these options."""
        if not self.exists():
            self.write_bytes(_IDENTITY, _json_bytes({"schema_version": SCHEMA_VERSION, "features": feature_options}))

    def check(self, feature_options: dict[str, Any]) -> None:
        """Check that a lake can be made here, or that the one here has features made with the same options.

        Raises:
            UsageError: An option differs, which the message names, or the folder holds something else.
        """
        if not self.exists():
            others = [info for info in self._list("") if not info.base_name.startswith("_lease.")]
            if self.fs.get_file_info(self.root).type == pafs.FileType.File or others:
                raise UsageError(f"{self.uri}: not empty, and not a lake; name a new folder with --lake")
            return
        there = self.features_made_with()
        differing = [
            f"{name} = {there.get(name)!r} there, {feature_options.get(name)!r} now"
            for name in sorted(there.keys() | feature_options.keys())
            if there.get(name) != feature_options.get(name)
        ]
        if differing:
            raise UsageError(
                f"{self.uri}: its features were made with other options ({'; '.join(differing)}); "
                "use the same, or another lake"
            )

    def read_bytes(self, *parts: str) -> bytes:
        """Return the content of a small file."""
        with self.fs.open_input_stream(self.path(*parts)) as stream:
            return bytes(stream.read())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a small file atomically."""
        with self.open_new(name) as sink:
            sink.write(content)

    @contextmanager
    def open_new(self, *parts: str) -> Iterator[pa.NativeFile]:
        """Yield a stream whose file appears, whole, when the block ends without an error."""
        target = self.path(*parts)
        if not isinstance(self.fs, pafs.LocalFileSystem):
            # An object appears when its stream is closed, even after an error. So write a local file, then upload it.
            with tempfile.TemporaryDirectory() as folder:
                made = os.path.join(folder, "part")
                with pa.OSFile(made, "wb") as sink:
                    yield sink
                patiently(self.uri, lambda: unless_it_stalls(lambda: self._upload(made, target)))
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        folder, name = os.path.split(target)
        scratch = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            with self.fs.open_output_stream(scratch) as sink:
                yield sink
            os.replace(scratch, target)
        finally:
            # It still exists only if something went wrong, such as an interrupt. No half-written file may stay.
            if os.path.exists(scratch):
                os.unlink(scratch)

    def _upload(self, made: str, target: str) -> None:
        with open(made, "rb") as whole, self.fs.open_output_stream(target) as remote:
            shutil.copyfileobj(whole, remote, _UPLOAD_BYTES)

    def leftovers(self) -> list[str]:
        """Return what an interrupted run left behind: scratch files, work folders of committed shards, and merges."""
        scratch = [info.path for info in self._list("", recursive=True) if _SCRATCH.search(info.path)]
        folders = [self.path(self.work_folder(shard)) for shard in self.committed()]
        stale = [info.path for info in self.fs.get_file_info(folders) if info.type == pafs.FileType.Directory]
        merges = [self.path(MERGED, merged_name(number)) for number in self.merges()]
        return [path[len(self.root.rstrip("/")) + 1 :] for path in scratch + stale + merges]

    def sweep(self) -> int:
        """Delete what an interrupted run left behind, except merges; return how many files and folders."""
        stale = [name for name in self.leftovers() if not name.startswith(MERGED)]
        for name in stale:
            delete = self.fs.delete_file if _SCRATCH.search(name) else self.fs.delete_dir
            patiently(self.uri, functools.partial(delete, self.path(name)))
        return len(stale)

    def folders(self) -> list[str]:
        """Return the folders in which shards have parts: first `videos`, whose part commits a shard."""
        of_models = [model_folder(table, model) for table in OF_MODELS for model in self.models(table)]
        return ["videos", "detections", "failures", "features", *of_models]

    def drop_shard(self, shard: int) -> None:
        """Delete a shard's parts of all tables, first that of `videos`; its plan stays."""
        for folder in self.folders():
            self.drop_part(folder, shard)

    def drop_part(self, folder: str, shard: int) -> None:
        """Delete a shard's part of a table, if it is there."""
        self.delete(folder, part_name(shard))

    def delete(self, *parts: str) -> None:
        """Delete a file, if it is there."""
        path = self.path(*parts)
        if self.fs.get_file_info(path).type == pafs.FileType.File:
            patiently(self.uri, lambda: self.fs.delete_file(path))

    def committed(self) -> list[int]:
        """Return the numbers of the committed shards, sorted, without those that a merged shard replaces."""
        written = self._parts("videos")
        replaced = {source for number, sources in self.merges().items() if number in written for source in sources}
        return [shard for shard in written if shard not in replaced]

    def merges(self) -> dict[int, list[int]]:
        """Return the shards that are being merged, by the number of the shard that replaces them."""
        matches = (_MERGED_NAME.search(info.path) for info in self._list(MERGED))
        return {int(m.group(1)): json.loads(self.read_bytes(MERGED, m.group(0))) for m in matches if m}

    def is_committed(self, shard: int) -> bool:
        """Whether a shard is committed."""
        return self.has_part("videos", shard)

    def has_part(self, folder: str, shard: int) -> bool:
        """Whether a shard has a part of a table."""
        return bool(self.fs.get_file_info(self.path(folder, part_name(shard))).type == pafs.FileType.File)

    def planned(self) -> list[int]:
        """Return the numbers of the planned shards, sorted."""
        return self._parts("_plan")

    def planned_or_committed(self) -> list[int]:
        """Return the numbers of all shards with a plan or a part of `videos`, sorted."""
        return sorted({*self.planned(), *self._parts("videos")})

    def labelled(self, model: str, table: str = "segments") -> list[int]:
        """Return the numbers of the shards for which a model has a part of a table, sorted."""
        return self._parts(model_folder(table, model))

    def models(self, table: str = "segments") -> list[str]:
        """Return the names of the models that have rows of a table, one of `OF_MODELS`, in the lake."""
        return sorted(
            info.base_name.removeprefix("model=")
            for info in self._list(table)
            if info.type == pafs.FileType.Directory and info.base_name.startswith("model=")
        )

    def work_folder(self, shard: int) -> str:
        """Return the folder of a shard's uncommitted features, relative to the lake."""
        return f"_work/{shard:05d}"

    def work_names(self, shard: int) -> list[str]:
        """Return the names of the files in a shard's work folder, sorted."""
        found = self._list(self.work_folder(shard))
        return sorted(info.base_name for info in found if not _SCRATCH.search(info.base_name))

    def drop_work(self, shard: int) -> None:
        """Delete a shard's work folder."""
        path = self.path(self.work_folder(shard))
        if self.fs.get_file_info(path).type == pafs.FileType.Directory:
            patiently(self.uri, lambda: self.fs.delete_dir(path))

    def _parts(self, table: str) -> list[int]:
        matches = (_PART.search(info.path) for info in self._list(table))
        return sorted(int(match.group(1)) for match in matches if match)

    def _list(self, folder: str, recursive: bool = False) -> Sequence[pafs.FileInfo]:
        selector = pafs.FileSelector(
            self.path(folder) if folder else self.root, recursive=recursive, allow_not_found=True
        )
        found: Sequence[pafs.FileInfo] = self.fs.get_file_info(selector)
        return found


@dataclass
class PartWriter:
    """Writes the rows of one part, gathered into row groups of useful size."""

    writer: pq.ParquetWriter
    schema: pa.Schema

    def __post_init__(self) -> None:
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def write(self, table: pa.Table) -> None:
        """Append rows."""
        self._waiting.append(table.cast(self.schema) if table.schema != self.schema else table)
        self._n_waiting += len(table)
        if self._n_waiting >= _ROW_GROUP_ROWS:
            self.flush()

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Append rows given as dictionaries."""
        if rows:
            self.write(pa.Table.from_pylist(rows, schema=self.schema))

    def flush(self) -> None:
        """Write the waiting rows as a row group."""
        if self._n_waiting:
            self.writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting, self._n_waiting = [], 0


@contextmanager
def open_part(lake: Lake, folder: str, shard: int, schema: pa.Schema) -> Iterator[PartWriter]:
    """Yield a writer for one part of a table; the part appears, whole, when the block ends."""
    # Embeddings are half floats, which do not compress; dictionaries of them only cost time.
    compression = {}
    for field in schema:
        column, kind = field.name, field.type
        while pa.types.is_fixed_size_list(kind):
            column, kind = f"{column}.list.element", kind.value_type
        compression[column] = "none" if pa.types.is_float16(kind) else "zstd"
    dictionary = [field.name for field in schema if pa.types.is_string(field.type)]
    with (
        lake.open_new(folder, part_name(shard)) as sink,
        pq.ParquetWriter(
            sink, schema, compression=compression, use_dictionary=dictionary, write_page_checksum=True
        ) as writer,
    ):
        part = PartWriter(writer, schema)
        yield part
        part.flush()


def _json_bytes(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode()
