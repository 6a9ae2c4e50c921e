"""actionlake with its defaults: one network finds people and their poses; then they are tracked and labelled."""

from __future__ import annotations

from pipeline import analyze
from pipeline.config import Config
from pipeline.engine.models import DEFAULT_MODEL, choose_models, config_for, fitted
from tests.bench.peers.common import SAMPLE_FPS, Task, run


def main(task: Task) -> None:
    bundles = choose_models(DEFAULT_MODEL, "person")
    options = {"scope": "person"} | config_for(bundles) | {"sample_fps": float(SAMPLE_FPS)}
    analyze([str(task.video)], str(task.out), DEFAULT_MODEL, fitted(Config.load(None, options), bundles))


if __name__ == "__main__":
    run(main)
