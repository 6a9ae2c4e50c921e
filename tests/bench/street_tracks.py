"""Compare the tracks on street footage with those of a stronger detector, by IDF1.

    python tests/bench/street_tracks.py DATA/street/vtest.avi WEIGHTS/yolov8n_coco.pt

Both run as whole jobs. The reference is YOLOv8n at 640 px with the same tracker, over the second half of the video. The
embedded detectors were not trained on that half.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter

import motmetrics
import numpy as np
import pandas as pd
import torch
from torchvision.ops import box_iou

from pipeline import Config, analyze, open_lake
from pipeline.config import USUAL_FPS

FIRST_S = 40.0


def tracks(lake: str) -> pd.DataFrame:
    """Return the followed boxes of the second half."""
    detections = open_lake(lake).pandas("detections").dropna(subset="track_id")
    return detections[detections["pts_s"] >= FIRST_S]


def compare(reference: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return IDF1 and what it is made of; boxes match from an overlap of half the union on."""
    accumulator = motmetrics.MOTAccumulator(auto_id=True)
    for frame in sorted({*reference["frame_index"], *found["frame_index"]}):
        a, b = reference[reference["frame_index"] == frame], found[found["frame_index"] == frame]
        overlap = box_iou(_xyxy(a), _xyxy(b)).numpy()
        distance = np.where(overlap >= 0.5, 1.0 - overlap, np.nan)
        accumulator.update(a["track_id"].tolist(), b["track_id"].tolist(), distance)
    metrics = ["idf1", "idp", "idr", "num_switches", "num_unique_objects", "mota"]
    return motmetrics.metrics.create().compute(accumulator, metrics=metrics, name="street")


def _xyxy(boxes: pd.DataFrame) -> torch.Tensor:
    return torch.tensor(boxes[["x1", "y1", "x2", "y2"]].to_numpy(np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video")
    parser.add_argument("teacher")
    parser.add_argument("--detector", help="whose boxes are followed instead of those of the default model's detector")
    parser.add_argument("--detector-px", type=int)
    parser.add_argument("--sample-fps", type=float, default=USUAL_FPS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reference, own = f"{folder}/reference", f"{folder}/own"
        # Only the boxes are wanted of the reference: the cheapest input.
        analyze(
            arguments.video, reference, None,
            Config(sample_fps=arguments.sample_fps, detector=arguments.teacher, detector_px=640, inputs=("box",)),
        )  # fmt: skip
        config = Config(sample_fps=arguments.sample_fps, detector=arguments.detector, detector_px=arguments.detector_px)
        analyze(arguments.video, own, config=config)
        print(compare(tracks(reference), tracks(own)).to_string())
        segments = open_lake(own).table("segments").to_pylist()
        print("segments:", dict(Counter(row["label"] for row in segments).most_common()))


if __name__ == "__main__":
    main()
