"""ELAN, CVAT and Label Studio: what a person does, and where it is meanwhile."""

from __future__ import annotations

import itertools
import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pipeline.lake.query import LakeReader
from pipeline.report.exports import export_segments
from tests.report.exports.lake import (
    EMPTY,
    REMOTE,
    SECONDS,
    SEGMENTS,
    A,
    B,
    C,
    expected,
    lake,
    make_lake,
    read,
    segment,
)

__all__ = ["lake"]
NAMES = {A: "v/x/a.mp4", B: "v/y/a.mp4", C: "v/y/c d#1.mp4", REMOTE: "bucket/e.mp4", EMPTY: "v/y/empty.mp4"}


def basenames(found: list[tuple[str, str, float, float]]) -> list[tuple[str, str, float, float]]:
    """Return spans with the names of their videos, as readers of formats that name no folders give them."""
    return sorted({(video.rpartition("/")[2], *rest) for video, *rest in found})


def test_elan_is_read_as_the_same(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "out", "elan")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "c d#1.eaf", "e.eaf", "empty.eaf", "v__x__a.eaf", "v__y__a.eaf",
    ]  # fmt: skip
    assert read(tmp_path / "out") == basenames(expected())


def test_structure_of_elan(tmp_path: Path) -> None:
    hard = [
        segment(A, "walk", 0.0, 2.0, 7),
        segment(A, "walk", 1.0, 3.0, 7),
        segment(A, "wave", 2.0, 2.0, 7),
        segment(A, "sit", 2.0, 2.0004, 7),
        segment(A, "a\x01\nb", 3.0, 4.0),
    ]
    export_segments(make_lake(tmp_path / "lake", hard), tmp_path / "out", "elan")
    root = ElementTree.parse(tmp_path / "out" / "v__x__a.eaf").getroot()
    assert (root.tag, root.get("FORMAT"), root.get("VERSION")) == ("ANNOTATION_DOCUMENT", "3.0", "3.0")
    # The order of the schema.
    order = ["HEADER", "TIME_ORDER", "TIER", "LINGUISTIC_TYPE", "CONSTRAINT"]
    assert list(dict.fromkeys(child.tag for child in root)) == order
    media = root.find("HEADER/MEDIA_DESCRIPTOR")
    assert media is not None
    assert media.get("MEDIA_URL") == f"file://{A}"
    assert root.findtext("HEADER/PROPERTY[@NAME='lastUsedAnnotationId']") == str(len(hard))
    assert (tmp_path / "out" / (media.get("RELATIVE_MEDIA_URL") or "")).resolve() == Path(A)
    slots = {slot.get("TIME_SLOT_ID"): int(slot.get("TIME_VALUE", "")) for slot in root.iter("TIME_SLOT")}
    assert list(slots.values()) == sorted(slots.values())
    types = {kind.get("LINGUISTIC_TYPE_ID") for kind in root.iter("LINGUISTIC_TYPE")}
    tiers = {}
    ids = []
    for tier in root.iter("TIER"):
        assert tier.get("LINGUISTIC_TYPE_REF") in types
        spans = []
        for each in tier.iter("ALIGNABLE_ANNOTATION"):
            ids.append(each.get("ANNOTATION_ID"))
            start, end = slots[each.get("TIME_SLOT_REF1")], slots[each.get("TIME_SLOT_REF2")]
            spans.append((start, end, each.findtext("ANNOTATION_VALUE")))
        assert all(start < end for start, end, _ in spans)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
        tiers[tier.get("TIER_ID")] = spans
    assert len(set(ids)) == len(ids) == len(hard)
    assert tiers == {
        "person 7": [(0, 2000, "walk"), (2000, 2001, "wave")],
        "person 7 (2)": [(1000, 3000, "walk")],
        "person 7 (3)": [(2000, 2001, "sit")],
        "picture": [(3000, 4000, "a\ufffd b")],
    }


def test_elan_names_what_is_remote_and_what_needs_escapes(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "out", "elan")
    for file, url in (("e.eaf", "s3://bucket/e.mp4"), ("c d#1.eaf", "file:///v/y/c d%231.mp4")):
        media = ElementTree.parse(tmp_path / "out" / file).getroot().find("HEADER/MEDIA_DESCRIPTOR")
        assert media is not None
        assert media.get("MEDIA_URL") == url
        assert ("RELATIVE_MEDIA_URL" in media.attrib) == url.startswith("file")


def test_elan_takes_a_name_that_is_a_url_as_it_is(tmp_path: Path) -> None:
    uri = "file:///v/not%20%FF%20text.mp4"
    lake = make_lake(tmp_path / "lake", [segment(uri, "walk", 0.0, 1.0, video_id=A)], uri={A: uri})
    export_segments(lake, tmp_path / "out", "elan", where="true")
    media = ElementTree.parse(tmp_path / "out" / "not%20%FF%20text.eaf").getroot().find("HEADER/MEDIA_DESCRIPTOR")
    assert media is not None
    assert media.get("MEDIA_URL") == uri


def cvat_tracks(path: Path) -> list[tuple[dict[str, str], list[dict[str, str]]]]:
    """Return each track with its boxes; `activity` is one of their attributes."""
    found = []
    for track in ElementTree.parse(path).getroot().iter("track"):
        boxes = [{**box.attrib, "activity": box.findtext("attribute") or ""} for box in track]
        # What CVAT's importer takes for granted.
        frames = [int(box["frame"]) for box in boxes]
        assert frames == sorted(set(frames))
        assert boxes[0]["outside"] == "0"
        assert {box["keyframe"] for box in boxes} == {"1"}
        found.append((track.attrib, boxes))
    return found


def test_cvat_is_read_as_the_same(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "out", "cvat")
    written = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.xml"))
    assert written == sorted(f"{name}.xml" for name in NAMES.values())
    for uri in (A, B, C, REMOTE):
        of_video = [each for each in SEGMENTS if each["uri"] == uri]
        assert read(tmp_path / "out" / f"{NAMES[uri]}.xml") == expected(of_video)


def test_tracks_of_cvat(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "out", "cvat")
    (person, boxes), (dog, of_dog) = cvat_tracks(tmp_path / "out" / "v/x/a.mp4.xml")
    assert (person["label"], dog["label"]) == ("person", "dog")
    # All boxes, until the last frame of the video: no frame is behind it to leave at.
    assert [int(box["frame"]) for box in boxes] == list(range(0, 40, 2))
    assert [box["activity"] for box in boxes] == ["walk"] * 10 + ["fall"] * 10
    assert [float(boxes[3][side]) for side in ("xtl", "ytl", "xbr", "ybr")] == [30.0, 20.0, 70.0, 100.0]
    assert {box["outside"] for box in boxes} == {"0"}
    assert [(box["frame"], box["outside"]) for box in of_dog[-2:]] == [("18", "0"), ("20", "1")]
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [label["name"] for label in labels] == ["dog", "person", "picture"]
    assert labels[0]["attributes"][0]["mutable"]
    values = labels[0]["attributes"][0]["values"]
    assert values[0] == "__undefined__"
    assert {each["label"] for each in SEGMENTS} < {*values}


def test_cvat_keeps_what_overlaps_apart_and_shows_who_does_nothing(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "out", "cvat")
    (_, picture), (sits, of_sitting), (reads, of_reading) = cvat_tracks(tmp_path / "out" / "v/y/a.mp4.xml")
    assert [(box["frame"], box["outside"]) for box in picture] == [("50", "0")]
    assert (float(picture[0]["xbr"]), float(picture[0]["ybr"])) == (640.0, 480.0)
    assert sits["group_id"] == reads["group_id"]
    activities = {int(box["frame"]): box["activity"] for box in of_sitting if box["outside"] == "0"}
    assert [activities[frame] for frame in (0, 8, 10, 38, 40, 48)] == [
        "__undefined__", "__undefined__", "sit", "sit", "__undefined__", "__undefined__",
    ]  # fmt: skip
    assert [(box["frame"], box["outside"]) for box in of_sitting[-1:]] == [("49", "1")]
    assert [int(box["frame"]) for box in of_reading if box["outside"] == "0"] == [20, 22, 24, 26, 28]
    assert (of_reading[-1]["frame"], of_reading[-1]["outside"]) == ("30", "1")


def test_cvat_places_a_box_between_those_that_were_seen(tmp_path: Path) -> None:
    changes = [segment(A, "walk", 0.0, 0.5, 7), segment(A, "fall", 0.5, 1.0, 7), segment(A, "a\x02b", 3.95, 3.95, 7)]
    export_segments(make_lake(tmp_path / "lake", changes), tmp_path / "out", "cvat")
    (_, boxes), _ = cvat_tracks(tmp_path / "out" / "v/x/a.mp4.xml")
    at = {int(box["frame"]): box for box in boxes}
    assert (float(at[5]["xtl"]), at[5]["activity"]) == (25.0, "fall")
    # A span of no length is a frame, the last at most.
    assert (at[39]["activity"], float(at[39]["xtl"])) == ("a\ufffdb", 190.0)


def test_cvat_without_boxes_takes_the_segments_own(tmp_path: Path) -> None:
    only = [
        segment(C, "walk", 1.0, 2.0, 5, x1=1.0, y1=2.0, x2=3.0, y2=4.0),
        segment(C, "sit", 4.0, 5.0, 5, x1=5.0, y1=6.0, x2=7.0, y2=8.0),
    ]
    export_segments(make_lake(tmp_path / "lake", only), tmp_path / "out", "cvat")
    path = tmp_path / "out" / f"{NAMES[C]}.xml"
    assert read(path) == expected(only)
    ((_, boxes),) = cvat_tracks(path)
    seen = [(box["frame"], float(box["xtl"]), float(box["ybr"])) for box in boxes if box["outside"] == "0"]
    assert seen == [("10", 1.0, 4.0), ("40", 5.0, 8.0)]
    # It stays where it is until it leaves.
    assert [(box["frame"], float(box["xtl"])) for box in boxes if box["outside"] == "1"] == [("20", 1.0), ("50", 5.0)]


def label_studio_tasks(path: Path) -> dict[str, dict[str, Any]]:
    return {task["data"]["video"]: task for task in json.loads(path.read_text())}


def test_label_studio_is_read_as_the_same_once_it_is_accepted(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "t.json", "label-studio")
    tasks = list(label_studio_tasks(tmp_path / "t.json").values())
    assert [task["data"]["video"] for task in tasks] == sorted(SECONDS)
    for task in tasks:
        # What Label Studio does when somebody submits a prediction.
        task["annotations"] = [{"result": task["predictions"][0]["result"]}]
    (tmp_path / "accepted.json").write_text(json.dumps(tasks))
    # The reader takes `#` for the start of a fragment, as in the URLs that Label Studio serves.
    want = [(video.partition("#")[0], *rest) for video, *rest in basenames(expected())]
    assert read(tmp_path / "accepted.json") == sorted(want)


def test_regions_of_label_studio(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "t.json", "label-studio")
    (prediction,) = label_studio_tasks(tmp_path / "t.json")[A]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("m", pytest.approx(0.5))
    regions = defaultdict(list)
    for region in prediction["result"]:
        regions[region["type"]].append(region)
    assert len({region["id"] for region in prediction["result"]}) == len(prediction["result"])
    assert regions["timelinelabels"][-1]["value"] == {
        "ranges": [{"start": 21, "end": 40}], "timelinelabels": ["fall"],
    }  # fmt: skip
    assert regions["timelinelabels"][-1]["meta"] == {"text": ["person 7"]}
    person, dog = regions["videorectangle"]
    assert (person["value"]["framesCount"], person["value"]["duration"]) == (40, 4.0)
    assert (person["value"]["labels"], dog["value"]["labels"]) == (["person"], ["dog"])
    third = person["value"]["sequence"][2]
    assert third == {
        "x": pytest.approx(3.125), "y": pytest.approx(100 / 24), "width": 6.25, "height": pytest.approx(100 / 6),
        "rotation": 0, "frame": 5, "time": 0.4, "enabled": True,
    }  # fmt: skip
    assert [each["enabled"] for each in dog["value"]["sequence"]] == [True] * 9 + [False]
    config = ElementTree.parse(tmp_path / "t.config.xml").getroot()
    controls = {element.get("name"): element for element in config.iter() if element.get("name")}
    assert {region["from_name"] for region in prediction["result"]} < controls.keys()
    assert [label.get("value") for label in controls["kind"]] == ["dog", "person"]
    assert {label.get("value") for label in controls["activity"]} == {each["label"] for each in SEGMENTS}


def test_label_studio_knows_every_label_by_the_same_name(tmp_path: Path) -> None:
    export_segments(make_lake(tmp_path / "lake", [segment(A, "a\x03b", 0.0, 1.0)]), tmp_path / "t.json", "label-studio")
    region = label_studio_tasks(tmp_path / "t.json")[A]["predictions"][0]["result"][0]
    config = ElementTree.parse(tmp_path / "t.config.xml").getroot()
    assert [label.get("value") for label in config.iterfind("TimelineLabels/Label")] == region["value"][
        "timelinelabels"
    ]


@pytest.mark.parametrize(("name", "out"), [("cvat", "out"), ("label-studio", "t.json"), ("fiftyone", "out")])
def test_videos_without_a_frame_rate_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, out: str
) -> None:
    lake = make_lake(tmp_path / "lake", fps={A: None}, width={B: None})
    with caplog.at_level(logging.WARNING):
        n_written = export_segments(lake, tmp_path / out, name)
    assert n_written == sum(each["uri"] not in (A, B) for each in SEGMENTS)
    (told,) = (record.getMessage() for record in caplog.records)
    assert f"left out, for their frame rate or size is not known and this format counts frames: {A}, {B};" in told
    files = [tmp_path / out] if (tmp_path / out).is_file() else (tmp_path / out).rglob("*")
    text = "".join(path.read_text() for path in files if path.is_file())
    assert REMOTE in text
    assert A not in text


@pytest.mark.parametrize(("name", "out"), [("cvat", "out"), ("label-studio", "t.json"), ("fiftyone", "out")])
def test_the_length_of_a_video_may_be_unknown(tmp_path: Path, name: str, out: str) -> None:
    lake = make_lake(tmp_path / "lake", duration_s=dict.fromkeys(SECONDS))
    assert export_segments(lake, tmp_path / out, name) == len(SEGMENTS)
    if name == "cvat":
        assert read(tmp_path / out / "v/x/a.mp4.xml") == expected(each for each in SEGMENTS if each["uri"] == A)
