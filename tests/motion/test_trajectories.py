"""Trajectories on a grid, and the windows that are cut out of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.motion.trajectories import Trajectory, Windows, cut_windows, on_grid


def walker(start_s: float, end_s: float, rate: float = 15.0, x: float = 0.0, speed: float = 1.0) -> Trajectory:
    """Goes right, one unit a second, from a place at the time 0."""
    time_s = np.arange(round(start_s * rate), round(end_s * rate) + 1) / rate
    return Trajectory(
        time_s, np.column_stack([x + speed * time_s, np.full(len(time_s), 5.0)]), np.full(len(time_s), 2.0)
    )


def test_places_between_two_views_lie_on_the_line() -> None:
    grid = on_grid([walker(0.1, 2.05), walker(1.0, 1.9, x=10.0)], 0.4, 0.5)
    assert grid.who.tolist() == [0] * 5 + [1] * 2
    assert grid.step.tolist() == [1, 2, 3, 4, 5, 3, 4]
    np.testing.assert_allclose(grid.xy[:, 0], [0.4, 0.8, 1.2, 1.6, 2.0, 11.2, 11.6])


def test_a_view_at_a_point_of_the_grid_counts_though_its_time_has_a_rounding_error() -> None:
    time_s = np.array([0.1 * 3 * k for k in range(5)])
    grid = on_grid([Trajectory(time_s, np.zeros((5, 2)), np.ones(5))], 0.3, 0.4)
    assert grid.step.tolist() == [0, 1, 2, 3, 4]


def test_nothing_is_made_up_where_somebody_was_out_of_sight_for_long() -> None:
    both = walker(0.0, 6.0)
    seen = (both.time_s <= 2.0) | (both.time_s >= 4.0)
    gone = Trajectory(both.time_s[seen], both.xy[seen], both.size[seen])
    assert on_grid([gone], 0.4, 1.0).step.tolist() == [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15]
    assert on_grid([gone], 0.4, 2.5).step.tolist() == list(range(16))


def test_windows_tell_places_from_now_in_the_units_of_the_person() -> None:
    windows = cut_windows(on_grid([walker(0.0, 4.0)], 0.4, 0.5), 3, 2)
    assert windows.step.tolist() == [2, 3, 4, 5, 6, 7, 8]
    np.testing.assert_allclose(windows.places[0], [[-0.4, 0], [-0.2, 0], [0, 0], [0.2, 0], [0.4, 0]], atol=1e-6)
    np.testing.assert_allclose(windows.origin[:, 0], windows.step * 0.4)
    assert cut_windows(on_grid([walker(0.0, 4.0)], 0.4, 0.5), 3, 2, every=3).step.tolist() == [3, 6]
    assert len(cut_windows(on_grid([walker(0.0, 1.0)], 0.4, 0.5), 3, 2)) == 0
    assert len(cut_windows(on_grid([], 0.4, 0.5), 3, 2)) == 0


def test_the_nearest_others_are_told_with_their_steps() -> None:
    people = [walker(0.0, 4.0), walker(0.0, 4.0, x=6.0), walker(0.0, 4.0, x=-2.0, speed=2.0), walker(3.5, 4.0, x=1.0)]
    windows = cut_windows(on_grid(people, 0.4, 0.5), 2, 0, n_others=2)
    first = windows.take((windows.who == 0) & (windows.step == 1))
    # The one who is 1.6 behind is nearer than the one who is 6 ahead; who has just come does not count yet.
    np.testing.assert_allclose(first.others[0], [[-0.8, 0, 0.4, 0], [3.0, 0, 0.2, 0]], atol=1e-6)
    assert first.present.tolist() == [[True, True]]
    alone = cut_windows(on_grid(people[:1], 0.4, 0.5), 2, 0, n_others=2)
    assert not alone.present.any()
    assert not alone.others.any()


def test_company_is_who_spans_the_same_steps() -> None:
    windows = cut_windows(on_grid([walker(0.0, 4.0), walker(0.0, 2.0), walker(3.0, 4.0)], 0.4, 0.5), 3, 2)
    first = windows.take(windows.who == 0)
    assert first.step.tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert first.n_company.tolist() == [2, 2, 1, 1, 1, 1, 1]


@given(
    spans=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 25)), min_size=1, max_size=5),
    before=st.integers(1, 5),
    after=st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_windows_are_those_that_a_plain_loop_finds(spans: list[tuple[int, int]], before: int, after: int) -> None:
    people = [walker(start / 5, (start + length) / 5, rate=5.0) for start, length in spans]
    grid = on_grid(people, 0.4, 0.5)
    windows = cut_windows(grid, before, after)
    expected = []
    for who, (start, length) in enumerate(spans):
        steps = [k for k in range(60) if start <= 2 * k <= start + length]
        expected += [(who, k) for k in steps if all(k + j in steps for j in range(1 - before, after + 1))]
    assert list(zip(windows.who.tolist(), windows.step.tolist(), strict=True)) == expected


def test_joined_windows_know_their_scene() -> None:
    several = [cut_windows(on_grid([walker(0.0, 4.0)] * n, 0.4, 0.5), 3, 2) for n in (1, 3)]
    joined = Windows.joined(several)
    assert [len(list(group)) for _, group in itertools.groupby(joined.scene.tolist())] == [7, 21]


@pytest.mark.parametrize("order", [1, -1])
def test_boxes_stand_on_their_lower_side(order: int) -> None:
    boxes = np.array([[10, 20, 30, 100], [12, 20, 32, 104]], np.float32)[::order]
    track = Trajectory.of_boxes(np.array([0.0, 1.0]), boxes)
    np.testing.assert_allclose(track.xy[::order], [[20, 100], [22, 104]])
    np.testing.assert_allclose(track.size[::order], [80, 84])
