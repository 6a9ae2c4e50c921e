"""Zones and lines over a lake: tables of stays, crossings, and crossings that forecasts expect."""

from __future__ import annotations

from pathlib import Path

import pyarrow.csv as pacsv
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.errors import UsageError
from pipeline.lake.places import parse_line, parse_zone, watch, write_places
from pipeline.lake.query import open_lake
from pipeline.steps.foretell import ForetellOptions
from tests.engine.test_forecast import straight_on, tell, walk
from tests.lakes import lake_of_walkers

ZONE = parse_zone("door=200,50,300,50,300,150,200,150")
LINE = parse_line("gate=400,0,400,600")


@pytest.fixture
def walkers(tmp_path: Path) -> Path:
    """Two who pass the door, of whom one goes through the gate, and one who comes back through it elsewhere."""
    people = {1: walk(0, 10, 0, 100), 2: walk(0, 4, 100, 100)}
    return lake_of_walkers(tmp_path / "lake", [{"a1": people, "b1": {1: walk(0, 6, 600, 300, right=-40)}}])


def test_who_was_where_and_crossed_what(walkers: Path) -> None:
    found = watch(open_lake(str(walkers)), [ZONE], [LINE])
    assert [(row["video_id"], row["track_id"], row["zone"]) for row in found.visits.to_pylist()] == [
        ("a1", 1, "door"),
        ("a1", 2, "door"),
    ]
    one, other = found.visits.to_pylist()
    assert (one["entered_s"], one["left_s"], one["dwell_s"]) == pytest.approx((4.0, 6.0, 2.0))
    assert (other["was_there"], other["stays"]) == (False, True)
    (crossing, back) = found.crossings.to_pylist()
    # The line goes down the picture: who walks right passes to its left.
    assert (crossing["video_id"], crossing["track_id"], crossing["direction"]) == ("a1", 1, "left")
    assert crossing["at_s"] == pytest.approx(8.0)
    assert (back["video_id"], back["at_s"], back["direction"]) == ("b1", pytest.approx(5.0), "right")
    assert found.expected.num_rows == 0


def test_forecasts_tell_who_will_cross(walkers: Path, tmp_path: Path) -> None:
    lake = tell(walkers, straight_on(tmp_path), ForetellOptions())
    found = watch(lake, lines=[LINE])
    of_one = {
        row["made_at_s"]: row for row in found.expected.to_pylist() if (row["video_id"], row["track_id"]) == ("a1", 1)
    }
    # It is crossed at 8.0 s; 4.8 s ahead are foretold.
    assert of_one[6.0]["probability"] == 1.0
    assert of_one[6.0]["in_s"] == pytest.approx(2.0, abs=0.1)
    assert of_one[6.0]["direction"] == "left"
    assert not any(made_at_s > 8.1 or made_at_s < 3.0 for made_at_s in of_one)


def test_a_condition_chooses_the_camera(walkers: Path) -> None:
    found = watch(open_lake(str(walkers)), lines=[LINE], where="camera = 'b'")
    assert found.crossings["video_id"].to_pylist() == ["b1"]
    with pytest.raises(UsageError, match="--where 'colour = 1': no condition on the columns of videos"):
        watch(open_lake(str(walkers)), lines=[LINE], where="colour = 1")


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_zone, "door", r"--zone 'door': a name and pairs of pixels are wanted, such as --zone door=100"),
        (parse_zone, "=1,2,3,4,5,6", "a name and pairs of pixels"),
        (parse_zone, "a=1,2,3,4,5", "a name and pairs of pixels"),
        (parse_zone, "a=1,2,x,4,5,6", "a name and pairs of pixels"),
        (parse_zone, "a=1,2,3,4,5,inf", "a name and pairs of pixels"),
        (parse_zone, "a=1,2,3,4", "2 corners; a zone has at least 3"),
        (parse_line, "a=1,2,3,4,5,6", "3 points; a line has two that differ"),
        (parse_line, "a=1,2,1,2", "2 points; a line has two that differ"),
    ],
)
def test_what_is_no_place_is_refused(parse: object, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(text)  # type: ignore[operator]


def test_nothing_to_watch_and_names_that_are_not_there(walkers: Path, tmp_path: Path) -> None:
    lake = open_lake(str(walkers))
    with pytest.raises(UsageError, match="name --zone or --line"):
        watch(lake)
    with pytest.raises(UsageError, match="door: several zones or lines of one name"):
        watch(lake, [ZONE, ZONE])
    with pytest.raises(
        UsageError, match=r"no forecasts by 'nobody', but by nobody; run `actionlake forecast --model n"
    ):
        watch(lake, [ZONE], model="nobody")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file: can't be written to"):
        write_places(watch(lake, [ZONE]), tmp_path / "file")


def test_the_command_prints_and_writes(walkers: Path, tmp_path: Path) -> None:
    tell(walkers, straight_on(tmp_path))
    arguments = [
        "watch",
        "--lake",
        str(walkers),
        "--zone",
        "door=200,50,300,50,300,150,200,150",
        "--line",
        "gate=400,0,400,600",
    ]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "door" in done.output
    assert "gate" in done.output
    assert pacsv.read_csv(tmp_path / "out" / "visits.csv")["dwell_s"].to_pylist() == pytest.approx([2.0, 2.0])
    assert pacsv.read_csv(tmp_path / "out" / "crossings.csv")["direction"].to_pylist() == ["left", "right"]
    assert pacsv.read_csv(tmp_path / "out" / "expected.csv").num_rows > 10
