"""Measure how well a detector finds people in places on which it was not trained, source by source.

    python -m tests.bench.people ../shared/data ../shared/weights PEOPLE
    python -m tests.bench.unseen ../shared/data ../shared/weights PEOPLE --out RUNS              # train, each left out
    python -m tests.bench.unseen ../shared/data ../shared/weights PEOPLE --detector person_nano  # measure one
    python -m tests.bench.unseen ../shared/data ../shared/weights PEOPLE --again  # the labels' own networks, mirrored

The ground truth is the labels of `tests.bench.people`: boxes of a strong detector that looks in four orientations,
at home of `person_pose` where that one finds nobody, and joints annotated by people. No detector is trained on UR Fall
Detection. It serves to measure one detector.
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
from pipeline.training.distill import Teacher
from pipeline.training.people import People, trunks, within_reach
from pipeline.vision.detector import Boxes, Detector
from pipeline.vision.keypoints import KEYPOINTS, MIRRORED
from pipeline.vision.runtime import choose_runtime
from tests.bench.detector import average_precision, frames
from tests.bench.labels import Labels, RememberingTeacher
from tests.bench.people import SOURCES, TURNED, strong_teacher

FALLS = "urfd"
_LEAST_SCORE = 0.01
# From this score on a box begins a track.
_FOUND_SCORE = 0.25
_MOST_IMAGES = 400


Labelled = list[tuple[np.ndarray, People]]
"""Pictures `uint8 [H, W, 3]`, RGB, and who is in each."""


@dataclass
class Figures:
    """What was measured on one source."""

    ap50: float
    found: float
    """Share of the people who are there that a box with a usual score overlaps by half or more."""
    lying_found: float
    """The same of those whose trunk is more level than upright; NaN if there are none."""
    somebody: float
    """Share of the pictures with somebody in which somebody is found, wherever."""
    pck: float
    """Share of the visible keypoints of those who are found that lie within a fifth of their trunk's length of where
    they are; NaN without keypoints."""
    n_pictures: int
    n_people: int
    n_lying: int


def pictures_of(folder: Path, part: str) -> Labelled:
    """Return some whole, upright pictures of a data set: of a part, `train` or `val`, or of both, `*`."""
    paths = sorted(folder.glob(f"images/{part}/*-0.jpg"))
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
        loaded.append((image, People(xyxy, keypoints)))
    return loaded


def falls(data: Path, teacher: Teacher) -> Labelled:
    """Return pictures of UR Fall Detection."""
    refs = list_videos([str(data / "urfd" / "clips")])
    return [(image, teacher.label(image)) for ref in refs for image in frames(ref, Fraction(3))]


def measure(detector: Detector | Again, labelled: Labelled) -> Figures:
    """Compare a detector with the labels of pictures."""
    found = [detector.detect(image[None])[0] for image, _ in labelled]
    seen, lying, somebody, right = [], [], [], []
    for (_, people), boxes in zip(labelled, found, strict=True):
        sure = boxes.scores >= _FOUND_SCORE
        pairs = box_iou(torch.from_numpy(people.xyxy), torch.from_numpy(boxes.xyxy[sure])).numpy()
        hit = (pairs >= 0.5).any(axis=1)
        trunk, known = trunks(people.keypoints)
        seen.append(hit)
        lying.append(known & (trunk[:, 0] > trunk[:, 1]))
        somebody += [bool(sure.any())] if len(people.xyxy) else []
        if boxes.keypoints is not None and hit.any():
            nearest = boxes.keypoints[sure][pairs[hit].argmax(axis=1)]
            right.append(within_reach(people.keypoints[hit], nearest))
    all_seen, all_lying = np.concatenate(seen), np.concatenate(lying)
    ap50, _, _ = average_precision([people.xyxy for _, people in labelled], found)
    return Figures(
        ap50,
        float(all_seen.mean()),
        float(all_seen[all_lying].mean()) if all_lying.any() else float("nan"),
        float(np.mean(somebody)),
        float(np.concatenate(right).mean()) if right else float("nan"),
        len(labelled),
        len(all_seen),
        int(all_lying.sum()),
    )


class Again:
    """The networks that labelled a picture, asked again of its mirror image: how sure the labels themselves are."""

    def __init__(self, teacher: Teacher) -> None:
        """Take the networks."""
        self._teacher = teacher

    def detect(self, images: np.ndarray) -> list[Boxes]:
        """Return who is in each of some pictures `uint8 [N, H, W, 3]`, RGB."""
        found = []
        for image in images:
            people = self._teacher.label(np.ascontiguousarray(image[:, ::-1]))
            width, n = image.shape[1], len(people.xyxy)
            xyxy, keypoints = people.xyxy[:, [2, 1, 0, 3]], people.keypoints[:, MIRRORED]
            xyxy[:, 0::2], keypoints[..., 0] = width - xyxy[:, 0::2], width - keypoints[..., 0]
            found.append(Boxes(xyxy, np.ones(n, np.float32), np.zeros(n, np.int32), keypoints))
        return found


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("people", type=Path, help="folder of the data sets")
    measured = parser.add_mutually_exclusive_group(required=True)
    measured.add_argument("--out", type=Path, help="train without each source in turn, into this folder")
    measured.add_argument("--detector", help="measure one detector on all sources")
    measured.add_argument("--again", action="store_true", help="measure the networks that labelled the pictures")
    parser.add_argument("--held-out", action="store_true", help="measure on the held-out pictures of each data set")
    parser.add_argument("--px", type=int)
    parser.add_argument("--epochs", type=int, default=3, help="passes in which boxes are learnt")
    parser.add_argument("--keypoint-epochs", type=int, default=0, help="passes in which keypoints are learnt")
    parser.add_argument("--turned", type=float, default=0.5, help="share of the images shown turned by quarters")
    parser.add_argument("--teacher", default="", help="weights of Ultralytics whose maps are learnt, too")
    parser.add_argument("--sources", nargs="+", choices=(*SOURCES, FALLS), default=(*SOURCES, FALLS))
    chosen = parser.parse_args()
    runtime = choose_runtime("cpu", threads=2)
    rows = []
    for source in chosen.sources:
        if source == FALLS and chosen.out:
            continue
        asked = chosen.again or source == FALLS
        teacher = strong_teacher(chosen.weights, 2, source in (FALLS, *TURNED)) if asked else None
        name = chosen.detector or "the teacher, again"
        if chosen.out:
            others = [chosen.people / other / "data.yaml" for other in SOURCES if other != source]
            name = str(chosen.out / f"without-{source}")
            options = DetectorOptions(
                epochs=chosen.epochs,
                keypoint_epochs=chosen.keypoint_epochs,
                turned=chosen.turned,
                teacher=chosen.teacher,
            )
            train_detector(others, name, options)
        if source == FALLS and teacher:
            labels = Labels()
            labelled = falls(chosen.data, RememberingTeacher(teacher, labels))
            labels.save()
        else:
            labelled = pictures_of(chosen.people / source, "val" if chosen.held_out else "*")
        if not labelled:
            print(f"{source}: no such pictures", flush=True)
            continue
        detector = (
            Again(teacher)
            if chosen.again and teacher
            else Detector(name, runtime, ["person"], chosen.px, _LEAST_SCORE, 100)
        )
        rows.append({"source": source, "detector": name} | vars(measure(detector, labelled)))
        print(
            {key: round(value, 3) if isinstance(value, float) else value for key, value in rows[-1].items()}, flush=True
        )
    if chosen.out:
        with (chosen.out / "unseen.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
