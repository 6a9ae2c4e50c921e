"""The state of a training in a file. Only the same training resumes from it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.training.sequences import LabelledSequence


class Checkpoint:
    """One file. It stays complete if the process dies."""

    def __init__(self, path: Path, purpose: str) -> None:
        """Take the file, and what identifies the training. Nothing is read or written yet."""
        self._path, self._purpose = path, purpose

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved last. None: there is none, or it belongs to another training."""
        if not self._path.exists():
            return None
        saved = torch.load(self._path, map_location="cpu", weights_only=True)
        state: dict[str, Any] | None = saved["state"] if saved["purpose"] == self._purpose else None
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Write a state. It replaces the previous one.

        Raises:
            OSError: The file can't be written; the previous one is kept.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._path.with_suffix(".tmp")
        torch.save({"purpose": self._purpose, "state": state}, scratch)
        os.replace(scratch, self._path)


class Resumable(Protocol):
    """A training run between two epochs."""

    epoch: int

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to train."""

    def run_epoch(self) -> float:
        """Train one epoch and return its mean loss over this worker's share."""

    def state(self) -> dict[str, Any]:
        """Return all that is needed to resume from here."""

    def load(self, state: dict[str, Any]) -> None:
        """Resume from the state of another run with the same data and options."""


def epochs_of(fitting: Resumable, checkpoint: Checkpoint | None) -> Iterator[tuple[int, float]]:
    """Train to the end and yield each epoch, from 1, and its mean loss.

    Args:
        fitting: The training.
        checkpoint: Where the state is saved after each epoch. Training resumes from it if it is of an equal training.
    """
    if checkpoint is not None and (state := checkpoint.load()) is not None:
        fitting.load(state)
    while not fitting.finished:
        loss = fitting.run_epoch()
        if checkpoint is not None:
            checkpoint.save(fitting.state())
        yield fitting.epoch, loss


def purpose_of(
    sequences: Sequence[LabelledSequence], validation: Sequence[LabelledSequence], *settings: dict[str, Any]
) -> str:
    """Return what identifies a training: its settings, and what it reads."""
    steps = [
        [len(each.label_ids), int(each.label_ids.sum()), each.draws, zlib.crc32(each.inputs[:1].tobytes())]
        + ([] if each.alternatives is None else [zlib.crc32(each.alternatives.tobytes())])
        for each in (*sequences, *validation)
    ]
    return repr((*settings, len(validation), steps))
