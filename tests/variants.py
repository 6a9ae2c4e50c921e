"""One picture story in many odd files: each variant encodes the same RGB frames in a way that real archives hold."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Frames = Sequence[NDArray[np.uint8]]
"""`uint8 [H, W, 3]` each, RGB, all of one even size."""
Variant = Callable[[Path, Frames, int], Path]
"""Writes frames, shown at so many per second, into a folder; returns the file."""

_X264 = {"g": "12", "preset": "ultrafast", "crf": "12"}
_X265 = "keyint=12:min-keyint=12:log-level=none:crf=12:pools=1:frame-threads=1"
_CLOCK = 90_000
_WRAP = 2**33
# AV_CODEC_FLAG_INTERLACED_DCT and AV_CODEC_FLAG_INTERLACED_ME.
_INTERLACED = 1 << 18 | 1 << 29


@dataclass(frozen=True)
class How:
    """How to encode: container, codec, times and orientation."""

    suffix: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=lambda: dict(_X264))
    pixel_format: str = "yuv420p"
    container_options: dict[str, str] = field(default_factory=dict)
    format: str | None = None
    time_base: Fraction | None = None
    rate: Fraction | None = None
    """Declared; None: as shown."""
    start: Callable[[int], int] | None = None
    """From frames per second to the first PTS, in units of the time base."""
    spacing: Callable[[int, int], int] | None = None
    """From a frame's number and frames per second to its PTS before `start`, in units of the time base."""
    rotation_deg: int = 0
    """Counter-clockwise turn that sets the stored frames upright ..."""
    mirrored: bool = False
    """... followed by this flip of left and right."""
    interlaced: bool = False


def encode(path: Path, frames: Frames, fps: int, how: How) -> Path:
    """Encode frames so that a player that shows them upright shows what was given."""
    av.logging.set_level(av.logging.PANIC)
    with av.open(str(path), "w", format=how.format, options=how.container_options) as container:
        stream = container.add_stream(how.codec, rate=how.rate or fps, options=how.options)
        if how.rotation_deg or how.mirrored:
            stream.set_display_rotation(how.rotation_deg, hflip=how.mirrored)
        stored = [_stored(frame, how) for frame in frames]
        _shape(stream, stored, fps, how)
        _encode_into(container, stream, stored, fps, how)
        container.mux(stream.encode(None))
    return path


def _stored(frame: NDArray[np.uint8], how: How) -> NDArray[np.uint8]:
    stored = frame[:, ::-1] if how.mirrored else frame
    return np.ascontiguousarray(np.rot90(stored, -(how.rotation_deg // 90)))


def _shape(stream: Any, frames: Frames, fps: int, how: How) -> None:
    stream.height, stream.width = frames[0].shape[:2]
    stream.pix_fmt = how.pixel_format
    if how.time_base is not None:
        stream.codec_context.time_base = how.time_base
    if how.interlaced:
        stream.codec_context.flags |= _INTERLACED


def _encode_into(container: Any, stream: Any, frames: Frames, fps: int, how: How) -> None:
    time_base = how.time_base or Fraction(1, fps)
    start = how.start(fps) if how.start else 0
    for number, image in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=how.pixel_format)
        even = round(Fraction(number, fps) / time_base)
        frame.pts = start + (how.spacing(number, fps) if how.spacing else even)
        frame.time_base = time_base
        container.mux(stream.encode(frame))


def _plain(name: str, how: How) -> Variant:
    return lambda folder, frames, fps: encode(folder / f"{name}{how.suffix}", frames, fps, how)


def _odd_size(name: str, how: How) -> Variant:
    """Frames scaled by a pixel, to sides that are no multiple of two."""

    def write(folder: Path, frames: Frames, fps: int) -> Path:
        height, width = frames[0].shape[:2]
        scaled = [
            av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(width=width + 1, height=height + 1).to_ndarray()
            for frame in frames
        ]
        return encode(folder / f"{name}{how.suffix}", scaled, fps, how)

    return write


def _joined(name: str, how: How, resize: float = 1.0) -> Variant:
    """Two recordings joined end to end, each with timestamps of its own; the second perhaps of another size."""

    def write(folder: Path, frames: Frames, fps: int) -> Path:
        middle = len(frames) // 2
        second: Frames = frames[middle:]
        if resize != 1.0:
            height, width = (2 * round(side * resize / 2) for side in frames[0].shape[:2])
            second = [
                av.VideoFrame.from_ndarray(f, format="rgb24").reformat(width=width, height=height).to_ndarray()
                for f in second
            ]
        path = folder / f"{name}{how.suffix}"
        part = folder / f"{name}-part{how.suffix}"
        content = encode(part, frames[:middle], fps, how).read_bytes()
        path.write_bytes(content + encode(part, second, fps, how).read_bytes())
        part.unlink()
        return path

    return write


def _two_tracks(folder: Path, frames: Frames, fps: int) -> Path:
    """A small black track, before the large one that shows the frames."""
    path = folder / "two-tracks.mkv"
    how = How(".mkv")
    av.logging.set_level(av.logging.PANIC)
    with av.open(str(path), "w") as container:
        small, large = (container.add_stream("libx264", rate=fps, options=dict(_X264)) for _ in range(2))
        black: Frames = [np.zeros((48, 64, 3), np.uint8)] * len(frames)
        _shape(small, black, fps, how)
        _shape(large, frames, fps, how)
        _encode_into(container, small, black, fps, how)
        _encode_into(container, large, frames, fps, how)
        for stream in (small, large):
            container.mux(stream.encode(None))
    return path


def _cut_start(folder: Path, frames: Frames, fps: int) -> Path:
    """An edit list leaves out ten black frames that are stored before the others."""
    black: Frames = [np.zeros_like(frames[0])] * 10
    how = How(".mp4", options=_X264 | {"bf": "2"}, start=lambda _: -10,
              container_options={"avoid_negative_ts": "disabled", "use_editlist": "1"})  # fmt: skip
    return encode(folder / "edit-list-cuts-start.mp4", [*black, *frames], fps, how)


def _one_frame(folder: Path, frames: Frames, fps: int) -> Path:
    """The first of the frames alone."""
    return encode(folder / "one-frame.mp4", frames[:1], fps, How(".mp4"))


def _mxf(folder: Path, frames: Frames, fps: int) -> Path:
    """MXF, at 25 frames/s whatever was asked for: it knows the rates of television alone."""
    return encode(folder / "mxf.mxf", frames, 25, How(".mxf", "mpeg2video", {"g": "12", "qmax": "3"}))


_ALPHA = {"qscale": "4"}
_FFV1: dict[str, str] = {}
_HDR = f"{_X265}:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:range=limited"
_HLG = f"{_X265}:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc:range=limited"
_VP9 = {"g": "12", "deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"}
_MPEG2 = {"g": "12", "qmax": "3"}
_MPEG4 = {"g": "12", "qmax": "3"}
_TS_CLOCK = Fraction(1, _CLOCK)

_HOWS: dict[str, How] = {
    "plain": How(".mp4"),
    **{f"rotated-{turn}": How(".mp4", rotation_deg=turn) for turn in (90, 180, 270)},
    **{f"mirrored-{turn}": How(".mp4", rotation_deg=turn, mirrored=True) for turn in (0, 90, 180, 270)},
    "rotated-90-mkv": How(".mkv", rotation_deg=90),
    "chroma-422": How(".mp4", pixel_format="yuv422p"),
    "chroma-444": How(".mp4", pixel_format="yuv444p"),
    "grey": How(".mp4", pixel_format="gray"),
    "grey-ffv1": How(".mkv", "ffv1", _FFV1, "gray"),
    "full-range": How(".avi", "mjpeg", {"qmax": "3"}, "yuvj420p"),
    "rgb-h264": How(".mp4", "libx264rgb", dict(_X264), "rgb24"),
    "ten-bit": How(".mp4", pixel_format="yuv420p10le"),
    "ten-bit-422": How(".mp4", pixel_format="yuv422p10le"),
    "twelve-bit": How(".mkv", "ffv1", _FFV1, "yuv420p12le"),
    "hdr-pq": How(".mp4", "libx265", {"x265-params": _HDR}, "yuv420p10le"),
    "hdr-hlg": How(".mp4", "libx265", {"x265-params": _HLG}, "yuv420p10le"),
    "alpha-prores": How(".mov", "prores_ks", {"profile": "4", **_ALPHA}, "yuva444p10le"),
    "alpha-png": How(".mov", "png", {}, "rgba"),
    "alpha-ffv1": How(".mkv", "ffv1", _FFV1, "bgra"),
    "alpha-vp9": How(".webm", "libvpx-vp9", _VP9, "yuva420p"),
    "interlaced": How(".ts", options=_X264 | {"x264-params": "interlaced=1"}, interlaced=True),
    "interlaced-mpeg2": How(".mpg", "mpeg2video", dict(_MPEG2), interlaced=True),
    "variable-rate": How(".mp4", time_base=Fraction(1, 1000),
                         spacing=lambda n, fps: 1000 * n // fps + 300 // fps * (n % 3)),
    "declares-1000-fps": How(".mkv", rate=Fraction(1000), time_base=Fraction(1, 1000)),
    "third-of-a-frame-per-second": How(".mp4", rate=Fraction(1, 3), time_base=Fraction(3), spacing=lambda n, _: n),
    "odd-time-base": How(".mp4", time_base=Fraction(1, 12_345)),
    "ntsc-time-base": How(".mp4", time_base=Fraction(1, 30_000), rate=Fraction(30_000, 1001),
                          spacing=lambda n, _: 1001 * n),
    "edit-list": How(".mp4", options=_X264 | {"bf": "3"}),
    "starts-late": How(".mkv", time_base=Fraction(1, 1000), start=lambda _: 1_000_000),
    "starts-late-mp4": How(".mp4", start=lambda fps: 1000 * fps),
    "starts-late-ts": How(".ts", time_base=_TS_CLOCK, start=lambda _: 1000 * _CLOCK),
    "starts-before-zero": How(".mkv", time_base=Fraction(1, 1000), start=lambda _: -500),
    "fragmented": How(".mp4", container_options={"movflags": "frag_keyframe+empty_moov"}),
    "ts": How(".ts", options=_X264 | {"bf": "3"}),
    "ts-wraps": How(".ts", options=_X264 | {"bf": "2"}, time_base=_TS_CLOCK,
                    start=lambda _: _WRAP - 3 * _CLOCK),
    "raw-h264": How(".h264", options=_X264 | {"bf": "2"}, format="h264"),
    "raw-hevc": How(".hevc", "libx265", {"x265-params": _X265}, format="hevc"),
    "raw-m2v": How(".m2v", "mpeg2video", _MPEG2 | {"bf": "2"}, format="mpeg2video"),
    "raw-m4v": How(".m4v", "mpeg4", dict(_MPEG4), format="m4v"),
    "gif": How(".gif", "gif", {}, "rgb8"),
    "apng": How(".apng", "apng", {}, "rgb24", format="apng"),
    "y4m": How(".y4m", "wrapped_avframe", {}, format="yuv4mpegpipe"),
    "flv": How(".flv", options=_X264 | {"bf": "2"}),
    "f4v": How(".f4v"),
    "wmv": How(".wmv", "wmv2", dict(_MPEG4)),
    "real": How(".rm", "rv20", {"g": "12", "qmax": "3"}),
    "vob": How(".vob", "mpeg2video", dict(_MPEG2), format="vob"),
    "divx": How(".divx", "mpeg4", dict(_MPEG4), format="avi"),
    "vp9": How(".webm", "libvpx-vp9", dict(_VP9)),
    "hevc": How(".mp4", "libx265", {"x265-params": _X265}),
}  # fmt: skip
_ODD: dict[str, How] = {
    "odd-size-vp9": How(".webm", "libvpx-vp9", dict(_VP9)),
    "odd-size-mjpeg": How(".avi", "mjpeg", {"qmax": "3"}, "yuvj420p"),
    "odd-size-444": How(".mp4", pixel_format="yuv444p"),
    "odd-size-png": How(".mov", "png", {}, "rgb24"),
}
_JOINED: dict[str, How] = {
    "joined-ts": How(".ts", options=_X264 | {"bf": "3"}),
    "joined-mpg": How(".mpg", "mpeg2video", _MPEG2 | {"bf": "2"}),
    "joined-h264": How(".h264", options=_X264 | {"bf": "2"}, format="h264"),
    "joined-mkv": How(".mkv", options=_X264 | {"bf": "2"}),
}
# FFmpeg reads the first recording of these.
_JOINED_UNREAD: dict[str, How] = {
    "joined-flv": How(".flv", options=_X264 | {"bf": "2"}),
    "joined-wmv": How(".wmv", "wmv2", dict(_MPEG4)),
}

VARIANTS: dict[str, Variant] = {
    **{name: _plain(name, how) for name, how in _HOWS.items()},
    **{name: _odd_size(name, how) for name, how in _ODD.items()},
    **{name: _joined(name, how) for name, how in _JOINED.items()},
    "size-changes-ts": _joined("size-changes-ts", How(".ts"), resize=0.5),
    "two-tracks": _two_tracks,
    "edit-list-cuts-start": _cut_start,
    "one-frame": _one_frame,
    "mxf": _mxf,
}
"""For each oddity, by name, what writes it. Upright and in their order the frames are those that were given. They are
at the given rate but for `variable-rate` (within a third of a frame), `third-of-a-frame-per-second` (3 s each),
`ntsc-time-base` (30000/1001 per second) and `mxf` (25 per second); `one-frame` has the first alone."""

CUT_SHORT: dict[str, Variant] = {name: _joined(name, how) for name, how in _JOINED_UNREAD.items()}
"""Files of which FFmpeg gives the first half of the frames."""


def segments_of_one_clock(folder: Path, frames: Frames, fps: int) -> Path:
    """Segments as of a stream, each written by a muxer of its own, joined: time goes on, continuity counters do not."""
    whole = encode(folder / "whole.ts", frames, fps, How(".ts", options=_X264 | {"bf": "3"}))
    parts: list[Path] = []
    with av.open(str(whole)) as source:
        for is_key, packets in itertools.groupby(source.demux(video=0), _keyframes_so_far()):
            parts.append(folder / f"segment-{is_key}.ts")
            with av.open(str(parts[-1]), "w", options={"avoid_negative_ts": "disabled"}) as container:
                stream = container.add_stream_from_template(source.streams.video[0])
                for packet in packets:
                    if packet.dts is not None:
                        packet.stream = stream
                        container.mux(packet)
    path = folder / "segments.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def _keyframes_so_far() -> Callable[[Any], int]:
    n_keyframes = 0

    def count(packet: Any) -> int:
        nonlocal n_keyframes
        n_keyframes += packet.is_keyframe
        return n_keyframes

    return count
