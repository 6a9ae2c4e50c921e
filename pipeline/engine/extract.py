"""From decoded frames to features: detect, embed, write. It runs without Ray; the actors only call it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.engine.decoding import Clock, DecodedPiece
from pipeline.errors import UnforeseenError, stage
from pipeline.lake.schemas import vector_dims
from pipeline.lake.store import Lake
from pipeline.lake.work import Receipt, WorkRows, empty_rows, write_piece
from pipeline.stopwatch import Stopwatch
from pipeline.video.decode import FrameBatch
from pipeline.vision.detector import Boxes, Detector
from pipeline.vision.embedder import Embedder
from pipeline.vision.flow import FlowEstimator, describe_flow
from pipeline.vision.runtime import Runtime, choose_runtime

log = logging.getLogger(__name__)

# A crop shows this share of the box's sides more, all around: hands and feet often lie outside.
_CROP_MARGIN = 0.1
# A person is taken to be this high at least, in pixels of the decoded frame, when motion is measured in heights.
_SMALLEST_PX = 8.0
# What an unchanged pixel looks like in the image of a change.
_GREY = 128
# Across and down, in looking for what changed between frames.
_PARTS = (64, 36)


@dataclass(frozen=True)
class NetworkFacts:
    """What must be known of the networks where they are not loaded."""

    dim: int
    """Length of an embedding."""
    class_names: dict[int, str]
    """Names of the detector's classes; empty without a detector."""


def describe_networks(config: Config) -> NetworkFacts:
    """Look at the networks before the workers do: they are exported now, if this node has not used them before.

    Raises:
        UsageError: One of them can't be used.
    """
    # For a CPU, since no GPU is reserved for this look; the weights are the same.
    runtime = Runtime("cpu", "f32")
    dim = Embedder(config.embedder, runtime).dim
    if not config.sees_people:
        return NetworkFacts(dim, {})
    detector = Detector(config.detector, runtime, config.classes, config.detector_px, 0.5, 1)
    return NetworkFacts(dim, detector.names)


class Extractor:
    """The networks of one worker: decoded pieces in, features out."""

    def __init__(self, config: Config) -> None:
        """Load what the configuration asks for."""
        runtime = choose_runtime(config.device, config.precision)
        self.runtime_name = f"{runtime.device}, {runtime.precision}"
        self._config = config
        self._embedder = Embedder(config.embedder, runtime)
        self._vectors = vector_dims(config.embedded, self._embedder.dim)
        self._flows = FlowEstimator()
        self._flow_watch = Stopwatch()
        self._detector = None
        if config.sees_people:
            self._detector = Detector(
                config.detector, runtime, config.classes, config.detector_px, config.detector_score, config.max_people
            )

    def busy_s(self) -> dict[str, float]:
        """Return the seconds that networks and optical flow themselves have computed, by stage."""
        return {
            "detect": self._detector.busy_s if self._detector is not None else 0.0,
            "embed": self._embedder.busy_s,
            "flow": self._flow_watch.seconds,
        }

    def extract(self, lake: Lake, pieces: Sequence[DecodedPiece]) -> list[Receipt]:
        """Compute and write the features of pieces, and return their receipts.

        All frames and crops go through the embedder together, so that a GPU's batches are full also for short clips.
        A piece whose features can't be computed, for a reason that nobody foresaw, is written without rows as lost.
        """
        try:
            computed = self._compute(pieces)
        except UnforeseenError as error:
            if len(pieces) > 1:
                # One of them is to blame, and the others shall not pay for it.
                return [receipt for piece in pieces for receipt in self.extract(lake, [piece])]
            computed = [self._lost(pieces[0].task.uri, pieces[0].receipt, error)]
        return [
            self._write(lake, piece.task.uri, receipt, rows)
            for piece, (receipt, rows) in zip(pieces, computed, strict=True)
        ]

    def _compute(self, pieces: Sequence[DecodedPiece]) -> list[tuple[Receipt, WorkRows]]:
        clock = Clock()
        with stage("detect"):
            boxes = [self._detect(piece) for piece in pieces]
        detect_s = clock.lap()
        with stage("embed"):
            views = [
                _Views(self._config.embedded, piece, of_frames) for piece, of_frames in zip(pieces, boxes, strict=True)
            ]
            embeddings = self._embedder.embed([image for view in views for image in view.images])
        with stage("flow"), self._flow_watch:
            moving = [dict(self._flow(piece, of_frames)) for piece, of_frames in zip(pieces, boxes, strict=True)]
        embed_s = clock.lap()
        n_frames = max(1, sum(piece.receipt.n_frames for piece in pieces))
        computed = []
        used = 0
        for piece, of_frames, view, motion in zip(pieces, boxes, views, moving, strict=True):
            with stage("write"):
                rows = self._rows(piece, of_frames, view, embeddings[used : used + len(view.images)], motion)
            used += len(view.images)
            share = piece.receipt.n_frames / n_frames
            receipt = replace(
                piece.receipt,
                n_boxes=sum(len(found.scores) for found in of_frames),
                detect_s=detect_s * share,
                embed_s=embed_s * share,
                runtime=self.runtime_name,
            )
            computed.append((receipt, rows))
        return computed

    def _write(self, lake: Lake, uri: str, receipt: Receipt, rows: WorkRows) -> Receipt:
        clock = Clock()
        try:
            with stage("write"):
                write_piece(lake, receipt, rows)
        except UnforeseenError as error:
            receipt, rows = self._lost(uri, receipt, error)
            write_piece(lake, receipt, rows)
        return replace(receipt, write_s=clock.lap())

    def _lost(self, uri: str, receipt: Receipt, error: UnforeseenError) -> tuple[Receipt, WorkRows]:
        """Return a piece's receipt, and no rows, after an error that nobody foresaw."""
        failure = error.failure(uri)
        log.error("%s", failure, exc_info=error.cause)
        receipt = replace(
            receipt,
            n_frames=0,
            n_boxes=0,
            failure_kind=failure.kind,
            failure_stage=error.stage,
            failure_message=str(failure),
        )
        return receipt, empty_rows(self._vectors)

    def _detect(self, piece: DecodedPiece) -> list[Boxes]:
        if piece.frames is None:
            return []
        if self._detector is None:
            return [_NO_BOXES] * len(piece.frames.steps)
        images, threshold = piece.frames.images, self._config.skip_unchanged
        if not threshold:
            return self._detector.detect(images)
        seen = _changed(images, threshold)
        found = self._detector.detect(images[seen])
        return [found[index] for index in np.searchsorted(seen, np.arange(len(images)), side="right") - 1]

    def _rows(
        self,
        piece: DecodedPiece,
        boxes: Sequence[Boxes],
        views: _Views,
        embeddings: NDArray[np.float16],
        motion: Mapping[bool, NDArray[np.float16]],
    ) -> WorkRows:
        """Return the piece's rows, a frame's followed by those of its boxes."""
        frames = piece.frames
        if frames is None:
            return empty_rows(self._vectors)
        n_boxes = np.array([len(found.scores) for found in boxes])
        of_frame = np.repeat(np.arange(len(frames.steps)), n_boxes + 1)
        box = np.concatenate([np.arange(-1, n) for n in n_boxes]).astype(np.int32)
        is_box = box >= 0
        class_id, score = np.full(len(box), -1, np.int32), np.zeros(len(box), np.float32)
        xyxy = np.zeros((len(box), 4), np.float32)
        height, width = frames.images.shape[1:3]
        to_source = np.array([piece.task.probe.width / width, piece.task.probe.height / height] * 2, np.float32)
        class_id[is_box] = np.concatenate([found.class_ids for found in boxes])
        score[is_box] = np.concatenate([found.scores for found in boxes])
        xyxy[is_box] = np.concatenate([found.xyxy for found in boxes]) * to_source
        vectors = {name: np.zeros((len(box), dim), np.float16) for name, dim in self._vectors.items()}
        for (column, of_box), start, end in views.ranges():
            vectors[column][is_box == of_box] = embeddings[start:end]
        for of_box, described in motion.items():
            vectors["flow"][is_box == of_box] = described
        times = frames.steps[of_frame], frames.n_steps[of_frame], frames.pts_s[of_frame]
        return WorkRows(*times, box, class_id, score, xyxy, vectors)

    def _flow(self, piece: DecodedPiece, boxes: Sequence[Boxes]) -> Iterator[tuple[bool, NDArray[np.float16]]]:
        """Yield what moves in frames and in boxes, as far as wanted: whether it is of boxes, and the vectors."""
        frames, embedded = piece.frames, self._config.embedded
        if frames is None or not {"frame_flow", "crop_flow"} & set(embedded):
            return
        following = [*frames.images[1:], frames.after]
        flows = [self._flows.flow(image, after) for image, after in zip(frames.images, following, strict=True)]
        # A slow video does not move faster for being sampled more often than it has frames.
        rate = min(self._config.sample_fps, piece.task.probe.fps or self._config.sample_fps)
        height = frames.images.shape[1]
        if "frame_flow" in embedded:
            yield False, describe_flow(flows, [rate / height] * len(flows))
        if "crop_flow" in embedded:
            ratio = flows[0].shape[0] / height
            parts = [_crop(flow, box * ratio) for flow, found in zip(flows, boxes, strict=True) for box in found.xyxy]
            heights = [max(_SMALLEST_PX, float(box[3] - box[1])) for found in boxes for box in found.xyxy]
            yield True, describe_flow(parts, [rate / px for px in heights])


class _Views:
    """What of one piece goes through the embedder: whole frames, crops, and how either changes to the next frame."""

    def __init__(self, embedded: Sequence[str], piece: DecodedPiece, boxes: Sequence[Boxes]) -> None:
        self.images: list[NDArray[np.uint8]] = []
        self._sizes: list[tuple[tuple[str, bool], int]] = []
        if piece.frames is None:
            return
        still = piece.frames.images
        changes = _changes(piece.frames) if {"frame_change", "crop_change"} & set(embedded) else still
        if "frame" in embedded:
            self._add("embedding", False, list(still))
        if "frame_change" in embedded:
            self._add("change", False, list(changes))
        if "crop" in embedded:
            self._add("embedding", True, _crops(still, boxes))
        if "crop_change" in embedded:
            self._add("change", True, _crops(changes, boxes))

    def _add(self, column: str, of_boxes: bool, images: list[NDArray[np.uint8]]) -> None:
        self.images += images
        self._sizes.append(((column, of_boxes), len(images)))

    def ranges(self) -> Iterator[tuple[tuple[str, bool], int, int]]:
        """Yield for each kind of image its column, whether it is of boxes, and its range among the images."""
        end = 0
        for kind, size in self._sizes:
            yield kind, end, end + size
            end += size


def _changed(images: NDArray[np.uint8], threshold: float) -> NDArray[np.intp]:
    """Return which images differ from the last one before that does, in the mean of any of their parts; the first does.

    Means over many pixels, which the noise of a sensor hardly moves, and a person at the horizon does.
    """
    changed: list[int] = []
    last = np.empty(0)
    for index, image in enumerate(images):
        parts = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), _PARTS, interpolation=cv2.INTER_AREA).astype(
            np.int16
        )
        if not changed or np.abs(parts - last).max() > threshold:
            changed.append(index)
            last = parts
    return np.array(changed, np.intp)


def _changes(frames: FrameBatch) -> NDArray[np.uint8]:
    """Return grey plus the next frame minus this, saturated, `uint8 [T, H, W, 3]`; plain grey at the end."""
    after = frames.images[-1] if frames.after is None else frames.after
    changes = np.empty_like(frames.images)
    for target, this, following in zip(changes, frames.images, [*frames.images[1:], after], strict=True):
        cv2.addWeighted(following, 1.0, this, -1.0, _GREY, dst=target)
    return changes


def _crops(images: NDArray[np.uint8], boxes: Sequence[Boxes]) -> list[NDArray[np.uint8]]:
    return [_crop(image, box) for image, found in zip(images, boxes, strict=True) for box in found.xyxy]


_NO_BOXES = Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))


def _crop(image: NDArray[Any], box: NDArray[np.float32]) -> NDArray[Any]:
    """Return a person's part of an image, with a margin."""
    margin_x, margin_y = (box[2] - box[0]) * _CROP_MARGIN, (box[3] - box[1]) * _CROP_MARGIN
    left, top = max(0, int(box[0] - margin_x)), max(0, int(box[1] - margin_y))
    right = min(image.shape[1], max(left + 1, round(float(box[2] + margin_x))))
    bottom = min(image.shape[0], max(top + 1, round(float(box[3] + margin_y))))
    return image[top:bottom, left:right]
