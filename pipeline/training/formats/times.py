"""Times as people write them: seconds, with a decimal point or comma, `mm:ss`, `hh:mm:ss.mmm`, `hh:mm:ss:ff`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.errors import UsageError

# Programs write very small numbers with an exponent.
_SECONDS = re.compile(r"(\d+(?:[.,]\d*)?(?:[eE]-\d+)?|[.,]\d+)(?:\s*s)?$")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,3}):(\d{1,2}(?:[.,]\d*)?)$")
_FRAMES = re.compile(r"(\d+):(\d{1,2}):(\d{1,2})[:;](\d{1,3})$")


def seconds_of(where: str, name: str, text: str, fps: float | None = None) -> float | None:
    """Return a time in seconds; None for an empty text.

    Args:
        where: File and line, for messages.
        name: Name of the column, for messages.
        text: The text of the cell.
        fps: Frames per second, for `hh:mm:ss:ff`.

    Raises:
        UsageError: It is not a time, or counts frames without a rate.
    """
    text = text.strip()
    if not text:
        return None
    unclear = f"{where}: {name} = {text!r} is not a time in seconds, mm:ss or hh:mm:ss"
    if match := _SECONDS.match(text):
        return float(match.group(1).replace(",", "."))
    if match := _CLOCK.match(text):
        hours, minutes, seconds = match.groups()
        # Ninety minutes may be written as 90:00, but not after hours.
        if float(seconds.replace(",", ".")) >= 60 or (hours and int(minutes) >= 60):
            raise UsageError(unclear)
        return int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
    if match := _FRAMES.match(text):
        if not fps:
            raise UsageError(f"{where}: {name} = {text!r} counts frames; add a column fps with their rate")
        hours, minutes, whole, frame = map(int, match.groups())
        if minutes >= 60 or whole >= 60:
            raise UsageError(unclear)
        if frame >= round(fps):
            raise UsageError(f"{where}: {name} = {text!r} counts {frame} frames, but a second has {fps:g}")
        # At 29.97 frames/s a timecode counts 30 frames in each of its seconds.
        return ((hours * 3600 + minutes * 60 + whole) * round(fps) + frame) / fps
    raise UsageError(unclear)


def spelling_of(texts: Iterable[str]) -> str:
    """Return how times are written, in words: `seconds`, `seconds with a decimal comma`, `hh:mm:ss`, ..."""
    found = []
    for text in filter(None, (each.strip() for each in texts)):
        if _SECONDS.match(text):
            found.append("seconds with a decimal comma" if "," in text else "seconds")
        elif match := _CLOCK.match(text):
            found.append("hh:mm:ss" if match.group(1) else "mm:ss")
        else:
            found.append("hh:mm:ss:ff")
    names = [name for name in dict.fromkeys(found) if name != "seconds" or "seconds with a decimal comma" not in found]
    return " and ".join(names) or "none, so whole videos"
