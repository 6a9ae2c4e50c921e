"""Metrics against cases worked by hand and against what published implementations give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.training.evaluation import Case, evaluate_cases
from pipeline.training.metrics import (
    Span,
    average_precision,
    bootstrap,
    detection_hits,
    edit_score,
    expected_calibration_error,
    f1,
    reliability,
    segment_counts,
    tiou,
)

# (label, start, end) and (label, start, end, score) of twelve videos.
TRUE = [
    [(0, 9.99, 14.0)],
    [(1, 11.83, 14.01), (2, 16.04, 21.38), (0, 9.34, 11.73), (0, 1.66, 7.14)],
    [(0, 1.09, 2.26)],
    [(1, 17.06, 19.15), (1, 6.3, 8.59), (2, 18.82, 21.52)],
    [(0, 12.22, 14.38), (2, 0.77, 2.35), (1, 12.74, 15.36)],
    [(1, 16.04, 20.63), (2, 15.21, 17.55)],
    [(0, 4.98, 6.67), (1, 9.96, 12.39), (0, 12.12, 16.13), (0, 12.45, 15.24)],
    [(2, 15.66, 18.9), (1, 1.25, 5.03), (1, 16.29, 20.82)],
    [(0, 14.28, 17.99), (0, 5.11, 10.44), (1, 15.32, 18.5), (1, 14.75, 20.6)],
    [(2, 18.31, 21.55), (0, 18.05, 23.4), (0, 19.35, 23.32)],
    [(1, 18.0, 23.56)],
    [(0, 9.33, 13.92)],
]
FOUND = [
    [(0, 9.57, 14.46, 0.9483), (0, 11.24, 13.92, 0.2753), (0, 10.36, 14.66, 0.8167), (0, 9.29, 12.79, 0.4836)],
    [(0, 2.49, 6.97, 0.0331), (0, 10.22, 10.7, 0.6974), (0, 2.08, 6.55, 0.691)],
    [
        (2, 1.58, 2.74, 0.0246), (0, 9.33, 11.33, 0.1272), (2, 1.24, 3.24, 0.5984), (0, 0.54, 2.54, 0.8051),
        (0, 1.57, 2.12, 0.7271),
    ],
    [
        (1, 5.02, 8.35, 0.2451), (1, 14.84, 16.84, 0.5458), (2, 19.16, 20.92, 0.6261), (1, 6.61, 8.84, 0.0354),
        (2, 5.91, 9.56, 0.3572), (1, 18.75, 19.2, 0.4983),
    ],
    [(2, 0.79, 3.09, 0.9126), (0, 12.86, 13.91, 0.7002), (2, 12.87, 15.19, 0.0493)],
    [],
    [
        (0, 12.43, 16.5, 0.6733), (1, 8.76, 12.26, 0.0287), (1, 10.45, 13.05, 0.9018), (0, 12.9, 14.9, 0.3401),
        (0, 7.7, 9.7, 0.1532), (0, 14.89, 16.89, 0.5596),
    ],
    [
        (1, 0.32, 5.04, 0.091), (1, 16.67, 21.25, 0.1378), (2, 15.87, 19.66, 0.8621), (1, 1.15, 5.54, 0.9745),
        (1, 16.58, 22.17, 0.2074),
    ],
    [
        (2, 15.61, 17.97, 0.2195), (1, 14.64, 17.65, 0.452), (0, 18.3, 20.3, 0.3651), (1, 8.13, 10.13, 0.7461),
        (0, 14.42, 21.16, 0.8092),
    ],
    [(2, 17.86, 22.78, 0.6916), (2, 17.36, 22.53, 0.4872), (2, 16.79, 21.0, 0.5941), (0, 19.39, 23.7, 0.5832)],
    [(2, 9.55, 11.55, 0.5238), (1, 18.27, 23.17, 0.246)],
    [(1, 9.15, 13.62, 0.5924), (0, 12.23, 12.9, 0.0179), (1, 7.88, 13.0, 0.3747)],
]  # fmt: skip


@pytest.mark.parametrize(
    ("label_id", "expected"),
    [
        (0, [0.451648, 0.451648, 0.369231, 0.196703, 0.196703, 0.0]),
        (1, [0.380165, 0.380165, 0.380165, 0.344746, 0.168831, 0.0]),
        (2, [0.666667, 0.666667, 0.666667, 0.666667, 0.083333, 0.0]),
    ],
)
def test_average_precision_is_that_of_activitynets_evaluation(label_id: int, expected: list[float]) -> None:
    """`compute_average_precision_detection` of mmaction2 1.2.0 gave the expected numbers for these spans."""
    for least, value in zip((0.3, 0.4, 0.5, 0.6, 0.7, 0.95), expected, strict=True):
        hits: list[tuple[float, bool]] = []
        for true, found in zip(TRUE, FOUND, strict=True):
            of_label = [Span(*span) for span in true if span[0] == label_id]
            hits += detection_hits(of_label, [Span(*span) for span in found if span[0] == label_id], least)
        n_true = sum(span[0] == label_id for true in TRUE for span in true)
        scores, right = (np.array(column) for column in zip(*hits, strict=True))
        assert average_precision(scores, right, n_true) == pytest.approx(value, abs=1e-6)
        # Drawing every video twice changes nothing.
        assert average_precision(scores, right, 2 * n_true, np.full(len(hits), 2.0)) == pytest.approx(value, abs=1e-6)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    """`multiclass_calibration_error` of torchmetrics 1.9.0 (15 bins, l1) gave 0.115329 for these answers."""
    rng = np.random.default_rng(5)
    scores = rng.dirichlet([0.3] * 4, 400).round(6)
    truth = np.array([rng.choice(4, p=p / p.sum()) if rng.random() < 0.8 else rng.integers(4) for p in scores])
    bins = reliability(scores.max(axis=1), (scores.argmax(axis=1) == truth).astype(float))
    assert expected_calibration_error(bins) == pytest.approx(0.115329, abs=1e-6)


def test_calibration_by_hand() -> None:
    """Two bins: 0.1 and 0.3 sure, half right; 0.9 sure, all right. Errors 0.3 and 0.1, for two and one."""
    bins = reliability(np.array([0.1, 0.3, 0.9]), np.array([1.0, 0.0, 1.0]), n_bins=2)
    assert [(b.confidence, b.accuracy, b.weight) for b in bins] == [
        (pytest.approx(0.2), 0.5, 2.0),
        (pytest.approx(0.9), 1.0, 1.0),
    ]
    assert expected_calibration_error(bins) == pytest.approx((2 * 0.3 + 0.1) / 3)
    weighed = reliability(np.array([0.1, 0.3]), np.array([1.0, 0.0]), np.array([3.0, 1.0]), n_bins=1)
    assert expected_calibration_error(weighed) == pytest.approx(0.75 - (0.3 + 0.3) / 4)


def test_average_precision_by_hand() -> None:
    """Right, wrong, right of three true ones: precision 1 up to a third, 2/3 up to two thirds, then nothing."""
    scores, hits = np.array([0.9, 0.8, 0.7]), np.array([True, False, True])
    assert average_precision(scores, hits, 3) == pytest.approx(1 / 3 + 2 / 9)
    assert average_precision(scores[:0], hits[:0], 3) == 0.0
    assert math.isnan(average_precision(scores, hits, 0))
    # The first video, with the first and the last span, counts twice; its three true spans become four of five.
    assert average_precision(scores, hits, 4, np.array([2.0, 1.0, 2.0])) == pytest.approx(2 / 4 + 2 / 4 * 4 / 5)


def test_the_surest_chooses_first_and_a_true_span_is_hit_once() -> None:
    true = [Span(0, 0, 4), Span(0, 3, 9)]
    found = [Span(0, 0, 5, 0.3), Span(0, 1, 4, 0.9), Span(0, 2.5, 9, 0.5)]
    # 3/4 with the first; then 6/6.5 with the second; 4/5 with the first, which is taken, and 2/9 with the second.
    assert detection_hits(true, found, 0.5) == [(0.9, True), (0.5, True), (0.3, False)]
    assert detection_hits(true, found[:1], 0.5) == [(0.3, True)]
    assert detection_hits([], found[:1], 0.5) == [(0.3, False)]
    assert tiou(Span(0, 0, 2), Span(0, 2, 4)) == 0.0
    assert tiou(Span(0, 0, 2), Span(1, 1, 4)) == 0.25


def test_segments_by_hand() -> None:
    true = [Span(0, 0, 4), Span(1, 4, 8), Span(0, 8, 10)]
    found = [Span(0, 0, 3), Span(1, 3, 5), Span(1, 5, 8), Span(2, 8, 10)]
    # At a half: 0-3 hits (3/4); 3-5 does not (1/5); 5-8 does (3/4); 8-10 is of another label.
    assert segment_counts(true, found, 0.5) == (2, 2, 1)
    assert f1(2, 2, 1) == pytest.approx(4 / 7)
    # At a tenth, 3-5 takes what 5-8 would have hit.
    assert segment_counts(true, found, 0.1) == (2, 2, 1)
    assert segment_counts(true, found[2:], 0.8) == (0, 2, 3)
    assert segment_counts([], [], 0.5) == (0, 0, 0)
    assert f1(0, 0, 0) == 0.0


def test_edits_by_hand() -> None:
    assert edit_score([0, 1, 2], [0, 1, 2]) == 1.0
    assert edit_score([0, 1, 2], [0, 2]) == pytest.approx(2 / 3)
    # "kitten" to "sitting": three edits over seven letters.
    assert edit_score([*b"kitten"], [*b"sitting"]) == pytest.approx(1 - 3 / 7)
    assert edit_score([1], []) == 0.0
    assert edit_score([], []) == 1.0


def test_intervals_are_over_videos() -> None:
    """Of a share of right videos the interval is the binomial's; with one video there is none."""
    right = np.array([1.0] * 70 + [0.0] * 30)
    found = bootstrap(lambda weights: float(weights @ right / weights.sum()), 100, 2000)
    assert found.value == 0.7
    spread = 1.96 * math.sqrt(0.7 * 0.3 / 100)
    assert found.low == pytest.approx(0.7 - spread, abs=0.02)
    assert found.high == pytest.approx(0.7 + spread, abs=0.02)
    assert math.isnan(bootstrap(lambda weights: 0.5, 1).low)


def test_an_evaluation_worked_by_hand() -> None:
    """Ten seconds of one video in which two people are followed, and a second in which nothing is found."""
    labels = ("background", "fall", "walk")
    first = Case(
        "a",
        true=(Span(2, 0, 6), Span(1, 5, 8), Span(0, 8, 10)),
        # The larger person walks and falls; a small one walks at the same time, and on.
        found=(Span(2, 0, 5, 0.9), Span(2, 3, 7, 0.5), Span(1, 5, 7, 0.6)),
        weights=(1.0, 0.1, 1.0),
    )
    second = Case("b", true=(Span(1, 0, 2),), found=())
    found = evaluate_cases([first, second], labels, 1.0, "background", n_draws=10)
    figure = {name: each.value for name, each in found.figures.items()}
    # walk is walk, fall is fall, and nothing is found in the background: right. Of the other fall nothing is found.
    assert found.confusion == [[0, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 0]]
    assert figure["accuracy"] == pytest.approx(3 / 4)
    # Of ten and two steps: walk 0 to 5, fall 5 and 6, background 8 and 9; the seventh step of the fall is not seen.
    assert figure["frame_accuracy"] == pytest.approx(9 / 12)
    # Both walk from 0 to 7: one span. In order walk, fall; the other video lacks its only one.
    assert figure["edit"] == pytest.approx(0.5)
    # walk 6/7 and fall 2/3 of the union: both hit at a half; one fall is missed.
    assert figure["f1@50"] == pytest.approx(4 / 5)
    assert found.per_label["fall"] == {
        "n_true": 2, "n_found": 1, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3),
    }  # fmt: skip
    assert "background" not in found.per_label
    assert found.average_precision["walk"]["0.5"] == 1.0
    assert found.average_precision["fall"]["0.5"] == 0.5
    # 2/3 is less than 0.7.
    assert found.average_precision["fall"]["0.7"] == 0.0
    assert figure["map@0.5"] == pytest.approx(0.75)
    assert figure["map@0.7"] == pytest.approx(0.5)
    assert figure["map@0.3:0.7"] == pytest.approx((4 * 0.75 + 0.5) / 5)
    # walk to 0.85, fall to 0.65.
    assert figure["map@0.5:0.95"] == pytest.approx((8 * 1.0 + 4 * 0.5) / 2 / 10)
    # Ends: 0 and 1 s off for walk, 0 and 1 s for fall.
    assert figure["boundary_error_s"] == pytest.approx(0.5)
    # 0.9 sure and right for five steps; 0.5 sure and right for two of four (walk till the fall starts); 0.6, all right.
    assert figure["calibration_error"] == pytest.approx((5 * 0.1 + 4 * 0.0 + 2 * 0.4) / 11)


def test_what_is_annotated_later_is_the_more_special() -> None:
    case = Case("a", true=(Span(0, 0, 10), Span(1, 4, 6)), found=(Span(0, 0, 10, 1.0),))
    found = evaluate_cases([case], ("sit", "read"), 1.0, n_draws=2)
    assert found.figures["frame_accuracy"].value == pytest.approx(0.8)
    assert found.confusion == [[1, 0, 0], [1, 0, 0]]
