"""The sampling grid: step `k` lies at `k / rate` seconds and takes the frame shown then."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

MAX_HOLD_S = 10.0
"""A frame counts as shown for at most so long; what follows is a gap, at which memory of the past is reset."""


@dataclass(frozen=True)
class Grid:
    """Exact arithmetic between presentation times and steps of the sampling grid."""

    rate: Fraction
    """Steps per second."""
    time_base: Fraction
    """Seconds per unit of PTS."""
    origin_pts: int
    """PTS of time zero."""

    def seconds(self, pts: int) -> float:
        """Return the time of a PTS in seconds since time zero."""
        return float((pts - self.origin_pts) * self.time_base)

    def first_step(self, pts: int) -> int:
        """Return the first step at or after a PTS: the first that may show its frame."""
        steps = (pts - self.origin_pts) * self.time_base * self.rate
        return -(-steps.numerator // steps.denominator)

    def hold_end(self, pts: int) -> int:
        """Return the first step after a PTS at which its frame no longer counts as shown."""
        held = int(Fraction(MAX_HOLD_S) / self.time_base)
        return self.first_step(pts + held)

    def pts_at(self, step: int) -> int:
        """Return the largest PTS that is not after a step."""
        units = step / (self.time_base * self.rate)
        return self.origin_pts + units.numerator // units.denominator
