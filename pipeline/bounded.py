"""Read small files of users, with a limit on their size."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError

OPTIONS_BYTES = 1 << 20
"""Limit for files of options and descriptions of models."""
LABELS_BYTES = 512 << 20
"""Limit for files of labels."""


def read_bounded(path: str | Path, most_bytes: int) -> bytes:
    """Return the content of a file, which may also be a device or a pipe that never ends.

    Raises:
        UsageError: It has more than `most_bytes` bytes.
        OSError: It can't be read.
    """
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UsageError(f"{path}: has more than {most_bytes >> 20} MiB, too much for such a file")
    return content
