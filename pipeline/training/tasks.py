"""Networks that are trained side by side on a Ray cluster, one task each: members, splits, calibration."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from pipeline.activity.model import Member
from pipeline.activity.spec import ModelSpec
from pipeline.training.dataset import LabelledVideo
from pipeline.training.distributed import VideoSource
from pipeline.training.fit import FitOptions, fit_member, spec_of

# A worker that dies is started again, and goes on from the last epoch; so often.
_MAX_RETRIES = 3
# So many small networks share a GPU.
_PER_GPU = 4


@ray.remote(num_cpus=0)
class Epochs:
    """Keeps what tasks tell of their epochs until somebody asks."""

    def __init__(self) -> None:
        self._told: list[tuple[str, int, float]] = []

    def tell(self, name: str, epoch: int, loss: float) -> None:
        """Note an epoch of a fit."""
        self._told.append((name, epoch, loss))

    def take(self) -> list[tuple[str, int, float]]:
        """Return what was told since the last time."""
        told, self._told = self._told, []
        return told


def submit_fit(
    source: Any,
    training: Sequence[str],
    validation: Sequence[str],
    options: FitOptions,
    checkpoint: Path,
    name: str,
    epochs: Any,
    use_gpu: bool,
) -> Any:
    """Start to train one member on the cluster that is joined; return a reference to it.

    Args:
        source: A reference to a `VideoSource`.
        training: Names of the videos to learn from.
        validation: Names of those to stop early by.
        options: Of one member.
        checkpoint: File to save the state in after each epoch; on a node that does not share it, it starts anew.
        name: What to call the fit in `epochs`.
        epochs: The actor to tell of epochs.
        use_gpu: Whether it gets a part of a GPU.
    """
    task = ray.remote(num_cpus=1, num_gpus=1 / _PER_GPU if use_gpu else 0, max_retries=_MAX_RETRIES)(_fit)
    return task.remote(source, tuple(training), tuple(validation), options, checkpoint, name, epochs)


def gather(pending: Sequence[Any], epochs: Any, on_epoch: Callable[[str, int, float], None] | None) -> None:
    """Wait until all references are there, and pass on what is told meanwhile."""
    waiting = list(pending)
    while waiting:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=1.0)
        for name, epoch, loss in ray.get(epochs.take.remote()):
            if on_epoch is not None:
                on_epoch(name, epoch, loss)


def _fit(
    source: VideoSource,
    training: Sequence[str],
    validation: Sequence[str],
    options: FitOptions,
    checkpoint: Path,
    name: str,
    epochs: Any,
) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    # One thread: side by side small networks use the cores better, and the result is the same on any number of them.
    torch.set_num_threads(1)
    videos = {video.video: video for video in _loaded(source)}
    parts = [[sequence for video in part for sequence in videos[video].sequences] for part in (training, validation)]
    spec = spec_of(parts[0], source.inputs, len(source.labels), options)
    member: Member = fit_member(
        parts[0], parts[1], spec, options, lambda epoch, loss: epochs.tell.remote(name, epoch, loss), checkpoint
    )
    return spec, member.state_dict()


@functools.lru_cache(maxsize=1)
def _loaded(source: VideoSource) -> list[LabelledVideo]:
    """Return the videos; a worker is given many fits of the same."""
    return source.load()
