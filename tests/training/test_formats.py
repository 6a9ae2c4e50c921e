"""Every format of labels gives the same record, and every mistake is told by file and line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation
from pipeline.training.formats import FORMATS, read_annotations
from pipeline.training.videos import VideoFolder

ACTIVITYNET = """{
  "version": "VERSION 1.3",
  "taxonomy": [],
  "database": {
    "a1_b2": {
      "duration": 12.0, "subset": "training", "resolution": "640x480", "url": "https://example.org/a1_b2",
      "annotations": [
        {"segment": [0.5, 2], "label": "walk"},
        {"segment": [1.25, 3.5], "label": "pick up"}
      ]
    },
    "c3": {"duration": 5.0, "subset": "validation", "annotations": [{"segment": [0, 5.0], "label": "walk"}]},
    "hidden": {"duration": 5.0, "subset": "testing", "annotations": []}
  }
}
"""
CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <id>7</id><name>home</name><size>100</size><mode>interpolation</mode>
      <start_frame>0</start_frame><stop_frame>99</stop_frame><source>home.mp4</source>
    </task>
  </meta>
  <track id="0" label="person" source="manual">
    <box frame="10" outside="0" occluded="0" keyframe="1" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0">
      <attribute name="activity">walk</attribute>
    </box>
    <box frame="11" outside="0" occluded="0" keyframe="0" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0">
      <attribute name="activity">walk</attribute>
    </box>
    <box frame="12" outside="0" occluded="0" keyframe="1" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0">
      <attribute name="activity">fall</attribute>
    </box>
    <box frame="15" outside="1" occluded="0" keyframe="1" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0">
      <attribute name="activity">fall</attribute>
    </box>
  </track>
  <track id="1" label="wave" source="manual">
    <box frame="40" outside="0" occluded="0" keyframe="1" xtl="1" ytl="1" xbr="9" ybr="9" z_order="0"></box>
  </track>
</annotations>
"""
VIA = """{
 "project": {"pid": "__VIA_PROJECT_ID__", "pname": "p", "data_format_version": "3.1.1", "vid_list": ["1"]},
 "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}},
 "attribute": {
  "1": {"aname": "TEMPORAL-SEGMENTS", "anchor_id": "FILE1_Z2_XY0", "type": 4, "options": {"w": "walk", "f": "fall"}},
  "2": {"aname": "free", "anchor_id": "FILE1_Z2_XY0", "type": 1, "options": {}}
 },
 "file": {"1": {"fid": 1, "fname": "home.mp4", "type": 4, "loc": 1, "src": ""}},
 "metadata": {
  "1_aaaaaaaa": {"vid": "1", "flg": 0, "z": [0.25, 1.5], "xy": [], "av": {"1": "w"}},
  "1_bbbbbbbb": {"vid": "1", "flg": 0, "z": [1.5, 2.75], "xy": [], "av": {"1": "f", "2": "hard, fast"}},
  "1_cccccccc": {"vid": "1", "flg": 0, "z": [3, 4], "xy": [], "av": {"1": "own timeline"}},
  "1_dddddddd": {"vid": "1", "flg": 0, "z": [1.0], "xy": [2, 1, 1, 5, 5], "av": {"1": "w"}}
 },
 "view": {"1": {"fid_list": [1]}}
}
"""
LABEL_STUDIO = """[
 {"id": 1, "data": {"video": "/data/upload/3/0a1b2c3d-home%20one.mp4"}, "annotations": [
  {"id": 5, "was_cancelled": false, "result": [
   {"id": "x", "type": "timelinelabels", "from_name": "tl", "to_name": "video",
    "value": {"ranges": [{"start": 1, "end": 30}, {"start": 61, "end": 61}], "timelinelabels": ["walk"]}},
   {"id": "y", "type": "labels", "from_name": "l", "to_name": "audio",
    "value": {"start": 0.5, "end": 1.25, "labels": ["fall"]}},
   {"id": "z", "type": "choices", "from_name": "c", "to_name": "video", "value": {"choices": ["home"]}},
   {"id": "b", "type": "videorectangle", "value": {"sequence": [], "labels": ["Person"]}}]},
  {"id": 6, "was_cancelled": true, "result": [
   {"id": "q", "type": "choices", "from_name": "c", "to_name": "video", "value": {"choices": ["nonsense"]}}]}]},
 {"id": 2, "data": {"video": "/data/local-files/?d=set/b.mp4"}, "annotations": []}
]
"""
ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2026-01-01T00:00:00+00:00" FORMAT="3.0" VERSION="3.0">
  <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
    <MEDIA_DESCRIPTOR MEDIA_URL="file:///C:/videos/home%20one.mp4" MIME_TYPE="video/mp4" TIME_ORIGIN="500"/>
  </HEADER>
  <TIME_ORDER>
    <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="0"/>
    <TIME_SLOT TIME_SLOT_ID="ts2"/>
    <TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="3000"/>
  </TIME_ORDER>
  <TIER LINGUISTIC_TYPE_REF="default-lt" TIER_ID="activity">
    <ANNOTATION>
      <ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
        <ANNOTATION_VALUE>walk</ANNOTATION_VALUE>
      </ALIGNABLE_ANNOTATION>
    </ANNOTATION>
    <ANNOTATION>
      <ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
        <ANNOTATION_VALUE>fall
 down</ANNOTATION_VALUE>
      </ALIGNABLE_ANNOTATION>
    </ANNOTATION>
  </TIER>
  <TIER LINGUISTIC_TYPE_REF="note" PARENT_REF="activity" TIER_ID="note">
    <ANNOTATION>
      <REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1"><ANNOTATION_VALUE>slow</ANNOTATION_VALUE></REF_ANNOTATION>
    </ANNOTATION>
  </TIER>
</ANNOTATION_DOCUMENT>
"""


def write(tmp_path: Path, name: str, content: str) -> Path:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def test_activitynet(tmp_path: Path) -> None:
    path = write(tmp_path, "labels.json", ACTIVITYNET)
    records = read_annotations(path)
    assert records == [
        Annotation("a1_b2", "walk", 0.5, 2.0, {"subset": "train"}),
        Annotation("a1_b2", "pick up", 1.25, 3.5, {"subset": "train"}),
        Annotation("c3", "walk", 0.0, 5.0, {"subset": "val"}),
    ]
    assert [record.where for record in records] == [f"{path}, line {line}" for line in (8, 9, 12)]


def test_cvat_tracks_end_where_the_person_leaves_or_does_something_else(tmp_path: Path) -> None:
    records = read_annotations(write(tmp_path, "annotations.xml", CVAT))
    assert records == [
        Annotation("home.mp4", "walk", frames=(10, 12)),
        Annotation("home.mp4", "fall", frames=(12, 15)),
        # A track that nobody closed lasts to the last frame of the task.
        Annotation("home.mp4", "wave", frames=(40, 100)),
    ]
    assert records[1].where.endswith("annotations.xml, line 17")


def test_cvat_project_of_several_tasks(tmp_path: Path) -> None:
    tasks = "".join(f"<task><id>{n}</id><source>{n}.mp4</source><stop_frame>9</stop_frame></task>" for n in (3, 4))
    track = (
        '<track id="{0}" label="walk" task_id="{1}"><box frame="2" outside="0"/><box frame="5" outside="1"/></track>'
    )
    text = (
        f"<annotations><meta><project><tasks>{tasks}</tasks></project></meta>{track.format(0, 3)}{track.format(1, 4)}"
    )
    records = read_annotations(write(tmp_path, "p.xml", text + "</annotations>"))
    assert [(record.video, record.frames) for record in records] == [("3.mp4", (2, 5)), ("4.mp4", (2, 5))]


def test_via(tmp_path: Path) -> None:
    assert read_annotations(write(tmp_path, "project.json", VIA)) == [
        Annotation("home.mp4", "walk", 0.25, 1.5),
        Annotation("home.mp4", "fall", 1.5, 2.75),
        Annotation("home.mp4", "hard, fast", 1.5, 2.75),
        Annotation("home.mp4", "own timeline", 3.0, 4.0),
    ]


def test_label_studio(tmp_path: Path) -> None:
    name = "0a1b2c3d-home one.mp4"
    assert read_annotations(write(tmp_path, "export.json", LABEL_STUDIO)) == [
        Annotation(name, "walk", frames=(0, 30)),
        Annotation(name, "walk", frames=(60, 61)),
        Annotation(name, "fall", 0.5, 1.25),
        Annotation(name, "home"),
    ]


def test_elan(tmp_path: Path) -> None:
    """The slot without a time lies half way; the medium starts half a second before the slots do."""
    path = write(tmp_path, "home.eaf", ELAN)
    expected = [Annotation("home one.mp4", "walk", 0.5, 2.0), Annotation("home one.mp4", "fall down", 2.0, 3.5)]
    assert read_annotations(path) == expected
    write(tmp_path, "other.eaf", ELAN.replace("home%20one", "other"))
    assert {record.video for record in read_annotations(tmp_path)} == {"home one.mp4", "other.mp4"}


def test_frame_labels_with_their_splits(tmp_path: Path) -> None:
    write(tmp_path, "groundTruth/a.txt", "walk\nwalk\nfall\nfall\nfall\nwalk\n\n")
    write(tmp_path, "groundTruth/b.txt", "walk\n")
    write(tmp_path, "mapping.txt", "0 walk\n1 fall\n")
    write(tmp_path, "splits/train.split1.bundle", "a.txt\n")
    write(tmp_path, "splits/test.split1.bundle", "b.txt\n")
    write(tmp_path, "splits/test.split2.bundle", "a.txt\n")
    a, b = {"split1": "train", "split2": "test"}, {"split1": "test", "split2": ""}
    assert read_annotations(tmp_path) == [
        Annotation("a", "walk", splits=a, frames=(0, 2)),
        Annotation("a", "fall", splits=a, frames=(2, 5)),
        Annotation("a", "walk", splits=a, frames=(5, 6)),
        Annotation("b", "walk", splits=b, frames=(0, 1)),
    ]


def test_folders_of_clips(tmp_path: Path, data_dir: Path) -> None:
    records = read_annotations(data_dir / "jhmdb" / "clips")
    assert len(records) == 928
    assert len({record.label for record in records}) == 21
    for part in ("train", "test"):
        write(tmp_path, f"{part}/walk/deeper/{part}.mp4", "")
    write(tmp_path, "test/walk/notes.txt", "")
    assert read_annotations(tmp_path, "folders") == [
        Annotation("test/walk/deeper/test.mp4", "walk", splits={"split": "test"}),
        Annotation("train/walk/deeper/train.mp4", "walk", splits={"split": "train"}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{\n\n oops}", "line 3: not valid JSON"),
        (
            "a.json",
            '{"videos": []}',
            "not a format of annotations that is known; it may be csv, folders, boris, activitynet",
        ),
        ("a.json", ACTIVITYNET.replace("[1.25, 3.5]", "[3.5, 1.25]"), "line 9: it ends at 1.25 s, before its start"),
        ("a.json", ACTIVITYNET.replace("[1.25, 3.5]", "[1.25]"), "line 9: 'segment' should be [start, end]"),
        ("a.json", ACTIVITYNET.replace('"pick up"', "7"), "line 9: 'label' should be a str, but is 7"),
        ("a.json", ACTIVITYNET.replace("validation", "dev"), "line 12: subset 'dev' of video 'c3' is not one of"),
        ("a.json", ACTIVITYNET.replace("[1.25, 3.5]", "[0.5, 2]").replace("pick up", "walk"), "line 9: the same as"),
        ("a.json", VIA.replace('"fid_list": [1]', '"fid_list": [2]'), "line 10: its view '1' names no single file"),
        ("a.json", LABEL_STUDIO.replace('"end": 30', '"end": 0'), "line 4: a range ends with frame 0, before"),
        ("a.json", '[{"id": 1, "data": {"video": "a.mp4"}}]', "line 1: this task has no 'annotations'"),
        ("a.xml", CVAT.replace("</track>", "", 1), "not valid XML (mismatched tag)"),
        ("a.xml", CVAT.replace("<source>home.mp4</source>", "").replace("<name>home</name>", ""), "line 11: nothing"),
        ("a.xml", "<annotations><image/></annotations>", "export it as 'CVAT for video 1.1'"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY a "b">]>\n<x/>', "line 1: declares an entity"),
        ("a.eaf", ELAN.replace('TIME_SLOT_REF2="ts3"', 'TIME_SLOT_REF2="ts9"'), "line 18: there is no time slot 'ts9'"),
        ("a.eaf", ELAN.replace('"ts1" TIME_VALUE="0"', '"ts1"'), "line 7: this time slot lies between no two times"),
        ("a.txt", "walk\n\nfall\n", "a.txt, line 2: the label is empty"),
        ("a.doc", "walk", "not a format of annotations that is known"),
    ],
)
def test_mistakes_are_told_by_file_and_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UsageError) as caught:
        read_annotations(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


def test_a_format_of_another_name(tmp_path: Path) -> None:
    path = write(tmp_path, "labels.dat", ACTIVITYNET)
    assert len(read_annotations(path, "activitynet")) == 3
    with pytest.raises(UsageError, match=f"known are {', '.join(FORMATS)}"):
        read_annotations(path, "coco")
    with pytest.raises(UsageError, match="lies in no folder that names its activity"):
        read_annotations(write(tmp_path, "clips/a.mp4", "").parent, "folders")


@pytest.fixture
def home(data_dir: Path, tmp_path: Path) -> Path:
    """A folder of two real videos of 15 frames/s under the names that the labels above use."""
    clips = sorted((data_dir / "gmdcsa24" / "clips").iterdir(), key=os.path.getsize)
    (tmp_path / "videos" / "deep").mkdir(parents=True)
    shutil.copy(clips[-1], tmp_path / "videos" / "deep" / "home one.mp4")
    shutil.copy(clips[-2], tmp_path / "videos" / "v_c3.mp4")
    return tmp_path / "videos"


def test_videos_are_found_by_what_the_formats_call_them(tmp_path: Path, home: Path) -> None:
    folder = VideoFolder(str(home))
    for name in ("deep/home one.mp4", "home one.mp4", "home one", "0a1b2c3d-home one.mp4", "other/home one.mp4"):
        assert folder.locate([Annotation(name, "x")])[0].video == "deep/home one.mp4"
    assert folder.locate([Annotation("c3", "x")])[0].video == "v_c3.mp4"
    records = folder.locate(read_annotations(write(tmp_path, "export.json", LABEL_STUDIO)))
    assert (records[0].start_s, records[0].end_s, records[0].frames) == (0.0, pytest.approx(2.0, abs=0.01), None)


def test_videos_that_are_not_meant(home: Path) -> None:
    folder = VideoFolder(str(home))
    with pytest.raises(
        UsageError, match=r"labels, line 3: no video 'home on\.mp4' in .*; is deep/home one\.mp4 meant\?"
    ):
        folder.locate([Annotation("home on.mp4", "x", where="labels, line 3")])
    with pytest.raises(UsageError, match=r"line 4: reaches to 99 s, but v_c3\.mp4 ends at [\d.]+ s"):
        folder.locate([Annotation("c3", "x", 1.0, 99.0, where="line 4")])
    with pytest.raises(UsageError, match=r"line 5: reaches to [\d.]+ s"):
        folder.locate([Annotation("c3", "x", frames=(0, 3000), where="line 5")])
    shutil.copy(home / "v_c3.mp4", home / "deep" / "v_c3.mp4")
    with pytest.raises(UsageError, match=r"line 6: video 'c3' may be deep/v_c3\.mp4 or v_c3\.mp4"):
        VideoFolder(str(home)).locate([Annotation("c3", "x", where="line 6")])


def test_activitynet_takes_what_json_allows(tmp_path: Path) -> None:
    """Escapes, one line, and depth do not lead astray who counts lines."""
    record = {"database": {"\u00fc/\\x": {"annotations": [{"label": "a\nb\ud83d\ude00", "segment": [0, 1]}]}}}
    (found,) = read_annotations(write(tmp_path, "a.json", json.dumps(record)))
    assert (found.video, found.label, found.where) == ("ü/\\x", "a\nb😀", f"{tmp_path / 'a.json'}, line 1")
    with pytest.raises(UsageError, match="can't be read as JSON"):
        read_annotations(write(tmp_path, "deep.json", "[" * 100_000))
