"""Parse JSON and XML so that errors can be reported with their line."""

from __future__ import annotations

import bisect
import json
import re
from json import decoder, scanner
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from pipeline.bounded import LABELS_BYTES, read_bounded
from pipeline.errors import UsageError


class Located(dict[str, Any]):
    """A JSON object that knows its line."""

    line: int = 0


class _LocatingDecoder(json.JSONDecoder):
    def __init__(self, text: str) -> None:
        super().__init__()
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self.parse_object = self._located
        # The scanner in C ignores the decoder's `parse_object`.
        self.scan_once = scanner.py_make_scanner(self)  # type: ignore[attr-defined]

    def _located(self, text_and_end: tuple[str, int], *arguments: Any) -> tuple[Located, int]:
        values, end = decoder.JSONObject(text_and_end, *arguments)  # type: ignore[attr-defined]
        found = Located(values)
        found.line = bisect.bisect_left(self._line_ends, text_and_end[1]) + 1
        return found, end


def read_json(path: Path) -> Any:
    """Read a JSON file; its objects are `Located`.

    Raises:
        UsageError: It can't be read, or is not JSON.
    """
    try:
        content = read_bounded(path, LABELS_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: can't be read as JSON ({error})") from error
    return parse_json(path, content)


def parse_json(path: Path, content: bytes) -> Any:
    """Parse the content of a JSON file; its objects are `Located`.

    Raises:
        UsageError: It is not JSON.
    """
    try:
        text = content.decode("utf-8-sig")
        return _LocatingDecoder(text).decode(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: can't be read as JSON ({error})") from error


def read_xml(path: Path) -> tuple[Element, dict[Element, int]]:
    """Read an XML file; return its root and the line of each element.

    Raises:
        UsageError: It can't be read, is not XML, or declares entities, which could blow up or name other files.
    """
    builder, lines = TreeBuilder(), {}
    parser = expat.ParserCreate()

    def start(tag: str, attributes: dict[str, str]) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    def refuse(*_: object) -> None:
        raise UsageError(f"{path}, line {parser.CurrentLineNumber}: declares an entity, which no label file needs")

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(read_bounded(path, LABELS_BYTES), True)
        return builder.close(), lines
    except expat.ExpatError as error:
        raise UsageError(f"{path}, line {error.lineno}: not valid XML ({expat.ErrorString(error.code)})") from error
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error


def field_of(where: str, record: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    """Return a field of a JSON object.

    Raises:
        UsageError: It is missing, or of another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        named = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise UsageError(f"{where}: {name!r} should be a {named}, but is {value!r:.60}")
    return value


def span_of(where: str, value: Any, what: str) -> tuple[float, float]:
    """Return a span that is written as a list of two numbers.

    Raises:
        UsageError: It is anything else.
    """
    numbers = value if isinstance(value, list) else []
    if len(numbers) != 2 or any(isinstance(n, bool) or not isinstance(n, (int, float)) for n in numbers):
        raise UsageError(f"{where}: {what} should be [start, end] in seconds, but is {value!r:.60}")
    return float(numbers[0]), float(numbers[1])
