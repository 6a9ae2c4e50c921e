"""Ctrl-C amid what is written for people to look at: one line, and nothing that is half written looks whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.shown import make_lake
from tests.test_cli import here, text

# The command itself, in which one function sends Ctrl-C: after its first item, or where it is called.
STOPPED = """
import importlib, os, signal, sys

module, name = sys.argv.pop(1).split(":")
there = importlib.import_module(module)
whole = getattr(there, name)

def stopped_by_ctrl_c(*arguments, **options):
    for each in whole(*arguments, **options):
        yield each
        os.kill(os.getpid(), signal.SIGINT)

def stopped_at_once(*arguments, **options):
    os.kill(os.getpid(), signal.SIGINT)

setattr(there, name, stopped_by_ctrl_c if name == "cut_here" else stopped_at_once)
from pipeline.cli import main
main()
"""


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_lake(tmp_path_factory.mktemp("shown"), 1)


def stopped(where: str, *arguments: str | Path) -> str:
    """Return what a command says that Ctrl-C ends amid a function, `module:name`."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, where, *map(str, arguments)],
        capture_output=True, check=False, cwd=REPOSITORY, timeout=120,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr.decode()
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1, done.stderr.decode()
    return text(done.stderr)


def test_clips_are_whole_and_the_table_that_tells_so_is_not_there(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "clips"
    command = ("clips", "--lake", lake, "--out", out, "--workers", "1")
    assert here(*command, "--where", "label = 'walk'").returncode == 0
    said = stopped("pipeline.engine.cuts:cut_here", *command)
    assert said == f"interrupted; 1 clips are in {out}, but no clips.csv; the same command starts again"
    assert {path.suffix for path in out.iterdir()} == {".mp4"}
    assert not list(out.glob(".*"))


def test_a_page_is_not_there_before_all_its_clips_are(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    command = ("report", "--lake", lake, "--out", out, "--workers", "1")
    assert here(*command).returncode == 0
    said = stopped("pipeline.engine.cuts:cut_here", *command)
    assert said == f"interrupted; 1 clips are in {out}, but no page; the same command starts again"
    assert [path.name for path in out.iterdir()] == ["clips"]
    assert [path.name for path in (out / "clips").glob(".*")] == [".actionlake-report"]


def test_a_video_is_there_when_it_is_whole(lake: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.mp4"
    out.write_bytes(b"an earlier one")
    said = stopped("pipeline.report.cutting:draw_person", "video", "--lake", lake, "140000", "--out", out)
    assert said == f"interrupted; {out} is not written; the same command starts again"
    assert [(path, path.read_bytes()) for path in tmp_path.iterdir()] == [(out, b"an earlier one")]


def test_a_review_that_has_not_begun(lake: Path, tmp_path: Path) -> None:
    said = stopped("pipeline.lake.query:open_lake", "review", "--lake", lake, "--answers", tmp_path / "a.csv")
    assert said == "interrupted; the same command starts again"
    said = stopped("pipeline.report.ordering:order", "review", "--lake", lake, "--answers", tmp_path / "a.csv")
    assert said == "interrupted; the same command starts again"
    assert list(tmp_path.iterdir()) == []
