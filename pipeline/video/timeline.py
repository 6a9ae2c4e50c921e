"""Place the packets of a file on one increasing timeline, also where recordings were joined end to end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.archive.container import Clock

# Decoding times rise in every intact stream. A smaller step back is a hiccup of the writer; its frames are left out.
_HICCUP_S = 0.25
# FFmpeg's own threshold (`dts_delta_threshold`) for broadcast formats, whose clock may jump: no gap is that long.
_LONGEST_GAP_S = 10.0
# Broadcast formats count time in 33 bits.
_WRAP = 1 << 33
# A longer group of pictures is decoded at once. It is not held back until it is known whether it is wanted.
_MAX_HELD_PACKETS = 2000


class Placed(NamedTuple):
    """A packet whose timestamps continue those of the packets before it."""

    packet: Packet[VideoStream]
    joined: bool
    """Whether another recording begins with this packet."""


@dataclass
class Timeline:
    """Shifts timestamps so that each recording begins where the one before it ended.

    A recording begins where the decoding time goes back by more than a hiccup and the next packet continues from there.
    In broadcast formats it also begins where the decoding time leaps ahead by more than `_LONGEST_GAP_S`; every player
    does the same. In other formats a leap ahead means that the camera paused, and it stays a gap. A clock that wraps is
    continued to the exact unit.
    """

    clock: Clock
    unit_s: float
    """Seconds per unit of time."""
    usual_duration: int
    """Duration of a frame, in units, if its packet gives none."""
    _shift: int = 0
    _last_dts: int | None = None
    _end: int = 0
    """End of the last frame in the order of presentation."""
    _next_dts: int = 0
    _held: Packet[VideoStream] | None = field(default=None, repr=False)

    def place(self, packets: Iterable[Packet[VideoStream]]) -> Iterator[Placed]:
        """Yield the packets with shifted timestamps; each is held back until the next is known."""
        for following in packets:
            if self._held is not None:
                yield self._place(self._held, following)
            self._held = following
        if self._held is not None:
            yield self._place(self._held, None)
            self._held = None

    def _place(self, packet: Packet[VideoStream], following: Packet[VideoStream] | None) -> Placed:
        if packet.dts is None or self.clock == "tables":
            return Placed(packet, False)
        joined = False
        if self._last_dts is not None:
            step = packet.dts - self._last_dts
            wraps = self._wraps(step)
            if self._leaps(step - wraps):
                if not self._goes_on(packet.dts, following):
                    # A single stray packet: its frame has no place on the timeline.
                    packet.pts = None
                    return Placed(packet, False)
                joined = True
                start = packet.pts if packet.is_keyframe and packet.pts is not None else packet.dts
                self._shift = (self._end if packet.is_keyframe else self._next_dts) - start
            else:
                self._shift -= wraps
        self._last_dts = packet.dts
        duration = packet.duration or self.usual_duration
        self._next_dts = packet.dts + self._shift + duration
        pts = packet.pts
        if pts is not None:
            # The presentation time may already lie after the wrap while the decoding time does not.
            pts -= self._wraps(pts - packet.dts)
            self._end = max(self._end, pts + self._shift + duration) if not joined else pts + self._shift + duration
        if self._shift or pts != packet.pts:
            packet.pts = None if pts is None else pts + self._shift
            packet.dts = packet.dts + self._shift
        return Placed(packet, joined)

    def _wraps(self, step: int) -> int:
        """Return the part of a time step that the clock's wrapping adds."""
        if self.clock != "broadcast" or abs(step) <= _WRAP // 2:
            return 0
        return _WRAP if step > 0 else -_WRAP

    def _leaps(self, step: int) -> bool:
        step_s = step * self.unit_s
        return step_s < -_HICCUP_S or (self.clock == "broadcast" and step_s > _LONGEST_GAP_S)

    def _goes_on(self, dts: int, following: Packet[VideoStream] | None) -> bool:
        """Return False for a stray packet: the packet after it is nearer in time to the packets before it."""
        assert self._last_dts is not None
        if following is None or following.dts is None:
            return True
        from_here, from_before = following.dts - dts, following.dts - self._last_dts
        return abs(from_here - self._wraps(from_here)) <= abs(from_before - self._wraps(from_before))


def from_keyframe_before(placed: Iterable[Placed], pts: int) -> Iterator[Placed]:
    """Skip the packets before the last keyframe that is shown at `pts` or earlier, without decoding."""
    held: list[Placed] = []
    packets = iter(placed)
    for one in packets:
        if one.packet.is_keyframe and one.packet.pts is not None:
            if one.packet.pts > pts:
                held.append(one)
                break
            held.clear()
        held.append(one)
        if len(held) > _MAX_HELD_PACKETS:
            break
    yield from held
    yield from packets
