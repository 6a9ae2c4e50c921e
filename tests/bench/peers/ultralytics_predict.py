"""Peer with Ultralytics: `predict(stream=True, vid_stride=...)`, and a CNN over the crops of the people it finds."""

from __future__ import annotations

from itertools import chain
from typing import Any

import cv2
import numpy as np

from tests.bench.peers.common import SAMPLE_FPS, CropEmbedder, PeopleFinder, Task, crop, rows_of, run, write

# Crops of so many frames are embedded together.
_FRAMES = 32


def main(task: Task) -> None:
    capture = cv2.VideoCapture(str(task.video))
    fps = capture.get(cv2.CAP_PROP_FPS)
    capture.release()
    stride = round(fps / SAMPLE_FPS)
    finder, embedder = PeopleFinder(task), CropEmbedder(task.tuned)
    rows: list[dict[str, Any]] = []
    waiting: list[list[dict[str, Any]]] = []
    crops: list[np.ndarray] = []

    def embed() -> None:
        found = list(chain.from_iterable(waiting))
        for row, vector in zip(found, embedder.embed(crops), strict=True):
            row["embedding"] = vector
        rows.extend(found)
        waiting.clear()
        crops.clear()

    for number, result in enumerate(
        finder.model.predict(str(task.video), stream=True, vid_stride=stride, **finder.options)
    ):
        # It reads a stride of frames and gives the last of them.
        of_frame, boxes = rows_of(result, (number * stride + stride - 1) / fps)
        waiting.append(of_frame)
        crops += [crop(result.orig_img[..., ::-1], box) for box in boxes]
        if len(waiting) == _FRAMES:
            embed()
    embed()
    write(rows, task.out)


if __name__ == "__main__":
    run(main)
