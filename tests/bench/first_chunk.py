"""Measure when a job on a running Ray cluster begins its first chunk, and when the command ends.

    export RAY_AUTH_MODE=disabled
    ray start --head --num-cpus 2 --node-ip-address 127.0.0.1 --port 6399
    python -m tests.bench.first_chunk CLIP --address 127.0.0.1:6399 --repeats 5

The cluster must run on this machine, because the times are read from the logs of its workers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.engine.benchmark import median_and_range


def first_chunk_at(logs: Path, since_s: float) -> float:
    """Return when the first chunk after a time began, in seconds since the epoch."""
    begun = []
    for path in logs.glob("worker-*.err"):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"chunk begun"' in line:
                begun.append(json.loads(line)["timestamp_ns"] / 1e9)
    return min(at_s for at_s in begun if at_s > since_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--address", required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--logs", type=Path, default=Path("/tmp/ray/session_latest/logs"))
    options = parser.parse_args()
    first_s, total_s = [], []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            command = ["analyze", options.video, "--lake", f"{folder}/lake", "--address", options.address]
            started_s = time.time()
            subprocess.run(
                [sys.executable, "-m", "pipeline.cli", *map(str, command)], capture_output=True, check=True,
                env=os.environ | {"ACTIONLAKE_LOGS": "json"},
            )  # fmt: skip
            total_s.append(time.time() - started_s)
        first_s.append(first_chunk_at(options.logs, started_s) - started_s)
        print(f"first chunk after {first_s[-1]:.2f} s, command {total_s[-1]:.2f} s", flush=True)
    print(f"first chunk after {median_and_range(first_s)} s, command {median_and_range(total_s)} s")


if __name__ == "__main__":
    main()
