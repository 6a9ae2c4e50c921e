"""Stretches of about two seconds of a person, or of whole frames, and their descriptions by stored features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.lake.sequences import StepSequence, VideoRows
from pipeline.motion.kinematics import BOX_MIRROR_SIGNS
from pipeline.motion.poses import MIRROR_ORDER, MIRROR_SIGNS
from pipeline.vision.keypoints import KEYPOINTS

HOP_S = 1.0
"""Seconds from the start of a stretch to the start of the next. A stretch is twice as long."""
# A shorter track has no stretch; `min_track_s` is the same limit for segments.
_SHORTEST_S = 0.5
# Added before the logarithm: a speed or a spread below this, in lengths per second, is jitter of the boxes.
_STILL, _STEADY = 0.1, 0.05
_PLACES = slice(0, 2 * len(KEYPOINTS))
_VELOCITIES = slice(3 * len(KEYPOINTS), 5 * len(KEYPOINTS))

PERSON, FRAME = "person", "frame"
Parts = dict[str, NDArray[np.float32]]
"""The description of `n` stretches in parts, each `float32 [n, D]`; NaN where a lake has no value."""


def kinds_of(options: dict[str, Any]) -> tuple[str, ...]:
    """Return the kinds of stretches of a lake whose features have these options: `person`, `frame`, or both."""
    people = options["scope"] in ("person", "both")
    frames = options["scope"] in ("frame", "both") and {"frame", "frame_flow"} & set(options["inputs"])
    return (*([PERSON] if people else []), *([FRAME] if frames else []))


def steps_per_second(options: dict[str, Any]) -> Fraction:
    """Return the rate of a lake's sampling grid."""
    return Fraction(options["sample_fps"]).limit_denominator(100_000)


def sequences_of(rows: VideoRows, track_ids: NDArray[np.int64], kind: str, rate: Fraction) -> Iterator[StepSequence]:
    """Yield the sequences from which a video's stretches are cut: long enough tracks, or frames without a gap.

    Args:
        rows: The video.
        track_ids: `int64 [N]`, for every box.
        kind: `PERSON` or `FRAME`.
        rate: Steps per second.
    """
    if kind == FRAME:
        yield from rows.frame_sequences()
        return
    for sequence in rows.track_sequences(track_ids):
        if sequence.n_steps >= _SHORTEST_S * rate:
            yield sequence


def cut(n_steps: int, rate: Fraction) -> NDArray[np.int64]:
    """Return the stretches of a sequence, `int64 [n, 2]`: first step and end, counted from its start.

    They are two hops long, and the last ends where the sequence does. A shorter sequence is one stretch.

    Args:
        n_steps: Length of the sequence.
        rate: Steps per second.
    """
    hop = max(1, round(HOP_S * rate))
    starts = list(range(0, max(1, n_steps - 2 * hop + 1), hop))
    if starts[-1] + 2 * hop < n_steps:
        starts.append(n_steps - 2 * hop)
    return np.array([(start, min(start + 2 * hop, n_steps)) for start in starts], np.int64)


def cut_around(start: float, end: float, n_steps: int, rate: Fraction) -> NDArray[np.int64]:
    """Return the stretches that stand for a part of a sequence, `int64 [n, 2]`, as `cut` does for all of it.

    A part shorter than a stretch is widened around its middle to the length of one, as far as the sequence reaches, so
    that stretches of the same length are compared.

    Args:
        start: Where the part starts, in steps from the sequence's start.
        end: Where it ends.
        n_steps: Length of the sequence.
        rate: Steps per second.
    """
    length = min(2 * max(1, round(HOP_S * rate)), n_steps)
    first, last = max(0, int(np.floor(start))), min(n_steps, int(np.ceil(end)))
    if last - first < length:
        first = min(max(0, round((start + end - length) / 2)), n_steps - length)
        last = first + length
    return cut(last - first, rate) + first


def describe(
    rows: VideoRows, sequence: StepSequence, stretches: NDArray[np.int64], inputs: Sequence[str], mirrored: bool = False
) -> Parts:
    """Return the description of some stretches of a sequence.

    `embedding` is the mean of the embedder's vectors, each of length 1; `flow` is the mean of the histograms of motion.
    People have more parts: `places` is the mean pose; `trend` is its change from the first to the second half of the
    stretch; `pace` is the logarithm of the mean speed of each keypoint; `box` is the mean, and the logarithm of the
    spread, of each number of `box_motion`. These parts were found by measurement: see `tests/bench/search.py`.

    Args:
        rows: The video.
        sequence: A track of it, or frames.
        stretches: `int64 [n, 2]`, as `cut` gives them.
        inputs: The inputs that the lake's features hold.
        mirrored: Whether to mirror poses and boxes.
    """
    prefix = _looks_input(sequence)
    parts: Parts = {}
    for name, part in ((prefix, "embedding"), (f"{prefix}_flow", "flow")):
        if name in inputs:
            parts[part] = _mean_vectors(rows, sequence, stretches, name)
    if sequence.box is not None:
        parts |= _of_body(rows, sequence, stretches, mirrored)
    return parts


def mean_looks(rows: VideoRows, sequence: StepSequence, stretches: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean embeddings of some stretches of a sequence, `float32 [n, D]`, scaled to length 1.

    Each of the embedder's vectors is scaled to length 1, too, before the mean.

    Args:
        rows: The video.
        sequence: A track of it, or frames, whose embeddings the lake holds.
        stretches: `int64 [n, 2]`, as `cut` gives them.
    """
    return unit(_mean_vectors(rows, sequence, stretches, _looks_input(sequence)))


def _looks_input(sequence: StepSequence) -> str:
    return "frame" if sequence.box is None else "crop"


def _mean_vectors(
    rows: VideoRows, sequence: StepSequence, stretches: NDArray[np.int64], name: str
) -> NDArray[np.float32]:
    """Return the mean of an input over each stretch, `float32 [n, D]`; only the steps that they span are read."""
    part, offset = _between(sequence, int(stretches.min()), int(stretches.max()))
    means = _Means(stretches - offset)
    total, first = np.zeros((1, 1), np.float32), 0
    for block in rows.inputs(part, [name]):
        vectors = block.astype(np.float32)
        if name in ("crop", "frame"):
            vectors = unit(vectors)
        total = total + means.of(vectors, first)
        first += len(block)
    return total


def _between(sequence: StepSequence, first: int, end: int) -> tuple[StepSequence, int]:
    """Return the views of a sequence that a range of its steps needs, and how many steps lie before them."""
    ends = np.cumsum(sequence.counts)
    starts = ends - sequence.counts
    views = slice(int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(starts, end, side="left")))
    offset = int(starts[views][0])
    part = replace(
        sequence,
        first_step=sequence.first_step + offset,
        counts=sequence.counts[views],
        frame=sequence.frame[views],
        box=None if sequence.box is None else sequence.box[views],
        xyxy=None if sequence.xyxy is None else sequence.xyxy[views],
    )
    return part, offset


def _of_body(
    rows: VideoRows, sequence: StepSequence, stretches: NDArray[np.int64], mirrored: bool
) -> dict[str, NDArray[np.float32]]:
    (moves,) = _joined(rows, sequence, "box")
    if mirrored:
        moves = moves * BOX_MIRROR_SIGNS
    means = _Means(stretches)
    mean = means.of(moves)
    spread = np.sqrt(np.maximum(means.of(moves**2) - mean**2, 0))
    parts = {"box": np.hstack([mean, np.log(_STEADY + spread)])}
    n_keypoints = rows.boxes.keypoints.shape[1]
    if n_keypoints != len(KEYPOINTS):
        # The part is of an earlier release, or the weights have other keypoints than COCO's.
        unknown = np.full((len(stretches), 2 * len(KEYPOINTS)), np.nan, np.float32)
        return parts | dict.fromkeys(("places", "trend", "pace"), unknown)
    (poses,) = _joined(rows, sequence, "pose")
    if mirrored:
        poses = poses[:, MIRROR_ORDER] * MIRROR_SIGNS
    places, speeds = poses[:, _PLACES], np.abs(poses[:, _VELOCITIES])
    start, end = stretches.T
    middle = (start + end) // 2
    early = _Means(np.stack([start, np.maximum(middle, start + 1)], axis=1))
    late = _Means(np.stack([middle, end], axis=1))
    return parts | {
        "places": means.of(places),
        "trend": late.of(places) - early.of(places),
        "pace": np.log(_STILL + means.of(speeds)),
    }


def _joined(rows: VideoRows, sequence: StepSequence, *names: str) -> Iterator[NDArray[np.float32]]:
    for name in names:
        yield np.concatenate(list(rows.inputs(sequence, [name]))).astype(np.float32)


class _Means:
    """Averages the steps of a sequence over stretches."""

    def __init__(self, stretches: NDArray[np.int64]) -> None:
        """Take n stretches, `int64 [n, 2]`: the first step, and the one after the last."""
        lengths = stretches[:, 1] - stretches[:, 0]
        ends = np.cumsum(lengths)
        self._n = len(stretches)
        # Stretches overlap, so the steps of each are listed, one stretch after the other.
        self._stretch = np.repeat(np.arange(self._n), lengths)
        self._step = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths) + np.repeat(stretches[:, 0], lengths)
        self._weight = np.repeat(1 / lengths, lengths).astype(np.float32)[:, None]

    def of(self, rows: NDArray[np.float32], first: int = 0) -> NDArray[np.float32]:
        """Return the part of the means, `float32 [n, D]`, that rows `[t, D]` add; `first` is the step of the first."""
        here = (self._step >= first) & (self._step < first + len(rows))
        stretch, values = self._stretch[here], rows[self._step[here] - first] * self._weight[here]
        begins = np.flatnonzero(np.diff(stretch, prepend=-1))
        means = np.zeros((self._n, rows.shape[1]), np.float32)
        if len(begins):
            means[stretch[begins]] = np.add.reduceat(values, begins, axis=0)
        return means


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors `float32 [n, D]` scaled to length 1; zero vectors stay as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
