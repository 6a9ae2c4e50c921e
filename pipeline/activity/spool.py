"""Store the pieces of a long sequence until they are needed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import IO

import numpy as np
from numpy.typing import NDArray

# Up to this size a spool stays in memory; a longer one goes to a temporary file.
_SPOOL_BYTES = 16 << 20


class Spool:
    """Pieces `float32 [t, dim]` written one after the other and read in any order, in memory or in a temporary file."""

    def __init__(self, dim: int) -> None:
        self._dim = dim
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES)  # noqa: SIM115
        self._offsets = [0]

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def n_pieces(self) -> int:
        """The number of pieces."""
        return len(self._offsets) - 1

    def append(self, piece: NDArray[np.float32]) -> None:
        """Append a piece to those before."""
        self._file.seek(self._offsets[-1])
        self._offsets.append(self._offsets[-1] + self._file.write(np.ascontiguousarray(piece, np.float32).tobytes()))

    def pieces(self) -> Iterator[NDArray[np.float32]]:
        """Return the pieces, from first to last."""
        return (self.read(index) for index in range(self.n_pieces))

    def read(self, index: int) -> NDArray[np.float32]:
        """Return one piece."""
        start, end = self._offsets[index], self._offsets[index + 1]
        self._file.seek(start)
        values = np.frombuffer(bytearray(self._file.read(end - start)), np.float32)
        return values.reshape(-1, self._dim)
