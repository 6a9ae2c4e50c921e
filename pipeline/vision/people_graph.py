"""The network for people as OpenVINO graphs, built from a bundle's weights without PyTorch and Ultralytics.

The graphs compute what `people_network.OneLook` and `KeypointHead.forward` compute. They support the layers that
`people_architecture.architecture` describes, in any widths; all other descriptions are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from pipeline.errors import UsageError
from pipeline.vision.detector_bundle import DetectorBundle
from pipeline.vision.efficientnet_blocks import BLOCKS
from pipeline.vision.graph_layers import (
    Grid,
    Layers,
    constant,
    enlarged,
    joined,
    pooled,
    relu6,
    reshaped,
    silu,
)
from pipeline.vision.keypoint_network import N_CELLS, SIDE, UPSCALE
from pipeline.vision.people_architecture import BACKBONE, MAP_LAYERS, MAPS, READ_LAYERS

# Epsilon of the batch norms. Ultralytics sets it in each network that it builds. The keypoint head is added later and
# has PyTorch's.
_EPS, _HEAD_EPS = 1e-3, 1e-5
_HEAD = "keypoint_head"
# Graphs are built for this input size, at which the sides of maps give their strides. Afterwards they take any size.
_PX = 256


def people_graphs(bundle: DetectorBundle) -> tuple[ov.Model, ov.Model | None]:
    """Return the graph that processes images, and the graph of the keypoint head that processes people, if any.

    The first takes `float32 [N, 3, H, W]` from 0 to 1, H and W multiples of 32, and gives `float32 [N, ...]`: one row
    per image, which `pipeline.vision.pooling` takes apart. The second takes `float32 [M, N_CELLS, N_CELLS, C]` and
    gives `float32 [M, K, SIDE * SIDE + 1]`.

    Args:
        bundle: Holds a network for people whose head is Ultralytics' `Detect`.

    Raises:
        UsageError: The description is not known, or the weights do not fit it.
    """
    of_head = {name: array for name, array in bundle.weights.items() if name.startswith(f"{_HEAD}.")}
    others = {name: array for name, array in bundle.weights.items() if name not in of_head}
    layers, head_layers = Layers(others, _EPS), Layers(of_head, _HEAD_EPS)
    facts = bundle.architecture.get(_HEAD)
    try:
        looking = _looking(layers, bundle, head_layers if facts else None)
        seeing = _seeing(head_layers, facts, bundle.name) if facts else None
        if unread := layers.unread() + head_layers.unread():
            raise UsageError(f"weights {unread[0]} belong to no layer that is described")
    except (UsageError, ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise UsageError(f"detector {bundle.name!r}: no network can be made of this bundle ({cause})") from error
    return looking, seeing


def _looking(layers: Layers, bundle: DetectorBundle, head_layers: Layers | None) -> ov.Model:
    """Return the graph that processes images; `head_layers` are those of a keypoint head."""
    description = bundle.architecture
    # Every other part of a description shows in its layers or in the weights.
    if description.get("activation"):
        raise UsageError(f"activation {description['activation']!r} is not known")
    image = ops.parameter([1, 3, _PX, _PX], np.float32)
    outputs: list[Any] = []
    for number, (sources, _, module, args) in enumerate(description["backbone"] + description["head"]):
        given = [outputs[source] if outputs else image for source in np.atleast_1d(sources)]
        outputs.append(_layer(layers, f"model.{number}", given, module, args))
    predictions, maps = outputs[-1], [outputs[number] for number in MAP_LAYERS]
    if predictions.shape[1] != 4 + len(bundle.names):
        raise UsageError(f"{len(bundle.names)} names for {predictions.shape[1] - 4} classes")
    for grid, (channels, stride, _) in zip(maps, MAPS, strict=True):
        if list(grid.shape[1:]) != [channels, _PX // stride, _PX // stride]:
            raise UsageError(f"a map of shape {[*grid.shape[1:]]}, where one of stride {stride} is read")
    if head_layers is not None:
        maps.append(_merged(head_layers, [outputs[number] for number in READ_LAYERS]))
    row = joined([reshaped(part, -1) for part in (predictions, *maps)])
    model = ov.Model([row], [image], bundle.name)
    model.reshape([-1, 3, -1, -1])
    return model


def _seeing(layers: Layers, facts: dict[str, int], name: str) -> ov.Model:
    """Return the graph of `KeypointHead.forward`."""
    parts = ops.parameter([-1, N_CELLS, N_CELLS, facts["channels"]], np.float32)
    x = ops.relu(layers.norm(ops.transpose(parts, np.array([0, 3, 1, 2])), f"{_HEAD}.norm"))
    for number in range(facts["n_blocks"]):
        block = f"{_HEAD}.blocks.{number}"
        y = layers.convolution(x, f"{block}.around", f"{block}.norm")
        y = layers.convolution(y, f"{block}.widen", activation=ops.relu)
        x = ops.add(x, layers.convolution(y, f"{block}.narrow"))
    places = ops.depth_to_space(layers.convolution(x, f"{_HEAD}.places"), "depth_first", UPSCALE)
    seen = layers.linear(ops.reduce_mean(x, np.array([2, 3])), f"{_HEAD}.seen")
    logits = joined([reshaped(places, facts["n_keypoints"], SIDE * SIDE), reshaped(seen, -1, 1)], axis=2)
    return ov.Model([logits], [parts], f"{name}_keypoints")


def _layer(layers: Layers, name: str, given: Sequence[Any], module: str, args: list[Any]) -> Any:
    """Return the output of a described layer: a map, or a list of maps for a backbone."""
    made: Any
    match module, args:
        case "TorchVision", [_, str(backbone), _, True, 0, True] if backbone == BACKBONE:
            made = _backbone(layers, name, given[0])
        case "Index", [_, int(number)]:
            made = given[0][number]
        case "Conv", [_, int(), int(stride)]:
            made = _conv(layers, name, given[0], stride)
        case "SPPF", [_, int(side)]:
            made = _pyramid(layers, name, given[0], side)
        case "C3k2", [_, bool()]:
            made = _c3k2(layers, name, given[0])
        case "nn.Upsample", [None, 2, "nearest"]:
            made = enlarged(given[0], "nearest")
        case "Concat", [1]:
            made = joined(given)
        case "Detect", ["nc"]:
            made = _detect(layers, name, given)
        case _:
            raise UsageError(f"layer {name}, {module} {args}, is none that a network for people is made of")
    return made


def _backbone(layers: Layers, name: str, image: Grid) -> list[Grid]:
    """Return the image, and the outputs of the stem and of each block of EfficientNet-Lite0."""
    # The scaling is not folded into the stem's filters: the padding around the image is 0, not a scaled black pixel.
    scaled = ops.subtract(ops.multiply(image, constant(255 / 128)), constant(127 / 128))
    stem = f"{name}.m.0"
    grids = [image, layers.convolution(scaled, f"{stem}.conv", f"{stem}.norm", 2, _same_pads(3, 2), relu6)]
    for number, block in enumerate(BLOCKS, 1):
        at, x = f"{name}.m.{number}", grids[-1]
        y = x
        if block.expansion != 1:
            y = layers.convolution(y, f"{at}._expand_conv", f"{at}._bn0", activation=relu6)
        pads = _same_pads(block.kernel, block.stride)
        y = layers.convolution(y, f"{at}._depthwise_conv", f"{at}._bn1", block.stride, pads, relu6)
        y = layers.convolution(y, f"{at}._project_conv", f"{at}._bn2")
        grids.append(ops.add(x, y) if block.is_residual else y)
    return grids


def _same_pads(kernel: int, stride: int) -> tuple[int, int]:
    """Return the number of zeros before and after an axis, as in TensorFlow's `SAME` for even sizes."""
    return (kernel - stride) // 2, (kernel - stride + 1) // 2


def _conv(layers: Layers, name: str, x: Grid, stride: int = 1) -> Grid:
    """Return Ultralytics' convolution, followed by a batch norm and SiLU."""
    return layers.convolution(x, f"{name}.conv", f"{name}.bn", stride, activation=silu)


def _pyramid(layers: Layers, name: str, x: Grid, side: int) -> Grid:
    """Return a map in which each place includes its near and far surroundings: Ultralytics' `SPPF`.

    Its first convolution has an activation only if the description gives no argument after the side.
    """
    grids = [_conv(layers, f"{name}.cv1", x)]
    for _ in range(3):
        grids.append(pooled(grids[-1], side))
    return _conv(layers, f"{name}.cv2", joined(grids))


def _c3k2(layers: Layers, name: str, x: Grid) -> Grid:
    """Return Ultralytics' `C3k2`: half of the channels go through blocks, and each block's output is kept."""
    grids = list(ops.split(_conv(layers, f"{name}.cv1", x), 1, 2).outputs())
    for block in _numbered(layers, f"{name}.m"):
        inner = _c3k if f"{block}.cv3.conv.weight" in layers else _bottleneck
        grids.append(inner(layers, block, grids[-1]))
    return _conv(layers, f"{name}.cv2", joined(grids))


def _c3k(layers: Layers, name: str, x: Grid) -> Grid:
    y = _conv(layers, f"{name}.cv1", x)
    for block in _numbered(layers, f"{name}.m"):
        y = _bottleneck(layers, block, y)
    return _conv(layers, f"{name}.cv3", joined([y, _conv(layers, f"{name}.cv2", x)]))


def _bottleneck(layers: Layers, name: str, x: Grid) -> Grid:
    return ops.add(x, _conv(layers, f"{name}.cv2", _conv(layers, f"{name}.cv1", x)))


def _numbered(layers: Layers, name: str) -> list[str]:
    """Return the names of the numbered blocks of a layer."""
    names: list[str] = []
    while f"{name}.{len(names)}.cv1.conv.weight" in layers:
        names.append(f"{name}.{len(names)}")
    return names


def _detect(layers: Layers, name: str, grids: Sequence[Grid]) -> Any:
    """Return Ultralytics' `Detect`, `float32 [N, 4 + classes, A]`: centres and sizes in pixels, scores."""
    bins = layers.read(f"{name}.dfl.conv.weight").reshape(-1, 1)
    sides, scores = [], []
    for level, grid in enumerate(grids):
        box, kind = f"{name}.cv2.{level}", f"{name}.cv3.{level}"
        x, y = grid, grid
        for layer in ("0", "1"):
            x = _conv(layers, f"{box}.{layer}", x)
        for layer in ("0.0", "0.1", "1.0", "1.1"):
            y = _conv(layers, f"{kind}.{layer}", y)
        sides.append(reshaped(layers.convolution(x, f"{box}.2"), 4, len(bins), -1))
        y = layers.convolution(y, f"{kind}.2")
        scores.append(reshaped(y, y.shape[1], -1))
    # The distances of left, top, right and bottom from the anchor are distributions over numbers of places.
    distances = ops.reduce_sum(ops.multiply(ops.softmax(joined(sides, axis=3), 2), constant(bins)), np.array([2]))
    before, after = ops.split(distances, 1, 2).outputs()
    places = joined([_anchors(grid) for grid in grids], axis=2)
    anchors, strides = ops.variadic_split(places, 1, np.array([2, 1])).outputs()
    centres = ops.add(anchors, ops.multiply(ops.subtract(after, before), constant(0.5)))
    boxes = ops.multiply(joined([centres, ops.add(before, after)]), strides)
    return joined([boxes, ops.sigmoid(joined(scores, axis=2))])


def _anchors(grid: Grid) -> Any:
    """Return for each place of a map its middle x and y, in places, and its stride: `float32 [1, 3, h * w]`."""
    size = ops.gather(ops.shape_of(grid), np.array([2, 3]), np.array(0))
    height, width = (ops.squeeze(side, np.array([0])) for side in ops.split(size, 0, 2).outputs())
    y, x = (ops.range(constant(0.5), end, constant(1), "f32") for end in (height, width))
    each = (x, ops.unsqueeze(y, np.array([1])), constant(_PX // grid.shape[2]))
    return joined([ops.reshape(ops.broadcast(values, size), np.array([1, 1, -1]), False) for values in each])


def _merged(layers: Layers, grids: Sequence[Grid]) -> Grid:
    """Return the map that a keypoint head reads, as high and wide as the first: `KeypointHead.merge`."""
    told = [layers.convolution(grid, f"{_HEAD}.laterals.{level}") for level, grid in enumerate(grids)]
    merged = told.pop()
    while told:
        merged = ops.add(told.pop(), enlarged(merged, "bilinear"))
    return merged
