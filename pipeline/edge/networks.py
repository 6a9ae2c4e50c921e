"""Run the networks of a pack: by OpenVINO, or by ONNX Runtime."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUNTIMES = ("openvino", "onnxruntime")
"""The libraries that can run the networks."""
PRECISIONS = ("int8", "f16", "f32")
"""The precisions in which networks are stored, the smallest first."""
_FOLDER = {"openvino": "openvino", "onnxruntime": "onnx"}
# The keypoint head always gets this many people at a time, so that no result depends on the others.
_PEOPLE = 4


def load_networks(pack: Path, runtime: str | None = None, precision: str = "", threads: int = 1) -> Any:
    """Return the networks of a pack, with `detect`, `keypoints` and `step`.

    Args:
        pack: Its folder.
        runtime: One of `RUNTIMES`. None: the first that is installed and has networks in the pack.
        precision: One of `PRECISIONS`; empty: the smallest that is there.
        threads: Threads of the networks.

    Raises:
        ValueError: The pack has no such networks.
    """
    wanted = [runtime] if runtime else [name for name in RUNTIMES if find_spec(name)]
    there = {name: pack / _FOLDER[name] for name in wanted if (pack / _FOLDER[name]).is_dir()}
    if not there:
        raise ValueError(f"{pack}: no networks for {' or '.join(wanted or RUNTIMES)}; install it, or pack them")
    name, folder = next(iter(there.items()))
    kept = [each for each in _kept_in(folder) if precision in ("", each)]
    if not kept:
        raise ValueError(f"{folder}: no networks in {precision}; they are in {', '.join(_kept_in(folder))}")
    make = OpenVinoNetworks if name == "openvino" else OnnxNetworks
    return make(folder / kept[0], threads)


def _kept_in(folder: Path) -> list[str]:
    return [each for each in PRECISIONS if (folder / each).is_dir()]


class OpenVinoNetworks:
    """The networks in OpenVINO."""

    def __init__(self, folder: Path, threads: int) -> None:
        import openvino as ov

        self._core, self._folder = ov.Core(), folder
        self._options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        exact = self._options | {"INFERENCE_PRECISION_HINT": "f32"}
        # With other precisions, OpenVINO computes in the one that suits the processor best.
        if folder.name == "f32":
            self._options = exact
        # Only one compiled network is kept: one for each size of images would fill the memory.
        self._detector: tuple[tuple[int, ...], Any] | None = None
        heads = self._core.read_model(folder / "keypoints.xml")
        heads.reshape((_PEOPLE, *heads.input().partial_shape.get_min_shape()[1:]))
        self._heads = self._core.compile_model(heads, "CPU", self._options)
        self._step = self._core.compile_model(self._core.read_model(folder / "lstm.xml"), "CPU", exact)

    def detect(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the rows `float32 [N, ...]` of images `uint8 [N, H, W, 3]`, RGB."""
        if self._detector is None or self._detector[0] != images.shape:
            self._detector = images.shape, self._compiled(images.shape)
        rows: NDArray[np.float32] = self._detector[1](images)[0]
        return rows

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        import openvino as ov
        from openvino.preprocess import PrePostProcessor

        model = self._core.read_model(self._folder / "detector.xml")
        model.reshape([shape[0], 3, *shape[1:3]])
        graph = PrePostProcessor(model)
        graph.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        graph.input().model().set_layout(ov.Layout("NCHW"))
        graph.input().preprocess().convert_element_type(ov.Type.f32).scale([255.0] * 3)
        return self._core.compile_model(graph.build(), "CPU", self._options)

    def keypoints(self, parts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output of the keypoint head for parts of a map, `float32 [N, cells, cells, C]`."""
        return in_groups(lambda some: self._heads(some)[0], parts)

    def step(self, x: NDArray[np.float32], state: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the logits of a step and the state after it, from its inputs and the state before it."""
        return list(self._step([x, state]).values())


class OnnxNetworks:
    """The networks in ONNX Runtime."""

    def __init__(self, folder: Path, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        self._sessions = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
            for name in ("detector", "keypoints", "lstm")
        }

    def _run(self, name: str, *inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        session = self._sessions[name]
        given = {each.name: values for each, values in zip(session.get_inputs(), inputs, strict=True)}
        outputs: list[NDArray[np.float32]] = session.run(None, given)
        return outputs

    def detect(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the rows `float32 [N, ...]` of images `uint8 [N, H, W, 3]`, RGB."""
        pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255.0)
        return self._run("detector", pixels)[0]

    def keypoints(self, parts: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the output of the keypoint head for parts of a map, `float32 [N, cells, cells, C]`."""
        return in_groups(lambda some: self._run("keypoints", some)[0], parts)

    def step(self, x: NDArray[np.float32], state: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Return the logits of a step and the state after it, from its inputs and the state before it."""
        return self._run("lstm", x, state)


def in_groups(run: Any, parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Run rows in groups of a fixed size and return the results; the last group is padded with zeros."""
    told = []
    for start in range(0, len(parts), _PEOPLE):
        some = parts[start : start + _PEOPLE]
        padding = np.zeros((_PEOPLE - len(some), *some.shape[1:]), np.float32)
        told.append(run(np.concatenate([some, padding]))[: len(some)])
    return np.concatenate(told)
