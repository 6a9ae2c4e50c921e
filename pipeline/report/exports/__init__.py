"""Write a model's segments in formats of other tools: spreadsheets, subtitles, annotation tools."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader
from pipeline.report.exports.boris import write_boris
from pipeline.report.exports.cvat import write_cvat
from pipeline.report.exports.elan import write_elan
from pipeline.report.exports.excel import write_excel
from pipeline.report.exports.fiftyone import write_fiftyone
from pipeline.report.exports.found import Found, find
from pipeline.report.exports.label_studio import write_label_studio
from pipeline.report.exports.plain import write_activitynet, write_csv, write_vtt


@dataclass(frozen=True)
class _Format:
    write: Callable[[Path, Found], None]
    is_folder: bool = False
    """Whether the export is a folder with one file per video."""
    counts_frames: bool = False
    """Whether times are frame numbers. Then videos of unknown frame rate or size are left out."""


_FORMATS = {
    "activitynet": _Format(write_activitynet),
    "csv": _Format(write_csv),
    "excel": _Format(write_excel),
    "vtt": _Format(write_vtt, is_folder=True),
    "boris": _Format(write_boris),
    "elan": _Format(write_elan, is_folder=True),
    "cvat": _Format(write_cvat, is_folder=True, counts_frames=True),
    "label-studio": _Format(write_label_studio, counts_frames=True),
    "fiftyone": _Format(write_fiftyone, is_folder=True, counts_frames=True),
}
EXPORTS = tuple(_FORMATS)
"""Names of the formats that can be written."""
FOLDERS = tuple(name for name, each in _FORMATS.items() if each.is_folder)
"""Formats that write a folder. The others write one file."""


def export_segments(
    lake: LakeReader, out: str | Path, name: str, model: str | None = None, where: str | None = None
) -> int:
    """Write the segments of a lake, and return how many were written.

    Args:
        lake: An open lake.
        out: A folder for the formats in `FOLDERS`, a file for the others.
        name: One of `EXPORTS`. Formats that count frames leave out videos of unknown frame rate or size, and log
            them.
        model: The model whose segments are written. None: the only model.
        where: A condition in SQL on the columns of `segments`. Videos without such a segment are left out. None: all
            segments and all videos.

    Raises:
        UsageError: There is no such format or model, `where` is no condition, or the place can't be written to.
    """
    if name not in _FORMATS:
        raise UsageError(f"{name!r} is no format to export to; known are {', '.join(EXPORTS)}")
    found = find(lake, where, model)
    if _FORMATS[name].counts_frames:
        found = found.with_numbered_frames()
    try:
        _FORMATS[name].write(Path(out), found)
    except OSError as error:
        raise UsageError(f"{out}: can't be written to ({error.strerror})") from error
    return len(found.segments)
