"""What one look tells is taken apart rightly, and people are described by their own part of the maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align
from ultralytics.nn.tasks import PoseModel

from pipeline.vision import people_architecture, people_network
from pipeline.vision.detector import Detector
from pipeline.vision.network import Image
from pipeline.vision.pooling import area_means, describe, described_dim, sampled, take_apart
from pipeline.vision.runtime import Runtime
from pipeline.vision.weights import load_weights
from tests.networks import untrained_people

F32 = Runtime("cpu", "f32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network for people with an untrained neck and head, as a bundle."""
    return Path(untrained_people(tmp_path_factory.mktemp("people") / "untrained"))


@pytest.mark.parametrize("n_cells", [1, 3])
def test_a_box_is_described_by_what_it_covers(n_cells: int) -> None:
    """As torchvision's RoIAlign does where it takes very many samples."""
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(5, 12, 20)).astype(np.float32)
    low = rng.uniform(0, (240, 120), (8, 2))
    xyxy = np.hstack([low, low + rng.uniform(8, 70, (8, 2))]).astype(np.float32)
    # torchvision's samples lie between the centres of cells: many cells of one value are the same as one.
    fine = torch.from_numpy(grid.repeat(64, axis=1).repeat(64, axis=2))[None]
    boxes = torch.from_numpy(np.hstack([np.zeros((8, 1), np.float32), xyxy * 4]))
    expected = roi_align(fine, boxes, n_cells, 1.0, sampling_ratio=64, aligned=True).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(area_means(grid, xyxy / 16, n_cells), expected, atol=0.02)


def test_a_map_is_sampled_as_by_torchvision() -> None:
    """Also beyond its border, where boxes of people at the edge of the picture reach."""
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(5, 12, 20)).astype(np.float32)
    low = rng.uniform((-6, -6), (18, 10), (30, 2))
    xyxy = np.hstack([low, low + rng.uniform(0.3, 14, (30, 2))]).astype(np.float32)
    boxes = torch.from_numpy(np.hstack([np.zeros((30, 1), np.float32), xyxy]))
    expected = roi_align(torch.from_numpy(grid)[None], boxes, 6, 1.0, sampling_ratio=2, aligned=True)
    np.testing.assert_allclose(sampled(grid, xyxy, 6), expected.permute(0, 2, 3, 1).numpy(), atol=1e-5)
    assert (sampled(grid, np.array([[40, 40, 50, 50]], np.float32), 6) == 0).all()


def test_each_map_counts_the_same() -> None:
    rng = np.random.default_rng(0)
    loud, quiet = rng.normal(5, 100, (4, 6, 8)), rng.normal(size=(6, 3, 4))
    kinds = [(4, 16, 3), (6, 32, 1)]
    xyxy = np.array([[0, 0, 128, 96], [20, 30, 40, 80]], np.float32)
    vectors = describe([loud.astype(np.float32), quiet.astype(np.float32)], kinds, xyxy).astype(np.float64)
    assert vectors.shape == (2, described_dim(kinds)) == (2, 4 * 9 + 6)
    for part in (vectors[:, :36], vectors[:, 36:]):
        np.testing.assert_allclose(part.mean(axis=1), 0, atol=1e-3)
        np.testing.assert_allclose(part.std(axis=1), 1, atol=1e-3)
    # The upper left cell of the first box is its first four numbers.
    first = area_means(loud.astype(np.float32), np.array([[0, 0, 8 / 3, 2]], np.float32), 1)[0, 0, 0]
    np.testing.assert_allclose(np.corrcoef(vectors[0, :4], first)[0, 1], 1, atol=1e-3)


def test_rows_are_taken_apart_as_they_were_put_together() -> None:
    predictions = np.arange(6 * (8 * 12 + 4 * 6 + 2 * 3), dtype=np.float32).reshape(6, -1)
    maps = [np.full((7, 4, 6), 1, np.float32), np.full((9, 2, 3), 2, np.float32)]
    row = np.concatenate([predictions.reshape(-1), *(grid.reshape(-1) for grid in maps)])
    found, found_maps = take_apart(row, [(7, 16), (9, 32)], 64, 96)
    assert (found == predictions).all()
    for grid, found_grid in zip(maps, found_maps, strict=True):
        np.testing.assert_array_equal(grid, found_grid)


def test_a_frozen_backbone_gives_the_same_maps_in_openvino() -> None:
    people_network.register()
    torch.manual_seed(0)
    backbone: Any = PoseModel(people_architecture.architecture(), verbose=False).model[0]
    images = torch.rand(6, 3, 64, 96)
    with torch.no_grad():
        expected = backbone.eval()(images)
    people_network.freeze_in_openvino(backbone.train(), F32)
    assert backbone.training
    found = backbone(images)
    read = [layer for layer, maps in enumerate(found) if maps is not None]
    assert [tuple(found[layer].shape[1:]) for layer in read] == [(40, 8, 12), (112, 4, 6), (320, 2, 3)]
    for layer in read:
        torch.testing.assert_close(found[layer], expected[layer], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("pose_head", [False, True])
def test_one_look_tells_of_boxes_keypoints_and_looks(tmp_path: Path, people: Image, pose_head: bool) -> None:
    bundle = untrained_people(tmp_path / "people", pose_head)
    detector = Detector(str(bundle), F32, ["person"], None, 0.0, 4)
    assert (detector.dim, detector.n_keypoints) == (1328, 17)
    (look,) = detector.look(people[None])
    assert look.boxes.keypoints is not None
    assert look.boxes.keypoints.shape == (4, 17, 3)
    assert look.frame.shape == (1328,)
    assert look.people.shape == (4, 1328)
    (same,) = Detector(str(bundle), F32, ["person"], None, 0.0, 4).look(people[None])
    assert (same.people == look.people).all()


def test_both_runtimes_look_alike(bundle: Path, people: Image) -> None:
    """And the backbone is that of ImageNet: its maps are those of the CNN alone."""
    image = np.ascontiguousarray(people[:192, :320])
    module = people_network.OneLook(load_weights(bundle))
    with torch.inference_mode():
        by_torch = module(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].numpy()
    detector = Detector(str(bundle), F32, ["person"], None, 0.0, 4)

    def copy(given: Image, target: Image) -> None:
        target[:] = given

    (in_openvino,) = detector._network([image], (192, 320), copy)
    kinds = [*((channels, stride) for channels, stride, _ in people_architecture.MAPS), (96, 8)]
    maps, same_maps = (take_apart(row, kinds, 192, 320)[1] for row in (by_torch, in_openvino[0]))
    for a, b in zip(maps, same_maps, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2)
    np.testing.assert_allclose(by_torch, in_openvino[0], atol=0.5)
    alone = people_network.build_backbone("DEFAULT").eval()
    with torch.inference_mode():
        last = alone.layers(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].numpy()  # type: ignore[operator]
    # Weights of bundles are kept in half floats.
    np.testing.assert_allclose(maps[1], last, atol=0.1)
