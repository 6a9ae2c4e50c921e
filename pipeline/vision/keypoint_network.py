"""Where the keypoints of people are, out of a map of the image that they are in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.stopwatch import Stopwatch
from pipeline.vision.pooling import Map, sampled
from pipeline.vision.runtime import Runtime

if TYPE_CHECKING:
    import torch

STRIDE = 8
"""Pixels of the network's input to a place of the map in which keypoints are looked for."""
N_CELLS = 12
"""The region of a person is seen as so many cells on each side."""
UPSCALE = 2
SIDE = UPSCALE * N_CELLS
"""A heatmap has so many cells on each side."""
# The region is larger than the box by this share of its sides, on each side: a keypoint may lie outside.
_MARGIN = 0.15
_CPU_BATCH, _GPU_BATCH = 4, 256
# A keypoint lies at the middle of what a heatmap tells within so many cells of its maximum.
_PEAK_CELLS = 2


def regions_of(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the regions in which the keypoints of people are looked for, by their boxes, `float32 [N, 4]` both."""
    margin = _MARGIN * (xyxy[:, 2:] - xyxy[:, :2])
    return np.hstack([xyxy[:, :2] - margin, xyxy[:, 2:] + margin])


def read_heatmaps(logits: NDArray[np.float32], regions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the keypoints of people, `float32 [N, K, 3]`: x, y in pixels of the network's input, score from 0 to 1.

    Args:
        logits: `float32 [N, K, SIDE * SIDE + 1]`, as `KeypointHead` gives them.
        regions: `float32 [N, 4]`, in pixels of the network's input.
    """
    n_people, n_keypoints, n = logits.shape
    assert n == SIDE * SIDE + 1
    best = logits[..., :-1].argmax(axis=2)
    padded = np.pad(
        logits[..., :-1].reshape(n_people, n_keypoints, SIDE, SIDE),
        [(0, 0), (0, 0), (_PEAK_CELLS, _PEAK_CELLS), (_PEAK_CELLS, _PEAK_CELLS)],
        constant_values=-np.inf,
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * _PEAK_CELLS + 1,) * 2, axis=(2, 3))
    people, keypoints = np.ogrid[:n_people, :n_keypoints]
    around = windows[people, keypoints, best // SIDE, best % SIDE]
    weights = np.exp(around - around.max(axis=(2, 3), keepdims=True))
    weights /= weights.sum(axis=(2, 3), keepdims=True)
    steps = np.arange(-_PEAK_CELLS, _PEAK_CELLS + 1, dtype=np.float32)
    # Shares of the region: cells are counted from their edges.
    x = (best % SIDE + 0.5 + weights.sum(axis=2) @ steps) / SIDE
    y = (best // SIDE + 0.5 + weights.sum(axis=3) @ steps) / SIDE
    shares = np.stack([x, y], axis=2)
    places = regions[:, None, :2] + shares * (regions[:, None, 2:] - regions[:, None, :2])
    seen = 1.0 / (1.0 + np.exp(-logits[..., -1:].clip(-30, 30)))
    return np.concatenate([places, seen], axis=2).astype(np.float32)


class KeypointNetwork:
    """The part of a network for people that sees each of them."""

    def __init__(
        self, runtime: Runtime, load_openvino: Callable[[], Path], load_torch: Callable[[], torch.nn.Module]
    ) -> None:
        """Prepare to compile the network when it is first asked.

        Args:
            runtime: Where and how to compute.
            load_openvino: Returns the path of the exported network, `KeypointHead.forward`.
            load_torch: Returns the same network as a module.
        """
        self.busy = Stopwatch()
        """How long the network itself has computed."""
        self._runtime, self._load_openvino, self._load_torch = runtime, load_openvino, load_torch

    @cached_property
    def _run(self) -> _Run:
        if self._runtime.device == "cpu":
            return _in_openvino(self._load_openvino(), self._runtime)
        return _in_torch(self._load_torch(), self._runtime)

    def keypoints(self, maps: list[Map], boxes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the keypoints of the people in some images, one image after the other, `float32 [N, K, 3]`.

        Args:
            maps: Of each image what `KeypointHead.merge` gives, `float32 [C, h, w]`.
            boxes: Of each image, `float32 [n, 4]`, xyxy in pixels of the network's input.
        """
        regions = [regions_of(xyxy) for xyxy in boxes]
        parts = [sampled(grid, found / np.float32(STRIDE), N_CELLS) for grid, found in zip(maps, regions, strict=True)]
        with self.busy:
            logits = self._run(np.concatenate(parts))
        return read_heatmaps(logits, np.concatenate(regions))


_Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _in_openvino(path: Path, runtime: Runtime) -> _Run:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(path)
    # Always as many people at a time: so nobody's keypoints differ, not by a bit, with who else is in the picture.
    shape = (_CPU_BATCH, *model.input().partial_shape.get_min_shape()[1:])
    model.reshape(shape)
    network = core.compile_model(model, "CPU", runtime.openvino_options() | {"NUM_STREAMS": 1})
    given = np.zeros(shape, np.float32)

    def run(parts: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = []
        for start in range(0, len(parts), _CPU_BATCH):
            some = parts[start : start + _CPU_BATCH]
            given[: len(some)] = some
            logits.append(network(given)[0][: len(some)])
        return np.concatenate(logits)

    return run


def _in_torch(module: torch.nn.Module, runtime: Runtime) -> _Run:
    import torch

    device = torch.device(runtime.device)
    module.eval().to(device)

    def run(parts: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = []
        with torch.inference_mode(), runtime.autocast():
            # Few enough at a time for what the batches of images leave of the memory.
            for start in range(0, len(parts), _GPU_BATCH):
                some = torch.from_numpy(parts[start : start + _GPU_BATCH])
                logits.append(module(some.to(device)).float().cpu())
        return torch.cat(logits).numpy()

    return run
