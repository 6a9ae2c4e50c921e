"""Read a manifest: CSV, JSONL or Parquet that lists files, or spans of files."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowInvalid
from pyarrow import fs as pafs

from pipeline.archive import filesystem
from pipeline.archive.recorded import manifest_time
from pipeline.archive.refs import BATCH, VideoRef, info_of, ref_of
from pipeline.errors import UsageError

MANIFEST_SUFFIXES = frozenset([".csv", ".jsonl", ".parquet"])
"""Suffixes of files that count as manifests, not as videos."""
# Longest line of a manifest. Without a limit, a file without line ends would be held in memory as a whole.
_LINE_CHARS = 1 << 20


def read_manifest(source: str, fs: pafs.FileSystem, path: str, suffix: str) -> Iterator[VideoRef]:
    """Yield the videos of a manifest; a relative `uri` is relative to it, and a missing file has `size_bytes` -1.

    Raises:
        UsageError: The manifest can't be read, or a row is invalid.
    """
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
            raise UsageError(f"{source}: row {line} has a `uri` with a NUL in it, which no file name can contain")
        uri = filesystem.canonical_uri(uri)
        file_fs, file_path = filesystem.resolve(uri)
        try:
            recorded_at = manifest_time(row.get("recorded_at"))
        except (ValueError, OverflowError, OSError) as error:
            raise UsageError(
                f"{source}: row {line} has recorded_at = {row.get('recorded_at')!r}, which is no time; write it as "
                "2024-05-03T14:22:10+02:00 or in epoch seconds"
            ) from error
        yield ref_of(uri, info_of(file_fs, file_path), start_s, end_s, recorded_at.isoformat() if recorded_at else None)


def _manifest_rows(source: str, fs: pafs.FileSystem, path: str, suffix: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(row number as a person counts it, row)`, line by line: a manifest may not fit into memory."""
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
        rows = (row for batch in file.iter_batches(BATCH, columns=wanted) for row in batch.to_pylist())
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
