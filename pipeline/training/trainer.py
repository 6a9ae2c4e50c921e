"""Train models on parts of the data, in parallel, and measure them on others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from pipeline.activity.model import ActivityModel, Member
from pipeline.activity.segments import SegmentOptions
from pipeline.errors import UsageError
from pipeline.training.calibration import (
    answers,
    fit_temperature,
    temperature_by_others,
    with_energies,
    with_temperature,
)
from pipeline.training.dataset import LabelledVideo
from pipeline.training.distributed import VideoSource, fit_on_cluster
from pipeline.training.fit import FitOptions, options_of_members
from pipeline.training.fits import Fit, Fits, Fitted
from pipeline.training.splits import HELD_OUT, Parts, divide, hold_out
from pipeline.training.validation import validate

log = logging.getLogger(__name__)

OnEpoch = Callable[[str, int, float], None]
"""Called with the name of the fit, the epoch and its loss."""
Begun = Callable[[], ActivityModel]
"""A model whose training has begun. A call waits until it is trained, and returns it."""


OTHER_SPLITS, ITS_VAL, HELD_OUT_OF_IT = (
    "what other splits measure on",
    "its part `val`",
    "a part of what it was to be trained on, held out",
)
"""What scores are calibrated on."""


class Trained(NamedTuple):
    """Trained models with results."""

    model: ActivityModel
    """The model to ship."""
    of_splits: dict[str, ActivityModel]
    """For each split, the model that has not seen its test videos."""
    results: dict[str, dict[str, Any]]
    """The measurements of each split."""


class Trainer:
    """Trains and measures a model for each split, and trains the one to ship."""

    def __init__(
        self,
        source: VideoSource,
        options: FitOptions,
        checkpoints: Path,
        fits: Fits | None,
        n_workers: int = 1,
        use_gpu: bool = False,
    ) -> None:
        """Take what all fits share.

        Args:
            source: The labelled videos.
            options: Sizes, regularisation and the seed.
            checkpoints: Folder of the checkpoints from which an interrupted run resumes.
            fits: Trains networks in parallel, each in one process. None: one after the other, each by many workers of
                the Ray cluster that is joined.
            n_workers: Number of these workers.
            use_gpu: Whether each worker holds a GPU.
        """
        self._source, self._options, self._checkpoints = source, options, checkpoints
        self._fits, self._n_workers, self._use_gpu = fits, n_workers, use_gpu

    def train_and_measure(
        self, data: Sequence[LabelledVideo], sample_fps: float, annotations: str, segments: SegmentOptions
    ) -> Trained:
        """Return the model to ship, the model of each split, and its measurements.

        Args:
            data: The videos that the source loads.
            sample_fps: Steps per second.
            annotations: The name of the labels in messages.
            segments: How scores become segments.
        """
        records = [item.annotation for video in data for item in video.items]
        splits = {
            name: divide(data, name) for name in sorted({n for each in records for n in each.splits}) or [HELD_OUT]
        }
        for name, parts in splits.items():
            if not parts.train or not parts.test:
                raise UsageError(
                    f"{annotations}: {name} has {len(parts.train)} videos to train on and {len(parts.test)} to test on"
                )
        by_others = {name for name in splits if self._calibrated_by_others(name, splits)}
        # All are begun at once, so that no core waits at the end of a split. Results are collected in the same order.
        begun = {
            name: self._begin(parts.train, (), name) if name in by_others else self._begin_calibrated(parts, name)
            for name, parts in splits.items()
        }
        whole = self._begin(data, (), "all") if len(splits) > 1 else None
        models = {name: finish() for name, finish in begun.items()}
        said = {name: answers(model, splits[name].test) for name, model in models.items()} if whole else {}
        results: dict[str, dict[str, Any]] = {}
        for name, parts in splits.items():
            if name in by_others:
                models[name] = with_temperature(models[name], temperature_by_others(name, said))
            measured = validate(models[name], parts.test, self._source.labels, sample_fps, segments)
            results[name] = measured | {
                "n_train": sum(bool(video.items) for video in parts.train),
                "n_test": len(parts.test),
                "calibrated_on": OTHER_SPLITS if name in by_others else HELD_OUT_OF_IT if not parts.val else ITS_VAL,
            }
            log.info("%s: accuracy %.3f on %d spans", name, measured["accuracy"], measured["n_spans"])
        if whole is None:
            return Trained(next(iter(models.values())), models, results)
        shipped = with_temperature(whole(), fit_temperature(list(said.values())))
        return Trained(shipped, models, results)

    def _calibrated_by_others(self, name: str, splits: Mapping[str, Parts]) -> bool:
        """Whether a split's model is calibrated on the test videos of other splits.

        It is not if the split has a part `val`, if early stopping is used, or if the others have the same test videos.
        """
        if splits[name].val or self._options.patience is not None:
            return False
        measured = {video.video for video in splits[name].test}
        return any(video.video not in measured for other in splits.values() for video in other.test)

    def _begin_calibrated(self, parts: Parts, name: str) -> Begun:
        """Begin to train on a split's training part. The temperature is fitted on `val`, or on a held-out part."""
        if parts.val:
            return _calibrated(self._begin(parts.train, parts.val, name), None, parts.val)
        kept, held_out = hold_out(parts.train)
        if not kept or not held_out:
            return self._begin(parts.train, (), name)
        if self._options.patience is not None:
            # Early stopping needs the held-out part as well.
            return _calibrated(self._begin(kept, held_out, name), None, held_out)
        # With as many networks as in use: the mean of four is right more often than one, and may be more confident.
        tried = self._begin(kept, (), f"{name}, calibration")
        return _calibrated(self._begin(parts.train, (), name), tried, held_out)

    def _begin(
        self,
        training: Sequence[LabelledVideo],
        validation: Sequence[LabelledVideo],
        name: str,
    ) -> Begun:
        """Begin to train a model."""
        if not any(video.sequences for video in training):
            raise UsageError(
                f"{name}: nobody was found in the videos to train on; try another --detector, or --scope frame"
            )
        to_train, to_validate = (tuple(video.video for video in part) for part in (training, validation))
        fits = self._fits
        if fits is None:
            cluster = (self._options, self._n_workers, self._checkpoints, self._use_gpu)
            return lambda: with_energies(
                _as_shipped(fit_on_cluster(self._source, to_train, to_validate, *cluster)),
                training,
                self._options.max_steps,
            )
        members = options_of_members(self._options)
        begun = [
            fits.begin(
                Fit(
                    to_train,
                    to_validate,
                    of_member,
                    self._checkpoints / f"{name}-{number}.pt",
                    name if len(members) == 1 else f"{name}, network {number + 1}",
                )
            )
            for number, of_member in enumerate(members)
        ]
        return lambda: with_energies(_of_members(fits.wait_for(begun)), training, self._options.max_steps)


def _of_members(fitted: Sequence[Fitted]) -> ActivityModel:
    members = []
    for spec, weights in fitted:
        member = Member(spec)
        member.load_state_dict(weights)
        members.append(member)
    return _as_shipped(ActivityModel.of(members))


def _calibrated(model: Begun, tried: Begun | None, held_out: Sequence[LabelledVideo]) -> Begun:
    """Return a model with a temperature fitted on held-out videos, by itself or by a model that has not seen them."""

    def finish() -> ActivityModel:
        finished = model()
        return with_temperature(finished, fit_temperature([answers(tried() if tried else finished, held_out)]))

    return finish


def _as_shipped(model: ActivityModel) -> ActivityModel:
    """Round the weights as a bundle does, so that the shipped model is the one that is measured."""
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(weights.half().float())
    return model
