"""List an archive: files, folders, globs and manifests become one listing of video references."""

from __future__ import annotations

import glob
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator

import pyarrow as pa
from pyarrow import fs as pafs

from pipeline.archive import filesystem
from pipeline.archive.manifest import MANIFEST_SUFFIXES, read_manifest
from pipeline.archive.refs import BATCH, LISTING, Listing, VideoRef, info_of, ref_of
from pipeline.errors import UsageError

log = logging.getLogger(__name__)

_SUFFIXES = (
    "mp4 m4v mov mkv webm avi ts mts m2ts mpg mpeg wmv asf flv 3gp 3g2 ogv mjpeg mjpg "
    "h264 264 h265 265 hevc m2v vob mxf f4v divx dav amv rm rmvb y4m"
)
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split(" "))
"""Suffixes that count as videos when a folder is listed. A file that is named explicitly is always taken."""
_SERVICE_FILES = frozenset(["thumbs.db", "desktop.ini"])
# Folders in which file servers and desktops keep their own files: thumbnails and deleted files.
_SERVICE_FOLDERS = frozenset(["@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"])


def list_videos(sources: Iterable[str]) -> Listing:
    """Return every video that the sources name, each once, sorted by URI and span.

    A source is a file, a folder (searched recursively for the usual suffixes, without hidden files and folders), a
    glob, or a manifest: CSV, JSONL or Parquet with a column `uri` and optionally `start_s`, `end_s` and `recorded_at`.
    A relative `uri` is relative to the manifest.
    A missing file in a manifest is listed with `size_bytes` -1, so that it leaves a row. A missing source is an error.

    Raises:
        UsageError: A source does not exist, names no video, or is a manifest that can't be read.
    """
    batches: list[pa.RecordBatch] = []
    for source in sources:
        n_before = len(batches)
        refs = _expand(source)
        while some := list(itertools.islice(refs, BATCH)):
            columns = [[getattr(ref, name) for ref in some] for name in LISTING.names]
            batches.append(pa.record_batch(columns, schema=LISTING))
        if len(batches) == n_before:
            raise UsageError(
                f"{source}: no videos in it (looked for {' '.join(sorted(VIDEO_SUFFIXES))}); "
                "name a file explicitly to read it whatever its suffix"
            )
    return Listing(pa.Table.from_batches(batches, schema=LISTING))


def _expand(source: str) -> Iterator[VideoRef]:
    suffix = os.path.splitext(source)[1].lower()
    fs, path = filesystem.resolve(source)
    info = info_of(fs, path)
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
        yield from read_manifest(source, fs, path, suffix)
    else:
        yield ref_of(filesystem.canonical_uri(source), info)


def _is_video(path: str) -> bool:
    """Whether a file counts as a video when a folder is listed: by its suffix, unless it is hidden.

    Hidden files with the suffix of a video are files that macOS keeps beside it (`._a.mp4`), or unfinished copies.
    """
    return os.path.splitext(path)[1].lower() in VIDEO_SUFFIXES and not os.path.basename(path).startswith(".")


def _is_hidden(folder: str) -> bool:
    """Whether a folder is skipped, because of its name, when its parent folder is listed."""
    return folder.startswith(".") or folder.lower() in _SERVICE_FOLDERS


def _is_kept_beside(path: str, pattern: str) -> bool:
    """Whether a path that a glob finds is hidden or a system file, in a part that the glob does not name."""
    *folders, name = path.split("/")
    named = set(pattern.split("/"))
    hidden_folder = any(_is_hidden(folder) for folder in folders if folder and folder not in named)
    return hidden_folder or (name not in named and (name.startswith(".") or name.lower() in _SERVICE_FILES))


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
        # Real folders come first (they are taken from the end), so that a folder linked into itself keeps its name.
        waiting += [path for _, path in sorted(folders)]
    _tell_hidden(top, n_hidden)


def _local_ref(path: str) -> VideoRef:
    """Return a reference to a local file; a file that was deleted after it was listed counts as missing."""
    return ref_of(filesystem.canonical_uri(path), info_of(pafs.LocalFileSystem(), path))


def _expand_glob(pattern: str) -> Iterator[VideoRef]:
    if filesystem.is_local(pattern):
        found = glob.iglob(filesystem.local_path(pattern), recursive=True)
        yield from (_local_ref(path) for path in found if os.path.isfile(path) and not _is_kept_beside(path, pattern))
        return
    prefix = pattern[: re.search(r"[*?[]", pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]
    fs, root = filesystem.resolve(prefix)
    wanted = re.compile(_glob_to_regex(pattern))
    for info in fs.get_file_info(pafs.FileSelector(root, recursive=True, allow_not_found=True)):
        uri = filesystem.join(prefix, info.path[len(root.rstrip("/")) + 1 :])
        if info.type == pafs.FileType.File and wanted.fullmatch(uri) and not _is_kept_beside(uri, pattern):
            yield ref_of(uri, info)


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
                yield ref_of(filesystem.join(filesystem.canonical_uri(source), relative), info)
            else:
                hidden.add(tuple(parents[: first_hidden + 1]))
    _tell_hidden(source, len(hidden))
