"""Names of exported files, and texts that their formats can hold."""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

_NAME_BYTES = 240
# Characters that neither XML nor an Excel sheet can hold.
_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def paths_like_videos(out: Path, uris: Sequence[str], suffix: str) -> dict[str, Path]:
    """Return a path below a folder for each video, in the same subfolders as the videos: `x/a.mp4` and the suffix."""
    return {uri: out.joinpath(*parts) for uri, parts in _apart(_relative(uris), suffix).items()}


def paths_in_one_folder(out: Path, uris: Sequence[str], suffix: str) -> dict[str, Path]:
    """Return a path in one folder for each video, with the suffix in place of the video's own: `a.eaf`.

    If several videos have the same name, the names of their folders stand before it: `x__a.eaf`.
    """
    relative = {uri: [*parts[:-1], posixpath.splitext(parts[-1])[0]] for uri, parts in _relative(uris).items()}
    shared = Counter(parts[-1].casefold() for parts in relative.values())
    flat = {
        uri: [parts[-1] if shared[parts[-1].casefold()] == 1 else "__".join(parts)] for uri, parts in relative.items()
    }
    return {uri: out.joinpath(*parts) for uri, parts in _apart(flat, suffix).items()}


def cleaned(text: str) -> str:
    """Return a text without the control characters that XML and Excel can't hold. Each becomes U+FFFD."""
    return _UNWRITABLE.sub("\ufffd", text)


def one_line(text: str) -> str:
    """Return a cleaned text on one line, with single spaces between its words."""
    return " ".join(cleaned(text).split())


def lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """Return a lane for each span. No two spans of a lane overlap, and there are as few lanes as possible.

    Args:
        spans: Half-open spans, sorted by start.
    """
    ends: list[float] = []
    found = []
    for start, end in spans:
        lane = next((lane for lane, until in enumerate(ends) if until <= start), len(ends))
        ends[lane : lane + 1] = [end]
        found.append(lane)
    return found


def make_room(path: Path) -> Path:
    """Make the folder of a path, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _relative(uris: Sequence[str]) -> dict[str, list[str]]:
    """Return the path of each video, relative to the folder that all of them share."""
    plain = {uri: uri.rpartition("://")[2].lstrip("/") for uri in uris}
    root = posixpath.commonpath([posixpath.dirname(path) for path in plain.values()] or [""])
    return {uri: posixpath.relpath(path, root or ".").split("/") for uri, path in plain.items()}


def _apart(paths: dict[str, list[str]], suffix: str) -> dict[str, list[str]]:
    """Return the paths with a suffix. No two are the same, not even on file systems that ignore case."""
    taken: set[tuple[str, ...]] = set()
    found = {}
    for uri, parts in paths.items():
        named = [_file_name(part) for part in (*parts[:-1], f"{parts[-1]}{suffix}")]
        if _folded(named) in taken:
            own = hashlib.sha1(uri.encode()).hexdigest()[:12]
            named = [*named[:-1], _file_name(f"{parts[-1]}-{own}{suffix}")]
        taken.add(_folded(named))
        found[uri] = named
    return found


def _folded(parts: Iterable[str]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in parts)


def _file_name(part: str) -> str:
    """Return a part of a path as a valid file name that can't leave its folder."""
    name = re.sub(r"[\0\\]|^\.\.?$", "_", part)
    if len(name.encode()) <= _NAME_BYTES:
        return name
    short = name.encode()[: _NAME_BYTES - 40].decode(errors="ignore")
    return f"{short}-{hashlib.sha1(name.encode()).hexdigest()[:12]}{posixpath.splitext(name)[1][:8]}"
