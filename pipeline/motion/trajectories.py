"""Positions of people on a time grid, from which a forecaster learns and forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.motion.ground import Ground

_EPSILON = 1e-6


def feet_of(xyxy: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return where people with boxes `float32 [N, 4]` stand, `float64 [N, 2]`: below the middle of each box."""
    return np.column_stack([(xyxy[:, 0] + xyxy[:, 2]) / 2, xyxy[:, 3]]).astype(np.float64)


def rows_by(ids: NDArray[np.int64] | NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """Return the rows of each id, `int64 [n]`, in the order of ids; the rows of one id keep their order."""
    order = np.argsort(ids, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(ids[order])) + 1) if len(order) else []


@dataclass(frozen=True)
class Trajectory:
    """The places of one person; arrays of one length."""

    time_s: NDArray[np.float64]
    """`float64 [N]`, rising."""
    xy: NDArray[np.float64]
    """`float64 [N, 2]`, in pixels or in metres."""
    size: NDArray[np.float64]
    """`float64 [N]`: length of the forecaster's unit there, in the unit of `xy`: the person's height for pixels, 1 for
    metres."""

    @classmethod
    def of_boxes(
        cls, time_s: NDArray[np.float64], xyxy: NDArray[np.float32], ground: Ground | None = None
    ) -> Trajectory:
        """Return where the feet of one person were: below the middle of each box.

        Args:
            time_s: `float64 [N]`, rising.
            xyxy: `float32 [N, 4]`, pixels.
            ground: The ground, for places in metres; None: places in pixels, with the person's heights as sizes.
        """
        feet = feet_of(xyxy)
        if ground is not None:
            return cls(time_s, ground.to_metres(feet), np.ones(len(feet)))
        return cls(time_s, feet, np.maximum(xyxy[:, 3] - xyxy[:, 1], 1.0).astype(np.float64))


@dataclass(frozen=True)
class Grid:
    """Trajectories of one scene at whole multiples of a step; a row is one person at one time."""

    who: NDArray[np.int64]
    """`int64 [R]`: index of the trajectory; rising."""
    step: NDArray[np.int64]
    """`int64 [R]`; rising within a trajectory, with a jump where nothing is known."""
    xy: NDArray[np.float64]
    """`float64 [R, 2]`"""
    size: NDArray[np.float64]
    """`float64 [R]`"""


@dataclass(frozen=True)
class Windows:
    """Stretches of trajectories, each cut out around a time that is called now."""

    scene: NDArray[np.int64]
    """`int64 [N]`: number of the scene among the joined ones."""
    who: NDArray[np.int64]
    """`int64 [N]`: index of the trajectory in its scene."""
    step: NDArray[np.int64]
    """`int64 [N]`: the step of now."""
    places: NDArray[np.float32]
    """`float32 [N, T, 2]` in the forecaster's unit, from now as the origin."""
    origin: NDArray[np.float64]
    """`float64 [N, 2]`: the place now, in the trajectory's unit."""
    size: NDArray[np.float64]
    """`float64 [N]`: length of the forecaster's unit, in the trajectory's unit."""
    others: NDArray[np.float32]
    """`float32 [N, K, 4]`: place and last step of the nearest others now, in the forecaster's unit, nearest first."""
    present: NDArray[np.bool_]
    """`bool [N, K]`: which of the others exist."""
    n_company: NDArray[np.int64]
    """`int64 [N]`: number of trajectories that span the same steps, including its own."""

    def __len__(self) -> int:
        return len(self.who)

    @classmethod
    def joined(cls, several: Sequence[Windows]) -> Windows:
        """Return the windows of several scenes as one."""
        joined = {name: np.concatenate([getattr(each, name) for each in several]) for name in vars(several[0])}
        numbers = np.repeat(np.arange(len(several)), [len(each) for each in several])
        return cls(**(joined | {"scene": numbers}))

    def take(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> Windows:
        """Return some of the windows."""
        return Windows(**{name: values[chosen] for name, values in vars(self).items()})


def on_grid(trajectories: Sequence[Trajectory], step_s: float, gap_s: float) -> Grid:
    """Interpolate trajectories at the multiples of a step that they cover.

    Args:
        trajectories: Trajectories of one scene, on one clock.
        step_s: Seconds between two points of the grid.
        gap_s: Longer gaps in a trajectory are not interpolated.
    """
    who, step, xy, size = [], [], [], []
    for number, each in enumerate(trajectories):
        if not len(each.time_s):
            continue
        first, last = (each.time_s[[0, -1]] / step_s + [-_EPSILON, _EPSILON]).tolist()
        steps = np.arange(int(np.ceil(first)), int(np.floor(last)) + 1)
        after = np.searchsorted(each.time_s, steps * step_s - _EPSILON * step_s).clip(0, len(each.time_s) - 1)
        before = np.where(each.time_s[after] <= steps * step_s + _EPSILON * step_s, after, (after - 1).clip(0))
        steps = steps[each.time_s[after] - each.time_s[before] <= gap_s + _EPSILON]
        who.append(np.full(len(steps), number))
        step.append(steps)
        xy.append(np.column_stack([np.interp(steps * step_s, each.time_s, column) for column in each.xy.T]))
        size.append(np.interp(steps * step_s, each.time_s, each.size))
    if not who:
        return Grid(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 2)), np.empty(0))
    return Grid(np.concatenate(who), np.concatenate(step), np.concatenate(xy), np.concatenate(size))


def cut_windows(grid: Grid, n_before: int, n_after: int, n_others: int = 0, every: int = 1) -> Windows:
    """Cut all windows out of a grid.

    Args:
        grid: The trajectories.
        n_before: Steps up to and including now. All of them must be known.
        n_after: Steps after now. All of them must be known, too.
        n_others: Largest number of others in a window.
        every: Now is a multiple of this many steps.
    """
    length = n_before + n_after
    follows = np.ones(len(grid.who), np.bool_)
    follows[1:] = (np.diff(grid.who) == 0) & (np.diff(grid.step) == 1)
    # The first row of the unbroken stretch that leads up to each row.
    starts = np.maximum.accumulate(np.where(follows, 0, np.arange(len(follows)))) if len(follows) else follows
    ends = np.flatnonzero(np.arange(len(follows)) - starts >= length - 1)
    now = ends - n_after
    kept = grid.step[now] % every == 0
    now, ends = now[kept], ends[kept]
    rows = now[:, None] + np.arange(1 - n_before, n_after + 1)
    # The height of a box jitters; its median over the observed steps does not.
    size = np.median(grid.size[rows[:, :n_before]], axis=1) if len(rows) else np.empty(0)
    origin = grid.xy[now]
    places = ((grid.xy[rows] - origin[:, None]) / size[:, None, None]).astype(np.float32)
    _, alike, counts = np.unique(grid.step[now], return_inverse=True, return_counts=True)
    others, present = _nearest_others(grid, now, size, n_others)
    scene = np.zeros(len(now), np.int64)
    return Windows(scene, grid.who[now], grid.step[now], places, origin, size, others, present, counts[alike])


def _nearest_others(
    grid: Grid, now: NDArray[np.int64], size: NDArray[np.float64], n_others: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the nearest others of each window, `float32 [N, n_others, 4]`, and which exist, `bool [N, n_others]`.

    Others count from their second step on, when their motion is known.
    """
    others = np.zeros((len(now), n_others, 4), np.float32)
    present = np.zeros((len(now), n_others), np.bool_)
    if not n_others or not len(now):
        return others, present
    rows = 1 + np.flatnonzero((np.diff(grid.who) == 0) & (np.diff(grid.step) == 1))
    rows = rows[np.argsort(grid.step[rows], kind="stable")]
    steps = grid.step[rows]
    for of_step in rows_by(grid.step[now]):
        step = grid.step[now[of_step[0]]]
        there = rows[np.searchsorted(steps, step) : np.searchsorted(steps, step, side="right")]
        between = grid.xy[there][None] - grid.xy[now[of_step]][:, None]
        apart = np.hypot(between[..., 0], between[..., 1])
        apart[there[None] == now[of_step][:, None]] = np.inf
        nearest = np.argsort(apart, axis=1, kind="stable")[:, :n_others]
        width = nearest.shape[1]
        found = np.take_along_axis(apart, nearest, axis=1) < np.inf
        moved = (grid.xy[there] - grid.xy[there - 1])[nearest]
        states = np.concatenate([np.take_along_axis(between, nearest[..., None], axis=1), moved], axis=2)
        others[of_step, :width] = states / size[of_step][:, None, None] * found[..., None]
        present[of_step, :width] = found
    return others, present
