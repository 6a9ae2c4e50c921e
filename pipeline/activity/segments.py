"""Scores per step become segments: Viterbi smooths, short and doubtful pieces go, neighbours join."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A decision is forced after so many steps without one; it bounds the memory on a video that never settles.
_MAX_PENDING_STEPS = 8192
_SMALLEST = 1e-6
_PENALTY_FPS = 15.0


@dataclass(frozen=True)
class SegmentOptions:
    """How scores become segments; part of a model bundle."""

    switch_penalty: float = 4.0
    """What it costs, in nats, to change the label from one step to the next: more makes fewer, longer segments.
    For 15 steps a second; at other rates in proportion, since fewer steps bring less evidence."""
    min_duration_s: float = 0.2
    """A shorter segment is dropped."""
    merge_gap_s: float = 0.5
    """Segments of one label that lie no further apart are joined."""
    threshold: float = 0.0
    """A segment with a lower mean score is dropped."""
    events: tuple[int, ...] = ()
    """Label ids of what happens once, as a fall does: those that closely follow each other are one."""
    event_gap_s: float = 2.0
    """So closely: from the end of one to the start of the next."""


@dataclass(frozen=True)
class StepRun:
    """A half-open range of steps with one label."""

    label_id: int
    first_step: int
    end_step: int
    score: float
    """Mean score of the label over the steps."""


def find_segments(
    scores: Iterable[NDArray[np.float32]], first_step: int, sample_fps: float, options: SegmentOptions
) -> Iterator[StepRun]:
    """Yield the segments of one unbroken sequence.

    Args:
        scores: Blocks `float32 [T, n_labels]` of probabilities, in order; how they are cut makes no difference.
        first_step: Where on the sampling grid the sequence starts.
        sample_fps: Steps per second.
        options: Smoothing, thresholds and shortest duration.
    """
    segments = _smoothed(scores, first_step, sample_fps, options)
    for label_id in options.events:
        segments = _as_events(segments, label_id, options.event_gap_s * sample_fps)
    return segments


def _as_events(segments: Iterable[StepRun], label_id: int, gap_steps: float) -> Iterator[StepRun]:
    """Yield segments; of those of a label that follow each other at most so far apart one is made."""
    parts: list[StepRun] = []
    after: list[StepRun] = []
    for run in segments:
        if parts and run.first_step - parts[-1].end_step > gap_steps:
            yield _as_one(parts)
            yield from after
            parts, after = [], []
        if run.label_id == label_id:
            parts, after = [*parts, run], []
        elif parts:
            after.append(run)
        else:
            yield run
    if parts:
        yield _as_one(parts)
        yield from after


def _as_one(parts: Sequence[StepRun]) -> StepRun:
    """Return one run from the first to the last; what lies between them has no part in its score."""
    steps = [part.end_step - part.first_step for part in parts]
    score = sum(part.score * n for part, n in zip(parts, steps, strict=True)) / sum(steps)
    return StepRun(parts[0].label_id, parts[0].first_step, parts[-1].end_step, score)


def _smoothed(
    scores: Iterable[NDArray[np.float32]], first_step: int, sample_fps: float, options: SegmentOptions
) -> Iterator[StepRun]:
    """Yield the segments of the best path that are long and sure enough; neighbours of one label are one."""
    min_steps = options.min_duration_s * sample_fps
    merge_steps = options.merge_gap_s * sample_fps
    waiting: StepRun | None = None
    penalty = options.switch_penalty * sample_fps / _PENALTY_FPS
    for run in _runs(_decoded(scores, penalty), first_step):
        if run.score < options.threshold or run.end_step - run.first_step < min_steps:
            continue
        if (
            waiting is not None
            and waiting.label_id == run.label_id
            and run.first_step - waiting.end_step <= merge_steps
        ):
            waiting = _as_one([waiting, run])
            continue
        if waiting is not None:
            yield waiting
        waiting = run
    if waiting is not None:
        yield waiting


def _runs(steps: Iterator[tuple[int, float]], first_step: int) -> Iterator[StepRun]:
    """Group `(label, its score)` per step into runs of one label."""
    start, label, total = first_step, -1, 0.0
    step = first_step
    for decided, score in steps:
        if decided != label and step > start:
            yield StepRun(label, start, step, total / (step - start))
            start, total = step, 0.0
        label = decided
        total += score
        step += 1
    if step > start:
        yield StepRun(label, start, step, total / (step - start))


def _decoded(blocks: Iterable[NDArray[np.float32]], penalty: float) -> Iterator[tuple[int, float]]:
    """Yield the label of each step on the best path, with its score: Viterbi with one penalty for every change.

    A prefix is decided as soon as all paths that may yet win agree on it, so memory does not grow with the video.
    """
    best: NDArray[np.float64] | None = None
    came_from: list[NDArray[np.intp]] = []
    pending: list[NDArray[np.float32]] = []
    for block in blocks:
        for scores in block:
            likelihood = np.log(np.maximum(scores, _SMALLEST), dtype=np.float64)
            if best is None:
                best = likelihood
                came_from.append(np.arange(len(scores)))
            else:
                stay = np.arange(len(best))
                leader = int(best.argmax())
                switches = best < best[leader] - penalty
                came_from.append(np.where(switches, leader, stay))
                best = np.where(switches, best[leader] - penalty, best) + likelihood
                best -= best.max()
            pending.append(scores)
            if len(pending) % 64 == 0:
                n_decided = _agreed(came_from) if len(pending) < _MAX_PENDING_STEPS else len(pending) // 2
                if n_decided:
                    yield from _trace(came_from, pending, int(best.argmax()), n_decided)
                    del came_from[:n_decided], pending[:n_decided]
    if best is not None:
        yield from _trace(came_from, pending, int(best.argmax()), len(pending))


def _agreed(came_from: list[NDArray[np.intp]]) -> int:
    """Return how many of the first steps have the same label on every path that may yet win."""
    ancestors = np.arange(len(came_from[0]))
    for step in range(len(came_from) - 1, 0, -1):
        ancestors = came_from[step][ancestors]
        if (ancestors == ancestors[0]).all():
            return step
    return 0


def _trace(
    came_from: list[NDArray[np.intp]], pending: list[NDArray[np.float32]], last_label: int, n_decided: int
) -> Iterator[tuple[int, float]]:
    labels = [last_label]
    for step in range(len(pending) - 1, 0, -1):
        labels.append(int(came_from[step][labels[-1]]))
    labels.reverse()
    for scores, label in zip(pending[:n_decided], labels[:n_decided], strict=True):
        yield label, float(scores[label])
