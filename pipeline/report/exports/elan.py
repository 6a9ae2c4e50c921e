"""Export to ELAN's `.eaf`: a tier for each person, with an annotation for each segment."""

from __future__ import annotations

import datetime
import mimetypes
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from pipeline.report.exports.found import Found, Segment, Video
from pipeline.report.exports.names import cleaned, lanes, make_room, one_line, paths_in_one_folder

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
# ELAN's kinds of links between tiers. ELAN writes them into every file.
_STEREOTYPES = {
    "Time_Subdivision": "Time subdivision of parent annotation's time interval, no time gaps allowed within",
    "Symbolic_Subdivision": "Symbolic subdivision of a parent annotation; those of one parent are ordered",
    "Symbolic_Association": "1-1 association with a parent annotation",
    "Included_In": "Time alignable annotations within the parent annotation's time interval, gaps are allowed",
}


def write_elan(out: Path, found: Found) -> None:
    """Write a file for every video, all in one folder, in EAF 3.0.

    Times are whole milliseconds. The shortest annotation has one millisecond. Annotations of an ELAN tier can't
    overlap: a segment that overlaps another one of the same person is on a further tier, `person 7 (2)`.
    """
    paths = paths_in_one_folder(out, [video.name for video in found.videos], ".eaf")
    for video, segments in found.by_video():
        path = make_room(paths[video.name])
        root = _document(video, path, len(segments))
        _add_tiers(root, segments, found.model)
        _add_types(root)
        indent(root)
        ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _document(video: Video, path: Path, n_annotations: int) -> Element:
    root = Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": "actionlake",
            "DATE": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "FORMAT": "3.0",
            "VERSION": "3.0",
            "xmlns:xsi": _XSI,
            "xsi:noNamespaceSchemaLocation": _SCHEMA,
        },
    )
    header = SubElement(root, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    media = SubElement(header, "MEDIA_DESCRIPTOR")
    is_local = "://" not in video.uri
    # A file name that is not valid text is already a URL in the lake.
    is_url = video.uri.startswith("file://")
    media.set("MEDIA_URL", video.uri if is_url else _url(f"file://{video.uri}" if is_local else video.uri))
    media.set("MIME_TYPE", mimetypes.guess_type(video.uri)[0] or "video/mp4")
    if is_local:
        relative = Path(os.path.relpath(video.uri, path.parent.resolve())).as_posix()
        media.set("RELATIVE_MEDIA_URL", _url(relative if relative.startswith(".") else f"./{relative}"))
    # ELAN numbers new annotations from this number on.
    SubElement(header, "PROPERTY", NAME="lastUsedAnnotationId").text = str(n_annotations)
    return root


def _add_tiers(root: Element, segments: Sequence[Segment], model: str) -> None:
    spans = []
    for segment in segments:
        start_ms = round(segment.start_s * 1000)
        spans.append((start_ms, max(start_ms + 1, round(segment.end_s * 1000)), segment))
    # Time slots are sorted by time. Each annotation has two of its own.
    moments = sorted(
        (time_ms, side, number) for number, span in enumerate(spans) for side, time_ms in enumerate(span[:2])
    )
    slots = {(number, side): f"ts{slot}" for slot, (_, side, number) in enumerate(moments, start=1)}
    order = SubElement(root, "TIME_ORDER")
    for slot, (time_ms, _, _) in enumerate(moments, start=1):
        SubElement(order, "TIME_SLOT", TIME_SLOT_ID=f"ts{slot}", TIME_VALUE=str(time_ms))
    of_person: dict[str, list[int]] = defaultdict(list)
    for number, (_, _, segment) in enumerate(spans):
        of_person[segment.who or "picture"].append(number)
    for who, numbers in of_person.items():
        tiers: dict[int, Element] = {}
        for number, lane in zip(numbers, lanes([spans[number][:2] for number in numbers]), strict=True):
            if lane not in tiers:
                tiers[lane] = SubElement(
                    root,
                    "TIER",
                    ANNOTATOR=cleaned(model),
                    LINGUISTIC_TYPE_REF="activity",
                    PARTICIPANT=who,
                    TIER_ID=f"{who} ({lane + 1})" if lane else who,
                )
            aligned = SubElement(
                SubElement(tiers[lane], "ANNOTATION"),
                "ALIGNABLE_ANNOTATION",
                ANNOTATION_ID=f"a{number + 1}",
                TIME_SLOT_REF1=slots[number, 0],
                TIME_SLOT_REF2=slots[number, 1],
            )
            SubElement(aligned, "ANNOTATION_VALUE").text = one_line(spans[number][2].label)


def _add_types(root: Element) -> None:
    SubElement(
        root, "LINGUISTIC_TYPE", GRAPHIC_REFERENCES="false", LINGUISTIC_TYPE_ID="activity", TIME_ALIGNABLE="true"
    )
    for name, description in _STEREOTYPES.items():
        SubElement(root, "CONSTRAINT", DESCRIPTION=description, STEREOTYPE=name)


def _url(text: str) -> str:
    """Return a URL. ELAN shows it as it is, so only characters that would change its meaning are escaped."""
    return re.sub(r"[%#?\x00-\x1f\x7f]", lambda match: quote(match.group()), text)
