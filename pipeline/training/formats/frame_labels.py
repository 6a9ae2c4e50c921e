"""One label per frame and line, as in MS-TCN: `groundTruth/<video>.txt`, splits in `splits/<part>.split<n>.bundle`."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from pipeline.bounded import LABELS_BYTES, read_bounded
from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation


def read(path: Path) -> list[Annotation]:
    """Read a folder with `groundTruth`, a folder of label files, or one label file."""
    splits = _splits(path / "splits")
    folder = path / "groundTruth" if (path / "groundTruth").is_dir() else path
    files = [folder] if folder.is_file() else sorted(folder.glob("*.txt"))
    return [annotation for file in files for annotation in _runs(file, splits.get(file.stem, {}))]


def _runs(path: Path, splits: dict[str, str]) -> list[Annotation]:
    try:
        labels = [line.strip() for line in read_bounded(path, LABELS_BYTES).decode("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read as labels of frames ({error})") from error
    while labels and not labels[-1]:
        labels.pop()
    runs = []
    first = 0
    for frame in range(1, len(labels) + 1):
        if frame == len(labels) or labels[frame] != labels[first]:
            where = f"{path}, line {first + 1}"
            runs.append(Annotation(path.stem, labels[first], splits=splits, frames=(first, frame), where=where))
            first = frame
    return runs


def _splits(folder: Path) -> dict[str, dict[str, str]]:
    """Return for each video its part in each split. A video that a split does not name takes no part in it."""
    named: dict[str, dict[str, str]] = {}
    for file in sorted(folder.glob("*.bundle")):
        match = re.fullmatch(r"(train|val|test)\.(split\w+)\.bundle", file.name)
        if match is None:
            raise UsageError(f"{file}: not called like train.split1.bundle")
        parts = named.setdefault(match[2], {})
        for line in read_bounded(file, LABELS_BYTES).decode().split():
            parts[Path(line).stem] = match[1]
    of_video: dict[str, dict[str, str]] = defaultdict(lambda: dict.fromkeys(named, ""))
    for split, parts in named.items():
        for video, part in parts.items():
            of_video[video] = of_video[video] | {split: part}
    return of_video
