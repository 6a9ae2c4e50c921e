"""Teach a network for people where their keypoints are: its keypoint head learns, all else stays as it is."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import roi_align

from pipeline.errors import UsageError
from pipeline.training.people import NOT_LABELLED, VISIBLE, Image, People, within_reach
from pipeline.vision import people_network
from pipeline.vision.detector_bundle import DetectorBundle, build_network
from pipeline.vision.keypoint_head import KeypointHead
from pipeline.vision.keypoint_network import N_CELLS, SIDE, STRIDE, read_heatmaps, regions_of
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.runtime import choose_runtime, training_threads

log = logging.getLogger(__name__)

# A person with fewer labelled keypoints is not learnt from.
_LEAST_LABELLED = 4
# What is learnt from is a square of this share of an image's size in use, around somebody, enlarged by these factors
# and tilted by degrees (a standard deviation).
_VIEW_SHARE, _SCALES, _TILT_DEGREES = 0.8, (0.6, 1.15), 12.0
# A detector's boxes differ from those of the labels: by this share of their sides, a standard deviation.
_BOX_NOISE = 0.04
_GREY = 114
# The heatmap to learn is a bell of so many cells, a standard deviation.
_BELL_CELLS = 0.9
_HIDDEN_WEIGHT, _SEEN_WEIGHT = 0.4, 0.2
# The learning rate rises for this share of the steps.
_WARM_UP, _WEIGHT_DECAY = 0.01, 1e-3


@dataclass(frozen=True)
class KeypointOptions:
    """How a keypoint head is trained."""

    px: int
    """Longest side of images in use, in pixels."""
    epochs: int
    """Passes over the data set."""
    batch_size: int = 16
    learning_rate: float = 2e-3
    turned: float = 0.0
    """Share of the images shown turned by quarters."""
    workers: int = 1
    """Processes that read images."""
    seed: int = 0


def learn_keypoints(start: DetectorBundle, data: dict[str, Any], run: Path, options: KeypointOptions) -> DetectorBundle:
    """Return a bundle whose keypoint head was trained, or trained further.

    A checkpoint is written after each epoch; the next call goes on there.

    Args:
        start: A network for people. Its boxes, and what it tells of people, stay as they are.
        data: A data set with keypoints in the description of Ultralytics, `train` and `val` as lists of folders.
        run: Folder of the checkpoint.
        options: Size and length.

    Raises:
        UsageError: Nobody in the data set has keypoints, or the network is not one for people.
    """
    if not people_network.is_people(start.architecture):
        raise UsageError(f"detector {start.name!r} can't learn keypoints: it is not a network of architecture `people`")
    n_keypoints: int = data["kpt_shape"][0]
    # For a head that starts from random weights.
    torch.manual_seed(options.seed)
    architecture = people_network.with_keypoint_head(start.architecture, n_keypoints)
    network: Any = build_network(architecture)
    # A head that the bundle has already learns further; a pose head of Ultralytics is dropped.
    fitting = {name: t.shape for name, t in network.state_dict().items()}
    kept = {name: t.float() for name, t in start.weights.items() if t.shape == fitting.get(name)}
    network.load_state_dict(kept, strict=False)
    found = _read_examples(data["train"], data)
    examples = [example for example in found if _well_labelled(example.people).any()]
    if not examples:
        raise UsageError(f"{data['train'][0]}: nobody has {_LEAST_LABELLED} labelled keypoints; label keypoints first")
    learner = _Learner(network, options)
    checkpoint = run / "keypoints.pt"
    held_out = _Wholes(_read_examples(data["val"], data), options)
    measured: dict[str, float] | None = None
    for epoch in range(learner.take_up(checkpoint), options.epochs):
        loss = learner.learn(_Views(examples, options, data.get("flip_idx"), epoch), epoch)
        learner.save(checkpoint, epoch + 1)
        measured = learner.measure(held_out)
        log.info("keypoints, epoch %d of %d: loss %.3f; %s", epoch + 1, options.epochs, loss, measured)
    metrics = {name: value for name, value in start.metrics.items() if not name.startswith("keypoints")}
    metrics |= learner.measure(held_out) if measured is None else measured
    weights = {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
    return replace(start, architecture=architecture, weights=weights, metrics=metrics)


@dataclass(frozen=True)
class _Example:
    """A picture on disk, and who is in it."""

    path: str
    people: People
    """In shares of the picture."""

    def read(self) -> tuple[Image, People]:
        """Return the picture `uint8 [H, W, 3]`, BGR, and who is in it, in pixels."""
        found = cv2.imread(self.path)
        if found is None:
            raise UsageError(f"{self.path}: OpenCV can't read this picture; convert it to JPEG or PNG, or leave it out")
        image = np.asarray(found, np.uint8)
        size = np.array([image.shape[1], image.shape[0]], np.float32)
        keypoints = self.people.keypoints * np.append(size, np.float32(1))
        return image, People(self.people.xyxy * np.tile(size, 2), keypoints)


def _read_examples(folders: Sequence[str], data: dict[str, Any]) -> list[_Example]:
    """Read the labels of a data set, by Ultralytics, which keeps what it read beside the pictures."""
    from ultralytics.data.dataset import YOLODataset

    examples = []
    for label in YOLODataset(img_path=list(folders), data=data, task="pose", augment=False).labels:
        centre, side = np.split(np.asarray(label["bboxes"], np.float32).reshape(-1, 4), 2, axis=1)
        keypoints = np.asarray(label["keypoints"], np.float32).reshape(len(centre), data["kpt_shape"][0], 3)
        if data["kpt_shape"][1] == 2:
            # Labels that do not tell which keypoints can be seen say so of all.
            keypoints[..., 2] = np.where(keypoints[..., 2] != NOT_LABELLED, VISIBLE, NOT_LABELLED)
        examples.append(
            _Example(label["im_file"], People(np.hstack([centre - side / 2, centre + side / 2]), keypoints))
        )
    return examples


def _well_labelled(people: People) -> NDArray[np.bool_]:
    """Return who has enough labelled keypoints to learn from, `bool [N]`."""
    return np.asarray((people.keypoints[..., 2] != NOT_LABELLED).sum(axis=1) >= _LEAST_LABELLED)


def _move(image: Image, people: People, matrix: NDArray[np.float64], px: int) -> tuple[torch.Tensor, People]:
    """Return a picture as a network's square input, `uint8 [3, px, px]`, RGB, and where its people are there.

    Args:
        image: `uint8 [H, W, 3]`, BGR.
        people: In pixels of the picture.
        matrix: `float64 [2, 3]`, from pixels of the picture to those of the input, counted from their edges.
        px: Side of the input.
    """
    # OpenCV counts pixels from their middles.
    of_middles = matrix.copy()
    of_middles[:, 2] += matrix[:, :2].sum(axis=1) / 2 - 0.5
    moved = cv2.warpAffine(image, of_middles, (px, px), flags=cv2.INTER_LINEAR, borderValue=(_GREY,) * 3)
    turn, offset = matrix[:, :2].T.astype(np.float32), matrix[:, 2].astype(np.float32)
    low, high = np.split(people.xyxy, 2, axis=1)
    centre = (low + high) / 2 @ turn + offset
    # The box around the ellipse in a tilted box: a body leaves the corners empty.
    reach = np.sqrt(((high - low) / 2) ** 2 @ turn**2)
    keypoints = people.keypoints.copy()
    keypoints[..., :2] = keypoints[..., :2] @ turn + offset
    keypoints[((keypoints[..., :2] < 0) | (keypoints[..., :2] >= px)).any(axis=-1), 2] = NOT_LABELLED
    rgb = torch.from_numpy(np.ascontiguousarray(moved[:, :, ::-1].transpose(2, 0, 1)))
    return rgb, People(np.hstack([centre - reach, centre + reach]), keypoints)


class _Views(Dataset[tuple[torch.Tensor, People]]):
    """What is learnt from in one epoch: a part of each picture, around somebody, changed at random."""

    def __init__(
        self, examples: Sequence[_Example], options: KeypointOptions, mirrored: Sequence[int] | None, epoch: int
    ) -> None:
        """Take the pictures.

        Args:
            examples: In each of them somebody is well labelled.
            options: Size; what is drawn.
            mirrored: For each keypoint the number of the one that it is in a mirrored picture. None: none is mirrored.
            epoch: Each one draws its own.
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
        box = people.xyxy[rng.choice(np.flatnonzero(_well_labelled(people)))]
        target = self._px / 2 + rng.normal(0, 0.12 * self._px, 2)
        offset = target - turn @ ((box[:2] + box[2:]) / 2)
        view, people = _move(image, people, np.hstack([turn, offset[:, None]]), self._px)
        light = torch.from_numpy(rng.uniform(0.6, 1.4) * rng.uniform(0.9, 1.1, (3, 1, 1)))
        view = (view * light + rng.uniform(-20, 20)).clip(0, 255).to(torch.uint8)
        kept = _well_labelled(people)
        xyxy = people.xyxy[kept]
        noise = rng.normal(0, _BOX_NOISE, xyxy.shape) * np.tile(xyxy[:, 2:] - xyxy[:, :2], 2)
        return view, People((xyxy + noise).astype(np.float32), people.keypoints[kept])


class _Wholes(Dataset[tuple[torch.Tensor, People]]):
    """What is measured on: whole pictures at their size in use."""

    def __init__(self, examples: Sequence[_Example], options: KeypointOptions) -> None:
        self._examples, self._px = examples, options.px

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, People]:
        image, people = self._examples[index].read()
        scale = self._px / max(image.shape[:2])
        return _move(image, people, np.array([[scale, 0, 0], [0, scale, 0]], np.float64), self._px)


@dataclass(frozen=True)
class _Batch:
    """Some pictures, and who is in them."""

    images: torch.Tensor
    """`uint8 [N, 3, px, px]`, RGB."""
    numbers: torch.Tensor
    """`float32 [M, 1]`: which picture each person is in."""
    regions: torch.Tensor
    """`float32 [M, 4]`: where the keypoints of each person are looked for, in pixels."""
    keypoints: torch.Tensor
    """`float32 [M, K, 3]`: x, y in pixels, and whether they are visible."""

    @classmethod
    def of(cls, views: Sequence[tuple[torch.Tensor, People]]) -> _Batch:
        """Put pictures together."""
        n_people = torch.tensor([len(people.xyxy) for _, people in views])
        return cls(
            torch.stack([image for image, _ in views]),
            torch.repeat_interleave(torch.arange(len(views)), n_people)[:, None].float(),
            torch.from_numpy(np.concatenate([regions_of(people.xyxy) for _, people in views])),
            torch.from_numpy(np.concatenate([people.keypoints for _, people in views])),
        )


class _Learner:
    """A keypoint head that learns on top of a backbone that does not."""

    def __init__(self, network: Any, options: KeypointOptions) -> None:
        """Take a network for people with a keypoint head; both are changed in place."""
        self._head: KeypointHead = network.keypoint_head
        self._options = options
        self._runtime = choose_runtime(threads=training_threads())
        self._device = torch.device(self._runtime.device)
        if self._runtime.device == "cpu":
            torch.set_num_threads(self._runtime.threads)
            people_network.freeze_in_openvino(network.model[0], self._runtime)
        self._read = people_network.Read(network.model[0]).to(self._device).eval()
        self._head.to(self._device, memory_format=torch.channels_last)
        self._optimizer = torch.optim.AdamW(self._head.parameters(), options.learning_rate, weight_decay=_WEIGHT_DECAY)

    def take_up(self, checkpoint: Path) -> int:
        """Go on where a training was cut off, and return how many epochs it had behind it."""
        if not checkpoint.exists():
            return 0
        state = torch.load(checkpoint, map_location=self._device, weights_only=True)
        self._head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        log.info("keypoints: goes on after epoch %d", state["epochs"])
        return int(state["epochs"])

    def save(self, checkpoint: Path, epochs: int) -> None:
        """Write all that a training needs to go on."""
        state = {"head": self._head.state_dict(), "optimizer": self._optimizer.state_dict(), "epochs": epochs}
        unfinished = checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(checkpoint)

    def learn(self, views: _Views, epoch: int) -> float:
        """Learn from each view once, and return the mean loss."""
        self._head.train()
        losses = []
        batches = self._batches(views, torch.Generator().manual_seed(1000 * self._options.seed + epoch))
        for number, batch in enumerate(batches):
            if not len(batch.regions):
                continue
            step, n_steps = epoch * len(batches) + number, self._options.epochs * len(batches)
            share = min(1.0, (step + 1) / (_WARM_UP * n_steps)) * (0.5 + 0.5 * math.cos(math.pi * step / n_steps))
            for group in self._optimizer.param_groups:
                group["lr"] = share * self._options.learning_rate
            loss = _loss(self._logits(batch), batch.keypoints.to(self._device), batch.regions.to(self._device))
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses)) if losses else 0.0

    @torch.inference_mode()
    def measure(self, wholes: _Wholes) -> dict[str, float]:
        """Return the share of COCO's visible keypoints that are found; nothing where others were learnt."""
        if self._head.n_keypoints != len(KEYPOINTS):
            return {}
        self._head.eval()
        right = [np.zeros(0, bool)]
        for batch in self._batches(wholes):
            found = read_heatmaps(self._logits(batch).cpu().numpy(), batch.regions.numpy())
            right.append(within_reach(batch.keypoints.numpy(), found))
        counted = np.concatenate(right)
        return {"keypoints_pck": float(counted.mean())} if len(counted) else {}

    def _batches(self, pictures: Dataset[Any], order: torch.Generator | None = None) -> DataLoader[_Batch]:
        return DataLoader(
            pictures,
            self._options.batch_size,
            shuffle=order is not None,
            generator=order,
            num_workers=self._options.workers,
            collate_fn=_Batch.of,
        )

    def _logits(self, batch: _Batch) -> torch.Tensor:
        """Return what the head says of the people of a batch, as `KeypointHead.forward`."""
        images = batch.images.to(self._device).float() / 255
        with torch.no_grad(), self._runtime.autocast():
            maps = self._read(images)
        regions = torch.cat([batch.numbers, batch.regions], dim=1).to(self._device)
        merged = self._head.merge([grid.float() for grid in maps])
        parts = roi_align(merged, regions, N_CELLS, 1 / STRIDE, sampling_ratio=2, aligned=True)
        logits: torch.Tensor = self._head(parts.permute(0, 2, 3, 1))
        return logits


def _loss(logits: torch.Tensor, keypoints: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Return how far heatmaps are from bells around the keypoints, and what is seen from what is visible.

    A keypoint that is not labelled counts as one that can't be seen.
    """
    cell = (regions[:, None, 2:] - regions[:, None, :2]) / SIDE
    at = (keypoints[..., :2] - regions[:, None, :2]) / cell - 0.5
    within = ((at > -1) & (at < SIDE)).all(dim=-1)
    visible = keypoints[..., 2] == VISIBLE
    weight = within * torch.where(visible, 1.0, _HIDDEN_WEIGHT) * (keypoints[..., 2] != NOT_LABELLED)
    cells = torch.arange(SIDE, device=at.device)
    bells = torch.exp(-(((cells - at[..., None]) / _BELL_CELLS) ** 2) / 2)
    bell = (bells[..., 1, :, None] * bells[..., 0, None, :]).flatten(2)
    bell = bell / bell.sum(dim=2, keepdim=True).clamp(min=1e-6)
    far = -(bell * logits[..., :-1].log_softmax(dim=2)).sum(dim=2)
    seen = functional.binary_cross_entropy_with_logits(logits[..., -1], visible.float())
    return (far * weight).sum() / weight.sum().clamp(min=1.0) + _SEEN_WEIGHT * seen
