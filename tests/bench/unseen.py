"""Measure how well a detector sees people in places that it was not trained on, source by source.

    python -m tests.bench.people ../shared/data ../shared/weights PEOPLE
    python -m tests.bench.unseen ../shared/data ../shared/weights PEOPLE --out RUNS              # train, each left out
    python -m tests.bench.unseen ../shared/data ../shared/weights PEOPLE --detector person_nano  # measure one

The truth are the labels of `tests.bench.people`: boxes of a strong detector that looks in four orientations, and joints
that people annotated. UR Fall Detection is never trained on; there the strong detector alone is the truth.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from pipeline.archive.sources import list_videos
from pipeline.training.detector import DetectorOptions, train_detector
from pipeline.vision.detector import Boxes, Detector
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.runtime import choose_runtime
from tests.bench.detector import average_precision, frames
from tests.bench.people import SOURCES, strong_teacher

_LEAST_SCORE = 0.01
# From this score on a box begins a track.
_FOUND_SCORE = 0.25
_MOST_IMAGES = 400
_SHOULDERS = [KEYPOINTS.index("left_shoulder"), KEYPOINTS.index("right_shoulder")]
_HIPS = [KEYPOINTS.index("left_hip"), KEYPOINTS.index("right_hip")]


@dataclass
class Figures:
    """What was measured on one source."""

    ap50: float
    found: float
    """Share of the people who are there that a box with a usual score overlaps by half or more."""
    lying_found: float
    """The same of those whose trunk is more level than upright; NaN if there are none."""
    n_people: int
    n_lying: int


def labelled_frames(folder: Path) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return some whole, upright images of a data set, with the boxes `[N, 4]` and keypoints `[N, 17, 3]` in each."""
    paths = sorted(folder.glob("images/*/*-0.jpg"))
    chosen = np.random.default_rng(0).permutation(len(paths))[:_MOST_IMAGES]
    loaded = []
    for path in (paths[index] for index in sorted(chosen)):
        image = np.ascontiguousarray(cv2.imread(str(path))[:, :, ::-1])
        height, width = image.shape[:2]
        text = (path.parents[2] / "labels" / path.parent.name / f"{path.stem}.txt").read_text()
        rows = np.array([line.split()[1:] for line in text.splitlines()], np.float32).reshape(
            -1, 4 + 3 * len(KEYPOINTS)
        )
        centre, side = rows[:, :2] * (width, height), rows[:, 2:4] * (width, height)
        xyxy = np.hstack([centre - side / 2, centre + side / 2]).astype(np.float32)
        keypoints = rows[:, 4:].reshape(-1, len(KEYPOINTS), 3) * np.float32([width, height, 1])
        loaded.append((image, xyxy, keypoints))
    return loaded


def lies(keypoints: np.ndarray) -> bool:
    """Whether a trunk is more level than upright."""
    if (keypoints[_SHOULDERS + _HIPS, 2] == 0).any():
        return False
    across, down = np.abs(keypoints[_SHOULDERS, :2].mean(axis=0) - keypoints[_HIPS, :2].mean(axis=0))
    return bool(across > down)


def hits(truth: np.ndarray, boxes: Boxes) -> np.ndarray:
    """Return for each true box whether it was found."""
    sure = boxes.xyxy[boxes.scores >= _FOUND_SCORE]
    pairs = box_iou(torch.from_numpy(truth), torch.from_numpy(sure)).numpy()
    return (pairs >= 0.5).any(axis=1)


def measure(detector: Detector, folder: Path) -> Figures:
    """Compare a detector with the labels of a source."""
    labelled = labelled_frames(folder)
    found = [detector.detect(image[None])[0] for image, _, _ in labelled]
    seen = np.concatenate([hits(truth, boxes) for (_, truth, _), boxes in zip(labelled, found, strict=True)])
    lying = np.array([lies(person) for _, _, keypoints in labelled for person in keypoints], bool)
    ap50, _, _ = average_precision([truth for _, truth, _ in labelled], found)
    return Figures(
        ap50,
        float(seen.mean()),
        float(seen[lying].mean()) if lying.any() else float("nan"),
        len(seen),
        int(lying.sum()),
    )


def falls_seen(detector: Detector, data: Path, weights: Path) -> float:
    """Return in which share of the frames of UR Fall Detection with somebody in it somebody is found."""
    teacher = strong_teacher(weights, 2, turns=True)
    n_there = n_seen = 0
    for ref in list_videos([str(data / "urfd" / "clips")]):
        for image in frames(ref, Fraction(3)):
            if len(teacher.label(image).xyxy):
                n_there += 1
                n_seen += bool((detector.detect(image[None])[0].scores >= _FOUND_SCORE).any())
    return n_seen / n_there


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("people", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, help="train without each source in turn, into this folder")
    parser.add_argument("--detector", help="measure one detector on all sources")
    parser.add_argument("--px", type=int)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--falls", action="store_true", help="UR Fall Detection, too")
    chosen = parser.parse_args()
    runtime = choose_runtime("cpu", threads=2)
    rows = []
    for source in chosen.sources:
        name = chosen.detector
        if name is None:
            others = [chosen.people / other / "data.yaml" for other in chosen.sources if other != source]
            name = str(chosen.out / f"without-{source}")
            train_detector(others, name, DetectorOptions(epochs=chosen.epochs))
        detector = Detector(name, runtime, ["person"], chosen.px, _LEAST_SCORE, 100)
        figures = measure(detector, chosen.people / source)
        rows.append({"source": source, "detector": name} | vars(figures))
        print(rows[-1], flush=True)
    if chosen.falls and chosen.detector:
        detector = Detector(chosen.detector, runtime, ["person"], chosen.px, _LEAST_SCORE, 100)
        print("UR Fall Detection: somebody is found in", round(falls_seen(detector, chosen.data, chosen.weights), 3))
    if chosen.out:
        with (chosen.out / "unseen.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
