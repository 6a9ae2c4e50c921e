"""Measure the gain of a GPU: its networks beside those of a CPU, and jobs of the fused layout at 1, 4 and 16 workers.

    python -m tests.bench.gpu VIDEO --times 8 --copies 16

The archive of the jobs holds `--copies` copies of the video, each repeated `--times` times. With ten seconds of
1280x720, the script should take less than eight minutes on a machine with one GPU and 16 cores. `--device cpu
--workers 1 2 --copies 2` tries the script on a machine without a GPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import Config, analyze
from pipeline.archive.plan import plan_shards
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.engine.models import DEFAULT_MODEL, choose_models, fitted
from pipeline.lake.query import open_lake
from pipeline.steps.decode import decode_pieces, tasks_of
from pipeline.vision.detector import Detector, Look
from pipeline.vision.runtime import Runtime, choose_runtime
from tests.bench.footage import repeated

SECONDS = 3.0
"""A rate is measured for so long at least."""
SURE = 0.25


def sampled(video: Path, config: Config) -> tuple[NDArray[np.uint8], float]:
    """Return all frames of a video that a job would sample, and how many seconds of it one core decodes in one."""
    probed = [(ref, probe_video(ref, config.limits)) for ref in list_videos([str(video)])]
    ((planned,),) = plan_shards(probed, config.grid_rate, 1e9, 1, 1e9)
    started = time.perf_counter()
    pieces = [piece.frames for task in tasks_of(0, planned) for piece in decode_pieces(task, config)]
    spent_s = time.perf_counter() - started
    assert planned.probe is not None
    images = np.concatenate([frames.images for frames in pieces if frames is not None])
    return images, planned.probe.duration_s / spent_s


def detector(runtime: Runtime, config: Config) -> Detector:
    return Detector(
        config.chosen_detector, runtime, config.classes, config.chosen_detector_px, config.detector_score, 32
    )


def print_agreement(one: Sequence[Look], other: Sequence[Look]) -> None:
    """Print how far apart two runtimes are on the same frames."""
    n_sure, apart, keypoints_apart, cosines = [0, 0], [], [], []
    for looks in zip(one, other, strict=True):
        sure = [look.boxes.scores > SURE for look in looks]
        n_sure = [n + int(each.sum()) for n, each in zip(n_sure, sure, strict=True)]
        if sure[0].sum() != sure[1].sum() or not sure[0].any():
            continue
        # Of each box from the nearest: two of nearly the same score may stand in either order.
        boxes = [look.boxes.xyxy[each] for look, each in zip(looks, sure, strict=True)]
        far = np.abs(boxes[0][:, None] - boxes[1]).max(axis=2)
        nearest = far.argmin(axis=1)
        apart += far.min(axis=1).tolist()
        points = [
            look.boxes.keypoints[each]
            for look, each in zip(looks, sure, strict=True)
            if look.boxes.keypoints is not None
        ]
        if len(points) == 2:
            seen = points[0][..., 2] > 0.5
            keypoints_apart += np.linalg.norm(points[0][..., :2] - points[1][nearest][..., :2], axis=2)[seen].tolist()
        vectors = [look.people[each].astype(np.float32) for look, each in zip(looks, sure, strict=True)]
        dots = (vectors[0] * vectors[1][nearest]).sum(axis=1)
        cosines += (
            dots / np.prod([np.linalg.norm(each, axis=1) for each in (vectors[0], vectors[1][nearest])], axis=0)
        ).tolist()
    print(
        f"people surer than {SURE}: {n_sure[0]} and {n_sure[1]}; where as many are found, boxes are apart by "
        f"{statistics.median(apart):.2f} pixels in the median, {max(apart):.1f} at most, keypoints by "
        f"{statistics.median(keypoints_apart):.2f}; cosine of descriptions {statistics.median(cosines):.5f}, "
        f"{min(cosines):.4f} at least",
        flush=True,
    )


def rate(work: Callable[[], object], n: int) -> float:
    """Return how many of n a call handles in a second, after one call to warm up."""
    work()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        work()
        calls += 1
    return n * calls / (time.perf_counter() - started)


@contextmanager
def watched(device: str) -> Iterator[list[float]]:
    """Fill a list with the share of each second in which the GPU was busy, while the block runs."""
    shares: list[float] = []
    if device == "cpu":
        yield shares
        return
    asked = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-l", "1"]
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = process.stdout

    def read() -> None:
        shares.extend(float(line) / 100 for line in lines)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield shares
    finally:
        process.terminate()
        reader.join(5)


def said(lake: str) -> dict[str, float]:
    """Return the seconds of each label."""
    rows = open_lake(lake).sql("SELECT label, sum(end_s - start_s) AS s FROM segments GROUP BY label").to_pylist()
    return {row["label"]: float(row["s"]) for row in rows}


def print_job(archive: Sequence[str], config: Config, lake: Path) -> dict[str, float]:
    """Run a job, print how long it took, and return what it found."""
    with watched(config.device) as shares:
        state = analyze(archive, str(lake), DEFAULT_MODEL, config, engine="ray")
    # Start and end, when no worker is at work, are part of the time, and not of what the layout is responsible for.
    working = [share for share in shares if share > 0.0]
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in state.stage_s.items())
    busy, while_used = (float(np.mean(each)) if each else 0.0 for each in (shares, working))
    print(
        f"{config.device}, {state.layout}: {state.wall_s:.1f} s, {state.video_done_s / state.wall_s:.0f} video-hours "
        f"in an hour; {state.n_boxes} boxes; core-seconds: {stages}; {state.runtime}; GPU busy {busy:.2f} of the time, "
        f"{while_used:.2f} of that in which it was used",
        flush=True,
    )
    return said(str(lake))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--times", type=int, default=8)
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    bundles = choose_models(DEFAULT_MODEL, "person")
    config = fitted(
        Config(scope="person", layout="fused", sample_fps=bundles[0].sample_fps, inputs=("box", "pose")), bundles
    )
    exact, chosen = Runtime("cpu", "f32"), choose_runtime(options.device)
    print(f"{os.cpu_count()} CPUs; {chosen}")
    frames, speed = sampled(options.video, config)
    print(f"one core decodes {speed:.1f} times as fast as the video plays; {len(frames)} frames sampled")
    looks = [detector(runtime, config).look(frames[:64]) for runtime in (exact, chosen)]
    print_agreement(*looks)
    for runtime in (choose_runtime("cpu"), chosen):
        some = frames if runtime.device == "cuda" else frames[:32]
        frames_per_s = rate(partial(detector(runtime, config).look, some), len(some))
        print(f"{runtime.device} {runtime.precision}: {frames_per_s:.0f} frames/s", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long = repeated(options.video, options.times, folder / "0.mp4")
        archive = [str(long)]
        for number in range(1, options.copies):
            os.link(long, folder / f"{number}.mp4")
            archive.append(str(folder / f"{number}.mp4"))
        # A fourth of the archive is enough for the one that does not use the GPU.
        some_of_it = archive[: max(1, len(archive) // 4)]
        by_cpu = print_job(some_of_it, replace(config, device="cpu"), folder / "lake-cpu")
        by_device = print_job(some_of_it, replace(config, device=options.device), folder / "lake-same")
        for label in sorted(by_cpu | by_device):
            print(
                f"  {label}: {by_cpu.get(label, 0):.1f} s on CPUs, {by_device.get(label, 0):.1f} s on {options.device}"
            )
        for workers in options.workers:
            print_job(archive, replace(config, device=options.device, workers=workers), folder / f"lake-{workers}")


if __name__ == "__main__":
    main()
