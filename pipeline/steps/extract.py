"""Extract the features of decoded frames: find the people, embed frames and crops, describe what moves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.errors import UnforeseenError, UsageError, stage
from pipeline.lake.schemas import vector_dims
from pipeline.lake.store import Lake
from pipeline.lake.work import Receipt, WorkRows, empty_rows, write_piece
from pipeline.steps.decode import Clock, DecodedPiece
from pipeline.stopwatch import Stopwatch
from pipeline.vision.detector import Boxes, Detector, Look
from pipeline.vision.detector_bundle import embedded_detector_path
from pipeline.vision.embedder import Embedder
from pipeline.vision.flow import FlowEstimator
from pipeline.vision.keypoints import KEYPOINTS
from pipeline.vision.runtime import Runtime, choose_runtime
from pipeline.vision.views import Motion, Views, changed_frames, describe_motion

log = logging.getLogger(__name__)

_NO_BOXES = Boxes(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int32))
_NOBODY = Look(_NO_BOXES, np.empty(0, np.float16), np.empty((0, 0), np.float16))

# Seconds between two checks of whether the camera moves. They take a hundredth of the work.
_CAMERA_EVERY_S = 1

_Vectors = dict[tuple[str, bool], NDArray[np.float16]]
"""Vectors `float16 [N, D]`, by column and by whether they are of boxes."""


@dataclass(frozen=True)
class NetworkFacts:
    """Facts about the networks, for processes that do not load them."""

    dim: int
    """Length of an embedding."""
    class_names: dict[int, str]
    """Names of the detector's classes; empty without a detector."""
    n_keypoints: int = 0
    """Number of keypoints that the detector finds for each box."""


def describe_networks(config: Config) -> NetworkFacts:
    """Check the networks before the workers start, and export them if this node has not used them before.

    Raises:
        UsageError: One of them can't be used.
    """
    # On a CPU, because no GPU is reserved for this check; the weights are the same.
    runtime = Runtime("cpu", "f32")
    dim = 0 if config.looks_once else Embedder(config.chosen_embedder, runtime).dim
    if not config.sees_people:
        return NetworkFacts(dim, {})
    detector = Detector(config.chosen_detector, runtime, config.classes, config.chosen_detector_px, 0.5, 1)
    if embedded_detector_path(config.chosen_detector):
        log.info(
            "%s finds people; it comes with the package and knows few places. Larger weights find more: "
            "--detector yolo11n-pose.pt", config.chosen_detector,
        )  # fmt: skip
    if "pose" in config.embedded and detector.n_keypoints != len(KEYPOINTS):
        known = f"{detector.n_keypoints} keypoints" if detector.n_keypoints else "no keypoints"
        raise UsageError(
            f"inputs: 'pose' needs COCO's {len(KEYPOINTS)} keypoints, and detector {config.chosen_detector!r} knows "
            f"{known}; name pose weights, such as --detector yolo11n-pose.pt, or a model that does not read poses"
        )
    if config.looks_once and not detector.dim:
        raise UsageError(
            f"embedder = {config.chosen_embedder!r} needs a detector that describes what it sees, and "
            f"{config.chosen_detector!r} does not; name another embedder, or the bundle of a detector of the "
            "architecture `people`"
        )
    return NetworkFacts(dim or detector.dim, detector.names, detector.n_keypoints)


class Extractor:
    """The networks of one worker: decoded pieces in, features out."""

    def __init__(self, config: Config) -> None:
        """Load what the configuration asks for."""
        runtime = choose_runtime(config.device, config.precision)
        self.runtime_name = f"{runtime.device}, {runtime.precision}"
        self._config = config
        self._embedder = None if config.looks_once else Embedder(config.chosen_embedder, runtime)
        self._flows = FlowEstimator()
        self._flow_watch = Stopwatch()
        self._detector: Detector | None = None
        if config.sees_people:
            self._detector = Detector(
                config.chosen_detector,
                runtime,
                config.classes,
                config.chosen_detector_px,
                config.detector_score,
                config.max_people,
            )
        describing = self._embedder or self._detector
        assert describing is not None, "checked by the configuration"
        self._vectors = vector_dims(config.embedded, describing.dim)

    @property
    def class_names(self) -> dict[int, str]:
        """Names of the detector's classes; empty without a detector."""
        return self._detector.names if self._detector is not None else {}

    @property
    def _n_keypoints(self) -> int:
        return self._detector.n_keypoints if self._detector is not None else 0

    def busy_s(self) -> dict[str, float]:
        """Return for how many seconds the networks and the optical flow have computed, by stage."""
        return {
            "detect": self._detector.busy_s if self._detector is not None else 0.0,
            "embed": self._embedder.busy_s if self._embedder is not None else 0.0,
            "flow": self._flow_watch.seconds,
        }

    def extract(self, lake: Lake, pieces: Sequence[DecodedPiece]) -> list[Receipt]:
        """Compute and write the features of pieces, and return their receipts.

        All frames and crops go through the embedder together, so that a GPU's batches are full also for short clips.
        If an unexpected error prevents the features of a piece, it is written without rows and marked as lost.
        """
        try:
            computed = self.compute(pieces)
        except UnforeseenError as error:
            if len(pieces) > 1:
                # One piece may have caused the error, so each is tried alone, and the others are not lost.
                return [receipt for piece in pieces for receipt in self.extract(lake, [piece])]
            computed = [self._lost(pieces[0].task.uri, pieces[0].receipt, error)]
        return [
            self._write(lake, piece.task.uri, receipt, rows)
            for piece, (receipt, rows) in zip(pieces, computed, strict=True)
        ]

    def compute(self, pieces: Sequence[DecodedPiece]) -> list[tuple[Receipt, WorkRows]]:
        """Compute the features of pieces; return for each piece its receipt, as far as it is known, and its rows.

        Raises:
            UnforeseenError: A stage failed.
        """
        clock = Clock()
        with stage("detect"):
            looks = [self._look(piece) for piece in pieces]
            boxes = [[look.boxes for look in of_piece] for of_piece in looks]
        detect_s = clock.lap()
        with stage("embed"):
            vectors = self._describe(pieces, looks, boxes)
        with stage("flow"), self._flow_watch:
            moving = [self._motion(piece, of_frames) for piece, of_frames in zip(pieces, boxes, strict=True)]
        embed_s = clock.lap()
        n_frames = max(1, sum(piece.receipt.n_frames for piece in pieces))
        computed = []
        for piece, of_frames, described, motion in zip(pieces, boxes, vectors, moving, strict=True):
            with stage("write"):
                rows = self._rows(piece, of_frames, described, motion)
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
        """Return the receipt of a piece, and no rows, after an unexpected error."""
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

    def _look(self, piece: DecodedPiece) -> list[Look]:
        if piece.frames is None:
            return []
        if self._detector is None:
            return [_NOBODY] * len(piece.frames.steps)
        images, threshold = piece.frames.images, self._config.skip_unchanged
        if not threshold:
            return self._detector.look(images)
        seen = changed_frames(images, threshold)
        found = self._detector.look(images[seen])
        return [found[index] for index in np.searchsorted(seen, np.arange(len(images)), side="right") - 1]

    def _describe(
        self, pieces: Sequence[DecodedPiece], looks: Sequence[Sequence[Look]], boxes: Sequence[Sequence[Boxes]]
    ) -> list[_Vectors]:
        """Return the embeddings of each piece's frames and boxes, from the embedder or from the detector."""
        if self._embedder is None:
            return [
                {
                    ("embedding", False): np.stack([look.frame for look in of_piece]),
                    ("embedding", True): np.concatenate([look.people for look in of_piece]),
                }
                if of_piece
                else {}
                for of_piece in looks
            ]
        views = [
            Views(self._config.embedded, piece.frames, of_frames)
            for piece, of_frames in zip(pieces, boxes, strict=True)
        ]
        embeddings = self._embedder.embed([image for view in views for image in view.images])
        described: list[_Vectors] = []
        used = 0
        for view in views:
            described.append({kind: embeddings[used + start : used + end] for kind, start, end in view.ranges()})
            used += len(view.images)
        return described

    def _rows(
        self,
        piece: DecodedPiece,
        boxes: Sequence[Boxes],
        described: _Vectors,
        motion: Motion | None,
    ) -> WorkRows:
        """Return the piece's rows: for each frame its own row, then the rows of its boxes."""
        frames = piece.frames
        if frames is None or motion is None:
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
        keypoints = np.zeros((len(box), self._n_keypoints, 3), np.float32)
        if self._n_keypoints:
            keypoints[is_box] = np.concatenate([found.keypoints for found in boxes if found.keypoints is not None])
            keypoints[..., :2] *= to_source[:2]
        vectors = {name: np.zeros((len(box), dim), np.float16) for name, dim in self._vectors.items()}
        for (column, of_box), of_kind in described.items():
            vectors[column][is_box == of_box] = of_kind
        for of_box, flow in motion.vectors.items():
            vectors["flow"][is_box == of_box] = flow
        times = frames.steps[of_frame], frames.n_steps[of_frame], frames.pts_s[of_frame]
        return WorkRows(*times, motion.camera_speed[of_frame], box, class_id, score, xyxy, keypoints, vectors)

    def _motion(self, piece: DecodedPiece, boxes: Sequence[Boxes]) -> Motion | None:
        if piece.frames is None:
            return None
        rate = self._config.frame_rate(piece.task.probe.fps)
        look_every = max(1, round(self._config.grid_rate * _CAMERA_EVERY_S))
        return describe_motion(self._flows, self._config.embedded, piece.frames, boxes, rate, look_every)
