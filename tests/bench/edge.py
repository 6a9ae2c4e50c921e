"""Measure the speed and memory of a packed model on one core, on one minute of two people at 640x480.

    actionlake pack everyday12-pose-causal --out PACK --videos CLIPS
    python -m tests.bench.edge ../shared/data/gmdcsa24/clips PACK

Each half of the picture shows one person, from a clip that is repeated. The program runs on one core only. It may use
1 GB of memory, if this process may create control groups.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

FPS, SECONDS = 30, 60
ALLOWED_BYTES = 1 << 30
_CGROUP = Path("/sys/fs/cgroup/actionlake-edge")


def pictures(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a clip at the rate of the footage, over and over."""
    with av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate or FPS)
        frames = [cv2.resize(frame.to_ndarray(format="rgb24"), (640, 480)) for frame in container.decode(video=0)]
    for number in itertools.count():
        yield frames[int(number * fps / FPS) % len(frames)]


def make_footage(clips: list[Path], target: Path) -> None:
    with av.open(str(target), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"g": "60"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for number, (left, right) in enumerate(
            itertools.islice(zip(*map(pictures, clips), strict=True), FPS * SECONDS)
        ):
            both = np.hstack([left[:, 160:480], right[:, 160:480]])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(both), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def confined(command: list[str]) -> list[str]:
    """Return a command for which the other cores are taken away, and all memory above what is allowed."""
    core = min(os.sched_getaffinity(0))
    enter = f"echo $$ > {_CGROUP}/cgroup.procs; " if _CGROUP.exists() else ""
    # What a process was before it became another counts among its memory; this program is small.
    watched = ["/usr/bin/time", "-f", "%M", *command]
    return ["taskset", "-c", str(core), "sh", "-c", f'{enter}exec "$@"', "sh", *watched]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    try:
        _CGROUP.mkdir(exist_ok=True)
        (_CGROUP / "memory.max").write_text(str(ALLOWED_BYTES))
        print("may have 1 GB")
    except OSError as error:
        print(f"memory is not limited ({error})")
    kinds = [(name, kept) for name in ("openvino", "onnx") for kept in ("f32", "f16", "int8")]
    with tempfile.TemporaryDirectory() as folder:
        footage = Path(folder) / "two.mp4"
        make_footage(sorted(options.clips.rglob("*.mp4"))[:2], footage)
        for runtime, precision in kinds:
            if not (options.pack / runtime / precision).is_dir():
                continue
            seconds, peaks, lines = [], [], 0
            for _ in range(options.runs):
                started = time.perf_counter()
                command = [sys.executable, str(options.pack / "edge.py"), str(footage), "--precision", precision]
                command += ["--runtime", {"onnx": "onnxruntime"}.get(runtime, runtime)]
                done = subprocess.run(confined(command), capture_output=True, text=True, check=True)
                seconds.append(time.perf_counter() - started)
                peaks.append(int(done.stderr.split()[-1]) / 1024)
                lines = len(done.stdout.splitlines())
            median = statistics.median(seconds)
            looked_at = 7.5 * SECONDS
            print(
                f"{runtime:9s} {precision:5s} {median:6.1f} s ({min(seconds):.1f} to {max(seconds):.1f}), "
                f"{looked_at / median:5.1f} pictures/s looked at, {FPS * SECONDS / median:5.1f} frames/s of the video, "
                f"peak {max(peaks):.0f} MiB, {lines} segments",
                flush=True,
            )
    with suppress(OSError):
        _CGROUP.rmdir()


if __name__ == "__main__":
    main()
