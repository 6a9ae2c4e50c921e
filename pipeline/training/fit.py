"""The training loop: labelled sequences in, an activity model out. It can stop and resume after any epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from pipeline.activity.heads import REMEMBERING
from pipeline.activity.model import ActivityModel, Member
from pipeline.activity.spec import ALL, MOTION, ModelSpec, input_dim
from pipeline.training.checkpoints import Checkpoint, epochs_of, purpose_of
from pipeline.training.losses import loss_of_either
from pipeline.training.mirror import mirror_of
from pipeline.training.packing import packed
from pipeline.training.sequences import (
    IGNORE,
    DrawOptions,
    LabelledSequence,
    alternatives_of,
    count_batches,
    draw_batches,
)
from pipeline.vision.runtime import cpu_has_bf16

OnEpoch = Callable[[int, float], None]
"""Called with the epoch, from 1, and its mean loss."""
SEEDS_APART = 1009
"""Distance between the seeds of members, so that models with neighbouring seeds share none."""


@dataclass(frozen=True)
class FitOptions:
    """How a model is trained. The defaults were chosen on a held-out part of JHMDB's training clips."""

    head: str = "lstm"
    """The kind of head; one of `HEADS`."""
    hidden_dim: int = 128
    """Units of a layer in one direction."""
    bidirectional: bool = True
    projection_dim: int | None = 128
    """If there are several inputs, they are projected to this length before the head reads them. None: they are not."""
    epochs: int = 25
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    input_dropout: float = 0.5
    dropout: float = 0.5
    label_smoothing: float = 0.1
    max_steps: int = 256
    """A longer sequence is cropped at random to this many steps, differently in each epoch."""
    min_crop: float = 0.5
    """A crop keeps at least this share of a shorter sequence."""
    join: float = 0.25
    """Share of training sequences that another one follows without a break, so that the state learns to forget."""
    row_steps: int | None = None
    """Concatenate sequences and cut them into rows of this many steps. This is faster, for models of short spans. None:
    sequences stay separate."""
    mirror: bool = False
    """Mirror half of the sequences. The inputs must follow from tracks alone: `box` and `pose`."""
    members: int = 4
    """Number of networks. Each is trained from its own seed, and their logits are averaged."""
    view: str = ALL
    """What a network sees of the inputs; one of `VIEWS`. Of several networks the last one sees only motion, because it
    then makes other errors than the others."""
    patience: int | None = None
    """Early stopping: stop when the validation loss has not fallen for more than this many epochs, and keep the best.
    None: train all epochs."""
    seed: int = 0


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several training workers takes."""

    rank: int = 0
    of: int = 1


class Fitting:
    """A training run between two epochs.

    All random draws of an epoch follow from the seed and the epoch's number. So a run that resumes from a saved state
    ends with exactly the weights of an uninterrupted run.
    """

    def __init__(
        self,
        sequences: Sequence[LabelledSequence],
        validation: Sequence[LabelledSequence],
        spec: ModelSpec,
        options: FitOptions,
        share: Share = Share(),
        distribute: Callable[[nn.Module], nn.Module] | None = None,
        device: torch.device | None = None,
        start: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Prepare the first epoch.

        Args:
            sequences: What to learn from; those without a labelled step are left out.
            validation: Sequences for early stopping, if `options.patience` is set.
            spec: The network.
            options: Regularisation, and the seed.
            share: This worker's share, if there are data-parallel workers.
            distribute: Wraps the network so that the workers' gradients are averaged.
            device: Where to train. None: the first GPU, else the CPU.
            start: Weights to start from. None: random ones.
        """
        self._options, self._share = options, share
        self._purpose = purpose_of(sequences, validation, asdict(spec), asdict(options))
        self._sequences = [sequence for sequence in sequences if (sequence.label_ids != IGNORE).any()]
        self._validation = [sequence for sequence in validation if (sequence.label_ids != IGNORE).any()]
        self._device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Matrix products in bf16, if the processor supports it, halve the time. Weights and sums stay in f32.
        self._half = torch.cuda.is_bf16_supported() if self._device.type == "cuda" else cpu_has_bf16()
        torch.manual_seed(options.seed)
        self._spec = spec
        self.model = Member(spec, 0, options.input_dropout, options.dropout).to(self._device)
        if start is not None:
            self.model.load_state_dict(dict(start))
        self._network = distribute(self.model) if distribute else self.model
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )
        self._draws = draw_options(options, spec)
        self._n_batches = count_batches(self._sequences, self._draws)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, options.learning_rate, total_steps=options.epochs * self._n_batches, pct_start=0.15
        )
        self.epoch = 0
        """Epochs that are done."""
        self._best: dict[str, torch.Tensor] | None = None
        self._best_loss, self._best_epoch = math.inf, 0

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""
        patience = self._options.patience
        waited = self.epoch - self._best_epoch if patience is not None and self._validation else 0
        return self.epoch >= self._options.epochs or (patience is not None and waited > patience)

    def epochs(self, checkpoint: Path | None = None) -> Iterator[tuple[int, float]]:
        """Train to the end and yield each epoch, from 1, and its mean loss.

        Args:
            checkpoint: File to save the state in after each epoch. Training resumes from it if it is of an equal run.
        """
        return epochs_of(self, Checkpoint(checkpoint, self._purpose) if checkpoint is not None else None)

    def run_epoch(self) -> float:
        """Train one epoch and return its mean loss over this worker's share."""
        rng = np.random.default_rng([self._options.seed, self.epoch])
        torch.manual_seed(hash((self._options.seed, self.epoch, self._share.rank)) % 2**63)
        self._network.train()
        total = 0.0
        for drawn in draw_batches(self._sequences, self._draws, rng):
            mine = drawn[self._share.rank :: self._share.of]
            n_labelled = sum(int((sequence.label_ids != IGNORE).sum()) for sequence in drawn)
            # Workers average their gradients. Each divides by its part of the steps of the whole batch, so that many
            # workers learn what one would. A worker without a sequence still takes part, with a loss of zero.
            scale = self._share.of / max(1, n_labelled) if mine else 0.0
            loss = self._loss(mine or drawn[:1], self._options.label_smoothing) * scale
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizer.step()
            self._schedule.step()
            total += float(loss.detach())
        self.epoch += 1
        if self._validation and self._options.patience is not None:
            self._note(self._validation_loss())
        return total / self._n_batches

    def result(self) -> Member:
        """Return the network on the CPU in evaluation mode: the best by validation, else the last."""
        return trained_member(self._spec, self.state())

    def state(self) -> dict[str, Any]:
        """Return all that is needed to resume from here."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "epoch": self.epoch,
            "best": self._best,
            "best_loss": self._best_loss,
            "best_epoch": self._best_epoch,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Resume from the state of another run with the same data and options."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.epoch, self._best = state["epoch"], state["best"]
        self._best_loss, self._best_epoch = state["best_loss"], state["best_epoch"]

    def _loss(self, drawn: Sequence[LabelledSequence], label_smoothing: float) -> torch.Tensor:
        """Return the loss summed over the labelled steps."""
        # Half precision up to the first linear layer, which rounds anyway: most of the time goes into moving data.
        halves = packed([sequence.inputs for sequence in drawn], self._device)
        x = halves._replace(data=halves.data.to(torch.bfloat16 if self._half else torch.float32))
        y = packed([sequence.label_ids for sequence in drawn], self._device).data
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
            logits = self._network(x).float()
        others = alternatives_of(drawn)
        if others is None:
            return functional.cross_entropy(
                logits, y, ignore_index=IGNORE, label_smoothing=label_smoothing, reduction="sum"
            )
        return loss_of_either(logits, y, packed(others, self._device).data, label_smoothing)

    def _validation_loss(self) -> float:
        self._network.eval()
        size = self._options.batch_size
        n_labelled = sum(int((sequence.label_ids != IGNORE).sum()) for sequence in self._validation)
        with torch.inference_mode():
            parts = [self._validation[start : start + size] for start in range(0, len(self._validation), size)]
            return sum(float(self._loss(part, 0.0)) for part in parts) / n_labelled

    def _note(self, validation_loss: float) -> None:
        if validation_loss < self._best_loss:
            self._best_loss, self._best_epoch = validation_loss, self.epoch
            self._best = {name: tensor.detach().cpu().clone() for name, tensor in self.model.state_dict().items()}


def fit(
    sequences: Sequence[LabelledSequence],
    inputs: Sequence[str],
    n_labels: int,
    options: FitOptions,
    on_epoch: OnEpoch | None = None,
    validation: Sequence[LabelledSequence] = (),
    checkpoint: Path | None = None,
) -> ActivityModel:
    """Train an activity model on the CPU or the first GPU, and return it on the CPU in evaluation mode.

    Args:
        sequences: What to learn from; those without a labelled step are left out.
        inputs: The inputs that form an input vector, in order.
        n_labels: Number of activities. Label ids are less than this.
        options: Sizes, regularisation and the seed. The same seed gives the same model on one machine.
        on_epoch: Called with the epoch (from 1, counted through all members) and its mean loss.
        validation: Sequences for early stopping, if `options.patience` is set.
        checkpoint: Where to save the state after each epoch. Each member has a file whose name begins like this. A run
            that finds its own file resumes from it.
    """
    members = [
        fit_member(
            sequences,
            validation,
            spec_of(sequences, inputs, n_labels, of_member),
            of_member,
            _counting_on(on_epoch, number * options.epochs),
            checkpoint.with_name(f"{checkpoint.name}-{number}.pt") if checkpoint else None,
        )
        for number, of_member in enumerate(options_of_members(options))
    ]
    return ActivityModel.of(members)


def _counting_on(on_epoch: OnEpoch | None, before: int) -> OnEpoch | None:
    """Return a callback that continues to count the epochs after those of the previous members."""
    return None if on_epoch is None else lambda epoch, loss: on_epoch(before + epoch, loss)


def fit_member(
    sequences: Sequence[LabelledSequence],
    validation: Sequence[LabelledSequence],
    spec: ModelSpec,
    options: FitOptions,
    on_epoch: OnEpoch | None = None,
    checkpoint: Path | None = None,
) -> Member:
    """Train one network; see `fit`. `checkpoint` is the file itself."""
    fitting = Fitting(sequences, validation, spec, options)
    for epoch, loss in fitting.epochs(checkpoint):
        if on_epoch is not None:
            on_epoch(epoch, loss)
    return fitting.result()


def options_of_members(options: FitOptions) -> list[FitOptions]:
    """Return the options of each member: those of a single network, with its own seed."""
    last = options.members - 1
    return [
        replace(
            options,
            members=1,
            view=MOTION if last and number == last else options.view,
            seed=options.seed + number * SEEDS_APART,
        )
        for number in range(options.members)
    ]


def trained_member(spec: ModelSpec, state: dict[str, Any]) -> Member:
    """Return the network of a training state in evaluation mode: the best by validation, else the last."""
    member = Member(spec)
    member.load_state_dict({name: tensor.cpu() for name, tensor in (state["best"] or state["model"]).items()})
    return member.eval()


def spec_of(
    sequences: Sequence[LabelledSequence], inputs: Sequence[str], n_labels: int, options: FitOptions
) -> ModelSpec:
    """Return the spec of one network for these sequences."""
    n_embeddings = sum(input_dim(name, 1) == 1 for name in inputs)
    width = sequences[0].inputs.shape[1] - sum(input_dim(name, 0) for name in inputs)
    return ModelSpec(
        tuple(inputs),
        width // max(1, n_embeddings),
        n_labels,
        options.head,
        options.hidden_dim,
        options.bidirectional,
        # A linear head is one matrix, and the majority head sees no input. Neither needs a projection.
        projection_dim=options.projection_dim if len(inputs) > 1 and options.head in REMEMBERING else None,
        views=(options.view,),
    )


def draw_options(options: FitOptions, spec: ModelSpec) -> DrawOptions:
    """Return how an epoch draws its sequences."""
    return DrawOptions(
        options.batch_size,
        options.max_steps,
        options.min_crop,
        options.join,
        options.row_steps,
        mirror_of(spec.inputs) if options.mirror else None,
    )
