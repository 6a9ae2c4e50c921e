"""Turn scores per step into segments: Viterbi smooths, short and doubtful pieces are dropped, neighbours are joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

# After this many steps without a decision, one is forced. This bounds the memory for a video that never settles.
_MAX_PENDING_STEPS = 8192
_SMALLEST = 1e-6
# Checking whether more is decided costs as much as a dozen steps.
_LOOK_EVERY = 64
_PENALTY_FPS = 15.0


@dataclass(frozen=True)
class SegmentOptions:
    """How scores become segments; part of a model bundle."""

    switch_penalty: float = 4.0
    """Cost, in nats, of changing the label from one step to the next. A higher cost makes fewer, longer segments.
    It is for 15 steps per second, and scaled in proportion at other rates, because fewer steps bring less evidence."""
    min_duration_s: float = 0.2
    """A shorter segment is dropped."""
    merge_gap_s: float = 0.5
    """Segments of one label are joined if they are no further apart than this."""
    threshold: float = 0.0
    """A segment with a lower mean score is dropped."""
    most_novel: float = 1.0
    """A segment with a higher novelty is not told."""
    most_novel_event: float = 1.0
    """The same for single events: a false alarm costs more than a false segment."""
    events: tuple[int, ...] = ()
    """Label ids of single events, such as a fall. Segments of one that closely follow each other are joined."""
    event_gap_s: float = 2.0
    """Largest gap within one event, from the end of a segment to the start of the next."""

    def tells(self, run: StepRun) -> bool:
        """Whether a segment is told: it is not too unlike what the model has learnt from.

        The finder returns all, so that the numbers of segments do not depend on these limits.
        """
        return run.novelty <= (self.most_novel_event if run.label_id in self.events else self.most_novel)


@dataclass(frozen=True)
class StepRun:
    """A half-open range of steps with one label."""

    label_id: int
    first_step: int
    end_step: int
    score: float
    """Mean score of the label over the steps."""
    novelty: float = 0.0
    """Mean novelty of the steps, from 0 to 1; 0 if the model does not know it."""


class Scored(NamedTuple):
    """A model's result for some successive steps."""

    scores: NDArray[np.float32]
    """`float32 [t, n_labels]`: probabilities."""
    novelty: NDArray[np.float32] | None = None
    """`float32 [t]`, from 0 to 1; None if the model does not know it."""


class SegmentFinder:
    """Finds the segments of one unbroken sequence while it continues; how its scores are cut makes no difference."""

    def __init__(
        self, first_step: int, sample_fps: float, options: SegmentOptions, look_every: int = _LOOK_EVERY
    ) -> None:
        """Begin a sequence.

        Args:
            first_step: Where on the sampling grid it starts.
            sample_fps: Steps per second.
            options: Smoothing, thresholds and shortest duration.
            look_every: Steps between checks whether more is decided. A smaller number returns segments sooner.
        """
        self._path = _BestPath(options.switch_penalty * sample_fps / _PENALTY_FPS, look_every)
        self._runs = _Runs(first_step)
        self._stages: list[_Stage] = [_Smooth(options, sample_fps)]
        self._stages += [_Events(label_id, options.event_gap_s * sample_fps) for label_id in options.events]

    def push(self, block: Scored) -> list[StepRun]:
        """Take the result for the next steps, and return the segments that are final now.

        Segments that are still open need some more steps.
        """
        runs: list[StepRun] = []
        novelties = np.zeros(len(block.scores)) if block.novelty is None else block.novelty
        for of_step, novelty in zip(block.scores, novelties.tolist(), strict=True):
            for decided in self._path.push(of_step, novelty):
                runs += self._runs.push(*decided)
        return self._through(runs, self._runs.bound)

    def close(self) -> list[StepRun]:
        """End the sequence, and return the remaining segments."""
        runs: list[StepRun] = []
        for decided in self._path.close():
            runs += self._runs.push(*decided)
        return self._through([*runs, *self._runs.close()], lambda _: math.inf)

    def _through(self, runs: list[StepRun], bound: _Bound) -> list[StepRun]:
        for stage in self._stages:
            runs = [*(sure for run in runs for sure in stage.push(run)), *stage.settle(bound)]
            bound = partial(stage.bound, bound)
        return runs


def find_segments(
    blocks: Iterable[Scored], first_step: int, sample_fps: float, options: SegmentOptions
) -> Iterator[StepRun]:
    """Yield the segments of one unbroken sequence.

    Args:
        blocks: A model's results, in order; how they are cut makes no difference.
        first_step: Where on the sampling grid the sequence starts.
        sample_fps: Steps per second.
        options: Smoothing, thresholds and shortest duration.
    """
    finder = SegmentFinder(first_step, sample_fps, options)
    for block in blocks:
        yield from finder.push(block)
    yield from finder.close()


_Bound = Callable[[int], float]
"""Returns, for a label, the earliest step at which a segment that is still to come may begin."""


class _Stage(Protocol):
    """Takes segments in order, and returns those that are final."""

    def push(self, run: StepRun) -> list[StepRun]:
        """Take the next segment."""

    def settle(self, bound: _Bound) -> list[StepRun]:
        """Return the segments that are final, because no segment that could join them begins soon enough."""

    def bound(self, before: _Bound, label_id: int) -> float:
        """Return the earliest step at which a segment of a label that is still to be returned may begin."""


class _Events:
    """Joins segments of a label that follow each other with a gap of at most `gap_steps`."""

    def __init__(self, label_id: int, gap_steps: float) -> None:
        self._label_id, self._gap_steps = label_id, gap_steps
        self._parts: list[StepRun] = []
        self._after: list[StepRun] = []

    def push(self, run: StepRun) -> list[StepRun]:
        sure = []
        if self._parts and run.first_step - self._parts[-1].end_step > self._gap_steps:
            sure = self._give()
        if run.label_id == self._label_id:
            self._parts, self._after = [*self._parts, run], []
        elif self._parts:
            self._after.append(run)
        else:
            sure.append(run)
        return sure

    def settle(self, bound: _Bound) -> list[StepRun]:
        sure = self._parts and bound(self._label_id) - self._parts[-1].end_step > self._gap_steps
        return self._give() if sure else []

    def bound(self, before: _Bound, label_id: int) -> float:
        held = [run.first_step for run in (*self._parts, *self._after) if run.label_id == label_id]
        return min([*held, before(label_id)])

    def _give(self) -> list[StepRun]:
        sure = [_as_one(self._parts), *self._after]
        self._parts, self._after = [], []
        return sure


def _as_one(parts: Sequence[StepRun]) -> StepRun:
    """Return one run from the first to the last; the steps between them do not count for its means."""
    steps = [part.end_step - part.first_step for part in parts]
    score = sum(part.score * n for part, n in zip(parts, steps, strict=True)) / sum(steps)
    novelty = sum(part.novelty * n for part, n in zip(parts, steps, strict=True)) / sum(steps)
    return StepRun(parts[0].label_id, parts[0].first_step, parts[-1].end_step, score, novelty)


class _Smooth:
    """Drops runs that are short or doubtful, and joins neighbours of one label."""

    def __init__(self, options: SegmentOptions, sample_fps: float) -> None:
        self._threshold, self._min_steps = options.threshold, options.min_duration_s * sample_fps
        self._merge_steps = options.merge_gap_s * sample_fps
        self._waiting: StepRun | None = None

    def push(self, run: StepRun) -> list[StepRun]:
        if run.score < self._threshold or run.end_step - run.first_step < self._min_steps:
            return []
        before, self._waiting = self._waiting, run
        if before is None:
            return []
        if before.label_id == run.label_id and run.first_step - before.end_step <= self._merge_steps:
            self._waiting = _as_one([before, run])
            return []
        return [before]

    def settle(self, bound: _Bound) -> list[StepRun]:
        last = self._waiting
        if last is None or bound(last.label_id) - last.end_step <= self._merge_steps:
            return []
        self._waiting = None
        return [last]

    def bound(self, before: _Bound, label_id: int) -> float:
        last = self._waiting
        return last.first_step if last is not None and last.label_id == label_id else before(label_id)


class _Runs:
    """Groups the labels of steps, their scores and novelties into runs of one label."""

    def __init__(self, first_step: int) -> None:
        self._start = self._step = first_step
        self._label, self._score, self._novelty = -1, 0.0, 0.0

    def push(self, label: int, score: float, novelty: float) -> list[StepRun]:
        ended = self.close() if label != self._label else []
        if ended:
            self._start, self._score, self._novelty = self._step, 0.0, 0.0
        self._label = label
        self._score += score
        self._novelty += novelty
        self._step += 1
        return ended

    def bound(self, label_id: int) -> float:
        """Return the earliest step at which a run of a label that is still to come may begin."""
        return self._start if label_id == self._label else self._step

    def close(self) -> list[StepRun]:
        n = self._step - self._start
        return [StepRun(self._label, self._start, self._step, self._score / n, self._novelty / n)] if n else []


class _BestPath:
    """Finds the label of each step on the best path: Viterbi with one penalty for every change.

    A prefix is decided as soon as all paths that can still win agree on it, so memory does not grow with the video.
    """

    def __init__(self, penalty: float, look_every: int) -> None:
        self._penalty, self._look_every = penalty, look_every
        self._best: NDArray[np.float64] | None = None
        self._came_from: list[NDArray[np.intp]] = []
        self._pending: list[tuple[NDArray[np.float32], float]] = []
        self._n_pushed = 0

    def push(self, scores: NDArray[np.float32], novelty: float) -> list[tuple[int, float, float]]:
        """Take the scores `[n_labels]` and the novelty of a step.

        Return the label of each step that is decided now, with its score and the step's novelty.
        """
        likelihood = np.log(np.maximum(scores, _SMALLEST), dtype=np.float64)
        if self._best is None:
            self._best = likelihood
            self._came_from.append(np.arange(len(scores)))
        else:
            leader = int(self._best.argmax())
            reached = self._best[leader] - self._penalty
            switches = self._best < reached
            self._came_from.append(np.where(switches, leader, np.arange(len(scores))))
            self._best = np.where(switches, reached, self._best) + likelihood
            self._best -= self._best.max()
        self._pending.append((scores, novelty))
        self._n_pushed += 1
        if self._n_pushed % self._look_every:
            return []
        settled = len(self._pending) < _MAX_PENDING_STEPS
        return self._decide(_agreed(self._came_from) if settled else len(self._pending) // 2)

    def close(self) -> list[tuple[int, float, float]]:
        """Return the same for the remaining steps."""
        return self._decide(len(self._pending))

    def _decide(self, n: int) -> list[tuple[int, float, float]]:
        if not n:
            return []
        assert self._best is not None
        labels = [int(self._best.argmax())]
        for step in range(len(self._pending) - 1, 0, -1):
            labels.append(int(self._came_from[step][labels[-1]]))
        labels.reverse()
        decided = [
            (label, float(scores[label]), novelty)
            for (scores, novelty), label in zip(self._pending[:n], labels[:n], strict=True)
        ]
        del self._came_from[:n], self._pending[:n]
        return decided


def _agreed(came_from: list[NDArray[np.intp]]) -> int:
    """Return how many of the first steps have the same label on every path that can still win."""
    ancestors = np.arange(len(came_from[0]))
    for step in range(len(came_from) - 1, 0, -1):
        ancestors = came_from[step][ancestors]
        if (ancestors == ancestors[0]).all():
            return step
    return 0
