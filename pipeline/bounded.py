"""Read small files of others: no larger than they can rightly be."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import UsageError

OPTIONS_BYTES = 1 << 20
"""Files of options, descriptions of models."""
LABELS_BYTES = 512 << 20
"""Files of labels."""


def read_bounded(path: str | Path, most_bytes: int) -> bytes:
    """Return the content of a file, which may also be a device or a pipe that never ends.

    Raises:
        UsageError: It is too large to be what it is taken for.
        OSError: It can't be read.
    """
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UsageError(f"{path}: has more than {most_bytes >> 20} MiB, too much for such a file")
    return content
