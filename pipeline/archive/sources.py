"""List an archive: files, folders, globs and manifests become one listing of video references."""

from __future__ import annotations

import csv
import datetime
import glob
import hashlib
import io
import itertools
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import ArrowInvalid
from pyarrow import fs as pafs

from pipeline.archive import filesystem
from pipeline.archive.recorded import manifest_time
from pipeline.errors import UsageError

log = logging.getLogger(__name__)

_SUFFIXES = (
    "mp4 m4v mov mkv webm avi ts mts m2ts mpg mpeg wmv asf flv 3gp 3g2 ogv mjpeg mjpg "
    "h264 264 h265 265 hevc m2v vob mxf f4v divx dav amv rm rmvb y4m"
)
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split(" "))
"""What counts as a video when a folder is listed. A file that is named itself is always taken."""
MANIFEST_SUFFIXES = frozenset([".csv", ".jsonl", ".parquet"])
# Folders in which file servers and desktops keep what is theirs: thumbnails, and what was thrown away.
_SERVICE_FOLDERS = frozenset(["@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"])

_LISTING = pa.schema(
    [
        ("uri", pa.large_string()),
        ("size_bytes", pa.int64()),
        ("modified", pa.large_string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
    ]
)
# So many references at a time are Python objects.
_BATCH = 4096
# A line of a manifest is no longer; a file without line ends would be held in memory whole.
_LINE_CHARS = 1 << 20


@dataclass(frozen=True)
class VideoRef:
    """A file of the archive, or a span of one, before it is opened."""

    uri: str
    """Absolute path, or URI."""
    size_bytes: int
    """-1 where the file does not exist."""
    modified: str
    """Time of the last change, as the file system tells it: part of the identity."""
    start_s: float | None = None
    """Where the wanted span starts; None: the start of the file."""
    end_s: float | None = None
    """Where the wanted span ends; None: the end of the file."""
    recorded_at: datetime.datetime | None = None
    """When the file's first frame was recorded, where a manifest tells it; no part of the identity."""

    @property
    def video_id(self) -> str:
        """First 16 hex digits of SHA-1 over canonical URI, size, time of change, and the span if there is one."""
        parts = [self.uri, str(self.size_bytes), self.modified]
        if self.start_s is not None or self.end_s is not None:
            parts += [repr(self.start_s), repr(self.end_s)]
        return hashlib.sha1("\0".join(parts).encode()).hexdigest()[:16]


class Listing(Sequence[VideoRef]):
    """The videos of an archive, each once, sorted by URI and span.

    They are held as columns, about 100 bytes a video, and become objects as they are drawn.
    """

    def __init__(self, table: pa.Table) -> None:
        """Take rows in any order, also several of one video."""
        # A whole file comes before its spans.
        keys = {
            "uri": table["uri"],
            "start_s": pc.fill_null(table["start_s"], -1.0),
            "end_s": pc.fill_null(table["end_s"], float("inf")),
        }
        by_key = [(name, "ascending") for name in keys]
        order = pc.sort_indices(pa.table(keys), sort_keys=by_key)
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
        for batch in self._table.to_batches(max_chunksize=_BATCH):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield VideoRef(*row)

    def id_numbers(self) -> NDArray[np.uint64]:
        """Return the ids of all videos, in order, as numbers: `uint64 [N]`."""
        return np.fromiter((int(ref.video_id, 16) for ref in self), np.uint64, len(self))


def list_videos(sources: Iterable[str]) -> Listing:
    """Return every video that the sources name, each once, sorted by URI and span.

    A source is a file, a folder (searched recursively for the usual suffixes, but for what is hidden), a glob, or a
    manifest: CSV, JSONL or Parquet with a column `uri` and optionally `start_s`, `end_s` and `recorded_at`; a relative
    `uri` is relative to the manifest.
    A manifest's missing file is listed with `size_bytes` -1, so that it leaves a row; a missing source is an error.

    Raises:
        UsageError: A source does not exist, names no video, or is a manifest that can't be read.
    """
    batches: list[pa.RecordBatch] = []
    for source in sources:
        n_before = len(batches)
        refs = _expand(source)
        while some := list(itertools.islice(refs, _BATCH)):
            columns = [[getattr(ref, name) for ref in some] for name in _LISTING.names]
            batches.append(pa.record_batch(columns, schema=_LISTING))
        if len(batches) == n_before:
            raise UsageError(
                f"{source}: no videos in it (looked for {' '.join(sorted(VIDEO_SUFFIXES))}); "
                "name a file itself to have it read whatever its suffix"
            )
    return Listing(pa.Table.from_batches(batches, schema=_LISTING))


def _expand(source: str) -> Iterator[VideoRef]:
    suffix = os.path.splitext(source)[1].lower()
    fs, path = filesystem.resolve(source)
    info = _info(fs, path)
    if info.type == pafs.FileType.NotFound and glob.has_magic(source):
        yield from _expand_glob(source)
    elif info.type == pafs.FileType.NotFound:
        raise UsageError(f"{source}: no such file or folder")
    elif info.type == pafs.FileType.Directory:
        if filesystem.is_local(source):
            yield from (_local_ref(file) for file in _walk(path) if _is_video(file))
        else:
            yield from _refs(path, source, fs.get_file_info(pafs.FileSelector(path, recursive=True)))
    elif suffix in MANIFEST_SUFFIXES:
        yield from _read_manifest(source, fs, path, suffix)
    else:
        yield _ref(filesystem.canonical_uri(source), info)


def _info(fs: pafs.FileSystem, path: str) -> pafs.FileInfo:
    """Return what lies at a path, also if the path is not text, which Arrow can't be asked for."""
    if filesystem.is_text(path):
        return fs.get_file_info(path)
    if not os.path.exists(path):
        return pafs.FileInfo("", type=pafs.FileType.NotFound)
    if os.path.isdir(path):
        return pafs.FileInfo("", type=pafs.FileType.Directory)
    status = os.stat(path)
    return pafs.FileInfo("", type=pafs.FileType.File, size=status.st_size, mtime_ns=status.st_mtime_ns)


def _is_video(path: str) -> bool:
    """Whether a file counts as a video when a folder is listed: by its suffix, unless it is hidden.

    Hidden files with the suffix of a video are what macOS keeps beside it (`._a.mp4`), or copies under way.
    """
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES and not os.path.basename(path).startswith(".")


def _is_hidden(folder: str) -> bool:
    """Whether a folder, by its name, is passed over when the one around it is listed."""
    return folder.startswith(".") or folder.lower() in _SERVICE_FOLDERS


def _tell_hidden(folder: str, n_hidden: int) -> None:
    if n_hidden:
        log.warning("%s: %d hidden folders passed over; name one itself to have it read", folder, n_hidden)


def _walk(folder: str) -> Iterator[str]:
    """Yield the files below a folder; links to folders are followed, but no folder is entered twice."""
    waiting, seen = [folder], set()
    top, n_hidden = folder, 0
    while waiting:
        folder = waiting.pop()
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file():
                    yield entry.path
                elif entry.is_dir() and _is_hidden(entry.name):
                    n_hidden += 1
                elif entry.is_dir():
                    folders.append((not entry.is_symlink(), entry.path))
        # Real folders first (taken from the end), so that what is linked into itself keeps its real name.
        waiting += [path for _, path in sorted(folders)]
    _tell_hidden(top, n_hidden)


def _local_ref(path: str) -> VideoRef:
    """Return a reference to a local file; one that is gone since it was listed is missing."""
    return _ref(filesystem.canonical_uri(path), _info(pafs.LocalFileSystem(), path))


def _expand_glob(pattern: str) -> Iterator[VideoRef]:
    if filesystem.is_local(pattern):
        found = glob.iglob(filesystem.local_path(pattern), recursive=True)
        yield from (_local_ref(path) for path in found if os.path.isfile(path))
        return
    prefix = pattern[: re.search(r"[*?[]", pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
    fs, root = filesystem.resolve(prefix)
    wanted = re.compile(_glob_to_regex(pattern))
    for info in fs.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        uri = filesystem.join(prefix, info.path[len(root.rstrip("/")) + 1 :])
        if info.type == pafs.FileType.File and wanted.fullmatch(uri):
            yield _ref(uri, info)


def _glob_to_regex(pattern: str) -> str:
    """Translate a glob as the shell reads it: `*` stays within a folder, `**/` does not."""
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    wild = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return "".join(wild.get(part, re.escape(part)) for part in parts)


def _refs(root: str, source: str, infos: Iterable[pafs.FileInfo]) -> Iterator[VideoRef]:
    hidden = set()
    for info in infos:
        if info.type == pafs.FileType.File and _is_video(info.path):
            relative = info.path[len(root.rstrip("/")) + 1 :]
            parents = relative.split("/")[:-1]
            first_hidden = next((n for n, name in enumerate(parents) if _is_hidden(name)), None)
            if first_hidden is None:
                yield _ref(filesystem.join(filesystem.canonical_uri(source), relative), info)
            else:
                hidden.add(tuple(parents[: first_hidden + 1]))
    _tell_hidden(source, len(hidden))


def _ref(
    uri: str,
    info: pafs.FileInfo,
    start_s: float | None = None,
    end_s: float | None = None,
    recorded_at: datetime.datetime | None = None,
) -> VideoRef:
    if info.type == pafs.FileType.NotFound:
        return VideoRef(uri, -1, "", start_s, end_s, recorded_at)
    return VideoRef(uri, info.size or 0, str(info.mtime_ns or ""), start_s, end_s, recorded_at)


def _read_manifest(source: str, fs: pafs.FileSystem, path: str, suffix: str) -> Iterator[VideoRef]:
    parent = filesystem.canonical_uri(source).rpartition("/")[0]
    for line, row in _manifest_rows(source, fs, path, suffix):
        uri = row.get("uri")
        if not isinstance(uri, str) or not uri:
            raise UsageError(
                f"{source}: row {line} has no `uri`; a manifest needs a column `uri` (and may have start_s, end_s)"
            )
        start_s, end_s = (_seconds(source, line, name, row.get(name)) for name in ("start_s", "end_s"))
        if start_s is not None and end_s is not None and end_s <= start_s:
            raise UsageError(f"{source}: row {line} ends at {end_s:g} s, before it starts at {start_s:g} s")
        if filesystem.is_local(uri) and not os.path.isabs(uri.removeprefix("file://")):
            uri = filesystem.join(parent, uri)
        if "\0" in uri:
            raise UsageError(f"{source}: row {line} has a `uri` with a NUL in it, which no file can be called")
        uri = filesystem.canonical_uri(uri)
        file_fs, file_path = filesystem.resolve(uri)
        try:
            recorded_at = manifest_time(row.get("recorded_at"))
        except (ValueError, OverflowError, OSError) as error:
            raise UsageError(
                f"{source}: row {line} has recorded_at = {row.get('recorded_at')!r}, which is no time; write it as "
                "2024-05-03T14:22:10+02:00 or in epoch seconds"
            ) from error
        yield _ref(uri, _info(file_fs, file_path), start_s, end_s, recorded_at)


def _manifest_rows(source: str, fs: pafs.FileSystem, path: str, suffix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(row number as a person counts it, row)`, line by line: a manifest may be longer than memory."""
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(fs, path)
            return
        with (
            fs.open_input_stream(path) as stream,
            io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text,
        ):
            yield from (_csv_rows if suffix == ".csv" else _json_rows)(_lines(text))
    except (ArrowInvalid, UnicodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"{source}: not a readable {suffix[1:].upper()} manifest ({error})") from error


Rows = Iterator[tuple[int, dict[str, Any]]]


def _parquet_rows(fs: pafs.FileSystem, path: str) -> Rows:
    with fs.open_input_file(path) as source:
        file = pq.ParquetFile(source)
        wanted = [name for name in ("uri", "start_s", "end_s", "recorded_at") if name in file.schema_arrow.names]
        rows = (row for batch in file.iter_batches(_BATCH, columns=wanted) for row in batch.to_pylist())
        yield from enumerate(rows, start=1)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(_LINE_CHARS):
        if len(line) == _LINE_CHARS:
            raise csv.Error(f"a line of more than {_LINE_CHARS} characters")
        yield line


def _csv_rows(lines: Iterable[str]) -> Rows:
    """Yield `(number of the row's last line, row)` of CSV with a heading."""
    reader = csv.DictReader(lines)
    yield from ((reader.line_num, row) for row in reader)


def _json_rows(lines: Iterable[str]) -> Rows:
    for number, content in enumerate(lines, start=1):
        if content.strip():
            row = json.loads(content)
            yield number, row if isinstance(row, dict) else {}


def _seconds(source: str, line: int, name: str, value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        seconds = float(str(value))
    except ValueError:
        seconds = float("nan")
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"{source}: row {line} has {name} = {value!r}, which is not a time in seconds")
    return seconds
