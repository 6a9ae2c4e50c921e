"""What a job costs beside its stages alone."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.engine.benchmark import Alone, Benchmark, measure_alone, run_peers
from pipeline.errors import ActionlakeError, UsageError
from tests.bench.peers.__main__ import compared, read_rows
from tests.conftest import REPOSITORY


def test_stages_alone_see_what_a_job_sees(street: Path) -> None:
    """Each stage takes time, and all of them less than the whole that they are parts of."""
    alone = measure_alone([str(street)], Config(sample_fps=5.0, embedder="efficientnet_lite0"))
    assert (alone.n_frames, alone.video_s) == (30, pytest.approx(6.0))
    assert alone.n_boxes > 30
    assert all(seconds > 0 for seconds in alone.stages.values())
    assert alone.busy_s < alone.wall_s
    whole_frames = measure_alone([str(street)], Config(scope="frame", sample_fps=5.0, inputs=("frame",)))
    assert (whole_frames.n_boxes, whole_frames.detect) == (0, 0.0)
    one_look = measure_alone([str(street)], Config(sample_fps=5.0))
    assert one_look.embed == 0.0
    assert one_look.detect > 0.0


def test_a_video_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_text("no video")
    with pytest.raises(ActionlakeError, match=r"no\.mp4: not a video that can be read"):
        measure_alone([str(tmp_path / "no.mp4")], Config(scope="frame"))


def test_efficiency_is_what_the_stages_would_take_on_all_cores_over_what_the_job_took() -> None:
    alone = Alone(120.0, 600, 4000, decode=20.0, detect=10.0, embed=60.0, flow=8.0, label=2.0, wall_s=110.0)
    found = Benchmark(2, (62.5, 50.0), (alone, alone))
    assert found.efficiency == (0.8, 1.0)
    # 110 s in all, of which the stages are 100.
    assert found.between == (0.08, 0.1)
    assert found.rest == pytest.approx((0.12, -0.1))
    assert found.hours_per_hour == (1.92, 2.4)
    assert json.loads(found.to_json())["alone"][1]["embed"] == 60.0


def test_peers_are_run_from_a_checkout_with_weights_that_they_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="takes one video, and detector = the path or name of Ultralytics weights"):
        run_peers(["a.mp4"], Config(), 1, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="run it in a checkout"):
        run_peers(["a.mp4"], Config(detector="some.pt"), 1, None)


@pytest.mark.parametrize("peer", [pytest.param("ultralytics_predict", marks=pytest.mark.long), "plain_processes"])
def test_a_peer_finds_what_the_job_finds(peer: str, street: Path, person_weights: Path, tmp_path: Path) -> None:
    """Those that need no package but ours; each gives every fifth of a second a frame, at which people walk."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.bench.peers.{peer}", street, person_weights, tmp_path / "out"],
        cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = read_rows(peer, tmp_path / "out")
    assert set(rows.steps.tolist()) <= set(range(30))
    assert len(set(rows.steps.tolist())) >= 25
    assert rows.embeddings.shape == (len(rows.boxes), 1280)
    assert ((rows.boxes >= -0.01) & (rows.boxes <= 1.01)).all()
    itself = compared(1.0, rows, rows)
    assert (itself.n_boxes, itself.shared, itself.likeness) == (len(rows.boxes), 1.0, pytest.approx(1.0, abs=1e-3))
    elsewhere = replace(rows, steps=rows.steps + 100)
    assert compared(1.0, rows, elsewhere).shared == 0.0
