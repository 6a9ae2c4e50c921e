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

from pipeline.archive import filesystem

log = logging.getLogger(__name__)

# A request costs a round trip, so much is asked for at once; a second of video is some hundred kilobytes.
_BLOCK_BYTES = 2 << 20
# What lies at a file's ends is read for each of its chunks anew: it stays, where more than a chunk's data fits in.
_CACHE_BYTES = 64 << 20
_PAUSES_S = (0.2, 1.0, 5.0)

_Version = tuple[str, int, int | None]


class _Cache:
    """The blocks that this process used last, of all files."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[tuple[_Version, int], bytes] = OrderedDict()
        self._n_bytes = 0
        self._lock = Lock()

    def get(self, version: _Version, number: int, fetch: Callable[[int], bytes]) -> bytes:
        """Return a block of a file, fetched if it is not there."""
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


_CACHE = _Cache()


class RangeReader(io.RawIOBase):
    """A remote file, opened for reading; a range that can't be read for the moment is asked for again.

    Raises:
        OSError: From any method: the file is not there, or it could not be read again and again.
    """

    def __init__(self, uri: str) -> None:
        """Look the file up; nothing of it is read yet."""
        self._uri = uri
        self._fs, self._path = filesystem.resolve(uri)
        info = self._fs.get_file_info(self._path)
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, "no such file", uri)
        self._size: int = info.size
        # What was read of a file counts no more when it has changed.
        self._version = uri, self._size, info.mtime_ns
        self._file: pa.NativeFile | None = None
        self._at = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
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
        """Fill a buffer from the position on, as far as a block goes; return how many bytes."""
        number, skip = divmod(self._at, _BLOCK_BYTES)
        if self._at >= self._size:
            return 0
        part = _CACHE.get(self._version, number, self._fetch)[skip : skip + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def _fetch(self, number: int) -> bytes:
        start = number * _BLOCK_BYTES
        n_bytes = min(_BLOCK_BYTES, self._size - start)
        for pause_s in (*_PAUSES_S, None):
            try:
                self._file = self._file or self._fs.open_input_file(self._path)
                block: bytes = self._file.read_at(n_bytes, start)
                if len(block) < n_bytes:
                    raise OSError(errno.EIO, "it became shorter while it was read")
                return block
            except OSError as error:
                # A connection may be of no more use.
                self._file = None
                if pause_s is None or isinstance(error, (FileNotFoundError, PermissionError)):
                    raise
                log.info("%s: can't be read at %d (%s); trying again in %g s", self._uri, start, error, pause_s)
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")
