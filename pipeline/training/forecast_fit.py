"""The training loop of forecasters: windows of trajectories in, a network out. It can resume after any epoch."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.motion.forecasting import Forecaster, ForecasterSpec
from pipeline.motion.mixture import Mixture
from pipeline.motion.trajectories import Windows
from pipeline.training.checkpoints import Checkpoint, epochs_of
from pipeline.training.fit import Share

# The warm-up is a tenth of the steps. PyTorch needs more than one step for it.
_SHORTEST = 11


@dataclass(frozen=True)
class ForecastOptions:
    """How a forecaster is trained."""

    epochs: int = 10
    """Passes over the windows."""
    batch_size: int = 512
    learning_rate: float = 4e-3
    weight_decay: float = 1e-4
    scale: float = 0.3
    """Places are enlarged or shrunk by a factor of up to `e` to the power of this."""
    noise: float = 0.12
    """Noise is added to the observed places, with a standard deviation of up to this many units. It is drawn for each
    path, and mostly small. Some cameras, and some human annotators, place people less exactly than others."""
    mean_weight: float = 1.0
    """Weight of the distance from the mean of all paths, relative to the likelihood of the true path."""
    seed: int = 0


class ForecastFitting:
    """A training run between two epochs.

    All random draws of an epoch follow from the seed and the epoch's number. So a run that resumes from a saved state
    ends with exactly the weights of an uninterrupted run.
    """

    def __init__(
        self,
        windows: Windows,
        spec: ForecasterSpec,
        options: ForecastOptions,
        share: Share | None = None,
        distribute: Callable[[nn.Module], nn.Module] | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Prepare the first epoch.

        Args:
            windows: What to learn from.
            spec: The network.
            options: Regularisation, and the seed.
            share: This worker's share, if there are data-parallel workers. None: it is the only one.
            distribute: Wraps the network so that the workers' gradients are averaged.
            device: Where to train. None: the first GPU, else the CPU.
        """
        self._options, self._share, self._spec = options, share or Share(), spec
        self._purpose = repr((asdict(spec), asdict(options), zlib.crc32(windows.places.tobytes())))
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._places, self._others, self._present = (
            torch.from_numpy(values).to(self._device) for values in (windows.places, windows.others, windows.present)
        )
        torch.manual_seed(options.seed)
        self.model = Forecaster(spec).to(self._device)
        self._network = distribute(self.model) if distribute else self.model
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._scene = windows.scene
        n_batches = -(-len(_drawn(self._scene, np.random.default_rng(0))) // options.batch_size)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            options.learning_rate,
            total_steps=max(_SHORTEST, options.epochs * n_batches),
            pct_start=0.1,
        )
        self.epoch = 0
        """Epochs that are done."""

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch >= self._options.epochs

    def epochs(self, checkpoint: Path | None = None) -> Iterator[tuple[int, float]]:
        """Train to the end and yield each epoch, from 1, and its mean loss.

        Args:
            checkpoint: File to save the state in after each epoch. Training resumes from it if it is of an equal run.
        """
        return epochs_of(self, Checkpoint(checkpoint, self._purpose) if checkpoint is not None else None)

    def run_epoch(self) -> float:
        """Train one epoch and return its mean loss over this worker's share."""
        options = self._options
        rng = np.random.default_rng([options.seed, self.epoch])
        order = torch.from_numpy(_drawn(self._scene, rng))
        self._network.train()
        total, n_batches = 0.0, 0
        for drawn in torch.split(order, options.batch_size):
            views = self._seen(drawn, rng)
            mine = slice(self._share.rank, None, self._share.of)
            # Workers average their gradients. Each divides by its part of the whole batch, so that many workers learn
            # what one would. A worker without a window still takes part, with a loss of zero.
            n_mine = len(drawn[mine])
            part = [view[mine] if n_mine else view[:1] for view in views]
            loss = self._loss(*part).sum() * (self._share.of / len(drawn) if n_mine else 0.0)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizer.step()
            self._schedule.step()
            total, n_batches = total + float(loss.detach()), n_batches + 1
        self.epoch += 1
        return total / n_batches

    def result(self) -> Forecaster:
        """Return the network on the CPU in evaluation mode."""
        return self.model.cpu().eval()

    def state(self) -> dict[str, Any]:
        """Return all that is needed to resume from here."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "epoch": self.epoch,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Resume from the state of another run with the same data and options."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.epoch = state["epoch"]

    def _seen(self, drawn: torch.Tensor, rng: np.random.Generator) -> list[torch.Tensor]:
        """Return places, others and their presence for some windows. Half of them are mirrored, and all are scaled.

        Rotations are not needed: the network rotates all of them to the same direction.
        """
        options, n = self._options, len(drawn)
        factor = np.exp(rng.uniform(-options.scale, options.scale, n))
        sideways = factor * rng.choice([-1.0, 1.0], n)
        by = torch.from_numpy(np.stack([factor, sideways], axis=1)[:, None].astype(np.float32)).to(self._device)
        places = self._places[drawn] * by
        if options.noise:
            deviation = options.noise * rng.uniform(0.0, 1.0, (n, 1, 1)) ** 3
            trembling = (deviation * rng.standard_normal((n, self._spec.n_observed, 2))).astype(np.float32)
            places[:, : self._spec.n_observed] += torch.from_numpy(trembling).to(self._device)
        return [places, self._others[drawn] * by.repeat(1, 1, 2), self._present[drawn]]

    def _loss(self, places: torch.Tensor, others: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return the loss of each window, `float32 [B]`."""
        past, future = places[:, : self._spec.n_observed], places[:, self._spec.n_observed :]
        told = Mixture(*self._network(past, others, present))
        likelihood = told.log_likelihood(future) / self._spec.n_foretold
        apart = (told.at_each_step()[0] - future).norm(dim=-1).mean(dim=-1)
        loss: torch.Tensor = self._options.mean_weight * apart - likelihood
        return loss


def _drawn(scene: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the windows that an epoch sees, in order, `int64`.

    The weight of a scene is the square root of its number of windows, so that one crowded square does not outweigh all
    other places. An epoch has about as many windows as there are in total.
    """
    counts = np.bincount(scene)
    shares = np.sqrt(counts)
    wanted = np.floor(shares / shares.sum() * len(scene) + 1e-9).astype(np.int64)
    order = np.argsort(scene, kind="stable")
    parts = []
    for rows, n in zip(np.split(order, np.cumsum(counts)[:-1]), wanted.tolist(), strict=True):
        whole = np.tile(rows, n // max(1, len(rows)))
        parts.append(np.concatenate([whole, rng.choice(rows, n - len(whole), replace=False)]) if len(rows) else rows)
    return rng.permutation(np.concatenate(parts))


def fit_forecaster(
    windows: Windows,
    spec: ForecasterSpec,
    options: ForecastOptions,
    on_epoch: Callable[[int, float], None] | None = None,
    checkpoint: Path | None = None,
) -> Forecaster:
    """Train a forecaster on the CPU or the first GPU, and return it on the CPU in evaluation mode.

    Args:
        windows: What to learn from, `spec.n_observed + spec.n_foretold` steps each.
        spec: The network.
        options: Regularisation and the seed. The same seed gives the same network on one machine.
        on_epoch: Called with the epoch, from 1, and its mean loss.
        checkpoint: File to save the state in after each epoch. A run that finds its own file resumes from it.
    """
    fitting = ForecastFitting(windows, spec, options)
    for epoch, loss in fitting.epochs(checkpoint):
        if on_epoch is not None:
            on_epoch(epoch, loss)
    return fitting.result()
