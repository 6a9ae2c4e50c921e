"""Measure the cost of the machinery: a job over 300,000 videos, 1,000,000 chunks, with a decoder and CNN of no cost.

    python tests/bench/scale.py [--videos 300000] [--out DIR]

Everything except the decoder, the probe and the CNN is that of a real job: listing of real (empty) files, planning, Ray
Data, ledger, receipts, features on disk, labelling, commit. It writes `scale.json` and `scale.png`: the driver's memory
and processor time over the job, then the time of the same command when all is done.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import psutil
import ray

from pipeline.activity.bundle import Bundle
from pipeline.activity.model import ActivityModel
from pipeline.activity.spec import ModelSpec
from pipeline.archive.plan import OPEN_END, Chunk
from pipeline.archive.probe import Probe
from pipeline.archive.refs import VideoRef
from pipeline.config import Config
from pipeline.engine.analyze import analyze
from pipeline.engine.board import JobState
from pipeline.video.decode import FrameBatch
from pipeline.video.frames import DecodeReport

DIM = 8
SAMPLE_FPS = 0.2
PER_FOLDER = 1000
SAMPLE_EVERY_S = 5.0


def simulated_probe(ref: VideoRef, *_: Any) -> Probe:
    """Return what is known of a video that nobody opened: 3 chunks, every third 4."""
    duration_s = 130.0 if int(ref.video_id, 16) % 3 == 0 else 100.0
    keyframes = np.arange(0.0, duration_s, 10.0)
    return Probe("h264", 64, 48, 0, 25.0, False, duration_s, Fraction(1, 1000), 0, keyframes)


def simulated_decode(
    uri: str, probe: Probe, chunk: Chunk, rate: Fraction, longest_px: int, batch_frames: int, report: DecodeReport,
    **_: Any,
) -> Iterator[FrameBatch]:  # fmt: skip
    """Yield one frame that is shown throughout the chunk."""
    end = int(probe.duration_s * rate) if chunk.end_step == OPEN_END else chunk.end_step
    report.n_decoded, report.end_s, report.reached_eof = 1, float(end / rate), chunk.end_step == OPEN_END
    yield FrameBatch(
        np.zeros((1, 48, 64, 3), np.uint8),
        np.array([float(chunk.first_step / rate)]),
        np.array([chunk.first_step]),
        np.array([end - chunk.first_step], np.int32),
    )


class SimulatedEmbedder:
    """A CNN that returns at once."""

    dim = DIM

    def __init__(self, *_: Any) -> None: ...

    def embed(self, images: list[Any]) -> np.ndarray[Any, np.dtype[np.float16]]:
        return np.ones((len(images), DIM), np.float16)


def simulate() -> None:
    """Put all that takes long out of the way, in this process; Ray calls it in every worker."""
    from pipeline.steps import decode, extract, plan

    plan.probe_video = simulated_probe
    decode.decode_chunk = simulated_decode  # type: ignore[assignment]
    extract.Embedder = SimulatedEmbedder  # type: ignore[assignment, misc]


class Meter:
    """Samples this process while a job runs."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._started = time.monotonic()
        cpu = self._process.cpu_times()
        self._cpu_before_s = cpu.user + cpu.system
        self._last = -SAMPLE_EVERY_S
        self._state: JobState | None = None
        self.samples: list[dict[str, Any]] = []
        threading.Thread(target=self._run, daemon=True).start()

    def watch(self, state: JobState) -> None:
        self._state = state

    def _run(self) -> None:
        while True:
            cpu = self._process.cpu_times()
            state = self._state
            self.samples.append(
                {
                    "s": time.monotonic() - self._started,
                    "memory_mb": self._process.memory_info().rss / 2**20,
                    "cpu_s": cpu.user + cpu.system - self._cpu_before_s,
                    "chunks": state.n_chunks_done if state else 0,
                    "videos": state.n_videos_done if state else 0,
                    "stage": state.stage if state else "starting",
                }
            )
            if int(self.samples[-1]["s"] / SAMPLE_EVERY_S) % 12 == 0:
                print(json.dumps(self.samples[-1]), flush=True)
            time.sleep(SAMPLE_EVERY_S)


def make_archive(folder: Path, n_videos: int) -> None:
    """Make so many empty files; only their names, sizes and times are ever looked at."""
    for number in range(n_videos):
        if number % PER_FOLDER == 0:
            (folder / f"{number // PER_FOLDER:04d}").mkdir(parents=True)
        os.close(os.open(folder / f"{number // PER_FOLDER:04d}" / f"{number:06d}.mp4", os.O_CREAT))


def model() -> Bundle:
    """Return the head that answers the same whatever it is given."""
    spec = ModelSpec(("frame",), DIM, 4, head="majority")
    weights = {name: tensor.numpy() for name, tensor in ActivityModel(spec).state_dict().items()}
    labels = ("a", "b", "c", "d")
    return Bundle("simulated", labels, "frame", "efficientnet_lite0", SAMPLE_FPS, spec, weights, sha256="0")


def plot(samples: list[dict[str, Any]], path: Path) -> None:
    """Draw memory and processor time of the driver, and chunks, over the job."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    minutes = [each["s"] / 60 for each in samples]
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 6), sharex=True, layout="constrained")
    upper.plot(minutes, [each["memory_mb"] for each in samples])
    upper.set(ylabel="driver's memory (MB)", ylim=(0, None), title="one job; decoder and network return at once")
    lower.plot(minutes, [each["chunks"] / 1000 for each in samples], label="thousand chunks")
    lower.plot(minutes, [each["cpu_s"] for each in samples], label="driver's processor time (s)")
    lower.set(xlabel="minutes", ylim=(0, None))
    lower.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=300_000)
    parser.add_argument("--out", type=Path, default=Path(".scale"))
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    make_archive(options.out / "archive", options.videos)
    # Workers import this very module.
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    ray.init(
        address="local", num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=512 << 20, runtime_env={"worker_process_setup_hook": "tests.bench.scale.simulate"},
    )  # fmt: skip
    config = Config(scope="frame", sample_fps=SAMPLE_FPS)
    meter, bundle = Meter(), model()
    found: dict[str, Any] = {"argv": sys.argv[1:], "cpus": os.cpu_count()}
    for name in ("job", "same command again"):
        before, started = psutil.Process().cpu_times(), time.monotonic()
        state = analyze(str(options.out / "archive"), str(options.out / "lake"), bundle, config, observer=meter.watch)
        after = psutil.Process().cpu_times()
        found[name] = {
            "wall_s": time.monotonic() - started,
            "driver_cpu_s": after.user + after.system - before.user - before.system,
            "videos": state.n_videos_done,
            "chunks": state.n_chunks_done,
            "failed": state.n_failed + state.n_partial,
        }
        print(json.dumps({name: found[name]}), flush=True)
        if name == "job":
            samples = list(meter.samples)
            half = [each["memory_mb"] for each in samples if each["chunks"] > state.n_chunks_done / 2]
            found[name] |= {
                "peak_memory_mb": max(each["memory_mb"] for each in samples),
                "memory_mb_at_half": half[0] if half else None,
                "memory_mb_at_end": half[-1] if half else None,
                "driver_ms_per_chunk": 1000 * found[name]["driver_cpu_s"] / max(1, state.n_chunks_done),
            }
            plot(samples, options.out / "scale.png")
        (options.out / "scale.json").write_text(json.dumps(found | {"samples": samples}, indent=1))
    print(json.dumps({key: value for key, value in found.items() if key != "samples"}, indent=1))


if __name__ == "__main__":
    main()
