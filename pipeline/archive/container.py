"""Open a video file safely: formats and protocols are whitelisted, errors become one clear line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from pipeline.archive import filesystem
from pipeline.config import USUAL_LIMITS, VideoLimits
from pipeline.errors import VideoError

# FFmpeg also reads playlists, concat scripts and image sequences, which open other files and the network. Only real
# containers are allowed; the names are those of FFmpeg's demuxers.
_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,mjpeg,h264,hevc,ivf,mxf,rm,dhav,yuv4mpegpipe,gif,apng"
)
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
NONSENSE = (ArithmeticError, AssertionError, LookupError, MemoryError, ValueError)
"""Exceptions that the bindings raise, besides FFmpeg's errors, for values that no intact file has: a rate of zero, a
negative size, a pixel format without a name."""
# Each read from Python costs some time; FFmpeg reads local files by itself.
_BUFFER_BYTES = 1 << 20


Clock = Literal["none", "broadcast", "running", "tables"]
"""The source of a file's timestamps. `none`: there is none, frames are counted. `broadcast`: a clock of 33 bits that
wraps and may jump. `running`: each packet carries its own. `tables`: the container's tables."""
_CLOCKS: dict[str, Clock] = {
    **dict.fromkeys(("h264", "hevc", "mpegvideo", "m4v"), "none"),
    **dict.fromkeys(("mpegts", "mpeg"), "broadcast"),
    **dict.fromkeys(("mov", "avi", "mxf", "gif", "apng", "yuv4mpegpipe"), "tables"),
}  # type: ignore[dict-item, unused-ignore]
# Formats without an index for seeking. Their times are known only when they are read from their start.
_STREAMED = ("mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc", "flv", "gif", "apng", "dhav", "mjpeg")


def clock_of(container: InputContainer) -> Clock:
    """Return the source of a file's timestamps."""
    return _CLOCKS.get(container.format.name.split(",")[0], "running")


def is_streamed(container: InputContainer) -> bool:
    """Whether times within a file are known only when it is read from its start."""
    return container.format.name in _STREAMED


@contextmanager
def open_video(
    uri: str, limits: VideoLimits = USUAL_LIMITS, track: int | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a local or remote video and yield the container and one of its video streams.

    This is the stream of the given number; without a number, the largest stream that is not a still picture. Of equally
    large streams it is the first.

    The decoder runs on one thread, because many decoders run side by side. It refuses frames that are larger than
    allowed, whatever the header says.

    Raises:
        VideoError: The file is missing, empty, not a video, without a video stream, or unreadable. It is also raised
            for errors inside the `with` block.
    """
    # The decoder does not even allocate a larger frame.
    decoding = {"max_pixels": str(int(limits.max_megapixels * 1e6))}
    with ExitStack() as stack:
        try:
            container = _open(uri, _OPTIONS | decoding, stack)
        except FFmpegError as error:
            raise _as_video_error(uri, error) from error
        except NONSENSE as error:
            raise _no_sense(uri, error) from error
        except FileNotFoundError as error:
            raise VideoError("missing", f"{uri}: no such file") from error
        except OSError as error:
            raise VideoError("io", f"{uri}: can't be read ({error.strerror or error})") from error
        stream = _choose_stream(uri, container, track)
        if stream.codec_context is None:
            raise VideoError("not_video", f"{uri}: no decoder for its codec")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = decoding
        try:
            yield container, stream
        except FFmpegError as error:
            raise VideoError("corrupt", f"{uri}: can't be read any further ({error.strerror})") from error
        except NONSENSE as error:
            raise _no_sense(uri, error) from error
        except OSError as error:
            # FFmpeg passes on the error that reading a remote file raised.
            raise VideoError("io", f"{uri}: reading it failed ({error.strerror or error})") from error


def moving_streams(container: InputContainer) -> list[VideoStream]:
    """Return a file's video streams without cover pictures and thumbnails."""
    return [stream for stream in container.streams.video if not stream.disposition & _STILL]


def _choose_stream(uri: str, container: InputContainer, track: int | None) -> VideoStream:
    streams = container.streams.video
    if track is not None:
        if track >= len(streams):
            raise VideoError(
                "no_video_stream", f"{uri}: has no video track {track}; it has {len(streams)}, counted from 0"
            )
        return streams[track]
    moving = moving_streams(container)
    if not moving:
        others = sorted({str(stream.type) for stream in container.streams if stream.type != "video"})
        kinds = [*others, *(["a cover picture"] if streams else [])] or ["nothing"]
        raise VideoError("no_video_stream", f"{uri}: holds {' and '.join(kinds)} but no video")
    return max(moving, key=_area)


def _area(stream: VideoStream) -> int:
    return 0 if stream.codec_context is None else stream.codec_context.width * stream.codec_context.height


def _open(uri: str, options: dict[str, str], stack: ExitStack) -> InputContainer:
    """Open a container; the stack closes it and its source when it unwinds."""
    source: Any
    if not filesystem.is_local(uri):
        source = stack.enter_context(filesystem.open_ranges(uri))
    elif filesystem.is_text(filesystem.local_path(uri)):
        source = filesystem.local_path(uri)
    else:
        source = stack.enter_context(open(filesystem.local_path(uri), "rb"))  # noqa: SIM115 (the stack closes it)
    container: InputContainer = av.open(
        source, "r", options=options, metadata_errors="replace", buffer_size=_BUFFER_BYTES
    )
    stack.callback(container.close)
    return container


def refuse_large_frames(uri: str, stream: VideoStream, limits: VideoLimits) -> None:
    """Raise if the stream's current frames are larger than allowed, which is why the decoder skipped them.

    Raises:
        VideoError: The frames are larger than allowed.
    """
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.max_megapixels * 1e6:
        raise VideoError(
            "too_large",
            f"{uri}: has frames of {width} x {height} pixels, more than max_megapixels = {limits.max_megapixels:g}; "
            "increase that option if the file is genuine",
        )


_STILL = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails | av.stream.Disposition.still_image


def _no_sense(uri: str, error: Exception) -> VideoError:
    return VideoError("corrupt", f"{uri}: has invalid values ({type(error).__name__}: {error})")


# Number of MP4 boxes that are searched for the index. Only fragmented files have more, and their index comes first.
_MAX_BOXES = 1000
_NOT_A_VIDEO = (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError, av.error.PatchWelcomeError)


def _can_be_read(uri: str) -> bool:
    """Whether the beginning and the end of a local file can be read: FFmpeg reports input errors for nonsense, too."""
    if not filesystem.is_local(uri):
        return False
    try:
        with open(filesystem.local_path(uri), "rb") as file:
            file.read(1)
            file.seek(-1, os.SEEK_END)
            file.read(1)
    except OSError:
        return False
    return True


def _has_no_index(uri: str) -> bool:
    """Whether a local file begins as an MP4 does, and none of its boxes is the index."""
    if not filesystem.is_local(uri):
        return False
    try:
        with open(filesystem.local_path(uri), "rb") as file:
            end = file.seek(0, os.SEEK_END)
            at, n_boxes = 0, 0
            while at + 8 <= end and n_boxes < _MAX_BOXES:
                file.seek(at)
                header = file.read(16)
                size, name = int.from_bytes(header[:4], "big"), header[4:8]
                if (n_boxes == 0 and name != b"ftyp") or name == b"moov":
                    return False
                if size == 1:
                    size = int.from_bytes(header[8:16], "big")
                if size == 0:
                    break
                at += max(8, size)
                n_boxes += 1
            return n_boxes > 0
    except OSError:
        return False


def _as_video_error(uri: str, error: FFmpegError) -> VideoError:
    if isinstance(error, av.error.FileNotFoundError):
        return VideoError("missing", f"{uri}: no such file")
    if isinstance(error, _NOT_A_VIDEO) and _has_no_index(uri):
        return VideoError(
            "not_video",
            f"{uri}: an MP4 without its index (no moov box): it is still being written, or the recording was cut off "
            "before its end; run again when it is complete, or repair it",
        )
    if isinstance(error, _NOT_A_VIDEO) or _can_be_read(uri):
        return VideoError("not_video", f"{uri}: not a video that can be read ({error.strerror})")
    return VideoError("io", f"{uri}: can't be opened ({error.strerror})")
