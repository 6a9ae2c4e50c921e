"""Train an activity model on labelled videos: features by the main job, then the LSTM."""

from __future__ import annotations

import os
import re
import shutil
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.activity.bundle import BACKGROUND, Bundle, check_name, load_bundle
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions
from pipeline.activity.spec import of_tracks_alone
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.engine.analyze import analyze, choose_engine
from pipeline.engine.interrupts import stopping_on_signals
from pipeline.engine.job import Observer
from pipeline.engine.local_fits import LocalFits
from pipeline.errors import UsageError
from pipeline.lake.store import Lake
from pipeline.training.annotations import (
    Annotation,
    apply_label_map,
    check_alternatives,
    read_label_map,
    read_meanings,
)
from pipeline.training.card import model_card
from pipeline.training.distributed import VideoSource
from pipeline.training.fit import FitOptions
from pipeline.training.formats import read_annotations
from pipeline.training.skeletons import read_skeletons
from pipeline.training.trainer import OnEpoch, Trained, Trainer
from pipeline.training.validation import means_of_splits
from pipeline.training.videos import VideoFolder


@dataclass(frozen=True)
class TrainResult:
    """A written bundle with its measurements."""

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
    skeletons: str | Path | None = None,
    events: Sequence[str] = (),
    least_score: float = 0.0,
    most_novel: float = 1.0,
    most_novel_event: float | None = None,
    keep_splits: bool = False,
    meanings: str | Path | None = None,
) -> TrainResult:
    """Train a model and write it as a bundle, with its metrics.

    For every column of splits, a model is trained on `train` and measured on `test` (else `val`). If there is one such
    column, that model is the bundle. If there is none, about a fifth of the groups of videos is held out instead. If
    there are several, the bundle is another model, trained on every clip. Scores are calibrated on `val`; else, with
    several columns, on what the models of the other columns were not trained on; else on a held-out fifth of the
    training part, with another model that was not trained on it. After an interruption,
    the same call continues from the last epoch.

    Args:
        annotations: A file or folder of labels in one of the `FORMATS` that `read_annotations` reads.
        videos: Folder of the annotated videos, local or remote.
        out: Folder of the bundle; its name is the model's.
        lake: Where features are kept for the next time. None: beside the bundle, `<out>-lake`.
        config: Options of the extraction.
        options: Options of the training.
        note: Where the data come from and under which licence, for the model card.
        label_map: CSV with columns `from` and `to`: other names for annotated labels; `to` may be `background`, the
            label that gives no segment, or empty to leave such spans out.
        annotation_format: The format of the labels. None: it is detected.
        trainers: Number of data-parallel workers that train each network. None: networks in parallel, a CPU each.
        address: A Ray cluster to join.
        observer: Called with the progress of the extraction.
        on_epoch: Called with the progress of the training.
        skeletons: People as skeletons in 3D, to learn from in addition to the videos, each seen from some viewpoint; a
            file that `read_skeletons` reads. The inputs must be `box` and `pose`, or one of them. `label_map` does not
            apply to their labels.
        events: Labels of what happens once, such as a fall: two segments of it close together are merged.
        least_score: A segment with a lower mean score is dropped.
        most_novel: A segment with a higher novelty is dropped.
        most_novel_event: The same for a segment of `events`. None: the same limit.
        keep_splits: Also write the model of each split as a bundle of its own in `<out>-splits`, to see what it says
            about videos that it has not seen.
        meanings: CSV with columns `label` and `meaning`, for the model card: what each label stands for, in words.

    Raises:
        UsageError: The annotations, a video or an option can't be used; the message names it.
    """
    config, options = replace(config or Config(), keep_features=True), options or FitOptions()
    if config.scope == "both":
        raise UsageError("scope = 'both': a model labels people or frames; train one for each")
    check_name(Path(out).name)
    mapping = read_label_map(label_map) if label_map is not None else {}
    uris, records = _located(annotations, videos, annotation_format, mapping)
    bodies = read_skeletons(skeletons) if skeletons is not None else None
    labels = sorted({record.label for record in records}.union(bodies.names if bodies else ()))
    check_alternatives(records, labels)
    if len(labels) < 2:
        raise UsageError(f"{annotations}: only one label, {labels[0]!r}; at least two are needed")
    words = read_meanings(meanings, labels) if meanings is not None else {}
    for name in {name for record in records for name in record.splits} if keep_splits else ():
        try:
            check_name(f"{Path(out).name}.{name}")
        except UsageError as error:
            raise UsageError(f"--keep-splits and the column {name!r}: {error}") from error
    most_novel_event = most_novel if most_novel_event is None else most_novel_event
    segments = _segment_options(labels, events, least_score, most_novel, most_novel_event)
    lake = lake or f"{str(out).rstrip('/')}-lake"
    inputs = config.embedded
    if (bodies or options.mirror) and not of_tracks_alone(inputs):
        raise UsageError(
            f"--skeletons and --mirror need inputs that follow from tracks alone, and these are {', '.join(inputs)}; "
            "name --scope person --inputs box,pose"
        )
    config = _as_in(lake, config)
    on_ray = trainers is not None or choose_engine("auto", address, config) == "ray"
    files = sorted(set(uris.values()))
    ids = frozenset(ref.video_id for ref in list_videos(files))
    source = VideoSource(lake, uris, records, labels, config.scope, inputs, bodies, ids)
    checkpoints = Path(f"{os.path.abspath(out)}-checkpoints")
    with stopping_on_signals(config.grace_s) as stop, ExitStack() as stack:
        if on_ray:
            from pipeline.engine.ray.resources import joined

            stack.enter_context(joined(address, config, stop))
        analyze(files, lake, None, config, address, observer)
        data = source.load()
        if not data:
            raise UsageError(f"{annotations}: no annotated span lies within its video; check start_s and end_s")
        trainer = _trainer(source, options, checkpoints, config, trainers, on_epoch, on_ray, stack)
        trained = trainer.train_and_measure(data, config.chosen_fps, str(annotations), segments)
    results = trained.results
    training = {
        "annotations": Path(annotations).name,
        "n_videos": sum(bool(video.items) for video in data),
        **({"n_skeletons": len(bodies.lengths)} if bodies else {}),
        "trained_on": "all clips" if len(results) > 1 else f"{next(iter(results))}, training part",
        "features": config.feature_options(),
        "options": asdict(options),
        "label_map": mapping,
        "meanings": words,
        "note": note,
    }
    metrics = {"splits": results, "means": _means(results)}
    bundle = _bundle(Path(out).name, labels, trained.model, config, segments, metrics, training)
    bundle.save(out, model_card(bundle))
    if keep_splits:
        _write_splits(bundle, trained, Path(f"{str(out).rstrip('/')}-splits"))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return TrainResult(load_bundle(out), Path(out), metrics)


def _located(
    annotations: str | Path, videos: str, annotation_format: str | None, mapping: dict[str, str]
) -> tuple[dict[str, str], list[Annotation]]:
    """Return the annotated videos with their URIs, and the annotations with mapped labels."""
    folder = VideoFolder(videos)
    records = folder.locate(apply_label_map(read_annotations(annotations, annotation_format), mapping))
    return {record.video: folder.uri(record.video) for record in records}, records


def _segment_options(
    labels: Sequence[str], events: Sequence[str], least_score: float, most_novel: float, most_novel_event: float
) -> SegmentOptions:
    """Return how scores become segments.

    Raises:
        UsageError: A limit is not between 0 and 1, or there is no such label.
    """
    limits = {"least_score": least_score, "most_novel": most_novel, "most_novel_event": most_novel_event}
    for name, limit in limits.items():
        if not 0 <= limit <= 1:
            raise UsageError(f"{name} = {limit}: scores and novelties lie between 0 and 1")
    if BACKGROUND in events:
        raise UsageError(f"--events {BACKGROUND}: it gives no segment")
    if unknown := sorted(set(events) - set(labels)):
        raise UsageError(f"--events {','.join(unknown)}: no such label; there are {', '.join(labels)}")
    return SegmentOptions(
        threshold=least_score,
        most_novel=most_novel,
        most_novel_event=most_novel_event,
        events=tuple(labels.index(event) for event in events),
    )


def _write_splits(bundle: Bundle, trained: Trained, folder: Path) -> None:
    """Write the model of each split as a bundle of its own. Those of an earlier training are removed."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, model in trained.of_splits.items():
        result = trained.results[name]
        of_split = replace(
            bundle,
            name=f"{bundle.name}.{name}",
            spec=model.spec,
            weights=model.weights(),
            training=bundle.training | {"trained_on": f"{name}, training part", "n_videos": result["n_train"]},
            metrics={"splits": {name: result}, "means": {}},
        )
        of_split.save(folder / name, model_card(of_split))


def _bundle(
    name: str, labels: Sequence[str], model: ActivityModel, config: Config, segments: SegmentOptions,
    metrics: dict[str, Any], training: dict[str, Any],
) -> Bundle:  # fmt: skip
    """Return a trained model with everything that is needed to use it."""
    return Bundle(
        name=name,
        labels=tuple(labels),
        scope=config.scope,
        embedder=config.chosen_embedder,
        sample_fps=config.chosen_fps,
        spec=model.spec,
        weights=model.weights(),
        background=BACKGROUND if BACKGROUND in labels else None,
        classes=config.classes,
        segments=segments,
        training=training,
        metrics=metrics,
    )


def _trainer(
    source: VideoSource, options: FitOptions, checkpoints: Path, config: Config, trainers: int | None,
    on_epoch: OnEpoch | None, on_ray: bool, stack: ExitStack,
) -> Trainer:  # fmt: skip
    """Return the trainer: data-parallel workers of the cluster, parallel tasks of it, or processes of this machine."""
    tell = on_epoch or (lambda *_: None)
    if not on_ray:
        n_workers = config.workers or os.cpu_count() or 1
        fits = stack.enter_context(closing(LocalFits(source, n_workers, tell)))
        return Trainer(source, options, checkpoints, fits)
    from pipeline.engine.ray.fits import RayFits
    from pipeline.engine.ray.resources import cluster_has_gpus

    use_gpu = cluster_has_gpus(trainers or 1)
    if trainers:
        return Trainer(source, options, checkpoints, None, trainers, use_gpu)
    return Trainer(source, options, checkpoints, RayFits(source, use_gpu, tell))


def _as_in(lake: str, config: Config) -> Config:
    """Return options that allow a lake with more inputs than needed to be used as it is."""
    if Lake(lake).exists():
        there = tuple(Lake(lake).features_made_with().get("inputs", ()))
        if set(config.embedded) < set(there):
            return replace(config, inputs=there)
    return config


def _means(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Average over splits of one kind, whose names differ only in their digits; without such kinds, over all splits."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, result in results.items():
        kinds[re.sub(r"\d+", "", name)].append(result)
    several = {kind: of_kind for kind, of_kind in kinds.items() if len(of_kind) > 1}
    if not several and len(results) > 1:
        several = {"all splits": list(results.values())}
    return {kind: means_of_splits(of_kind) for kind, of_kind in several.items()}
