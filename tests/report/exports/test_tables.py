"""CSV, Excel and BORIS: tables that our own readers read as what was exported."""

from __future__ import annotations

import csv
import datetime
from pathlib import Path

import openpyxl
import pytest

from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader
from pipeline.report.exports import export_segments
from tests.report.exports.lake import AT, EMPTY, SEGMENTS, A, B, expected, lake, make_lake, read, segment

__all__ = ["lake"]


@pytest.mark.parametrize(
    ("name", "file"), [("csv", "f.csv"), ("excel", "f.xlsx"), ("boris", "f.tsv"), ("boris", "f.csv")]
)
def test_what_is_exported_is_read_as_the_same(lake: LakeReader, tmp_path: Path, name: str, file: str) -> None:
    assert export_segments(lake, tmp_path / file, name) == len(SEGMENTS)
    assert read(tmp_path / file) == expected()


@pytest.mark.parametrize(("name", "file"), [("csv", "f.csv"), ("excel", "f.xlsx"), ("boris", "f.tsv")])
def test_spans_of_one_person_in_every_order(tmp_path: Path, name: str, file: str) -> None:
    """Spans that touch, overlap or have no length, of one label and person; times with all their digits."""
    hard = [
        segment(A, "walk", 0.0, 1 / 3, 7),
        segment(A, "walk", 1 / 3, 1.0, 7),
        segment(A, "walk", 0.5, 2.0, 7),
        segment(A, "walk", 0.00001, 0.6, 7),
        segment(A, "wave", 1.0, 1.0, 7),
        segment(A, "two\nlines\t; and, more", 1.0, 1.5, 7),
    ]
    export_segments(make_lake(tmp_path / "lake", hard), tmp_path / file, name)
    want = [(uri, label, round(start, 6), round(end, 6)) for uri, label, start, end in expected(hard)]
    assert read(tmp_path / file) == want


def test_one_person_twice_is_a_mistake_and_two_people_are_none(tmp_path: Path) -> None:
    head = "video,start_s,end_s,label,track_id\na.mp4,0,1,walk,1\n"
    (tmp_path / "two.csv").write_text(f"{head}a.mp4,0,1,walk,2\n")
    assert len(read(tmp_path / "two.csv")) == 1
    (tmp_path / "one.csv").write_text(f"{head}a.mp4,0,1,walk,1\n")
    with pytest.raises(UsageError, match="line 3: the same as"):
        read(tmp_path / "one.csv")


def test_events_as_boris_writes_them(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "f.tsv", "boris")
    with open(tmp_path / "f.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert list(rows[0]) == [
        "Observation id", "Observation date", "Description", "Observation duration", "Observation type", "Source",
        "Time offset (s)", "Media duration (s)", "FPS", "Subject", "Behavior", "Behavioral category", "Behavior type",
        "Time", "Media file name", "Image index", "Image file path", "Comment",
    ]  # fmt: skip
    of_7 = [row for row in rows if row["Subject"] == "person 7"]
    assert [(row["Behavior"], row["Behavior type"], row["Time"], row["Image index"]) for row in of_7] == [
        ("walk", "START", "0.0", "0"),
        ("walk", "STOP", "2.0", "20"),
        ("fall", "START", "2.0", "20"),
        ("fall", "STOP", "4.0", "40"),
    ]
    assert (of_7[0]["Source"], of_7[0]["Media duration (s)"], of_7[0]["FPS"]) == (f"player #1:{A}", "4.000", "10.000")
    tiny = [segment(A, "walk", 0.00001, 1.0, 7)]
    export_segments(make_lake(tmp_path / "tiny", tiny), tmp_path / "tiny.tsv", "boris")
    assert "\t0.00001\t" in (tmp_path / "tiny.tsv").read_text()
    assert of_7[0]["Observation date"] == "2024-05-03 14:22:10"


def test_what_is_not_known_is_not_made_up(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake", duration_s={A: None}, fps={A: None})
    for name, file in (("boris", "f.tsv"), ("excel", "f.xlsx")):
        export_segments(lake, tmp_path / file, name)
        assert read(tmp_path / file) == expected()
    with open(tmp_path / "f.tsv", newline="") as tsv:
        row = next(csv.DictReader(tsv, delimiter="\t"))
    assert (row["Media duration (s)"], row["FPS"], row["Image index"]) == ("NA", "NA", "NA")
    budgets = openpyxl.load_workbook(tmp_path / "f.xlsx")["time budgets"]
    assert [row[4] for row in budgets.iter_rows(min_row=2, values_only=True) if row[0] == A] == [None] * 3


def test_names_that_boris_divides(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake", [segment(A, "walk", 0.0, 1.0)])
    assert export_segments(lake, tmp_path / "f.tsv", "boris", where="uri NOT LIKE '%;%'") == 1
    lake = make_lake(tmp_path / "other", [segment("/v/a;b.mp4", "walk", 0.0, 1.0, video_id=A)], uri={A: "/v/a;b.mp4"})
    with pytest.raises(UsageError, match=r"/v/a;b\.mp4: BORIS divides .* --where"):
        export_segments(lake, tmp_path / "f.tsv", "boris")


def test_sheets_of_excel(lake: LakeReader, tmp_path: Path) -> None:
    export_segments(lake, tmp_path / "f.xlsx", "excel")
    book = openpyxl.load_workbook(tmp_path / "f.xlsx")
    assert book.sheetnames == ["segments", "time budgets", "failures"]
    for sheet in book:
        assert sheet.freeze_panes == "A2"
        assert sheet.column_dimensions["A"].width == 50
        assert sheet["A1"].font.bold
    rows = list(book["segments"].iter_rows(values_only=True))
    assert rows[0] == (
        "video", "start_s", "end_s", "label", "score", "track_id", "model", "start_at (UTC)", "end_at (UTC)"
    )  # fmt: skip
    naive = AT.replace(tzinfo=None)
    fall = next(row for row in rows if row[3] == "fall")
    assert fall[:7] == (A, 2.0, 4.0, "fall", 0.25, 7, "m")
    assert fall[7:] == (naive + datetime.timedelta(seconds=2), naive + datetime.timedelta(seconds=4))
    assert next(row for row in rows if row[0] == B)[7:] == (None, None)
    failed = list(book["failures"].iter_rows(min_row=2, values_only=True))
    assert failed == [(EMPTY, 0.0, 1.0, "decode", "data", "@broken", None)]


def test_time_budgets(tmp_path: Path) -> None:
    overlapping = [segment(A, "walk", 0.0, 1.0, 7), segment(A, "walk", 0.5, 2.0, 7), segment(A, "walk", 3.0, 4.0, 7)]
    export_segments(
        make_lake(tmp_path / "lake", [*overlapping, segment(A, "walk", 0.0, 1.0)]), tmp_path / "f.xlsx", "excel"
    )
    budgets = openpyxl.load_workbook(tmp_path / "f.xlsx")["time budgets"]
    assert list(budgets.iter_rows(min_row=2, values_only=True)) == [
        (A, None, "walk", 1.0, 0.25, 1),
        (A, 7, "walk", 3.0, 0.75, 3),
    ]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0"])
def test_no_text_becomes_a_formula(tmp_path: Path, text: str) -> None:
    lake = make_lake(tmp_path / "lake", [segment(A, text, 0.0, 1.0)])
    export_segments(lake, tmp_path / "f.xlsx", "excel")
    cell = openpyxl.load_workbook(tmp_path / "f.xlsx")["segments"]["D2"]
    assert (cell.value, cell.data_type, cell.quotePrefix) == (text, "s", True)


def test_a_workbook_has_its_suffix_and_holds_no_control_characters(tmp_path: Path) -> None:
    lake = make_lake(tmp_path / "lake", [segment(A, "a\x00b\x1bc", 0.0, 1.0)])
    with pytest.raises(UsageError, match=r"call it f\.xlsx"):
        export_segments(lake, tmp_path / "f.xls", "excel")
    for name, file in (("boris", "f.tsv"), ("excel", "f.xlsx")):
        export_segments(lake, tmp_path / file, name)
        assert read(tmp_path / file)[0][1] == "a\ufffdb\ufffdc"


def test_a_condition(lake: LakeReader, tmp_path: Path) -> None:
    assert export_segments(lake, tmp_path / "f.csv", "csv", where="label = 'fall' OR score > 0.7") == 2
    assert read(tmp_path / "f.csv") == [(A, "fall", 2.0, 4.0), (A, "walk", 0.0, 2.0)]
    export_segments(lake, tmp_path / "vtt", "vtt", where="label = 'fall'")
    assert [path.name for path in (tmp_path / "vtt").rglob("*.vtt")] == ["a.mp4.vtt"]
    with pytest.raises(UsageError, match="--where"):
        export_segments(lake, tmp_path / "f.csv", "csv", where="colour = 'red'")
