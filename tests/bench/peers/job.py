"""actionlake itself, with the task of the peers."""

from __future__ import annotations

from pathlib import Path

from pipeline import Config, analyze
from tests.bench.peers.common import DETECTOR_PX, MOST_PEOPLE, SAMPLE_FPS, SCORE, Task, run


def config_of(weights: Path) -> Config:
    """Return the options that make a job do what the peers do."""
    return Config(
        sample_fps=float(SAMPLE_FPS), inputs=("crop",), detector=str(weights), detector_px=DETECTOR_PX,
        detector_score=SCORE, max_people=MOST_PEOPLE,
    )  # fmt: skip


def main(task: Task) -> None:
    analyze([str(task.video)], str(task.out), None, config_of(task.weights))


if __name__ == "__main__":
    run(main)
