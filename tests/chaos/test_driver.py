"""The command itself is interrupted, or dies, or loses its cluster; then the same command is given again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.chaos import faults
from tests.chaos.conftest import N_CHUNKS
from tests.chaos.faults import Fault
from tests.chaos.job import VARIABLE
from tests.conftest import REPOSITORY
from tests.lakes import assert_same, leftovers

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

LONG = pytest.mark.long
OPTIONS = """
[features]
scope = "frame"
sample_fps = 5.0

[resources]
chunk_s = 0.5
shard_videos = 2
workers = {workers}

[limits]
grace_s = {grace_s}
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(params=["local", pytest.param("ray", marks=LONG)])
def engine(request: pytest.FixtureRequest) -> str:
    """Who runs the job."""
    return str(request.param)


@pytest.fixture
def command(engine: str, archive: Path, lake: Path, tmp_path: Path) -> Command:
    """The command over the archive; afterwards none of the processes that it started may live on."""
    folder = tmp_path / "faults"
    faults.set_faults(folder, [])

    def run(grace_s: float = 60.0, workers: int = 2, **driver: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / "job.toml").write_text(OPTIONS.format(grace_s=grace_s, workers=workers))
        marked = os.environ | {
            faults.FOLDER: str(folder),
            "PYTHONPATH": faults.PYTHONPATH,
            VARIABLE: json.dumps(driver),
        }
        arguments = ["analyze", archive, "--lake", lake, "--config", tmp_path / "job.toml", "--engine", engine]
        done = subprocess.run(
            [sys.executable, "-m", "tests.chaos.job", *arguments],
            capture_output=True, text=True, check=False, env=marked, cwd=REPOSITORY, timeout=240,
        )  # fmt: skip
        _, alive = psutil.wait_procs(family_of(folder), timeout=60)
        assert [process.cmdline() for process in alive] == [], "orphans"
        return done

    return run


def family_of(folder: Path) -> list[psutil.Process]:
    """Return the processes that were started with this folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(faults.FOLDER) == str(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(("name", "code"), [pytest.param("SIGINT", 130, marks=LONG), ("SIGTERM", 143)])
def test_a_signal_lets_what_is_under_way_be_finished(
    undisturbed: Path, command: Command, lake: Path, tmp_path: Path, name: str, code: int
) -> None:
    """No chunk is decoded twice, and none is lost; without the ledger's stop the job would run on to its end."""
    stopped = command(chunks=4, do=name)
    assert stopped.returncode == code, stopped.stderr
    said = " ".join(stopped.stderr.split())
    assert "stopping: chunks under way are finished, for at most 60 s; once more to stop at once" in said
    assert "interrupted; what is finished is kept, the same command goes on from there" in said
    assert "Traceback" not in said
    before = len(faults.chunks_decoded(tmp_path / "faults"))
    assert 4 <= before < N_CHUNKS
    assert command(workers=1).returncode == 0
    assert len(faults.chunks_decoded(tmp_path / "faults")) == N_CHUNKS
    assert_same(lake, undisturbed)
    assert leftovers(lake) == []


@pytest.mark.parametrize("twice", [pytest.param(False, marks=LONG), True])
def test_what_hangs_is_left_after_the_grace_time_or_at_the_second_signal(
    undisturbed: Path, command: Command, lake: Path, tmp_path: Path, twice: bool
) -> None:
    """A worker that never comes back holds nobody up: without the timer, and the second handler, this test hangs."""
    faults.set_faults(tmp_path / "faults", [Fault("decode", "hang", calls=[7])])
    stopped = command(grace_s=600.0 if twice else 1.0, chunks=4, do="SIGINT", twice=twice)
    assert stopped.returncode == 130, stopped.stderr
    assert ("interrupted; what is finished is kept" in stopped.stderr) != twice
    faults.set_faults(tmp_path / "faults", [])
    assert command(workers=1).returncode == 0
    assert_same(lake, undisturbed)
    assert leftovers(lake) == []


@pytest.mark.parametrize(
    ("stage", "chunks", "videos", "do"),
    [
        pytest.param("planning", 0, 0, "SIGKILL", marks=LONG),
        pytest.param("extracting", 5, 0, "SIGKILL", marks=LONG),
        ("extracting", 0, 4, "tree"),
        pytest.param("extracting", 5, 0, "raylet", marks=LONG),
    ],
)
def test_the_same_command_goes_on_after_any_death(
    undisturbed: Path, command: Command, engine: str, lake: Path, tmp_path: Path, stage: str, chunks: int, videos: int,
    do: str,
) -> None:  # fmt: skip
    """Kills the driver alone, all processes at one blow, or Ray itself; what was finished is not decoded again.

    The dead run's lease is taken over at once; if it were not, the second command would be refused.
    """
    if do == "raylet" and engine != "ray":
        return
    died = command(stage=stage, chunks=chunks, videos=videos, do=do)
    assert died.returncode == (1 if do == "raylet" else -9), died.stderr
    again = command(workers=1)
    assert again.returncode == 0, again.stderr
    before = re.search(r"(\d+) (were done|chunks were finished) before", again.stdout)
    assert (before is None) == (stage == "planning"), again.stdout
    assert len(faults.chunks_decoded(tmp_path / "faults")) - N_CHUNKS <= 2, "a chunk for each worker"
    assert_same(lake, undisturbed)
    assert leftovers(lake) == []
