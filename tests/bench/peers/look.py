"""actionlake with daily22-look: one network finds people, poses and looks; then people are tracked and labelled."""

from __future__ import annotations

from pipeline import analyze
from pipeline.activity.bundle import load_bundle
from pipeline.config import Config
from pipeline.engine.models import config_for, fitted
from tests.bench.peers.common import SAMPLE_FPS, Task, run


def main(task: Task) -> None:
    bundle = load_bundle("daily22-look")
    options = {"scope": "person"} | config_for([bundle]) | {"sample_fps": float(SAMPLE_FPS)}
    analyze([str(task.video)], str(task.out), bundle, fitted(Config.load(None, options), [bundle]))


if __name__ == "__main__":
    run(main)
