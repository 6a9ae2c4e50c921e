"""The network that looks at a frame once: EfficientNet-Lite0 below, a neck and a head of Ultralytics above.

Keypoints are told by a head beside these (`pipeline.vision.keypoint_head`), or, in bundles of before, by Ultralytics'.

The backbone keeps its ImageNet weights. So what it says of a place or of a person stays what it is for the CNN alone,
and training needs far fewer pictures than from a random start (Vasconcelos and others, "Proper Reuse of Image
Classification Features Improves Object Detection", 2022).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import list_models
from torchvision.models._api import register_model

from pipeline.vision.efficientnet_lite import EfficientNetLite0, load_imagenet
from pipeline.vision.keypoint_head import KeypointHead
from pipeline.vision.runtime import Runtime

BACKBONE = "actionlake_efficientnet_lite0"
"""What torchvision's registry, out of which Ultralytics builds networks, calls the backbone."""

_OUTPUTS = {6: 40, 12: 112, 17: 320}
"""Which of the backbone's layers are read, counted from the image, and their channels: strides of 8, 16, 32."""
MAPS = ((112, 16, 3), (320, 32, 1))
"""The backbone's maps out of which people and frames are described: see `pipeline.vision.pooling.describe`."""
_READ_LAYERS, _MAP_LAYERS = (1, 2, 3), (2, 3)
_KEYPOINT_CHANNELS, _KEYPOINT_BLOCKS = 96, 5
_PIECE = 4


class _Stem(nn.Module):
    """First layer, with the scaling from Ultralytics' range, 0 to 1, to that of the published weights."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.conv, self.norm = network._conv_stem, network._bn0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu6(self.norm(self.conv((x * 255.0 - 127.0) / 128.0)))


class _Backbone(nn.Module):
    """The layers without the classifier, as a sequence that Ultralytics takes outputs from."""

    def __init__(self, network: EfficientNetLite0) -> None:
        super().__init__()
        self.layers = nn.Sequential(_Stem(network), *network._blocks)


def build_backbone(weights: str | None = None) -> nn.Module:
    """Return EfficientNet-Lite0 without its classifier.

    Args:
        weights: `DEFAULT` for those of ImageNet, None for random ones.
    """
    network = EfficientNetLite0()
    if weights is not None:
        load_imagenet(network)
    return _Backbone(network)


def predictions_of(output: Any) -> torch.Tensor:
    """Return the predictions out of whatever a head of Ultralytics gives: they come first."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    predictions: torch.Tensor = output
    return predictions


class OneLook(nn.Module):
    """All that one pass tells, as one row an image: the head's predictions, then maps, flattened.

    The maps are the backbone's (`MAPS`) and, of a network with a keypoint head, the one in which that looks.

    `float32 [N, 3, H, W]` from 0 to 1 to `float32 [N, ...]`; `pipeline.vision.pooling` takes the rows apart.
    """

    def __init__(self, network: nn.Module) -> None:
        """Take a network that was built from `architecture`."""
        super().__init__()
        self.layers: Any = network.model
        self.keypoint_head = keypoint_head_of(network)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rows."""
        outputs: list[Any] = []
        for layer in self.layers:
            # As Ultralytics runs its networks: `f` names the layers that a layer reads.
            sources = [layer.f] if isinstance(layer.f, int) else layer.f
            given = [(outputs[f] if outputs else x) if f != -1 else (outputs[-1] if outputs else x) for f in sources]
            outputs.append(layer(given[0] if isinstance(layer.f, int) else given))
        predictions = predictions_of(outputs[-1])
        maps = [outputs[number] for number in _MAP_LAYERS]
        if self.keypoint_head is not None:
            maps.append(self.keypoint_head.merge([outputs[number] for number in _READ_LAYERS]))
        return torch.cat([part.flatten(1) for part in (predictions, *maps)], dim=1)


def with_keypoint_head(description: dict[str, Any], n_keypoints: int) -> dict[str, Any]:
    """Return the description of a network that finds boxes as the given one does, and keypoints by a head of its own.

    What Ultralytics' pose head says of keypoints is dropped.
    """
    *head, (sources, repeats, _, _) = description["head"]
    rest = {key: value for key, value in description.items() if key != "kpt_shape"}
    facts = {"n_keypoints": n_keypoints, "channels": _KEYPOINT_CHANNELS, "n_blocks": _KEYPOINT_BLOCKS}
    return rest | {"head": [*head, [sources, repeats, "Detect", ["nc"]]], "keypoint_head": facts}


def add_keypoint_head(network: nn.Module, facts: dict[str, int]) -> None:
    """Give a network for people a keypoint head with random weights.

    Args:
        network: Changed in place.
        facts: As `with_keypoint_head` describes the head.
    """
    network.keypoint_head = KeypointHead(list(_OUTPUTS.values()), **facts)


def keypoint_head_of(network: nn.Module) -> KeypointHead | None:
    """Return the keypoint head of a network, None if it has none."""
    return getattr(network, "keypoint_head", None)


def is_people(description: dict[str, Any]) -> bool:
    """Whether a network's description is one that `architecture` gives."""
    first = description.get("backbone", [[0, 0, "", []]])[0]
    return BACKBONE in first[3]


def export(network: nn.Module, path: Path) -> None:
    """Write a fused network for OpenVINO, with `OneLook`'s output, for inputs of any size."""
    import openvino as ov

    head: Any = network.model[-1]  # type: ignore[index]
    head.dynamic, head.export, head.format = True, True, "openvino"
    # Its sides differ, so that none is taken for the other.
    example = torch.zeros(1, 3, 192, 320)
    module = OneLook(network.requires_grad_(False)).eval()
    # The head makes its anchors at the first pass.
    module(example), module(example)
    ov.save_model(ov.convert_model(module, example_input=example), path, compress_to_fp16=False)


class Read(nn.Module):
    """The maps of a backbone that are read, those of the smallest stride first."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of images `float32 [N, 3, H, W]` from 0 to 1."""
        maps = self.backbone(x)
        return [maps[layer] for layer in _OUTPUTS]


def freeze_in_openvino(backbone: nn.Module, runtime: Runtime) -> None:
    """Let a backbone that no longer learns compute in OpenVINO: in training on a CPU, most of the time is its.

    Args:
        backbone: The first layer of a network that was built from `architecture`; changed in place.
        runtime: How to compute.
    """
    import openvino as ov

    was_training = backbone.training
    model = ov.convert_model(Read(backbone.eval()), example_input=torch.zeros(1, 3, 64, 64))
    backbone.train(was_training)
    compiled = ov.Core().compile_model(model, "CPU", runtime.openvino_options())

    def forward(x: torch.Tensor) -> list[torch.Tensor | None]:
        # Piece by piece: what one image fills of the cache is enough.
        pieces = [compiled(piece.numpy()) for piece in torch.split(x, _PIECE)]
        maps: list[torch.Tensor | None] = [None] * (max(_OUTPUTS) + 1)
        for number, layer in enumerate(_OUTPUTS):
            maps[layer] = torch.from_numpy(np.concatenate([piece[number] for piece in pieces]))
        return maps

    backbone.forward = forward


def register() -> None:
    """Make the backbone known to torchvision's registry."""
    if BACKBONE not in list_models():
        register_model(BACKBONE)(build_backbone)


def architecture(n_classes: int = 1, n_keypoints: int = 17, imagenet: bool = True) -> dict[str, Any]:
    """Return the network in Ultralytics' description.

    Args:
        n_classes: Classes of the boxes.
        n_keypoints: Keypoints of a box, each with x, y and visibility; 0: boxes alone.
        imagenet: Whether the backbone starts from ImageNet's weights.
    """
    weights = "DEFAULT" if imagenet else None
    head = ["Pose", ["nc", "kpt_shape"]] if n_keypoints else ["Detect", ["nc"]]
    return {
        "nc": n_classes,
        **({"kpt_shape": [n_keypoints, 3]} if n_keypoints else {}),
        "backbone": [
            [-1, 1, "TorchVision", [320, BACKBONE, weights, True, 0, True]],
            *([0, 1, "Index", [channels, layer]] for layer, channels in _OUTPUTS.items()),  # 1, 2, 3
            [-1, 1, "SPPF", [192, 5]],  # 4
        ],
        "head": [
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, 2], 1, "Concat", [1]],
            [-1, 1, "C3k2", [128, False]],  # 7
            [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
            [[-1, 1], 1, "Concat", [1]],
            [-1, 1, "C3k2", [64, False]],  # 10
            [-1, 1, "Conv", [64, 3, 2]],
            [[-1, 7], 1, "Concat", [1]],
            [-1, 1, "C3k2", [128, False]],  # 13
            [-1, 1, "Conv", [128, 3, 2]],
            [[-1, 4], 1, "Concat", [1]],
            [-1, 1, "C3k2", [256, True]],  # 16
            [[10, 13, 16], 1, *head],
        ],
    }


def without_imagenet(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description in which the backbone starts from nothing, for a network whose weights are loaded."""
    backbone = [
        [source, repeats, module, [*args[:2], None, *args[3:]] if BACKBONE in args else args]
        for source, repeats, module, args in description["backbone"]
    ]
    # Where the description lay on the machine that trained it says nothing elsewhere.
    return {key: value for key, value in description.items() if key != "yaml_file"} | {"backbone": backbone}
