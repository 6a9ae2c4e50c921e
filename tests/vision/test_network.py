"""The two runtimes of image networks: the same bytes in, the same numbers out, in whatever batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.stopwatch import Stopwatch
from pipeline.vision.backbones import load_backbone
from pipeline.vision.detector import Detector
from pipeline.vision.embedder import Embedder
from pipeline.vision.network import Image, TorchNetwork
from pipeline.vision.runtime import Runtime
from pipeline.vision.weights import find_weights, first_output, load_weights

F32 = Runtime("cpu", "f32")
SIZE = (64, 96)


def copy(image: Image, target: Image) -> None:
    target[:] = image


def images(n: int, size: tuple[int, int] = SIZE) -> list[Image]:
    return list(np.random.default_rng(n).integers(0, 255, (n, *size, 3), dtype=np.uint8))


class Means(torch.nn.Module):
    """Tells the means of the channels, unless a batch is too large for it."""

    def __init__(self, most: int = 1000) -> None:
        super().__init__()
        self.most = most
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(x))
        return x.mean(dim=(2, 3))


def test_what_comes_out_of_pytorch_belongs_to_what_went_in() -> None:
    """Over batches that use the same memory in turns, the last of them not full."""
    network = TorchNetwork(Means(most=4), F32, SIZE, (10.0, 0.0, 0.0), (2.0, 1.0, 1.0))
    assert network.batch_size == 4
    given = images(19)
    busy = Stopwatch()
    found = list(network.run([given[start : start + 4] for start in range(0, 19, 4)], copy, busy))
    assert [len(batch) for batch in found] == [4, 4, 4, 4, 3]
    expected = (np.stack(given).mean(axis=(1, 2)) - [10.0, 0.0, 0.0]) / [2.0, 1.0, 1.0]
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-4)
    assert busy.seconds > 0


def test_batches_are_as_large_as_the_memory_allows() -> None:
    for most, expected in ((1000, 256), (256, 256), (255, 128), (7, 4), (1, 1)):
        module = Means(most)
        network = TorchNetwork(module, F32, (2, 2), (0.0,) * 3, (1.0,) * 3)
        assert network.batch_size == expected
        assert module.sizes == [expected]


def test_batches_that_are_not_full_are_of_few_sizes() -> None:
    module = Means(8)
    network = TorchNetwork(module, F32, (2, 2), (0.0,) * 3, (1.0,) * 3)
    given = images(8, (2, 2))
    for n in range(1, 9):
        (found,) = network.run([given[:n]], copy, Stopwatch())
        np.testing.assert_allclose(found, np.stack(given[:n]).mean(axis=(1, 2)), rtol=1e-4)
    assert module.sizes[1:] == [1, 2, 4, 4, 8, 8, 8, 8]


def test_batches_need_memory_for_one() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        TorchNetwork(Means(0), F32, (2, 2), (0.0,) * 3, (1.0,) * 3)


def test_both_runtimes_embed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.vision.network._MOST_GPU_BATCH", 4)
    backbone = load_backbone("efficientnet_lite0")
    given = images(3, (224, 224))
    by_torch = TorchNetwork(backbone.module, F32, (224, 224), backbone.mean, backbone.scale)
    (expected,) = by_torch.run([given], copy, Stopwatch())
    found = list(Embedder("efficientnet_lite0", F32)._network(given, (224, 224), copy))
    assert [len(batch) for batch in found] == [2, 1]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-3, rtol=1e-3)


def test_both_runtimes_detect_alike(people: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.vision.network._MOST_GPU_BATCH", 4)
    by_torch = TorchNetwork(
        first_output(load_weights(find_weights("person_nano"))), F32, people.shape[:2], (0.0,) * 3, (255.0,) * 3
    )
    (in_torch,) = by_torch.run([[people]], copy, Stopwatch())
    detector = Detector("person_nano", F32, ["person"], None, 0.35, 32)
    (in_openvino,) = detector._network([people], people.shape[:2], copy)
    assert in_torch.shape == in_openvino.shape
    assert in_torch.shape[1] == 5, "a box and one class"
    sure = in_torch[0, 4] > 0.2
    assert sure.any()
    assert np.abs(in_torch[0, :, sure] - in_openvino[0, :, sure]).max() < 0.5, "pixels"
