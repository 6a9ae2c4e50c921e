"""Pictures out of a file, a camera or a stream, at an even rate."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.archive.orientation import orientation_of, upright_size

_EPSILON = 1e-6
# A frame counts as shown for at most this long; then there is a gap.
_LONGEST_HELD_S = 10.0
# If the time goes back by more than this, another recording begins. If by less, a frame came out of order.
_SET_BACK_S = 1.0
_USUAL_FPS = 25.0
_TIMEOUT_S = 10
_LOOKED_AT_FIRST_US = 1_000_000
# After this many damaged packets in a row a source is given up.
_MOST_DAMAGED = 1000


class Picture(NamedTuple):
    """The picture at a step of the sampling grid."""

    step: int
    n_steps: int
    """For how many steps it is shown, as far as that is known when it is yielded."""
    time_s: float
    """When the frame came, in seconds since the first one."""
    image: NDArray[np.uint8]
    """`uint8 [h, w, 3]`, RGB, upright; not larger than asked for."""
    size: tuple[int, int]
    """Width and height of the source, upright and in square pixels."""


class _Frame(NamedTuple):
    """A decoded frame."""

    time_s: float
    size: tuple[int, int]
    picture: Callable[[int, int], NDArray[np.uint8]]
    """Returns the frame in RGB, scaled to a width and a height."""


class Footage:
    """The pictures of a source. A live source gives the newest picture whenever one is requested."""

    def __init__(
        self, frames: Iterator[_Frame], own_fps: float, rate: float, longest_px: int, is_live: bool,
        stop: threading.Event | None = None,
    ) -> None:  # fmt: skip
        """Take the frames, how many come per second, and how many pictures of which size are wanted."""
        self._rate, self._longest_px, self._stop = rate, longest_px, stop or threading.Event()
        self._frames = _newest(frames, self._stop) if is_live else frames
        self.is_live = is_live
        self.began_at = 0.0
        """When the first picture came, in seconds since 1970."""
        self.fps = min(own_fps or _USUAL_FPS, rate)
        """The usual number of pictures per second."""

    def __iter__(self) -> Iterator[Picture]:
        """Yield the pictures until the source ends or `stop` is set.

        Raises:
            OSError: The source broke off.
        """
        for picture in self._live() if self.is_live else self._recorded():
            if self._stop.is_set():
                return
            self.began_at = self.began_at or time.time()
            yield picture

    def _live(self) -> Iterator[Picture]:
        first_s, last_step = None, -1
        for frame in self._frames:
            first_s = frame.time_s if first_s is None else first_s
            step = math.floor((frame.time_s - first_s) * self._rate + _EPSILON)
            if step > last_step:
                last_step = step
                yield self._picture(frame, frame.time_s - first_s, step, 1)

    def _recorded(self) -> Iterator[Picture]:
        """Yield for each step of the grid the last frame that is not after it."""
        held, held_s, shift_s, usual_s = None, 0.0, 0.0, 1 / self.fps
        for frame in self._frames:
            if held is None:
                shift_s = -frame.time_s
            time_s = frame.time_s + shift_s
            if held is not None:
                if time_s < held_s - _SET_BACK_S:
                    shift_s += held_s + usual_s - time_s
                    time_s = held_s + usual_s
                elif time_s <= held_s:
                    continue
                usual_s = min(1.0, time_s - held_s)
                yield from self._shown(held, held_s, time_s)
            held, held_s = frame, time_s
        if held is not None:
            yield from self._shown(held, held_s, held_s + usual_s)

    def _shown(self, frame: _Frame, time_s: float, until_s: float) -> Iterator[Picture]:
        step = self._first_step(time_s)
        n_steps = self._first_step(min(until_s, time_s + _LONGEST_HELD_S)) - step
        if n_steps > 0:
            yield self._picture(frame, time_s, step, n_steps)

    def _first_step(self, time_s: float) -> int:
        return math.ceil(time_s * self._rate - _EPSILON)

    def _picture(self, frame: _Frame, time_s: float, step: int, n_steps: int) -> Picture:
        width, height = frame.size
        scale = min(1.0, self._longest_px / max(width, height))
        image = frame.picture(max(1, round(width * scale)), max(1, round(height * scale)))
        return Picture(step, n_steps, time_s, image, frame.size)


def pictures(source: str, rate: float, longest_px: int, stop: threading.Event | None = None) -> Footage:
    """Open a source.

    Args:
        source: A file, `rtsp://...` or another stream, or `camera:0`.
        rate: Pictures per second.
        longest_px: Longest side of a picture; smaller ones are not enlarged.
        stop: Ends the pictures when it is set.

    Raises:
        OSError: It can't be opened.
    """
    kind, _, number = source.partition(":")
    if kind == "camera":
        return Footage(*_by_opencv(int(number or 0), is_live=True), rate, longest_px, True, stop)
    is_live = ("://" in source and kind != "file") or source.startswith("/dev/video")
    opened = _by_av(source, is_live) if find_spec("av") else _by_opencv(source, is_live)
    return Footage(*opened, rate, longest_px, is_live, stop)


def _by_av(source: str, is_live: bool) -> tuple[Iterator[_Frame], float]:
    """Open a source by PyAV; return its frames, and how many come per second."""
    import av
    from av.error import FFmpegError

    options = {"rtsp_transport": "tcp"} if source.startswith("rtsp") else {}
    if is_live:
        # FFmpeg would watch a camera for five seconds before it shows anything.
        options["analyzeduration"] = str(_LOOKED_AT_FIRST_US)
    try:
        container: Any = av.open(source, options=options, timeout=_TIMEOUT_S if is_live else None)
    except FFmpegError as error:
        raise OSError(f"{source}: can't be opened ({error.strerror or error})") from error
    if not container.streams.video:
        raise OSError(f"{source}: no video in it")
    stream = container.streams.video[0]
    fps = float(stream.average_rate or stream.guessed_rate or _USUAL_FPS)

    def frames() -> Iterator[_Frame]:
        began_s = time.monotonic()
        for number, frame in enumerate(_decoded(source, container, stream)):
            told_s = frame.time if frame.time is not None else number / fps
            yield _upright(frame, stream, time.monotonic() - began_s if is_live else float(told_s))

    return frames(), fps


def _decoded(source: str, container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of a stream; damaged packets are left out."""
    from av.error import FFmpegError

    n_damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError as error:
            raise OSError(f"{source}: broke off ({error.strerror or error})") from error
        if packet is None:
            return
        try:
            frames = packet.decode()
            n_damaged = 0
        except FFmpegError as error:
            frames, n_damaged = [], n_damaged + 1
            if n_damaged == _MOST_DAMAGED:
                raise OSError(f"{source}: {n_damaged} damaged packets in a row") from error
        yield from frames


def _upright(frame: Any, stream: Any, time_s: float) -> _Frame:
    matrix = frame.side_data.get("DISPLAYMATRIX")
    rotation, mirrored = orientation_of(bytes(matrix) if matrix is not None else None)

    def picture(width: int, height: int) -> NDArray[np.uint8]:
        size = (height, width) if rotation in (90, 270) else (width, height)
        small = frame.reformat(width=size[0], height=size[1], format="rgb24", interpolation="AREA")
        image = np.rot90(small.to_ndarray(), rotation // 90)
        return np.ascontiguousarray(image[:, ::-1] if mirrored else image)

    return _Frame(
        time_s, upright_size(frame.width, frame.height, float(stream.sample_aspect_ratio or 1), rotation), picture
    )


def _by_opencv(source: str | int, is_live: bool) -> tuple[Iterator[_Frame], float]:
    """Open a source by OpenCV; return its frames, and how many come per second."""
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise OSError(f"{source}: can't be opened")

    def frames() -> Iterator[_Frame]:
        began_s = time.monotonic()
        while True:
            there, frame = capture.read()
            if not there:
                return
            told_s = time.monotonic() - began_s if is_live else capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield _Frame(told_s, (frame.shape[1], frame.shape[0]), _resized(frame))

    return frames(), float(capture.get(cv2.CAP_PROP_FPS))


def _resized(frame: Any) -> Callable[[int, int], NDArray[np.uint8]]:
    def picture(width: int, height: int) -> NDArray[np.uint8]:
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)

    return picture


def _newest(frames: Iterator[_Frame], stop: threading.Event) -> Iterator[_Frame]:
    """Yield the newest frame whenever one is requested. Frames in between are dropped, so there is no backlog."""
    waiting: list[_Frame] = []
    changed, ended = threading.Condition(), threading.Event()
    failures: list[Exception] = []

    def read() -> None:
        try:
            for frame in frames:
                with changed:
                    waiting[:] = [frame]
                    changed.notify()
                if stop.is_set():
                    break
        except Exception as error:  # It is raised again in the thread that reads the pictures.
            failures.append(error)
        with changed:
            ended.set()
            changed.notify()

    threading.Thread(target=read, daemon=True).start()
    while not stop.is_set():
        with changed:
            # The timeout lets the loop check whether to stop.
            changed.wait_for(lambda: waiting or ended.is_set(), timeout=0.5)
            frame = waiting.pop() if waiting else None
        if frame is not None:
            yield frame
        elif ended.is_set():
            break
    if failures:
        raise failures[0]
