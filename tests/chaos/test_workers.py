"""Processes of a running job die, at every point of their work; nothing is lost, nothing is doubled."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline import analyze
from pipeline.engine.ray import graph
from pipeline.lake.work import Receipt
from tests.chaos import faults
from tests.chaos.conftest import CONFIG, N_CHUNKS, on_ray_alone
from tests.chaos.faults import Fault
from tests.lakes import assert_same, leftovers

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]

# That of the local engine is no process of its own.
LEDGER = Fault("ledger", calls=[17])
STORM = [
    Fault("probe", calls=[3]),
    Fault("decode", calls=[3]),
    Fault("decode", calls=[9], after=True),
    Fault("extract", calls=[14]),
    Fault("write", calls=[20], after=True),
    Fault("rename", calls=[26], match="/_work/"),
    Fault("commit", calls=[1]),
    Fault("commit video", calls=[4]),
    Fault("rename", calls=[2], match="/segments/"),
    Fault("rename", calls=[3], match="/videos/"),
    Fault("rename", calls=[2], match="/videos/", after=True),
    Fault("commit", calls=[3], after=True),
    LEDGER,
]
# What each of the restarts looks for: a chunk under way, one whose features were written, a table, a commit.
SQUALL = [
    Fault("decode", calls=[3]),
    Fault("write", calls=[20], after=True),
    Fault("rename", calls=[2], match="/segments/"),
    Fault("commit", calls=[3], after=True),
]


@pytest.mark.parametrize(
    ("deaths", "n_again"), [(SQUALL, 1), pytest.param(STORM, 4, marks=pytest.mark.long)], ids=["squall", "storm"]
)
def test_a_storm_of_deaths(
    archive: Path, undisturbed: Path, breakable: Path, lake: Path, deaths: list[Fault], n_again: int
) -> None:
    """A dozen deaths in one job: while a file is probed, decoded, embedded, written, renamed, labelled, committed.

    A squall is the few of them after which a restart looks for something else.
    Without the ledger's restart the job on Ray ends at its death; without the look for finished chunks after a restart
    the one whose features were just written is decoded again; without the look for the commit, a shard that was
    committed but not told of is not found any more.
    """
    faults.set_faults(breakable, deaths)
    state = analyze(str(archive), str(lake), config=CONFIG)
    assert faults.times_happened(breakable) == sum(ray.is_initialized() or death is not LEDGER for death in deaths)
    assert (state.n_videos_done, state.n_failed, state.n_partial) == (8, 0, 0)
    assert_same(lake, undisturbed)
    again = len(faults.chunks_decoded(breakable)) - N_CHUNKS
    assert again == n_again, "the chunk that was under way at each death, but not the one whose features were written"
    analyze(str(archive), str(lake), config=CONFIG)
    assert leftovers(lake) == []


@pytest.mark.long
@on_ray_alone
def test_receipts_that_are_lost_on_their_way_are_found_in_the_lake(
    archive: Path, undisturbed: Path, breakable: Path, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a node takes some with it that dies. Without the recount their chunks are decoded again."""
    faults.set_faults(breakable, [])
    extract, lost = graph.extract_features, []

    def lossy(*arguments: Any) -> Iterator[list[Receipt]]:
        for receipts in extract(*arguments):
            if len(lost) < 5:
                lost.extend(receipts)
            else:
                yield receipts

    monkeypatch.setattr(graph, "extract_features", lossy)
    state = analyze(str(archive), str(lake), config=CONFIG)
    assert len(lost) >= 5
    assert (state.n_videos_done, state.n_chunks_done) == (8, N_CHUNKS)
    assert len(faults.chunks_decoded(breakable)) == N_CHUNKS
    assert_same(lake, undisturbed)
