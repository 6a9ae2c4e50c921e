"""What BORIS writes of files that are played one after the other, of something live, and of what is damaged."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.training.formats import read_annotations
from tests.training.test_tables import found, project


def exported(name: str, rows: list[list[str]], path: Path) -> Path:
    """Write what BORIS 8 exports of an observation that plays files of 100 s one after the other."""
    times = ["Start (s)", "Stop (s)"] if name == "aggregated" else ["Time"]
    head = ["Observation id", "Source", "Media duration (s)", "Subject", "Behavior", "Modifier #1", "Behavior type"]
    source = "player #1:/v/z.mp4;/v/a.mp4;/v/b.mp4|player #2:/v/side.mp4"
    about = ["o", source, "100.000;100.000;100.000|300.000", ""]
    lines = [[*head, *times, "Media file name"], *([*about, *row] for row in rows)]
    path.write_text("\n".join("\t".join(line) for line in lines))
    return path


QUEUED = [("z.mp4", 20.0, 40.0, "gehen"), ("z.mp4", 90.0, None, "sitzen"), ("a.mp4", 0.0, None, "sitzen")]
QUEUED += [("b.mp4", 0.0, 5.0, "sitzen"), ("a.mp4", 20.5, 20.5, "winken")]
"""A state that goes on in further files of a queue, which are not in the order of their names."""


def test_exports_of_a_queue(tmp_path: Path) -> None:
    aggregated = [
        ["gehen", "", "STATE", "20", "40", "/v/z.mp4"],
        ["sitzen", "", "STATE", "90", "205", "/v/z.mp4"],
        ["winken", "", "POINT", "120.5", "120.5", "/v/a.mp4"],
    ]
    assert found(exported("aggregated", aggregated, tmp_path / "a.tsv")) == sorted(QUEUED, key=str)
    tabular = [
        ["gehen", "", "START", "20", "/v/z.mp4"],
        # A modifier that BORIS asks for at the stop alone.
        ["gehen", "fast", "STOP", "40", "/v/z.mp4"],
        ["sitzen", "", "START", "90", "/v/z.mp4"],
        ["winken", "", "POINT", "120.5", "/v/a.mp4"],
        ["sitzen", "", "STOP", "205", "/v/b.mp4"],
    ]
    assert found(exported("tabular", tabular, tmp_path / "b.tsv")) == sorted(QUEUED, key=str)


def test_a_project_of_a_queue(tmp_path: Path) -> None:
    files = ["/v/z.mp4", "/v/a.mp4", "/v/b.mp4"]
    listed = [(20, "gehen"), (40, "gehen"), (90, "sitzen"), (120.5, "winken"), (205, "sitzen")]
    content: dict[str, Any] = project(
        files, [[t, "", code, "", "", 0] for t, code in listed], dict.fromkeys(files, 100.0)
    )
    content["behaviors_conf"]["9"] = {"type": "State event with coding map", "code": "sitzen"}
    content["observations"]["empty"] = {"type": "MEDIA", "file": {"1": []}, "events": []}
    content["observations"]["live"] = {"type": "LIVE", "file": [], "events": [[1.0, "", "gehen", "", ""]]}
    (tmp_path / "p.boris").write_text(json.dumps(content))
    assert found(tmp_path / "p.boris") == sorted(QUEUED, key=str)
    content["observations"]["obs 1"]["events"].append([305, "", "winken", "", "", 0])
    (tmp_path / "p.boris").write_text(json.dumps(content))
    with pytest.raises(UsageError, match="event 6: 305 s is past the end of the observation's files at 300 s"):
        read_annotations(tmp_path / "p.boris")


def test_events_of_something_live_are_left_out_and_those_in_no_file_refused(tmp_path: Path) -> None:
    head = "Observation id\tSource\tBehavior\tBehavior type\tTime\tMedia file name\n"
    (tmp_path / "a.tsv").write_text(f"{head}l\tNA\tx\tPOINT\t1\tNA\no\t/v/a.mp4\tx\tPOINT\t1\t/v/a.mp4\n")
    assert found(tmp_path / "a.tsv") == [("a.mp4", 1.0, 1.0, "x")]
    (tmp_path / "a.tsv").write_text(f"{head}o\t/v/a.mp4\tx\tPOINT\t1\tNot found\n")
    with pytest.raises(UsageError, match="line 2: BORIS found no file at the time of this event"):
        read_annotations(tmp_path / "a.tsv")


def test_a_damaged_project_is_told(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(json.dumps(project(["a"], [], {})).encode()))
    packed[15:17] = b"\xff\x55"
    (tmp_path / "p.boris.gz").write_bytes(bytes(packed))
    with pytest.raises(UsageError, match=r"p\.boris\.gz: can't be read as a project of BORIS"):
        read_annotations(tmp_path / "p.boris.gz")
