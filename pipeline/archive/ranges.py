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

# A request costs a round trip, so much is asked for at once; a second of video is some hundred kilobytes.
_BLOCK_BYTES = 2 << 20
# What lies at a file's ends is read for each of its chunks anew: it stays, where more than a chunk's data fits in.
_CACHE_BYTES = 64 << 20
_PAUSES_S = (0.2, 1.0, 5.0)

_Version = tuple[str, int, int | None]


class BlockCache:
    """The blocks of files that were used last."""

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


class RangeReader(io.RawIOBase):
    """A remote file, opened for reading; a range that can't be read for the moment is asked for again.

    Clients ask again by themselves, but not always: that of S3 takes a refusal whose text is longer than the range that
    was asked for to be an error of its own (https://github.com/apache/doris/pull/66557).

    Raises:
        OSError: From any method: the file is not there, or it could not be read again and again.
    """

    def __init__(self, fs: pafs.FileSystem, path: str, cache: BlockCache | None = None) -> None:
        """Look the file up; nothing of it is read yet.

        Args:
            fs: Where the file is.
            path: Its path there.
            cache: Blocks of this file and of others, for files that are not overwritten: a store tells apart what is
                written in one second by its size alone. None: of this one, until it is closed.
        """
        self._fs, self._path, self._cache = fs, path, cache or BlockCache()
        info = fs.get_file_info(path)
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._size: int = info.size
        # What was read of a file counts no more when it has changed.
        self._version = path, self._size, info.mtime_ns
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
        """Fill a buffer from the position on, as far as the file goes; return how many bytes."""
        filled = 0
        while filled < len(target) and self._at < self._size:
            number, skip = divmod(self._at, _BLOCK_BYTES)
            block = self._cache.get(self._version, number, self._fetch)
            part = block[skip : skip + len(target) - filled]
            target[filled : filled + len(part)] = part
            self._at += len(part)
            filled += len(part)
        return filled

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
                log.info("%s: can't be read at %d (%s); trying again in %g s", self._path, start, error, pause_s)
                time.sleep(pause_s)
        raise AssertionError("the last try returns or raises")
