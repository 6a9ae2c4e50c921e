"""Pictures out of a file, a camera or a stream, at an even rate."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

_EPSILON = 1e-6
# A frame counts as shown for at most so long; what follows is a gap.
_LONGEST_HELD_S = 10.0
_USUAL_FPS = 25.0
_TIMEOUT_S = 10


class Picture(NamedTuple):
    """What is shown at a step of the sampling grid."""

    step: int
    time_s: float
    """When the frame came, from the first one on."""
    image: NDArray[np.uint8]
    """`uint8 [h, w, 3]`, RGB; not larger than asked for."""
    size: tuple[int, int]
    """Width and height of the source."""


class _Frame(NamedTuple):
    """A decoded frame."""

    time_s: float
    size: tuple[int, int]
    picture: Callable[[int, int], NDArray[np.uint8]]
    """Returns it with a width and a height, in RGB."""


class Footage:
    """The pictures of a source."""

    def __init__(self, frames: Iterator[_Frame], own_fps: float, rate: float, longest_px: int, is_live: bool) -> None:
        """Take the frames, how many come per second, and how many pictures of which size are wanted."""
        self._rate, self._longest_px = rate, longest_px
        self._frames = _newest(frames) if is_live else frames
        self.fps = min(own_fps or _USUAL_FPS, rate)
        """Pictures per second, usually."""

    def __iter__(self) -> Iterator[Picture]:
        """Yield the pictures: at each step of the grid the last frame that is not after it."""
        held: _Frame | None = None
        first_s, usual_s = 0.0, 1 / self.fps
        for frame in self._frames:
            if held is None:
                first_s = frame.time_s
            else:
                usual_s = frame.time_s - held.time_s if frame.time_s > held.time_s else usual_s
                yield from self._shown(held, first_s, frame.time_s)
            held = frame
        if held is not None:
            yield from self._shown(held, first_s, held.time_s + usual_s)

    def _shown(self, frame: _Frame, first_s: float, until_s: float) -> Iterator[Picture]:
        time_s = frame.time_s - first_s
        step = math.ceil(time_s * self._rate - _EPSILON)
        if step >= math.ceil((min(until_s, frame.time_s + _LONGEST_HELD_S) - first_s) * self._rate - _EPSILON):
            return
        width, height = frame.size
        scale = min(1.0, self._longest_px / max(width, height))
        image = frame.picture(max(1, round(width * scale)), max(1, round(height * scale)))
        yield Picture(step, time_s, image, frame.size)


def pictures(source: str, rate: float, longest_px: int) -> Footage:
    """Open a source.

    Args:
        source: A file, `rtsp://...` or another stream, or `camera:0`.
        rate: Pictures per second.
        longest_px: Longest side of a picture; smaller ones are not enlarged.

    Raises:
        OSError: It can't be opened.
    """
    kind, _, number = source.partition(":")
    if kind == "camera":
        return _by_opencv(int(number or 0), rate, longest_px, is_live=True)
    is_live = kind in ("rtsp", "rtsps", "rtmp", "udp", "srt")
    by = _by_av if find_spec("av") else _by_opencv
    return by(source, rate, longest_px, is_live)


def _by_av(source: str, rate: float, longest_px: int, is_live: bool) -> Footage:
    import av

    options = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
    container: Any = av.open(source, options=options, timeout=_TIMEOUT_S if is_live else None)
    if not container.streams.video:
        raise OSError(f"{source}: no video in it")
    stream = container.streams.video[0]

    def frames() -> Iterator[_Frame]:
        for frame in container.decode(stream):
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            size = (frame.height, frame.width) if turns % 2 else (frame.width, frame.height)
            yield _Frame(float(frame.time), size, _picture_of(frame, turns))

    return Footage(frames(), float(stream.average_rate or 0), rate, longest_px, is_live)


def _picture_of(frame: Any, turns: int) -> Callable[[int, int], NDArray[np.uint8]]:
    def picture(width: int, height: int) -> NDArray[np.uint8]:
        size = (height, width) if turns % 2 else (width, height)
        small = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="BILINEAR")
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), turns))

    return picture


def _by_opencv(source: str | int, rate: float, longest_px: int, is_live: bool) -> Footage:
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise OSError(f"{source}: can't be opened")
    own_fps = capture.get(cv2.CAP_PROP_FPS)

    def frames() -> Iterator[_Frame]:
        start = cv2.getTickCount()
        while True:
            there, frame = capture.read()
            if not there:
                return
            lived_s = (cv2.getTickCount() - start) / cv2.getTickFrequency()
            time_s = lived_s if is_live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield _Frame(time_s, (frame.shape[1], frame.shape[0]), _resized(frame))

    return Footage(frames(), own_fps, rate, longest_px, is_live)


def _resized(frame: Any) -> Callable[[int, int], NDArray[np.uint8]]:
    def picture(width: int, height: int) -> NDArray[np.uint8]:
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)

    return picture


def _newest(frames: Iterator[_Frame]) -> Iterator[_Frame]:
    """Yield the newest frame whenever one is asked for: what comes meanwhile is left out, and nothing piles up."""
    waiting: list[_Frame] = []
    changed, ended = threading.Condition(), threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            for frame in frames:
                with changed:
                    waiting[:] = [frame]
                    changed.notify()
        except BaseException as error:
            failures.append(error)
        finally:
            with changed:
                ended.set()
                changed.notify()

    threading.Thread(target=read, daemon=True).start()
    while True:
        with changed:
            changed.wait_for(lambda: waiting or ended.is_set())
            if not waiting:
                break
            frame = waiting.pop()
        yield frame
    if failures:
        raise failures[0]
