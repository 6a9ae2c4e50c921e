"""Open a video file safely: formats and protocols are whitelisted, errors become one clear line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from pipeline.archive import filesystem
from pipeline.config import USUAL_LIMITS, VideoLimits
from pipeline.errors import VideoError

# FFmpeg also reads playlists, concat scripts and image sequences, which open other files and the network. Only real
# containers are allowed; the names are those of FFmpeg's demuxers.
_FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,flv,asf,ogg,mjpeg,h264,hevc,ivf"
_OPTIONS = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
# A remote read costs a round trip, so ask for much at once.
_REMOTE_BUFFER_BYTES = 1 << 20


@contextmanager
def open_video(uri: str, limits: VideoLimits = USUAL_LIMITS) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a local or remote video and yield the container and its first video stream.

    The decoder runs on one thread: many decoders run side by side. It refuses frames that are larger than allowed,
    whatever the header says.

    Raises:
        VideoError: The file is missing, empty, not a video, without a video stream, or unreadable; also while the block
            reads it.
    """
    handle: Any = None
    # Of frames beyond this the decoder does not even allocate one.
    decoding = {"max_pixels": str(int(limits.max_megapixels * 1e6))}
    options = _OPTIONS | decoding
    try:
        try:
            path = filesystem.local_path(uri) if filesystem.is_local(uri) else ""
            if path and filesystem.is_text(path):
                container = av.open(path, options=options)
            elif path:
                handle = open(path, "rb")  # noqa: SIM115 (closed below)
                container = av.open(handle, options=options)
            else:
                fs, path = filesystem.resolve(uri)
                handle = fs.open_input_file(path)
                container = av.open(handle, buffer_size=_REMOTE_BUFFER_BYTES, options=options)
        except FFmpegError as error:
            raise _as_video_error(uri, error) from error
        except OSError as error:
            raise VideoError("io", f"{uri}: can't be read ({error.strerror or error})") from error
        with container:
            pictures = [stream for stream in container.streams.video if not stream.disposition & _ATTACHED_PICTURE]
            if not pictures:
                kinds = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
                raise VideoError("no_video_stream", f"{uri}: holds {' and '.join(kinds)} but no video")
            stream = pictures[0]
            if stream.codec_context is None:
                raise VideoError("not_video", f"{uri}: no decoder for its codec")
            stream.codec_context.thread_count = 1
            stream.codec_context.options = decoding
            try:
                yield container, stream
            except FFmpegError as error:
                raise VideoError("corrupt", f"{uri}: can't be read on ({error.strerror})") from error
            except OSError as error:
                # From a remote file; FFmpeg passes on what its reading raised.
                raise VideoError("io", f"{uri}: reading it failed ({error.strerror or error})") from error
    finally:
        if handle is not None:
            handle.close()


def refuse_large_frames(uri: str, stream: VideoStream, limits: VideoLimits) -> None:
    """Raise if the frames that a stream is at are larger than allowed: the decoder did not decode them for that.

    Raises:
        VideoError: They are.
    """
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > limits.max_megapixels * 1e6:
        raise VideoError(
            "too_large",
            f"{uri}: has frames of {width} x {height} pixels, more than max_megapixels = {limits.max_megapixels:g}; "
            "raise that option if the file is honest",
        )


_ATTACHED_PICTURE = av.stream.Disposition.attached_pic


def _as_video_error(uri: str, error: FFmpegError) -> VideoError:
    if isinstance(error, av.error.FileNotFoundError):
        return VideoError("missing", f"{uri}: no such file")
    if isinstance(error, (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError)):
        return VideoError("not_video", f"{uri}: not a video that can be read ({error.strerror})")
    return VideoError("io", f"{uri}: can't be opened ({error.strerror})")
