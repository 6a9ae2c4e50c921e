"""Measure how the cost grows with the length of the footage, and the gain of a second node.

    python -m tests.bench.scaling length VIDEO --times 60     # the video, and as one file of so many times its length
    python -m tests.bench.scaling nodes VIDEO                 # one node of one core, then two of them

Both sample whole frames once a second, unless a configuration is given.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from pipeline import Config, analyze
from pipeline.engine.benchmark import median_and_range
from pipeline.engine.board import JobState
from tests.bench.footage import repeated


@contextmanager
def cluster_of(n_nodes: int) -> Iterator[str]:
    """Run so many nodes of one core, on this machine, and yield their address.

    They have so many cores, for the driver and all else, too: beside one node a second core would do all but its work.
    """
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:n_nodes])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 256 << 20})
    for _ in range(n_nodes - 1):
        cluster.add_node(num_cpus=1, object_store_memory=256 << 20)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.sched_setaffinity(0, cores)


def length(video: Path, config: Config, times: int) -> None:
    """Print the cost of an hour of footage, out of a short and out of a long file."""
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate((video, repeated(video, times, Path(folder) / "long.mp4"))):
            state = analyze([str(path)], f"{folder}/lake-{number}", "none", config)
            hours = state.video_done_s / 3600
            costs.append(sum(state.stage_s.values()) / hours)
            print(
                f"{hours:6.2f} h: {state.wall_s:.1f} s in all, {costs[-1]:.1f} core-seconds of work and "
                f"{state.wall_s / hours:.1f} s an hour of video",
                flush=True,
            )
    print(f"work per hour of the long file over that of the short one: {costs[1] / costs[0]:.3f}")


def nodes(video: Path, config: Config, repeats: int) -> None:
    """Print how fast two nodes are beside one."""
    shares = []
    for _ in range(repeats):
        states: list[JobState] = []
        for n_nodes in (1, 2):
            with cluster_of(n_nodes) as address, tempfile.TemporaryDirectory() as folder:
                states.append(analyze([str(video)], f"{folder}/lake", "none", config, address))
        one, two = (state.wall_s for state in states)
        shares.append(one / two / 2)
        print(f"one node {one:.1f} s, two {two:.1f} s", flush=True)
    print(f"two nodes over twice one: {median_and_range(shares, 3)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("length", "nodes"))
    parser.add_argument("video", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--times", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    config = Config.load(options.config, {"scope": "frame", "sample_fps": 1.0})
    if options.what == "length":
        length(options.video, config, options.times)
    else:
        nodes(options.video, config, options.repeats)


if __name__ == "__main__":
    main()
