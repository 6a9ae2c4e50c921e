"""What a job says of how its actors shared the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from pipeline.config import Config
from pipeline.engine.ray.resources import Layout, choose_layout
from pipeline.errors import UsageError
from tests.test_cli import run as run_command
from tests.test_cli import text

SPLIT = Layout("split", 8, 2, 1.0, 1)


def stages(decode: float, extract: float) -> dict[str, float]:
    return {"decode": decode, "detect": extract * 0.5, "embed": extract * 0.4, "write": extract * 0.1, "label": 9.0}


def test_gpus_that_wait_for_decoders_are_told_how_many_they_need() -> None:
    """Eight decoders were busy all of 100 s; two GPUs had work for 60 s each, which 14 decoders would have given."""
    assert SPLIT.advice(stages(800.0, 120.0), 100.0, "exact") == (
        "GPUs idle 40%: add 6 CPU cores or use sampling = 'fast'"
    )
    assert SPLIT.advice(stages(800.0, 120.0), 100.0, "fast") == "GPUs idle 40%: add 6 CPU cores"


@pytest.mark.parametrize(
    ("layout", "decode", "extract"),
    [
        (SPLIT, 800.0, 180.0),
        (SPLIT, 300.0, 60.0),
        (SPLIT, 0.0, 0.0),
        (Layout("fused", 8, 0, 0.0, 1), 400.0, 400.0),
        (Layout("split", 8, 1, 0.0, 1), 800.0, 20.0),
    ],
    ids=["busy", "both idle", "nothing done", "no extractors", "no GPU"],
)
def test_otherwise_nothing_is_advised(layout: Layout, decode: float, extract: float) -> None:
    assert layout.advice(stages(decode, extract), 100.0, "exact") == ""


def test_workers_may_be_more_than_there_are_cpus_yet(local_ray: None, caplog: pytest.LogCaptureFixture) -> None:
    """On two cores; those who label grow with those who decode, unless their number is given."""
    assert choose_layout(Config(device="cpu")) == Layout("fused", 2, 0, 0.0, 1)
    assert not caplog.messages
    assert choose_layout(Config(device="cpu", workers=100)) == Layout("fused", 100, 0, 0.0, 4)
    assert caplog.messages == ["workers = 100, but the cluster has 2 CPUs; the others start when nodes come"]
    assert choose_layout(Config(device="cpu", classifiers=3)).classifiers == 3


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray tells of its nodes, to be filled in."""
    found: list[dict[str, Any]] = [{"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: found)
    return found


def node(cpus: float, gpus: float = 0.0) -> dict[str, Any]:
    return {"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus} if gpus else {"CPU": cpus}}


def test_where_all_nodes_have_gpus_each_worker_has_its_share_of_one(nodes: list[dict[str, Any]]) -> None:
    nodes += [node(16.0, 1.0), {"Alive": True, "Resources": {}}]
    assert choose_layout(Config()) == Layout("fused", 16, 0, 1 / 16, 1)
    assert choose_layout(Config(workers=3)) == Layout("fused", 3, 0, 0.3333, 1)
    assert choose_layout(Config(workers=100)) == Layout("fused", 100, 0, 1 / 16, 4), "the others wait for nodes"
    assert choose_layout(Config(gpus_per_actor=0.5)) == Layout("fused", 2, 0, 0.5, 1)
    assert choose_layout(Config(device="cpu")) == Layout("fused", 16, 0, 0.0, 1)
    nodes += [node(96.0, 8.0), node(2.0, 4.0)]
    layout = choose_layout(Config())
    assert layout == Layout("fused", 114, 0, 1 / 16, 4)
    assert str(layout) == "fused: 114 workers decode and extract on 0.0625 GPU each, 4 label"


def test_cpu_nodes_decode_for_gpu_nodes(nodes: list[dict[str, Any]]) -> None:
    nodes += [node(32.0), node(8.0, 2.0)]
    layout = choose_layout(Config())
    assert layout == Layout("split", 40, 8, 0.25, 2)
    assert str(layout) == "split: 40 workers decode, 8 extract on 0.25 GPU each, 2 label"
    assert choose_layout(Config(gpus_per_actor=2.0)).extractors == 1
    assert choose_layout(Config(layout="fused")) == Layout("fused", 8, 0, 0.25, 1)
    assert choose_layout(Config(device="cpu")) == Layout("fused", 40, 0, 0.0, 2)
    assert choose_layout(Config(device="cpu", layout="split")) == Layout("split", 40, 1, 0.0, 2)


def test_gpus_that_are_not_there_are_asked_for_in_vain(nodes: list[dict[str, Any]]) -> None:
    nodes += [node(8.0)]
    with pytest.raises(UsageError, match=r"device = 'cuda' needs gpus_per_actor = 0\.25 GPUs .*; the cluster has 0$"):
        choose_layout(Config(device="cuda"))
    with pytest.raises(UsageError, match=r"precision = 'f16' needs a GPU"):
        choose_layout(Config(precision="f16"))
    nodes += [node(8.0, 1.0), node(8.0, 1.0)]
    with pytest.raises(UsageError, match=r"needs gpus_per_actor = 2 GPUs on one node; the cluster has 2$"):
        choose_layout(Config(device="cuda", gpus_per_actor=2.0))


@pytest.mark.e2e
def test_a_ray_that_does_not_start_says_so(numbered: Path, tmp_path: Path) -> None:
    """Sockets need a short path. In a process of its own, because Ray reads the variable once."""
    where = {"RAY_TMPDIR": str(tmp_path / ("deep" * 30))}
    done = run_command(
        "analyze", numbered / "h264.mp4", "--lake", tmp_path / "lake", "--scope", "frame", "--engine", "ray", env=where
    )
    assert done.returncode == 1
    assert "error: Ray did not start on this machine (" in text(done.stderr)
    assert text(done.stderr).endswith("--engine local needs no Ray")
    assert "Traceback" not in text(done.stderr)
