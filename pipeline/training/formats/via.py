"""The project file of VIA 3 (VGG Image Annotator, for video and audio): temporal segments with attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats.located import field_of, read_json, span_of


def is_one(content: Any) -> bool:
    """Whether parsed JSON is of this format."""
    return isinstance(content, dict) and {"attribute", "file", "metadata", "view"} <= content.keys()


def read(path: Path) -> list[Annotation]:
    """Read the temporal segments. Regions of single frames have no duration and are skipped."""
    project = read_json(path)
    if not is_one(project):
        raise UsageError(f"{path}: not a project of VIA 3, which has attribute, file, metadata and view")
    annotations = []
    for record in project["metadata"].values():
        where = f"{path}, line {getattr(record, 'line', 1)}"
        times = field_of(where, record, "z", list)
        if len(times) < 2 or record.get("xy"):
            continue
        start_s, end_s = span_of(where, times, "'z'")
        video = _video(where, project, record)
        for number, value in field_of(where, record, "av", dict).items():
            for label in _labels(where, project["attribute"], number, value):
                annotations.append(Annotation(video, label, start_s, end_s, where=where))
    return annotations


def _video(where: str, project: dict[str, Any], record: dict[str, Any]) -> str:
    view = project["view"].get(str(record.get("vid")), {})
    files = [project["file"].get(str(number)) for number in view.get("fid_list", [])]
    if len(files) != 1 or not isinstance(files[0], dict):
        raise UsageError(f"{where}: its view {record.get('vid')!r} names no single file")
    # `src` may be a path, a URL, or the bytes themselves. `fname` is the name that the annotator saw.
    return str(field_of(where, files[0], "fname", str))


def _labels(where: str, attributes: dict[str, Any], number: str, value: Any) -> list[str]:
    attribute = attributes.get(number)
    if not isinstance(attribute, dict):
        raise UsageError(f"{where}: there is no attribute {number!r}")
    # The value holds the keys of chosen options, separated by commas. Without options it is the label itself.
    options = attribute.get("options") or {}
    chosen = [part.strip() for part in (str(value).split(",") if options else [str(value)])]
    return [str(options.get(part) or part) for part in chosen if part]
