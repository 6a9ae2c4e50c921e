"""Inspect a video, decoding only its first frame: its format, its length, and the times of its keyframes."""

from __future__ import annotations

import datetime
import itertools
import logging
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.archive.container import clock_of, is_streamed, moving_streams, open_video, refuse_large_frames
from pipeline.archive.joined import has_one_index
from pipeline.archive.orientation import orientation_of, upright_size
from pipeline.archive.refs import VideoRef
from pipeline.config import USUAL_LIMITS, VideoLimits
from pipeline.errors import VideoError

log = logging.getLogger(__name__)

# The first picture must come out within this many packets.
_PACKETS_TO_FIRST_FRAME = 500
# The usual encoders move a keyframe by at most this many frames when they reorder.
_REORDERED_FRAMES = 4.5
# Formats whose index, if there is one, covers only the part that was read so far.
_INDEXLESS_FORMATS = ("asf", "rm", "yuv4mpegpipe")
# Formats whose header gives the time at which the last frame ends, not its distance from the first frame.
_COUNT_FROM_ZERO = ("matroska,webm", "flv")


@dataclass(frozen=True)
class Probe:
    """The properties that a video declares. Time zero is its first frame."""

    codec: str
    width: int
    """Pixels, upright: after rotation, and with square pixels."""
    height: int
    """Pixels, upright."""
    rotation_deg: int
    """Counter-clockwise turn that sets the stored frames upright: 0, 90, 180 or 270."""
    fps: float
    """Average frame rate, or 0 if the file does not state it."""
    vfr: bool
    """Whether frames are unevenly spaced."""
    duration_s: float
    """As declared by the stream, else by the container; 0 if neither declares it."""
    time_base: Fraction
    """Seconds per unit of PTS."""
    origin_pts: int
    """PTS of the first frame."""
    keyframes_s: NDArray[np.float64]
    """Times at which decoding can start, from the container's index; empty without one."""
    mirrored: bool = False
    """Whether left and right are flipped to set the frames upright, after they were turned."""
    track: int = 0
    """Number of the video stream that was chosen, among the file's video streams."""
    streamed: bool = False
    """Whether times are known only when the file is read from its start; then `duration_s` is FFmpeg's guess."""
    created_at: datetime.datetime | None = None
    """The container's `creation_time`."""


def probe_video(ref: VideoRef, limits: VideoLimits = USUAL_LIMITS, track: int | None = None) -> Probe:
    """Open a video, decode its first frame and read its index.

    Args:
        ref: The video.
        limits: Limits for the claims of its headers.
        track: Which of its video streams to take, from 0. None: the largest that is not a still picture.

    Raises:
        VideoError: The file is missing, empty, not a video, without a video stream, claims to be more than the limits
            allow, or none of its frames decodes.
    """
    if ref.size_bytes < 0:
        raise VideoError("missing", f"{ref.uri}: no such file")
    if ref.size_bytes == 0:
        raise VideoError("empty", f"{ref.uri}: the file is empty (0 bytes)")
    with open_video(ref.uri, limits, track) as (container, stream):
        number = list(container.streams.video).index(stream)
        n_tracks = len(moving_streams(container))
        if n_tracks > 1:
            log.warning("%s: has %d video tracks; track %d is taken", ref.uri, n_tracks, number)
        _check_claims(ref, container, stream, limits)
        first = _first_frame(ref.uri, container, stream, limits)
        streamed = is_streamed(container) or not has_one_index(ref.uri, container.format.name)
        keyframes, spacing = (np.empty(0), np.empty(0)) if streamed else _read_index(container, stream)
        assert stream.time_base is not None
        untimed = clock_of(container) == "none"
        origin = first.pts if first.pts is not None and not untimed else stream.start_time or 0
        matrix: Any = first.side_data.get("DISPLAYMATRIX")
        rotation, mirrored = orientation_of(bytes(matrix) if matrix is not None else None)
        aspect = float(stream.sample_aspect_ratio or 1)
        width, height = upright_size(first.width, first.height, aspect, rotation)
        # FFmpeg assumes 25 per second for streams without times; the codec's own header is more reliable.
        rate = stream.guessed_rate if untimed else stream.average_rate or stream.guessed_rate
        duration_s, start_s = _declared_duration_s(container, stream), float(origin * stream.time_base)
        if container.format.name in _COUNT_FROM_ZERO and 0 < start_s < duration_s:
            duration_s -= start_s
        if len(keyframes):
            # An index holds decoding times, and a keyframe may be shown some frames later. A chunk that starts just
            # after its keyframe adds only those frames to its predecessor; one that starts just before adds a whole
            # group of pictures to its own work.
            margin = _REORDERED_FRAMES if stream.codec_context.has_b_frames else 0.5
            keyframes = (keyframes - keyframes[0]) * float(stream.time_base) + margin / float(rate or 30)
        return Probe(
            codec=stream.codec_context.codec.canonical_name,
            width=width,
            height=height,
            rotation_deg=rotation,
            fps=float(rate or 0),
            vfr=_is_variable(spacing, stream),
            duration_s=duration_s,
            time_base=stream.time_base,
            origin_pts=origin,
            keyframes_s=keyframes,
            mirrored=mirrored,
            track=number,
            streamed=streamed,
            created_at=_created_at(container),
        )


def _created_at(container: InputContainer) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromisoformat(container.metadata.get("creation_time", ""))
    except ValueError:
        return None


def _check_claims(ref: VideoRef, container: InputContainer, stream: VideoStream, limits: VideoLimits) -> None:
    """Raise if a video claims to be more than the limits allow; nothing is decoded for that."""
    refuse_large_frames(ref.uri, stream, limits)
    n_frames, hours = stream.frames, _declared_duration_s(container, stream) / 3600
    if hours > limits.max_video_hours:
        claim = f"{hours:.0f} hours, more than max_video_hours = {limits.max_video_hours:g}"
    elif n_frames * limits.min_frame_bytes > ref.size_bytes:
        claim = (
            f"{n_frames} frames in {ref.size_bytes} bytes, less than min_frame_bytes = {limits.min_frame_bytes:g} each"
        )
    else:
        return
    raise VideoError("too_large", f"{ref.uri}: claims {claim}; increase that option if the file is genuine")


def _first_frame(uri: str, container: InputContainer, stream: VideoStream, limits: VideoLimits) -> VideoFrame:
    cause = "no frame in its first packets"
    try:
        for packet in itertools.islice(container.demux(stream), _PACKETS_TO_FIRST_FRAME):
            try:
                frames = packet.decode()
            except FFmpegError as error:
                refuse_large_frames(uri, stream, limits)
                cause = error.strerror or cause
                continue
            if frames:
                assert isinstance(frames[0], VideoFrame)
                return frames[0]
    except FFmpegError as error:
        cause = error.strerror or cause
    raise VideoError("corrupt", f"{uri}: none of its frames decodes ({cause})")


def _read_index(container: InputContainer, stream: VideoStream) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return `(timestamps of keyframes, spacing of all frames)` in time-base units; both empty without an index."""
    nothing = np.empty(0)
    if container.format.name in _INDEXLESS_FORMATS:
        return nothing, nothing
    try:
        # FFmpeg reads Matroska's cues only at a seek.
        container.seek(0, stream=stream)
    except FFmpegError:
        return nothing, nothing
    entries = stream.index_entries
    keyframes = np.array([entry.timestamp for entry in entries if entry.is_keyframe], dtype=np.float64)
    complete = stream.frames and len(entries) >= stream.frames
    spacing = np.diff(np.sort([entry.timestamp for entry in entries])) if complete else nothing
    return keyframes, spacing


def _is_variable(spacing: NDArray[np.float64], stream: VideoStream) -> bool:
    if len(spacing):
        usual = float(np.median(spacing))
        return bool(np.any(np.abs(spacing - usual) > max(1.0, usual * 0.1)))
    if stream.average_rate and stream.guessed_rate:
        return abs(float(stream.average_rate / stream.guessed_rate) - 1) > 0.02
    return False


def _declared_duration_s(container: InputContainer, stream: VideoStream) -> float:
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        # For an AVI that lost its end, FFmpeg reports the remaining length; the header still holds the original one.
        return float(stream.frames / stream.average_rate)
    if stream.duration and stream.time_base:
        return max(0.0, float(stream.duration * stream.time_base))
    return max(0.0, (container.duration or 0) / 1e6)
