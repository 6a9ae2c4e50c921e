"""Measure the embedded person detector, and others, against the boxes of a stronger one. Draw a grid of pictures.

    python tests/bench/detector.py DATA WEIGHTS --pictures detections.png

DATA and WEIGHTS are the folders of real footage and of weights. YOLOv8n at 640 px (score at least 0.35) labels the test
clips of JHMDB's first split. No detector was trained on them. Speeds are those of one thread.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.ops import box_iou

from pipeline.archive.plan import plan_video
from pipeline.archive.probe import probe_video
from pipeline.archive.refs import VideoRef
from pipeline.archive.sources import list_videos
from pipeline.config import EMBEDDED_DETECTOR
from pipeline.video.decode import decode_chunk
from pipeline.vision.detector import Boxes, Detector
from pipeline.vision.runtime import choose_runtime

TEACHER_PX, TEACHER_SCORE = 640, 0.35
EVERY = Fraction(3)
LEAST_SCORE = 0.01
FOOTAGE = {
    "street/vtest.avi": (42.0, 50.0, 60.0, 75.0),
    "gmdcsa24/clips/s1_fall_13.mp4": (1.0, 3.0),
    "gmdcsa24/clips/s2_fall_12.mp4": (2.0, 8.0),
    "gmdcsa24/clips/s3_adl_18.mp4": (2.0,),
    "gmdcsa24/clips/s4_fall_03.mp4": (1.0, 3.0),
}
Find = Callable[[np.ndarray], Boxes]


class YoloxNano:
    """YOLOX-Nano on COCO by OpenVINO, as its authors run it: 416 px, letterboxed, BGR, no scaling of values."""

    def __init__(self, path: Path) -> None:
        import openvino as ov

        core = ov.Core()
        config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
        self._model = core.compile_model(core.read_model(path), "CPU", config)
        self._px = int(self._model.input(0).shape[2])
        grids = [(stride, self._px // stride) for stride in (8, 16, 32)]
        self._cells = np.concatenate(
            [np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2) for _, n in grids]
        )
        self._strides = np.concatenate([np.full((n * n, 1), stride) for stride, n in grids])

    def __call__(self, image: np.ndarray) -> Boxes:
        scale = self._px / max(image.shape[:2])
        small = cv2.resize(image, None, fx=scale, fy=scale)
        padded = np.full((self._px, self._px, 3), 114, np.float32)
        padded[: small.shape[0], : small.shape[1]] = small[:, :, ::-1]
        out = self._model([padded.transpose(2, 0, 1)[None]])[0][0]
        centre, side = (out[:, :2] + self._cells) * self._strides, np.exp(out[:, 2:4]) * self._strides
        score = out[:, 4] * out[:, 5]
        kept = score >= LEAST_SCORE
        xyxy = np.hstack([centre - side / 2, centre + side / 2])[kept] / scale
        score = score[kept]
        sides = xyxy[:, 2:] - xyxy[:, :2]
        chosen = np.array(cv2.dnn.NMSBoxes(np.hstack([xyxy[:, :2], sides]).tolist(), score.tolist(), LEAST_SCORE, 0.65))
        order = chosen.reshape(-1).astype(int)
        return Boxes(xyxy[order].astype(np.float32), score[order].astype(np.float32), np.zeros(len(order), np.int32))


def frames(ref: VideoRef, rate: Fraction, longest_px: int = 640) -> Iterator[np.ndarray]:
    """Yield the frames of a video at a rate."""
    probe = probe_video(ref)
    for chunk in plan_video(ref, probe, rate, 86_400.0).chunks:
        for batch in decode_chunk(ref.uri, probe, chunk, rate, longest_px, 16):
            yield from batch.images


def average_precision(truths: list[np.ndarray], found: list[Boxes]) -> tuple[float, float, float]:
    """Return `(AP50, precision, recall)`, the latter two at the score with the best F1, by Ultralytics' own formula."""
    from ultralytics.utils.metrics import ap_per_class

    right: list[bool] = []
    for truth, boxes in zip(truths, found, strict=True):
        pairs = box_iou(torch.from_numpy(boxes.xyxy), torch.from_numpy(truth)).numpy()
        taken: set[int] = set()
        for row in pairs:  # best score first
            best = next((j for j in np.argsort(-row) if row[j] >= 0.5 and j not in taken), None)
            right.append(best is not None)
            if best is not None:
                taken.add(int(best))
    n_true = sum(len(truth) for truth in truths)
    scores = np.concatenate([boxes.scores for boxes in found])
    result = ap_per_class(np.array(right)[:, None], scores, np.zeros(len(scores)), np.zeros(n_true))
    return float(result[5][0, 0]), float(result[2][0]), float(result[3][0])


def picture_grid(data: Path, extra: list[Path], find: Find, out: Path) -> None:
    """Draw what is found on frames of the street, of homes, and of further videos."""
    tiles = []
    moments = [(data / name, times) for name, times in FOOTAGE.items()] + [(path, (0.5, 2.0)) for path in extra]
    for path, times in moments:
        (ref,) = list_videos([str(path)])
        images = list(frames(ref, Fraction(2)))
        for time_s in times:
            image = np.ascontiguousarray(images[min(len(images) - 1, int(time_s * 2))])
            boxes = find(image)
            for box, score in zip(boxes.xyxy.astype(int), boxes.scores, strict=True):
                if score >= 0.25:
                    cv2.rectangle(image, box[:2].tolist(), box[2:].tolist(), (255, 60, 60), 2)
                    cv2.putText(image, f"{score:.2f}", (int(box[0]), int(box[1]) - 3), 0, 0.5, (255, 255, 0), 1)
            tile = np.zeros((360, 480, 3), np.uint8)
            scale = min(480 / image.shape[1], 360 / image.shape[0])
            small = cv2.resize(image, None, fx=scale, fy=scale)
            tile[: small.shape[0], : small.shape[1]] = small[:360, :480]
            tiles.append(tile)
    while len(tiles) % 4:
        tiles.append(np.zeros_like(tiles[0]))
    grid = np.vstack([np.hstack(tiles[i : i + 4]) for i in range(0, len(tiles), 4)])
    cv2.imwrite(str(out), grid[:, :, ::-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--detector", default=EMBEDDED_DETECTOR)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="further videos for the pictures")
    arguments = parser.parse_args()
    runtime = choose_runtime("cpu")
    yolov8n = str(arguments.weights / "yolov8n_coco.pt")

    def detector(weights: str, px: int | None, score: float) -> Find:
        found = Detector(weights, runtime, ["person"], px, score, 300)
        return lambda image: found.detect(image[None])[0]

    own = detector(arguments.detector, None, LEAST_SCORE)
    if arguments.pictures:
        picture_grid(arguments.data, arguments.also, own, arguments.pictures)
    with open(arguments.data / "jhmdb" / "splits.csv", encoding="utf-8") as file:
        clips = [str(arguments.data / "jhmdb" / r["video"]) for r in csv.DictReader(file) if r["split1"] == "test"]
    images = [image for ref in list_videos(clips) for image in frames(ref, EVERY)]
    teacher = detector(yolov8n, TEACHER_PX, TEACHER_SCORE)
    truths = [teacher(image).xyxy for image in images]
    print(f"{len(clips)} clips, {len(images)} frames, {sum(map(len, truths))} boxes of the teacher")
    rows: dict[str, Find] = {
        arguments.detector: own,
        "yolov8n, 320 px": detector(yolov8n, 320, LEAST_SCORE),
        "YOLOX-Nano, 416 px": YoloxNano(arguments.weights / "yolox_nano.onnx"),
    }
    for name, find in rows.items():
        find(images[0])
        started = time.perf_counter()
        found = [find(image) for image in images]
        speed = len(images) / (time.perf_counter() - started)
        ap50, precision, recall = average_precision(truths, found)
        print(f"{name:24} AP50 {ap50:.3f}  precision {precision:.3f}  recall {recall:.3f}  {speed:6.1f} images/s")


if __name__ == "__main__":
    main()
