"""Readers of existing labels: one for each format. All return `Annotation`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation, checked
from pipeline.training.formats import activitynet, boris, cvat, elan, folders, frame_labels, label_studio, table, via
from pipeline.training.formats.located import read_json

_READERS: dict[str, Callable[[Path], list[Annotation]]] = {
    "csv": table.read,
    "folders": folders.read,
    "boris": boris.read,
    "activitynet": activitynet.read,
    "cvat": cvat.read,
    "via": via.read,
    "label-studio": label_studio.read,
    "elan": elan.read,
    "frame-labels": frame_labels.read,
}
FORMATS = tuple(_READERS)
"""Names of the formats that can be read."""


def read_annotations(path: str | Path, name: str | None = None) -> list[Annotation]:
    """Read labels in any of `FORMATS`.

    Args:
        path: A file, or a folder for the formats that are one (`folders`, `elan`, `frame-labels`).
        name: The format. None: it is detected.

    Raises:
        UsageError: There is no such file, its format is unknown, or a place in it is invalid; the message names file
            and line.
    """
    source = Path(path)
    if not source.exists():
        raise UsageError(f"{source}: no such file or folder of annotations")
    if name is not None and name not in _READERS:
        raise UsageError(f"{name!r} is no format of annotations; known are {', '.join(FORMATS)}")
    return checked(_READERS[name or _format_of(source)](source), source)


def _format_of(source: Path) -> str:
    if source.is_dir():
        if (source / "groundTruth").is_dir() or next(source.glob("*.txt"), None):
            return "frame-labels"
        return "elan" if next(source.glob("*.eaf"), None) else "folders"
    by_suffix = {
        **dict.fromkeys((".csv", ".tsv", ".xlsx", ".xlsm"), "csv"),
        ".xml": "cvat", ".eaf": "elan", ".txt": "frame-labels", ".boris": "boris", ".gz": "boris",
    }  # fmt: skip
    suffix = source.suffix.lower()
    if suffix == ".txt" and table.is_one(source):
        return "csv"
    if suffix in by_suffix:
        return by_suffix[suffix]
    if suffix == ".json":
        content = read_json(source)
        for name, module in (
            ("activitynet", activitynet),
            ("boris", boris),
            ("via", via),
            ("label-studio", label_studio),
        ):
            if module.is_one(content):
                return name
    raise UsageError(
        f"{source}: not a format of annotations that is known; it may be {', '.join(FORMATS)}; name one with --format, "
        "or of search with --examples-format"
    )
