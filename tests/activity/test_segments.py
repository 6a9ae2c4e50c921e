from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.activity import segments as module
from pipeline.activity.segments import Scored, SegmentFinder, SegmentOptions, StepRun, find_segments


def scores(*runs: tuple[int, int], n_labels: int = 3, sure: float = 0.9) -> np.ndarray:
    """Probabilities for runs of `(label, steps)`."""
    rows = [label for label, n in runs for _ in range(n)]
    probabilities = np.full((len(rows), n_labels), (1 - sure) / (n_labels - 1), np.float32)
    probabilities[np.arange(len(rows)), rows] = sure
    return probabilities


def found(block: np.ndarray, first: int = 0, novelty: np.ndarray | None = None, **options: Any) -> list[StepRun]:
    return list(find_segments([Scored(block, novelty)], first, 10.0, SegmentOptions(**options)))


def test_clear_changes_are_found_where_they_are() -> None:
    runs = found(scores((0, 30), (2, 20), (1, 25)), first=100)
    assert [(run.label_id, run.first_step, run.end_step) for run in runs] == [
        (0, 100, 130),
        (2, 130, 150),
        (1, 150, 175),
    ]
    assert runs[0].score == pytest.approx(0.9)


def test_a_flicker_is_smoothed_away() -> None:
    assert [(run.label_id, run.end_step - run.first_step) for run in found(scores((0, 20), (1, 1), (0, 20)))] == [
        (0, 41)
    ]


def test_doubtful_and_short_pieces_go() -> None:
    block = np.concatenate([scores((0, 30)), scores((1, 30), sure=0.45), scores((2, 8))])
    assert [run.label_id for run in found(block, threshold=0.5, switch_penalty=1.0)] == [0, 2]
    assert [run.label_id for run in found(block, threshold=0.5, min_duration_s=1.0, switch_penalty=1.0)] == [0]


def test_what_is_unlike_the_training_data_goes_and_events_go_sooner() -> None:
    block = scores((0, 20), (1, 20), (2, 30), (1, 20))
    novelty = np.repeat([0.2, 0.8, 0.95, 0.6], [20, 20, 30, 20]).astype(np.float32)
    assert [run.label_id for run in found(block, novelty=novelty)] == [0, 1, 2, 1]
    options = SegmentOptions(most_novel=0.9, most_novel_event=0.7, events=(1,))
    kept = list(filter(options.tells, find_segments([Scored(block, novelty)], 0, 10.0, options)))
    assert [(run.label_id, run.first_step, run.end_step) for run in kept] == [(0, 0, 20), (1, 70, 90)]
    assert [run.novelty for run in kept] == pytest.approx([0.2, 0.6])


def test_a_segment_of_pieces_has_the_mean_novelty_of_their_steps() -> None:
    block = np.concatenate([scores((0, 30)), scores((1, 4), sure=0.5), scores((0, 10))])
    novelty = np.repeat([0.2, 0.9, 0.6], [30, 4, 10]).astype(np.float32)
    (run,) = found(block, novelty=novelty, threshold=0.6, switch_penalty=0.1, merge_gap_s=0.5)
    assert run.novelty == pytest.approx((30 * 0.2 + 10 * 0.6) / 40)


def test_pieces_of_one_label_close_to_each_other_join() -> None:
    block = np.concatenate([scores((0, 30)), scores((1, 4), sure=0.5), scores((0, 10))])
    runs = found(block, threshold=0.6, switch_penalty=0.1, merge_gap_s=0.5)
    assert [(run.label_id, run.first_step, run.end_step) for run in runs] == [(0, 0, 44)]
    assert len(found(block, threshold=0.6, switch_penalty=0.1, merge_gap_s=0.3)) == 2


def exhaustive_viterbi(block: np.ndarray, penalty: float) -> float:
    """Score of the best path, by the textbook recursion over the whole sequence."""
    log = np.log(np.maximum(block, 1e-6).astype(np.float64))
    best = log[0]
    for row in log[1:]:
        best = np.maximum(best, best.max() - penalty) + row
    return best.max()


def path_score(block: np.ndarray, labels: list[int], penalty: float) -> float:
    log = np.log(np.maximum(block, 1e-6).astype(np.float64))
    switches = sum(a != b for a, b in itertools.pairwise(labels))
    return sum(log[step, label] for step, label in enumerate(labels)) - penalty * switches


random_blocks = st.builds(
    lambda seed, n, sharp: np.random.default_rng(seed).dirichlet(np.full(4, sharp), n).astype(np.float32),
    st.integers(0, 1000), st.integers(1, 700), st.sampled_from([0.1, 0.5, 2.0]),
)  # fmt: skip


@given(random_blocks, st.floats(0.0, 8.0), st.sampled_from([1, 8, 64]))
@settings(max_examples=40, deadline=None)
def test_deciding_early_gives_the_best_path_of_the_whole(block: np.ndarray, penalty: float, look_every: int) -> None:
    path = module._BestPath(penalty, look_every)
    decided = [each for step, scores in enumerate(block) for each in path.push(scores, step)]
    labels, _, steps = zip(*decided, *path.close(), strict=True)
    assert list(steps) == list(range(len(block))), "each step comes with its own novelty"
    assert len(labels) == len(block)
    assert path_score(block, list(labels), penalty) == pytest.approx(exhaustive_viterbi(block, penalty), rel=1e-9)


@given(random_blocks, st.lists(st.integers(1, 699), max_size=8, unique=True).map(sorted))
@settings(max_examples=25, deadline=None)
def test_how_scores_come_makes_no_difference(block: np.ndarray, cuts: list[int]) -> None:
    novelty = block.max(axis=1)
    pieces = [np.split(whole, [cut for cut in cuts if cut < len(block)]) for whole in (block, novelty)]
    blocks = list(map(Scored, *pieces))
    assert list(find_segments(blocks, 0, 10.0, SegmentOptions())) == found(block, novelty=novelty)


def test_memory_stays_bounded_where_nothing_is_ever_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_PENDING_STEPS", 256)
    path, n_decided = module._BestPath(1e9, 64), 0
    for _ in range(3000):
        n_decided += len(path.push(np.full(4, 0.25, np.float32), 0.0))
        assert len(path._pending) <= 256
    assert n_decided + len(path.close()) == 3000


@given(random_blocks, st.sampled_from([(), (1,), (2, 3)]))
@settings(max_examples=25, deadline=None)
def test_step_by_step_the_same_segments_come_and_sooner(block: np.ndarray, events: tuple[int, ...]) -> None:
    options = SegmentOptions(events=events)
    finder = SegmentFinder(7, 10.0, options, look_every=1)
    live = [run for step in range(len(block)) for run in finder.push(Scored(block[step : step + 1]))]
    assert live + finder.close() == list(find_segments([Scored(block)], 7, 10.0, options))


@pytest.mark.parametrize(("events", "gap_steps"), [((), 5), ((0,), 20), ((0, 1), 20)])
def test_a_segment_is_told_soon_after_its_end(events: tuple[int, ...], gap_steps: int) -> None:
    """Two seconds of one label, then another without end: nobody waits for the end of that."""
    block = np.full((400, 3), 0.02, np.float32)
    block[:20, 0] = block[20:, 1] = 0.96
    finder = SegmentFinder(0, 10.0, SegmentOptions(events=events), look_every=1)
    told = [(step, run) for step in range(400) for run in finder.push(Scored(block[step : step + 1]))]
    assert [(run.label_id, run.first_step, run.end_step) for _, run in told] == [(0, 0, 20)]
    assert told[0][0] <= 20 + gap_steps + 3
    assert [(run.label_id, run.first_step, run.end_step) for run in finder.close()] == [(1, 20, 400)]


def test_nothing_in_nothing_out() -> None:
    assert list(find_segments([], 0, 10.0, SegmentOptions())) == []


def test_more_steps_a_second_that_say_the_same_give_the_same_segments() -> None:
    block = np.random.default_rng(4).dirichlet([0.5] * 3, 300).astype(np.float32)
    slow = list(find_segments([Scored(block)], 0, 10.0, SegmentOptions()))
    fast = list(find_segments([Scored(block.repeat(2, axis=0))], 0, 20.0, SegmentOptions()))
    assert len(slow) > 10
    assert [(run.label_id, 2 * run.first_step, 2 * run.end_step) for run in slow] == [
        (run.label_id, run.first_step, run.end_step) for run in fast
    ]


def test_an_event_is_one_however_often_it_is_seen() -> None:
    """Three falls, 1 and 1.2 s apart, in 10 steps a second; what lies between them goes with them."""
    block = scores((1, 20), (0, 6), (2, 10), (0, 5), (2, 12), (0, 6), (2, 9), sure=0.99)
    apart = found(block)
    assert [run.label_id for run in apart] == [1, 0, 2, 0, 2, 0, 2]

    def spans(**options: object) -> list[tuple[int, int, int]]:
        return [(run.label_id, run.first_step, run.end_step) for run in found(block, **options)]  # type: ignore[arg-type]

    assert spans(events=(0,), event_gap_s=1.3) == [(1, 0, 20), (0, 20, 59), (2, 59, 68)]
    assert spans(events=(0,), event_gap_s=1.1) == [(1, 0, 20), (0, 20, 41), (2, 41, 53), (0, 53, 59), (2, 59, 68)]
    assert spans(events=(0,), event_gap_s=0.9) == [(run.label_id, run.first_step, run.end_step) for run in apart]
    assert spans(events=(1,)) == spans(), "what happens once stays as it is"
    assert spans(events=(1, 2), event_gap_s=0.6) == [(1, 0, 20), (0, 20, 26), (2, 26, 68)], "each for itself"
    block[43:] = 0.6 * block[43:] + 0.4 / 3
    parts = [run for run in found(block) if run.label_id == 0]
    steps = [run.end_step - run.first_step for run in parts]
    assert len({round(part.score, 2) for part in parts}) > 1
    mean = sum(part.score * n for part, n in zip(parts, steps, strict=True)) / sum(steps)
    assert found(block, events=(0,), event_gap_s=1.3)[1].score == pytest.approx(mean), "of its own steps alone"
