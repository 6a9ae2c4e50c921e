"""Nodes of a cluster die in the midst of a job, and others come; two jobs share one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline import analyze
from pipeline.engine.board import JobState
from tests.chaos import faults
from tests.chaos.conftest import CONFIG, N_CHUNKS
from tests.conftest import REPOSITORY
from tests.lakes import assert_same, leftovers

pytestmark = [pytest.mark.e2e, pytest.mark.chaos]


def _start_cluster(tries: int = 3) -> Cluster:
    """Start two nodes. Ray gives a node 30 s to start and no option for more: a busy machine may need several tries."""
    made = Cluster()
    try:
        for _ in range(2):
            made.add_node(num_cpus=1, object_store_memory=256 << 20)
    except Exception:
        made.shutdown()
        if tries == 1:
            raise
        return _start_cluster(tries - 1)
    return made


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two nodes of one core; faults are counted in the test's folder."""
    monkeypatch.setenv(faults.FOLDER, str(tmp_path / "faults"))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    faults.set_faults(tmp_path / "faults", [])
    made = _start_cluster()
    ray.init(made.address, log_to_driver=False, logging_level="ERROR", runtime_env=faults.RUNTIME_ENV)
    yield made
    ray.shutdown()
    made.shutdown()


# Of `make test` is the death of a worker on Ray, in `tests/engine/test_job.py`.
@pytest.mark.long
@pytest.mark.parametrize("comes_back", [False, True])
def test_a_node_that_dies_takes_its_chunk_with_it_and_nothing_else(
    archive: Path, undisturbed: Path, cluster: Cluster, lake: Path, tmp_path: Path, comes_back: bool
) -> None:
    """Kills the second node's raylet at a receipt; whether another node comes or not, the job ends, and rightly."""
    (other,) = cluster.worker_nodes
    done: list[int] = []

    def kill_node(state: JobState) -> None:
        if state.n_chunks_done >= 6 and not done:
            done.append(state.n_chunks_done)
            cluster.remove_node(other, allow_graceful=False)
            if comes_back:
                cluster.add_node(num_cpus=1, object_store_memory=256 << 20)

    state = analyze(str(archive), str(lake), config=CONFIG, observer=kill_node)
    assert done
    assert (state.n_videos_done, state.n_failed, state.n_partial) == (8, 0, 0)
    assert_same(lake, undisturbed)
    assert len(faults.chunks_decoded(tmp_path / "faults")) - N_CHUNKS <= 2, "what was under way there"
    assert leftovers(lake) == []


@pytest.mark.long
def test_two_jobs_on_two_lakes_share_a_cluster(archive: Path, undisturbed: Path, cluster: Cluster, lake: Path) -> None:
    """Each wants all cores; the later waits for the earlier, and neither for ever."""
    lakes = [lake.with_name("one"), lake.with_name("two")]
    options = lake.parent / "job.toml"
    options.write_text('scope = "frame"\nsample_fps = 5.0\nchunk_s = 0.5\nshard_videos = 2\nlayout = "fused"\n')
    command = [sys.executable, "-m", "pipeline.cli", "analyze", archive, "--config", options]
    jobs = [
        subprocess.Popen(
            [*command, "--address", cluster.address, "--lake", target],
            cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for target in lakes
    ]  # fmt: skip
    for job, target in zip(jobs, lakes, strict=True):
        _, said = job.communicate(timeout=300)
        assert job.returncode == 0, said
        assert_same(target, undisturbed)
