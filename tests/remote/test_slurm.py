"""The Slurm script, with an `srun` that starts its command on this machine: heads, workers and the job are real."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from pipeline.lake.progress import progress_of
from pipeline.lake.store import Lake
from tests.conftest import REPOSITORY
from tests.remote.conftest import BIN

SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
[ "$*" = "show hostnames nodes" ] && printf '127.0.0.1\\n127.0.0.1\\n'
"""


@pytest.mark.e2e
@pytest.mark.long
@pytest.mark.parametrize("sources", ["archive", "nothing"])
def test_the_script_runs_a_job_and_leaves_nothing_running(archive: Path, tmp_path: Path, sources: str) -> None:
    for name, script in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    env = os.environ | {
        "PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "nodes",
        "SLURM_CPUS_ON_NODE": "1",
    }
    source = archive if sources == "archive" else tmp_path / "nothing"
    done = subprocess.run(
        [
            "bash", str(REPOSITORY / "cluster" / "slurm.sh"), str(source), "--lake", str(tmp_path / "lake"),
            "--scope", "frame", "--sample-fps", "2",
        ],
        env=env, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    token = next((line for line in done.stdout.splitlines() if "RAY_AUTH_TOKEN" in line), None)
    assert token is None
    if sources == "archive":
        assert done.returncode == 0, done.stderr
        assert "fused: 2 workers" in done.stderr
        found = progress_of(Lake(str(tmp_path / "lake")))
        assert (found.n_videos_committed, found.is_done) == (8, True)
    else:
        assert done.returncode == 2
        assert "no such file or folder" in done.stderr
    mine = [each for each in psutil.process_iter() if env["SLURM_JOB_ID"] == _variable(each, "SLURM_JOB_ID")]
    assert mine == []


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except psutil.Error:
        return None
