"""Measure actionlake and its peers, one after the other, several times.

    python -m tests.bench.peers VIDEO WEIGHTS [--repeats 3] [--only job,ray_data] [--daft PYTHON] [--out FOLDER]

Every program is a process of its own, timed from command to prompt. Its rows are compared with those of the job: the
boxes that match one of the job's boxes, and their embeddings. Decord, with which Ray Data reads videos, is in the extra
`bench`. Daft needs an older PyArrow than lakes do, so it runs in an environment of its own. `--daft` names its Python.
Without it, Daft is left out. The script writes `peers.json` and `peers.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.engine.benchmark import median_and_range
from pipeline.lake.query import open_lake
from tests.bench.peers.common import SAMPLE_FPS, exported_by_ultralytics
from tests.conftest import REPOSITORY
from tests.overlaps import overlaps

PROGRAMS = {
    "job": "actionlake, YOLOv8n and a CNN",
    "default": "actionlake; poses, follows, labels",
    "look": "actionlake; looks, poses, follows, labels",
    "plain_processes": "its functions in two processes, no Ray",
    "daft_frames --tuned": "Daft, tuned",
    "ray_data --tuned": "Ray Data, tuned",
    "ultralytics_predict --tuned": "Ultralytics, tuned",
    "daft_frames": "Daft",
    "ray_data": "Ray Data",
    "ultralytics_predict": "Ultralytics",
}
"""What is run, with its options, and what it is called."""
DAFT = "daft_frames"
OURS = ("job", "default", "look", "plain_processes")
PACKAGES = ("ray", "decord", "ultralytics", "torch", "openvino", "av", "opencv-python")


@dataclass(frozen=True)
class Rows:
    """What a program found."""

    steps: NDArray[np.int64]
    """`int64 [N]`: step of the sampling grid of each box."""
    boxes: NDArray[np.float64]
    """`float64 [N, 4]`: shares of the frame's width and height."""
    embeddings: NDArray[np.float32]
    """`float32 [N, D]`."""


@dataclass(frozen=True)
class Trial:
    """One run of one program."""

    seconds: float
    """From command to prompt."""
    n_boxes: int
    shared: float
    """Share of the job's boxes that lie on one of this program's in the same frame, by an overlap of half or more."""
    likeness: float
    """Median cosine of the embeddings of such boxes."""


def read_rows(program: str, out: Path) -> Rows:
    """Read what a program wrote."""
    if program in OURS:
        lake = open_lake(str(out))
        found = lake.table("detections")
        (video,) = lake.table("videos").to_pylist()
        size, times_s = np.array([video["width"], video["height"]] * 2), found["pts_s"].to_numpy()
        features = lake.table("features")
        vectors = features.filter(pc.equal(features["scope"], "person"))["embedding"]
    else:
        found = ds.dataset(out).to_table()
        size, times_s, vectors = np.ones(4), found["frame_s"].to_numpy(), found["embedding"]
    boxes = np.stack([found[side].to_numpy() for side in ("x1", "y1", "x2", "y2")], axis=1) / size
    if vectors.null_count:
        # Who reads poses describes nobody.
        return Rows(_steps(times_s), boxes, np.zeros((len(boxes), 0), np.float32))
    embeddings = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in vectors.chunks])
    return Rows(_steps(times_s), boxes, embeddings.reshape(len(boxes), -1).astype(np.float32))


def _steps(times_s: NDArray[np.float64]) -> NDArray[np.int64]:
    # What is shown at a step may begin a little before it, and Ultralytics gives the last frame of its stride.
    return np.floor(times_s * SAMPLE_FPS + 0.01).astype(np.int64)


def compared(seconds: float, ours: Rows, theirs: Rows) -> Trial:
    """Compare a program's rows with those of the job."""
    of_step: dict[int, list[int]] = defaultdict(list)
    for index, step in enumerate(theirs.steps.tolist()):
        of_step[step].append(index)
    n_shared, cosines = 0, []
    for step, box, vector in zip(ours.steps.tolist(), ours.boxes, ours.embeddings, strict=True):
        candidates = of_step.get(step, [])
        if not candidates:
            continue
        (shared,) = overlaps(box[None], theirs.boxes[candidates])
        best = int(shared.argmax())
        if shared[best] >= 0.5:
            n_shared += 1
            other = theirs.embeddings[candidates[best]]
            if len(other) != len(vector):
                continue
            cosines.append(float(vector @ other / (np.linalg.norm(vector) * np.linalg.norm(other))))
    return Trial(seconds, len(theirs.boxes), n_shared / len(ours.boxes), statistics.median(cosines or [0.0]))


def run_all(video: Path, weights: Path, programs: list[str], repeats: int, daft: str | None) -> dict[str, list[Trial]]:
    """Run every program in turn, as often as wanted; the job comes first each time."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    trials: dict[str, list[Trial]] = defaultdict(list)
    for _ in range(repeats):
        ours: Rows | None = None
        for program in programs:
            with tempfile.TemporaryDirectory() as folder:
                name, *options = program.split()
                out = Path(folder) / ("lake" if program in OURS else "rows.parquet")
                python = daft if daft is not None and name == DAFT else sys.executable
                started = time.perf_counter()
                done = subprocess.run(
                    [python, "-m", f"tests.bench.peers.{name}", str(video), str(weights), str(out), *options],
                    capture_output=True, text=True, check=False, env=environment,
                )  # fmt: skip
                seconds = time.perf_counter() - started
                if done.returncode:
                    sys.exit(f"{program}: {done.stderr.strip()}")
                rows = read_rows(program, out)
            ours = ours or rows
            trials[program].append(compared(seconds, ours, rows))
            print(f"{PROGRAMS[program]:45s} {trials[program][-1]}", flush=True)
    return trials


def plot(report: dict[str, Any], path: Path) -> None:
    """Draw how fast each program is."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 0.5 * len(report["programs"]) + 1.2), layout="constrained")
    names = [PROGRAMS[program] for program in report["programs"]][::-1]
    rates = [each["video_hours_per_hour"] for each in report["programs"].values()][::-1]
    bars = axes.barh(names, rates, color=["tab:blue" if name == PROGRAMS["job"] else "tab:gray" for name in names])
    axes.bar_label(bars, [f"{rate:.1f}" for rate in rates], padding=3)
    axes.set(xlabel=f"video-hours per hour, {report['machine']}", xlim=(0, max(rates) * 1.12))
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(PROGRAMS), help="programs, separated by commas")
    parser.add_argument("--daft", metavar="PYTHON", help="the Python of an environment that has Daft and the networks")
    parser.add_argument("--out", type=Path, default=Path("."))
    options = parser.parse_args()
    programs = [program for program in PROGRAMS if program in options.only.split(",") or program == "job"]
    if options.daft is None:
        programs = [program for program in programs if program.split()[0] != DAFT]
    (ref,) = list_videos([str(options.video)])
    video_s = probe_video(ref).duration_s
    options.out.mkdir(parents=True, exist_ok=True)
    # The export stands beside the weights, which may lie where nobody can write.
    weights = options.out / options.weights.name
    shutil.copy(options.weights, weights)
    exported_by_ultralytics(weights)
    trials = run_all(options.video, weights, programs, options.repeats, options.daft)
    job_s = [trial.seconds for trial in trials["job"]]
    report: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "versions": {name: version(name) for name in PACKAGES},
        "video_s": video_s,
        "programs": {
            program: {
                "trials": [asdict(trial) for trial in of_program],
                "video_hours_per_hour": video_s / statistics.median(trial.seconds for trial in of_program),
                # Within one run, so that what else the machine does falls on both.
                "times_as_long": [trial.seconds / ours for trial, ours in zip(of_program, job_s, strict=True)],
            }
            for program, of_program in trials.items()
        },
    }
    (options.out / "peers.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    plot(report, options.out / "peers.png")
    for program, each in report["programs"].items():
        seconds = [trial["seconds"] for trial in each["trials"]]
        print(
            f"{PROGRAMS[program]:40s} {median_and_range(seconds, 1):>24s} s"
            f" {median_and_range(each['times_as_long']):>22s} times as long;"
            f" {each['trials'][-1]['n_boxes']} boxes, {each['trials'][-1]['shared']:.1%} of the job's"
        )


if __name__ == "__main__":
    main()
