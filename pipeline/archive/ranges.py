"""Read a remote file by ranges, never as a whole, through a cache of bounded size."""

from __future__ import annotations

import errno
import io
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import pyarrow as pa
from pyarrow import fs as pafs

log = logging.getLogger(__name__)

# Each request costs a round trip, so it fetches this much at once. A second of video is some hundred kilobytes.
_BLOCK_BYTES = 2 << 20
# Each chunk reads both ends of its file again. They stay in a cache that holds more than the data of a chunk.
_CACHE_BYTES = 64 << 20
_PAUSES_S = (0.2, 1.0, 5.0)

_Version = tuple[str, int, int | None]


class BlockCache:
    """The blocks of files that were read last."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[_Version, int], bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()

    def get(self, version: _Version, number: int, fetch: Callable[[int], bytes]) -> bytes:
        """Return a block of a file, which is fetched if it is not in the cache."""
        key = version, number
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
                return self._blocks[key]
        block = fetch(number)
        with self._lock:
            if key not in self._blocks:
                self._blocks[key] = block
                self._n_bytes += len(block)
            while self._n_bytes > _CACHE_BYTES:
                _, oldest = self._blocks.popitem(last=False)
                self._n_bytes -= len(oldest)
        return block


class PatientReader(io.RawIOBase):
    """A remote file, opened for reading; a read that fails is retried.

    Clients retry by themselves, but not always. The S3 client takes a refusal whose text is longer than the requested
    range for a different error (https://github.com/apache/doris/pull/66557).

    Raises:
        OSError: From any method: the file does not exist, or all retries failed.
    """

    def __init__(self, fs: pafs.FileSystem, path: str, size: int | None = None) -> None:
        """Open the file at a path of a file system; with a given size, the file is opened only at the first read."""
        self._fs, self._path = fs, path
        self._file: pa.NativeFile | None = None
        if size is None:
            self._file = fs.open_input_file(path)
            size = self._file.size()
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, target: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the position on, at most to the end of the file; return the number of bytes."""
        part = self._range(self._at, max(0, min(len(target), self._size - self._at)))
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _range(self, start: int, n_bytes: int) -> bytes:
        for pause_s in (*_PAUSES_S, None):
            try:
                self._file = self._file or self._fs.open_input_file(self._path)
                part: bytes = self._file.read_at(n_bytes, start)
                if len(part) < n_bytes:
                    raise OSError(errno.EIO, "the file became shorter while it was read")
                return part
            except OSError as error:
                # The connection may be broken.
                self._file = None
                if pause_s is None or isinstance(error, (FileNotFoundError, PermissionError)):
                    raise
                log.info("%s: can't be read at %d (%s); trying again in %g s", self._path, start, error, pause_s)
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


class RangeReader(PatientReader):
    """A remote file that is read block by block, through a cache that outlives it."""

    def __init__(self, fs: pafs.FileSystem, path: str, uri: str, cache: BlockCache) -> None:
        """Look the file up; nothing is read yet, and blocks in the cache are not read at all.

        Args:
            fs: The file system of the file.
            path: Its path there.
            uri: Its name in the cache.
            cache: For files that are not overwritten within a second: a store tells such versions apart only by size.
        """
        info = fs.get_file_info(path)
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, "no such file", uri)
        super().__init__(fs, path, info.size)
        self._cache = cache
        # Blocks that were read before the file changed no longer count.
        self._version = uri, self._size, info.mtime_ns

    def readinto(self, target: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill a buffer from the position on, at most to the end of a block; return the number of bytes."""
        number, skip = divmod(self._at, _BLOCK_BYTES)
        if self._at >= self._size:
            return 0
        part = self._cache.get(self._version, number, self._block)[skip : skip + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def _block(self, number: int) -> bytes:
        start = number * _BLOCK_BYTES
        return self._range(start, min(_BLOCK_BYTES, self._size - start))
