"""Decode one chunk of a video: the frames that its steps of the sampling grid show, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from pipeline.archive.container import NONSENSE
from pipeline.archive.plan import OPEN_END, Chunk
from pipeline.archive.probe import Probe
from pipeline.config import USUAL_LIMITS, VideoLimits
from pipeline.errors import VideoError
from pipeline.video.frames import DecodeReport, Reader, Timed, frames_from, last_duration
from pipeline.video.sampling import Grid, left_out
from pipeline.video.upright import Upright


@dataclass(frozen=True)
class FrameBatch:
    """Decoded frames in order of presentation, each with the steps of the sampling grid that show it."""

    images: NDArray[np.uint8]
    """`uint8 [T, H, W, 3]`, RGB, upright, resized."""
    pts_s: NDArray[np.float64]
    """`float64 [T]`: presentation timestamp of each frame, in seconds since the video's first frame."""
    steps: NDArray[np.int64]
    """`int64 [T]`: first step of the grid that shows the frame."""
    n_steps: NDArray[np.int32]
    """`int32 [T]`: how many steps show it; more than one where the video is slower than the grid."""
    after: NDArray[np.uint8] | None = None
    """`uint8 [H, W, 3]`: the next sampled frame, if it was requested and exists."""

    def __post_init__(self) -> None:
        # OpenCV refuses other arrays as outputs. Of a rotated view it reads the memory of the original.
        for name, images in (("images", self.images), ("after", self.after)):
            if images is not None and not images.flags.c_contiguous:
                raise ValueError(f"{name} is not C-contiguous; pass it through np.ascontiguousarray")


def scaled_size(width: int, height: int, longest_px: int) -> tuple[int, int]:
    """Return `(width, height)` shrunk, never enlarged, so that the longer side is at most `longest_px` pixels."""
    scale = min(1.0, longest_px / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def decode_chunk(
    uri: str,
    probe: Probe,
    chunk: Chunk,
    rate: Fraction,
    longest_px: int,
    batch_frames: int,
    report: DecodeReport | None = None,
    look_ahead: bool = False,
    limits: VideoLimits = USUAL_LIMITS,
    sampling: str = "exact",
) -> Iterator[FrameBatch]:
    """Decode a chunk and yield its frames in batches.

    A step shows the frame with the largest PTS that is not after the step. So every step has one owner and one frame,
    whatever the chunking. Damaged packets are skipped and counted; decoding continues after them.

    Args:
        uri: Local path or remote URI of the video.
        probe: The probe of the video; its size, rotation and origin hold for all chunks.
        chunk: The span of the grid to decode.
        rate: Steps of the grid per second.
        longest_px: Longest side of the frames in pixels; smaller videos are not enlarged.
        batch_frames: Most frames in a batch.
        report: Filled in while the frames are decoded.
        look_ahead: Whether to decode the first frame sampled after the chunk, too, for `report.after`.
        limits: Larger frames do not decode.
        sampling: `exact`, or `fast` to leave out frames that the remaining ones do not need for decoding. A step then
            shows the last of the remaining frames.

    Raises:
        VideoError: The file can't be opened or read at all.
    """
    report = report if report is not None else DecodeReport()
    pending = _Pending(Upright(probe, *scaled_size(probe.width, probe.height, longest_px)))
    failure: Exception | None = None
    reader = Reader(uri, probe, limits, left_out(sampling, probe.codec, probe.fps, rate))
    shown_frames = _shown_frames(reader, probe, chunk, rate, report, look_ahead)
    while failure is None:
        try:
            shown = next(shown_frames, None)
            if shown is None:
                break
            if chunk.end_step != OPEN_END and shown.first_step >= chunk.end_step:
                report.after = pending.upright.picture(shown.frame)
            else:
                pending.add(shown)
        except VideoError as error:
            failure = error
        except (FFmpegError, *NONSENSE) as error:
            report.note(f"a frame can't be converted ({error})")
        except Exception as error:  # After any error, the frames decoded before it are passed on first.
            failure = error
        if len(pending.images) == batch_frames:
            yield pending.flush()
    if pending.images:
        yield pending.flush()
    if failure is not None:
        raise failure


@dataclass(frozen=True)
class _Shown:
    """A decoded frame with the half-open range of steps that show it."""

    frame: VideoFrame
    pts_s: float
    first_step: int
    end_step: int


@dataclass
class _Pending:
    """Converts only the sampled frames, and gathers them into a batch."""

    upright: Upright
    images: list[NDArray[np.uint8]] = field(default_factory=list)
    times: list[tuple[float, int, int]] = field(default_factory=list)

    def add(self, shown: _Shown) -> None:
        self.images.append(self.upright.picture(shown.frame))
        self.times.append((shown.pts_s, shown.first_step, shown.end_step - shown.first_step))

    def flush(self) -> FrameBatch:
        pts_s, steps, n_steps = zip(*self.times, strict=True)
        batch = FrameBatch(
            np.stack(self.images),
            np.array(pts_s, dtype=np.float64),
            np.array(steps, dtype=np.int64),
            np.array(n_steps, dtype=np.int32),
        )
        self.images.clear()
        self.times.clear()
        return batch


def _shown_frames(
    reader: Reader, probe: Probe, chunk: Chunk, rate: Fraction, report: DecodeReport, look_ahead: bool
) -> Iterator[_Shown]:
    """Yield the frames of a chunk, and with `look_ahead` the first frame sampled after it."""
    grid = Grid(rate, probe.time_base, probe.origin_pts)
    current: Timed | None = None
    frames = frames_from(reader, grid.pts_at(chunk.first_step), chunk.first_step > 0, report)
    for timed in frames:
        if current is not None:
            yield from _show(grid, chunk, current, timed.pts)
            if chunk.end_step != OPEN_END and grid.first_step(timed.pts) >= chunk.end_step:
                report.end_s = float(chunk.end_step / rate)
                if look_ahead:
                    yield from _next_shown(grid, probe, chunk, timed, frames, report)
                return
        current = timed
    report.reached_eof = True
    if current is not None:
        end_pts = current.pts + last_duration(current.frame, probe)
        yield from _show(grid, chunk, current, end_pts)
        report.end_s = grid.seconds(end_pts)


def _next_shown(
    grid: Grid, probe: Probe, chunk: Chunk, first: Timed, frames: Iterator[Timed], report: DecodeReport
) -> Iterator[_Shown]:
    """Yield the first frame that is sampled after a chunk, if any; the next chunk reports damage there."""
    behind = Chunk(chunk.index + 1, chunk.end_step, OPEN_END, 0.0)
    noted = report.n_errors, report.n_join_errors, report.first_error
    found: _Shown | None = None
    current = first
    try:
        for timed in frames:
            found = next(_show(grid, behind, current, timed.pts), None)
            current = timed
            if found is not None:
                break
        else:
            end_pts = current.pts + last_duration(current.frame, probe)
            found = next(_show(grid, behind, current, end_pts), None)
    except (VideoError, FFmpegError):
        found = None
    report.n_errors, report.n_join_errors, report.first_error = noted
    if found is not None:
        yield found


def _show(grid: Grid, chunk: Chunk, timed: Timed, next_pts: int) -> Iterator[_Shown]:
    """Yield the frame if any step of the chunk shows it; `next_pts` is the PTS of the next frame."""
    first = max(grid.first_step(timed.pts), chunk.first_step)
    end = min(grid.first_step(next_pts), grid.hold_end(timed.pts))
    if chunk.end_step != OPEN_END:
        end = min(end, chunk.end_step)
    if first < end:
        yield _Shown(timed.frame, grid.seconds(timed.pts), first, end)
