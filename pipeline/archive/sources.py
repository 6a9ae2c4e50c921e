"""List an archive: files, folders, globs and manifests become one stream of video references."""

from __future__ import annotations

import csv
import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow.parquet as pq
from pyarrow import ArrowInvalid
from pyarrow import fs as pafs

from pipeline.archive import filesystem
from pipeline.errors import UsageError

_SUFFIXES = "mp4 m4v mov mkv webm avi ts mts m2ts mpg mpeg wmv asf flv 3gp 3g2 ogv mjpeg mjpg"
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split(" "))
"""What counts as a video when a folder is listed. A file that is named itself is always taken."""
MANIFEST_SUFFIXES = frozenset([".csv", ".jsonl", ".parquet"])


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

    @property
    def video_id(self) -> str:
        """First 16 hex digits of SHA-1 over canonical URI, size, time of change, and the span if there is one."""
        parts = [self.uri, str(self.size_bytes), self.modified]
        if self.start_s is not None or self.end_s is not None:
            parts += [repr(self.start_s), repr(self.end_s)]
        return hashlib.sha1("\0".join(parts).encode()).hexdigest()[:16]


def list_videos(sources: Sequence[str]) -> list[VideoRef]:
    """Return every video that the sources name, each once, sorted by URI and span.

    A source is a file, a folder (searched recursively for the usual suffixes), a glob, or a manifest: CSV, JSONL or
    Parquet with a column `uri` and optionally `start_s` and `end_s`; a relative `uri` is relative to the manifest.
    A manifest's missing file is listed with `size_bytes` -1, so that it leaves a row; a missing source is an error.

    Raises:
        UsageError: A source does not exist, names no video, or is a manifest that can't be read.
    """
    found: dict[tuple[str, float, float], VideoRef] = {}
    for source in sources:
        refs = list(_expand(source))
        if not refs:
            raise UsageError(
                f"{source}: no videos in it (looked for {' '.join(sorted(VIDEO_SUFFIXES))}); "
                "name a file itself to have it read whatever its suffix"
            )
        for ref in refs:
            start = -1.0 if ref.start_s is None else ref.start_s
            end = float("inf") if ref.end_s is None else ref.end_s
            found[ref.uri, start, end] = ref
    return [found[key] for key in sorted(found)]


def _expand(source: str) -> Iterator[VideoRef]:
    suffix = os.path.splitext(source)[1].lower()
    fs, path = filesystem.resolve(source)
    info = fs.get_file_info(path)
    if info.type == pafs.FileType.NotFound and glob.has_magic(source):
        yield from _expand_glob(source)
    elif info.type == pafs.FileType.NotFound:
        raise UsageError(f"{source}: no such file or folder")
    elif info.type == pafs.FileType.Directory:
        yield from _refs(path, source, fs.get_file_info(pafs.FileSelector(path, recursive=True)))
    elif suffix in MANIFEST_SUFFIXES:
        yield from _read_manifest(source, fs, path, suffix)
    else:
        yield _ref(filesystem.canonical_uri(source), info)


def _expand_glob(pattern: str) -> Iterator[VideoRef]:
    if filesystem.is_local(pattern):
        for path in glob.glob(filesystem.local_path(pattern), recursive=True):
            if os.path.isfile(path):
                fs, local = filesystem.resolve(path)
                yield _ref(path, fs.get_file_info(local))
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
    for info in infos:
        suffix = os.path.splitext(info.path)[1].lower()
        if info.type == pafs.FileType.File and suffix in VIDEO_SUFFIXES:
            relative = info.path[len(root.rstrip("/")) + 1 :]
            yield _ref(filesystem.join(filesystem.canonical_uri(source), relative), info)


def _ref(uri: str, info: pafs.FileInfo, start_s: float | None = None, end_s: float | None = None) -> VideoRef:
    if info.type == pafs.FileType.NotFound:
        return VideoRef(uri, -1, "", start_s, end_s)
    return VideoRef(uri, info.size or 0, str(info.mtime_ns or ""), start_s, end_s)


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
        uri = filesystem.canonical_uri(uri)
        file_fs, file_path = filesystem.resolve(uri)
        yield _ref(uri, file_fs.get_file_info(file_path), start_s, end_s)


def _manifest_rows(source: str, fs: pafs.FileSystem, path: str, suffix: str) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield `(row number as a person counts it, row)`."""
    try:
        if suffix == ".parquet":
            names = pq.read_schema(path, filesystem=fs).names
            wanted = [name for name in ("uri", "start_s", "end_s") if name in names]
            yield from enumerate(pq.read_table(path, columns=wanted, filesystem=fs).to_pylist(), start=1)
            return
        with fs.open_input_stream(path) as stream:
            text = stream.read().decode("utf-8-sig")
        if suffix == ".csv":
            yield from enumerate(csv.DictReader(text.splitlines()), start=2)
            return
        for line, content in enumerate(text.splitlines(), start=1):
            if content.strip():
                row = json.loads(content)
                yield line, row if isinstance(row, dict) else {}
    except (ArrowInvalid, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise UsageError(f"{source}: not a readable {suffix[1:].upper()} manifest ({error})") from error


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
