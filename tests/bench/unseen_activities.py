"""Measure a model of everyday activities on sources and people on which it was not trained.

    python -m tests.bench.unseen_activities daily/eyes daily/eyes/everyday.csv daily/eyes/lake everyday12-pose-splits

`unseen_eyes.py` writes the table and the lake, which `actionlake train --keep-splits` completes; it makes the models.
Each model was trained without one source or person, and is measured on it here, as a detector sees it that has not
learnt from it either. A second table shows what limits on score and novelty do to falls and false alarms, if the
model's own limit is lifted. A third one shows what a limit on the novelty of all other segments does to them.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from pipeline.activity.bundle import BACKGROUND, Bundle, load_bundle
from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.segments import SegmentOptions, StepRun
from pipeline.archive.sources import list_videos
from pipeline.lake.query import open_lake
from pipeline.steps.label import UNLIKE
from pipeline.training.dataset import Item, LabelledVideo, load_videos
from pipeline.training.formats import read_annotations
from pipeline.training.metrics import ReliabilityBin, expected_calibration_error, f1, reliability
from pipeline.training.sequences import IGNORE
from pipeline.training.splits import divide
from pipeline.training.validation import (
    ScoredSteps,
    counts_of_segments,
    figures_of,
    means_of_splits,
    reliability_of_splits,
    score_steps,
)
from pipeline.training.videos import VideoFolder
from tests.bench.default_annotations import EVERYDAY
from tests.bench.falls import LIMITS

POSTURES = ("stand", "walk", "sit", "lie")
SURE = 0.5
"""A segment counts from this score on."""
NOVELTIES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Limits on the novelty of segments that are no single events."""


@dataclass
class Counts:
    """What was counted in the videos of one split; all times in steps."""

    n_right: int = 0
    n_steps: int = 0
    """Annotated with an activity, whether somebody was seen or not."""
    n_nobody: int = 0
    """Of these, the steps at which nobody was followed."""
    n_right_postures: int = 0
    n_postures: int = 0
    answers: list[tuple[float, bool]] = field(default_factory=list)
    """The score of each answer to a step of a posture, and whether it is right, if somebody was followed."""
    n_falls: int = 0
    found: Counter[str] = field(default_factory=Counter)
    """Falls that a segment of each of `KINDS`, or within each of `LIMITS`, touches."""
    alarms: Counter[str] = field(default_factory=Counter)
    """Such segments in videos without a fall."""
    n_without_fall: int = 0
    """Steps of somebody in such videos."""
    n_false: Counter[float] = field(default_factory=Counter)
    """Wrong sure segments in videos `without_name`, for each of `NOVELTIES` and the own limit of the model."""
    n_nameless: int = 0
    """Steps of somebody in such videos."""
    n_seen: int = 0
    n_unlike: int = 0
    """Of all steps of somebody those that are unlike what the model has learnt from."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


KINDS = ("all", "sure", "then lies")
"""Segments `fall`: of any score, with a score of at least `SURE`, and those that a segment `lie` follows."""


def falls_in(
    runs: Sequence[StepRun], labels: Sequence[str], rate: float, options: SegmentOptions
) -> dict[str, list[StepRun]]:
    """Return the segments `fall` of each of `KINDS`, and those within each of `LIMITS`, from runs of any novelty."""
    falls = [run for run in runs if labels[run.label_id] == "fall"]
    within = {str(limit): [run for run in falls if limit.keeps(run.score, run.novelty)] for limit in LIMITS}
    falls = list(filter(options.tells, falls))
    lies = [run for run in filter(options.tells, runs) if labels[run.label_id] == "lie"]
    then_lies = [run for run in falls if any(-2 <= lie.first_step - run.end_step <= 2 * rate for lie in lies)]
    return within | {"all": falls, "sure": [run for run in falls if run.score >= SURE], "then lies": then_lies}


def count(
    bundle: Bundle, classifier: SequenceClassifier, videos: Sequence[LabelledVideo], scored: Sequence[ScoredSteps]
) -> Counts:
    """Count what a model finds in some videos, given its scores for them."""
    labels, rate, options, counts = bundle.labels, bundle.sample_fps, bundle.segments, Counts()
    background, fall = labels.index(BACKGROUND), labels.index("fall")
    postures = [labels.index(name) for name in POSTURES]
    for video, steps in zip(videos, scored, strict=True):
        right, is_posture = steps.is_right, np.isin(steps.truth, postures)
        named = (steps.truth != IGNORE) & (steps.truth != background)
        counts.n_steps, counts.n_right = counts.n_steps + int(named.sum()), counts.n_right + int(right[named].sum())
        counts.n_nobody += int((steps.answer[named] == IGNORE).sum())
        counts.n_postures += int(is_posture.sum())
        counts.n_right_postures += int(right[is_posture].sum())
        answered = is_posture & (steps.answer != IGNORE)
        confidence = (steps.score / np.maximum(steps.weight, 1e-9)).max(axis=1)
        counts.answers += zip(confidence[answered].tolist(), right[answered].tolist(), strict=True)
        falls = [item for item in video.items if item.label_id == fall]
        said = falls_in(steps.runs, labels, rate, options)
        n_seen = sum(len(sequence.label_ids) for sequence in video.sequences)
        counts.n_seen, counts.n_unlike = counts.n_seen + n_seen, counts.n_unlike + _n_unlike(classifier, video)
        counts.n_falls += len(falls)
        counts.found += Counter({kind: sum(_touched(item, runs) for item in falls) for kind, runs in said.items()})
        if not falls:
            counts.n_without_fall += n_seen
            counts.alarms += Counter({kind: len(runs) for kind, runs in said.items()})
        if without_name(video.video):
            counts.n_nameless += n_seen
            right_ids = {background}.union(*(item.right_ids for item in video.items))
            false = [run for run in steps.runs if run.score >= SURE and run.label_id not in right_ids]
            for limit in {*NOVELTIES, options.most_novel}:
                counts.n_false[limit] += sum(map(replace(options, most_novel=limit).tells, false))
    return counts


def without_name(video: str) -> bool:
    """Whether a video is a clip of JHMDB that shows an activity without a name here."""
    return "jhmdb/" in video and PurePosixPath(video).parent.name not in EVERYDAY


def f1_within(bundle: Bundle, videos: Sequence[LabelledVideo], scored: Sequence[ScoredSteps]) -> dict[float, float]:
    """Return F1@25 within each of `NOVELTIES`."""
    background, found = bundle.labels.index(BACKGROUND), {}
    for limit in NOVELTIES:
        options = replace(bundle.segments, most_novel=limit)
        counts = [
            counts_of_segments(steps, video.items, options, background)
            for video, steps in zip(videos, scored, strict=True)
        ]
        found[limit] = f1(*np.sum(counts, axis=0))
    return found


def _n_unlike(classifier: SequenceClassifier, video: LabelledVideo) -> int:
    blocks = (block for sequence in video.sequences for block in classifier.logits([sequence.inputs]))
    novelties = (classifier.scored(block).novelty for block in blocks)
    return sum(int((novelty > UNLIKE).sum()) for novelty in novelties if novelty is not None)


def _touched(item: Item, runs: Sequence[StepRun]) -> bool:
    return any(run.first_step < item.end_step and item.first_step < run.end_step for run in runs)


def by_chance(bins: Sequence[ReliabilityBin]) -> float:
    """Return the calibration error that as many answers with such scores would have if each score were right."""
    confidence, n = np.array([(each.confidence, each.weight) for each in bins]).T
    shares = np.random.default_rng(0).binomial(n.astype(int), confidence, (2000, len(n))) / n
    return float((np.abs(shares - confidence) * n).sum(axis=1).mean() / n.sum())


def row(name: str, counts: Counts, results: Sequence[dict[str, Any]], rate: float, most_novel: float) -> str:
    """Return a line of the table."""
    figures = means_of_splits(results)

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.3f}" if whole else ""

    minutes, nameless = counts.n_without_fall / rate / 60, counts.n_nameless / rate / 60
    cells = [
        name,
        f"{figures['accuracy']:.3f}",
        share(counts.n_right, counts.n_steps),
        share(counts.n_nobody, counts.n_steps),
        share(counts.n_right_postures, counts.n_postures),
        f"{_calibration_of_steps(counts):.3f}" if counts.answers else "",
        f"{figures['segment_f1']:.3f}",
        f"{', '.join(str(counts.found[kind]) for kind in KINDS)} of {counts.n_falls}" if counts.n_falls else "",
        f"{', '.join(str(counts.alarms[kind]) for kind in KINDS)} in {minutes:.1f} min",
        f"{counts.n_false[most_novel] / nameless:.2f}" if nameless else "",
        f"{figures['calibration_error']:.3f} ({by_chance(reliability_of_splits(results)):.3f})",
        share(counts.n_unlike, counts.n_seen),
    ]
    return f"| {' | '.join(cells)} |"


def _calibration_of_steps(counts: Counts) -> float:
    confidence, right = np.array(counts.answers, np.float64).T
    return expected_calibration_error(reliability(confidence, right))


def curve(of_kinds: Mapping[str, Counts], rate: float) -> Iterator[str]:
    """Yield the second table, line by line, with a column for each kind of split."""
    yield f"| limit | {' | '.join(f'{kind}: falls found, false falls' for kind in of_kinds)} |"
    yield "| --- |" + " --- |" * len(of_kinds)
    for limit in map(str, LIMITS):
        cells = [
            (f"{counts.found[limit]} of {counts.n_falls}, " if counts.n_falls else "")
            + f"{counts.alarms[limit]} in {counts.n_without_fall / rate / 60:.1f} min"
            for counts in of_kinds.values()
        ]
        yield f"| {limit} | {' | '.join(cells)} |"


def limits(of_kinds: Mapping[str, Counts], f1s: Mapping[str, list[dict[float, float]]], rate: float) -> Iterator[str]:
    """Yield the third table: F1@25, the mean of the splits of a kind, and sure false segments a minute."""
    yield f"| most novel | {' | '.join(f'{kind}: F1@25, sure false a minute' for kind in of_kinds)} |"
    yield "| --- |" + " --- |" * len(of_kinds)
    for limit in NOVELTIES:
        cells = [
            f"{np.mean([of_split[limit] for of_split in f1s[kind]]):.3f}"
            + (f", {counts.n_false[limit] / counts.n_nameless * rate * 60:.2f}" if counts.n_nameless else "")
            for kind, counts in of_kinds.items()
        ]
        yield f"| {limit:g} | {' | '.join(cells)} |"


COLUMNS = ("left out", "spans right", "steps right", "nobody followed", "of stand, walk, sit, lie",
           "their calibration error", "F1@25", "falls: all, sure, then lies", "false falls: the same",
           "sure false segments a minute", "calibration error of spans (chance)", "unlike")  # fmt: skip


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("annotations", type=Path)
    parser.add_argument("lake")
    parser.add_argument("splits", type=Path, help="folder of the splits' models")
    arguments = parser.parse_args()
    bundles = {path.name: load_bundle(path) for path in sorted(arguments.splits.iterdir())}
    folder, any_bundle = VideoFolder(arguments.data), next(iter(bundles.values()))
    records = folder.locate(read_annotations(arguments.annotations))
    uris = {record.video: folder.uri(record.video) for record in records}
    inputs = any_bundle.spec.inputs
    ids = {ref.video_id for ref in list_videos(sorted(set(uris.values())))}
    data = load_videos(open_lake(arguments.lake), uris, records, any_bundle.labels, any_bundle.scope, inputs, ids)
    torch.set_num_threads(1)
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}")
    of_kinds: dict[str, list[tuple[Counts, dict[str, Any]]]] = defaultdict(list)
    f1s: dict[str, list[dict[float, float]]] = defaultdict(list)
    for name, bundle in bundles.items():
        test, rate, classifier = divide(data, name).test, bundle.sample_fps, bundle.classifier()
        scored = [score_steps(classifier, video, len(bundle.labels), rate, bundle.segments) for video in test]
        counts = count(bundle, classifier, test, scored)
        result = figures_of(test, scored, bundle.labels, bundle.segments)
        print(row(name, counts, [result], rate, bundle.segments.most_novel))
        # The names of splits of one kind differ in their digits alone.
        kind = re.sub(r"\d+", "", name)
        of_kinds[kind].append((counts, result))
        f1s[kind].append(f1_within(bundle, test, scored))
    together = {kind: reduce(Counts.__add__, (counts for counts, _ in of_kind)) for kind, of_kind in of_kinds.items()}
    for kind, of_kind in of_kinds.items():
        if len(of_kind) > 1:
            results, own = [result for _, result in of_kind], any_bundle.segments.most_novel
            print(row(f"{kind}, together", together[kind], results, rate, own))
    print("\n".join(["", *curve(together, rate), "", *limits(together, f1s, rate)]))


if __name__ == "__main__":
    main()
