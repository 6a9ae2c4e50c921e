"""Zones and lines in the picture: who is in them, who crosses them, and who is expected to cross them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

# A person who jitters on a border neither enters nor leaves: only this share of the person's height beyond it counts.
_CLEARLY = 0.05
# Number of paths that are drawn from each forecast.
_N_DRAWN = 200
# Expected crossings with a lower probability are not reported.
_LEAST_PROBABLE = 0.05


@dataclass(frozen=True)
class Zone:
    """A part of the picture in which a person's feet can be."""

    name: str
    polygon: NDArray[np.float32]
    """`float32 [K, 2]`, source pixels; K is 3 or more."""

    def depth(self, feet: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far inside places `float64 [N, 2]` are, in pixels; below 0: outside."""
        inside = [cv2.pointPolygonTest(self.polygon, (x, y), True) for x, y in feet.tolist()]
        return np.array(inside, np.float64)


@dataclass(frozen=True)
class Line:
    """A line from one point to another that a person's feet can cross."""

    name: str
    start: NDArray[np.float64]
    """`float64 [2]`, source pixels."""
    end: NDArray[np.float64]
    """`float64 [2]`, source pixels."""

    def depth(self, feet: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far to the right of the line places `[..., 2]` are, seen from its start to its end, in pixels."""
        along = (self.end - self.start) / np.linalg.norm(self.end - self.start)
        apart = feet - self.start
        right: NDArray[np.float64] = along[0] * apart[..., 1] - along[1] * apart[..., 0]
        return right

    def share(self, feet: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the positions of places `[..., 2]` along the line: 0 is its start, 1 its end."""
        whole = self.end - self.start
        share: NDArray[np.float64] = (feet - self.start) @ whole / (whole @ whole)
        return share


class Visit(NamedTuple):
    """A stay in a zone."""

    entered_s: float
    left_s: float
    was_there: bool
    """Whether the person was already in it when first seen, so that the entry was not seen."""
    stays: bool
    """Whether the person was still in it when last seen, so that the exit was not seen."""


class Crossing(NamedTuple):
    """A crossing of a line."""

    at_s: float
    direction: str
    """`right` or `left`: to which side, seen from the line's start to its end."""


class Expected(NamedTuple):
    """A crossing that is forecast."""

    in_s: float
    """Median time of the crossing, over the paths that cross."""
    probability: float
    """Share of the paths that cross."""
    direction: str


def visits(
    zone: Zone, time_s: NDArray[np.float64], feet: NDArray[np.float64], height: NDArray[np.float64]
) -> Iterator[Visit]:
    """Yield the stays of one person in a zone.

    Args:
        zone: The zone.
        time_s: `float64 [N]`, rising.
        feet: `float64 [N, 2]`, source pixels.
        height: `float64 [N]`: height of the person, in pixels.
    """
    changes = _changes(zone.depth(feet), time_s, height)
    is_in, since_s, was_there = False, 0.0, False
    for number, (at_s, inside) in enumerate(changes):
        if inside:
            is_in, since_s, was_there = True, at_s, number == 0
        elif is_in:
            yield Visit(since_s, at_s, was_there, False)
            is_in = False
    if is_in:
        yield Visit(since_s, float(time_s[-1]), was_there, True)


def crossings(
    line: Line, time_s: NDArray[np.float64], feet: NDArray[np.float64], height: NDArray[np.float64]
) -> Iterator[Crossing]:
    """Yield the crossings of a line by one person; see `visits` for the arguments."""
    for at_s, right in itertools.islice(_changes(line.depth(feet), time_s, height), 1, None):
        place = np.array([np.interp(at_s, time_s, column) for column in feet.T])
        if 0 <= line.share(place) <= 1:
            yield Crossing(at_s, "right" if right else "left")


def _changes(
    depth: NDArray[np.float64], time_s: NDArray[np.float64], height: NDArray[np.float64]
) -> Iterator[tuple[float, bool]]:
    """Yield the first side on which a person is, and each change: the time, and whether it is the positive side.

    The time of a change is the last time at which the person passed the border itself before being clearly beyond it.
    """
    side = np.where(np.abs(depth) >= _CLEARLY * height, np.sign(depth), 0)
    rows = np.flatnonzero(side)
    if not len(rows):
        return
    yield float(time_s[0]), bool(side[rows[0]] > 0)
    for before, after in itertools.pairwise(rows.tolist()):
        if side[before] != side[after]:
            signs = np.sign(depth[before : after + 1])
            last = before + int(np.flatnonzero(signs != side[after])[-1])
            low, high = depth[last], depth[last + 1]
            share = low / (low - high)
            yield float(time_s[last] + share * (time_s[last + 1] - time_s[last])), bool(side[after] > 0)


@functools.cache
def _drawn() -> NDArray[np.float64]:
    """Return standard normal numbers. All forecasts use the same ones, so that equal forecasts cross equally."""
    return np.random.default_rng(0).standard_normal((_N_DRAWN, 1, 2))


def expected_crossing(
    line: Line,
    now: NDArray[np.float64],
    horizon_s: NDArray[np.float64],
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
    rho: NDArray[np.float64],
) -> Expected | None:
    """Return the crossing that a forecast expects; None if hardly any of its paths crosses.

    Each path is drawn as a whole: if it is to the left of the mean at one step, it is so at all steps.

    Args:
        line: The line.
        now: `float64 [2]`: place of the feet now.
        horizon_s: `float64 [P]`: time of each step from now.
        mean: `float64 [P, 2]`
        deviation: `float64 [P, 2]`: standard deviations in x and y.
        rho: `float64 [P]`: their correlation.
    """
    drawn = _drawn()
    x = mean[:, 0] + deviation[:, 0] * drawn[..., 0]
    y = mean[:, 1] + deviation[:, 1] * (rho * drawn[..., 0] + np.sqrt(1 - rho**2) * drawn[..., 1])
    paths = np.concatenate([np.broadcast_to(now, (_N_DRAWN, 1, 2)), np.stack([x, y], axis=-1)], axis=1)
    depth = line.depth(paths)
    low, high = depth[:, :-1], depth[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = low / (low - high)
    place = paths[:, :-1] + share[..., None] * np.diff(paths, axis=1)
    along = line.share(place)
    crosses = (np.sign(low) != np.sign(high)) & (along >= 0) & (along <= 1)
    does = crosses.any(axis=1)
    if does.mean() < _LEAST_PROBABLE:
        return None
    first = crosses.argmax(axis=1)[does]
    times_s = np.concatenate([[0.0], horizon_s])
    at_s = times_s[first] + share[does, first] * np.diff(times_s)[first]
    is_right = high[does, first] > 0
    return Expected(float(np.median(at_s)), float(does.mean()), "right" if is_right.mean() >= 0.5 else "left")
