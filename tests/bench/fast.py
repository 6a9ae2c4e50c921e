"""Measure the accuracy that `sampling = "fast"` costs: one model labels the same test clips, sampled in both ways.

    python -m tests.bench.fast ../shared/data/jhmdb FOLDER

It trains a frame model on the training part of JHMDB's first split, sampled exactly, and labels the test part twice.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from pipeline import Config, analyze, train
from pipeline.training.cases import evaluate_lake

SPLIT = "split1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jhmdb", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with (options.jhmdb / "splits.csv").open(newline="", encoding="utf-8") as file:
        records = [{"label": row["label"], "video": row["video"], SPLIT: row[SPLIT]} for row in csv.DictReader(file)]
    labels = options.folder / "split.csv"
    with labels.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("label", "video", SPLIT))
        writer.writeheader()
        writer.writerows(records)
    config = Config(scope="frame", sample_fps=15.0, inputs=("frame", "frame_change"))
    model = train(labels, str(options.jhmdb), options.folder / "model", config=config).folder
    test_clips = [str(options.jhmdb / record["video"]) for record in records if record[SPLIT] == "test"]
    for sampling in ("exact", "fast"):
        lake = str(options.folder / sampling)
        state = analyze(test_clips, lake, model, Config(**{**vars(config), "sampling": sampling}))
        found = evaluate_lake(lake, labels, split=SPLIT).evaluation
        figures = ", ".join(f"{name} {figure}" for name, figure in found.figures.items() if "accuracy" in name)
        print(f"{sampling}: {state.n_decoded} frames decoded, in {state.stage_s['decode']:.1f} s; {figures}")


if __name__ == "__main__":
    main()
