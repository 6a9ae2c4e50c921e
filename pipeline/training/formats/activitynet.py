"""ActivityNet's JSON: `{"database": {id: {"subset", "annotations": [{"label", "segment": [start, end]}]}}}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats.located import field_of, read_json, span_of

_SUBSETS = {"training": "train", "validation": "val", "testing": "test", "train": "train", "val": "val", "test": "test"}


def is_one(content: Any) -> bool:
    """Whether parsed JSON is of this format."""
    return isinstance(content, dict) and "database" in content


def read(path: Path) -> list[Annotation]:
    """Read the spans of all videos. A video may have none, as in a hidden test part."""
    annotations = []
    for video, record in field_of(str(path), read_json(path), "database", dict).items():
        at = f"{path}, video {video!r}"
        subset = record.get("subset") if isinstance(record, dict) else None
        if subset is not None and subset not in _SUBSETS:
            raise UsageError(
                f"{path}, line {record.line}: subset {subset!r:.40} of video {video!r} is not one of "
                f"{', '.join(sorted(_SUBSETS))}"
            )
        for span in field_of(at, record, "annotations", list):
            where = f"{path}, line {getattr(span, 'line', record.line)}"
            label = field_of(where, span, "label", str)
            start_s, end_s = span_of(where, span.get("segment"), "'segment'")
            splits = {"subset": _SUBSETS[subset]} if subset else {}
            annotations.append(Annotation(video, label, start_s, end_s, splits, where=where))
    return annotations
