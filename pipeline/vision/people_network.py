"""The one-pass network for people: EfficientNet-Lite0 as the backbone, with a neck and a head of Ultralytics.

A separate head finds the keypoints (`pipeline.vision.keypoint_head`). In older bundles Ultralytics' pose head does.

The backbone keeps its ImageNet weights. Its features of a place or a person are therefore the same as those of the CNN
alone, and training needs far fewer pictures than from a random start (Vasconcelos and others, "Proper Reuse of Image
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
from pipeline.vision.people_architecture import BACKBONE, MAP_LAYERS, OUTPUTS, READ_LAYERS
from pipeline.vision.runtime import Runtime

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
    """Return the predictions from the output of an Ultralytics head, in which they come first."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    predictions: torch.Tensor = output
    return predictions


class OneLook(nn.Module):
    """The whole output of one pass, as one row per image: the head's predictions, then the flattened maps.

    The maps are the backbone's (`people_architecture.MAPS`) and, if the network has a keypoint head, the merged map
    that this head reads.

    It turns `float32 [N, 3, H, W]` from 0 to 1 into `float32 [N, ...]`; `pipeline.vision.pooling` takes the rows apart.
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
        maps = [outputs[number] for number in MAP_LAYERS]
        if self.keypoint_head is not None:
            maps.append(self.keypoint_head.merge([outputs[number] for number in READ_LAYERS]))
        return torch.cat([part.flatten(1) for part in (predictions, *maps)], dim=1)


def add_keypoint_head(network: nn.Module, facts: dict[str, int]) -> None:
    """Give a network for people a keypoint head with random weights.

    Args:
        network: Changed in place.
        facts: The description of the head by `with_keypoint_head`.
    """
    network.keypoint_head = KeypointHead(list(OUTPUTS.values()), **facts)


def keypoint_head_of(network: nn.Module) -> KeypointHead | None:
    """Return the keypoint head of a network, None if it has none."""
    return getattr(network, "keypoint_head", None)


def export(network: nn.Module, path: Path) -> None:
    """Write a fused network for OpenVINO, with `OneLook`'s output, for inputs of any size."""
    import openvino as ov

    head: Any = network.model[-1]  # type: ignore[index]
    head.dynamic, head.export, head.format = True, True, "openvino"
    # Its sides differ, so that the conversion can't confuse them.
    example = torch.zeros(1, 3, 192, 320)
    module = OneLook(network.requires_grad_(False)).eval()
    # The head makes its anchors at the first pass.
    module(example), module(example)
    ov.save_model(ov.convert_model(module, example_input=example), path, compress_to_fp16=False)


class Read(nn.Module):
    """The backbone's maps that the network reads, smallest stride first."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps of images `float32 [N, 3, H, W]` from 0 to 1."""
        maps = self.backbone(x)
        return [maps[layer] for layer in OUTPUTS]


def freeze_in_openvino(backbone: nn.Module, runtime: Runtime) -> None:
    """Let a frozen backbone compute in OpenVINO, because it takes most of the time of a training on a CPU.

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
        # Small pieces keep the data in the processor's cache.
        pieces = [compiled(piece.numpy()) for piece in torch.split(x, _PIECE)]
        maps: list[torch.Tensor | None] = [None] * (max(OUTPUTS) + 1)
        for number, layer in enumerate(OUTPUTS):
            maps[layer] = torch.from_numpy(np.concatenate([piece[number] for piece in pieces]))
        return maps

    backbone.forward = forward


def register() -> None:
    """Make the backbone known to torchvision's registry."""
    if BACKBONE not in list_models():
        register_model(BACKBONE)(build_backbone)
