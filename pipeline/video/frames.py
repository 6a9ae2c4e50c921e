"""Read frames out of a container, each with its time on one timeline of the file, and skip damaged parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from av.container import InputContainer
from av.error import EOFError as AVEOFError
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.archive.container import clock_of, is_streamed, open_video, refuse_large_frames
from pipeline.archive.joined import next_recording
from pipeline.archive.probe import Probe
from pipeline.config import VideoLimits
from pipeline.errors import VideoError
from pipeline.video.sampling import LeftOut
from pipeline.video.timeline import Timeline, from_keyframe_before

# A seek that landed too late is repeated earlier by each of these values, in seconds. Then the file is read from its
# start.
_BACK_OFF_S = (0.0, 2.0, 20.0)
# A file with this many damaged packets is given up; the frames decoded before are kept.
_MAX_ERRORS = 10_000
# After this many failed reads in a row, the container counts as ended.
_MAX_READ_ERRORS = 50
# Errors within this many packets of a join are expected, because recordings are cut at any place.
_PACKETS_AT_JOIN = 12
# Where the segments of one stream are joined, its clock continues, but its continuity counter does not. FFmpeg then
# marks a packet corrupt, at most this many packets before the keyframe that begins the segment. Such a mark is
# recognized only where groups of pictures are longer than twice this number.
_MARK_BEFORE_SEGMENT = 2


@dataclass
class DecodeReport:
    """A report on the decoding of a chunk; filled in while its frames are read."""

    n_errors: int = 0
    """Packets that did not decode, and frames marked corrupt."""
    first_error: str = ""
    """The message of the first error."""
    end_s: float = 0.0
    """The end of the part of the video that was read, in seconds."""
    reached_eof: bool = False
    """Whether the file ended before the chunk did."""
    n_decoded: int = 0
    """Frames that left the decoder, sampled or not."""
    n_joins: int = 0
    """Places at which the file continues with another recording."""
    n_join_errors: int = 0
    """Errors at such places, which `n_errors` does not count."""
    after: NDArray[np.uint8] | None = None
    """`uint8 [H, W, 3]`: the first frame sampled after the chunk, if it was requested and exists."""

    def reset(self) -> None:
        """Forget everything, because decoding starts again."""
        self.__init__()  # type: ignore[misc]

    def note(self, message: str) -> None:
        """Count an error and keep the message of the first one."""
        self.n_errors += 1
        self.first_error = self.first_error or message


class Timed(NamedTuple):
    """A decoded frame with its PTS."""

    pts: int
    frame: VideoFrame


@dataclass(frozen=True)
class Reader:
    """A file and how to read it."""

    uri: str
    probe: Probe
    limits: VideoLimits
    left_out: LeftOut


def usual_duration(probe: Probe) -> int:
    """Return the duration of a frame by the video's frame rate, in PTS units; at most a second."""
    # A damaged header may claim one frame in days. Such a rate is useless as a fraction.
    usual = round(1 / (Fraction(max(1.0, probe.fps or 25.0)).limit_denominator(100_000) * probe.time_base))
    return min(max(1, usual), max(1, int(1 / probe.time_base)))


def last_duration(frame: VideoFrame, probe: Probe) -> int:
    """Return the duration of the last frame, in PTS units: its own duration if plausible, else 1 / fps."""
    longest = max(1, int(1 / probe.time_base))
    return frame.duration if 0 < frame.duration <= longest else usual_duration(probe)


def frames_from(reader: Reader, pts: int, seeks: bool, report: DecodeReport) -> Iterator[Timed]:
    """Yield frames with rising PTS, the first of them not after `pts` wherever the file allows it.

    A container's index may point past the wanted frame (it holds decoding times), and the first frames after an
    open keyframe may be undecodable. The first PTS reveals both, so the seek moves back until it fits. Files without
    an index are read from their start, because their clock may jump; packets before the keyframe for `pts` are not
    decoded.
    """
    for back_off_s in (*_BACK_OFF_S, None) if seeks else (None,):
        report.reset()
        with open_video(reader.uri, reader.limits, reader.probe.track) as (container, stream):
            if clock_of(container) == "none":
                # Frames are counted, so none may be left out.
                yield from _counted(_decode(reader, container, stream, None, report), reader.probe)
                return
            stream.codec_context.skip_frame = reader.left_out
            if reader.probe.streamed or is_streamed(container):
                yield from _decode(reader, container, stream, pts if seeks else None, report)
                return
            if back_off_s is not None:
                assert stream.time_base is not None
                try:
                    container.seek(pts - int(back_off_s / stream.time_base), stream=stream, backward=True)
                except FFmpegError:
                    continue
            frames = _decode(reader, container, stream, None, report, after_seek=back_off_s is not None)
            first = next(frames, None)
            if first is not None and (back_off_s is None or first.pts <= pts):
                yield first
                yield from frames
                return


def _counted(frames: Iterator[Timed], probe: Probe) -> Iterator[Timed]:
    """Give frames without timestamps the times of a constant frame rate."""
    duration = 1 / (Fraction(probe.fps or 25.0).limit_denominator(100_000) * probe.time_base)
    for number, timed in enumerate(frames):
        yield Timed(probe.origin_pts + round(number * duration), timed.frame)


def _decode(
    reader: Reader,
    container: InputContainer,
    stream: VideoStream,
    wanted_pts: int | None,
    report: DecodeReport,
    after_seek: bool = False,
) -> Iterator[Timed]:
    """Decode from the container's current position, skipping damaged parts.

    After a seek, decoding starts at the first keyframe. With `wanted_pts`, it starts at the last keyframe before that.
    """
    assert stream.time_base is not None
    clock = clock_of(container)
    timeline = Timeline(clock, float(stream.time_base), usual_duration(reader.probe))
    placed = timeline.place(_packets(container, stream, report))
    if wanted_pts is not None:
        placed = from_keyframe_before(placed, wanted_pts)
        after_seek = True
    order = _InOrder(stream, reader, clock == "none", report)
    ledger = _JoinLedger(report)
    last_byte = 0
    for packet, joined in placed:
        if after_seek and order.key_pts is None and packet.size:
            if not packet.is_keyframe:
                continue
            order.key_pts = packet.pts if packet.pts is not None else packet.dts
        if joined:
            ledger.joined()
            if packet.is_keyframe:
                # The last frames of the previous recording come out; no later frame depends on them.
                try:
                    yield from order.take(stream.codec_context.decode(None), ledger)
                except FFmpegError as error:
                    ledger.note(error.strerror or str(error))
                stream.codec_context.flush_buffers()
                order.key_pts = packet.pts
            else:
                ledger.note("a recording begins without a keyframe")
        ledger.packet(packet)
        last_byte = packet.pos or last_byte
        try:
            frames = packet.decode()
        except FFmpegError as error:
            refuse_large_frames(reader.uri, stream, reader.limits)
            ledger.note(error.strerror or str(error))
            if report.n_errors >= _MAX_ERRORS:
                raise VideoError("corrupt", f"{reader.uri}: {_MAX_ERRORS} damaged packets, given up") from error
            continue
        yield from order.take(frames, ledger)
    another = next_recording(reader.uri, container.format.name, last_byte)
    if another is not None:
        ledger.joined()
        ledger.note(f"the recording that begins at byte {another} can't be read on; split the file there")


class _JoinLedger:
    """Tells errors at joins from other errors: a recording may end, and the next one begin, at any place.

    A packet or a frame that is only marked corrupt does not count at a join or right before a keyframe. The container
    counts the packets of both recordings as one sequence, and no frame after the keyframe depends on what was marked.
    """

    def __init__(self, report: DecodeReport) -> None:
        self._report = report
        self._since_join: int | None = None
        self._recent: list[tuple[int, bool]] = []
        self._number = 0
        self._last_keyframe = 0

    def packet(self, packet: Packet[VideoStream]) -> None:
        """Register a packet before it is decoded."""
        self._number += 1
        if packet.is_keyframe:
            if self._number - self._last_keyframe > 2 * _MARK_BEFORE_SEGMENT:
                self._forget(
                    [each for each in self._recent if each[1] and self._number - each[0] <= _MARK_BEFORE_SEGMENT]
                )
            self._last_keyframe = self._number
        if self._since_join is not None:
            self._since_join += 1
        while self._recent and self._number - self._recent[0][0] > _PACKETS_AT_JOIN:
            self._recent.pop(0)
        if packet.is_corrupt:
            self.note("the container marks a packet corrupt", marked=True)

    def note(self, message: str, marked: bool = False) -> None:
        """Count an error; `marked` means that only a flag reports it, while decoding continued."""
        at_join = self._since_join is not None and self._since_join <= _PACKETS_AT_JOIN
        if not at_join:
            self._recent.append((self._number, marked))
            self._report.note(message)
        elif not marked:
            self._report.n_join_errors += 1
            self._report.first_error = self._report.first_error or message

    def joined(self) -> None:
        """Note that another recording begins: errors right before it belong to the end of the previous one."""
        self._report.n_joins += 1
        self._since_join = 0
        self._report.n_join_errors += sum(not marked for _, marked in self._recent)
        self._forget(self._recent)

    def _forget(self, errors: list[tuple[int, bool]]) -> None:
        self._recent = [each for each in self._recent if each not in errors]
        self._report.n_errors -= len(errors)
        if not self._report.n_errors + self._report.n_join_errors:
            self._report.first_error = ""


class _InOrder:
    """Passes on frames with rising timestamps, but none that depends on frames that were not decoded."""

    def __init__(self, stream: VideoStream, reader: Reader, untimed: bool, report: DecodeReport) -> None:
        assert stream.time_base is not None
        self.key_pts: int | None = None
        self._last_pts: int | None = None
        self._untimed = untimed
        self._report = report
        self._latest_pts = (stream.start_time or 0) + round(reader.limits.max_video_hours * 3600 / stream.time_base)

    def take(self, frames: list[VideoFrame], ledger: _JoinLedger) -> Iterator[Timed]:
        for frame in frames:
            self._report.n_decoded += 1
            if frame.is_corrupt:
                ledger.note("a frame is marked corrupt", marked=True)
            if self._untimed:
                yield Timed(0, frame)
                continue
            if frame.pts is not None and frame.pts > self._latest_pts:
                ledger.note("a frame is shown later than any video is long")
                continue
            if frame.pts is None or (self._last_pts is not None and frame.pts <= self._last_pts):
                continue
            # Frames shown before the keyframe depend on others that were not decoded (an open group of pictures).
            if self.key_pts is not None and frame.pts < self.key_pts:
                continue
            self._last_pts = frame.pts
            yield Timed(frame.pts, frame)


def _packets(container: InputContainer, stream: VideoStream, report: DecodeReport) -> Iterator[Packet[VideoStream]]:
    """Read packets to the end of the file, and continue after places where the container itself is damaged."""
    n_in_a_row = 0
    while n_in_a_row < _MAX_READ_ERRORS:
        try:
            for packet in container.demux(stream):
                n_in_a_row = 0
                yield packet
            return
        except AVEOFError:
            return
        except FFmpegError as error:
            n_in_a_row += 1
            report.note(error.strerror or str(error))
