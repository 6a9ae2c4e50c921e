"""Make the training pictures of the bundled network for people. Strong networks label every source.

    python -m tests.bench.people ../shared/data ../shared/weights ~/people

Each source becomes a data set in the layout of Ultralytics: JHMDB's training clips of split 1, the first half of the
street, GMDCSA24, Leeds Sports Poses Extended. Finished data sets are kept, so the same command resumes.
`people_labels.npz` holds the networks' labels of each picture, also those by an earlier `person_pose`. `--anew` makes
them again.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from pipeline.archive.refs import VideoRef
from pipeline.archive.sources import list_videos
from pipeline.training.distill import LabelOptions, Teacher, label_videos
from pipeline.training.people import VISIBLE, People, describe_data_set, draw_part, write_picture
from pipeline.vision.detector import Detector
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.landmarks import LandmarkNetwork
from pipeline.vision.runtime import choose_runtime
from tests.bench.detector import frames
from tests.bench.labels import KEPT, Labels, RememberingTeacher, key_of

SOURCES = ("street", "gmdcsa24", "jhmdb", "lspet")
TURNED = ("street", "gmdcsa24")
"""Those whose pictures are labelled in four orientations: nobody lies in JHMDB, and who is upside down in the
photographs was annotated by people."""
# The joints of Leeds Sports Poses that COCO has, too.
_JOINTS = {
    f"{side}_{joint}": f"{side[0]}_{joint}"
    for side in ("left", "right")
    for joint in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
}
# Joints lie inside the body: the box around them is so much larger, of its own size, on each side.
_JOINT_MARGIN = 0.12
_SAME_IOU = 0.4
# A box that is found at one place in such a share of a video's frames, and in so many, does not move.
_SAME_PLACE_IOU, _STILL_SHARE, _STILL_FRAMES = 0.7, 0.15, 4
# A box touches a side of the picture that is nearer than this share of the width.
_AT_SIDE = 0.02
# Who looks again where the strong teacher finds nobody, and the least score of the one box that counts.
_SECOND, _SECOND_PX, _SECOND_SCORE = "person_pose", 480, 0.05
# One frame in so many seconds of each source is labelled.
_EVERY_S = {"street": 0.1, "gmdcsa24": 0.125, "jhmdb": 0.5}


def videos_of(data: Path, source: str) -> list[VideoRef]:
    """Return the videos of a source to train on; of the street a span."""
    if source == "street":
        (ref,) = list_videos([str(data / "street" / "vtest.avi")])
        return [VideoRef(ref.uri, ref.size_bytes, ref.modified, 0.0, 40.0)]
    if source == "jhmdb":
        with (data / "jhmdb" / "splits.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["split1"] == "train"]
        return list_videos([str(data / "jhmdb" / row["video"]) for row in rows])
    return list_videos([str(data / "gmdcsa24" / "clips")])


def strong_teacher(weights: Path, threads: int, turns: bool) -> Teacher:
    """Return what labels the pictures: a detector, which may look in four orientations, and a network of landmarks."""
    return _teacher(str(weights / "yolov8n_coco.pt"), 640, 0.35, weights, threads, turns)


def second_teacher(weights: Path, threads: int) -> Teacher:
    """Return what looks again where the strong teacher finds nobody. It knows more of those who lie."""
    return _teacher(_SECOND, _SECOND_PX, _SECOND_SCORE, weights, threads, turns=True)


def _teacher(detector: str, px: int, min_score: float, weights: Path, threads: int, turns: bool) -> Teacher:
    runtime = choose_runtime(threads=threads)
    landmarks = LandmarkNetwork(weights / "pose_landmark_full.tflite", runtime)
    return Teacher(Detector(detector, runtime, ["person"], px, min_score, 100), landmarks, turns)


class OneAtHome(Teacher):
    """Labels GMDCSA24, where one person is in each frame, and clothes hang on a rack at the side.

    A strong teacher takes the clothes for a person, and misses many who fall or lie. What never moves at the side of a
    picture does not count, and of the rest only the best box does. Where nothing is left, a second teacher looks: its
    best box counts that is not upright at the side.
    """

    def __init__(self, teacher: Teacher, second: Teacher, refs: Sequence[VideoRef], every_s: float) -> None:
        """Ask the teachers about all frames of some videos."""
        self._teacher = teacher
        self._people: dict[bytes, People] = {}
        for ref in refs:
            images = list(frames(ref, Fraction(1 / every_s).limit_denominator(1000)))
            told = [teacher.label(image) for image in images]
            for image, people, moves in zip(
                images, told, _moving([each.xyxy for each in told], images[0].shape[1]), strict=True
            ):
                self._people[key_of(image)] = (
                    _best_of(people, moves) if moves.any() else _best_inside(second.label(image), image.shape[1])
                )

    @property
    def n_keypoints(self) -> int:
        """Keypoints of a person."""
        return self._teacher.n_keypoints

    def label(self, image: np.ndarray) -> People:
        """Return who is in a picture."""
        return self._people[key_of(image)]


def _moving(boxes: Sequence[np.ndarray], width: int) -> list[np.ndarray]:
    """Return for the boxes `[N, 4]` of each frame whether they move, or do not touch the left or right side."""
    together = torch.from_numpy(np.concatenate(boxes))
    frame = np.repeat(np.arange(len(boxes)), [len(of_frame) for of_frame in boxes])
    same = box_iou(together, together).numpy() > _SAME_PLACE_IOU
    n_frames = np.array([len(np.unique(frame[row])) for row in same])
    still = n_frames >= max(_STILL_SHARE * len(boxes), _STILL_FRAMES)
    fooled = still & _at_side(together.numpy(), width)
    return np.split(~fooled, np.cumsum([len(of_frame) for of_frame in boxes])[:-1])


def _best_inside(people: People, width: int) -> People:
    upright = people.xyxy[:, 3] - people.xyxy[:, 1] > people.xyxy[:, 2] - people.xyxy[:, 0]
    return _best_of(people, ~(upright & _at_side(people.xyxy, width)))


def _best_of(people: People, which: np.ndarray) -> People:
    """Return the first of some people, who are in the order of their scores; nobody if there are none."""
    first = np.flatnonzero(which)[:1]
    return People(people.xyxy[first], people.keypoints[first])


def _at_side(xyxy: np.ndarray, width: int) -> np.ndarray:
    return np.asarray((xyxy[:, 0] < _AT_SIDE * width) | (xyxy[:, 2] > (1 - _AT_SIDE) * width))


def label_photographs(data: Path, teacher: Teacher, labels: Labels, folder: Path, seed: int = 0) -> Path:
    """Label Leeds Sports Poses: its own joints for the annotated person, the teacher for the face and for others."""
    with (data / "lspet" / "joints.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        _, part = draw_part(row["image"], 0.05, seed)
        image = np.ascontiguousarray(cv2.imread(str(data / "lspet" / "images" / row["image"]))[:, :, ::-1])
        people = labels.of(image, partial(_label_photograph, teacher, image, row))
        write_picture(folder, part, f"{Path(row['image']).stem}-0", image, people)
    return describe_data_set(folder, "person", has_keypoints=True)


def _label_photograph(teacher: Teacher, image: np.ndarray, row: dict[str, str]) -> People:
    return _with_joints(teacher.label(image), row)


def _with_joints(people: People, row: dict[str, str]) -> People:
    """Put the annotated joints in place of those of the person that the teacher sees there, or add that person."""
    size = np.array([float(row["width"]), float(row["height"])], np.float32)
    names = [column.removesuffix("_x") for column in row if column.endswith("_x")]
    joints = np.array(
        [[float(row[f"{name}_{column}"]) for column in ("x", "y", "visible")] for name in names], np.float32
    )
    inside = (joints[:, 2] > 0) & (joints[:, :2] >= 0).all(axis=1) & (joints[:, :2] <= size).all(axis=1)
    if inside.sum() < 4:
        return people
    low, high = joints[inside, :2].min(axis=0), joints[inside, :2].max(axis=0)
    margin = (high - low).max() * _JOINT_MARGIN
    box = np.concatenate([low - margin, high + margin]).clip(0, np.tile(size, 2)).astype(np.float32)
    own = np.zeros((len(KEYPOINTS), 3), np.float32)
    overlaps = box_iou(torch.from_numpy(box[None]), torch.from_numpy(people.xyxy))[0].numpy()
    rest = np.ones(len(overlaps), bool)
    if len(overlaps) and overlaps.max() > _SAME_IOU:
        same = int(overlaps.argmax())
        own[:5] = people.keypoints[same, :5]
        box = people.xyxy[same]
        rest[same] = False
    for number, name in enumerate(KEYPOINTS):
        if name in _JOINTS:
            index = names.index(_JOINTS[name])
            own[number] = (*joints[index, :2], VISIBLE) if inside[index] else 0.0
    return People(np.concatenate([people.xyxy[rest], box[None]]), np.concatenate([people.keypoints[rest], own[None]]))


def main() -> None:
    """Make what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the sources")
    parser.add_argument("weights", type=Path, help="folder of the strong networks")
    parser.add_argument("out", type=Path, help="folder of the data sets")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of this process")
    parser.add_argument("--anew", action="store_true", help="ask the strong networks again, and keep what they say")
    chosen = parser.parse_args()
    if chosen.anew:
        KEPT.unlink(missing_ok=True)
    labels = Labels()
    for source in chosen.sources:
        folder = chosen.out / source
        if (folder / "data.yaml").exists():
            continue
        teacher = strong_teacher(chosen.weights, chosen.threads, turns=source in TURNED)
        shutil.rmtree(folder, ignore_errors=True)
        if source == "lspet":
            label_photographs(chosen.data, teacher, labels, folder)
        else:
            options = LabelOptions(every_s=_EVERY_S[source], parts=2 if source == "street" else 1)
            refs = videos_of(chosen.data, source)
            labelling: Teacher = RememberingTeacher(teacher, labels)
            if source == "gmdcsa24":
                second = RememberingTeacher(second_teacher(chosen.weights, chosen.threads), labels, _SECOND)
                labelling = OneAtHome(labelling, second, refs, options.every_s)
            label_videos(refs, labelling, folder, options)
        labels.save()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
