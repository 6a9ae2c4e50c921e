"""Measure the time of a million forecasts, of people who walk about in simulated videos.

python -m tests.bench.forecast_speed FOLDER [--forecasts 1000000] [--model walkers-lstm]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from pipeline.engine.forecast import forecast
from tests.lakes import lake_of_walkers

# Of each person: ten views a second for a minute, of which 7 steps of 0.4 s are only seen.
_SECONDS, _PER_PERSON = 60.0, 143
_PEOPLE = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--forecasts", type=int, default=1_000_000)
    parser.add_argument("--model", default="walkers-lstm")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    time_s = np.arange(0, _SECONDS, 0.1)
    n_videos = -(-options.forecasts // (_PER_PERSON * _PEOPLE))

    def walk() -> tuple[np.ndarray, np.ndarray]:
        heading = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.1, len(time_s)).cumsum()
        steps = 5 * np.stack([np.cos(heading), np.sin(heading)], axis=1)
        return time_s, rng.uniform(0, 1000, 2) + steps.cumsum(axis=0)

    if not options.folder.exists():
        shards = [{f"v{n:05d}": {k: walk() for k in range(_PEOPLE)}} for n in range(n_videos)]
        lake_of_walkers(options.folder, [dict(pair for one in shards[k::8] for pair in one.items()) for k in range(8)])
    started = time.perf_counter()
    state = forecast(str(options.folder), options.model)
    print(f"{state.n_forecasts} forecasts of {state.n_videos} videos in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
