"""Train an activity model on labelled videos: features by the main job, then the LSTM."""

from __future__ import annotations

import logging
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from pipeline.activity.bundle import BACKGROUND, Bundle, load_bundle
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions
from pipeline.config import Config
from pipeline.engine.analyze import Observer, analyze
from pipeline.errors import UsageError
from pipeline.lake.query import open_lake
from pipeline.lake.store import Lake
from pipeline.training.annotations import apply_label_map, read_label_map
from pipeline.training.card import model_card
from pipeline.training.dataset import LabelledVideo, load_videos
from pipeline.training.fit import FitOptions, fit
from pipeline.training.formats import read_annotations
from pipeline.training.validation import FIGURES, validate
from pipeline.training.videos import VideoFolder

log = logging.getLogger(__name__)

OnEpoch = Callable[[str, int, float], None]
"""Called with the name of the split, the epoch and its loss."""
# Without splits, every fifth video, by its name, is held out to measure on.
_HELD_OUT = "held-out"


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
    address: str | None = None,
    observer: Observer | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainResult:
    """Train a model and write it as a bundle, with its metrics.

    For every column of splits a model is trained on `train` and measured on `test` (else `val`). With one such
    column, or none (then every fifth video is held out), that model is the bundle; with several, the bundle is trained
    on every clip once the splits are measured.

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
    data = load_videos(open_lake(lake), uris, records, labels, config.scope, inputs)
    if not data:
        raise UsageError(f"{annotations}: no annotated span lies within its video; check start_s and end_s")
    split_names = sorted({name for record in records for name in record.splits}) or [_HELD_OUT]
    results: dict[str, Any] = {}
    segments = SegmentOptions()
    model: ActivityModel | None = None
    for name in split_names:
        training, testing = divide(data, name)
        if not training or not testing:
            raise UsageError(
                f"{annotations}: {name} has {len(training)} videos to train on and {len(testing)} to test on"
            )
        model = _fit(training, inputs, len(labels), options, name, on_epoch)
        measured = validate(model, testing, labels, config.sample_fps, segments)
        results[name] = measured | {"n_train": len(training), "n_test": len(testing)}
        log.info("%s: accuracy %.3f on %d spans", name, results[name]["accuracy"], results[name]["n_spans"])
    if len(split_names) > 1:
        model = _fit(data, inputs, len(labels), options, "all", on_epoch)
    assert model is not None
    metrics = {"splits": results, "means": _means(results)}
    bundle = Bundle(
        name=Path(out).name,
        labels=tuple(labels),
        scope=config.scope,
        embedder=config.embedder,
        sample_fps=config.sample_fps,
        model=model,
        background=BACKGROUND if BACKGROUND in labels else None,
        classes=config.classes,
        segments=segments,
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


def _fit(
    videos: Sequence[LabelledVideo],
    inputs: Sequence[str],
    n_labels: int,
    options: FitOptions,
    name: str,
    on_epoch: OnEpoch | None,
) -> ActivityModel:
    sequences = [sequence for video in videos for sequence in video.sequences]
    if not sequences:
        raise UsageError(
            f"{name}: nobody was found in the videos to train on; try another --detector, or --scope frame"
        )
    notify = (lambda epoch, loss: on_epoch(name, epoch, loss)) if on_epoch else None
    model = fit(sequences, inputs, n_labels, options, notify)
    # A bundle holds float16 weights: what is measured is what is shipped.
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(weights.half().float())
    return model


def divide(data: Sequence[LabelledVideo], name: str) -> tuple[list[LabelledVideo], list[LabelledVideo]]:
    """Return the videos to train on and those to measure on; a video is never in both."""
    if name == _HELD_OUT:
        held_out = [zlib.crc32(video.video.encode()) % 5 == 0 for video in data]
        return (
            [video for video, held in zip(data, held_out, strict=True) if not held],
            [video for video, held in zip(data, held_out, strict=True) if held],
        )
    parts: dict[str, list[LabelledVideo]] = {"train": [], "val": [], "test": []}
    for video in data:
        values = {item.annotation.splits.get(name, "") for item in video.items} - {""}
        if len(values) > 1:
            raise UsageError(
                f"{video.video}: {name} is both {' and '.join(sorted(values))}; a video belongs to one part"
            )
        if values:
            parts[values.pop()].append(video)
    return parts["train"], parts["test"] or parts["val"]
