"""Teach a trained model by corrections: training starts from its weights, and keeps what nobody has corrected."""

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

# Uncorrected labels with at least this score are kept as training targets.
_SURE = 0.7
# Maximum number of sequences with such labels. They are enough to show what a model knows.
_MOST_REMEMBERED = 2000
_REMEMBERED_STEPS = 1024
# No answer is drawn more often in an epoch, however few there are.
_MOST_DRAWS = 50


@dataclass(frozen=True)
class TeachOptions:
    """How a model is trained further."""

    epochs: int = 15
    learning_rate: float = 1e-3
    """Less than in a training from scratch, so that knowledge is not lost, but enough for a new label."""
    batch_size: int = 16
    """Smaller than in a training from scratch, because there is less data."""
    least_batches: int = 8
    """Minimum number of batches of an epoch. It repeats sequences if there are fewer."""
    answers_share: float = 0.5
    """Share of the sequences of an epoch that hold answers. The others hold the model's earlier labels."""
    seed: int = 0


def labels_with(bundle: Bundle, annotations: Sequence[Annotation]) -> tuple[str, ...]:
    """Return the labels of a model, followed by those that only the annotations have."""
    new = sorted({annotation.label for annotation in annotations} - set(bundle.labels))
    return (*bundle.labels, *new)


def grown(bundle: Bundle, n_labels: int) -> ActivityModel:
    """Return a model with new outputs that have no effect yet: each is below the mean of the others."""
    n_new = n_labels - len(bundle.labels)
    spec = replace(bundle.spec, n_labels=n_labels)
    model = ActivityModel(spec)
    weights = {name: torch.from_numpy(values.copy()).float() for name, values in bundle.weights.items()}
    for name, shape in ((name, tensor.shape) for name, tensor in model.state_dict().items()):
        old = weights[name]
        if old.shape != shape:
            # The output layer has a row and a bias for each label.
            new = old.mean(dim=0, keepdim=True).expand(n_new, *old.shape[1:]) - (1.0 if old.dim() == 1 else 0.0)
            weights[name] = torch.cat([old, new])
    model.load_state_dict(weights)
    return model.eval()


def count_said(bundle: Bundle, answered: Sequence[LabelledVideo]) -> dict[str, NDArray[np.int64]]:
    """Return how often a model gives each label to answered steps, and how often the answers agree.

    Returns:
        For each video, by its name, numbers of steps, `int64 [2, n_labels]`: all steps to which the model gives a
        label, then those for which the answer is the same.
    """
    classifier = bundle.classifier()
    counts: dict[str, NDArray[np.int64]] = {}
    for video in answered:
        said, right = counts.setdefault(video.video, np.zeros((2, len(bundle.labels)), np.int64))
        for sequence in video.sequences:
            given = np.concatenate(list(classifier.scores([sequence.inputs]))).argmax(axis=1)
            known = sequence.label_ids != IGNORE
            np.add.at(said, given[known], 1)
            agrees = given == sequence.label_ids
            if sequence.alternatives is not None:
                agrees |= sequence.alternatives[np.arange(len(given)), given]
            np.add.at(right, given[known & agrees], 1)
    return counts


def contradicted(counts: Iterable[NDArray[np.int64]]) -> set[int]:
    """Return the label ids of a model that answers mostly contradict, given the counts of some videos."""
    said, right = np.sum(list(counts), axis=0)
    return set(np.flatnonzero((said > 0) & (right < said / 2)).tolist())


def without(videos: Sequence[LabelledVideo], label_ids: Collection[int]) -> list[LabelledVideo]:
    """Return videos without annotated spans, with some labels removed. Sequences without other labels are left out."""
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
    """Return a model's confident labels where nobody has answered, as labelled videos without annotated spans.

    Args:
        lake: The lake, with the features that the model reads.
        bundle: The model.
        uris: For each video, as annotated, the URI that the lake knows it by.
        annotations: The answers. The people whom they are about are left out.
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
    """Return the first steps of a sequence. The rest of a long recording is not even read."""
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
    """Train a model further on answers and on its earlier labels, and return the new model.

    Args:
        model: The model to start from.
        answered: The answers.
        before: Its earlier labels, which it should keep.
        trained_with: The options of its own training: regularisation, and how sequences are drawn.
        options: How it is trained further.
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


# Options that are kept: regularisation, and how sequences are drawn.
_KEPT_OPTIONS = ("weight_decay", "input_dropout", "dropout", "label_smoothing", "min_crop", "row_steps")
