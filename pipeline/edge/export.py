"""Write the networks of a pack as files: OpenVINO's and ONNX, in f32, f16 and int8."""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.activity.graphs import step_graph

if TYPE_CHECKING:
    import openvino as ov
    import torch

DETECTOR, KEYPOINTS, LSTM = NETWORKS = ("detector", "keypoints", "lstm")
"""Names of the files, without suffix."""
_OPSET = 17
# Weights are scaled per channel and activations per layer, as Intel's and Arm's instructions for int8 need it.
_QUANTISED = (DETECTOR, KEYPOINTS)


class Calibration:
    """Inputs to calibrate networks for int8: those that the networks get when they look at the user's pictures."""

    def __init__(self, images: Sequence[NDArray[np.float32]], parts: Sequence[NDArray[np.float32]]) -> None:
        """Take inputs of the detector `float32 [1, 3, h, w]`, of the keypoint head `float32 [1, cells, cells, C]`."""
        self._of = {DETECTOR: list(images), KEYPOINTS: list(parts)}

    def of(self, network: str) -> list[NDArray[np.float32]]:
        """Return the inputs of a network."""
        return self._of[network]


def write_openvino(
    exported: Path, bundle: Bundle, out: Path, precisions: Sequence[str], calibration: Calibration | None
) -> None:
    """Write the networks for OpenVINO, a folder for each precision.

    Args:
        exported: Folder with the detector as it is exported for this node; see `exported_weights`.
        bundle: The activity model.
        out: The target folder.
        precisions: `f32`, `f16`, `int8`. For `int8`, which needs NNCF, the LSTM is in f16: it is small, and remembers.
        calibration: Inputs for calibration, only for `int8`.
    """
    import openvino as ov

    core = ov.Core()
    graphs = {DETECTOR: core.read_model(exported / "model.xml"), KEYPOINTS: core.read_model(exported / "keypoints.xml")}
    graphs[LSTM] = step_graph(bundle.spec, bundle.weights)
    for precision in precisions:
        folder = out / precision
        folder.mkdir(parents=True, exist_ok=True)
        for name, graph in graphs.items():
            made = graph
            if precision == "int8" and name in _QUANTISED:
                assert calibration is not None
                made = _quantised(graph, calibration.of(name))
            ov.save_model(made, folder / f"{name}.xml", compress_to_fp16=precision != "f32")


def _quantised(graph: ov.Model, inputs: Sequence[NDArray[np.float32]]) -> ov.Model:
    """Return a graph with int8 weights and activations, for inputs of any size."""
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    # NNCF prints its progress, which is not part of our output.
    with redirect_stdout(sys.stderr):
        made: ov.Model = nncf.quantize(
            graph.clone(), nncf.Dataset(list(inputs)), preset=nncf.QuantizationPreset.MIXED, subset_size=len(inputs)
        )
    return made


def write_onnx(
    detector: Path, bundle: Bundle, out: Path, precisions: Sequence[str], calibration: Calibration | None
) -> None:
    """Write the networks as ONNX, a folder for each precision; it needs PyTorch, onnx and, but for f32, ONNX Runtime.

    Args:
        detector: Folder of the detector's bundle.
        bundle: The activity model.
        out: The target folder.
        precisions: As for `write_openvino`.
        calibration: As for `write_openvino`.
    """
    f32 = out / "f32"
    with tempfile.TemporaryDirectory() as scratch:
        exact = f32 if "f32" in precisions else Path(scratch)
        exact.mkdir(parents=True, exist_ok=True)
        for name, module, inputs, dynamic in _torch_modules(detector, bundle):
            _export(module, inputs, dynamic, exact / f"{name}.onnx")
        for precision in [each for each in precisions if each != "f32"]:
            (out / precision).mkdir(parents=True, exist_ok=True)
            for name in NETWORKS:
                source, target = exact / f"{name}.onnx", out / precision / f"{name}.onnx"
                if precision == "int8" and name in _QUANTISED:
                    assert calibration is not None
                    _quantise_onnx(source, target, calibration.of(name))
                else:
                    _halve(source, target)


_Exported = tuple[str, Any, tuple[Any, ...], dict[str, dict[int, str]]]


def _torch_modules(detector: Path, bundle: Bundle) -> Iterator[_Exported]:
    """Yield each network as a module: its name, the module, inputs to trace it with, and its axes of any length."""
    import torch

    from pipeline.edge.torch_step import Step
    from pipeline.vision.keypoint_network import N_CELLS
    from pipeline.vision.people_network import keypoint_head_of
    from pipeline.vision.weights import first_output, load_weights

    network: Any = load_weights(detector)
    network.model[-1].dynamic, network.model[-1].export, network.model[-1].format = True, True, "onnx"
    look = first_output(network.requires_grad_(False)).eval()
    head = keypoint_head_of(network)
    assert head is not None
    images = torch.zeros(1, 3, 192, 320)
    # The head makes its anchors at the first pass.
    look(images)
    yield DETECTOR, look, (images,), {"images": {2: "h", 3: "w"}, "rows": {1: "n"}}
    yield (
        KEYPOINTS,
        head.eval(),
        (torch.zeros(2, N_CELLS, N_CELLS, head.channels),),
        {"parts": {0: "n"}, "told": {0: "n"}},
    )
    step = Step(bundle.model)
    yield LSTM, step, step.example(), {"x": {}, "state": {}, "logits": {}, "after": {}}


def _export(module: torch.nn.Module, inputs: tuple[Any, ...], names: dict[str, dict[int, str]], path: Path) -> None:
    import torch

    given, told = list(names)[: len(inputs)], list(names)[len(inputs) :]
    with warnings.catch_warnings(), torch.no_grad():
        # The warnings: sizes become constants, which they are, and there is a newer exporter, which takes a minute.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, inputs, path, input_names=given, output_names=told, opset_version=_OPSET, dynamo=False,
            dynamic_axes={name: axes for name, axes in names.items() if axes},
        )  # fmt: skip


def _halve(source: Path, target: Path) -> None:
    """Write a network with f16 weights. It computes in f32, as CPUs do anyway, with inputs and outputs in f32."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(source)
    graph, casts = model.graph, []
    for weights in list(graph.initializer):
        values = numpy_helper.to_array(weights)
        if values.dtype != np.float32 or values.size < _SMALLEST_HALVED:
            continue
        halved = numpy_helper.from_array(values.astype(np.float16), f"{weights.name}_f16")
        casts.append(onnx.helper.make_node("Cast", [halved.name], [weights.name], to=onnx.TensorProto.FLOAT))
        graph.initializer.remove(weights)
        graph.initializer.append(halved)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)


# Smaller tensors are biases and sizes: nothing is gained by halving them.
_SMALLEST_HALVED = 256


def _quantise_onnx(source: Path, target: Path, inputs: Sequence[NDArray[np.float32]]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Inputs(CalibrationDataReader):  # type: ignore[misc]
        """Returns the inputs one after the other."""

        def __init__(self, name: str) -> None:
            self._left = iter([{name: each} for each in inputs])

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            return next(self._left, None)

    name = onnx.load(source, load_external_data=False).graph.input[0].name
    ready = target.with_suffix(".ready.onnx")
    # Sizes are left open, which symbolic shape inference does not follow.
    quant_pre_process(source, ready, skip_symbolic_shape=True)
    quantize_static(
        ready, target, Inputs(name), per_channel=True, weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8, op_types_to_quantize=["Conv"],
    )  # fmt: skip
    ready.unlink()
