"""Options in TOML files: a table for each group."""

from __future__ import annotations

import difflib
import json
import logging
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.bounded import OPTIONS_BYTES, read_bounded
from pipeline.errors import UsageError

log = logging.getLogger(__name__)


def read_options(path: str | Path, known: Mapping[str, str]) -> dict[str, Any]:
    """Read the options of a TOML file.

    An option stands in the table of its group. An option outside of all tables, as in earlier versions, is read, too,
    and a warning says where it belongs.

    Args:
        path: The file.
        known: The group of each existing option.

    Raises:
        UsageError: The file can't be read, or an option is unknown, or stands in the wrong table.
    """
    try:
        tables = tomllib.loads(read_bounded(path, OPTIONS_BYTES).decode())
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not valid TOML ({error})") from error
    values: dict[str, Any] = {}
    outside = []
    for name, value in tables.items():
        # `labels` is the name of both a table and an option.
        if isinstance(value, dict) and name in known.values():
            values |= _of_table(path, name, value, known)
        elif name in known:
            outside.append(name)
            values[name] = value
        else:
            raise unknown_option(str(path), name, known)
    if outside:
        homes = "; ".join(f"{name} into [{known[name]}]" for name in outside)
        log.warning("%s: options stand in tables now: move %s", path, homes)
    return values


def _of_table(path: str | Path, group: str, table: dict[str, Any], known: Mapping[str, str]) -> dict[str, Any]:
    for name in table:
        if name not in known:
            raise unknown_option(str(path), name, known)
        if known[name] != group:
            raise UsageError(f"{path}: {name} stands in [{group}]; it belongs into [{known[name]}]")
    return table


def unknown_option(where: str, name: str, known: Mapping[str, str]) -> UsageError:
    """Return the error for an option that does not exist, with a hint to those that do."""
    near = difflib.get_close_matches(name, [*known.values(), *known], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; `actionlake config` prints all"
    return UsageError(f"{where}: unknown option {name!r}{hint}")


def to_toml(values: Mapping[str, Any], groups: Mapping[str, str], said: Mapping[str, str] | None = None) -> str:
    """Return options as a TOML file, in tables.

    Args:
        values: The options. One that is None stands as a comment.
        groups: The group of each option.
        said: The comment above each option, which tells what the option is.
    """
    return "\n".join(_lines(values, groups, said or {})) + "\n"


def _lines(values: Mapping[str, Any], groups: Mapping[str, str], said: Mapping[str, str]) -> Iterator[str]:
    for group in dict.fromkeys(groups.values()):
        yield f"[{group}]"
        for name, value in values.items():
            if groups[name] == group:
                if name in said:
                    yield from textwrap.wrap(said[name], 118, initial_indent="# ", subsequent_indent="# ")
                # JSON writes numbers, words and lists of words as TOML does.
                yield f"# {name} =" if value is None else f"{name} = {json.dumps(value)}"
        yield ""
