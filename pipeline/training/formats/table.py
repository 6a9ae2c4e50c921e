"""CSV: `video,start_s,end_s,label[,group][,split]`, or `label,video,split1,split2,...` for whole clips."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from pipeline.bounded import LABELS_BYTES, read_bounded
from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation


def read(path: Path) -> list[Annotation]:
    """Read columns `video`, `label`, and optionally `start_s`, `end_s`, `group` and any that begin with `split`."""
    try:
        with io.StringIO(read_bounded(path, LABELS_BYTES).decode("utf-8-sig"), newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or []]
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: can't be read as CSV ({error})") from error
    missing = [name for name in ("video", "label") if name not in columns]
    if missing:
        raise UsageError(
            f"{path}: no column {' nor '.join(missing)}; needed are video and label, "
            f"optional start_s, end_s and split; it has {', '.join(columns) or 'none'}"
        )
    splits = [name for name in columns if name.startswith("split")]
    annotations = []
    for line, raw in rows:
        row = {key.strip(): (value or "").strip() for key, value in raw.items() if key}
        where = f"{path}, line {line}"
        annotations.append(
            Annotation(
                row.get("video", ""),
                row.get("label", ""),
                _seconds(where, "start_s", row),
                _seconds(where, "end_s", row),
                {name: row.get(name, "").lower() for name in splits},
                row.get("group", ""),
                where=where,
            )
        )
    return annotations


def _seconds(where: str, name: str, row: dict[str, str]) -> float | None:
    text = row.get(name, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise UsageError(f"{where}: {name} = {text!r} is not a time in seconds")
    return value
