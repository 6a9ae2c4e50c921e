"""The sampling grid: step `k` lies at `k / rate` seconds and takes the frame shown then."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

MAX_HOLD_S = 10.0
"""A frame counts as shown for at most this long. Then a gap begins, at which the memory of the past is reset."""
LeftOut = Literal["DEFAULT", "NONREF", "BIDIR"]
"""The frames that a decoder leaves out, as FFmpeg's `skip_frame` names them."""
# Codecs in which only other B-frames need a B-frame. In HEVC and AV1, B-frames also take the part of P-frames.
_PLAIN_B_FRAMES = ("h264", "mpeg4", "mpeg2video", "msmpeg4v3")
# Encoders put three B-frames in a row by default, so one frame in four is not a B-frame.
_FRAMES_PER_REFERENCE = 4


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


def left_out(sampling: str, codec: str, fps: float, rate: Fraction) -> LeftOut:
    """Return the frames to skip; for `fast` all B-frames if enough frames remain, else those that no other needs."""
    if sampling == "exact":
        return "DEFAULT"
    enough_left = fps >= _FRAMES_PER_REFERENCE * rate
    return "BIDIR" if enough_left and codec in _PLAIN_B_FRAMES else "NONREF"
