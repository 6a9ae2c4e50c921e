"""The blocks of EfficientNet-Lite0, from which both a PyTorch and an OpenVINO network are built."""

from __future__ import annotations

from typing import NamedTuple

STEM_CHANNELS = 32
# Tan and Le, "EfficientNet: Rethinking Model Scaling for CNNs", 2019, table 1; the Lite variants drop
# squeeze-and-excite and swap swish for ReLU6. One row per stage: expansion, kernel, stride, output channels, repeats.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class Block(NamedTuple):
    """An inverted residual block."""

    expansion: int
    """Factor by which the channels are widened before the depthwise convolution; 1 widens nothing."""
    kernel: int
    stride: int
    c_in: int
    c_out: int

    @property
    def is_residual(self) -> bool:
        """Whether the input is added to the output."""
        return self.stride == 1 and self.c_in == self.c_out


def _blocks() -> tuple[Block, ...]:
    blocks: list[Block] = []
    for expansion, kernel, stride, c_out, repeats in _STAGES:
        for number in range(repeats):
            c_in = blocks[-1].c_out if blocks else STEM_CHANNELS
            blocks.append(Block(expansion, kernel, 1 if number else stride, c_in, c_out))
    return tuple(blocks)


BLOCKS = _blocks()
"""In order from the image. The stem, a convolution of stride 2, comes before them."""
