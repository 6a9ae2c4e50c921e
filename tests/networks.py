"""Detectors with random weights: they find people, and keypoints, wherever chance has them."""

from __future__ import annotations

from pathlib import Path

import torch
from ultralytics import YOLO
from ultralytics.nn.tasks import PoseModel

from pipeline.vision import people_network
from pipeline.vision.detector_bundle import DetectorBundle, build_network


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
    torch.manual_seed(0)
    description = people_network.architecture()
    if not pose_head:
        description = people_network.with_keypoint_head(description, 17)
    network = build_network(description)
    weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    DetectorBundle(folder.name, {0: "person"}, 320, people_network.without_imagenet(description), weights).save(folder)
    return str(folder)
