"""Teach a trained model by corrections: it goes on from its weights, and keeps saying what nobody has corrected."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.activity.model import ActivityModel, Member
from pipeline.lake.query import LakeReader
from pipeline.lake.sequences import StepSequence
from pipeline.training.annotations import Annotation
from pipeline.training.calibration import with_energies
from pipeline.training.dataset import Item, LabelledVideo, main_tracks, step_at, who
from pipeline.training.fit import FitOptions, Fitting, draw_options
from pipeline.training.sequences import IGNORE, LabelledSequence, count_batches

OnEpoch = Callable[[int, float], None]

# What the model says as surely as this, where nobody has corrected it, it is to go on saying.
_SURE = 0.7
# Of so many sequences at most: what a model knows shows in fewer.
_MOST_REMEMBERED = 2000
_REMEMBERED_STEPS = 1024
# No answer is drawn more often in an epoch, however few there are.
_MOST_DRAWS = 50


@dataclass(frozen=True)
class TeachOptions:
    """How a model goes on learning."""

    epochs: int = 15
    learning_rate: float = 1e-3
    """Less than that of a training from the start, so that what was learnt is not lost; a new label needs so much."""
    batch_size: int = 16
    """Smaller than in a training from the start, since there is less to learn from."""
    least_batches: int = 8
    """An epoch has so many at least: it repeats what it has, if that is less."""
    answers_share: float = 0.5
    """Share of the sequences of an epoch that hold answers; the others hold what the model said before."""
    seed: int = 0


def labels_with(bundle: Bundle, annotations: Sequence[Annotation]) -> tuple[str, ...]:
    """Return the labels of a model, and behind them those that only the annotations have."""
    new = sorted({annotation.label for annotation in annotations} - set(bundle.labels))
    return (*bundle.labels, *new)


def grown(bundle: Bundle, n_labels: int) -> ActivityModel:
    """Return a model with further outputs, which say nothing yet: each is below the mean of the others."""
    n_new = n_labels - len(bundle.labels)
    spec = replace(bundle.spec, n_labels=n_labels)
    model = ActivityModel(spec)
    weights = {name: torch.from_numpy(values.copy()).float() for name, values in bundle.weights.items()}
    for name, shape in ((name, tensor.shape) for name, tensor in model.state_dict().items()):
        old = weights[name]
        if old.shape != shape:
            # The output layer: a row, and a bias, for each label.
            new = old.mean(dim=0, keepdim=True).expand(n_new, *old.shape[1:]) - (1.0 if old.dim() == 1 else 0.0)
            weights[name] = torch.cat([old, new])
    model.load_state_dict(weights)
    return model.eval()


def count_said(bundle: Bundle, answered: Sequence[LabelledVideo]) -> dict[str, NDArray[np.int64]]:
    """Return how often a model gives each label where answers are, and how often they say the same.

    Returns:
        For each video by its name the steps, `int64 [2, n_labels]`: all to which the model gives a label, then those
        of them that are answered with it.
    """
    classifier = bundle.classifier()
    counts: dict[str, NDArray[np.int64]] = {}
    for video in answered:
        said, right = counts.setdefault(video.video, np.zeros((2, len(bundle.labels)), np.int64))
        for sequence in video.sequences:
            given = np.concatenate(list(classifier.scores([sequence.inputs]))).argmax(axis=1)
            known = sequence.label_ids != IGNORE
            np.add.at(said, given[known], 1)
            np.add.at(right, given[known & (given == sequence.label_ids)], 1)
    return counts


def contradicted(counts: Iterable[NDArray[np.int64]]) -> set[int]:
    """Return the label ids of a model that answers mostly contradict, by the counts of some videos."""
    said, right = np.sum(list(counts), axis=0)
    return set(np.flatnonzero((said > 0) & (right < said / 2)).tolist())


def without(videos: Sequence[LabelledVideo], label_ids: Collection[int]) -> list[LabelledVideo]:
    """Return videos without annotated spans, some of whose labels are taken back; who has no others is left out."""
    found = []
    for video in videos:
        ids = [np.where(np.isin(each.label_ids, list(label_ids)), IGNORE, each.label_ids) for each in video.sequences]
        kept = [
            replace(each, label_ids=of_each)
            for each, of_each in zip(video.sequences, ids, strict=True)
            if (of_each != IGNORE).any()
        ]
        if kept:
            found.append(replace(video, sequences=tuple(kept)))
    return found


def remembered(
    lake: LakeReader, bundle: Bundle, uris: Mapping[str, str], annotations: Sequence[Annotation]
) -> list[LabelledVideo]:
    """Return what a model surely says of a lake where nobody has answered, as labelled videos without annotated spans.

    Args:
        lake: The lake, with the features that the model reads.
        bundle: The model.
        uris: For each video, as annotated, the URI that the lake knows it by.
        annotations: The answers; whom they are about is left out.
    """
    rate = float(lake.feature_options["sample_fps"])
    answered: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        answered[uris[annotation.video]].append(annotation)
    uri_of = {row["video_id"]: row["uri"] for row in lake.table("videos", ["video_id", "uri"]).to_pylist()}
    classifier = bundle.classifier()
    found: list[LabelledVideo] = []
    n_left = _MOST_REMEMBERED
    for video_id, rows, track_ids in lake.videos(uri_of):
        if n_left <= 0:
            break
        by_person = bundle.scope == "person"
        sequences = list(rows.track_sequences(track_ids) if by_person else rows.frame_sequences())
        known = _answered(answered.get(uri_of[video_id], ()), sequences, rate, by_person)
        kept = []
        for sequence in sequences[:n_left]:
            if any(sequence is each for each in known):
                continue
            inputs = _beginning(rows.inputs(sequence, bundle.spec.inputs))
            scores = np.concatenate(list(classifier.scores([inputs])))
            label_ids = scores.argmax(axis=1).astype(np.int64)
            label_ids[scores.max(axis=1) < _SURE] = IGNORE
            if (label_ids != IGNORE).any():
                kept.append(LabelledSequence(inputs, label_ids, sequence.first_step))
        n_left -= len(kept)
        if kept:
            found.append(LabelledVideo(f"{uri_of[video_id]} (as before)", tuple(kept), ()))
    return found


def _beginning(blocks: Iterable[NDArray[np.float16]]) -> NDArray[np.float16]:
    """Return the first steps of a sequence: of a long recording the rest is not even read."""
    read, n_steps = [], 0
    for block in blocks:
        read.append(block[: _REMEMBERED_STEPS - n_steps].copy())
        n_steps += len(read[-1])
        if n_steps >= _REMEMBERED_STEPS:
            break
    return np.concatenate(read)


def _answered(
    annotations: Sequence[Annotation], sequences: Sequence[StepSequence], rate: float, by_person: bool
) -> list[StepSequence]:
    """Return the sequences that answers are about."""
    found: list[StepSequence] = []
    for annotation in annotations:
        if not by_person:
            return list(sequences)
        if annotation.box is None:
            found += main_tracks(sequences)
            continue
        first, end = (step_at(t or 0.0, rate) for t in (annotation.start_s, annotation.end_s))
        track = who(Item(annotation, 0, first, max(end, first + 1)), sequences)
        found += [] if track is None else [track]
    return found


def taught(
    model: ActivityModel,
    answered: Sequence[LabelledVideo],
    before: Sequence[LabelledVideo],
    trained_with: Mapping[str, Any],
    options: TeachOptions,
    on_epoch: OnEpoch = lambda *_: None,
) -> ActivityModel:
    """Return a model that goes on from another by what was answered, and by what that one said before.

    Args:
        model: Where it starts.
        answered: The answers.
        before: What it shall go on saying.
        trained_with: The options of its own training: regularisation, and how sequences are drawn.
        options: How it goes on.
        on_epoch: Called with the epoch, from 1, counted through all networks, and its mean loss.
    """
    own = [sequence for video in answered for sequence in video.sequences]
    others = [sequence for video in before for sequence in video.sequences]
    share = options.answers_share / (1 - options.answers_share)
    draws = int(np.clip(round(share * len(others) / max(1, len(own))), 1, _MOST_DRAWS))
    sequences = [*(replace(sequence, draws=draws * sequence.draws) for sequence in own), *others]
    known = {name: value for name, value in trained_with.items() if name in _KEPT_OPTIONS}
    members = []
    for number, member in enumerate(model.members):
        assert isinstance(member, Member)
        fit_options = FitOptions(
            **known, members=1, view=model.spec.views[number], epochs=options.epochs,
            batch_size=options.batch_size, learning_rate=options.learning_rate, seed=options.seed + number,
            mirror=bool(trained_with.get("mirror")),
        )  # fmt: skip
        spec = replace(model.spec, views=(model.spec.views[number],), temperature=1.0, energies=())
        n_batches = count_batches(sequences, draw_options(fit_options, spec))
        again = -(-options.least_batches // n_batches)
        repeated = [replace(sequence, draws=again * sequence.draws) for sequence in sequences]
        fitting = Fitting(repeated, (), spec, fit_options, start=member.state_dict())
        for epoch, loss in fitting.epochs():
            on_epoch(number * options.epochs + epoch, loss)
        members.append(fitting.result())
    spec = replace(model.spec, energies=())
    return with_energies(ActivityModel(spec, members).eval(), [*answered, *before], FitOptions.max_steps)


# How a model was kept from learning by heart holds on, and how it is shown sequences.
_KEPT_OPTIONS = ("weight_decay", "input_dropout", "dropout", "label_smoothing", "min_crop", "row_steps")
