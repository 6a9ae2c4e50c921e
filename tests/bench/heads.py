"""Compare all heads of the activity network on JHMDB's official splits, with the same inputs and the same training.

    python tests/bench/heads.py ../shared/data/jhmdb LAKE [--members 1] [--heads lstm,linear]

LAKE is the lake of an earlier `actionlake train`. It is made if it does not exist. The script prints a Markdown table:
accuracy over the test clips of the three splits and share of right frames, both with their intervals over clips; number
of parameters; time of one thread for 1,000 steps. Then it prints the lead of the first head over each other, by clip.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.activity.heads import HEADS
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions
from pipeline.activity.spec import ModelSpec
from pipeline.config import Config
from pipeline.engine.analyze import analyze
from pipeline.lake.query import open_lake
from pipeline.training.annotations import Annotation
from pipeline.training.dataset import LabelledVideo, load_videos
from pipeline.training.fit import FitOptions, fit
from pipeline.training.formats import read_annotations
from pipeline.training.metrics import bootstrap
from pipeline.training.splits import divide
from pipeline.training.validation import validate
from pipeline.training.videos import VideoFolder

SPLITS = ("split1", "split2", "split3")
FIGURES = ("accuracy", "frame_accuracy")
CONFIG = Config(embedder="efficientnet_lite0", detector="person_nano")


@dataclass(frozen=True)
class Experiment:
    """What one process needs to know."""

    jhmdb: Path
    lake: str
    head: str
    split: str
    members: int


def labelled(jhmdb: Path) -> tuple[list[Annotation], dict[str, str], list[str]]:
    """Return the annotations, the URI of each video, and the labels."""
    folder = VideoFolder(str(jhmdb))
    records = folder.locate(read_annotations(jhmdb / "splits.csv"))
    return records, {record.video: folder.uri(record.video) for record in records}, sorted({r.label for r in records})


@functools.cache
def load(jhmdb: Path, lake: str) -> tuple[list[LabelledVideo], list[str]]:
    """Return the clips and the labels, once for all experiments of a process."""
    records, uris, labels = labelled(jhmdb)
    return load_videos(open_lake(lake), uris, records, labels, CONFIG.scope, CONFIG.embedded), labels


def measure(of: Experiment) -> tuple[NDArray[np.float64], ModelSpec]:
    """Train on a split; return for each test clip if it is right and what share of its frames, and what was built."""
    torch.set_num_threads(1)
    clips, labels = load(of.jhmdb, of.lake)
    parts = divide(clips, of.split)
    sequences = [sequence for video in parts.train for sequence in video.sequences]
    model = fit(sequences, CONFIG.embedded, len(labels), FitOptions(head=of.head, members=of.members))
    of_clips = [validate(model, [clip], labels, CONFIG.chosen_fps, SegmentOptions()) for clip in parts.test]
    return np.array([[measured[figure] for figure in FIGURES] for measured in of_clips]), model.spec


def with_interval(of_clips: NDArray[np.float64]) -> str:
    interval = bootstrap(lambda weights: float(weights @ of_clips / weights.sum()), len(of_clips), 2000)
    return f"{of_clips.mean():.3f} ({interval.low:.3f} to {interval.high:.3f})"


def seconds_for_1000_steps(model: ActivityModel) -> float:
    inputs = np.random.default_rng(0).normal(size=(1000, model.spec.input_dim)).astype(np.float16)
    classifier = model.classifier()
    torch.set_num_threads(1)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        for _ in classifier.scores([inputs]):
            pass
        times.append(time.perf_counter() - began)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jhmdb", type=Path)
    parser.add_argument("lake")
    parser.add_argument("--members", type=int, default=FitOptions.members, help="networks that are averaged")
    parser.add_argument("--heads", default=",".join(HEADS))
    arguments = parser.parse_args()
    analyze(sorted(labelled(arguments.jhmdb)[1].values()), arguments.lake, None, CONFIG)
    heads = arguments.heads.split(",")
    experiments = [
        Experiment(arguments.jhmdb, arguments.lake, head, split, arguments.members)
        for head in heads
        for split in SPLITS
    ]
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        measured = list(pool.map(measure, experiments))
    of_heads = [measured[start : start + len(SPLITS)] for start in range(0, len(measured), len(SPLITS))]
    figures = [np.concatenate([of_clips for of_clips, _ in of_head]).T for of_head in of_heads]
    print("| head | accuracy | of each split | frame accuracy | parameters | ms for 1,000 steps |", flush=True)
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for head, of_head, (clips, frames) in zip(heads, of_heads, figures, strict=True):
        model = ActivityModel(of_head[-1][1]).eval()
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        of_splits = ", ".join(f"{of_clips[:, 0].mean():.3f}" for of_clips, _ in of_head)
        print(
            f"| {head} | {with_interval(clips)} | {of_splits} | "
            f"{with_interval(frames)} | {n_parameters / 1e6:.2f} M | {1000 * seconds_for_1000_steps(model):.0f} |",
            flush=True,
        )
    # Clip by clip, since all heads find the same clips hard.
    for head, of_other in zip(heads[1:], figures[1:], strict=True):
        clips, frames = figures[0] - of_other
        print(f"{heads[0]} less {head}: accuracy {with_interval(clips)}, frame accuracy {with_interval(frames)}")


if __name__ == "__main__":
    main()
