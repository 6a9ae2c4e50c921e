"""Keypoints are read off heatmaps where they are, alike in both runtimes, and lie on the people of a street."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import EMBEDDED_DETECTOR
from pipeline.training.people import VISIBLE, within_reach
from pipeline.vision import keypoint_network, people_network
from pipeline.vision.detector import Detector
from pipeline.vision.keypoint_network import N_CELLS, SIDE, KeypointNetwork, read_heatmaps, regions_of
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.landmarks import LandmarkNetwork
from pipeline.vision.network import Image
from pipeline.vision.runtime import Runtime
from pipeline.vision.weights import exported_weights, find_weights, load_weights

F32 = Runtime("cpu", "f32")


def test_a_keypoint_is_read_between_the_cells_of_its_heatmap() -> None:
    rng = np.random.default_rng(0)
    regions = np.array([[10, 20, 58, 116], [-5, -5, 19, 19]], np.float32)
    sides = regions[:, None, 2:] - regions[:, None, :2]
    places = regions[:, None, :2] + rng.uniform(0.02, 0.98, (2, 17, 2)).astype(np.float32) * sides
    cells = (places - regions[:, None, :2]) / sides * SIDE - 0.5
    far = (np.arange(SIDE) - cells[..., None]) ** 2
    logits = np.zeros((2, 17, SIDE * SIDE + 1), np.float32)
    logits[..., :-1] = -(far[..., 1, :, None] + far[..., 0, None, :]).reshape(2, 17, -1) / 2
    logits[1, 3, -1] = np.log(3)
    found = read_heatmaps(logits, regions)
    np.testing.assert_allclose(found[..., :2], places, atol=0.6 * float(sides.max()) / SIDE)
    inner = ((cells > 2.5) & (cells < SIDE - 3.5)).all(axis=-1)
    np.testing.assert_allclose(found[inner, :2], places[inner], atol=0.1 * float(sides.max()) / SIDE)
    assert (found[0, 0, 2], found[1, 3, 2]) == (0.5, 0.75)


def test_both_runtimes_find_the_same_keypoints() -> None:
    path = find_weights(EMBEDDED_DETECTOR)
    head: Any = people_network.keypoint_head_of(load_weights(path))
    network = KeypointNetwork(F32, lambda: exported_weights(path) / "keypoints.xml", lambda: head)
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(9, N_CELLS, N_CELLS, head.channels)).astype(np.float32)
    in_openvino = network._run(parts)
    np.testing.assert_allclose(in_openvino, keypoint_network._in_torch(head, F32)(parts), atol=1e-3)
    # To the last bit, whoever else is in the picture.
    for n in range(1, len(parts)):
        assert (network._run(parts[n:]) == in_openvino[n:]).all()


def test_the_embedded_network_finds_the_joints_of_a_street(people: Image, data_dir: Path) -> None:
    """Also of a picture that is not of the network's shape, and of several pictures at one pass."""
    landmarks = LandmarkNetwork(data_dir.parent / "weights" / "pose_landmark_full.tflite", F32)
    detector = Detector(EMBEDDED_DETECTOR, F32, ["person"], 480, 0.35, 32)
    wide = np.ascontiguousarray(people[40:360])
    found, again = detector.detect(np.stack([wide, wide]))
    assert found.keypoints is not None
    assert again.keypoints is not None
    np.testing.assert_allclose(again.keypoints, found.keypoints, atol=1e-2)
    right = []
    for box, keypoints in zip(found.xyxy, found.keypoints, strict=True):
        truth, trust = landmarks.keypoints(wide, box)
        region = regions_of(box[None])[0]
        assert (keypoints[:, :2] >= region[:2] - 1).all()
        assert (keypoints[:, :2] <= region[2:] + 1).all()
        if trust > 0.6:
            truth[:, 2] = np.where(truth[:, 2] > 0.5, VISIBLE, 0)
            right.append(within_reach(truth[None], keypoints[None]))
    assert len(right) >= 3
    assert len(np.concatenate(right)) >= 2 * len(KEYPOINTS)
    assert np.concatenate(right).mean() > 0.4
