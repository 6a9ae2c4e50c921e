"""Networks that are trained in parallel, each in one process: members, splits, calibration."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from pipeline.activity.spec import ModelSpec
from pipeline.training.dataset import LabelledVideo
from pipeline.training.distributed import VideoSource
from pipeline.training.fit import FitOptions, Fitting, spec_of

Epoch = tuple[str, int, float]
"""Name of a fit, number of the epoch from 1, mean loss."""
Fitted = tuple[ModelSpec, dict[str, torch.Tensor]]
"""The spec of a network, and its weights."""


@dataclass(frozen=True)
class Fit:
    """One network that is to be trained."""

    training: tuple[str, ...]
    """Names of the videos to learn from."""
    validation: tuple[str, ...]
    """Names of the videos for early stopping."""
    options: FitOptions
    """Options of one member."""
    checkpoint: Path
    """File to save the state in after each epoch. On a machine that does not share it, a fit starts again."""
    name: str
    """Its name in reports about its epochs."""


class Fits(Protocol):
    """Trains networks in parallel and reports their epochs. A network whose process dies resumes in another."""

    def begin(self, fit: Fit) -> Any:
        """Begin a fit, and return a handle for it."""

    def wait_for(self, begun: Sequence[Any]) -> list[Fitted]:
        """Return the results of some fits, in order, once all are finished."""


def run_fit(source: VideoSource, fit: Fit) -> Iterator[Epoch | Fitted]:
    """Train a network in this process: yield its epochs, and finally the result."""
    # One thread: small networks in parallel use the cores better, and the result is the same on any number of cores.
    torch.set_num_threads(1)
    videos = {video.video: video for video in _loaded(source)}
    training, validation = (
        [sequence for name in part for sequence in videos[name].sequences] for part in (fit.training, fit.validation)
    )
    spec = spec_of(training, source.inputs, len(source.labels), fit.options)
    fitting = Fitting(training, validation, spec, fit.options)
    for epoch, loss in fitting.epochs(fit.checkpoint):
        yield fit.name, epoch, loss
    yield spec, fitting.result().state_dict()


@functools.lru_cache(maxsize=1)
def _loaded(source: VideoSource) -> list[LabelledVideo]:
    """Return the videos. They are cached, because a worker gets many fits of the same source."""
    return source.load()
