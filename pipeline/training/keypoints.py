"""Train the keypoint head of a network for people. All other weights stay as they are."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision.ops import roi_align

from pipeline.errors import UsageError
from pipeline.training.keypoint_views import (
    LEAST_LABELLED,
    Batch,
    KeypointOptions,
    Views,
    Wholes,
    read_examples,
    well_labelled,
)
from pipeline.training.people import NOT_LABELLED, VISIBLE, within_reach
from pipeline.vision import people_network
from pipeline.vision.detector_bundle import DetectorBundle, arrays_of, build_network, tensors_of
from pipeline.vision.keypoint_head import KeypointHead
from pipeline.vision.keypoint_network import N_CELLS, SIDE, STRIDE, read_heatmaps
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.people_architecture import is_people, with_keypoint_head
from pipeline.vision.runtime import choose_runtime, training_threads

log = logging.getLogger(__name__)

# The target heatmap is a Gaussian with this standard deviation, in cells.
_BELL_CELLS = 0.9
_HIDDEN_WEIGHT, _SEEN_WEIGHT = 0.4, 0.2
# The learning rate rises for this share of the steps.
_WARM_UP, _WEIGHT_DECAY = 0.01, 1e-3


def learn_keypoints(start: DetectorBundle, data: dict[str, Any], run: Path, options: KeypointOptions) -> DetectorBundle:
    """Return a bundle whose keypoint head was trained, or trained further.

    A checkpoint is written after each epoch. The next call resumes from it.

    Args:
        start: A network for people. Its boxes, and its description of people, stay as they are.
        data: The Ultralytics description of a data set with keypoints; `train` and `val` are lists of folders.
        run: Folder of the checkpoint.
        options: Size and length.

    Raises:
        UsageError: Nobody in the data set has keypoints, or the network is not one for people.
    """
    if not is_people(start.architecture):
        raise UsageError(f"detector {start.name!r} can't learn keypoints: it is not a network of architecture `people`")
    n_keypoints: int = data["kpt_shape"][0]
    # For a head that starts from random weights.
    torch.manual_seed(options.seed)
    architecture = with_keypoint_head(start.architecture, n_keypoints)
    network: Any = build_network(architecture)
    # An existing keypoint head is trained further. A pose head of Ultralytics is dropped.
    fitting = {name: t.shape for name, t in network.state_dict().items()}
    kept = {name: t for name, t in tensors_of(start.weights).items() if t.shape == fitting.get(name)}
    network.load_state_dict(kept, strict=False)
    found = read_examples(data["train"], data)
    examples = [example for example in found if well_labelled(example.people).any()]
    if not examples:
        raise UsageError(f"{data['train'][0]}: nobody has {LEAST_LABELLED} labelled keypoints; label keypoints first")
    learner = _Learner(network, options)
    checkpoint = run / "keypoints.pt"
    held_out = Wholes(read_examples(data["val"], data), options)
    measured: dict[str, float] | None = None
    for epoch in range(learner.take_up(checkpoint), options.epochs):
        loss = learner.learn(Views(examples, options, data.get("flip_idx"), epoch), epoch)
        learner.save(checkpoint, epoch + 1)
        measured = learner.measure(held_out)
        log.info("keypoints, epoch %d of %d: loss %.3f; %s", epoch + 1, options.epochs, loss, measured)
    metrics = _of_boxes(start.metrics) | (measured or learner.measure(held_out))
    return replace(start, architecture=architecture, weights=arrays_of(network), metrics=metrics)


def with_keypoints_of(bundle: DetectorBundle, other: DetectorBundle) -> DetectorBundle:
    """Return a bundle with the boxes of one bundle and the keypoint head of another with the same backbone."""
    facts = other.architecture["keypoint_head"]
    architecture = with_keypoint_head(bundle.architecture, facts["n_keypoints"])
    architecture["keypoint_head"] = facts
    names = build_network(architecture).state_dict()
    weights = {name: (other if name.startswith("keypoint_head.") else bundle).weights[name] for name in names}
    return replace(bundle, architecture=architecture, weights=weights, metrics=_of_boxes(bundle.metrics))


def measure_keypoints(bundle: DetectorBundle, data: dict[str, Any], options: KeypointOptions) -> DetectorBundle:
    """Return a bundle with the metrics of its keypoint head on the held-out pictures of a data set.

    Nothing is measured if the number of keypoints differs between the labels and the head.
    """
    if bundle.architecture["keypoint_head"]["n_keypoints"] != data["kpt_shape"][0]:
        return bundle
    measured = _Learner(bundle.network(), options).measure(Wholes(read_examples(data["val"], data), options))
    return replace(bundle, metrics=_of_boxes(bundle.metrics) | measured)


def _of_boxes(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.startswith("keypoints")}


class _Learner:
    """A keypoint head that is trained on a frozen backbone."""

    def __init__(self, network: Any, options: KeypointOptions) -> None:
        """Take a network for people with a keypoint head. Both are changed in place."""
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
        """Resume an interrupted training, and return the number of epochs that it has done."""
        if not checkpoint.exists():
            return 0
        state = torch.load(checkpoint, map_location=self._device, weights_only=True)
        self._head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        log.info("keypoints: resuming after epoch %d", state["epochs"])
        return int(state["epochs"])

    def save(self, checkpoint: Path, epochs: int) -> None:
        """Write all that a training needs to resume."""
        state = {"head": self._head.state_dict(), "optimizer": self._optimizer.state_dict(), "epochs": epochs}
        unfinished = checkpoint.with_suffix(".part")
        torch.save(state, unfinished)
        unfinished.replace(checkpoint)

    def learn(self, views: Views, epoch: int) -> float:
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
    def measure(self, wholes: Wholes) -> dict[str, float]:
        """Return the share of COCO's visible keypoints that are found; empty if other keypoints were learnt."""
        if self._head.n_keypoints != len(KEYPOINTS):
            return {}
        self._head.eval()
        right = [np.zeros(0, bool)]
        for batch in self._batches(wholes):
            found = read_heatmaps(self._logits(batch).cpu().numpy(), batch.regions.numpy())
            right.append(within_reach(batch.keypoints.numpy(), found))
        counted = np.concatenate(right)
        return {"keypoints_pck": float(counted.mean())} if len(counted) else {}

    def _batches(self, pictures: Dataset[Any], order: torch.Generator | None = None) -> DataLoader[Batch]:
        return DataLoader(
            pictures,
            self._options.batch_size,
            shuffle=order is not None,
            generator=order,
            num_workers=self._options.workers,
            collate_fn=Batch.of,
        )

    def _logits(self, batch: Batch) -> torch.Tensor:
        """Return the output of the head for the people of a batch, as in `KeypointHead.forward`."""
        images = batch.images.to(self._device).float() / 255
        with torch.no_grad(), self._runtime.autocast():
            maps = self._read(images)
        regions = torch.cat([batch.numbers, batch.regions], dim=1).to(self._device)
        merged = self._head.merge([grid.float() for grid in maps])
        parts = roi_align(merged, regions, N_CELLS, 1 / STRIDE, sampling_ratio=2, aligned=True)
        logits: torch.Tensor = self._head(parts.permute(0, 2, 3, 1))
        return logits


def _loss(logits: torch.Tensor, keypoints: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
    """Return the loss: heatmaps against Gaussians around the keypoints, and predicted against labelled visibility.

    A keypoint that is not labelled counts as invisible.
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
