"""Measure the peak memory of a job on a short and a long file of the same footage: the sum over all its processes.

    python tests/bench/memory.py ../shared/data/street/vtest.avi

Pages that processes share count once (proportional set size).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import av
import psutil


def repeat_footage(source: Path, target: Path, seconds: float) -> None:
    """Encode a video over and over, until it lasts so long."""
    with av.open(str(source)) as container:
        frames = [frame.reformat(480, 360, "yuv420p") for frame in container.decode(video=0)]
        rate = container.streams.video[0].average_rate
    assert rate is not None
    with av.open(str(target), "w") as out:
        stream = out.add_stream(
            "libx264", rate=rate, options={"preset": "ultrafast", "g": str(int(rate * 5)), "bf": "2"}
        )
        stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
        for number in range(int(seconds * rate)):
            frame = frames[number % len(frames)]
            frame.pts, frame.time_base = number, 1 / rate
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def peak_bytes(source: str, options: Sequence[str]) -> tuple[int, dict[str, int]]:
    """Run a job as a process and return the peak of its family's memory, and what it was made of then."""
    with tempfile.TemporaryDirectory() as lake:
        command = [sys.executable, "-m", "pipeline.cli", "analyze", source, "--lake", f"{lake}/lake", *options]
        process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stop = threading.Event()
        peak, parts = 0, {}
        while not stop.wait(0.25) and process.poll() is None:
            now: dict[str, int] = {}
            for member in [process, *process.children(recursive=True)]:
                try:
                    name = " ".join(member.cmdline())[:40].split(" ")[0].rsplit("/", 1)[-1] or "?"
                    now[name] = now.get(name, 0) + member.memory_full_info().pss
                except psutil.Error:
                    continue
            if sum(now.values()) > peak:
                peak, parts = sum(now.values()), now
        assert process.returncode == 0
        return peak, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("footage", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 60])
    parser.add_argument("--sample-fps", type=float, default=15.0)
    arguments = parser.parse_args()
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in arguments.minutes:
            video = Path(folder) / f"{minutes:g}.mp4"
            repeat_footage(arguments.footage, video, minutes * 60)
            peak, parts = peak_bytes(str(video), ["--sample-fps", str(arguments.sample_fps)])
            peaks.append(peak)
            print(
                f"{minutes:6g} min: peak {peak / 2**20:7.0f} MiB  {json.dumps({k: v >> 20 for k, v in parts.items()})}",
                flush=True,
            )
    print(f"ratio of the last to the first: {peaks[-1] / peaks[0]:.3f}")


if __name__ == "__main__":
    main()
