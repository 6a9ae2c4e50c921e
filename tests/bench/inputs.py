"""Measure what each input adds to the person model, by folds inside the training clips of JHMDB's first split.

    python tests/bench/default_annotations.py DATA OUT
    python tests/bench/inputs.py OUT --videos DATA

It trains on the sets of inputs below, with several seeds. All trainings use the same features, which stay in OUT.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np

from pipeline import Config, analyze, open_lake
from pipeline.activity.segments import SegmentOptions
from pipeline.activity.spec import input_dim
from pipeline.archive import filesystem
from pipeline.training.annotations import apply_label_map, read_label_map
from pipeline.training.dataset import LabelledVideo, load_videos
from pipeline.training.fit import FitOptions, fit
from pipeline.training.formats import read_annotations
from pipeline.training.splits import divide
from pipeline.training.validation import validate

FOLDS = ("split_fold1", "split_fold2", "split_fold3")
LOOK = Config(inputs=("crop", "crop_flow", "box", "pose"), embedder="detector", detector="person_pose")
CNN = Config(embedder="efficientnet_lite0", detector="person_nano")
SETS = {
    LOOK: (
        LOOK.embedded,
        ("crop", "crop_flow", "box"),
        ("crop", "box", "pose"),
        ("crop_flow", "box", "pose"),
        ("crop_flow", "box"),
        ("box", "pose"),
    ),
    CNN: (
        CNN.embedded,
        ("frame", "crop", "crop_change", "crop_flow", "box"),
        ("frame", "crop", "crop_change", "box"),
        ("frame", "crop", "crop_flow", "box"),
        ("crop", "crop_change", "crop_flow", "box"),
        ("frame", "crop"),
        ("crop_flow", "box"),
    ),
}
"""Sets of inputs, by what extracts them all."""


def with_inputs(videos: list[LabelledVideo], all_names: tuple[str, ...], names: tuple[str, ...]) -> list[LabelledVideo]:
    """Keep some of what stands side by side in the input vectors."""
    width = next(s for video in videos for s in video.sequences).inputs.shape[1]
    n_embeddings = sum(input_dim(name, 1) == 1 for name in all_names)
    embedding_dim = (width - sum(input_dim(name, 0) for name in all_names)) // n_embeddings
    dims = [input_dim(name, embedding_dim) for name in all_names]
    columns = np.concatenate(
        [
            np.arange(end - dim, end)
            for name, dim, end in zip(all_names, dims, np.cumsum(dims), strict=True)
            if name in names
        ]
    )
    return [
        replace(v, sequences=tuple(replace(s, inputs=np.ascontiguousarray(s.inputs[:, columns])) for s in v.sequences))
        for v in videos
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cnn", action="store_true", help="a CNN describes people, instead of the detector's one look")
    arguments = parser.parse_args()
    config = CNN if arguments.cnn else LOOK
    records = read_annotations(arguments.folder / "folds.csv")
    records = apply_label_map(records, read_label_map(arguments.folder / "map.csv"))
    uris = {r.video: filesystem.canonical_uri(filesystem.join(str(arguments.videos), r.video)) for r in records}
    labels = sorted({record.label for record in records})
    lake = str(arguments.folder / f"lake-{config.embedder}")
    analyze(sorted(set(uris.values())), lake, None, config)
    data = load_videos(open_lake(lake), uris, records, labels, "person", config.embedded)
    for names in SETS[config]:
        videos, began = with_inputs(data, config.embedded, names), time.perf_counter()
        of_seeds = []
        for seed in range(arguments.seeds):
            accuracies = []
            for fold in FOLDS:
                parts = divide(videos, fold)
                sequences = [sequence for video in parts.train for sequence in video.sequences]
                model = fit(sequences, names, len(labels), FitOptions(members=1, seed=seed))
                accuracies.append(validate(model, parts.test, labels, config.chosen_fps, SegmentOptions())["accuracy"])
            of_seeds.append(mean(accuracies))
        each = " ".join(f"{accuracy:.3f}" for accuracy in of_seeds)
        took = time.perf_counter() - began
        print(f"{' + '.join(names)}: {mean(of_seeds):.3f} (seeds {each}), {took:.0f} s", flush=True)


if __name__ == "__main__":
    main()
