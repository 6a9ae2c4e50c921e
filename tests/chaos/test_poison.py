"""Files that crash, hang, block or bloat whoever opens or decodes them: given up after some attempts, alone."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import analyze, open_lake
from tests.chaos import faults
from tests.chaos.conftest import CONFIG
from tests.chaos.faults import Fault
from tests.lakes import rows

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.long]

POISON = {
    "segfault": "worker_died",
    "hang": "deadline",
    "hang and hold the interpreter": "worker_died",
    "spin": "deadline",
    "eat memory": "memory",
}


def test_poisonous_files_are_given_up_and_the_others_finish(
    archive: Path, undisturbed: Path, breakable: Path, lake: Path, tmp_path: Path
) -> None:
    """Twenty deaths by ten files, whoever opens them and whoever decodes them.

    Without the ledger's count the job tries for ever; without the deadline, or its last resort in C, it hangs; without
    the limit on memory the worker grows until the machine is full.
    """
    videos = tmp_path / "videos"
    shutil.copytree(archive, videos)
    poison = []
    for number, action in enumerate(POISON):
        for point in ("probe", "decode"):
            name = f"{point}-{number}.mp4"
            shutil.copy(archive / "0.mp4", videos / name)
            poison.append(Fault(point, action, calls=(), match=name))
    faults.set_faults(breakable, poison)
    config = replace(CONFIG, max_attempts=2, deadline_base_s=3.0, deadline_per_s=0.0, worker_memory_gb=1.2, chunk_s=9.0)
    state = analyze(str(videos), str(lake), config=config)
    assert (state.n_videos_done, state.n_failed, state.n_partial) == (18, 10, 0)
    deaths = Counter(line.split(" ")[0] for line in (breakable / "happened").read_text().splitlines())
    assert deaths["decode"] == 2 * 2 * len(POISON), "two attempts for each half of a file"
    assert 2 * len(POISON) <= deaths["probe"] <= 3 * len(POISON), "two alone, and that of their batch"
    failures = open_lake(str(lake)).table("failures").to_pylist()
    found = {row["uri"].rsplit("/", 1)[1]: (row["stage"], row["kind"]) for row in failures}
    assert found == {
        f"{point}-{number}.mp4": (point, kind)
        for number, kind in enumerate(POISON.values())
        for point in ("probe", "decode")
    }
    said = {row["kind"]: row["message"] for row in failures if row["stage"] == "decode"}
    assert "given up after 2 attempts; it passed its deadline of 3 s (deadline_base_s" in said["deadline"]
    assert "needed more memory than worker_memory_gb = 1.2" in said["memory"]
    good = [row for row in rows(lake, "videos").to_pylist() if row["status"] == "ok"]
    keys = ("size_bytes", "duration_s", "covered_s", "n_frames_sampled")
    assert sorted([row[key] for key in keys] for row in good) == sorted(
        [row[key] for key in keys] for row in rows(undisturbed, "videos").to_pylist()
    )
