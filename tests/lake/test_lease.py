"""One job at a time on a lake: the second is refused, one that died is succeeded, one that lost its lease stops."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import ActionlakeError, UsageError
from pipeline.lake import lease
from pipeline.lake.store import Lake
from tests.conftest import REPOSITORY

HOLD = """
import sys
from pipeline.lake.lease import leased
from pipeline.lake.store import Lake
with leased(Lake(sys.argv[1]), "the first job"):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(lake: str) -> subprocess.Popen[str]:
    """Start a process that holds the lease until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, lake], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats and waits of fractions of a second."""
    monkeypatch.setattr(lease, "_BEAT_S", 0.02)
    monkeypatch.setattr(lease, "_LOOKS_EVERY_S", 0.02)
    monkeypatch.setattr(lease, "_LAPSES_AFTER_S", 0.3)
    monkeypatch.setattr(lease, "_SETTLES_AFTER_S", 0.05)


def elsewhere(lake: Lake, **facts: object) -> None:
    """Write a lease that a process of another machine holds."""
    holder = replace(lease._Holder.here("a job elsewhere"), host="another", **facts)
    lake.write_bytes("_lease.json", json.dumps(vars(holder)).encode())


def test_the_second_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    """Without the look at the lease both would write."""
    lake = str(tmp_path / "lake")
    first = hold(lake)
    with (
        pytest.raises(UsageError, match=rf"the first job \(process {first.pid} on .*\) works on it"),
        lease.leased(Lake(lake), "this job"),
    ):
        pass
    first.communicate("")
    with lease.leased(Lake(lake), "this job") as held:
        held.check()
    assert not (tmp_path / "lake" / "_lease.json").exists()


def test_that_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    first = hold(lake)
    first.kill()
    first.wait()
    assert (tmp_path / "lake" / "_lease.json").exists()
    with lease.leased(Lake(lake), "this job") as held:
        held.check()


def test_that_of_another_machine_is_taken_over_when_it_is_not_renewed(tmp_path: Path, quick: None) -> None:
    lake = Lake(str(tmp_path / "lake"))
    elsewhere(lake)
    with lease.leased(lake, "this job") as held:
        held.check()


def test_that_of_another_machine_holds_while_it_is_renewed(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    elsewhere(lake)
    looked = lease._read

    def renewed_meanwhile(at: Lake) -> object:
        there = looked(at)
        assert there is not None
        elsewhere(lake, token=there.token, beat=there.beat + 1)
        return there

    monkeypatch.setattr(lease, "_read", renewed_meanwhile)
    with pytest.raises(UsageError, match="a job elsewhere"), lease.leased(lake, "this job"):
        pass


@pytest.mark.parametrize("uri", ["{folder}/lake", "memory://{folder}/lake"])
def test_who_loses_it_stops(tmp_path: Path, quick: None, uri: str) -> None:
    """A job that slept too long finds another at work; without the check both would go on."""
    lake = Lake(uri.format(folder=tmp_path))
    with lease.leased(lake, "this job") as held:
        held.check()
        elsewhere(lake)
        held._thread.join(timeout=60)
        assert not held._thread.is_alive()
        with pytest.raises(ActionlakeError, match=r"a job elsewhere .* took it over; this one stops"):
            held.check()
    assert b"a job elsewhere" in lake.read_bytes("_lease.json"), "another's lease is not given back"
