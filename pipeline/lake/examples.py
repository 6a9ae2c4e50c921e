"""Examples for a search: parts of a lake's videos that a person names, located among the lake's features."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader
from pipeline.lake.sequences import StepSequence, VideoRows
from pipeline.lake.stretches import FRAME, PERSON, Parts, cut_around, describe, kinds_of, steps_per_second
from pipeline.motion.tracking import NO_TRACK

log = logging.getLogger(__name__)

# A message names at most this many tracks.
_NAMED = 5

# Least IoU of an example's box and a track's mean box, times the share of the span that the track covers.
_LEAST_SHARED = 0.3


@dataclass(frozen=True)
class Example:
    """A part of a video of the lake. It shows what the search wants, or what it does not want."""

    video_id: str
    start_s: float
    end_s: float
    """The same as the start for a moment. A part shorter than a stretch stands for the stretch around it."""
    track_id: int | None = None
    """Track of the person shown. None: the person with the largest boxes, or the whole frame if nobody is followed."""
    box: tuple[float, float, float, float] | None = None
    """Mean box of the person shown, in source pixels; used only without a `track_id`."""
    label: str = ""
    is_negative: bool = False
    """Whether it shows what the search does not want."""
    where: str = ""
    """Name of the example in messages."""


@dataclass(frozen=True)
class Shown:
    """An example that was located among the lake's features."""

    example: Example
    kind: str
    """`PERSON` or `FRAME`."""
    track_id: int
    """`NO_TRACK` for whole frames."""
    start_s: float
    """Start of the stretches that stand for it."""
    end_s: float
    """End of these stretches."""
    parts: tuple[Parts, ...]
    """Descriptions of its stretches; for a person, also of the mirrored stretches."""


def example_like(lake: LakeReader, text: str, track_id: int | None = None, model: str | None = None) -> Example:
    """Return the example that a text names: a segment's id, or `VIDEO@SECONDS`, where VIDEO is part of one path.

    Args:
        lake: An open lake.
        text: The text.
        track_id: Track of the person, for a moment of a video. None: the person with the largest box.
        model: Model of the segment. None: the only model that has a segment of this id.

    Raises:
        UsageError: The text names nothing or several things, or a moment outside of the video.
    """
    video, at, seconds = text.rpartition("@")
    if not at:
        if track_id is not None:
            raise UsageError("--person: a segment already is one person's; leave it out")
        return _of_segment(lake, text, model)
    try:
        at_s = float(seconds)
    except ValueError as error:
        raise UsageError(f"--like {text!r}: {seconds!r} are no seconds; write VIDEO@12.5") from error
    row = lake.video(video)
    if not (math.isfinite(at_s) and at_s >= 0):
        raise UsageError(f"--like {text!r}: a video starts at 0 s")
    if row["duration_s"] and at_s >= row["duration_s"]:
        raise UsageError(f"--like {text!r}: {row['uri']} ends at {row['duration_s']:.2f} s")
    return Example(row["video_id"], at_s, at_s, track_id, where=f"{row['uri']} at {at_s:g} s")


def _of_segment(lake: LakeReader, segment_id: str, model: str | None) -> Example:
    columns = ["video_id", "uri", "track_id", "label", "start_s", "end_s", "model"]
    rows = lake.table("segments", columns, pc.field("segment_id") == segment_id).to_pylist()
    if model is not None:
        rows = [row for row in rows if row["model"] == lake.model(model)]
    if not rows:
        raise UsageError(
            f"--like {segment_id!r}: no such segment in {lake.store.uri}; name a moment, VIDEO@12.5, or a segment_id "
            "of SELECT * FROM segments"
        )
    if len(rows) > 1:
        raise UsageError(
            f"--like {segment_id!r}: segments of {', '.join(sorted(row['model'] for row in rows))} have this id; "
            "name one with --model"
        )
    (row,) = rows
    return Example(
        row["video_id"],
        row["start_s"],
        row["end_s"],
        row["track_id"],
        label=row["label"],
        where=f"segment {segment_id}",
    )


def show(lake: LakeReader, examples: Sequence[Example]) -> list[Shown]:
    """Locate examples among the lake's features. Those where nobody was followed are logged and left out.

    Raises:
        UsageError: No positive example is left.
    """
    of_video: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        of_video[example.video_id].append(example)
    shown: list[Shown] = []
    missing: list[str] = []
    for video_id, rows, track_ids in lake.videos(of_video):
        for example in of_video.pop(video_id):
            try:
                shown.append(_show(lake.feature_options, rows, track_ids, example))
            except UsageError as error:
                missing.append(str(error))
    missing += [f"{each.where}: nothing of its video was seen" for left in of_video.values() for each in left]
    if all(each.example.is_negative for each in shown):
        raise UsageError(missing[0])
    if missing:
        log.warning("%d of %d examples are left out; the first: %s", len(missing), len(examples), missing[0])
    return shown


def _show(options: dict[str, Any], rows: VideoRows, track_ids: NDArray[np.int64], example: Example) -> Shown:
    """Find an example among a video's tracks or frames."""
    rate = steps_per_second(options)
    start, end = example.start_s * float(rate), example.end_s * float(rate)
    # A moment is within the step that shows it.
    sequence = _sequence(options, rows, track_ids, example, start, max(end, start + 1e-3))
    stretches = cut_around(start - sequence.first_step, end - sequence.first_step, sequence.n_steps, rate)
    of_person = sequence.track_id is not None
    # A pose can be mirrored. The embedding of a mirrored picture is not known.
    sides = (False, True) if of_person else (False,)
    who = f"person {sequence.track_id}" if of_person else "the whole frame"
    log.info("like %s: %s", example.where or example.video_id, who)
    parts = tuple(describe(rows, sequence, stretches, options["inputs"], mirrored) for mirrored in sides)
    first, last = sequence.first_step + int(stretches[0, 0]), sequence.first_step + int(stretches[-1, 1])
    return Shown(
        example,
        PERSON if of_person else FRAME,
        NO_TRACK if sequence.track_id is None else sequence.track_id,
        first / float(rate),
        last / float(rate),
        parts,
    )


def _sequence(
    options: dict[str, Any], rows: VideoRows, track_ids: NDArray[np.int64], example: Example, start: float, end: float
) -> StepSequence:
    """Return the track, or the frames, that an example shows; `start` and `end` are in steps."""

    def is_there(sequence: StepSequence) -> bool:
        return sequence.first_step < end and sequence.first_step + sequence.n_steps > start

    kinds = kinds_of(options)
    tracks = list(rows.track_sequences(track_ids)) if PERSON in kinds else []
    there = [track for track in tracks if is_there(track) and example.track_id in (None, track.track_id)]
    if example.box is not None and example.track_id is None:
        meant = track_at(np.array(example.box, np.float32), math.floor(start), math.ceil(end), there)
        there = [] if meant is None else [meant]
    if there:
        return max(there, key=lambda track: _area(track, start, end))
    if FRAME in kinds and example.track_id is None:
        for frames in filter(is_there, rows.frame_sequences()):
            return frames
    if PERSON in kinds:
        raise UsageError(
            f"{example.where}: {_whom_instead(tracks, example.track_id, float(steps_per_second(options)))}"
        )
    leave = "" if example.track_id is None else "; nobody is followed in this lake, so name no person"
    raise UsageError(f"{example.where}: no frame was seen there{leave}")


def _whom_instead(tracks: Sequence[StepSequence], track_id: int | None, rate: float) -> str:
    """Return a message: the person is not followed at that time, and these people are followed at these times."""
    followed = [
        f"person {track.track_id} from {track.first_step / rate:.1f} "
        f"to {(track.first_step + track.n_steps) / rate:.1f} s"
        for track in sorted(tracks, key=lambda track: (track.track_id != track_id, track.first_step))
    ]
    more = ", ..." if len(followed) > _NAMED else ""
    known = f"the video has {', '.join(followed[:_NAMED])}{more}" if followed else "nor elsewhere in the video"
    return f"{'nobody is' if track_id is None else f'person {track_id} is not'} followed there; {known}"


def _area(track: StepSequence, start: float, end: float) -> float:
    """Return how large a track's boxes are over some steps, in pixels times steps."""
    ends = track.first_step + np.cumsum(track.counts)
    overlap = (np.minimum(ends, end) - np.maximum(ends - track.counts, start)).clip(0)
    assert track.xyxy is not None
    sides = track.xyxy[:, 2:] - track.xyxy[:, :2]
    return float((overlap * sides[:, 0] * sides[:, 1]).sum())


def track_at(
    box: NDArray[np.float32], first_step: int, end_step: int, tracks: Sequence[StepSequence]
) -> StepSequence | None:
    """Return the track whose mean box over a span of steps matches a box best; None: none matches.

    A track that covers only a part of the span counts less than one that covers all of it.

    Args:
        box: `float32 [4]`: left, top, right, bottom in source pixels.
        first_step: Start of the span, in steps of the sampling grid.
        end_step: End of the span.
        tracks: The tracks of the video.
    """
    best, most = None, _LEAST_SHARED
    for track in tracks:
        first, end = max(track.first_step, first_step), min(track.first_step + track.n_steps, end_step)
        mean = track.mean_box(first, end) if first < end else None
        shared = 0.0 if mean is None else iou(box, mean) * (end - first) / (end_step - first_step)
        if shared >= most:
            best, most = track, shared
    return best


def iou(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return the area that two boxes `float32 [4]` share, as share of their union."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    common = float(np.prod(sides.clip(0)))
    return common / max(1e-6, float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - common)
