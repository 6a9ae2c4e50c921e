"""One folder per activity with its clips, optionally below `train`, `val` and `test`."""

from __future__ import annotations

from pathlib import Path

from pipeline.archive.sources import VIDEO_SUFFIXES
from pipeline.errors import UsageError
from pipeline.training.annotations import SPLIT_VALUES, Annotation


def read(path: Path) -> list[Annotation]:
    """Take every video below a folder, at any depth, as an example of the folder's name."""
    annotations = []
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() not in VIDEO_SUFFIXES or not file.is_file():
            continue
        parts = file.relative_to(path).parts
        splits = {"split": parts[0]} if parts[0] in SPLIT_VALUES else {}
        folders = parts[len(splits) : -1]
        if not folders:
            raise UsageError(f"{file}: lies in no folder that names its activity")
        annotations.append(Annotation("/".join(parts), folders[0], splits=splits, where=str(file)))
    return annotations
