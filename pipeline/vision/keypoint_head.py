"""A head that finds the keypoints of people in the backbone's maps at their boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from pipeline.vision.keypoint_network import UPSCALE


class _Block(nn.Module):
    """A depthwise convolution over each cell's surroundings, then two layers for each cell alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.widen, self.narrow = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x + self.narrow(functional.relu(self.widen(self.norm(self.around(x)))))
        return found


class KeypointHead(nn.Module):
    """Merges the maps of an image into one, then turns that map at the region of each person into heatmaps.

    Heatmaps are learnt within few passes over the data. A regression of coordinates at each place of an image needs
    hundreds: He and others, "Mask R-CNN", 2017. The merge costs the same for any number of people.
    """

    def __init__(self, map_channels: Sequence[int], n_keypoints: int, channels: int, n_blocks: int) -> None:
        """Build the head with random weights.

        Args:
            map_channels: Channels of each map. Each map has half the height and width of the one before.
            n_keypoints: K, the keypoints of a person.
            channels: C, the channels of the merged map and of the blocks.
            n_blocks: Number of residual blocks that are applied to a person's region.
        """
        super().__init__()
        self.n_keypoints, self.channels = n_keypoints, channels
        self.laterals = nn.ModuleList(nn.Conv2d(n, channels, 1, bias=False) for n in map_channels)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.Sequential(*(_Block(channels) for _ in range(n_blocks)))
        self.places = nn.Conv2d(channels, UPSCALE**2 * n_keypoints, 1)
        self.seen = nn.Linear(channels, n_keypoints)

    def merge(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Merge the maps of images into one, `float32 [N, C, h, w]`, as high and wide as the first map."""
        told = [lateral(grid) for lateral, grid in zip(self.laterals, maps, strict=True)]
        merged: torch.Tensor = told.pop()
        while told:
            merged = told.pop() + functional.interpolate(merged, scale_factor=2.0, mode="bilinear")
        return merged

    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        """Return logits of people.

        Args:
            parts: `float32 [M, N_CELLS, N_CELLS, C]`, the merged map at the region of each person.

        Returns:
            `float32 [M, K, SIDE * SIDE + 1]`: the logits of a keypoint's position, row after row of the region's cells;
            the last one is the logit of its visibility.
        """
        x = self.blocks(functional.relu(self.norm(parts.permute(0, 3, 1, 2))))
        places = functional.pixel_shuffle(self.places(x), UPSCALE).flatten(2)
        return torch.cat([places, self.seen(x.mean(dim=(2, 3)))[..., None]], dim=2)
