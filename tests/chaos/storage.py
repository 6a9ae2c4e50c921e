"""A storage that fails and stalls: the local disk behind fsspec, as an object store is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from tests.chaos.faults import FOLDER, _count, note_happened

FAILS_EVERY = 5
STALLS_EVERY = 31


class UnreliableFileSystem(LocalFileSystem):  # type: ignore[misc]
    """Fails one in five writes, half-way, and never comes back from one in thirty-one."""

    protocol = "unreliable"

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(LocalFileSystem._strip_protocol(str(path).removeprefix("unreliable://")))

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        file = super().open(path, mode, **options)
        if "w" not in mode:
            return file
        folder = Path(os.environ[FOLDER])
        number = _count(folder / "writes")
        if number % STALLS_EVERY == 0:
            note_happened("write stalls")
            time.sleep(1e6)
        if number % FAILS_EVERY == 0:
            note_happened("write fails")
            file.write(b"half of it")
            file.close()
            raise OSError(5, "Input/output error")
        return file


def register() -> None:
    """Make `unreliable://` known, and its stalls short, in this process."""
    fsspec.register_implementation("unreliable", UnreliableFileSystem, clobber=True)
    from pipeline.lake import patience

    patience._STALLED_AFTER_S = 0.5
