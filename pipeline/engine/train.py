"""Train an activity model on labelled videos: features by the main job, then the LSTM."""

from __future__ import annotations

import logging
import re
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import geometric_mean, mean
from typing import Any

import torch

from pipeline.activity.bundle import BACKGROUND, Bundle, load_bundle
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions
from pipeline.config import Config
from pipeline.engine.analyze import Observer, analyze
from pipeline.engine.resources import cluster_has_gpus, joined
from pipeline.errors import UsageError
from pipeline.lake.store import Lake
from pipeline.training.annotations import apply_label_map, read_label_map
from pipeline.training.calibration import fit_temperature, with_temperature
from pipeline.training.card import model_card
from pipeline.training.dataset import LabelledVideo
from pipeline.training.distributed import VideoSource, fit_on_cluster
from pipeline.training.fit import FitOptions, fit
from pipeline.training.formats import read_annotations
from pipeline.training.splits import HELD_OUT, Parts, divide, hold_out
from pipeline.training.validation import FIGURES, validate
from pipeline.training.videos import VideoFolder

log = logging.getLogger(__name__)

OnEpoch = Callable[[str, int, float], None]
"""Called with the name of the split, the epoch and its loss."""


@dataclass(frozen=True)
class TrainResult:
    """A written bundle with what was measured on the way."""

    bundle: Bundle
    folder: Path
    metrics: dict[str, Any]


def train(
    annotations: str | Path,
    videos: str,
    out: str | Path,
    lake: str | None = None,
    config: Config | None = None,
    options: FitOptions | None = None,
    note: str = "",
    label_map: str | Path | None = None,
    annotation_format: str | None = None,
    trainers: int | None = None,
    address: str | None = None,
    observer: Observer | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainResult:
    """Train a model and write it as a bundle, with its metrics.

    For every column of splits a model is trained on `train` and measured on `test` (else `val`). With one such
    column, or none (then every fifth group of videos is held out), that model is the bundle; with several, the bundle
    is trained on every clip once the splits are measured. Its scores are calibrated on `val`, else on a fifth of the
    training part that another model was not trained on. Interrupted, the same call goes on from the last epoch.

    Args:
        annotations: A file or folder of labels in one of the `FORMATS` that `read_annotations` reads.
        videos: Folder in which the annotated videos lie, local or remote.
        out: Folder of the bundle; its name is the model's.
        lake: Where features are kept for the next time. None: beside the bundle, `<out>-lake`.
        config: Options of the extraction.
        options: Options of the training.
        note: Where the data come from and under which licence, for the model card.
        label_map: CSV with columns `from` and `to`: other names for annotated labels; `to` may be `background`, the
            label that gives no segment, or empty to leave such spans out.
        annotation_format: The format of the labels. None: what they look like.
        trainers: Train by so many data-parallel workers of the cluster. None: in this process.
        address: A Ray cluster to join.
        observer: Told of the progress of the extraction.
        on_epoch: Told of the progress of the training.

    Raises:
        UsageError: The annotations, a video or an option can't be used; the message names it.
    """
    config, options = replace(config or Config(), keep_features=True), options or FitOptions()
    if config.scope == "both":
        raise UsageError("scope = 'both': a model labels people or frames; train one for each")
    mapping = read_label_map(label_map) if label_map is not None else {}
    folder = VideoFolder(videos)
    records = folder.locate(apply_label_map(read_annotations(annotations, annotation_format), mapping))
    uris = {record.video: folder.uri(record.video) for record in records}
    labels = sorted({record.label for record in records})
    if len(labels) < 2:
        raise UsageError(f"{annotations}: only one label, {labels[0]!r}; two at least are needed to tell apart")
    lake = lake or f"{str(out).rstrip('/')}-lake"
    inputs = config.embedded
    config = _as_in(lake, config)
    analyze(sorted(set(uris.values())), lake, None, config, address, observer)
    source = VideoSource(lake, uris, records, labels, config.scope, inputs)
    data = source.load()
    if not data:
        raise UsageError(f"{annotations}: no annotated span lies within its video; check start_s and end_s")
    checkpoints = Path(f"{str(out).rstrip('/')}-checkpoints")
    with joined(address, config) if trainers else nullcontext():
        trainer = _Trainer(source, config.sample_fps, options, checkpoints, trainers, on_epoch)
        model, results = trainer.train_and_measure(data, str(annotations))
    metrics = {"splits": results, "means": _means(results)}
    split_names = list(results)
    bundle = Bundle(
        name=Path(out).name,
        labels=tuple(labels),
        scope=config.scope,
        embedder=config.embedder,
        sample_fps=config.sample_fps,
        model=model,
        background=BACKGROUND if BACKGROUND in labels else None,
        classes=config.classes,
        segments=SegmentOptions(),
        training={
            "annotations": Path(annotations).name,
            "n_videos": len(data),
            "trained_on": "all clips" if len(split_names) > 1 else f"{split_names[0]}, training part",
            "features": config.feature_options(),
            "options": asdict(options),
            "label_map": mapping,
            "note": note,
        },
        metrics=metrics,
    )
    bundle.save(out, model_card(bundle))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return TrainResult(load_bundle(out), Path(out), metrics)


def _as_in(lake: str, config: Config) -> Config:
    """Let a lake that holds more inputs than are wanted be used as it is."""
    if Lake(lake).exists():
        there = tuple(Lake(lake).features_made_with().get("inputs", ()))
        if set(config.embedded) < set(there):
            return replace(config, inputs=there)
    return config


def _means(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Average over splits of one kind: those whose names differ in their digits alone."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, result in results.items():
        kinds[re.sub(r"\d+", "", name)].append(result)
    return {
        kind: {figure: mean(result[figure] for result in of_kind) for figure in FIGURES}
        for kind, of_kind in kinds.items()
    }


class _Trainer:
    """Trains models on parts of the data, in this process or by several workers, and measures them on others."""

    def __init__(
        self,
        source: VideoSource,
        sample_fps: float,
        options: FitOptions,
        checkpoints: Path,
        n_workers: int | None,
        on_epoch: OnEpoch | None,
    ) -> None:
        self._source, self._sample_fps, self._options = source, sample_fps, options
        self._checkpoints, self._n_workers, self._on_epoch = checkpoints, n_workers, on_epoch

    def train_and_measure(
        self, data: Sequence[LabelledVideo], annotations: str
    ) -> tuple[ActivityModel, dict[str, dict[str, Any]]]:
        """Return the model to ship, and what was measured for each split."""
        records = [item.annotation for video in data for item in video.items]
        split_names = sorted({name for record in records for name in record.splits}) or [HELD_OUT]
        results: dict[str, dict[str, Any]] = {}
        temperatures = []
        model: ActivityModel | None = None
        for name in split_names:
            parts = divide(data, name)
            if not parts.train or not parts.test:
                raise UsageError(
                    f"{annotations}: {name} has {len(parts.train)} videos to train on and {len(parts.test)} to test on"
                )
            model = self._calibrated(parts, name)
            temperatures.append(model.spec.temperature)
            measured = validate(model, parts.test, self._source.labels, self._sample_fps, SegmentOptions())
            results[name] = measured | {"n_train": len(parts.train), "n_test": len(parts.test)}
            log.info("%s: accuracy %.3f on %d spans", name, measured["accuracy"], measured["n_spans"])
        if len(split_names) > 1:
            # Nothing is left to calibrate on: the splits' temperatures stand in, by their geometric mean.
            model = with_temperature(self._fit(data, (), "all"), geometric_mean(temperatures))
        assert model is not None
        return model, results

    def _calibrated(self, parts: Parts, name: str) -> ActivityModel:
        """Train on a split's training part, and find the temperature on videos of it that were held out for that."""
        if parts.val:
            model = self._fit(parts.train, parts.val, name)
            return with_temperature(model, fit_temperature(model, parts.val))
        kept, held_out = hold_out(parts.train)
        if not kept or not held_out:
            return self._fit(parts.train, (), name)
        tried = self._fit(kept, held_out, f"{name}, calibration")
        temperature = fit_temperature(tried, held_out)
        # A model that stopped early needs what was held out to stop by; else it learns from that, too.
        model = tried if self._options.patience is not None else self._fit(parts.train, (), name)
        return with_temperature(model, temperature)

    def _fit(self, training: Sequence[LabelledVideo], validation: Sequence[LabelledVideo], name: str) -> ActivityModel:
        sequences = [sequence for video in training for sequence in video.sequences]
        if not sequences:
            raise UsageError(
                f"{name}: nobody was found in the videos to train on; try another --detector, or --scope frame"
            )
        if self._n_workers:
            model = fit_on_cluster(
                self._source,
                [video.video for video in training],
                [video.video for video in validation],
                self._options,
                self._n_workers,
                self._checkpoints,
                use_gpu=cluster_has_gpus(self._n_workers),
            )
        else:
            notify, on_epoch = None, self._on_epoch
            if on_epoch is not None:
                notify = lambda epoch, loss: on_epoch(name, epoch, loss)  # noqa: E731
            held_out = [sequence for video in validation for sequence in video.sequences]
            model = fit(
                sequences,
                self._source.inputs,
                len(self._source.labels),
                self._options,
                notify,
                held_out,
                self._checkpoints / name,
            )
        # A bundle holds float16 weights: what is measured is what is shipped.
        with torch.no_grad():
            for weights in model.parameters():
                weights.copy_(weights.half().float())
        return model
