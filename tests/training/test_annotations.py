from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation, apply_label_map, read_label_map, read_meanings
from pipeline.training.formats import read_annotations


def write(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(content, encoding="utf-8")
    return path


def test_spans(tmp_path: Path) -> None:
    path = write(tmp_path, "video,start_s,end_s,label,split\na.mp4,0.5,2,walk,train\nb c.mp4,,,fall,TEST\n")
    assert read_annotations(path) == [
        Annotation("a.mp4", "walk", 0.5, 2.0, {"split": "train"}),
        Annotation("b c.mp4", "fall", None, None, {"split": "test"}),
    ]


def test_whole_clips_with_several_splits(data_dir: Path) -> None:
    records = read_annotations(data_dir / "jhmdb" / "splits.csv")
    assert len(records) == 928
    assert len({record.label for record in records}) == 21
    assert set(records[0].splits) == {"split1", "split2", "split3"}
    assert (records[0].start_s, records[0].end_s) == (None, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,label\na.mp4,walk\n", "no column video"),
        ("video,label\n", "no annotations"),
        ("video,label\na.mp4,\n", "line 2: the label is empty"),
        ("video,label\na.mp4,walk\n,run\n", "line 3: the video is empty"),
        ("video,start_s,end_s,label\na.mp4,3,2,walk\n", "line 2: it ends at 2 s, before its start at 3 s"),
        ("video,start_s,end_s,label\na.mp4,x,2,walk\n", "start_s = 'x' is not a time"),
        ("video,start_s,end_s,label\na.mp4,nan,2,walk\n", "start_s = 'nan' is not a time"),
        ("video,label,split\na.mp4,walk,dev\n", "line 2: split = 'dev' is not one of train, val, test"),
        ("video,label\na.mp4,walk\nb.mp4,run\na.mp4,walk\n", "line 4: the same as "),
    ],
)
def test_mistakes_are_told_by_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_annotations(write(tmp_path, content))
    assert str(tmp_path / "labels.csv") in str(caught.value)
    assert message in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00\x80" * 10)
    with pytest.raises(UsageError, match="can't be read as CSV"):
        read_annotations(tmp_path / "labels.csv")
    with pytest.raises(UsageError, match=r"gone\.csv: no such file"):
        read_annotations(tmp_path / "gone.csv")


def test_labels_get_other_names_or_are_left_out(tmp_path: Path) -> None:
    records = read_annotations(write(tmp_path, "video,label\na.mp4,walking\nb.mp4,reading\nc.mp4,odd\nd.mp4,run\n"))
    mapping = tmp_path / "map.csv"
    mapping.write_text("from,to\nwalking,walk\nreading,background\nodd,\n")
    mapped = apply_label_map(records, read_label_map(mapping))
    assert [(record.video, record.label) for record in mapped] == [
        ("a.mp4", "walk"),
        ("b.mp4", "background"),
        ("d.mp4", "run"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\nwalking,walk\n", "columns from and to"),
        ("from,to\nwalking,walk\nwalking,run\n", "line 3: 'walking' has two meanings"),
        ("from,to\nwalkin,walk\n", "names walkin; annotated are walking"),
    ],
)
def test_label_maps_that_make_no_sense(tmp_path: Path, content: str, message: str) -> None:
    mapping = tmp_path / "map.csv"
    mapping.write_text(content)
    with pytest.raises(UsageError, match=message):
        apply_label_map([Annotation("a.mp4", "walking")], read_label_map(mapping))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("label,sense\nwalk,on foot\n", "words.csv, line 2: needed are columns label and meaning"),
        ("label,meaning\nwalk,\n", "words.csv, line 2: needed are columns label and meaning"),
        ("label,meaning\nwork,on foot\n", "words.csv, line 2: 'work' is none of the labels run, walk"),
        ("label,meaning\nwalk,on foot\nwalk,slowly\n", "words.csv, line 3: 'walk' has two meanings"),
    ],
)
def test_meanings_that_do_not_fit_are_named(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "words.csv").write_text(rows)
    with pytest.raises(UsageError, match=message):
        read_meanings(tmp_path / "words.csv", ["run", "walk"])
