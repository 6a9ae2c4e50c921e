"""Compare what may remember: every head on JHMDB's official splits, with the same inputs and the same training.

    python tests/bench/heads.py ../shared/data/jhmdb LAKE [--members 4] [--heads lstm,gru]

LAKE is that of an earlier `actionlake train`, or is made. Prints a Markdown table: accuracy over the test clips of the
three splits with its interval over clips, parameters, and the time that one thread takes for 1,000 steps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.heads import HEADS
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions
from pipeline.config import Config
from pipeline.engine.analyze import analyze
from pipeline.lake.query import open_lake
from pipeline.training.dataset import load_videos
from pipeline.training.fit import FitOptions, fit
from pipeline.training.formats import read_annotations
from pipeline.training.metrics import bootstrap
from pipeline.training.splits import divide
from pipeline.training.validation import validate
from pipeline.training.videos import VideoFolder

SPLITS = ("split1", "split2", "split3")


def seconds_for_1000_steps(model: ActivityModel) -> float:
    inputs = np.random.default_rng(0).normal(size=(1000, model.spec.input_dim)).astype(np.float16)
    classifier = SequenceClassifier(model)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        for _ in classifier.scores([inputs]):
            pass
        times.append(time.perf_counter() - began)
    torch.set_num_threads(n_threads)
    return min(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("jhmdb", type=Path)
    parser.add_argument("lake")
    parser.add_argument("--members", type=int, default=1, help="networks whose scores are averaged")
    parser.add_argument("--heads", default=",".join(HEADS))
    arguments = parser.parse_args()
    folder = VideoFolder(str(arguments.jhmdb))
    records = folder.locate(read_annotations(arguments.jhmdb / "splits.csv"))
    uris = {record.video: folder.uri(record.video) for record in records}
    labels = sorted({record.label for record in records})
    config = Config()
    analyze(sorted(uris.values()), arguments.lake, None, config)
    data = load_videos(open_lake(arguments.lake), uris, records, labels, config.scope, config.embedded)
    print("| head | accuracy | 95 % over clips | of each split | parameters | ms for 1,000 steps |", flush=True)
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for head in arguments.heads.split(","):
        right: list[float] = []
        of_splits = []
        for name in SPLITS:
            parts = divide(data, name)
            sequences = [sequence for video in parts.train for sequence in video.sequences]
            model = fit(sequences, config.embedded, len(labels), FitOptions(head=head, members=arguments.members))
            measured = validate(model, parts.test, labels, config.sample_fps, SegmentOptions())
            n_right = round(measured["accuracy"] * measured["n_spans"])
            right += [1.0] * n_right + [0.0] * (measured["n_spans"] - n_right)
            of_splits.append(measured["accuracy"])
        answers = np.array(right)
        interval = bootstrap(lambda weights, of=answers: float(weights @ of / weights.sum()), len(answers), 2000)
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"| {head} | {mean(of_splits):.3f} | {interval.low:.3f} to {interval.high:.3f} | "
            f"{', '.join(f'{accuracy:.3f}' for accuracy in of_splits)} | {n_parameters / 1e6:.2f} M | "
            f"{1000 * seconds_for_1000_steps(model):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
