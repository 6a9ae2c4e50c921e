"""Export to an Excel workbook: segments, time budgets and failures."""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UsageError
from pipeline.report.exports.found import Found
from pipeline.report.exports.names import cleaned

_MOST_ROWS = 1_048_576
_MOST_CHARACTERS = 32_767
_SECONDS, _SHARE, _MOMENT = "0.000", "0.0%", "yyyy-mm-dd hh:mm:ss.000"
_Column = tuple[str, int, str | None]
"""Heading, width in characters, and format of its numbers."""

_SEGMENTS: tuple[_Column, ...] = (
    ("video", 50, None), ("start_s", 11, _SECONDS), ("end_s", 11, _SECONDS), ("label", 22, None), ("score", 8, "0.00"),
    ("track_id", 9, None), ("model", 18, None), ("start_at (UTC)", 24, _MOMENT), ("end_at (UTC)", 24, _MOMENT),
)  # fmt: skip
_BUDGETS: tuple[_Column, ...] = (
    ("video", 50, None), ("track_id", 9, None), ("label", 22, None), ("seconds", 12, _SECONDS), ("share", 9, _SHARE),
    ("count", 8, None),
)  # fmt: skip
_FAILURES: tuple[_Column, ...] = (
    ("video", 50, None), ("start_s", 11, _SECONDS), ("end_s", 11, _SECONDS), ("stage", 12, None), ("kind", 14, None),
    ("message", 80, None), ("attempts", 10, None),
)  # fmt: skip


def write_excel(out: Path, found: Found) -> None:
    """Write a workbook of three sheets: `segments`, `time budgets`, `failures`.

    A budget holds the seconds that a person (or the whole frame, without `track_id`) spends with a label in a video,
    their share of the video's length, and the number of segments. Overlapping time counts once. Times of day are in
    UTC. They are empty if the recording time of a video is unknown. Numbers have 16 digits.

    Raises:
        UsageError: The name of the file does not end in `.xlsx`, or there are more segments than a sheet holds.
    """
    import openpyxl

    if out.suffix.lower() != ".xlsx":
        raise UsageError(f"{out}: Excel opens a workbook only under the name .xlsx; call it {out.stem}.xlsx")
    if len(found.segments) >= _MOST_ROWS:
        raise UsageError(
            f"{out}: a sheet of Excel holds {_MOST_ROWS - 1} rows, and there are {len(found.segments)} segments; "
            "choose some by --where, or export csv"
        )
    book = openpyxl.Workbook(write_only=True)
    _add_sheet(book, "segments", _SEGMENTS, _segments(found))
    _add_sheet(book, "time budgets", _BUDGETS, _budgets(found))
    _add_sheet(book, "failures", _FAILURES, _failures(found))
    book.save(out)


def _segments(found: Found) -> Iterable[list[Any]]:
    for video, segments in found.by_video():
        for each in segments:
            moments = [_naive(video.at(each.start_s)), _naive(video.at(each.end_s))]
            about = [each.label, each.score, each.track_id, found.model]
            yield [video.uri, each.start_s, each.end_s, *about, *moments]


def _budgets(found: Found) -> Iterable[list[Any]]:
    for video, segments in found.by_video():
        spans: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
        for each in segments:
            spans[-1 if each.track_id is None else each.track_id, each.label].append((each.start_s, each.end_s))
        for (track, label), of_label in sorted(spans.items()):
            seconds = _union_s(of_label)
            share = seconds / video.duration_s if video.duration_s else None
            yield [video.uri, None if track < 0 else track, label, seconds, share, len(of_label)]


def _union_s(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of the spans, in seconds."""
    total, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _failures(found: Found) -> Iterable[list[Any]]:
    columns = ["uri", "start_s", "end_s", "stage", "kind", "message", "attempts"]
    for row in found.lake.table("failures", columns).slice(0, _MOST_ROWS - 1).to_pylist():
        yield list(row.values())


def _naive(moment: datetime.datetime | None) -> datetime.datetime | None:
    """Return a time in UTC without a time zone, as Excel stores it."""
    return None if moment is None else moment.astimezone(datetime.UTC).replace(tzinfo=None)


def _add_sheet(book: Any, title: str, columns: Sequence[_Column], rows: Iterable[Sequence[Any]]) -> None:
    from openpyxl.cell import WriteOnlyCell
    from openpyxl.styles import Font
    from openpyxl.utils import get_column_letter

    sheet = book.create_sheet(title)
    sheet.freeze_panes = "A2"
    for number, (_, width, _) in enumerate(columns, start=1):
        sheet.column_dimensions[get_column_letter(number)].width = width
    headings = []
    for heading, _, _ in columns:
        cell = WriteOnlyCell(sheet, heading)
        cell.font = Font(bold=True)
        headings.append(cell)
    sheet.append(headings)

    def cell_of(value: Any, shown: str | None) -> Any:
        if isinstance(value, str):
            cell = WriteOnlyCell(sheet, cleaned(value)[:_MOST_CHARACTERS])
            # It stays a string even if it looks like a formula, or like an error value.
            cell.data_type = "s"
            cell.quotePrefix = value.startswith(("=", "+", "-", "@"))
            return cell
        cell = WriteOnlyCell(sheet, value)
        if shown is not None:
            cell.number_format = shown
        return cell

    for row in rows:
        sheet.append([cell_of(value, shown) for value, (_, _, shown) in zip(row, columns, strict=True)])
