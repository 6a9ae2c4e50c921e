"""Embed images by a network: the last features before its classification layer, or the output of an image tower."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.vision.backbones import fingerprint, load_backbone
from pipeline.vision.network import Image, ImageNetwork
from pipeline.vision.runtime import Runtime, export_in_subprocess, exported

# A path may be longer than a folder's name can be. Its end, which is the most specific part, is kept.
_NAME_CHARACTERS = 60


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
        """Load a network, exporting it first if this node has not used it before.

        Args:
            name: `efficientnet_lite0`; a torchvision classifier, such as `resnet50`; a timm model, such as
                `timm:resnet18.a1_in1k`; the image tower of an open_clip model with its weights, such as
                `open_clip:ViT-B-32/laion2b_s34b_b79k`; a model of either library from the hub, such as
                `timm:hf-hub:OWNER/NAME`; or the path of a folder, with a slash, that either library can read.
            runtime: Where and how to compute.

        Raises:
            UsageError: There is no such network, its library is not installed, or its weights are neither on this node
                nor downloadable.
        """
        self.name = name
        folder = None
        if runtime.device == "cpu":
            called = re.sub(r"[^\w.-]+", "-", name)[-_NAME_CHARACTERS:].lstrip(".-")
            folder = exported(called, fingerprint(name), lambda path: export_in_subprocess(__name__, name, str(path)))
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
        """Seconds spent in the network itself."""
        return self._network.busy.seconds

    def embed(self, images: Sequence[Image]) -> NDArray[np.float16]:
        """Return `float16 [N, dim]` for N images `uint8 [H, W, 3]`, RGB, of any sizes.

        Each image is stretched to the network's square input, so that its edges count, too.
        """
        if not len(images):
            return np.empty((0, self.dim), np.float16)
        batches = self._network(images, (self._px, self._px), _stretch)
        return np.concatenate([vectors.astype(np.float16) for vectors in batches])


def _stretch(image: Image, target: Image) -> None:
    shrinks = image.shape[0] * image.shape[1] > target.shape[0] * target.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cv2.resize(image, (target.shape[1], target.shape[0]), dst=target, interpolation=interpolation)


def _checked(folder: Path | None) -> Path:
    assert folder is not None
    return folder


def _export(name: str, folder: Path) -> None:
    """Write `model.xml` and `input.npz` for a network into a folder."""
    import openvino as ov
    import torch

    backbone = load_backbone(name)
    # With the fast path, PyTorch would trace attention as its own kernel, which other runtimes do not know.
    torch.backends.mha.set_fastpath_enabled(False)
    example = torch.zeros(1, 3, backbone.px, backbone.px)
    model = ov.convert_model(backbone.module, example_input=example)
    ov.save_model(model, folder / "model.xml", compress_to_fp16=False)
    np.savez(folder / "input.npz", dim=backbone.dim, px=backbone.px, mean=backbone.mean, scale=backbone.scale)


if __name__ == "__main__":
    try:
        _export(sys.argv[1], Path(sys.argv[2]))
    except UsageError as error:
        sys.exit(str(error))
