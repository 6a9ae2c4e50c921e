"""Cut a stretch out of a video into a small file that every browser plays: H.264 in MP4, without sound."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.archive.container import open_video
from pipeline.archive.probe import Probe
from pipeline.config import USUAL_LIMITS, VideoLimits
from pipeline.errors import VideoError
from pipeline.video.decode import scaled_size
from pipeline.video.frames import DecodeReport, Reader, frames_from, last_duration
from pipeline.video.upright import Upright

LONGEST_PX = 640
"""Default for the longest side of a clip's picture, in pixels."""

Draw = Callable[[NDArray[np.uint8], float], None]
"""Draws onto a picture, `uint8 [H, W, 3]`; the second argument is its time in the video, in seconds."""

_TIME_BASE = Fraction(1, 90_000)
# A higher frame rate shows no more to the eye, and costs twice as much.
_MOST_FPS = 31.0
_ENCODING = {"preset": "veryfast", "crf": "27", "bf": "0", "g": "30", "threads": "1"}
# A copied clip begins at the keyframe before its start. With a longer lead it would show too much before the start.
_MOST_LEAD_S = 2.0
# Largest size of a copied clip; a clip encoded at 640 px takes 30 to 150 kB/s.
_MOST_COPIED_BYTES_PER_S = 400_000
# The containers whose packets go into MP4 as they are.
_COPIED_FROM = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
_REFRESH = 5
_PLAYED_FORMATS = ("yuv420p", "yuvj420p")


@dataclass(frozen=True)
class Clip:
    """A stretch of a video in a file of its own."""

    path: Path
    start_s: float
    """Time in the video, in seconds, of the clip's time zero."""
    end_s: float
    width: int
    """Pixels, as it is shown."""
    height: int
    copied: bool
    """Whether its frames are identical to those of the video, bit by bit."""


def write_clip(
    uri: str,
    probe: Probe,
    start_s: float,
    end_s: float,
    out: Path,
    longest_px: int = LONGEST_PX,
    draw: Draw | None = None,
    limits: VideoLimits = USUAL_LIMITS,
) -> Clip:
    """Write the stretch `[start_s, end_s)` of a video as MP4.

    The packets are copied if that is exact and small: upright H.264 with a keyframe at most 2 s before the start. The
    clip then begins at that keyframe. Otherwise the frames are encoded again, each at its own time, at most 31 per
    second; the first is the frame that is shown at `start_s`.

    Args:
        uri: Local path or remote URI of the video.
        probe: The probe of the video.
        start_s: Seconds after its first frame.
        end_s: Seconds after its first frame; infinity for its end.
        out: The file to write, replaced only when the clip is complete.
        longest_px: Longest side of an encoded picture, in pixels; pictures are never enlarged.
        draw: Draws onto every picture; all frames are then encoded.
        limits: Larger frames do not decode.

    Raises:
        VideoError: The video can't be read, or no frame of it is shown in that time.
        OSError: The file can't be written.
    """
    part = part_of(out)
    try:
        clip = None if draw is not None else _copy(uri, probe, start_s, end_s, part, limits)
        clip = clip or _encode(uri, probe, start_s, end_s, part, longest_px, draw, limits)
        os.replace(part, out)
    except _WriteError as error:
        raise OSError(error.cause.errno, error.cause.strerror, str(out)) from error.cause
    finally:
        with suppress(FileNotFoundError):
            part.unlink()
    return Clip(out, *clip)


def part_of(path: Path) -> Path:
    """Return the path at which a file is written until it is complete; see `drop_parts`."""
    return path.with_name(f".{path.name}.part")


def drop_parts(paths: Iterable[Path]) -> None:
    """Delete the incomplete files of processes that were ended while they wrote them."""
    for path in paths:
        with suppress(OSError):
            part_of(path).unlink()


_Described = tuple[float, float, int, int, bool]


def _copy(uri: str, probe: Probe, start_s: float, end_s: float, out: Path, limits: VideoLimits) -> _Described | None:
    """Copy the packets of a stretch, if a browser shows them correctly and they are small enough."""
    upright = not (probe.rotation_deg or probe.mirrored)
    if probe.codec != "h264" or not upright or probe.streamed or not len(probe.keyframes_s) or end_s == float("inf"):
        return None
    with open_video(uri, limits, probe.track) as (container, stream):
        context = stream.codec_context
        if container.format.name not in _COPIED_FROM or context.pix_fmt not in _PLAYED_FORMATS:
            return None
        packets = _packets(container, stream, probe, start_s, end_s)
        if not packets:
            return None
        key_pts = packets[0].pts
        assert key_pts is not None
        last_pts = max(packet.pts + (packet.duration or 0) for packet in packets if packet.pts is not None)
        try:
            _write_packets(packets, stream, key_pts, out)
        except FFmpegError as error:
            raise _WriteError(error) from error
    first_s = float((key_pts - probe.origin_pts) * probe.time_base)
    return first_s, first_s + float((last_pts - key_pts) * probe.time_base), probe.width, probe.height, True


class _WriteError(Exception):
    """An error while a clip is written. While the video is open, other errors count as faults of the video."""

    def __init__(self, cause: FFmpegError) -> None:
        super().__init__(cause)
        self.cause = cause


def _write_packets(packets: list[Packet[VideoStream]], stream: VideoStream, key_pts: int, out: Path) -> None:
    with av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as target:
        copied = target.add_stream_from_template(stream)
        for packet in packets:
            assert packet.pts is not None
            assert packet.dts is not None
            packet.pts, packet.dts = packet.pts - key_pts, packet.dts - key_pts
            packet.stream = copied
            target.mux(packet)


def _packets(
    container: InputContainer, stream: VideoStream, probe: Probe, start_s: float, end_s: float
) -> list[Packet[VideoStream]]:
    """Return the packets of a stretch, from the keyframe before it on; an empty list if they may not be copied."""
    first_pts, end_pts = (probe.origin_pts + round(t / float(probe.time_base)) for t in (start_s, end_s))
    found: list[Packet[VideoStream]] = []
    n_bytes, most_bytes = 0, _MOST_COPIED_BYTES_PER_S * (end_s - start_s)
    last_pts = first_pts
    container.seek(first_pts, stream=stream, backward=True)
    for packet in container.demux(stream):
        if packet.pts is None or packet.dts is None or packet.is_corrupt:
            # The end of the file gives an empty packet.
            if packet.size:
                return []
            break
        if not found:
            lead_s = float((first_pts - packet.pts) * probe.time_base)
            if not _refreshes(packet, stream) or not 0 <= lead_s <= _MOST_LEAD_S:
                return []
        elif packet.pts < (found[0].pts or 0):
            continue  # It depends on frames before the keyframe.
        if packet.dts >= end_pts and packet.pts > last_pts:
            break  # All frames before the latest one are there; with an earlier end, some could be missing.
        found.append(packet)
        last_pts = max(last_pts, packet.pts)
        n_bytes += packet.size
        if n_bytes > most_bytes:
            return []
    return found


def _refreshes(packet: Packet[VideoStream], stream: VideoStream) -> bool:
    """Whether an H.264 packet refreshes the whole picture: a container's keyframe may only begin to.

    ITU-T H.264, 7.3.1: the low five bits of a unit's first byte are its type; 5 is an instantaneous refresh.
    """
    header, content = stream.codec_context.extradata or b"", bytes(packet)
    n_bytes = (header[4] & 3) + 1 if len(header) > 4 else 4
    at = 0
    while at + n_bytes < len(content):
        size = int.from_bytes(content[at : at + n_bytes], "big")
        if content[at + n_bytes] & 31 == _REFRESH:
            return True
        at += n_bytes + size
    return False


def _encode(
    uri: str, probe: Probe, start_s: float, end_s: float, out: Path, longest_px: int, draw: Draw | None,
    limits: VideoLimits,
) -> _Described:  # fmt: skip
    """Decode a stretch and encode it again."""
    # An H.264 picture in `yuv420p` has an even width and height.
    width, height = (max(2, side // 2 * 2) for side in scaled_size(probe.width, probe.height, longest_px))
    upright = Upright(probe, width, height)
    with av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream("libx264", rate=30, options=_ENCODING)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = _TIME_BASE
        durations: dict[int, int] = {}

        def mux(packets: list[Packet[VideoStream]]) -> None:
            for packet in packets:
                packet.duration = durations.pop(packet.pts or 0, 0)
                target.mux(packet)

        last_s = None
        for shown_s, until_s, frame in _shown(uri, probe, start_s, end_s, limits):
            picture = upright.picture(frame)
            if draw is not None:
                draw(picture, shown_s)
            encoded = VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            encoded.pts, encoded.time_base = round((shown_s - start_s) / float(_TIME_BASE)), _TIME_BASE
            durations[encoded.pts] = max(1, round((until_s - start_s) / float(_TIME_BASE)) - encoded.pts)
            last_s = until_s
            mux(stream.encode(encoded))
        if last_s is None:
            raise VideoError("truncated", f"{uri}: no frame of it is shown from {start_s:g} to {end_s:g} s")
        mux(stream.encode(None))
    return start_s, last_s, width, height, False


def _shown(
    uri: str, probe: Probe, start_s: float, end_s: float, limits: VideoLimits
) -> Iterator[tuple[float, float, VideoFrame]]:
    """Yield `(shown from, shown until, frame)` for a stretch, in seconds; the times are clipped to the stretch."""
    report = DecodeReport()
    first_pts = probe.origin_pts + int(Fraction(start_s) / probe.time_base)
    current: tuple[float, VideoFrame] | None = None
    for timed in frames_from(Reader(uri, probe, limits, "DEFAULT"), first_pts, start_s > 0, report):
        at_s = float((timed.pts - probe.origin_pts) * probe.time_base)
        if at_s >= end_s:
            break
        if current is None or at_s <= start_s:
            current = at_s, timed.frame
        elif at_s - current[0] >= 1 / _MOST_FPS:
            yield max(start_s, current[0]), at_s, current[1]
            current = at_s, timed.frame
    else:
        # The video ends, perhaps before the stretch begins.
        if current is not None:
            end_s = min(end_s, current[0] + float(last_duration(current[1], probe) * probe.time_base))
    if current is not None and start_s < end_s:
        yield max(start_s, current[0]), end_s, current[1]
