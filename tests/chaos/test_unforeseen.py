"""Exceptions that nobody foresaw, in every step of a job: each costs a chunk or a video, never the job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from pipeline import ActionlakeError, analyze
from pipeline.engine.models import choose_models, fitted
from pipeline.lake.query import open_lake
from pipeline.lake.store import Lake
from pipeline.lake.verify import verify
from pipeline.steps.extract import Extractor
from tests.chaos import faults
from tests.chaos.conftest import CONFIG
from tests.chaos.faults import Fault
from tests.lakes import TABLES, analyze_here, assert_same, leftovers, rows

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

STAGES = {"decode": 3, "detect": 7, "embed": 11, "flow": 15, "write": 19, "track": 3, "label": 2}
"""Before which call of each something is raised; a chunk that has failed makes none of the later calls."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """PyTorch as in the actors that label: the last bit of a score depends on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_fault_in_every_step_costs_one_row_of_failures_each(
    archive: Path, breakable: Path, lake: Path, one_thread: None
) -> None:
    """Without the guards the first of them ends the job, with the words of Ray Data."""
    bundles = choose_models("default", "both")
    config = fitted(replace(CONFIG, scope="both"), bundles)
    faults.set_faults(breakable, [Fault(stage, "raise", [call]) for stage, call in STAGES.items()])
    state = analyze(str(archive), str(lake), config=config)
    assert (state.n_videos_done, state.n_failures) == (8, len(STAGES))
    failures = open_lake(str(lake)).table("failures").to_pylist()
    assert Counter(row["stage"] for row in failures) == Counter(STAGES.keys())
    assert {(row["kind"], row["attempts"]) for row in failures} == {("internal", 1)}
    assert verify(Lake(str(lake))) == []
    quiet = lake.parent / "quiet"
    analyze_here([str(archive)], quiet, config, bundles, Extractor(config))
    with_faults = {row["video_id"] for row in failures}
    for table in TABLES:
        ours, theirs = (_rows_of_others(folder, table, with_faults) for folder in (lake, quiet))
        assert ours.equals(theirs), table


def _rows_of_others(lake: Path, table: str, video_ids: set[str]) -> pa.Table:
    """Return the rows of all other videos, by video, whatever shard they are in."""
    found = rows(lake, table, {"n_chunks", "shard"}).filter(~pc.field("video_id").isin(list(video_ids)))
    return found.take(np.argsort(found["video_id"].to_numpy(), kind="stable")).combine_chunks()


def test_a_job_that_fails_for_every_video_stops_and_goes_on_when_that_is_mended(
    archive: Path, undisturbed: Path, breakable: Path, lake: Path
) -> None:
    """Nothing that failed so counts as done; without the count of them the lake would be all failures."""
    faults.set_faults(breakable, [Fault("decode", "raise", [])])
    with pytest.raises(ActionlakeError, match=r"20 of 20 chunks failed with unexpected errors, .*KeyError"):
        analyze(str(archive), str(lake), config=CONFIG)
    assert open_lake(str(lake)).table("videos").num_rows == 0
    faults.set_faults(breakable, [])
    state = analyze(str(archive), str(lake), config=CONFIG)
    assert (state.n_videos_done, state.n_failures) == (8, 0)
    assert_same(lake, undisturbed)
    assert leftovers(lake) == []
