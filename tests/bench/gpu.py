"""What a GPU is worth: its networks beside a CPU's, and whole jobs with it and without.

    python -m tests.bench.gpu VIDEO --times 8 --copies 16

The archive of the jobs is made of so many copies of the video, each repeated so many times.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import Config, analyze
from pipeline.archive.plan import plan_shards
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.steps.decode import decode_pieces, tasks_of
from pipeline.vision import network
from pipeline.vision.detector import Boxes, Detector
from pipeline.vision.embedder import Embedder
from pipeline.vision.runtime import Runtime, choose_runtime
from pipeline.vision.views import crops as crops_of
from tests.bench.footage import repeated

CPU, GPU = Runtime("cpu", "f32"), Runtime("cuda", "f16")
SECONDS = 3.0
"""A rate is measured for so long at least."""


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


def print_agreement(frames: NDArray[np.uint8], config: Config) -> list[Boxes]:
    """Print how far apart the two runtimes are on the same frames and people; return the people."""
    by_cpu, by_gpu = (detector(runtime, config).detect(frames) for runtime in (CPU, GPU))
    sure = [[found.scores > 0.25 for found in both] for both in (by_cpu, by_gpu)]
    counts = [[int(each.sum()) for each in found] for found in sure]
    same = [number for number, (a, b) in enumerate(zip(*counts, strict=True)) if a == b]
    # Of each box from the nearest: two of nearly the same score may stand in either order.
    apart = [
        np.abs(by_cpu[n].xyxy[sure[0][n]][:, None] - by_gpu[n].xyxy[sure[1][n]]).max(axis=2).min(axis=1).max()
        for n in same
        if counts[0][n]
    ]
    print(
        f"people surer than 0.25: {sum(counts[0])} on the CPU, {sum(counts[1])} on the GPU; as many in {len(same)} of "
        f"{len(frames)} frames, there apart by {np.median(apart):.2f} pixels in the median, {max(apart):.1f} at most"
    )
    crops = crops_of(frames, by_cpu)[:512]
    one, other = (Embedder(config.chosen_embedder, runtime).embed(crops).astype(np.float32) for runtime in (CPU, GPU))
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    print(f"cosine of embeddings: {np.median(cosine):.6f} in the median, {cosine.min():.6f} at least", flush=True)
    return by_cpu


def rate(work: Callable[[], object], n: int) -> float:
    """Return how many of n a call handles in a second, after one call to warm up."""
    work()
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        work()
        calls += 1
    return n * calls / (time.perf_counter() - started)


def print_rates(frames: NDArray[np.uint8], people: Sequence[Boxes], config: Config, runtime: Runtime) -> None:
    """Print how many images one process brings through a runtime's networks in a second."""
    crops = crops_of(frames, people)
    crops = (crops * (4096 // len(crops) + 1))[:4096] if runtime.device == "cuda" else crops[:128]
    some = frames if runtime.device == "cuda" else frames[:64]
    embedder, finder = Embedder(config.chosen_embedder, runtime), detector(runtime, config)
    print(
        f"{runtime.device} {runtime.precision}: {rate(lambda: embedder.embed(crops), len(crops)):.0f} people embedded, "
        f"{rate(lambda: finder.detect(some), len(some)):.0f} frames looked at in a second",
        flush=True,
    )


def print_jobs(archive: Sequence[str], config: Config, variants: Sequence[dict[str, object]], folder: Path) -> None:
    for number, variant in enumerate(variants):
        chosen = Config(**{**vars(config), **variant})  # type: ignore[arg-type]
        state = analyze(archive, str(folder / f"lake-{number}"), config=chosen)
        stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in state.stage_s.items())
        print(
            f"{variant}: {state.wall_s:.1f} s, {state.video_done_s / state.wall_s:.0f} hours of video in an hour; "
            f"{state.n_boxes} boxes; core-seconds: {stages}; {state.runtime}; {state.advice or 'no advice'}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--times", type=int, default=8)
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--split", type=float, nargs="*", default=[1.0, 0.25], help="GPUs per actor that only extracts")
    options = parser.parse_args()
    config = Config(scope="person", embedder="efficientnet_lite0", detector="person_nano")
    print(f"{os.cpu_count()} CPUs; {choose_runtime()}; placing threads: {network._PLACING_THREADS}")
    frames, speed = sampled(options.video, config)
    print(f"one core decodes {speed:.1f} times as fast as the video plays; {len(frames)} frames sampled")
    people = print_agreement(frames, config)
    for runtime in (choose_runtime("cpu"), GPU):
        print_rates(frames, people, config, runtime)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long = repeated(options.video, options.times, folder / "0.mp4")
        archive = [str(long)]
        for number in range(1, options.copies):
            os.link(long, folder / f"{number}.mp4")
            archive.append(str(folder / f"{number}.mp4"))
        variants: list[dict[str, object]] = [{"layout": "fused", "device": device} for device in ("cpu", "cuda")]
        variants += [{"layout": "split", "gpus_per_actor": share} for share in options.split]
        print_jobs(archive, config, variants, folder)


if __name__ == "__main__":
    main()
