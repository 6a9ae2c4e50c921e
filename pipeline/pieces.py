"""The steps of a job for Python: functions over frames and arrays that write no files.

Each function runs the same code as a job. `pipeline.analyze` is for archives; these functions are for a notebook, a
camera, or a program of your own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.archive.plan import OPEN_END, Chunk, plan_video
from pipeline.archive.probe import Probe, probe_video
from pipeline.archive.sources import list_videos
from pipeline.config import EMBEDDED_DETECTOR, EMBEDDED_EMBEDDER, USUAL_FPS, Config, usual_detector_px
from pipeline.engine.models import DEFAULT_MODEL, choose_models, config_for, fitted
from pipeline.errors import UsageError
from pipeline.lake.sequences import VideoRows
from pipeline.lake.work import Receipt
from pipeline.motion.tracking import TrackOptions, track_video
from pipeline.steps.decode import ChunkTask, DecodedPiece
from pipeline.steps.extract import Extractor
from pipeline.steps.label import Labeller
from pipeline.steps.track import no_tracks, track
from pipeline.video.decode import FrameBatch, decode_chunk
from pipeline.vision.detector import Boxes, Detector
from pipeline.vision.embedder import Embedder
from pipeline.vision.runtime import choose_runtime

_BATCH_FRAMES = 16
_MOST_PEOPLE = 32
_LONGEST_PX = 640


@dataclass(frozen=True)
class Frame:
    """A decoded frame."""

    image: NDArray[np.uint8]
    """`uint8 [H, W, 3]`, RGB, upright."""
    time_s: float
    """When it is shown, in seconds since the video's first frame."""
    step: int = 0
    """The first point of the sampling grid that shows it; point `k` lies at `k / fps` seconds."""
    n_steps: int = 1
    """How many points show it; more than one if the video is slower than the grid."""
    fps: float | None = None
    """Frames per second of its video, if known. A finer grid repeats frames, which does not make motion faster."""


@dataclass(frozen=True)
class Segment:
    """A span of time in which somebody does something."""

    label: str
    """The activity."""
    start_s: float
    """Start, in seconds since the first frame."""
    end_s: float
    """End, in seconds since the first frame; not included."""
    score: float
    """How sure the model is, from 0 to 1."""
    track_id: int | None
    """The number of the person's track. None if whole frames are labelled."""
    xyxy: NDArray[np.float32] | None
    """`float32 [4]`: mean box, in pixels of the frames. None if whole frames are labelled."""
    novelty: float | None = None
    """How unlike the model's training data the segment is, from 0 to 1. None if the model does not know."""


def decode(
    path: str | Path,
    fps: float = USUAL_FPS,
    start_s: float = 0.0,
    end_s: float | None = None,
    longest_px: int = _LONGEST_PX,
    video_track: int | None = None,
) -> Iterator[Frame]:
    """Yield the frames of a video that are on a sampling grid, in order, each once.

    A point of the grid shows the frame with the largest presentation time that is not after it, whatever the codec, the
    container or the frame rate.

        >>> frames = list(pipeline.decode("street.mp4", fps=5))
        >>> len(frames), frames[3].image.shape, frames[3].time_s
        (30, (480, 640, 3), 0.6)

    Args:
        path: A file, local or remote.
        fps: Points of the grid per second.
        start_s: Where to begin, in seconds.
        end_s: Where to end, in seconds. None: at the end of the video.
        longest_px: Longest side of the frames in pixels. Smaller videos are not enlarged.
        video_track: Which of a file's video tracks to read, from 0. None: the largest.

    Raises:
        VideoError: The file can't be read.
        UsageError: The path names no video, or several.
    """
    refs = list(list_videos([str(path)]))
    if len(refs) != 1:
        raise UsageError(f"{path}: holds {len(refs)} videos; name one file")
    ref = replace(refs[0], start_s=start_s or None, end_s=end_s)
    rate = Fraction(fps).limit_denominator(100_000)
    probe = probe_video(ref, track=video_track)
    planned = plan_video(ref, probe, rate, math.inf)
    if planned.failure is not None:
        raise planned.failure
    for chunk in planned.chunks:
        for batch in decode_chunk(ref.uri, probe, chunk, rate, longest_px, _BATCH_FRAMES):
            for image, time_s, step, n_steps in zip(
                batch.images, batch.pts_s.tolist(), batch.steps.tolist(), batch.n_steps.tolist(), strict=True
            ):
                yield Frame(image, time_s, step, n_steps, probe.fps)


def detect(
    frames: Iterable[Frame | NDArray[np.uint8]],
    detector: str = EMBEDDED_DETECTOR,
    classes: Sequence[str] = ("person",),
    min_score: float = 0.25,
    detector_px: int | None = None,
    device: str = "auto",
) -> Iterator[Boxes]:
    """Find people, or other things, in each frame.

        >>> frames = pipeline.decode("street.mp4", fps=5)
        >>> boxes = next(pipeline.detect(frames))
        >>> boxes.xyxy.shape == (len(boxes.scores), 4), len(boxes.scores) > 0
        (True, True)

    Args:
        frames: Frames, or images `uint8 [H, W, 3]`, RGB, all of one size.
        detector: `person_pose`, `person_nano`, path or name of Ultralytics detection weights, or a detector bundle.
        classes: Names of the classes to find.
        min_score: Boxes below this score are left out.
        detector_px: Longest side of the network's input, a multiple of 32. None: 480 for `person_pose`, else what it
            was trained for.
        device: `cpu`, `cuda`, or `auto`.

    Yields:
        The boxes of each frame, best first, in pixels of the frame.
    """
    px = detector_px or usual_detector_px(detector)
    network = Detector(detector, choose_runtime(device), classes, px, min_score, _MOST_PEOPLE)
    for batch in _batches(frames):
        yield from network.detect(np.stack([frame.image for frame in batch]))


def follow(boxes: Iterable[Boxes], fps: float = USUAL_FPS, gap_s: float = 2.0) -> Iterator[NDArray[np.int64]]:
    """Follow people, or other things, from frame to frame by their boxes.

        >>> boxes = pipeline.detect(pipeline.decode("street.mp4", fps=10), min_score=0.1)
        >>> ids = list(pipeline.follow(boxes, fps=10))
        >>> 1 in ids[0] and 1 in ids[20]
        True

    Args:
        boxes: The boxes of every frame, also of frames without any. Weak boxes help: they continue a track.
        fps: Frames per second; the frames are evenly spaced.
        gap_s: Seconds that somebody may be out of sight and keep the id.

    Yields:
        For each frame the ids of its boxes, `int64 [N]`, from 1 on; -1 where a box belongs to no track.
    """
    timed = ((number / fps, of_frame) for number, of_frame in enumerate(boxes))
    yield from track_video(timed, fps, TrackOptions(gap_s=gap_s))


def embed(
    images: Iterable[Frame | NDArray[np.uint8]], embedder: str = EMBEDDED_EMBEDDER, device: str = "auto"
) -> NDArray[np.float16]:
    """Describe images by a CNN: images that look alike get vectors that lie near each other.

        >>> frames = list(pipeline.decode("street.mp4", fps=1))
        >>> pipeline.embed(frames).shape
        (6, 1280)

    Args:
        images: Frames, or images `uint8 [H, W, 3]`, RGB, of any sizes, such as the crops of people.
        embedder: `efficientnet_lite0`, which comes with the package, the name of a torchvision classifier,
            `timm:MODEL`, `open_clip:MODEL/WEIGHTS`, or the path of a folder that timm or open_clip reads.
        device: `cpu`, `cuda`, or `auto`.

    Returns:
        `float16 [N, D]`, a row for each image.
    """
    network = Embedder(embedder, choose_runtime(device))
    parts = [network.embed([frame.image for frame in batch]) for batch in _batches(images)]
    return np.concatenate(parts) if parts else np.empty((0, network.dim), np.float16)


def label(
    frames: Iterable[Frame | NDArray[np.uint8]],
    model: str | Path | Bundle = DEFAULT_MODEL,
    config: Config | None = None,
    fps: float | None = None,
) -> list[Segment]:
    """Label who does what in frames, as a job does for a video. Frames are read once and not kept.

    For the default model a job decodes frames at 480 px: `decode(..., longest_px=480)` gives the same.

        >>> frames = pipeline.decode("street.mp4")
        >>> segments = pipeline.label(frames)
        >>> "walk" in {segment.label for segment in segments}
        True

    Args:
        frames: Frames, or images `uint8 [H, W, 3]`, RGB, all of one size, at the rate that the model was trained at.
        model: A model bundle, the folder of one, or `"default"` for the one that comes with the package.
        config: Options. None: the defaults, with what the model was trained with.
        fps: Images per second, for images without a time. None: the rate of the model.

    Returns:
        Segments, by start.

    Raises:
        UsageError: The model can't be read, or does not fit the options.
    """
    scope = config.scope if config else model.scope if isinstance(model, Bundle) else "person"
    (bundle,) = choose_models(model, scope, config)
    config = fitted(config or Config.load(None, {"scope": scope} | config_for([bundle])), [bundle])
    extractor = Extractor(config)
    first, frames = _first_of(frames)
    own_fps = fps or (first.fps if isinstance(first, Frame) else None)
    pieces = [_Piece(batch) for batch in _extracted(frames, extractor, fps or config.chosen_fps, own_fps)]
    rows = VideoRows.from_pieces(pieces)
    track_ids = track(rows, own_fps, config) if config.sees_people else no_tracks(rows)
    found = Labeller(bundle, config).label("", "", rows, track_ids, extractor.class_names, math.inf)
    return [
        Segment(
            each["label"],
            each["start_s"],
            each["end_s"],
            each["score"],
            each["track_id"],
            np.array([each[side] for side in ("x1", "y1", "x2", "y2")], np.float32) if "x1" in each else None,
            each["novelty"],
        )
        for each in found.segments
    ]


@dataclass(frozen=True)
class _Piece:
    """A piece of features in memory, which is read in the same way as one in a lake."""

    batch: pa.RecordBatch

    def read(self, *columns: str) -> pa.RecordBatch:
        return self.batch.select(list(columns))

    def has(self, column: str) -> bool:
        return column in self.batch.schema.names


def _extracted(
    frames: Iterable[Frame | NDArray[np.uint8]], extractor: Extractor, rate: float, own_fps: float | None
) -> Iterator[pa.RecordBatch]:
    """Yield the features of frames, a batch at a time; each batch comes with the first frame of the next.

    Args:
        frames: Frames, or images.
        extractor: The networks.
        rate: Images per second.
        own_fps: Frames per second of the video that the frames are from.
    """
    task: ChunkTask | None = None
    receipt = Receipt(0, "", 0, 0, False)
    for batch, following in itertools.pairwise(itertools.chain(_batches(frames, rate), [None])):
        assert batch is not None
        if task is None:
            height, width = batch[0].image.shape[:2]
            task = ChunkTask(0, "", "frames", _probe_of(width, height, own_fps or rate), Chunk(0, 0, OPEN_END, 0.0))
        decoded = FrameBatch(
            np.stack([frame.image for frame in batch]),
            np.array([frame.time_s for frame in batch]),
            np.array([frame.step for frame in batch], np.int64),
            np.array([frame.n_steps for frame in batch], np.int32),
            following[0].image if following else None,
        )
        ((_, rows),) = extractor.compute([DecodedPiece(task, receipt, decoded)])
        yield rows.to_batch(receipt)


def _first_of(
    frames: Iterable[Frame | NDArray[np.uint8]],
) -> tuple[Frame | NDArray[np.uint8] | None, Iterable[Frame | NDArray[np.uint8]]]:
    """Return the first frame, or None if there is none, and an iterable of all frames."""
    left = iter(frames)
    begun = list(itertools.islice(left, 1))
    return (begun[0] if begun else None), itertools.chain(begun, left)


def _probe_of(width: int, height: int, rate: float) -> Probe:
    return Probe("", width, height, 0, rate, False, 0.0, Fraction(1, 90_000), 0, np.empty(0))


def _batches(frames: Iterable[Frame | NDArray[np.uint8]], rate: float = USUAL_FPS) -> Iterator[list[Frame]]:
    """Yield frames in batches; images get evenly spaced times."""
    numbered: Iterator[tuple[int, Any]] = enumerate(frames)
    while batch := list(itertools.islice(numbered, _BATCH_FRAMES)):
        yield [
            each if isinstance(each, Frame) else Frame(np.ascontiguousarray(each), number / rate, number)
            for number, each in batch
        ]
