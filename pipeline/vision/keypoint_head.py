"""A head that finds the keypoints of people in what the backbone's maps show of their boxes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from pipeline.vision.keypoint_network import N_CELLS, UPSCALE


class _Block(nn.Module):
    """What lies around a cell, then what that means: a depthwise convolution, and two layers for each cell alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.around = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.widen, self.narrow = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = x + self.narrow(functional.relu(self.widen(self.norm(self.around(x)))))
        return found


class KeypointHead(nn.Module):
    """What maps show at the region of a person in, heatmaps over that region out.

    A heatmap is learnt within few passes over the data, where a regression of coordinates at each place of an image
    needs hundreds: He and others, "Mask R-CNN", 2017.
    """

    def __init__(self, map_channels: int, n_keypoints: int, channels: int, n_blocks: int) -> None:
        """Build the head with random weights.

        Args:
            map_channels: Of all maps together.
            n_keypoints: K, of a person.
            channels: Of the layers between.
            n_blocks: How many of them.
        """
        super().__init__()
        self.n_keypoints, self.map_channels = n_keypoints, map_channels
        self.merge = nn.Sequential(
            nn.BatchNorm2d(map_channels), nn.Conv2d(map_channels, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.blocks = nn.Sequential(*(_Block(channels) for _ in range(n_blocks)))
        self.places = nn.Conv2d(channels, UPSCALE**2 * n_keypoints, 1)
        self.seen = nn.Linear(channels, n_keypoints)

    def forward(self, parts: torch.Tensor) -> torch.Tensor:
        """Return logits of people.

        Args:
            parts: `float32 [M, N_CELLS, N_CELLS, map_channels]`, all maps at the region of each person.

        Returns:
            `float32 [M, K, SIDE * SIDE + 1]`: of where a keypoint is, row after row of cells of the region; the last
            one of whether it can be seen.
        """
        x = self.blocks(functional.relu(self.merge(parts.permute(0, 3, 1, 2))))
        places = functional.pixel_shuffle(self.places(x), UPSCALE).flatten(2)
        return torch.cat([places, self.seen(x.mean(dim=(2, 3)))[..., None]], dim=2)


def export(head: KeypointHead, path: Path) -> None:
    """Write the part that sees people for OpenVINO, for any number of them."""
    import openvino as ov

    shape = (-1, N_CELLS, N_CELLS, head.map_channels)
    model = ov.convert_model(head.eval(), example_input=torch.zeros(2, *shape[1:]), input=[ov.PartialShape(shape)])
    ov.save_model(model, path, compress_to_fp16=False)
