"""Read the rows of a table as people write it: CSV with any separator, in any usual encoding, or a sheet of Excel."""

from __future__ import annotations

import csv
import datetime
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

from pipeline.bounded import LABELS_BYTES, read_bounded
from pipeline.errors import UsageError

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# Maximum unpacked size of a workbook, as a multiple of the maximum size of a file of labels.
_MOST_UNPACKED = 2
# The heading must be within this many lines. Some tools write a preamble before it.
_PREAMBLE_LINES = 200
_MOST_COLUMNS = 1000


@dataclass(frozen=True)
class Row:
    """One row of a table, with its cells by heading."""

    where: str
    """File and line, for messages."""
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table with a heading."""

    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    separator: str
    """In words, for messages: `commas`."""


IsHeading = Callable[[list[str]], bool]
"""Tells whether cells are those of a heading."""


def read_table(path: Path, *headings: IsHeading) -> Table:
    """Read a table: separated by commas, semicolons or tabs, or the first sheet of a workbook that has the heading.

    Args:
        path: A text file in UTF-8, UTF-16 with a mark, or Windows' Latin-1; or `.xlsx`.
        headings: Tests for the heading, the most reliable first. Lines before it are skipped. None: the first line.

    Raises:
        UsageError: It can't be read, or has no such heading.
    """
    headings = headings or (any,)
    if path.suffix.lower() in (".xlsx", ".xlsm"):
        return _read_sheet(path, headings)
    text = decoded(path)
    for separator, name in _by_use(text).items():
        try:
            lines = list(_csv_lines(text, separator))
        except csv.Error as error:
            raise UsageError(f"{path}: can't be read as CSV ({error})") from error
        table = _table(str(path), lines, headings, name)
        if table is not None:
            return table
    first = next((line.strip() for line in text.splitlines() if line.strip()), "nothing")
    raise UsageError(f"{path}: has no heading that is known; its first line is {first[:120]!r}")


def decoded(path: Path) -> str:
    """Return the text of a file of labels.

    Raises:
        UsageError: It can't be read, or is not text.
    """
    try:
        content = read_bounded(path, LABELS_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror or error})") from error
    # A byte order mark of UTF-16 counts only if a zero byte follows, as in most text in UTF-16.
    has_mark = content[:2] in (b"\xff\xfe", b"\xfe\xff") and b"\0" in content[2:4]
    for encoding in ("utf-16" if has_mark else "utf-8-sig", "cp1252", "latin-1"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text or "\ufeff" in text:
            break
        return text
    raise UsageError(f"{path}: can't be read as CSV (it is no text)")


def _by_use(text: str) -> dict[str, str]:
    """Return the separators. The one that the first lines use most comes first."""
    start = "\n".join(text.splitlines()[:_PREAMBLE_LINES])
    return dict(sorted(_SEPARATORS.items(), key=lambda item: -_least_in_a_line(start, item[0])))


def _least_in_a_line(text: str, separator: str) -> int:
    # Commas in numbers or labels are not in the heading, so the first line is more reliable than all lines.
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first.count(separator) * 1000 + text.count(separator)


def _csv_lines(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for cells in reader:
        yield reader.line_num, [cell.strip() for cell in cells]


def _table(
    source: str, lines: list[tuple[int, list[str]]], headings: Sequence[IsHeading], separator: str
) -> Table | None:
    for is_heading in headings:
        for index, (_, names) in enumerate(lines[:_PREAMBLE_LINES]):
            if is_heading(names):
                rows = tuple(
                    Row(f"{source}, line {number}", dict(zip(names, cells, strict=False)))
                    for number, cells in lines[index + 1 :]
                    if any(cells)
                )
                return Table(tuple(names), rows, separator)
    return None


def _read_sheet(path: Path, headings: Sequence[IsHeading]) -> Table:
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        content = read_bounded(path, LABELS_BYTES)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_UNPACKED * LABELS_BYTES:
                raise UsageError(f"{path}: unpacks to more than {_MOST_UNPACKED * LABELS_BYTES >> 20} MiB")
        book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        formulas = openpyxl.load_workbook(io.BytesIO(content), read_only=True)
        for number, sheet in enumerate(book.worksheets):
            title = f"{path}, sheet {sheet.title!r}"
            table = _table(
                title, list(_lines(title, sheet, formulas.worksheets[number])), headings, title[len(f"{path}, ") :]
            )
            if table is not None:
                return table
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror or error})") from error
    except (
        # A damaged workbook can raise any of these.
        *(
            zipfile.BadZipFile,
            zlib.error,
            InvalidFileException,
            ParseError,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ),
        *(KeyError, IndexError, ValueError, TypeError, AttributeError, AssertionError),
    ) as error:
        raise UsageError(f"{path}: can't be read as a workbook of Excel ({error}); save it as CSV") from error
    names = ", ".join(sheet.title for sheet in book.worksheets)
    raise UsageError(f"{path}: none of its sheets ({names}) has a heading that is known")


def _lines(title: str, sheet: Any, formulas: Any) -> Iterator[tuple[int, list[str]]]:
    for each in (sheet, formulas):
        each.reset_dimensions()  # stored ones may count a million rows and columns that do not exist
    for number, (cells, written) in enumerate(zip(sheet.iter_rows(), formulas.iter_rows(), strict=True), start=1):
        for cell, formula in zip(cells, written, strict=False):
            if cell.value is None and formula.data_type == "f":
                raise UsageError(
                    f"{title}, line {number}: {formula.coordinate} is a formula without its value; open the workbook "
                    "in a spreadsheet program and save it"
                )
        texts = [_as_text(cell) for cell in cells[:_MOST_COLUMNS]]
        while texts and not texts[-1]:
            texts.pop()
        yield number, texts


def _as_text(cell: Any) -> str:
    """Return a cell as it is shown: a time without seconds, such as `0:05`, stays as somebody typed it."""
    value = cell.value
    if isinstance(value, datetime.datetime) and value < datetime.datetime(1900, 3, 1):
        # More than a day in a time format: Excel counts days from the end of 1899.
        value = value - datetime.datetime(1899, 12, 31)
    if isinstance(value, datetime.time):
        value = datetime.timedelta(
            hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
        )
    if isinstance(value, datetime.timedelta):
        ms = round(value.total_seconds() * 1000)
        hours, minutes = divmod(ms // 60_000, 60)
        if "s" not in (cell.number_format or "s").lower():
            return f"{hours}:{minutes:02d}"
        return f"{hours:02d}:{minutes:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"
    return "" if value is None else str(value).strip()
