"""Measure a model of everyday activities on sources and people on which it was not trained.

    python -m tests.bench.unseen_activities ../shared/data daily/everyday.csv daily/everyday-lake everyday12-pose-splits

`default_annotations.py` writes the table. `actionlake train --keep-splits` makes the lake and the models. Each model
was trained without one source or person, and is measured on it here. A second table shows what limits on score and
novelty do to falls and false alarms, if the model's own limit is lifted.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.activity.bundle import BACKGROUND, load_bundle
from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.model import ActivityModel
from pipeline.activity.segments import SegmentOptions, StepRun
from pipeline.archive.sources import list_videos
from pipeline.lake.query import open_lake
from pipeline.steps.label import UNLIKE
from pipeline.training.dataset import Item, LabelledVideo, load_videos
from pipeline.training.formats import read_annotations
from pipeline.training.metrics import ReliabilityBin, expected_calibration_error, reliability
from pipeline.training.sequences import IGNORE
from pipeline.training.splits import divide
from pipeline.training.validation import means_of_splits, reliability_of_splits, score_steps
from pipeline.training.videos import VideoFolder
from tests.bench.falls import LIMITS

POSTURES = ("stand", "walk", "sit", "lie")
STILL = ("stand", "sit")
"""What people do beside an activity that has no name here: it is no mistake to say so."""
SURE = 0.5
"""A segment counts from this score on."""


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
    n_false: int = 0
    """Sure segments in videos of which nothing has a name here."""
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
    model: ActivityModel, videos: Sequence[LabelledVideo], labels: Sequence[str], rate: float, options: SegmentOptions
) -> Counts:
    """Count what a model finds in some videos."""
    classifier, counts = model.classifier(), Counts()
    background, fall = labels.index(BACKGROUND), labels.index("fall")
    postures = [labels.index(name) for name in POSTURES]
    quiet = {background, *(labels.index(name) for name in STILL)}
    for video in videos:
        steps = score_steps(classifier, video, len(labels), rate, options)
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
        if all(item.label_id == background for item in video.items):
            counts.n_nameless += n_seen
            sure = [run for run in filter(options.tells, steps.runs) if run.score >= SURE]
            counts.n_false += sum(run.label_id not in quiet for run in sure)
    return counts


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


def row(name: str, counts: Counts, results: Sequence[dict[str, Any]], rate: float) -> str:
    """Return a line of the table."""
    figures = means_of_splits(results)

    def share(part: int, whole: int) -> str:
        return f"{part / whole:.3f}" if whole else ""

    minutes, nameless = counts.n_without_fall / rate / 60, counts.n_nameless / rate / 60
    cells = [
        name,
        share(counts.n_right, counts.n_steps),
        share(counts.n_nobody, counts.n_steps),
        share(counts.n_right_postures, counts.n_postures),
        f"{_calibration_of_steps(counts):.3f}" if counts.answers else "",
        f"{figures['segment_f1']:.3f}",
        f"{', '.join(str(counts.found[kind]) for kind in KINDS)} of {counts.n_falls}" if counts.n_falls else "",
        f"{', '.join(str(counts.alarms[kind]) for kind in KINDS)} in {minutes:.1f} min",
        f"{counts.n_false / nameless:.2f}" if nameless else "",
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


COLUMNS = ("left out", "steps right", "nobody followed", "of stand, walk, sit, lie", "their calibration error", "F1@25",
           "falls: all, sure, then lies", "false falls: the same", "sure false segments a minute",
           "calibration error of spans (chance)", "unlike")  # fmt: skip


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
    for name, bundle in bundles.items():
        test, rate = divide(data, name).test, bundle.sample_fps
        counts = count(bundle.model, test, bundle.labels, rate, bundle.segments)
        result = bundle.metrics["splits"][name]
        print(row(name, counts, [result], rate))
        # The names of splits of one kind differ in their digits alone.
        of_kinds[re.sub(r"\d+", "", name)].append((counts, result))
    together = {kind: reduce(Counts.__add__, (counts for counts, _ in of_kind)) for kind, of_kind in of_kinds.items()}
    for kind, of_kind in of_kinds.items():
        if len(of_kind) > 1:
            print(row(f"{kind}, together", together[kind], [result for _, result in of_kind], rate))
    print("\n".join(["", *curve(together, any_bundle.sample_fps)]))


if __name__ == "__main__":
    main()
