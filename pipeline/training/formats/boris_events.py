"""Turn the events of BORIS - starts, stops and moments on the timeline of an observation - into spans of files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import UsageError
from pipeline.training.annotations import Annotation

# Lengths in a project are rounded, so an event of the last frame may be after the end.
_SLACK_S = 0.1


@dataclass(frozen=True)
class Event:
    """One event of one observation."""

    where: str
    """File and place, for messages."""
    observation: str
    subject: str
    behaviour: str
    modifiers: tuple[str, ...]
    kind: Literal["START", "STOP", "POINT"]
    time_s: float
    """Since the start of the observation's first file."""
    file: str = ""
    """The file of the event, if it is known."""


@dataclass(frozen=True)
class Media:
    """The files that an observation plays one after the other. Its times run through all of them."""

    files: tuple[str, ...]
    lengths_s: tuple[float, ...] = ()
    """Empty: unknown."""

    def pieces(self, start: Event, end_s: float) -> Iterator[tuple[str, float, float | None]]:
        """Yield `(file, start, end)` of each file that a span of the observation lies in, in seconds of that file.

        Raises:
            UsageError: The file is not known, or the span ends after the last file.
        """
        where, start_s = start.where, start.time_s
        if len(self.files) == 1:
            yield self.files[0], start_s, end_s
            return
        if len(self.lengths_s) != len(self.files):
            if start.file == self.files[0]:
                yield start.file, start_s, end_s
                return
            raise UsageError(
                f"{where}: its observation plays {len(self.files)} files one after the other, and nothing tells how "
                "long they are; give the project (.boris), or export anew with BORIS 8 or newer"
            )
        opens_s = 0.0
        for number, (file, length_s) in enumerate(zip(self.files, self.lengths_s, strict=True)):
            closes_s = opens_s + length_s + (_SLACK_S if number == len(self.files) - 1 else 0.0)
            is_in = opens_s <= start_s < closes_s if start_s == end_s else start_s < closes_s and end_s > opens_s
            if is_in:
                piece_end_s = None if end_s > closes_s else round(end_s - opens_s, 9)
                yield file, max(0.0, round(start_s - opens_s, 9)), piece_end_s
            opens_s += length_s
        if max(start_s, end_s) > opens_s + _SLACK_S:
            raise UsageError(f"{where}: {end_s:g} s is past the end of the observation's files at {opens_s:g} s")


def spans_of(events: Iterable[Event], media: dict[str, Media]) -> list[Annotation]:
    """Pair starts and stops of one behaviour (with its modifiers) of one subject. A point is a span of one moment.

    Subjects are not labels: what two subjects do at the same time is one span of the video.

    Args:
        events: The events, in the order of their times.
        media: The media of each observation.

    Returns:
        The spans, in the order of their starts.

    Raises:
        UsageError: A start has no stop, or a stop no start.
    """
    opened: dict[tuple[str, str, str, tuple[str, ...]], tuple[int, Event]] = {}
    found: dict[Annotation, int] = {}
    for number, event in enumerate(events):
        key = (event.observation, event.subject, event.behaviour, event.modifiers)
        first, start = number, event
        if event.kind == "START":
            if key in opened:
                raise _unpaired(opened[key][1], "begins again before it ended")
            opened[key] = number, event
            continue
        if event.kind == "STOP":
            # BORIS may ask for a modifier only at the stop.
            similar = [key] if key in opened else [other for other in opened if other[:3] == key[:3]]
            if len(similar) != 1:
                raise _unpaired(event, "ends, but never began")
            first, start = opened.pop(similar[0])
        for file, start_s, end_s in media[event.observation].pieces(start, event.time_s):
            found.setdefault(Annotation(file, event.behaviour, start_s, end_s, where=start.where), first)
    for _, event in opened.values():
        raise _unpaired(event, "begins and never ends")
    return sorted(found, key=lambda annotation: found[annotation])


def _unpaired(event: Event, what: str) -> UsageError:
    of = f" of {event.subject!r}" if event.subject else ""
    return UsageError(
        f"{event.where}: {event.behaviour!r}{of} in observation {event.observation!r} {what} ({event.time_s:g} s); "
        "let BORIS check the observation's state events, add what is missing there, and save or export it again"
    )


def by_time(events: Sequence[Event]) -> list[Event]:
    """Return events in the order of their times. Events of the same time keep their order."""
    return sorted(events, key=lambda event: event.time_s)
