"""ELAN's `.eaf`: tiers of annotations between time slots, in milliseconds."""

from __future__ import annotations

import posixpath
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree.ElementTree import Element

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats.located import read_xml


def read(path: Path) -> list[Annotation]:
    """Read one file, or all of a folder. Every text on a tier with its own times is a label."""
    files = sorted(path.glob("*.eaf")) if path.is_dir() else [path]
    return [annotation for file in files for annotation in _read_file(file)]


def _read_file(path: Path) -> list[Annotation]:
    root, lines = read_xml(path)
    if root.tag != "ANNOTATION_DOCUMENT":
        raise UsageError(f"{path}: its root is <{root.tag}>, not <ANNOTATION_DOCUMENT> as in files of ELAN")
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    url = media.get("RELATIVE_MEDIA_URL") or media.get("MEDIA_URL") if media is not None else None
    # If no medium is named, the video has the name of the file.
    video = posixpath.basename(unquote(urlsplit(url).path)) if url else path.stem
    origin_ms = float(media.get("TIME_ORIGIN") or 0) if media is not None else 0.0
    slots_ms = _slots(path, root, lines)
    annotations: dict[Annotation, None] = {}
    for element in root.iterfind("TIER/ANNOTATION/ALIGNABLE_ANNOTATION"):
        where = f"{path}, line {lines[element]}"
        names = element.get("TIME_SLOT_REF1", ""), element.get("TIME_SLOT_REF2", "")
        missing = [name for name in names if name not in slots_ms]
        if missing:
            raise UsageError(f"{where}: there is no time slot {missing[0]!r}")
        # The time origin is where the timeline starts in the medium. Slots count from there.
        start_s, end_s = ((slots_ms[name] + origin_ms) / 1000 for name in names)
        label = " ".join((element.findtext("ANNOTATION_VALUE") or "").split())
        if label:
            # The same annotation may be on two tiers, one for each person.
            annotations.setdefault(Annotation(video, label, start_s, end_s, where=where))
    return list(annotations)


def _slots(path: Path, root: Element, lines: dict[Element, int]) -> dict[str, float]:
    """Return the time of each slot. Slots without one are spread evenly between their neighbours, as in ELAN."""
    slots = list(root.iterfind("TIME_ORDER/TIME_SLOT"))
    times: list[float | None] = []
    for slot in slots:
        value = slot.get("TIME_VALUE")
        try:
            times.append(None if value is None else float(value))
        except ValueError:
            raise UsageError(f"{path}, line {lines[slot]}: TIME_VALUE {value!r} is no number") from None
    known = [index for index, time in enumerate(times) if time is not None]
    for index, time in enumerate(times):
        if time is None:
            before = max((i for i in known if i < index), default=None)
            after = min((i for i in known if i > index), default=None)
            if before is None or after is None:
                raise UsageError(f"{path}, line {lines[slots[index]]}: this time slot lies between no two times")
            low, high = times[before], times[after]
            assert low is not None
            assert high is not None
            times[index] = low + (high - low) * (index - before) / (after - before)
    return {slot.get("TIME_SLOT_ID", ""): float(time or 0.0) for slot, time in zip(slots, times, strict=True)}
