"""Hosts of a cluster, each in a network of its own: cables are cut and mended, hosts die and come."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.chaos import faults
from tests.chaos.conftest import N_CHUNKS
from tests.conftest import REPOSITORY
from tests.lakes import assert_same, leftovers

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.long]

SCRIPT = REPOSITORY / "cluster" / "local.sh"
# A host counts as dead after two seconds without a sign of life, not after twenty.
_IMPATIENT = {
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}


@dataclass(frozen=True)
class Hosts:
    env: dict[str, str]

    def command(self, *arguments: str | Path) -> list[str]:
        return ["bash", str(SCRIPT), *map(str, arguments)]

    def do(self, *arguments: str | Path) -> None:
        subprocess.run(self.command(*arguments), env=self.env, check=True, timeout=120)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Three hosts of one core; faults are counted in a folder."""
    tried = subprocess.run(["unshare", "--net", "true"], check=False, capture_output=True)
    if os.geteuid() != 0 or tried.returncode:
        pytest.skip("network namespaces need root")
    number = os.getpid() % 200
    found = Hosts(
        os.environ
        | _IMPATIENT
        | {
            "NAME": f"t{number}",
            "NET": f"10.78.{number}",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            faults.FOLDER: str(tmp_path_factory.mktemp("hosts") / "faults"),
        }
    )
    try:
        found.do("up", "3")
        yield found
    finally:
        found.do("down")


def run_job(hosts: Hosts, archive: Path, lake: Path, steps: dict[int, Callable[[], None]]) -> tuple[int, str]:
    """Run a job on the head; when so many chunks were begun, do something. Return its exit code and what it said."""
    folder = Path(hosts.env[faults.FOLDER])
    faults.set_faults(folder, [])
    options = lake.parent / "job.toml"
    options.write_text('scope = "frame"\nsample_fps = 5.0\nchunk_s = 0.5\nshard_videos = 2\nlayout = "fused"\n')
    command = [sys.executable, "-m", "tests.chaos.job", "analyze", archive, "--config", options, "--lake", lake]
    job = subprocess.Popen(
        hosts.command("run", *command), env=hosts.env, cwd=REPOSITORY,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for n_chunks, step in steps.items():
        while len(faults.chunks_decoded(folder)) < n_chunks:
            assert job.poll() is None, job.communicate()
            time.sleep(0.02)
        step()
    _, said = job.communicate(timeout=300)
    return job.returncode, said


def test_a_host_that_is_cut_off_costs_what_was_under_way_there(
    hosts: Hosts, archive: Path, undisturbed: Path, lake: Path
) -> None:
    """Its cable is mended while it still works on: what it writes then is the same, or swept away."""
    code, said = run_job(
        hosts, archive, lake, {9: lambda: hosts.do("cut", "2"), N_CHUNKS // 2: lambda: hosts.do("mend", "2")}
    )
    assert code == 0, said
    assert "fused: 3 workers" in said
    assert_same(lake, undisturbed)
    assert leftovers(lake) == []
    assert len(faults.chunks_decoded(Path(hosts.env[faults.FOLDER]))) - N_CHUNKS <= 2
    hosts.do("add", "2")


def test_a_host_dies_and_another_comes(hosts: Hosts, archive: Path, undisturbed: Path, lake: Path) -> None:
    def replace() -> None:
        hosts.do("kill", "1")
        hosts.do("add", "3")

    code, said = run_job(hosts, archive, lake, {9: replace})
    assert code == 0, said
    assert "fused: 3 workers" in said
    assert_same(lake, undisturbed)
    assert leftovers(lake) == []
    assert len(faults.chunks_decoded(Path(hosts.env[faults.FOLDER]))) - N_CHUNKS <= 2
