"""The description of the one-pass network for people, in the format of Ultralytics; needs no PyTorch.

`pipeline.vision.people_network` builds it in PyTorch, `pipeline.vision.people_graph` builds it in OpenVINO.
"""

from __future__ import annotations

from typing import Any

BACKBONE = "actionlake_efficientnet_lite0"
"""Name of the backbone in torchvision's registry, from which Ultralytics builds networks."""

OUTPUTS = {6: 40, 12: 112, 17: 320}
"""Numbers of the backbone layers that are read, counted from the image, and their channels: strides of 8, 16, 32."""
MAPS = ((112, 16, 3), (320, 32, 1))
"""The backbone's maps that describe people and frames: see `kinds` of `pipeline.vision.pooling.describe`."""
READ_LAYERS, MAP_LAYERS = (1, 2, 3), (2, 3)
"""Layers of the description that give the maps of `OUTPUTS`, and those that give the maps of `MAPS`."""
_KEYPOINT_CHANNELS, _KEYPOINT_BLOCKS = 96, 5


def architecture(n_classes: int = 1, n_keypoints: int = 17, imagenet: bool = True) -> dict[str, Any]:
    """Return the network in Ultralytics' description.

    Args:
        n_classes: Classes of the boxes.
        n_keypoints: Keypoints of a box, each with x, y and visibility; 0: only boxes.
        imagenet: Whether the backbone starts from ImageNet's weights.
    """
    weights = "DEFAULT" if imagenet else None
    head = ["Pose", ["nc", "kpt_shape"]] if n_keypoints else ["Detect", ["nc"]]
    return {
        "nc": n_classes,
        **({"kpt_shape": [n_keypoints, 3]} if n_keypoints else {}),
        "backbone": [
            [-1, 1, "TorchVision", [320, BACKBONE, weights, True, 0, True]],
            *([0, 1, "Index", [channels, layer]] for layer, channels in OUTPUTS.items()),  # 1, 2, 3
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


def with_keypoint_head(description: dict[str, Any], n_keypoints: int) -> dict[str, Any]:
    """Return the description of a network that finds boxes as the given one does, and keypoints by a separate head.

    The keypoint part of Ultralytics' pose head is dropped.
    """
    *head, (sources, repeats, _, _) = description["head"]
    rest = {key: value for key, value in description.items() if key != "kpt_shape"}
    facts = {"n_keypoints": n_keypoints, "channels": _KEYPOINT_CHANNELS, "n_blocks": _KEYPOINT_BLOCKS}
    return rest | {"head": [*head, [sources, repeats, "Detect", ["nc"]]], "keypoint_head": facts}


def is_people(description: dict[str, Any]) -> bool:
    """Whether a network's description is one that `architecture` gives."""
    match description:
        case {"backbone": [[_, _, _, [*args]], *_]}:
            return BACKBONE in args
    return False


def has_graph(description: dict[str, Any]) -> bool:
    """Whether `pipeline.vision.people_graph` can build the network: not the older one with Ultralytics' pose head."""
    return is_people(description) and ("keypoint_head" in description or "kpt_shape" not in description)


def without_imagenet(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description whose backbone starts from random weights, for a network whose weights are loaded later."""
    backbone = [
        [source, repeats, module, [*args[:2], None, *args[3:]] if BACKBONE in args else args]
        for source, repeats, module, args in description["backbone"]
    ]
    # The path of the description on the training machine means nothing elsewhere.
    return {key: value for key, value in description.items() if key != "yaml_file"} | {"backbone": backbone}
