"""Compare the whole job with a simple script: OpenCV's `read()` and the same network in eager PyTorch, fp32.

    python tests/bench/plain_loop.py ../shared/data/jhmdb/clips

Both sample the same archive at 15 frames/s. The script has almost no start-up time, so by default it runs over every
fourth clip only. The job runs over all clips, and its time includes start-up, labelling and writing.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from pipeline import Config, analyze
from pipeline.vision.backbones import load_backbone

SAMPLE_FPS = 15.0
BATCH = 16


def plain_loop(paths: list[Path]) -> tuple[int, float]:
    """Return `(frames embedded, seconds)`."""
    backbone = load_backbone("efficientnet_lite0")
    network = backbone.module
    mean, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (backbone.mean, backbone.scale))
    started = time.perf_counter()
    n_frames = 0
    waiting: list[np.ndarray] = []

    def embed() -> None:
        x = torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2).float()
        network((x - mean) / scale).numpy()
        waiting.clear()

    with torch.inference_mode():
        for path in paths:
            capture = cv2.VideoCapture(str(path))
            step = max(1, round(capture.get(cv2.CAP_PROP_FPS) / SAMPLE_FPS))
            index = 0
            while True:
                there, frame = capture.read()
                if not there:
                    break
                if index % step == 0:
                    waiting.append(cv2.cvtColor(cv2.resize(frame, (backbone.px, backbone.px)), cv2.COLOR_BGR2RGB))
                    n_frames += 1
                    if len(waiting) == BATCH:
                        embed()
                index += 1
            capture.release()
        if waiting:
            embed()
    return n_frames, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--every", type=int, default=4, help="the loop takes every n-th clip")
    arguments = parser.parse_args()
    paths = sorted(arguments.clips.rglob("*.mp4"))
    lake = tempfile.mkdtemp()
    try:
        started = time.perf_counter()
        state = analyze([str(arguments.clips)], f"{lake}/lake", config=Config(scope="frame", sample_fps=SAMPLE_FPS))
        job_s = time.perf_counter() - started
    finally:
        shutil.rmtree(lake)
    n_loop, loop_s = plain_loop(paths[:: arguments.every])
    job_rate, loop_rate = state.n_frames / job_s, n_loop / loop_s
    print(f"machine   {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"whole job {state.n_frames:6d} frames in {job_s:6.1f} s = {job_rate:6.1f} frames/s  ({state.runtime})")
    print(
        f"loop      {n_loop:6d} frames in {loop_s:6.1f} s = {loop_rate:6.1f} frames/s  (eager f32, batches of {BATCH})"
    )
    print(f"ratio     {job_rate / loop_rate:.2f}")


if __name__ == "__main__":
    main()
