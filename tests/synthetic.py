"""Videos whose frames carry their own number in blocks of pixels, so that a test can tell which frame it was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

BITS = 10
_BLOCK = 16
WIDTH, HEIGHT = BITS * _BLOCK, 96


def numbered_frame(number: int, width: int = WIDTH, height: int = HEIGHT) -> NDArray[np.uint8]:
    """Return an RGB image whose middle third shows a number, bit by bit, in columns a tenth of the width wide."""
    image = np.full((height, width, 3), 16, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            image[height // 3 : 2 * height // 3, bit * width // BITS : (bit + 1) * width // BITS] = 235
    return image


def read_number(image: NDArray[np.uint8]) -> int:
    """Return the number that an image shows, whatever its size."""
    height, width = image.shape[:2]
    centres = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    row = image[height // 2]
    return sum(1 << bit for bit, x in enumerate(centres) if row[x].mean() > 127)


@dataclass(frozen=True)
class Recipe:
    """How to encode a video."""

    name: str
    codec: str
    options: dict[str, str] = field(default_factory=dict)
    pixel_format: str = "yuv420p"
    container_options: dict[str, str] = field(default_factory=dict)
    b_frames: int | None = None


_X264 = {"g": "12", "preset": "ultrafast", "crf": "10"}
_X265 = "keyint=12:min-keyint=12:log-level=none:crf=12"
RECIPES = [
    Recipe("h264.mp4", "libx264", _X264 | {"bf": "0"}),
    Recipe("h264-bframes.mp4", "libx264", _X264 | {"bf": "3"}),
    Recipe("h264-opengop.mp4", "libx264", _X264 | {"bf": "3", "x264-params": "open-gop=1"}),
    Recipe("h264-intra-refresh.mp4", "libx264", {"bf": "0", "crf": "10", "x264-params": "intra-refresh=1:keyint=12"}),
    Recipe("h264.mov", "libx264", _X264 | {"bf": "3"}),
    Recipe("h264.mkv", "libx264", _X264 | {"bf": "3"}),
    Recipe("h264.ts", "libx264", _X264 | {"bf": "3"}),
    Recipe("h264-fragmented.mp4", "libx264", _X264, container_options={"movflags": "frag_keyframe+empty_moov"}),
    Recipe("hevc.mp4", "libx265", {"x265-params": f"{_X265}:bframes=3"}),
    Recipe("hevc-opengop.mkv", "libx265", {"x265-params": f"{_X265}:bframes=3:open-gop=1"}),
    Recipe("vp9.webm", "libvpx-vp9", {"g": "12", "deadline": "realtime", "cpu-used": "8", "crf": "10", "b": "0"}),
    Recipe("av1.mp4", "libsvtav1", {"preset": "8", "g": "12", "crf": "5", "svtav1-params": "lp=1"}),
    Recipe("mpeg4.avi", "mpeg4", {"g": "12", "bf": "2", "qmax": "4"}),
    Recipe("mpeg4.mp4", "mpeg4", {"g": "12", "bf": "2", "qmax": "4"}),
    Recipe("mjpeg.avi", "mjpeg", {"qmax": "4"}, pixel_format="yuvj420p"),
    Recipe("mjpeg.mov", "mjpeg", {"qmax": "4"}, pixel_format="yuvj420p"),
]


def make_video(
    path: Path,
    recipe: Recipe,
    n_frames: int = 60,
    fps: int = 30,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    rotation_deg: int = 0,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """Encode numbered frames.

    Args:
        path: Where to; its suffix chooses the container.
        recipe: Codec and options.
        n_frames: How many.
        fps: Rate, for evenly spaced frames.
        pts: Times of the frames in units of `time_base`, for uneven ones.
        time_base: Seconds per unit of `pts`.
        size: Width and height.
        rotation_deg: Counter-clockwise turn that a player is told to show the frames with.
        pixel_aspect: How wide a player is told to show a pixel, as share of its height.
    """
    av.logging.set_level(av.logging.PANIC)
    with av.open(str(path), "w", options=recipe.container_options) as container:
        stream = container.add_stream(recipe.codec, rate=fps, options=recipe.options)
        stream.width, stream.height = size
        stream.pix_fmt = recipe.pixel_format
        if time_base is not None:
            stream.codec_context.time_base = time_base
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        for number in range(n_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number, *size), format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = time_base or Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_slow_video(path: Path) -> Path:
    """Write a video that is quick to make and takes seconds to decode: a picture of 12 megapixels, 600 times.

    Only the first is marked as a keyframe, so none can be left out.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=240)
        stream.width, stream.height, stream.pix_fmt = 4000, 3000, "yuvj420p"
        picture = av.VideoFrame.from_ndarray(numbered_frame(0, 4000, 3000), format="rgb24")
        (encoded,) = stream.encode(picture.reformat(format="yuvj420p"))
        for number in range(600):
            packet = av.Packet(bytes(encoded))
            packet.stream, packet.is_keyframe = stream, number == 0
            packet.pts = packet.dts = number
            packet.time_base = Fraction(1, 240)
            container.mux(packet)
    return path
