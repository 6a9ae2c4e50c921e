"""Find the keypoints of people in a map of the image."""

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
"""Pixels of the network's input per place of the map in which keypoints are searched."""
N_CELLS = 12
"""Cells on each side of a person's region."""
UPSCALE = 2
SIDE = UPSCALE * N_CELLS
"""Cells on each side of a heatmap."""
# The region extends the box by this share of its width or height on each side: a keypoint may lie outside the box.
_MARGIN = 0.15
_CPU_BATCH, _GPU_BATCH = 4, 256
# A keypoint's position is the weighted mean of the heatmap within this many cells of its maximum.
_PEAK_CELLS = 2


def regions_of(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the regions in which keypoints are searched, for the boxes of people; both are `float32 [N, 4]`."""
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
    # As shares of the region: the middle of a cell lies half a cell from its edge.
    x = (best % SIDE + 0.5 + weights.sum(axis=2) @ steps) / SIDE
    y = (best // SIDE + 0.5 + weights.sum(axis=3) @ steps) / SIDE
    shares = np.stack([x, y], axis=2)
    places = regions[:, None, :2] + shares * (regions[:, None, 2:] - regions[:, None, :2])
    seen = 1.0 / (1.0 + np.exp(-logits[..., -1:].clip(-30, 30)))
    return np.concatenate([places, seen], axis=2).astype(np.float32)


class KeypointNetwork:
    """The part of the network for people that processes each person."""

    def __init__(
        self, runtime: Runtime, load_openvino: Callable[[], Path], load_torch: Callable[[], torch.nn.Module]
    ) -> None:
        """Prepare the network, which is compiled at its first use.

        Args:
            runtime: Where and how to compute.
            load_openvino: Returns the path of the exported network, `KeypointHead.forward`.
            load_torch: Returns the same network as a module.
        """
        self.busy = Stopwatch()
        """Time spent in the network itself."""
        self._runtime, self._load_openvino, self._load_torch = runtime, load_openvino, load_torch

    @cached_property
    def _run(self) -> _Run:
        if self._runtime.device == "cpu":
            return _in_openvino(self._load_openvino(), self._runtime)
        return _in_torch(self._load_torch(), self._runtime)

    def keypoints(self, maps: list[Map], boxes: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the keypoints of the people in some images, one image after the other, `float32 [N, K, 3]`.

        Args:
            maps: The map of each image from `KeypointHead.merge`, `float32 [C, h, w]`.
            boxes: The boxes of each image, `float32 [n, 4]`, xyxy in pixels of the network's input.
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
    # The batch size is fixed, so that a person's keypoints do not depend, to the bit, on who else is in the picture.
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
            # These batches are small enough for the memory that the batches of images leave.
            for start in range(0, len(parts), _GPU_BATCH):
                some = torch.from_numpy(parts[start : start + _GPU_BATCH])
                logits.append(module(some.to(device)).float().cpu())
        return torch.cat(logits).numpy()

    return run
