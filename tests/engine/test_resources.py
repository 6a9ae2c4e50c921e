"""What a job says of how its actors shared the work."""

from __future__ import annotations

import pytest

from pipeline.config import Config
from pipeline.engine.resources import Layout, choose_layout

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
