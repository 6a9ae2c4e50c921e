"""Storage that fails, stalls or is full."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import ActionlakeError, analyze
from tests.chaos import faults, storage
from tests.chaos.conftest import CONFIG, on_ray_alone
from tests.chaos.faults import Fault
from tests.lakes import assert_same, leftovers

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

# The whole message: nothing of where in the engine it came from.
FULL = r"^\S+lake: can't be written to \(No space left on device\); what is .* goes on from there$"


def test_a_storage_that_fails_one_in_five_writes_and_stalls(
    archive: Path, undisturbed: Path, breakable: Path, lake: Path
) -> None:
    """Without the retries the first failure ends the job; without the time limit it waits for ever."""
    faults.set_faults(breakable, [])
    storage.register()
    state = analyze(str(archive), f"unreliable://{lake}", config=CONFIG)
    assert state.n_videos_done == 8
    happened = (breakable / "happened").read_text().splitlines()
    assert happened.count("write fails") > 10
    assert happened.count("write stalls") >= 1
    assert_same(lake, undisturbed)
    assert leftovers(lake) == []


@pytest.mark.parametrize("folder", ["_work", pytest.param("segments", marks=pytest.mark.long)])
def test_a_full_disk_stops_the_job_with_the_way_out(
    archive: Path, undisturbed: Path, breakable: Path, lake: Path, folder: str
) -> None:
    """Full at a chunk's features or at a table: a message, no traceback, and the same command again finishes."""
    faults.set_faults(breakable, [Fault("rename", "no space", calls=list(range(3, 100)), match=f"/{folder}/")])
    with pytest.raises(ActionlakeError, match=FULL):
        analyze(str(archive), str(lake), config=CONFIG)
    faults.set_faults(breakable, [])
    state = analyze(str(archive), str(lake), config=CONFIG)
    assert state.n_videos_before + state.n_videos_done == 8
    assert_same(lake, undisturbed)
    assert leftovers(lake) == []


@pytest.mark.long
@on_ray_alone
def test_a_decoder_that_finds_the_disk_full_is_heard_through_the_extractor(
    archive: Path, breakable: Path, lake: Path
) -> None:
    """In the split layout only extractors answer the driver; without the error's row Ray Data adds its own advice."""
    faults.set_faults(breakable, [Fault("decode", calls=()), Fault("rename", "no space", calls=(), match="/_work/")])
    with pytest.raises(ActionlakeError, match=FULL):
        analyze(str(archive), str(lake), config=replace(CONFIG, layout="split", workers=1, max_attempts=1))


def test_a_disk_that_fails_for_a_moment_is_tried_again(
    archive: Path, undisturbed: Path, breakable: Path, lake: Path
) -> None:
    """Without the retries each of these ends the job."""
    moments = [
        Fault("rename", "fail", calls=[5], match="/_work/"),
        Fault("rename", "fail", calls=[2], match="/features/"),
        Fault("rename", "fail", calls=[3], match="/videos/"),
    ]
    faults.set_faults(breakable, moments)
    assert analyze(str(archive), str(lake), config=CONFIG).n_videos_done == 8
    assert faults.times_happened(breakable) == len(moments)
    assert_same(lake, undisturbed)
