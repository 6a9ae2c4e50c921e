"""What runs without Ray: it is not even imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import open_lake
from pipeline.config import Config
from pipeline.engine.analyze import choose_engine
from tests.conftest import REPOSITORY

FORBIDDEN = """
import sys
class Forbidden:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] == "ray":
            raise AssertionError("ray is imported")
sys.meta_path.insert(0, Forbidden())
"""
ROOMS = ("archive", "video", "vision", "motion", "activity", "lake", "report", "steps")


def python(program: str, *arguments: object) -> str:
    """Run a program in which nobody may import Ray, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", FORBIDDEN + program, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=REPOSITORY,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_steps_and_all_below_them_know_nothing_of_ray() -> None:
    modules = [
        str(path.relative_to(REPOSITORY).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for room in ROOMS
        for path in sorted((REPOSITORY / "pipeline" / room).rglob("*.py"))
    ]
    assert len(modules) > 50
    python("import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)", *modules)


def test_only_a_cluster_or_what_needs_one_makes_a_job_run_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert choose_engine("auto", None, Config()) == "local"
    assert choose_engine("auto", None, Config(layout="split")) == "ray"
    assert choose_engine("auto", "head:6379", Config()) == "ray"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert choose_engine("auto", None, Config()) == "ray"
    assert choose_engine("local", None, Config()) == "local"


@pytest.mark.e2e
def test_a_clip_is_analyzed_by_the_command(street: Path, tmp_path: Path) -> None:
    python(
        "from pipeline.cli import main\nsys.argv[0] = 'actionlake'\nmain()",
        "analyze", street, "--lake", tmp_path / "lake", "--sample-fps", 5,
    )  # fmt: skip
    lake = open_lake(str(tmp_path / "lake"))
    assert lake.table("videos")["status"].to_pylist() == ["ok"]
    assert "walk" in lake.table("segments")["label"].to_pylist()


@pytest.mark.e2e
def test_the_steps_run_one_after_the_other_in_a_notebook(numbered: Path, tmp_path: Path) -> None:
    found = python(
        "from pipeline.config import Config\n"
        "from pipeline.engine.models import choose_models\n"
        "from pipeline.steps.in_order import analyze_in_order\n"
        "config = Config(scope='frame', sample_fps=5.0, shard_videos=1)\n"
        "for summary in analyze_in_order(sys.argv[1:3], sys.argv[3], config, choose_models('default', 'frame')):\n"
        "    print(summary.shard, summary.n_videos, summary.n_failed)",
        numbered / "h264.mp4", numbered / "vp9.webm", tmp_path / "lake",
    )  # fmt: skip
    assert found.splitlines() == ["0 1 0", "1 1 0"]
