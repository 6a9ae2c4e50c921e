"""Pictures of people with labelled keypoints, prepared for the training and the measurement of a keypoint head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipeline.errors import UsageError
from pipeline.training.people import NOT_LABELLED, VISIBLE, Image, People
from pipeline.vision.keypoint_network import regions_of
from pipeline.vision.letterbox import GREY

LEAST_LABELLED = 4
"""A person with fewer labelled keypoints is not used for training."""
# A training view is a square around a person: its side as a share of the image size in inference, the range of its
# scale factors, and its tilt in degrees (a standard deviation).
_VIEW_SHARE, _SCALES, _TILT_DEGREES = 0.8, (0.6, 1.15), 12.0
# A detector's boxes differ from those of the labels. Standard deviation as a share of their sides.
_BOX_NOISE = 0.04


@dataclass(frozen=True)
class KeypointOptions:
    """How a keypoint head is trained."""

    px: int
    """Longest side of images in inference, in pixels."""
    epochs: int
    """Passes over the data set."""
    batch_size: int = 16
    learning_rate: float = 2e-3
    turned: float = 0.0
    """Share of the images that are turned by quarters."""
    workers: int = 1
    """Processes that read images."""
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """A picture on disk, and the people in it."""

    path: str
    people: People
    """In shares of the picture's sides."""

    def read(self) -> tuple[Image, People]:
        """Return the picture `uint8 [H, W, 3]`, BGR, and the people in it, in pixels."""
        found = cv2.imread(self.path)
        if found is None:
            raise UsageError(f"{self.path}: OpenCV can't read this picture; convert it to JPEG or PNG, or leave it out")
        image = np.asarray(found, np.uint8)
        size = np.array([image.shape[1], image.shape[0]], np.float32)
        keypoints = self.people.keypoints * np.append(size, np.float32(1))
        return image, People(self.people.xyxy * np.tile(size, 2), keypoints)


def read_examples(folders: Sequence[str], data: dict[str, Any]) -> list[Example]:
    """Read the labels of a data set with Ultralytics, which keeps a cache beside the pictures."""
    from ultralytics.data.dataset import YOLODataset

    examples = []
    for label in YOLODataset(img_path=list(folders), data=data, task="pose", augment=False).labels:
        centre, side = np.split(np.asarray(label["bboxes"], np.float32).reshape(-1, 4), 2, axis=1)
        keypoints = np.asarray(label["keypoints"], np.float32).reshape(len(centre), data["kpt_shape"][0], 3)
        if data["kpt_shape"][1] == 2:
            # If labels do not say which keypoints are visible, all labelled ones count as visible.
            keypoints[..., 2] = np.where(keypoints[..., 2] != NOT_LABELLED, VISIBLE, NOT_LABELLED)
        examples.append(Example(label["im_file"], People(np.hstack([centre - side / 2, centre + side / 2]), keypoints)))
    return examples


def well_labelled(people: People) -> NDArray[np.bool_]:
    """Return which people have enough labelled keypoints for training, `bool [N]`."""
    return np.asarray((people.keypoints[..., 2] != NOT_LABELLED).sum(axis=1) >= LEAST_LABELLED)


def _move(image: Image, people: People, matrix: NDArray[np.float64], px: int) -> tuple[torch.Tensor, People]:
    """Return a picture as a network's square input, `uint8 [3, px, px]`, RGB, and the people in its coordinates.

    Args:
        image: `uint8 [H, W, 3]`, BGR.
        people: In pixels of the picture.
        matrix: `float64 [2, 3]`, from pixels of the picture to those of the input, counted from their edges.
        px: Side of the input.
    """
    # OpenCV counts from the centres of pixels.
    of_middles = matrix.copy()
    of_middles[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    moved = cv2.warpAffine(image, of_middles, (px, px), flags=cv2.INTER_LINEAR, borderValue=(GREY,) * 3)
    turn, offset = matrix[:, :2].T.astype(np.float32), matrix[:, 2].astype(np.float32)
    low, high = np.split(people.xyxy, 2, axis=1)
    centre = (low + high) / 2 @ turn + offset
    # The new box encloses the ellipse in the tilted box, because a body leaves the corners empty.
    reach = np.sqrt(((high - low) / 2) ** 2 @ turn**2)
    keypoints = people.keypoints.copy()
    keypoints[..., :2] = keypoints[..., :2] @ turn + offset
    keypoints[((keypoints[..., :2] < 0) | (keypoints[..., :2] >= px)).any(axis=-1), 2] = NOT_LABELLED
    rgb = torch.from_numpy(np.ascontiguousarray(moved[:, :, ::-1].transpose(2, 0, 1)))
    return rgb, People(np.hstack([centre - reach, centre + reach]), keypoints)


class Views(Dataset[tuple[torch.Tensor, People]]):
    """The training views of one epoch: a part of each picture, around a person, changed at random."""

    def __init__(
        self, examples: Sequence[Example], options: KeypointOptions, mirrored: Sequence[int] | None, epoch: int
    ) -> None:
        """Take the pictures.

        Args:
            examples: The pictures. Each shows at least one well labelled person.
            options: The size, and the options of the random changes.
            mirrored: For each keypoint, its number in a mirrored picture. None: no picture is mirrored.
            epoch: Number of the epoch. Each epoch has its own random changes.
        """
        self._examples, self._options, self._mirrored, self._epoch = examples, options, mirrored, epoch
        self._px = round(options.px * _VIEW_SHARE / 32) * 32

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, People]:
        rng = np.random.default_rng([self._options.seed, self._epoch, index])
        image, people = self._examples[index].read()
        scale = self._options.px / max(image.shape[:2]) * math.exp(rng.uniform(*np.log(_SCALES)))
        quarters = rng.integers(1, 4) if rng.random() < self._options.turned else 0
        angle = math.radians(rng.normal(0, _TILT_DEGREES) + 90 * quarters)
        turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        if self._mirrored is not None and rng.random() < 0.5:
            turn[0] *= -1
            people = People(people.xyxy, people.keypoints[:, self._mirrored])
        box = people.xyxy[rng.choice(np.flatnonzero(well_labelled(people)))]
        target = self._px / 2 + rng.normal(0, 0.12 * self._px, 2)
        offset = target - turn @ ((box[:2] + box[2:]) / 2)
        view, people = _move(image, people, np.hstack([turn, offset[:, None]]), self._px)
        light = torch.from_numpy(rng.uniform(0.6, 1.4) * rng.uniform(0.9, 1.1, (3, 1, 1)))
        view = (view * light + rng.uniform(-20, 20)).clip(0, 255).to(torch.uint8)
        kept = well_labelled(people)
        xyxy = people.xyxy[kept]
        noise = rng.normal(0, _BOX_NOISE, xyxy.shape) * np.tile(xyxy[:, 2:] - xyxy[:, :2], 2)
        return view, People((xyxy + noise).astype(np.float32), people.keypoints[kept])


class Wholes(Dataset[tuple[torch.Tensor, People]]):
    """The pictures to measure on: whole ones, at their size in inference."""

    def __init__(self, examples: Sequence[Example], options: KeypointOptions) -> None:
        self._examples, self._px = examples, options.px

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, People]:
        image, people = self._examples[index].read()
        scale = self._px / max(image.shape[:2])
        return _move(image, people, np.array([[scale, 0, 0], [0, scale, 0]], np.float64), self._px)


@dataclass(frozen=True)
class Batch:
    """Some pictures, and the people in them."""

    images: torch.Tensor
    """`uint8 [N, 3, px, px]`, RGB."""
    numbers: torch.Tensor
    """`float32 [M, 1]`: the picture of each person."""
    regions: torch.Tensor
    """`float32 [M, 4]`: the region in which the keypoints of each person are searched, in pixels."""
    keypoints: torch.Tensor
    """`float32 [M, K, 3]`: x, y in pixels, and whether they are visible."""

    @classmethod
    def of(cls, views: Sequence[tuple[torch.Tensor, People]]) -> Batch:
        """Combine pictures into a batch."""
        n_people = torch.tensor([len(people.xyxy) for _, people in views])
        return cls(
            torch.stack([image for image, _ in views]),
            torch.repeat_interleave(torch.arange(len(views)), n_people)[:, None].float(),
            torch.from_numpy(np.concatenate([regions_of(people.xyxy) for _, people in views])),
            torch.from_numpy(np.concatenate([people.keypoints for _, people in views])),
        )
