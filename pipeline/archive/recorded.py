"""Find when and by which camera a video was recorded: from a manifest, a container or a file's name."""

from __future__ import annotations

import datetime
import re
from functools import lru_cache
from typing import Literal, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipeline.errors import UsageError

Source = Literal["manifest", "container", "name"]
_YEARS = range(1990, 2101)
# 2024-05-03_14-22-10, 20240503T142210Z, NVR_ch2_main_20240503142210_..., VID_20240503_142210123, zone or none.
_DATE_AND_TIME = re.compile(
    r"(?<!\d)(?P<Y>\d{4})[-_.]?(?P<m>\d\d)[-_.]?(?P<d>\d\d)[T _-]*(?P<H>\d\d)[-_.:h]?(?P<M>\d\d)[-_.:m]?(?P<S>\d\d)"
    r"[.,]?(?P<f>\d{3}|\d{6})?(?P<z>Z|[+-](?:0\d|1[0-4]):?(?:00|15|30|45))?(?!\d)"
)
# The last digits of a time are not a suffix, but `.264` is.
_SUFFIX = re.compile(r"\.(?:26[45]|(?=\w*[A-Za-z])\w{2,5})$")
_EPOCH = re.compile(r"(?<![\d.])(?P<s>1\d{9}(?:\d{3})?)(?!\d)")
_DATED = re.compile(r"[\d\W_]+")
_DIRECTIVES = {
    "Y": r"(?P<Y>\d{4})", "m": r"(?P<m>\d\d?)", "d": r"(?P<d>\d\d?)", "H": r"(?P<H>\d\d?)", "M": r"(?P<M>\d\d?)",
    "S": r"(?P<S>\d\d?)", "f": r"(?P<f>\d{1,6})", "s": r"(?P<s>\d{10}(?:\d{3})?)", "z": r"(?P<z>Z|[+-]\d\d:?\d\d)",
    "%": "%",
}  # fmt: skip


class Recorded(NamedTuple):
    """When a video's first frame was recorded, in UTC, and the source of that time."""

    at: datetime.datetime
    source: Source


def recorded(
    uri: str,
    from_manifest: str | None,
    from_container: datetime.datetime | None,
    name_time: str | None = None,
    time_zone: str = "UTC",
) -> Recorded | None:
    """Return when a video was recorded: by the manifest, else by the pattern, the container, or the file's name.

    Args:
        uri: The video.
        from_manifest: The time in the manifest, in ISO 8601.
        from_container: The container's `creation_time`; a time more than a day in the future is ignored.
        name_time: The format of the time in the path, as for `name_pattern`.
        time_zone: Time zone of times without one. If a clock shows an hour twice, the first one is meant.
    """
    if from_manifest is not None:
        return Recorded(_in_utc(datetime.datetime.fromisoformat(from_manifest), time_zone), "manifest")
    if name_time is not None and (found := _time_in(name_pattern(name_time), uri, time_zone)):
        return Recorded(found, "name")
    if from_container is not None and from_container.year in _YEARS:
        at = _in_utc(from_container, time_zone)
        if at < datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1):
            return Recorded(at, "container")
    name = _SUFFIX.sub("", uri.rpartition("/")[2])
    for pattern in (_DATE_AND_TIME, _EPOCH):
        if found := _time_in(pattern, name, time_zone):
            return Recorded(found, "name")
    return None


def check_options(name_time: str | None, time_zone: str, camera: str | None) -> None:
    """Check the options that define time and camera.

    Raises:
        UsageError: One of them can't be used.
    """
    if name_time is not None:
        name_pattern(name_time)
    if camera is not None:
        camera_pattern(camera)
    zone(time_zone)


@lru_cache
def name_pattern(text: str) -> re.Pattern[str]:
    """Return the pattern of a time in a path: `%Y %m %d %H %M %S %f %z`, or `%s` for epoch seconds; `*` is anything.

    Example:
        >>> name_pattern("*_%d.%m.%Y_%Hh%M*").search("cam_03.05.2024_14h22.mp4")["Y"]
        '2024'

    Raises:
        UsageError: A directive is unknown or occurs twice, or the pattern has no date.
    """
    parts = re.split(r"(%.?|\*)", text)
    wanted = [part[1:] for part in parts if part.startswith("%") and part != "%%"]
    unknown = sorted(f"%{name}" for name in wanted if name not in _DIRECTIVES)
    if unknown:
        raise UsageError(f"name_time = {text!r}: {unknown[0]} is not one of {' '.join(f'%{n}' for n in _DIRECTIVES)}")
    if len(wanted) != len(set(wanted)):
        raise UsageError(f"name_time = {text!r}: a directive stands there twice; write * for what does not count")
    if "s" not in wanted and not {"Y", "m", "d"} <= set(wanted):
        raise UsageError(f"name_time = {text!r}: tells no date; it needs %Y, %m and %d, or %s")
    return re.compile(
        "".join(
            _DIRECTIVES[part[1:]] if part.startswith("%") else ".*?" if part == "*" else re.escape(part)
            for part in parts
        )
    )


def zone(name: str) -> datetime.tzinfo:
    """Return a time zone by its IANA name.

    Raises:
        UsageError: No time zone has that name.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"time_zone = {name!r} is no IANA time zone, such as Europe/Zurich or UTC") from error


@lru_cache
def camera_pattern(text: str) -> re.Pattern[str]:
    """Return the pattern that finds a camera's name in a path: `*` is anything within a folder, `{camera}` the name.

    Example:
        >>> camera_pattern("*/NVR_{camera}_main_*").search("/v/NVR_ch2_main_2024.mp4")["camera"]
        'ch2'

    Raises:
        UsageError: The pattern does not contain `{camera}` exactly once.
    """
    if text.count("{camera}") != 1:
        raise UsageError(f"camera = {text!r}: {{camera}} has to stand in it, once, for the part that names the camera")
    wild = {"*": "[^/]*", "{camera}": "(?P<camera>[^/]+?)"}
    parts = re.split(r"(\*|\{camera\})", text)
    return re.compile("".join(wild.get(part, re.escape(part)) for part in parts) + ("" if text.endswith("*") else "$"))


def camera_of(uri: str, pattern: str | None) -> str | None:
    """Return which camera recorded a video: the part of its path that a pattern finds, or else its folder's name.

    Folders whose names are only dates and numbers are skipped.
    """
    path = uri.partition("://")[2] or uri
    if pattern is None:
        folders = path.split("/")[:-1]
        # Recorders put dates and hours between the camera and its files.
        return next((name for name in reversed(folders) if name and not _DATED.fullmatch(name)), None)
    match = camera_pattern(pattern).search(path)
    return match["camera"] if match else None


def manifest_time(text: object) -> datetime.datetime | None:
    """Return a manifest's `recorded_at`: ISO 8601, epoch seconds, or a timestamp; None if it is empty.

    Raises:
        ValueError: The value is none of these.
    """
    if text is None or text == "":
        return None
    if isinstance(text, datetime.datetime):
        return text
    try:
        # This is tried first, because 20240503 is a date.
        time = datetime.datetime.fromisoformat(str(text).strip())
    except ValueError:
        time = datetime.datetime.fromtimestamp(float(str(text)), datetime.UTC)
    if time.year not in _YEARS:
        raise ValueError(f"the year {time.year}")
    return time


def _time_in(pattern: re.Pattern[str], text: str, time_zone: str) -> datetime.datetime | None:
    """Return the first time in a text that matches a pattern and is plausible."""
    for match in pattern.finditer(text):
        parts = match.groupdict()
        try:
            if parts.get("s"):
                return datetime.datetime.fromtimestamp(int(parts["s"][:10]), datetime.UTC) + datetime.timedelta(
                    milliseconds=int(parts["s"][10:] or 0)
                )
            hour, minute, second = (int(parts.get(name) or 0) for name in ("H", "M", "S"))
            found = datetime.datetime(int(parts["Y"]), int(parts["m"]), int(parts["d"]), hour, minute, second)
        except (ValueError, OverflowError):
            continue
        if found.year not in _YEARS:
            continue
        found += datetime.timedelta(microseconds=int((parts.get("f") or "0").ljust(6, "0")))
        if parts.get("z"):
            offset = datetime.datetime.strptime(parts["z"], "%z").tzinfo
            return found.replace(tzinfo=offset).astimezone(datetime.UTC)
        return _in_utc(found, time_zone)
    return None


def _in_utc(time: datetime.datetime, time_zone: str) -> datetime.datetime:
    return (time if time.tzinfo else time.replace(tzinfo=zone(time_zone))).astimezone(datetime.UTC)
