"""Divide the work: group whole videos into shards, cut a video's span into keyframe-aligned chunks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from pipeline.archive.probe import Probe
from pipeline.archive.refs import VideoRef
from pipeline.errors import VideoError

OPEN_END = -1
"""`end_step` of a chunk that runs to the end of its file, wherever that is."""
# A shard is cut into at least this many chunks, unless they would be shorter than `_SHORTEST_CHUNK_S`.
_CHUNKS_OF_SHARD = 64
_SHORTEST_CHUNK_S = 5.0
# With fewer chunks than this, all but very short ones are halved between keyframes. Frames before the middle are
# decoded twice, by cores that would otherwise wait.
_FEW_CHUNKS = 8
_SHORTEST_HALVED_S = 2.0


@dataclass(frozen=True)
class Chunk:
    """A half-open span of the sampling grid: the unit of decoding, of retry and of resume."""

    index: int
    """Number within its video, from 0."""
    first_step: int
    """First point of the sampling grid that the chunk owns; step `k` lies at `k / sample_fps` seconds."""
    end_step: int
    """First point after those that the chunk owns, or `OPEN_END`."""
    duration_s: float
    """Approximate length of its video; for deadlines and for balancing."""


@dataclass(frozen=True)
class PlannedVideo:
    """A video with its place in the plan: either its probe and chunks, or the reason why it can't be read."""

    ref: VideoRef
    probe: Probe | None
    chunks: tuple[Chunk, ...]
    failure: VideoError | None = None

    @property
    def video_id(self) -> str:
        """The id of its reference."""
        return self.ref.video_id

    @property
    def span_s(self) -> float:
        """Seconds of video to be read."""
        return sum(chunk.duration_s for chunk in self.chunks)


def plan_video(ref: VideoRef, probe: Probe | VideoError, rate: Fraction, chunk_s: float) -> PlannedVideo:
    """Cut a probed video into chunks of about `chunk_s` seconds that start on keyframes.

    A file without an index, or without a duration, becomes one chunk, streamed. The last chunk of a whole file has
    an open end, because headers may give a wrong length.

    Args:
        ref: The video, perhaps with a span.
        probe: Its probe, or the error that prevented one.
        rate: Points of the sampling grid per second.
        chunk_s: Wanted length of a chunk in seconds.
    """
    if isinstance(probe, VideoError):
        return PlannedVideo(ref, None, (), probe)
    start_s = ref.start_s or 0.0
    end_s = ref.end_s if ref.end_s is not None else math.inf
    # For recordings joined end to end, FFmpeg reports the length of the last one, so a span may lie beyond it.
    known_s = 0.0 if probe.streamed and ref.start_s else probe.duration_s
    declared_end_s = min(end_s, known_s) if known_s else end_s
    if ref.start_s and known_s and start_s >= known_s:
        failure = VideoError(
            "truncated", f"{ref.uri}: the span starts at {start_s:g} s, past the end at {probe.duration_s:g} s"
        )
        return PlannedVideo(ref, probe, (), failure)
    cuts = [start_s]
    if math.isfinite(declared_end_s):
        for keyframe in probe.keyframes_s:
            # A remainder of less than half a chunk stays with its predecessor.
            if keyframe >= cuts[-1] + chunk_s and keyframe <= declared_end_s - chunk_s / 2:
                cuts.append(float(keyframe))
    steps = [step_at(cut, rate) for cut in cuts] + [OPEN_END if math.isinf(end_s) else step_at(end_s, rate)]
    ends_s = [*cuts[1:], declared_end_s]
    chunks: list[Chunk] = []
    for first, end, cut_s, until_s in zip(steps[:-1], steps[1:], cuts, ends_s, strict=True):
        if end == OPEN_END or end > first:
            duration_s = until_s - cut_s if math.isfinite(until_s) else 0.0
            chunks.append(Chunk(len(chunks), first, end, max(0.0, duration_s)))
    return PlannedVideo(ref, probe, tuple(chunks))


def step_at(time_s: float, rate: Fraction) -> int:
    """Return the first step of the sampling grid that lies at or after a time."""
    return math.ceil(Fraction(time_s) * rate)


def plan_shards(
    probed: Iterable[tuple[VideoRef, Probe | VideoError]],
    rate: Fraction,
    chunk_s: float,
    max_videos: int,
    max_hours: float,
) -> Iterator[list[PlannedVideo]]:
    """Gather probed videos, in order, into shards; a shard is closed by count or by hours, whichever comes first.

    A small shard is cut into shorter chunks than a large one, and a very small shard also between keyframes, so that
    every core has work until the end. The result depends only on the order of the videos, so that an interrupted plan
    that is resumed is the same plan.

    Args:
        probed: Videos, each with its probe or the error that prevented one.
        rate: Points of the sampling grid per second.
        chunk_s: Wanted length of a chunk in seconds, if there is enough video.
        max_videos: Most videos of a shard.
        max_hours: Most hours of video in a shard; only its last video may exceed them.
    """
    shard: list[PlannedVideo] = []
    seconds = 0.0
    for ref, probe in probed:
        shard.append(plan_video(ref, probe, rate, chunk_s))
        seconds += shard[-1].span_s
        if len(shard) >= max_videos or seconds >= max_hours * 3600:
            yield _finely_cut(shard, seconds, rate, chunk_s)
            shard, seconds = [], 0.0
    if shard:
        yield _finely_cut(shard, seconds, rate, chunk_s)


def _finely_cut(shard: list[PlannedVideo], seconds: float, rate: Fraction, chunk_s: float) -> list[PlannedVideo]:
    """Return a shard's videos in chunks of the wanted length, or in shorter chunks if there would be few."""
    shorter_s = min(chunk_s, max(_SHORTEST_CHUNK_S, seconds / _CHUNKS_OF_SHARD))
    if shorter_s < chunk_s:
        shard = [
            plan_video(video.ref, video.probe, rate, shorter_s) if video.probe is not None else video for video in shard
        ]
    if sum(len(video.chunks) for video in shard) < _FEW_CHUNKS:
        shard = [replace(video, chunks=tuple(_halved(video, rate))) for video in shard]
    return shard


def _halved(video: PlannedVideo, rate: Fraction) -> Iterator[Chunk]:
    """Yield a video's chunks, or their halves if a decoder can start near the middle."""
    index = 0
    for chunk in video.chunks:
        parts = [chunk]
        if chunk.duration_s > _SHORTEST_HALVED_S and video.probe is not None and len(video.probe.keyframes_s):
            half_s = chunk.duration_s / 2
            middle = chunk.first_step + step_at(half_s, rate)
            if chunk.end_step == OPEN_END or middle < chunk.end_step:
                parts = [
                    replace(chunk, end_step=middle, duration_s=half_s),
                    replace(chunk, first_step=middle, duration_s=half_s),
                ]
        for part in parts:
            yield replace(part, index=index)
            index += 1
