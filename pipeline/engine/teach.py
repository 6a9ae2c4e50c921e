"""Teach a lake's model: train it further on answers. Nothing is decoded."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from pipeline.activity.bundle import BACKGROUND, EMBEDDED_BUNDLES, Bundle, check_name, load_bundle
from pipeline.activity.model import ActivityModel
from pipeline.engine.relabel import check_readable
from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader, open_lake
from pipeline.training.annotations import Annotation, check_alternatives
from pipeline.training.card import model_card
from pipeline.training.dataset import LabelledVideo, load_videos
from pipeline.training.formats import read_annotations
from pipeline.training.splits import hold_out_some
from pipeline.training.teaching import (
    OnEpoch,
    TeachOptions,
    contradicted,
    count_said,
    grown,
    labels_with,
    remembered,
    taught,
    without,
)
from pipeline.training.validation import validate
from pipeline.training.videos import LakeVideos

log = logging.getLogger(__name__)

BEFORE, AFTER = "answers held out, before", "answers held out, after"
"""The two measurements: the model as it was, and one that was taught by the other answers."""


@dataclass(frozen=True)
class TeachResult:
    """A written bundle with its measurements."""

    bundle: Bundle
    folder: Path
    n_answers: int
    n_held_out: int
    """Answers that were measured on; 0 if there are too few videos to hold some out."""
    results: dict[str, dict[str, Any]]
    """`BEFORE` and `AFTER`, each as `validate` returns it; empty if nothing was held out."""


def teach(
    lake: str,
    answers: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    options: TeachOptions | None = None,
    replay: str | Path | None = None,
    replay_lake: str | None = None,
    on_epoch: OnEpoch = lambda *_: None,
) -> TeachResult:
    """Teach a model by answers and write it as a bundle.

    Training starts from the weights of the model that labelled the lake. To forget little, it does not only use the
    answers. It also uses what that model says with confidence about people without an answer, except for labels that
    the answers mostly contradict, and the old data, if they are named. To measure the effect, the answers of a fifth
    of the videos are held out, and a model is taught by the others. The model that is written is taught by all.

    Args:
        lake: The lake, with its features.
        answers: The correct labels: answers of `review`, or labels in any format that `read_annotations` reads.
        out: Folder of the bundle; its name is the model's.
        model: A bundle to start from. None: the one that labelled the lake, if it comes with the package.
        options: Options of the training. None: the defaults.
        replay: Labels of an earlier training, to learn from again.
        replay_lake: The lake of their videos.
        on_epoch: Called with the epoch, from 1, and its mean loss.

    Raises:
        UsageError: The answers are of another lake, the model's features are not in it, or an option can't be used.
    """
    torch.set_num_threads(1)  # For the same result on any number of cores. A small network gains nothing from more.
    options = options or TeachOptions()
    check_name(Path(out).name)
    reader = open_lake(lake)
    bundle = _base(reader, lake, model)
    if Path(out).name == bundle.name:
        raise UsageError(f"{out}: the model that training starts from has the same name; choose another name")
    check_readable(reader.store, bundle)
    videos, annotations = _located(reader, lake, answers)
    old_reader, old = None, list[Annotation]()
    if replay is not None:
        if replay_lake is None:
            raise UsageError("--replay needs --replay-lake, the lake with the features of those videos")
        old_reader = open_lake(replay_lake)
        old = _located(old_reader, replay_lake, replay)[1]
    labels = labels_with(bundle, [*annotations, *old])
    check_alternatives([*annotations, *old], labels)
    answered = load_videos(reader, videos, annotations, labels, bundle.scope, bundle.spec.inputs)
    if not any(video.sequences for video in answered):
        raise UsageError(
            f"{answers}: nobody was seen in this lake where its answers are; there is nothing to learn from"
        )
    _tell_unseen(answered, answers)
    replayed: list[LabelledVideo] = []
    if old_reader is not None:
        uris = {each.video: each.video for each in old}
        replayed = load_videos(old_reader, uris, old, labels, bundle.scope, bundle.spec.inputs)
    start = grown(bundle, len(labels))
    trained_with = bundle.training.get("options", {})

    before, said = remembered(reader, bundle, videos, annotations), count_said(bundle, answered)

    def learnt(part: list[LabelledVideo]) -> ActivityModel:
        # Held-out answers must not influence which labels count as contradicted, either.
        kept_labels = without(before, contradicted(said[name] for name in {video.video for video in part}))
        return taught(start, part, [*kept_labels, *replayed], trained_with, options, on_epoch)

    kept, held_out = hold_out_some(answered)
    results: dict[str, dict[str, Any]] = {}
    n_held_out = sum(len(video.items) for video in held_out)
    if any(video.sequences for video in kept) and n_held_out:
        for name, measured in ((BEFORE, start), (AFTER, learnt(kept))):
            figures = validate(measured, held_out, labels, bundle.sample_fps, bundle.segments)
            results[name] = figures | {"n_train": len(kept), "n_test": len(held_out)}
    taught_bundle = _written(
        bundle, learnt(answered), labels, Path(out), Path(answers).name, options, results, answered
    )
    return TeachResult(taught_bundle, Path(out), len(annotations), n_held_out if results else 0, results)


def _tell_unseen(answered: list[LabelledVideo], answers: str | Path) -> None:
    """Log how many answers are about people whom the lake does not know."""
    unseen = [item.annotation.where for video in answered if not video.sequences for item in video.items]
    if unseen:
        log.warning(
            "%s: %d answers are left out, for nobody was followed there: %s%s", answers, len(unseen),
            ", ".join(unseen[:3]), ", ..." if len(unseen) > 3 else "",
        )  # fmt: skip


def _base(reader: LakeReader, lake: str, model: str | Path | None) -> Bundle:
    if model is not None:
        return load_bundle(model)
    name = reader.model(None)
    if name not in EMBEDDED_BUNDLES:
        raise UsageError(f"{lake}: labelled by {name!r}, which is no bundled model; name its folder by --model")
    return load_bundle(name)


def _located(reader: LakeReader, lake: str, annotations: str | Path) -> tuple[dict[str, str], list[Annotation]]:
    located = LakeVideos(reader, lake).locate(read_annotations(annotations))
    return {each.video: each.video for each in located}, located


def _written(
    base: Bundle, model: ActivityModel, labels: tuple[str, ...], out: Path, answers: str, options: TeachOptions,
    results: dict[str, dict[str, Any]], answered: list[LabelledVideo],
) -> Bundle:  # fmt: skip
    """Write the bundle, with the base's origin in its card, and return it as read back."""
    n_items = sum(len(video.items) for video in answered if video.sequences)
    taught_by = f"Taught by {n_items} answers ({answers}), going on from {base.name}."
    bundle = replace(
        base,
        name=out.name,
        labels=labels,
        background=BACKGROUND if BACKGROUND in labels else base.background,
        spec=model.spec,
        weights=model.weights(),
        training=base.training
        | {
            "annotations": answers,
            "n_videos": len({item.annotation.video for video in answered for item in video.items}),
            "trained_on": "all answers",
            "options": base.training.get("options", {}) | asdict(options),
            "note": "\n\n".join(filter(None, (taught_by, base.training.get("note", "")))),
        },
        metrics={"splits": results, "means": {}},
    )
    bundle.save(out, model_card(bundle))
    return load_bundle(out)
