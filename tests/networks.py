"""Networks with random weights: detectors find people wherever chance has them, embedders see what chance lets them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import PoseModel

from pipeline.vision.detector_bundle import DetectorBundle, arrays_of, build_network
from pipeline.vision.people_architecture import architecture, with_keypoint_head, without_imagenet


def untrained_poses(path: Path, n_keypoints: int, dims: int) -> str:
    """Write an Ultralytics pose network as a checkpoint, and return its path."""
    torch.manual_seed(0)
    description = YOLO("yolo11n-pose.yaml").model.yaml
    network = PoseModel(description | {"kpt_shape": [n_keypoints, dims]}, nc=1, verbose=False)
    network.names = {0: "person"}
    torch.save({"model": network}, path)
    return str(path)


def untrained_people(folder: Path, pose_head: bool = False) -> str:
    """Write the network for people, its neck and heads untrained, as a bundle, and return its folder.

    Args:
        folder: Where to.
        pose_head: Whether Ultralytics' pose head tells the keypoints, as in bundles of before.
    """
    description = architecture()
    return untrained_bundle(folder, description if pose_head else with_keypoint_head(description, 17))


def untrained_bundle(folder: Path, description: dict[str, Any], unlike_new: bool = False) -> str:
    """Write a network with random weights as a bundle, and return its folder.

    Args:
        folder: Where to.
        description: Of the network, as Ultralytics has it.
        unlike_new: Whether batch norms look as if they had seen something.
    """
    torch.manual_seed(0)
    network = build_network(description)
    if unlike_new:
        for norm in (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            torch.nn.init.normal_(norm.running_mean, 0, 0.2)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
            torch.nn.init.normal_(norm.weight, 1, 0.2)
            torch.nn.init.normal_(norm.bias, 0, 0.2)
    names = {number: f"kind {number}" for number in range(description["nc"])} | {0: "person"}
    DetectorBundle(folder.name, names, 320, without_imagenet(description), arrays_of(network)).save(folder)
    return str(folder)


def untrained_clip(folder: Path, seed: int = 0, siglip: bool = False, dim: int = 32) -> str:
    """Write a small model of open_clip, its own means and sizes beside it, and return its folder.

    Args:
        folder: Where to.
        seed: Of the weights.
        siglip: Whether its towers are those of SigLIP.
        dim: Length of its vectors.
    """
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    image = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
    if siglip:
        text |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    towers = {"embed_dim": dim, "vision_cfg": image, "text_cfg": text}
    network = (open_clip.CustomTextCLIP if siglip else open_clip.CLIP)(**towers)
    if siglip:
        towers["custom_text"] = True
    folder.mkdir(parents=True, exist_ok=True)
    preprocessing = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    config = {"model_cfg": towers, "preprocess_cfg": preprocessing}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return str(folder)


def untrained_vit(folder: Path) -> str:
    """Write a small model of timm, and return its folder."""
    import timm

    torch.manual_seed(0)
    network = timm.create_model("test_vit", pretrained=False)
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return str(folder)
