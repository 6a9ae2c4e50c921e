"""Parts that the peers share: the task, the networks in their usual form, and the rows."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE_FPS = 5
DETECTOR_PX = 320
SCORE = 0.25
MOST_PEOPLE = 32
FRAME_SIZE = (640, 360)
"""Width and height to which frames are brought where a peer can do it while it reads."""
CROP_PX = 224
BATCH = 16
SCHEMA = pa.schema(
    [
        ("frame_s", pa.float64()),
        ("score", pa.float32()),
        *((side, pa.float32()) for side in ("x1", "y1", "x2", "y2")),
        ("embedding", pa.list_(pa.float16())),
    ]
)
"""Boxes as shares of the frame's width and height."""


@dataclass(frozen=True)
class Task:
    """What a peer is told."""

    video: Path
    weights: Path
    out: Path
    tuned: bool


def run(peer: Callable[[Task], None]) -> None:
    """Run a peer with the arguments of the command line."""
    parser = argparse.ArgumentParser()
    for name in ("video", "weights", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--tuned", action="store_true")
    peer(Task(**vars(parser.parse_args())))


def exported_by_ultralytics(weights: Path) -> Path:
    """Return where Ultralytics puts its OpenVINO export of weights, made now if it is not there."""
    from ultralytics import YOLO

    target = weights.with_name(f"{weights.stem}_openvino_model")
    if not target.exists():
        YOLO(str(weights)).export(format="openvino", imgsz=(192, DETECTOR_PX), verbose=False)
    return target


class PeopleFinder:
    """Ultralytics as its page on prediction shows it."""

    def __init__(self, task: Task) -> None:
        from ultralytics import YOLO

        weights = exported_by_ultralytics(task.weights) if task.tuned else task.weights
        self.model = YOLO(str(weights), task="detect")
        self.options: dict[str, Any] = {
            "imgsz": (192, DETECTOR_PX) if task.tuned else DETECTOR_PX,
            "conf": SCORE, "classes": [0], "max_det": MOST_PEOPLE, "verbose": False,
        }  # fmt: skip


class CropEmbedder:
    """The CNN in PyTorch; tuned as PyTorch's guide advises for CPUs: channels last, bf16."""

    def __init__(self, tuned: bool) -> None:
        import torch

        from pipeline.vision.backbones import load_backbone

        backbone = load_backbone("efficientnet_lite0")
        self._tuned = tuned
        self._module = backbone.module.eval()
        if tuned:
            self._module = self._module.to(memory_format=torch.channels_last)
        self._mean, self._scale = (torch.tensor(each).view(1, 3, 1, 1) for each in (backbone.mean, backbone.scale))

    def embed(self, crops: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return a vector `float16 [1280]` for each crop `uint8 [h, w, 3]`, RGB."""
        import torch
        from torchvision.transforms.v2.functional import resize

        vectors: list[np.ndarray] = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._tuned):
            for start in range(0, len(crops), BATCH):
                squares = [
                    resize(torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1), [CROP_PX, CROP_PX])
                    for crop in crops[start : start + BATCH]
                ]
                x = (torch.stack(squares).float() - self._mean) / self._scale
                if self._tuned:
                    x = x.contiguous(memory_format=torch.channels_last)
                vectors.extend(self._module(x).to(torch.float16).numpy())
        return vectors


class Analyser:
    """Frames in, rows out: what a class of a peer's `map` does."""

    def __init__(self, task: Task) -> None:
        self._finder = PeopleFinder(task)
        self._embedder = CropEmbedder(task.tuned)

    def rows(self, frames: Sequence[np.ndarray], times_s: Sequence[float]) -> list[list[dict[str, Any]]]:
        """Return the rows of each frame `uint8 [H, W, 3]`, RGB."""
        bgr = [np.ascontiguousarray(frame[..., ::-1]) for frame in frames]
        results = self._finder.model.predict(bgr, **self._finder.options)
        crops: list[np.ndarray] = []
        rows: list[list[dict[str, Any]]] = []
        for frame, time_s, result in zip(frames, times_s, results, strict=True):
            found, boxes = rows_of(result, time_s)
            crops += [crop(frame, box) for box in boxes]
            rows.append(found)
        for row, vector in zip(
            (row for of_frame in rows for row in of_frame), self._embedder.embed(crops), strict=True
        ):
            row["embedding"] = vector
        return rows


def rows_of(result: Any, time_s: float) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Return the rows of one frame, still without embeddings, and its boxes in pixels."""
    boxes, scores = result.boxes.xyxy.numpy(), result.boxes.conf.numpy()
    height, width = result.orig_shape
    shares = boxes / np.array([width, height, width, height], np.float32)
    sides = ("x1", "y1", "x2", "y2")
    rows = [
        {"frame_s": float(time_s), "score": float(score)} | dict(zip(sides, box.tolist(), strict=True))
        for box, score in zip(shares, scores, strict=True)
    ]
    return rows, boxes


def crop(frame: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return a person's part of a frame, with the margin that actionlake leaves."""
    height, width = frame.shape[:2]
    margin_x, margin_y = (box[2] - box[0]) * 0.1, (box[3] - box[1]) * 0.1
    left, top = max(0, int(box[0] - margin_x)), max(0, int(box[1] - margin_y))
    right, bottom = min(width, round(box[2] + margin_x)), min(height, round(box[3] + margin_y))
    return frame[top : max(bottom, top + 1), left : max(right, left + 1)]


def write(rows: list[dict[str, Any]], out: Path) -> None:
    """Write rows as Parquet."""
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), out)
