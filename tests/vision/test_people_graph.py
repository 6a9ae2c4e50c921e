"""The graphs of the network for people tell what PyTorch tells, and need no PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import openvino as ov
import pytest
import torch

from pipeline.config import EMBEDDED_DETECTOR
from pipeline.errors import UsageError
from pipeline.vision import keypoint_network
from pipeline.vision.detector import Detector
from pipeline.vision.detector_bundle import DetectorBundle, load_detector_bundle
from pipeline.vision.keypoint_network import N_CELLS
from pipeline.vision.letterbox import Letterbox
from pipeline.vision.network import TorchNetwork
from pipeline.vision.people_architecture import MAPS, architecture, with_keypoint_head
from pipeline.vision.people_graph import people_graphs
from pipeline.vision.pooling import take_apart
from pipeline.vision.runtime import Runtime
from pipeline.vision.weights import find_weights, first_output, load_weights
from tests.networks import untrained_bundle
from tests.overlaps import overlaps

F32 = Runtime("cpu", "f32")
SIZES = [(1, 64, 96), (3, 96, 64), (2, 384, 480)]


@pytest.fixture(scope="module")
def frames(street: Path) -> np.ndarray:
    """Some pictures of a street, a second apart."""
    with av.open(str(street)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::10])


@pytest.fixture(scope="module", params=["embedded", "other widths", "boxes alone"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle: the embedded one, and untrained ones that differ from it in all that may differ."""
    if request.param == "embedded":
        return find_weights(EMBEDDED_DETECTOR)
    description = architecture(n_classes=3, n_keypoints=0, imagenet=False)
    if request.param == "other widths":
        description["head"][2] = [-1, 2, "C3k2", [96, True]]
        description["head"][-2] = [-1, 1, "C3k2", [160, False]]
        description |= {"reg_max": 8}
        facts = {"n_keypoints": 5, "channels": 32, "n_blocks": 2}
        description = with_keypoint_head(description, 5) | {"keypoint_head": facts}
    target = tmp_path_factory.mktemp("bundles") / request.param
    return Path(untrained_bundle(target, description, unlike_new=True))


def computed(model: ov.Model, given: np.ndarray) -> np.ndarray:
    """Return what a graph tells, made ready for what it is given."""
    model.reshape(list(given.shape))
    return ov.Core().compile_model(model, "CPU", F32.openvino_options())(given)[0]


def test_one_look_tells_what_pytorch_tells(folder: Path, frames: np.ndarray) -> None:
    bundle = load_detector_bundle(folder)
    module = first_output(load_weights(folder)).eval()
    facts = bundle.architecture.get("keypoint_head")
    kinds = [(channels, stride) for channels, stride, _ in MAPS] + ([(facts["channels"], 8)] if facts else [])
    rng = np.random.default_rng(0)
    looking, _ = people_graphs(bundle)
    for n, height, width in SIZES:
        real = np.stack([cv2.resize(frame, (width, height)) for frame in frames[:n]]).transpose(0, 3, 1, 2) / 255
        for images in (real.astype(np.float32), rng.random((n, 3, height, width), dtype=np.float32)):
            with torch.inference_mode():
                expected = module(torch.from_numpy(images)).numpy()
            found = computed(looking, images)
            assert found.shape == expected.shape
            for row, expected_row in zip(found, expected, strict=True):
                predictions, maps = take_apart(row, kinds, height, width)
                expected_predictions, expected_maps = take_apart(expected_row, kinds, height, width)
                assert len(predictions) == 4 + len(bundle.names)
                np.testing.assert_allclose(predictions[:4], expected_predictions[:4], atol=2e-3, err_msg="pixels")
                np.testing.assert_allclose(predictions[4:], expected_predictions[4:], atol=1e-5, rtol=1e-4)
                for grid, expected_grid in zip(maps, expected_maps, strict=True):
                    assert np.abs(grid - expected_grid).max() < 1e-4 * np.abs(expected_grid).max()


def test_a_graph_of_one_look_takes_images_of_any_size(frames: np.ndarray) -> None:
    """Also without being made ready for it, and after another size."""
    looking, _ = people_graphs(load_detector_bundle(find_weights(EMBEDDED_DETECTOR)))
    network = ov.Core().compile_model(looking, "CPU", F32.openvino_options())
    for n, height, width in (*SIZES, SIZES[0]):
        images = np.stack([cv2.resize(frame, (width, height)) for frame in frames[:n]]).transpose(0, 3, 1, 2)
        images = (images / 255).astype(np.float32)
        model, _ = people_graphs(load_detector_bundle(find_weights(EMBEDDED_DETECTOR)))
        np.testing.assert_allclose(network(images)[0], computed(model, images), atol=2e-3)


def test_a_keypoint_head_sees_in_people_what_it_sees_in_pytorch(folder: Path) -> None:
    _, seeing = people_graphs(load_detector_bundle(folder))
    network: Any = load_weights(folder)
    if seeing is None:
        assert not hasattr(network, "keypoint_head")
        return
    head = network.keypoint_head.eval()
    for n in (1, 5):
        parts = np.random.default_rng(n).normal(size=(n, N_CELLS, N_CELLS, head.channels)).astype(np.float32)
        with torch.inference_mode():
            expected = head(torch.from_numpy(parts)).numpy()
        np.testing.assert_allclose(computed(seeing, parts), expected, atol=1e-4)


def test_both_runtimes_find_the_same_people_on_a_street(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIONLAKE_CACHE", str(tmp_path))
    monkeypatch.setattr("pipeline.vision.network._MOST_GPU_BATCH", 2)
    by_openvino, by_torch = (Detector(EMBEDDED_DETECTOR, F32, ["person"], 480, 0.35, 32) for _ in range(2))
    module: Any = load_weights(find_weights(EMBEDDED_DETECTOR))
    size = Letterbox(*frames.shape[1:3], 480).size
    by_torch._network._compiled[size] = TorchNetwork(first_output(module), F32, size, (0.0,) * 3, (255.0,) * 3)
    assert by_torch._keypoint_network is not None
    by_torch._keypoint_network._run = keypoint_network._in_torch(module.keypoint_head, F32)
    n_people = 0
    for found, expected in zip(by_openvino.look(frames), by_torch.look(frames), strict=True):
        assert len(found.boxes.xyxy) == len(expected.boxes.xyxy)
        best = overlaps(expected.boxes.xyxy, found.boxes.xyxy).argmax(axis=1)
        np.testing.assert_allclose(found.boxes.xyxy[best], expected.boxes.xyxy, atol=0.02)
        np.testing.assert_allclose(found.boxes.scores[best], expected.boxes.scores, atol=1e-3)
        assert found.boxes.keypoints is not None
        np.testing.assert_allclose(found.boxes.keypoints[best], expected.boxes.keypoints, atol=0.05)
        np.testing.assert_allclose(found.people[best], expected.people, atol=1e-2)
        np.testing.assert_allclose(found.frame, expected.frame, atol=1e-2)
        n_people += len(best)
    assert n_people > 20


WITHOUT_PYTORCH = """
import sys
for name in ("torch", "torchvision", "ultralytics"):
    sys.modules[name] = None  # To import it fails.
import numpy as np
from pipeline.vision.detector import Detector
from pipeline.vision.runtime import Runtime
frame = np.load(sys.argv[1])
(found,) = Detector("person_pose", Runtime("cpu", "f32"), ["person"], 320, 0.35, 32).detect(frame[None])
np.savez(sys.argv[2], xyxy=found.xyxy, keypoints=found.keypoints)
"""


def test_people_are_found_where_there_is_no_pytorch(
    people: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIONLAKE_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "frame.npy", people)
    arguments = [str(tmp_path / "frame.npy"), str(tmp_path / "found.npz")]
    subprocess.run([sys.executable, "-c", WITHOUT_PYTORCH, *arguments], check=True, timeout=60)
    found = np.load(tmp_path / "found.npz")
    (expected,) = Detector(EMBEDDED_DETECTOR, F32, ["person"], 320, 0.35, 32).detect(people[None])
    assert 5 <= len(found["xyxy"]) <= 9, "seven people walk there"
    np.testing.assert_array_equal(found["xyxy"], expected.xyxy)
    np.testing.assert_array_equal(found["keypoints"], expected.keypoints)


Change = Callable[[DetectorBundle], dict[str, Any]]


def another_layer(number: int, layer: list[Any]) -> Change:
    """Return what puts a layer in the place of another in a description's head."""

    def change(bundle: DetectorBundle) -> dict[str, Any]:
        head = [*bundle.architecture["head"]]
        head[number] = layer
        return {"architecture": bundle.architecture | {"head": head}}

    return change


def other_weights(changed: dict[str, Any], missing: str = "") -> Change:
    """Return what adds and removes weights."""

    def change(bundle: DetectorBundle) -> dict[str, Any]:
        return {"weights": {name: a for name, a in bundle.weights.items() if name != missing} | changed}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (another_layer(2, [-1, 1, "A2C2f", [128, False]]), r"layer model.7, A2C2f \[128, False\], is none that"),
        (another_layer(6, [-1, 1, "Conv", [64, 3, 2, 0]]), r"layer model.11, Conv \[64, 3, 2, 0\], is none that"),
        (another_layer(6, [-1, 1, "Conv", [64, 3, 1]]), "no network can be made"),
        (another_layer(6, [99, 1, "Conv", [64, 3, 2]]), "no network can be made"),
        (another_layer(6, [-1, 1, "Conv"]), "no network can be made"),
        (lambda bundle: {"architecture": bundle.architecture | {"activation": "nn.ELU()"}}, r"activation 'nn.ELU\(\)'"),
        (lambda bundle: {"names": {0: "person", 1: "bicycle"}}, "2 names for 1 classes"),
        (other_weights({}, "model.11.conv.weight"), "weights model.11.conv.weight are missing"),
        (other_weights({"model.11.conv.weight": np.zeros((64, 32, 3, 3))}), "no network can be made"),
        (other_weights({"model.11.conv.weight": np.zeros(64)}), "no network can be made"),
        (other_weights({"model.17.one2one_cv2.0.2.bias": np.zeros(64)}), "one2one_cv2.0.2.bias belong to no layer"),
        (other_weights({"keypoint_head.blocks.5.norm.bias": np.zeros(96)}), "blocks.5.norm.bias belong to no layer"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused(change: Change, message: str) -> None:
    bundle = load_detector_bundle(find_weights(EMBEDDED_DETECTOR))
    with pytest.raises(UsageError, match=f"(?s)detector 'person_pose': .*{message}"):
        people_graphs(replace(bundle, **change(bundle)))
