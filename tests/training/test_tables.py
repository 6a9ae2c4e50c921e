"""The same labels, as all kinds of people and tools write them, are read as the same annotations."""

from __future__ import annotations

import datetime
import gzip
import json
import logging
import zipfile
from pathlib import Path

import openpyxl
import pytest

from pipeline.errors import UsageError
from pipeline.training.annotations import read_label_map
from pipeline.training.formats import read_annotations
from pipeline.training.formats.times import seconds_of

SPANS = [("a.mp4", 1.5, 62.25, "gehen"), ("a.mp4", 3600.0, 3661.5, "stürzen"), ("b.mp4", 2.0, 2.0, "winken")]
"""The last is of one moment."""


def clock(seconds: float, point: str = ".") -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours:02d}:{minutes:02d}:{rest:06.3f}".replace(".", point)


def frames(seconds: float) -> str:
    whole = int(seconds)
    return f"{clock(whole)[:8]}:{round((seconds - whole) * 20):02d}"


def minutes(seconds: float) -> str:
    return f"{int(seconds // 60)}:{seconds % 60:05.2f}"


def comma(seconds: float) -> str:
    return str(seconds).replace(".", ",")


def table(separator: str, headings: str, spell: object, extra: str = "") -> str:
    lines = [separator.join(headings.split("|"))]
    for video, start_s, end_s, label in SPANS:
        lines.append(separator.join([video, spell(start_s), spell(end_s), label, *([extra] if extra else [])]))  # type: ignore[operator]
    return "\n".join(lines) + "\n"


TABLES = {
    "plain.csv": (table(",", "video|start_s|end_s|label", str), "utf-8"),
    "semicolons.csv": (table(";", "file|begin|end|behaviour", comma), "utf-8-sig"),
    "latin.csv": (table(";", "Filename|Onset|Offset|Activity", clock), "latin-1"),
    "excel.csv": (table(";", "Path|From|To|Class", lambda s: clock(s, ",")), "utf-16"),
    "tabs.tsv": (table("\t", "File name|Start (s)|Stop (s)|Behavior", str), "utf-8"),
    "tabs.txt": (table("\t", "Media|Start time|End time|Action", minutes), "utf-8"),
    "counted.csv": (table(",", "video|start|end|label|fps", frames, "20"), "utf-8"),
    "quoted.csv": (table(",", "video|start|end|label", lambda s: f'"{comma(s)}"'), "utf-8"),
}


def found(path: Path) -> list[tuple[str, float | None, float | None, str]]:
    read = [(each.video, each.start_s, each.end_s, each.label) for each in read_annotations(path)]
    return sorted(((video.rpartition("/")[2], *rest) for video, *rest in read), key=str)  # type: ignore[misc]


@pytest.mark.parametrize("name", TABLES)
def test_every_spelling_of_a_table(name: str, tmp_path: Path) -> None:
    text, encoding = TABLES[name]
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert found(tmp_path / name) == SPANS


@pytest.mark.parametrize("kind", ["numbers", "times", "spans"])
def test_a_sheet_of_excel(kind: str, tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["notes", "nothing here"])
    sheet = book.create_sheet("labels")
    sheet.append(["video", "start", "stop", "activity"])
    for video, start_s, end_s, label in SPANS:
        times: list[object] = [start_s, end_s]
        if kind == "times":
            times = [(datetime.datetime.min + datetime.timedelta(seconds=s)).time() for s in (start_s, end_s)]
        elif kind == "spans":
            times = [datetime.timedelta(seconds=s) for s in (start_s, end_s)]
        sheet.append([video, *times, label])
    book.save(tmp_path / "labels.xlsx")
    assert found(tmp_path / "labels.xlsx") == SPANS


def events() -> list[tuple[str, float, str, str]]:
    """Return `(video, seconds, label, kind)` in the order of time."""
    listed = []
    for video, start_s, end_s, label in SPANS:
        if start_s == end_s:
            listed.append((video, start_s, label, "POINT"))
        else:
            listed += [(video, start_s, label, "START"), (video, end_s, label, "STOP")]
    return sorted(listed)


def test_tabular_events_of_boris(tmp_path: Path) -> None:
    headings = (
        "Observation id\tObservation date\tDescription\tObservation type\tSource\tTime offset (s)\tSubject\tBehavior\t"
        "Behavioral category\tBehavior type\tTime\tMedia file name\tImage index\tComment"
    )
    lines = [
        f"{video}\t2024-05-03 10:00:00\t\tMedia file(s)\tplayer #1:/mnt/x/{video}\t0\tNo focal subject\t{label}\t\t"
        f"{kind}\t{time_s:.3f}\t/mnt/x/{video}\t1\t"
        for video, time_s, label, kind in events()
    ]
    (tmp_path / "events.tsv").write_text("\n".join([headings, *lines]))
    assert found(tmp_path / "events.tsv") == SPANS


def test_tabular_events_of_an_old_boris(tmp_path: Path) -> None:
    """They begin with lines about the observation."""
    preamble = [
        "Observation id,obs 1",
        "",
        "Media file(s)",
        "",
        "Player #1,/mnt/x/a.mp4",
        "",
        "Observation date,2019",
        "",
    ]
    headings = "Time,Media file path,Total length,FPS,Subject,Behavior,Behavioral category,Comment,Status"
    lines = [f"{time_s},/mnt/x/{video},4000,25,,{label},,,{kind}" for video, time_s, label, kind in events()]
    of_a = [line for line in lines if "a.mp4" in line]
    (tmp_path / "old.csv").write_text("\n".join([*preamble, headings, *of_a]))
    assert found(tmp_path / "old.csv") == SPANS[:2]
    # Files of one observation are played one after the other, and nothing here tells how long the first is.
    (tmp_path / "old.csv").write_text("\n".join([*preamble, headings, *lines]))
    with pytest.raises(UsageError, match=r"plays 2 files one after the other, .* give the project \(\.boris\)"):
        read_annotations(tmp_path / "old.csv")


def test_aggregated_events_of_boris(tmp_path: Path) -> None:
    headings = (
        "Observation id,Observation date,Media file name,Total duration,FPS (frame/s),Subject,Behavior,Behavior type,"
        "Start (s),Stop (s),Duration (s)"
    )
    lines = [
        f"{video},2024-05-03,/mnt/x/{video},4000,25,somebody,{label},{'POINT' if start_s == end_s else 'STATE'},"
        f"{start_s},{end_s},{end_s - start_s}"
        for video, start_s, end_s, label in SPANS
    ]
    (tmp_path / "aggregated.csv").write_text("\n".join([headings, *lines]))
    assert found(tmp_path / "aggregated.csv") == SPANS


def project(media: list[str], listed: list[list[object]], lengths: dict[str, float]) -> dict[str, object]:
    kinds = {"gehen": "State event", "stürzen": "State event", "winken": "Point event"}
    return {
        "project_format_version": "7.0",
        "behaviors_conf": {str(n): {"type": kind, "code": code} for n, (code, kind) in enumerate(kinds.items())},
        "observations": {
            "obs 1": {
                "type": "MEDIA", "file": {"1": media, "2": []}, "media_info": {"length": lengths}, "events": listed,
            }
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", ["project.boris", "project.json", "project.boris.gz"])
def test_a_project_of_boris_with_media_in_a_queue(name: str, tmp_path: Path) -> None:
    """Times count on from file to file: the second begins at 4,000 s."""
    listed = [
        [time_s + (4000.0 if video == "b.mp4" else 0.0), "somebody", label, "", ""]
        for video, time_s, label, _ in events()
    ]
    content = json.dumps(project(["/mnt/x/a.mp4", "/mnt/x/b.mp4"], listed, {"/mnt/x/a.mp4": 4000.0})).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert found(tmp_path / name) == SPANS


def test_two_who_do_the_same_are_told_apart_while_events_are_paired(tmp_path: Path) -> None:
    listed = [[t, who, "gehen", "", ""] for t, who in ((1.0, "x"), (2.0, "y"), (3.0, "x"), (4.0, "y"))]
    (tmp_path / "p.boris").write_text(json.dumps(project(["a.mp4"], listed, {})))
    assert found(tmp_path / "p.boris") == [("a.mp4", 1.0, 3.0, "gehen"), ("a.mp4", 2.0, 4.0, "gehen")]


def test_what_was_understood_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text, encoding = TABLES["latin.csv"]
    (tmp_path / "latin.csv").write_bytes(text.encode(encoding))
    with caplog.at_level(logging.INFO):
        read_annotations(tmp_path / "latin.csv")
    assert "columns: Filename, Onset, Offset, Activity; times as hh:mm:ss; separated by semicolons" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "video,start,end,label\na.mp4,x,2,walk\n", "line 2: start = 'x' is not a time in seconds, mm:ss"),
        ("t.csv", "video,start,end,label\na.mp4,00:00:01:05,2,walk\n", "counts frames; add a column fps"),
        ("t.csv", "video,start,end,label,fps\na.mp4,00:00:01:25,2,walk,25\n", "counts 25 frames, but a second has 25"),
        ("t.csv", "video,label,Label\na.mp4,walk,run\n", "columns label and Label may both be the label"),
        ("t.csv", "file;begin\na.mp4;1\n", "no column label; needed are video and label"),
        ("t.csv", "video,start,end,label\na.mp4,3,2,walk\n", "it ends at 2 s, before its start at 3 s"),
        ("t.csv", "a,b\n1,2\n", "has no heading that is known; its first line is 'a,b'"),
        ("t.xlsx", "no workbook", "can't be read as a workbook of Excel"),
        ("t.boris", "{}", "not a project of BORIS"),
        ("t.boris", json.dumps(project(["a.mp4"], [[1.0, "x", "gehen", "", ""]], {})), "begins and never ends"),
        ("t.boris", json.dumps(project([], [[1.0, "x", "gehen", "", ""]], {})), "observation 'obs 1': names no media"),
        ("t.boris", json.dumps(project(["a", "b"], [[1.0, "x", "winken", "", ""]], {})), "tells how long they are"),
        ("t.boris", json.dumps(project(["a"], [["1", "x", "winken", "", ""]], {})), "event 1: should be [seconds, "),
        ("t.boris", json.dumps(project(["a"], [[1, "x", "sitzen", "", ""]], {})), "event 1: behaviour 'sitzen' is not"),
        ("t.boris", json.dumps(project(["a"], [[1.7e9, "x", "winken", "", ""]], {})), "1.7e+09 s counts from 1970"),
        (
            "t.boris",
            json.dumps(project(["a"], [[1, "", "gehen", "", ""]], {})),
            "'gehen' in observation 'obs 1' begins",
        ),
        ("t.boris", '{"behaviors_conf": [], "observations": {}}', "'behaviors_conf' should be a dict, but is []"),
        ("t.csv", "video,start,end,label\na,0:61,2:00,x\n", "line 2: start = '0:61' is not a time"),
        ("t.csv", "video,start,end,label\na,0:60:00,2:00:00,x\n", "line 2: start = '0:60:00' is not a time"),
        ("t.csv", "video,start_ms,end_ms,label\na,1,2,x\n", "column 'start_ms' holds no seconds; write seconds"),
        ("t.csv", "video,Start (frame),end,label\na,1,2,x\n", "column 'Start (frame)' holds no seconds"),
    ],
)
def test_mistakes_in_tables_and_projects(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError) as caught:
        read_annotations(tmp_path / name)
    assert message in str(caught.value)


def test_a_label_map_is_read_like_any_table(tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_bytes("from;to\nstürzen;fall\n".encode("latin-1"))
    assert read_label_map(tmp_path / "map.csv") == {"stürzen": "fall"}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1", 1.0), ("1,5", 1.5), (".5", 0.5), ("2.5 s", 2.5), ("1:02", 62.0), ("1:02:03,5", 3723.5), ("", None)],
)
def test_times(text: str, seconds: float | None) -> None:
    assert seconds_of("here", "start", text) == seconds


def test_headings_in_camel_case(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("fileName,startTime,endTime,activityLabel\na.mp4,1,2,walk\n")
    assert found(tmp_path / "t.csv") == [("a.mp4", 1.0, 2.0, "walk")]


def test_frames_of_timecodes_are_counted_at_the_nominal_rate() -> None:
    """Ten minutes by the timecode are 18,000 frames, which take 600.6 s."""
    assert seconds_of("here", "start", "00:10:00:29", 29.97) == pytest.approx((18_000 + 29) / 29.97)


def test_labels_of_frames_may_have_commas(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("fall, hard\nfall, hard\nwalk\n")
    assert [(each.label, each.frames) for each in read_annotations(tmp_path / "a.txt")] == [
        ("fall, hard", (0, 2)),
        ("walk", (2, 3)),
    ]


def workbook(path: Path, rows: list[list[object]], number_format: str = "General") -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.worksheets[0].append(row)
    for row_of_cells in book.worksheets[0].iter_rows():
        for cell in row_of_cells:
            if cell.is_date:
                cell.number_format = number_format
    book.save(path)
    return path


def test_times_of_excel_are_read_as_they_are_shown(tmp_path: Path) -> None:
    """Typed 1:30 becomes half past one, shown as 1:30; more than a day is a date in January 1900."""
    head: list[object] = ["video", "start", "end", "label"]
    typed = workbook(tmp_path / "a.xlsx", [head, ["a", datetime.time(0, 5), datetime.time(1, 30), "x"]], "h:mm")
    assert found(typed) == [("a", 5.0, 90.0, "x")]
    late = workbook(tmp_path / "a.xlsx", [head, ["a", 0, datetime.datetime(1900, 1, 1, 1, 30), "x"]], "hh:mm:ss")
    assert found(late) == [("a", 0.0, 91_800.0, "x")]


def test_workbooks_that_are_refused(tmp_path: Path) -> None:
    rows: list[list[object]] = [["video", "start", "label"], ["a", "=1+1", "x"]]
    with pytest.raises(UsageError, match="line 2: B2 is a formula without its value; open the workbook"):
        read_annotations(workbook(tmp_path / "a.xlsx", rows))
    plain = workbook(tmp_path / "a.xlsx", [["video", "label"], ["a", "x"]])
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(tmp_path / "b.xlsx", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[: len(content) // 2] if name.endswith("sheet1.xml") else content)
    with pytest.raises(UsageError, match=r"b\.xlsx: can't be read as a workbook of Excel"):
        read_annotations(tmp_path / "b.xlsx")
