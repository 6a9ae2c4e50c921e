"""Segments for other tools: what is written is read again, by our own readers or by the rules of the format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.lake.query import open_lake
from pipeline.report.exports import export_segments
from pipeline.training.formats import read_annotations
from tests.lakes import lake_of_segments
from tests.test_cli import here, run, text, usage_error

URIS = {"/v/x/a.mp4": 4.0, "/v/y/b.mp4": 6.0, "/v/y/empty.mp4": 1.0}
SEGMENTS = [
    {"uri": "/v/y/b.mp4", "label": "a <b> --> c\n&", "start_s": 3599.9996, "end_s": 3661.5, "score": 0.5},
    {"uri": "/v/x/a.mp4", "label": "fall", "start_s": 2.0, "end_s": 4.0, "score": 0.25, "track_id": 7},
    {"uri": "/v/x/a.mp4", "label": "walk", "start_s": 0.0, "end_s": 2.0, "score": 0.75, "track_id": 7},
]


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return lake_of_segments(tmp_path / "lake", URIS, SEGMENTS)


def test_csv_can_be_learnt_from(lake: Path, tmp_path: Path) -> None:
    assert export_segments(open_lake(str(lake)), tmp_path / "found.csv", "csv") == 3
    spans = [(each.video, each.label, each.start_s, each.end_s) for each in read_annotations(tmp_path / "found.csv")]
    assert spans[:2] == [("/v/x/a.mp4", "walk", 0.0, 2.0), ("/v/x/a.mp4", "fall", 2.0, 4.0)]
    assert spans[2][1] == "a <b> --> c\n&"


def test_csv_says_who_is_meant(tmp_path: Path) -> None:
    boxed = [{**SEGMENTS[1], "track_id": n, "x1": 10.0 * n, "y1": 5.0, "x2": 10.0 * n + 8, "y2": 30.0} for n in (1, 2)]
    lake = lake_of_segments(tmp_path / "lake", URIS, boxed)
    export_segments(open_lake(str(lake)), tmp_path / "found.csv", "csv")
    assert [each.box for each in read_annotations(tmp_path / "found.csv")] == [(10, 5, 18, 30), (20, 5, 28, 30)]


def test_spans_of_one_file_are_told_apart(tmp_path: Path) -> None:
    """A manifest may list parts of a file; each has an id of its own, and they share the path."""
    parts = [
        {**SEGMENTS[1], "uri": "/v/a.mp4", "video_id": f"{n:016x}", "start_s": 10.0 * n, "end_s": 10.0 * n + 2}
        for n in (1, 2)
    ]
    columns = {"uri": {f"{n:016x}": "/v/a.mp4" for n in (1, 2)}}
    lake = lake_of_segments(tmp_path / "lake", {f"{n:016x}": 60.0 for n in (1, 2)}, parts, columns=columns)
    reader = open_lake(str(lake))
    assert export_segments(reader, tmp_path / "found.csv", "csv") == 2
    assert [each.start_s for each in read_annotations(tmp_path / "found.csv")] == [10.0, 20.0]
    export_segments(reader, tmp_path / "vtt", "vtt")
    assert sorted(path.name for path in (tmp_path / "vtt").iterdir()) == [f"a-{n:016x}.mp4.vtt" for n in (1, 2)]
    assert reader.video("0000000000000002")["video_id"] == "0000000000000002"
    with pytest.raises(UsageError, match="is 2 videos, spans or versions of one file; name one by its id"):
        reader.video("a.mp4")


def test_results_of_activitynet(lake: Path, tmp_path: Path) -> None:
    export_segments(open_lake(str(lake)), tmp_path / "found.json", "activitynet")
    record = json.loads((tmp_path / "found.json").read_text())
    assert set(record) == {"version", "results", "external_data"}
    assert record["results"]["a"] == [
        {"label": "walk", "score": 0.75, "segment": [0.0, 2.0]},
        {"label": "fall", "score": 0.25, "segment": [2.0, 4.0]},
    ]
    assert record["results"]["empty"] == []


def test_videos_of_one_name_stay_apart(tmp_path: Path) -> None:
    uris = {"/v/x/a.mp4": 4.0, "/v/y/a.mp4": 4.0, "s3://bucket/v/a.mp4": 4.0}
    lake = lake_of_segments(tmp_path / "lake", uris, [{**SEGMENTS[1], "uri": uri} for uri in uris])
    export_segments(open_lake(str(lake)), tmp_path / "found.json", "activitynet")
    results = json.loads((tmp_path / "found.json").read_text())["results"]
    assert {uri: len(found) for uri, found in results.items()} == dict.fromkeys(uris, 1)
    export_segments(open_lake(str(lake)), tmp_path / "vtt", "vtt")
    written = sorted(str(path.relative_to(tmp_path / "vtt")) for path in (tmp_path / "vtt").rglob("*.vtt"))
    assert written == ["bucket/v/a.mp4.vtt", "v/x/a.mp4.vtt", "v/y/a.mp4.vtt"]


def test_subtitles(lake: Path, tmp_path: Path) -> None:
    export_segments(open_lake(str(lake)), tmp_path / "vtt", "vtt")
    a = (tmp_path / "vtt" / "x" / "a.mp4.vtt").read_text()
    assert a.startswith("WEBVTT\n\n")
    cues = re.findall(r"^(\d\d:\d\d:\d\d\.\d{3}) --> (\d\d:\d\d:\d\d\.\d{3})\n(.+)\n", a, re.MULTILINE)
    assert cues == [
        ("00:00:00.000", "00:00:02.000", "person 7: walk (75 %)"),
        ("00:00:02.000", "00:00:04.000", "person 7: fall (25 %)"),
    ]
    b = (tmp_path / "vtt" / "y" / "b.mp4.vtt").read_text()
    assert "01:00:00.000 --> 01:01:01.500\na &lt;b&gt; --&gt; c &amp; (50 %)\n" in b
    assert (tmp_path / "vtt" / "y" / "empty.mp4.vtt").read_text().startswith("WEBVTT")


def test_the_command(lake: Path, tmp_path: Path) -> None:
    done = run("export", "--lake", lake, "--out", tmp_path / "found.csv", "--format", "csv")
    assert done.returncode == 0, done.stderr.decode()
    assert "found.csv: 3 segments" in text(done.stdout)
    assert "known are activitynet, csv, excel, vtt, boris, elan, cvat, label-studio, fiftyone" in usage_error(
        "export", "--lake", lake, "--out", tmp_path / "x", "--format", "srt"
    )
    done = here("export", "--lake", lake, "--out", tmp_path / "some", "--format", "elan", "--where", "label = 'fall'")
    assert "some: 1 segments" in text(done.stdout)
    assert "--where 'label'" in usage_error(
        "export", *("--lake", lake, "--out", tmp_path / "x"), *("--format", "csv", "--where", "label")
    )
    with pytest.raises(UsageError, match="can't be written to"):
        export_segments(open_lake(str(lake)), tmp_path / "gone" / "found.csv", "csv")
