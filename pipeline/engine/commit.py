"""From a shard's features to its rows: track, label, commit."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.archive.plan import PlannedVideo
from pipeline.config import Config, digest
from pipeline.engine.extract import NetworkFacts
from pipeline.engine.labelling import Labeller, model_facts, segments_folder
from pipeline.engine.tables import detection_rows, failure_rows, feature_rows, seen_to_end_s, video_row
from pipeline.lake import schemas
from pipeline.lake.patience import patiently
from pipeline.lake.plans import read_plan
from pipeline.lake.sequences import VideoRows
from pipeline.lake.store import Lake, PartWriter, open_part, read_part
from pipeline.lake.work import Piece, finished_chunks
from pipeline.motion.tracking import NO_TRACK, TrackOptions, track_video

log = logging.getLogger(__name__)

# Of them, each holds the hidden states of a whole sequence, a part of them in memory.
_MOST_THREADS = 4


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

    def count(self, segments: Sequence[Mapping[str, Any]]) -> None:
        """Add segments."""
        for segment in segments:
            self.label_n[segment["label"]] += 1
            self.label_s[segment["label"]] += segment["end_s"] - segment["start_s"]


@dataclass(frozen=True)
class _Parts:
    """The open parts of one shard."""

    videos: PartWriter
    detections: PartWriter
    failures: PartWriter
    segments: dict[str, PartWriter]
    """By the scope of the model that finds them."""
    features: PartWriter | None


class CommitWorker:
    """The actor around a `ShardCommitter`."""

    def __init__(self, lake_uri: str, config: Config, bundles: list[Any]) -> None:
        """Take what `ShardCommitter` takes, the bundles as a list of one reference to them."""
        import torch

        torch.set_num_threads(1)
        if config.sees_people:
            # While the first chunks are extracted: it takes a second that the last shard would wait for.
            import ultralytics.trackers.byte_tracker  # noqa: F401
        self._lake = Lake(lake_uri)
        # The last shard is labelled when there is nothing else to do.
        threads = min(_MOST_THREADS, os.cpu_count() or 1)
        self._committer = ShardCommitter(config, ray.get(bundles[0]), threads)

    def commit(self, shard: int, networks: NetworkFacts) -> ShardSummary:
        """Label a shard and commit it."""
        summary = self._committer.commit(self._lake, shard, networks)
        log.info("shard committed", extra={"shard": shard, "videos": summary.n_videos, "seconds": summary.wall_s})
        return summary


class ShardCommitter:
    """Labels finished shards with one model for each scope, or with none, and commits them."""

    def __init__(self, config: Config, bundles: Sequence[Bundle], threads: int = 1) -> None:
        """Take the models, at most one for each scope, or none to keep features alone; and how many threads label."""
        self._config = config
        self._beside = ThreadPoolExecutor(1)
        self._labellers = {bundle.scope: Labeller(bundle, config, threads) for bundle in bundles}

    @property
    def busy_s(self) -> float:
        """Seconds that the models themselves have computed."""
        return sum(labeller.busy_s for labeller in self._labellers.values())

    def commit(self, lake: Lake, shard: int, networks: NetworkFacts) -> ShardSummary:
        """Write a shard's part of every table, that of `videos` last; then its work files go.

        Called again after a crash or a failure at any point, it writes the same rows under the same names.

        Args:
            lake: Where the shard is.
            shard: Its number.
            networks: What its features were made with.
        """
        if lake.is_committed(shard):
            # Its process died after the commit, before it could say so.
            lake.drop_work(shard)
            return self._read_summary(lake, shard)
        summary = patiently(lake.uri, lambda: self._write(lake, shard, networks))
        lake.drop_work(shard)
        return summary

    def _write(self, lake: Lake, shard: int, networks: NetworkFacts) -> ShardSummary:
        features_schema = schemas.features_schema(schemas.vector_dims(self._config.embedded, networks.dim))
        started = time.perf_counter()
        videos = sorted(read_plan(lake, shard), key=lambda video: video.video_id)
        chunks = finished_chunks(lake.work_names(shard))
        footer: dict[str, Any] = {"config": asdict(self._config), "config_hash": digest(self._config.feature_options())}
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
                    scope: part(
                        segments_folder(labeller.bundle), schemas.SEGMENTS, footer | model_facts(labeller.bundle)
                    )
                    for scope, labeller in self._labellers.items()
                },
                features=part("features", features_schema) if self._config.keep_features else None,
            )
            for video in videos:
                pieces = [
                    [Piece(lake, f"{lake.work_folder(shard)}/{name}") for name in chunks[video.video_id, chunk.index]]
                    for chunk in video.chunks
                ]
                self._commit_video(shard, video, pieces, networks, parts, summary)
        summary.wall_s = time.perf_counter() - started
        return summary

    def _read_summary(self, lake: Lake, shard: int) -> ShardSummary:
        """Return what a shard holds that is committed already."""
        videos = read_part(lake, "videos", shard)
        status = Counter(videos["status"].to_pylist())
        summary = ShardSummary(shard, len(videos), status["failed"], status["partial"])
        summary.covered_s = sum(videos["covered_s"].to_pylist())
        summary.failures = read_part(lake, "failures", shard)["message"].to_pylist()
        for labeller in self._labellers.values():
            summary.count(read_part(lake, segments_folder(labeller.bundle), shard).to_pylist())
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
            parts.detections.write(detection_rows(video, rows, track_ids, networks.class_names))
        # Mostly compression, which runs outside of Python's lock.
        writing = self._beside.submit(self._write_features, video, rows, track_ids, parts.features)
        try:
            for scope, part in parts.segments.items():
                segments = self._labellers[scope].segments(
                    video.video_id, video.ref.uri, rows, track_ids, networks.class_names, seen_to_end_s(receipts)
                )
                part.write_rows(segments)
                summary.count(segments)
        finally:
            # Also after an error: parts are not closed while they are written to.
            writing.result()
        failures = list(failure_rows(video, receipts, self._config))
        row = video_row(shard, video, rows, receipts, failures, self._config)
        parts.failures.write_rows(failures)
        parts.videos.write_rows([row])
        summary.n_videos += 1
        summary.n_failed += row["status"] == "failed"
        summary.n_partial += row["status"] == "partial"
        summary.covered_s += row["covered_s"]
        summary.failures += [failure["message"] for failure in failures]

    def _write_features(
        self, video: PlannedVideo, rows: VideoRows, track_ids: NDArray[np.int64], part: PartWriter | None
    ) -> None:
        if part is not None:
            for table in feature_rows(video, rows, track_ids, part.schema, self._config):
                part.write(table)

    def _frame_rate(self, video: PlannedVideo) -> float:
        fps = video.probe.fps if video.probe is not None else 0.0
        return min(self._config.sample_fps, fps or self._config.sample_fps)

    def _track_options(self) -> TrackOptions:
        return TrackOptions(self._config.track_score, self._config.track_gap_s)
