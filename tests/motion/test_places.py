"""Zones and lines: stays, crossings, and crossings that are expected."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.motion.places import Crossing, Line, Visit, Zone, crossings, expected_crossing, visits

SQUARE = Zone("square", np.array([[100, 100], [200, 100], [200, 200], [100, 200]], np.float32))
# From left to right: what is to its right lies below it in the picture.
ACROSS = Line("across", np.array([0.0, 150.0]), np.array([300.0, 150.0]))


def path(*corners: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, places and heights of somebody who goes from `(s, x, y)` to the next, straight, at 10 views a second."""
    seconds, x, y = np.array(corners).T
    time_s = np.round(np.arange(seconds[0], seconds[-1] + 0.05, 0.1), 6)
    return (
        time_s,
        np.column_stack([np.interp(time_s, seconds, x), np.interp(time_s, seconds, y)]),
        np.full(len(time_s), 40.0),
    )


def test_a_stay_lasts_from_border_to_border() -> None:
    (stay,) = visits(SQUARE, *path((0, 50, 150), (3, 350, 150)))
    assert stay == pytest.approx((0.5, 1.5, False, False))


def test_who_is_there_at_first_or_at_last_did_not_enter_or_leave() -> None:
    assert list(visits(SQUARE, *path((1, 150, 150), (2, 150, 150)))) == [Visit(1.0, 2.0, True, True)]
    first, second = visits(SQUARE, *path((0, 150, 150), (1, 250, 150), (2, 150, 150)))
    assert first == pytest.approx((0.0, 0.5, True, False))
    assert second == pytest.approx((1.5, 2.0, False, True))
    assert not list(visits(SQUARE, *path((0, 0, 0), (1, 50, 50))))


def test_who_trembles_on_the_border_neither_enters_nor_crosses() -> None:
    time_s = np.arange(0, 3, 0.1)
    trembling = np.column_stack([np.full(30, 150.0), 150 + 1.5 * (-1.0) ** np.arange(30)])
    assert not list(crossings(ACROSS, time_s, trembling, np.full(30, 40.0)))
    # Clearly above, then on it for long, then clearly below: once, when it was passed last.
    y = np.concatenate([np.full(5, 120.0), 150 + 1.5 * (-1.0) ** np.arange(20), np.full(5, 180.0)])
    (crossing,) = crossings(ACROSS, time_s, np.column_stack([np.full(30, 150.0), y]), np.full(30, 40.0))
    assert crossing.direction == "right"
    assert 2.4 <= crossing.at_s <= 2.5


def test_a_line_is_crossed_in_both_directions_and_only_between_its_ends() -> None:
    down, up = crossings(ACROSS, *path((0, 100, 100), (1, 100, 200), (2, 100, 100)))
    assert down == pytest.approx((0.5, "right"))
    assert up == pytest.approx((1.5, "left"))
    assert not list(crossings(ACROSS, *path((0, 400, 100), (1, 400, 200))))
    back = Line("back", ACROSS.end, ACROSS.start)
    assert list(crossings(back, *path((0, 100, 100), (1, 100, 200)))) == [Crossing(pytest.approx(0.5), "left")]


def foretold(y: list[float], deviation: float) -> tuple[np.ndarray, ...]:
    n = len(y)
    mean = np.column_stack([np.full(n, 100.0), y])
    return np.arange(1, n + 1) * 0.5, mean, np.full((n, 2), deviation), np.zeros(n)


def test_a_sure_path_crosses_when_its_mean_does() -> None:
    expected = expected_crossing(ACROSS, np.array([100.0, 100.0]), *foretold([125, 150.1, 175, 200], 0.01))
    assert expected is not None
    assert expected.probability == 1.0
    assert expected.in_s == pytest.approx(1.0, abs=0.01)
    assert expected.direction == "right"


def test_the_probability_is_the_share_of_the_gaussian_beyond_the_line() -> None:
    # One deviation beyond at the last step, and far from it before: 0.841.
    expected = expected_crossing(ACROSS, np.array([100.0, 100.0]), *foretold([100, 170], 20.0))
    assert expected is not None
    assert expected.probability == pytest.approx(0.841, abs=0.05)
    assert expected_crossing(ACROSS, np.array([100.0, 100.0]), *foretold([100, 110], 10.0)) is None
    beside = foretold([125, 150.1, 175, 200], 0.01)
    beside[1][:, 0] = 400.0
    assert expected_crossing(ACROSS, np.array([400.0, 100.0]), *beside) is None
