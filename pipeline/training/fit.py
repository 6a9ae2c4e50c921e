"""The training loop: labelled sequences in, an activity model out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from pipeline.activity.heads import REMEMBERING
from pipeline.activity.model import ActivityModel, ModelSpec
from pipeline.motion.kinematics import BOX_MOTION_DIM
from pipeline.vision.runtime import cpu_has_bf16

# So many batches are drawn at a time, to be sorted by length.
_SORTED_BATCHES = 32
IGNORE = -1
"""Label id of a step that no annotation covers: it takes no part in the loss."""


@dataclass(frozen=True)
class LabelledSequence:
    """One video's (or one track's) inputs on the sampling grid, with a label for each step."""

    inputs: NDArray[np.float16]
    """`float16 [T, D]`."""
    label_ids: NDArray[np.int64]
    """`int64 [T]`, `IGNORE` where nothing is annotated."""
    first_step: int = 0
    """Where on the video's sampling grid it starts."""
    weights: NDArray[np.float32] | None = None
    """`float32 [T]`: how much each step says about the whole video, the larger person's more. None: all the same."""


@dataclass(frozen=True)
class FitOptions:
    """How a model is trained. The defaults were chosen on a part of JHMDB's training clips, held out for that."""

    head: str = "lstm"
    """What remembers; one of `HEADS`."""
    hidden_dim: int | None = None
    """Units of a layer in one direction. None: 128 for one embedding, 256 for several."""
    bidirectional: bool = True
    projection_dim: int | None = 256
    """Several embeddings are brought down to this length together before the head reads them. None: they are not."""
    epochs: int = 25
    batch_size: int = 64
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    input_dropout: float = 0.5
    dropout: float = 0.5
    label_smoothing: float = 0.1
    max_steps: int = 256
    """A longer sequence is cropped at random to so many steps, anew in each epoch."""
    min_crop: float = 0.5
    """A crop keeps at least this share of a shorter sequence."""
    join: float = 0.25
    """Share of training sequences followed by another one without a break, so that the state learns to let go."""
    seed: int = 0


def fit(
    sequences: Sequence[LabelledSequence],
    inputs: Sequence[str],
    n_labels: int,
    options: FitOptions,
    on_epoch: Callable[[int, float], None] | None = None,
) -> ActivityModel:
    """Train an activity model on the CPU or the first GPU, and return it on the CPU in evaluation mode.

    Args:
        sequences: What to learn from; those without a labelled step are left out.
        inputs: What stands side by side in an input vector.
        n_labels: Number of activities; label ids lie below it.
        options: Sizes, regularisation and the seed. The same seed gives the same model on one machine.
        on_epoch: Called with the epoch (from 1) and its mean loss.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Matrix products in bf16, where the processor has it, halve the time; weights and sums stay in f32.
    half = torch.cuda.is_bf16_supported() if device.type == "cuda" else cpu_has_bf16()
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    spec = _spec(sequences, inputs, n_labels, options)
    sequences = [sequence for sequence in sequences if (sequence.label_ids != IGNORE).any()]
    model = ActivityModel(spec, options.input_dropout, options.dropout).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    batches_per_epoch = -(-len(sequences) // options.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.epochs * batches_per_epoch, pct_start=0.15
    )
    for epoch in range(1, options.epochs + 1):
        total = 0.0
        for drawn in _batches(sequences, options, rng):
            x = _packed([sequence.inputs.astype(np.float32) for sequence in drawn], device)
            y = _packed([sequence.label_ids for sequence in drawn], device).data
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits = model(x)
            loss = functional.cross_entropy(
                logits.float(), y, ignore_index=IGNORE, label_smoothing=options.label_smoothing
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        if on_epoch is not None:
            on_epoch(epoch, total / batches_per_epoch)
    return model.cpu().eval()


def _spec(
    sequences: Sequence[LabelledSequence], inputs: Sequence[str], n_labels: int, options: FitOptions
) -> ModelSpec:
    n_embeddings = len([name for name in inputs if name != "box"])
    width = sequences[0].inputs.shape[1] - (BOX_MOTION_DIM if "box" in inputs else 0)
    hidden_dim = options.hidden_dim or (128 if n_embeddings == 1 else 256)
    return ModelSpec(
        tuple(inputs),
        width // max(1, n_embeddings),
        n_labels,
        options.head,
        hidden_dim,
        options.bidirectional,
        # A linear probe is one matrix, and who sees nothing needs none.
        projection_dim=options.projection_dim if n_embeddings > 1 and options.head in REMEMBERING else None,
    )


def _batches(
    sequences: Sequence[LabelledSequence], options: FitOptions, rng: np.random.Generator
) -> Iterator[list[LabelledSequence]]:
    """Yield every sequence once, in batches of about one length: the longest tells how many passes an LSTM takes."""
    order = rng.permutation(len(sequences))
    size = options.batch_size
    for start in range(0, len(order), size * _SORTED_BATCHES):
        drawn = [_draw(sequences, int(index), options, rng) for index in order[start : start + size * _SORTED_BATCHES]]
        # Not quite by length, so that it is not always the same that learn together.
        drawn.sort(key=lambda sequence: len(sequence.label_ids) * rng.uniform(0.75, 1.25))
        batches = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        for index in rng.permutation(len(batches)):
            yield batches[index]


def _draw(
    sequences: Sequence[LabelledSequence], index: int, options: FitOptions, rng: np.random.Generator
) -> LabelledSequence:
    drawn = _crop(sequences[index], options, rng)
    if rng.random() < options.join:
        other = _crop(sequences[int(rng.integers(len(sequences)))], options, rng)
        drawn = LabelledSequence(
            np.concatenate([drawn.inputs, other.inputs]), np.concatenate([drawn.label_ids, other.label_ids])
        )
    return drawn


def _crop(sequence: LabelledSequence, options: FitOptions, rng: np.random.Generator) -> LabelledSequence:
    """Return a random stretch that holds at least one labelled step."""
    n = len(sequence.label_ids)
    longest = min(n, options.max_steps)
    length = int(rng.integers(max(1, int(longest * options.min_crop)), longest + 1))
    labelled = np.flatnonzero(sequence.label_ids != IGNORE)
    anchor = int(rng.choice(labelled))
    first = int(rng.integers(max(0, anchor - length + 1), min(anchor, n - length) + 1))
    return LabelledSequence(sequence.inputs[first : first + length], sequence.label_ids[first : first + length])


def _packed(sequences: Sequence[NDArray[Any]], device: torch.device) -> PackedSequence:
    return pack_sequence([torch.from_numpy(sequence).to(device) for sequence in sequences], enforce_sorted=False)
