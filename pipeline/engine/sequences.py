"""Put a video's pieces together again: its frames without doubles, its tracks, the sequences that the LSTM reads."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.lake.work import Piece
from pipeline.motion.tracking import NO_TRACK
from pipeline.vision.detector import Boxes

# So many pieces' embeddings stay in memory, for tracks that run side by side.
_CACHED_PIECES = 4


@dataclass(frozen=True)
class FrameRows:
    """The sampled frames of a video, in order, each once; arrays of one length."""

    step: NDArray[np.int64]
    n_steps: NDArray[np.int64]
    pts_s: NDArray[np.float64]
    piece: NDArray[np.int64]
    row: NDArray[np.int64]


@dataclass(frozen=True)
class BoxRows:
    """The boxes in those frames, in order; arrays of one length."""

    frame: NDArray[np.int64]
    """Index of the box's frame in `FrameRows`."""
    class_id: NDArray[np.int32]
    score: NDArray[np.float32]
    xyxy: NDArray[np.float32]
    piece: NDArray[np.int64]
    row: NDArray[np.int64]


@dataclass(frozen=True)
class StepSequence:
    """An unbroken stretch of the sampling grid, as rows of pieces: one sequence for the LSTM."""

    first_step: int
    counts: NDArray[np.int64]
    """How many steps each row stands for."""
    piece: NDArray[np.int64]
    row: NDArray[np.int64]
    track_id: int | None = None
    xyxy: NDArray[np.float32] | None = None

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


class VideoRows:
    """The rows of all pieces of one video, the small columns in memory, the embeddings read when needed."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        """Read the small columns.

        A frame that is shown across the border of two chunks was extracted for both; it is taken once, for the steps
        of both, so that the rows do not tell how the video was cut.
        """
        self._pieces = pieces
        self._embeddings = functools.lru_cache(maxsize=_CACHED_PIECES)(self._read_embeddings)
        names = ("step", "n_steps", "pts_s", "box", "class_id", "score", "x1", "y1", "x2", "y2")
        batches = [piece.read(*names) for piece in pieces]
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
        self.frames = FrameRows(
            step=column["step"][is_frame][new].astype(np.int64),
            n_steps=np.bincount(merged, column["n_steps"][is_frame], int(new.sum())).astype(np.int64),
            pts_s=pts_s[new],
            piece=piece[is_frame][new],
            row=row[is_frame][new],
        )
        frame_of_row = np.cumsum(is_frame) - 1
        kept = ~is_frame & new[frame_of_row] if len(new) else ~is_frame
        self.boxes = BoxRows(
            frame=merged[frame_of_row[kept]] if len(new) else np.empty(0, np.int64),
            class_id=column["class_id"][kept].astype(np.int32),
            score=column["score"][kept].astype(np.float32),
            xyxy=np.stack([column[name][kept] for name in ("x1", "y1", "x2", "y2")], axis=1).astype(np.float32),
            piece=piece[kept],
            row=row[kept],
        )

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
            yield StepSequence(int(frames.step[part[0]]), frames.n_steps[part], frames.piece[part], frames.row[part])

    def track_sequences(self, track_ids: NDArray[np.int64]) -> Iterator[StepSequence]:
        """Yield one sequence per track, by id; while a person is out of sight, the last view of them stands.

        Args:
            track_ids: `int64 [N]`, for every box.
        """
        for track_id in np.unique(track_ids[track_ids != NO_TRACK]):
            boxes = np.flatnonzero(track_ids == track_id)
            frames = self.boxes.frame[boxes]
            steps = self.frames.step[frames]
            counts = np.append(np.diff(steps), self.frames.n_steps[frames[-1]])
            yield StepSequence(
                int(steps[0]),
                counts,
                self.boxes.piece[boxes],
                self.boxes.row[boxes],
                int(track_id),
                self.boxes.xyxy[boxes],
            )

    def inputs(self, sequence: StepSequence) -> Iterator[NDArray[np.float16]]:
        """Yield the embeddings of a sequence, `float16 [t, D]`, block by block, a row for every step."""
        breaks = np.flatnonzero(np.diff(sequence.piece)) + 1
        for part in np.split(np.arange(len(sequence.piece)), breaks):
            embeddings = self._embeddings(int(sequence.piece[part[0]]))
            yield np.repeat(embeddings[sequence.row[part]], sequence.counts[part], axis=0)

    def embeddings_of(self, piece: int) -> NDArray[np.float16]:
        """Return the embeddings of all rows of one piece, `float16 [N, D]`."""
        return self._embeddings(piece)

    def _read_embeddings(self, piece: int) -> NDArray[np.float16]:
        column = self._pieces[piece].read("embedding").column(0)
        values: NDArray[np.float16] = column.values.to_numpy(zero_copy_only=True)
        return values.reshape(len(column), column.type.list_size)


def _numpy(batch: pa.RecordBatch, name: str) -> NDArray[np.generic]:
    values: NDArray[np.generic] = batch.column(batch.schema.get_field_index(name)).to_numpy()
    return values
