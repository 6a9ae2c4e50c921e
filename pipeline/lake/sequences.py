"""A video's rows, before or after the commit: frames without duplicates, tracks, and the sequences of the LSTM."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import fs as pafs

from pipeline.errors import UsageError
from pipeline.lake.parts import by_video, read_part
from pipeline.lake.schemas import column_of
from pipeline.lake.store import Lake, part_name
from pipeline.motion.kinematics import box_motion
from pipeline.motion.poses import pose_motion
from pipeline.motion.tracking import NO_TRACK
from pipeline.vision.detector import Boxes

# At most this many columns of pieces stay in memory: several threads label tracks that overlap in time.
_CACHED_COLUMNS = 24


class Rows(Protocol):
    """Rows of a piece, in memory or in a lake."""

    def read(self, *columns: str) -> pa.RecordBatch:
        """Return some columns."""

    def has(self, column: str) -> bool:
        """Whether there is a column of that name."""


@dataclass(frozen=True)
class FrameRows:
    """The sampled frames of a video, in order, each once; arrays of one length."""

    step: NDArray[np.int64]
    n_steps: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    piece: NDArray[np.int64]
    row: NDArray[np.int64]
    camera_speed: NDArray[np.float32] | None = None
    """How fast most of each frame moves, in frame heights per second; NaN: not measured. None after the commit."""


@dataclass(frozen=True)
class BoxRows:
    """The boxes in those frames, in order; arrays of one length."""

    frame: NDArray[np.int64]
    """Index of the box's frame in `FrameRows`."""
    class_id: NDArray[np.int32]
    score: NDArray[np.float32]
    xyxy: NDArray[np.float32]
    keypoints: NDArray[np.float32]
    """`float32 [N, K, 3]`; K is 0 if the detector has no keypoints."""
    piece: NDArray[np.int64]
    row: NDArray[np.int64]
    """Row within the piece."""


@dataclass(frozen=True)
class StepSequence:
    """An unbroken stretch of the sampling grid: one sequence for the LSTM."""

    first_step: int
    counts: NDArray[np.int64]
    """How many steps each view stands for; a view is a frame, or a person's box in one."""
    frame: NDArray[np.int64]
    """Index of each view's frame in `FrameRows`."""
    box: NDArray[np.int64] | None = None
    """Index of each view's box in `BoxRows`; None for whole frames."""
    xyxy: NDArray[np.float32] | None = None
    track_id: int | None = None
    scores: NDArray[np.float32] | None = None
    """The detector's score of each box."""

    @property
    def n_steps(self) -> int:
        """Length of the sequence."""
        return int(self.counts.sum())

    def mean_box(self, first_step: int, end_step: int) -> NDArray[np.float32] | None:
        """Return the mean box over a range of steps, each step counting once."""
        if self.xyxy is None:
            return None
        ends = self.first_step + np.cumsum(self.counts)
        overlap = np.minimum(ends, end_step) - np.maximum(ends - self.counts, first_step)
        return np.average(self.xyxy, axis=0, weights=overlap.clip(0)).astype(np.float32)


@dataclass(frozen=True)
class _Source:
    """Piece and row of the vector of each view of a sequence, each `[N]`."""

    piece: NDArray[np.int64]
    row: NDArray[np.int64]


class VideoRows:
    """The rows of one video. The small columns are in memory; vectors are read when needed."""

    def __init__(
        self, frames: FrameRows, boxes: BoxRows, read_vectors: Callable[[int, str], NDArray[np.float16]]
    ) -> None:
        """Take the small columns, and a function that reads a column of vectors of a piece, `float16 [N, D]`."""
        self.frames, self.boxes = frames, boxes
        self.vectors = functools.lru_cache(maxsize=_CACHED_COLUMNS)(read_vectors)

    @classmethod
    def from_pieces(cls, pieces: Sequence[Rows]) -> VideoRows:
        """Join the pieces of a video that is not committed yet.

        A frame that is shown across the border of two chunks was extracted for both. It is kept once, with the steps
        of both, so that the rows do not depend on how the video was cut.
        """
        names = ("step", "n_steps", "pts_s", "box", "class_id", "score", "x1", "y1", "x2", "y2")
        batches = [piece.read(*names, *filter(piece.has, ("keypoints", "camera_speed"))) for piece in pieces]
        column = {
            name: np.concatenate([_numpy(batch, name) for batch in batches]) if batches else np.empty(0)
            for name in names
        }
        piece = np.repeat(np.arange(len(batches)), np.array([len(batch) for batch in batches], np.int64))
        row = np.concatenate([np.arange(len(batch)) for batch in batches]) if batches else np.empty(0, np.int64)
        is_frame = column["box"] < 0
        new = np.ones(int(is_frame.sum()), np.bool_)
        pts_s = column["pts_s"][is_frame]
        new[1:] = pts_s[1:] != pts_s[:-1]
        merged = np.cumsum(new) - 1
        frames = FrameRows(
            step=column["step"][is_frame][new].astype(np.int64),
            n_steps=np.bincount(merged, column["n_steps"][is_frame], int(new.sum())).astype(np.int64),
            pts_s=pts_s[new],
            piece=piece[is_frame][new],
            row=row[is_frame][new],
            camera_speed=np.fmax.reduceat(_camera_speed(batches)[is_frame], np.flatnonzero(new))
            if len(new)
            else np.empty(0, np.float32),
        )
        frame_of_row = np.cumsum(is_frame) - 1
        kept = ~is_frame & new[frame_of_row] if len(new) else ~is_frame
        boxes = BoxRows(
            frame=merged[frame_of_row[kept]] if len(new) else np.empty(0, np.int64),
            class_id=column["class_id"][kept].astype(np.int32),
            score=column["score"][kept].astype(np.float32),
            xyxy=np.stack([column[name][kept] for name in ("x1", "y1", "x2", "y2")], axis=1).astype(np.float32),
            keypoints=_keypoints(batches)[kept],
            piece=piece[kept],
            row=row[kept],
        )
        return cls(frames, boxes, lambda piece, name: _matrix(pieces[piece].read(name).column(0)))

    def frames_of_boxes(self) -> Iterator[tuple[float, Boxes]]:
        """Yield the time and the boxes of every frame."""
        bounds = np.searchsorted(self.boxes.frame, np.arange(len(self.frames.step) + 1))
        for index, (start, end) in enumerate(itertools.pairwise(bounds)):
            boxes = Boxes(self.boxes.xyxy[start:end], self.boxes.score[start:end], self.boxes.class_id[start:end])
            yield float(self.frames.pts_s[index]), boxes

    def frame_sequences(self) -> Iterator[StepSequence]:
        """Yield the stretches of frames that follow each other without a gap."""
        frames = self.frames
        if not len(frames.step):
            return
        breaks = np.flatnonzero(frames.step[1:] != frames.step[:-1] + frames.n_steps[:-1]) + 1
        for part in np.split(np.arange(len(frames.step)), breaks):
            yield StepSequence(int(frames.step[part[0]]), frames.n_steps[part], part)

    def track_sequences(self, track_ids: NDArray[np.int64]) -> Iterator[StepSequence]:
        """Yield one sequence per track, by id. While a person is out of sight, the last view is repeated.

        Args:
            track_ids: `int64 [N]`, the track of every box.
        """
        order = np.argsort(track_ids, kind="stable")
        order = order[track_ids[order] != NO_TRACK]
        for boxes in np.split(order, np.flatnonzero(np.diff(track_ids[order])) + 1) if len(order) else []:
            frame = self.boxes.frame[boxes]
            steps = self.frames.step[frame]
            counts = np.append(np.diff(steps), self.frames.n_steps[frame[-1]])
            track_id = int(track_ids[boxes[0]])
            xyxy, scores = self.boxes.xyxy[boxes], self.boxes.score[boxes]
            yield StepSequence(int(steps[0]), counts, frame, boxes, xyxy, track_id, scores)

    def inputs(self, sequence: StepSequence, names: Sequence[str]) -> Iterator[NDArray[np.float16]]:
        """Yield the inputs of a sequence, `float16 [t, D]`, block by block, with one row per step.

        Args:
            sequence: A sequence of this video.
            names: Names of the inputs, in the order of their columns.
        """
        of_track: dict[str, NDArray[np.float16]] = {}
        if sequence.xyxy is not None and sequence.box is not None:
            time_s = self.frames.pts_s[sequence.frame]
            if "box" in names:
                of_track["box"] = box_motion(time_s, sequence.xyxy).astype(np.float16)
            if "pose" in names:
                keypoints = self.boxes.keypoints[sequence.box]
                of_track["pose"] = pose_motion(time_s, sequence.xyxy, keypoints).astype(np.float16)
        frames = _Source(self.frames.piece[sequence.frame], self.frames.row[sequence.frame])
        boxes = frames
        if sequence.box is not None:
            boxes = _Source(self.boxes.piece[sequence.box], self.boxes.row[sequence.box])
        breaks = np.flatnonzero(np.diff(frames.piece) | np.diff(boxes.piece)) + 1
        for part in np.split(np.arange(len(frames.piece)), breaks):
            columns = []
            for name in names:
                if name in of_track:
                    columns.append(of_track[name][part])
                    continue
                source = boxes if name.startswith("crop") else frames
                columns.append(self.vectors(int(source.piece[part[0]]), column_of(name))[source.row[part]])
            yield np.repeat(np.concatenate(columns, axis=1), sequence.counts[part], axis=0)


def committed_videos(lake: Lake, shard: int) -> Iterator[tuple[str, VideoRows, NDArray[np.int64], dict[int, str]]]:
    """Yield for each video with features in a committed shard: id, rows, track ids and names of classes.

    Vectors are read a row group at a time, when needed, so that a long recording does not have to fit into memory.
    """
    path = lake.path("features", part_name(shard))
    if lake.fs.get_file_info(path).type != pafs.FileType.File:
        raise UsageError(
            f"{lake.uri}: its features were not kept (keep_features = false); analyze again, into another lake"
        )
    detections = read_part(lake, "detections", shard)
    with lake.fs.open_input_file(path) as source:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        starts = np.cumsum([0] + [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])

        @functools.lru_cache(maxsize=_CACHED_COLUMNS)
        def vectors(group: int, name: str) -> NDArray[np.float16]:
            return _matrix(file.read_row_group(group, columns=[name]).column(0).combine_chunks())

        features = file.read(columns=["video_id", "step", "n_steps", "pts_s", "scope"])
        boxes_of = {video_id: of_video for video_id, of_video, _ in by_video(detections)}
        for video_id, of_video, first in by_video(features):
            of_boxes = boxes_of.get(video_id, detections.slice(0, 0))
            numbers = np.arange(first, first + len(of_video))
            piece = np.searchsorted(starts, numbers, side="right") - 1
            rows = _committed_rows(of_video, of_boxes, _Source(piece, numbers - starts[piece]), vectors)
            names = dict(zip(of_boxes["class_id"].to_pylist(), of_boxes["label"].to_pylist(), strict=True))
            yield video_id, rows, of_boxes["track_id"].fill_null(NO_TRACK).to_numpy(), names


def _committed_rows(
    features: pa.Table, detections: pa.Table, source: _Source, read_vectors: Callable[[int, str], NDArray[np.float16]]
) -> VideoRows:
    is_frame = pc.equal(features["scope"], "frame").to_numpy()
    column = {name: features[name].to_numpy()[is_frame] for name in ("step", "n_steps", "pts_s")}
    frames = FrameRows(
        step=column["step"],
        n_steps=column["n_steps"].astype(np.int64),
        pts_s=column["pts_s"],
        piece=source.piece[is_frame],
        row=source.row[is_frame],
    )
    # Both tables hold a video's boxes in the same order.
    boxes = BoxRows(
        frame=np.searchsorted(frames.step, detections["frame_index"].to_numpy()),
        class_id=detections["class_id"].to_numpy(),
        score=detections["score"].to_numpy(),
        xyxy=np.stack([detections[name].to_numpy() for name in ("x1", "y1", "x2", "y2")], axis=1),
        keypoints=_committed_keypoints(detections),
        piece=source.piece[~is_frame],
        row=source.row[~is_frame],
    )
    return VideoRows(frames, boxes, read_vectors)


def _keypoints(batches: Sequence[pa.RecordBatch]) -> NDArray[np.float32]:
    """Return the keypoints of all rows of some pieces, `float32 [N, K, 3]`."""
    # A piece without rows may lack the column of keypoints.
    filled = [
        _points(batch.column("keypoints").flatten(), len(batch))
        if "keypoints" in batch.schema.names
        else np.empty((len(batch), 0, 3), np.float32)
        for batch in batches
        if len(batch)
    ]
    return np.concatenate(filled) if filled else np.empty((0, 0, 3), np.float32)


def _camera_speed(batches: Sequence[pa.RecordBatch]) -> NDArray[np.float32]:
    """Return how fast the camera moves at each row of some pieces; NaN for pieces of earlier releases."""
    known = [
        _numpy(batch, "camera_speed") if "camera_speed" in batch.schema.names else np.full(len(batch), np.nan)
        for batch in batches
    ]
    return np.concatenate([np.empty(0), *known]).astype(np.float32)


def _committed_keypoints(detections: pa.Table) -> NDArray[np.float32]:
    """Return the keypoints of rows of `detections`, `float32 [N, K, 3]`; K is 0 where they are unknown."""
    if "keypoints" not in detections.column_names or detections["keypoints"].null_count == len(detections):
        return np.empty((len(detections), 0, 3), np.float32)
    lists = detections["keypoints"].combine_chunks()
    return _points(lists.flatten().flatten(), len(lists))


def _points(numbers: pa.FloatArray, n: int) -> NDArray[np.float32]:
    points: NDArray[np.float32] = numbers.to_numpy().reshape(n, -1, 3) if n else np.empty((0, 0, 3), np.float32)
    return points


def _numpy(batch: pa.RecordBatch, name: str) -> NDArray[np.generic]:
    values: NDArray[np.generic] = batch.column(batch.schema.get_field_index(name)).to_numpy()
    return values


def _matrix(vectors: pa.FixedSizeListArray) -> NDArray[np.float16]:
    if not len(vectors):
        return np.empty((0, vectors.type.list_size), np.float16)
    # Read from the buffer: a row may have no vector (a frame of which only the crops' change was embedded), and then a
    # conversion would copy all rows. What the buffer holds for such a row is undefined, and is never used.
    shape = (len(vectors), vectors.type.list_size)
    numbers = vectors.values
    values = np.frombuffer(numbers.buffers()[1], np.float16)
    return values[numbers.offset + vectors.offset * shape[1] :][: shape[0] * shape[1]].reshape(shape)
