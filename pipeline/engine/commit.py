"""From a shard's features to its rows: track, run the LSTM, cut segments, commit. The classifier call of the design."""

from __future__ import annotations

import datetime
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.activity.classifier import SequenceClassifier
from pipeline.activity.segments import StepRun, find_segments
from pipeline.archive.plan import OPEN_END, PlannedVideo
from pipeline.config import Config, digest
from pipeline.engine.extract import NetworkFacts
from pipeline.lake import schemas
from pipeline.lake.plans import read_plan
from pipeline.lake.sequences import StepSequence, VideoRows
from pipeline.lake.store import Lake, PartWriter, open_part
from pipeline.lake.work import Piece, Receipt, finished_chunks
from pipeline.motion.tracking import NO_TRACK, TrackOptions, track_video

# A file counts as cut short if it ends earlier than it says by more than this share, and by more than some frames.
_SHORTFALL_SHARE = 0.02
_SHORTFALL_FRAMES = 4


@dataclass
class ShardSummary:
    """What a committed shard holds, for the progress display and the closing table."""

    shard: int
    n_videos: int = 0
    n_failed: int = 0
    n_partial: int = 0
    covered_s: float = 0.0
    label_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Seconds of segments, by label."""
    label_n: Counter[str] = field(default_factory=Counter)
    """Number of segments, by label."""
    failures: list[str] = field(default_factory=list)
    """Messages of the rows in `failures`."""
    wall_s: float = 0.0
    """How long it took."""


@dataclass(frozen=True)
class _Parts:
    """The open parts of one shard."""

    videos: PartWriter
    detections: PartWriter
    failures: PartWriter
    segments: dict[str, PartWriter]
    """By the scope of the model that finds them."""
    features: PartWriter | None


class ShardCommitter:
    """Labels finished shards with one model for each scope, or with none, and commits them."""

    def __init__(self, config: Config, bundles: Sequence[Bundle]) -> None:
        """Take the models, at most one for each scope; none to keep features alone."""
        self._config = config
        self._bundles = {bundle.scope: bundle for bundle in bundles}
        self._classifiers = {bundle.scope: SequenceClassifier(bundle.model) for bundle in bundles}

    def commit(self, lake: Lake, shard: int, networks: NetworkFacts) -> ShardSummary:
        """Write a shard's part of every table, that of `videos` last; then its work files go.

        Called again after a crash at any point, it writes the same rows under the same names.

        Args:
            lake: Where the shard is.
            shard: Its number.
            networks: What its features were made with.
        """
        features_schema = schemas.features_schema(networks.dim, self._config.embeds_change)
        started = time.perf_counter()
        videos = sorted(read_plan(lake, shard), key=lambda video: video.video_id)
        chunks = finished_chunks(lake.work_names(shard))
        footer: dict[str, Any] = {"config": asdict(self._config), "config_hash": digest(self._config.feature_options())}
        of_model = {
            scope: footer | {"model": bundle.name, "model_sha256": bundle.sha256}
            for scope, bundle in self._bundles.items()
        }
        summary = ShardSummary(shard)
        with ExitStack() as stack:

            def part(folder: str, schema: pa.Schema, facts: dict[str, Any] = footer) -> PartWriter:
                return stack.enter_context(open_part(lake, folder, shard, schemas.with_footer(schema, **facts)))

            # Parts appear in the reverse order of this list, when the stack unwinds.
            parts = _Parts(
                videos=part("videos", schemas.VIDEOS),
                detections=part("detections", schemas.DETECTIONS),
                failures=part("failures", schemas.FAILURES),
                segments={
                    scope: part(f"segments/model={bundle.name}", schemas.SEGMENTS, of_model[scope])
                    for scope, bundle in self._bundles.items()
                },
                features=part("features", features_schema) if self._config.keep_features else None,
            )
            for video in videos:
                pieces = [
                    [Piece(lake, f"{lake.work_folder(shard)}/{name}") for name in chunks[video.video_id, chunk.index]]
                    for chunk in video.chunks
                ]
                self._commit_video(shard, video, pieces, networks, parts, summary)
        lake.drop_work(shard)
        summary.wall_s = time.perf_counter() - started
        return summary

    def _commit_video(
        self,
        shard: int,
        video: PlannedVideo,
        pieces: Sequence[Sequence[Piece]],
        networks: NetworkFacts,
        parts: _Parts,
        summary: ShardSummary,
    ) -> None:
        rows = VideoRows.from_pieces([piece for of_chunk in pieces for piece in of_chunk])
        receipts = [of_chunk[-1].receipt() for of_chunk in pieces]
        track_ids = np.full(len(rows.boxes.score), NO_TRACK, np.int64)
        if self._config.sees_people:
            frame_ids = list(track_video(rows.frames_of_boxes(), self._frame_rate(video), self._track_options()))
            track_ids = np.concatenate(frame_ids) if frame_ids else track_ids
            parts.detections.write(self._detections(video, rows, track_ids, networks.class_names))
        if parts.features is not None:
            for table in self._features(video, rows, track_ids, parts.features.schema):
                parts.features.write(table)
        for scope, part in parts.segments.items():
            sequences = self._sequences(scope, rows, track_ids, networks.class_names)
            segments = list(self._segments(scope, video, rows, sequences, _seen_to_end_s(receipts)))
            part.write_rows(segments)
            for segment in segments:
                summary.label_n[segment["label"]] += 1
                summary.label_s[segment["label"]] += segment["end_s"] - segment["start_s"]
        self._account(shard, video, rows, receipts, parts, summary)

    def _frame_rate(self, video: PlannedVideo) -> float:
        fps = video.probe.fps if video.probe is not None else 0.0
        return min(self._config.sample_fps, fps or self._config.sample_fps)

    def _track_options(self) -> TrackOptions:
        return TrackOptions(self._config.track_score, self._config.track_gap_s)

    def _sequences(
        self, scope: str, rows: VideoRows, track_ids: NDArray[np.int64], class_names: dict[int, str]
    ) -> Iterator[StepSequence]:
        """Yield what a scope's model labels: stretches of frames, or long enough tracks of what it was trained on."""
        if scope == "frame":
            yield from rows.frame_sequences()
            return
        wanted = [number for number, name in class_names.items() if name in self._bundles[scope].classes]
        of_class = np.where(np.isin(rows.boxes.class_id, wanted), track_ids, NO_TRACK)
        for sequence in rows.track_sequences(of_class):
            if sequence.n_steps >= self._config.min_track_s * self._config.sample_fps:
                yield sequence

    def _segments(
        self,
        scope: str,
        video: PlannedVideo,
        rows: VideoRows,
        sequences: Iterator[StepSequence],
        video_end_s: float,
    ) -> Iterator[dict[str, Any]]:
        """Yield the rows of `segments` of one scope, by start; none reaches past the end of the video."""
        bundle = self._bundles[scope]
        found = [(sequence, run) for sequence in sequences for run in self._label(scope, rows, sequence)]
        found.sort(key=lambda item: (item[1].first_step, item[0].track_id or 0))
        for number, (sequence, run) in enumerate(found):
            label = bundle.labels[run.label_id]
            if label == bundle.background or (self._config.labels and label not in self._config.labels):
                continue
            box = sequence.mean_box(run.first_step, run.end_step)
            yield {
                "video_id": video.video_id,
                "uri": video.ref.uri,
                "segment_id": f"{video.video_id}-{scope[0]}{number:06d}",
                "scope": scope,
                "track_id": sequence.track_id,
                "label": label,
                "label_id": run.label_id,
                "score": run.score,
                "start_s": float(run.first_step / self._config.grid_rate),
                "end_s": min(float(run.end_step / self._config.grid_rate), video_end_s),
                **(dict(zip(("x1", "y1", "x2", "y2"), box.tolist(), strict=True)) if box is not None else {}),
                "run_id": self._config.run_id,
            }

    def _label(self, scope: str, rows: VideoRows, sequence: StepSequence) -> Iterator[StepRun]:
        bundle = self._bundles[scope]
        scores = self._classifiers[scope].scores(rows.inputs(sequence, bundle.model.spec.inputs))
        return find_segments(scores, sequence.first_step, self._config.sample_fps, bundle.segments)

    def _detections(
        self, video: PlannedVideo, rows: VideoRows, track_ids: NDArray[np.int64], class_names: dict[int, str]
    ) -> pa.Table:
        boxes, frames = rows.boxes, rows.frames
        names = [class_names[int(class_id)] for class_id in boxes.class_id]
        columns = {
            "video_id": pa.array([video.video_id] * len(names), pa.string()),
            "frame_index": frames.step[boxes.frame],
            "pts_s": frames.pts_s[boxes.frame],
            "track_id": pa.array(track_ids, mask=track_ids == NO_TRACK),
            "class_id": boxes.class_id,
            "label": pa.array(names, pa.string()),
            "score": boxes.score,
            **{
                name: np.ascontiguousarray(side)
                for name, side in zip(("x1", "y1", "x2", "y2"), boxes.xyxy.T, strict=True)
            },
        }
        return pa.table(columns, schema=schemas.DETECTIONS)

    def _features(
        self, video: PlannedVideo, rows: VideoRows, track_ids: NDArray[np.int64], schema: pa.Schema
    ) -> Iterator[pa.Table]:
        """Yield the rows of `features` piece by piece: the frames in order, then the boxes, in order, too."""
        frames, embedded = rows.frames, self._config.embedded
        no_track = np.full(len(frames.step), NO_TRACK, np.int64)
        scopes = [("frame", "frame", np.arange(len(no_track)), frames.row, no_track)]
        if self._config.sees_people:
            scopes.append(("person", "crop", rows.boxes.frame, rows.boxes.row, track_ids))
        for scope, image, frame, row, tracks in scopes:
            pieces = frames.piece[frame]
            for number in np.unique(pieces):
                chosen = pieces == number
                of_frame = frame[chosen]
                columns = {
                    "video_id": pa.array([video.video_id] * len(of_frame), pa.string()),
                    "pts_s": frames.pts_s[of_frame],
                    "step": frames.step[of_frame],
                    "n_steps": frames.n_steps[of_frame].astype(np.int32),
                    "scope": pa.array([scope] * len(of_frame), pa.string()),
                    "track_id": pa.array(tracks[chosen], mask=tracks[chosen] == NO_TRACK),
                }
                for column, name in (("embedding", image), ("change", f"{image}_change")):
                    if column in schema.names:
                        vectors = np.ascontiguousarray(rows.vectors(int(number), column)[row[chosen]])
                        missing = None if name in embedded else pa.array(np.ones(len(vectors), np.bool_))
                        columns[column] = pa.FixedSizeListArray.from_arrays(
                            pa.array(vectors.reshape(-1)), vectors.shape[1], mask=missing
                        )
                yield pa.table(columns, schema=schema)

    def _account(
        self,
        shard: int,
        video: PlannedVideo,
        rows: VideoRows,
        receipts: Sequence[Receipt],
        parts: _Parts,
        summary: ShardSummary,
    ) -> None:
        """Write the video's rows of `videos` and `failures`."""
        probe = video.probe
        failures = list(self._failures(video, receipts))
        truncated = any(row["kind"] == "truncated" for row in failures)
        n_sampled = len(rows.frames.step)
        status = "failed" if n_sampled == 0 and failures else "partial" if failures else "ok"
        covered_s = float(rows.frames.n_steps.sum() / self._config.grid_rate)
        if n_sampled:
            # The last step may reach past the end of the last frame.
            last_step = int(rows.frames.step[-1] + rows.frames.n_steps[-1])
            covered_s -= max(0.0, float(last_step / self._config.grid_rate) - _seen_to_end_s(receipts))
        parts.failures.write_rows(failures)
        parts.videos.write_rows(
            [
                {
                    "video_id": video.video_id,
                    "uri": video.ref.uri,
                    "size_bytes": video.ref.size_bytes,
                    "duration_s": _duration_s(video, receipts),
                    "width": probe.width if probe else None,
                    "height": probe.height if probe else None,
                    "fps": probe.fps if probe else None,
                    "codec": probe.codec if probe else None,
                    "rotation_deg": probe.rotation_deg if probe else None,
                    "vfr": probe.vfr if probe else None,
                    "n_frames_sampled": n_sampled,
                    "status": status,
                    "covered_s": covered_s,
                    "truncated": truncated,
                    "n_chunks": len(video.chunks),
                    "attempts": max((receipt.attempts for receipt in receipts), default=1),
                    "shard": shard,
                    "run_id": self._config.run_id,
                    "processed_at": datetime.datetime.now(datetime.UTC),
                }
            ]
        )
        summary.n_videos += 1
        summary.n_failed += status == "failed"
        summary.n_partial += status == "partial"
        summary.covered_s += covered_s
        summary.failures += [row["message"] for row in failures]

    def _failures(self, video: PlannedVideo, receipts: Sequence[Receipt]) -> Iterator[dict[str, Any]]:
        row: dict[str, Any] = {"video_id": video.video_id, "uri": video.ref.uri}
        if video.failure is not None:
            yield row | {
                "start_s": video.ref.start_s,
                "end_s": video.ref.end_s,
                "stage": "probe",
                "kind": video.failure.kind,
                "message": str(video.failure),
                "attempts": 1,
            }
        for chunk, receipt in zip(video.chunks, receipts, strict=True):
            reason = _reason(video, receipt, self._config)
            if reason is not None:
                end_s = None if chunk.end_step == OPEN_END else float(chunk.end_step / self._config.grid_rate)
                yield row | {
                    "start_s": float(chunk.first_step / self._config.grid_rate),
                    "end_s": end_s if end_s is not None else _duration_s(video, receipts),
                    "stage": "decode",
                    "kind": reason[0],
                    "message": reason[1],
                    "attempts": receipt.attempts,
                    "worker": receipt.worker,
                }


def _reason(video: PlannedVideo, receipt: Receipt, config: Config) -> tuple[str, str] | None:
    """Tell what was wrong with a chunk, `(kind, message)`, if anything was."""
    if receipt.failure_kind:
        return receipt.failure_kind, receipt.failure_message
    uri, probe = video.ref.uri, video.probe
    assert probe is not None
    chunk = video.chunks[receipt.chunk]
    declared_s = probe.duration_s if chunk.end_step == OPEN_END else float(chunk.end_step / config.grid_rate)
    tolerance_s = max(_SHORTFALL_SHARE * declared_s, _SHORTFALL_FRAMES / (probe.fps or 25.0))
    if receipt.reached_eof and receipt.end_s < declared_s - tolerance_s:
        return "truncated", f"{uri}: ends at {receipt.end_s:.2f} s, though it should reach {declared_s:.2f} s"
    if receipt.n_errors:
        return "corrupt", f"{uri}: {receipt.n_errors} damaged packets or frames skipped ({receipt.first_error})"
    return None


def _seen_to_end_s(receipts: Sequence[Receipt]) -> float:
    """Return when the video ends, where its end was seen; without limit where it was not."""
    return max((receipt.end_s for receipt in receipts if receipt.reached_eof), default=math.inf)


def _duration_s(video: PlannedVideo, receipts: Sequence[Receipt]) -> float | None:
    """Return the declared duration, else how far the video was seen."""
    if video.probe is None:
        return None
    return video.probe.duration_s or max((receipt.end_s for receipt in receipts), default=0.0)
