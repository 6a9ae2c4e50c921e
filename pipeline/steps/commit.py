"""Commit a shard: track and label each of its videos, and write its rows of every table."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.archive.plan import PlannedVideo
from pipeline.config import Config, digest
from pipeline.errors import UnforeseenError, stage
from pipeline.lake import schemas
from pipeline.lake.parts import read_part
from pipeline.lake.patience import patiently
from pipeline.lake.plans import read_plan
from pipeline.lake.rows import (
    detection_rows,
    failure_row,
    failure_rows,
    feature_rows,
    seen_to_end_s,
    video_row,
)
from pipeline.lake.sequences import VideoRows
from pipeline.lake.store import Lake, PartWriter, open_part
from pipeline.lake.work import Piece, finished_chunks
from pipeline.steps.breaker import Breaker
from pipeline.steps.extract import NetworkFacts
from pipeline.steps.label import Labeller, VideoLabels, model_facts, segments_folder
from pipeline.steps.track import no_tracks, track

log = logging.getLogger(__name__)


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
    judged_s: float = 0.0
    """Seconds of people or frames labelled by this commit whose novelty the models know."""
    unlike_s: float = 0.0
    """Of these, the seconds that are unlike the models' training data."""
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
    """By scope of the model."""
    features: PartWriter | None


class ShardCommitter:
    """Labels finished shards with one model for each scope, or with none, and commits them."""

    def __init__(self, config: Config, bundles: Sequence[Bundle], threads: int = 1) -> None:
        """Take the models, at most one for each scope, or none to write only features; and how many threads label."""
        self._config = config
        self._beside = ThreadPoolExecutor(1)
        self._breaker = Breaker("labelled videos")
        # Shards whose videos the breaker has counted; a shard may be written again after a failure of the storage.
        self._judged: set[int] = set()
        self._labellers = {bundle.scope: Labeller(bundle, config, threads) for bundle in bundles}

    @property
    def busy_s(self) -> float:
        """Seconds that the models themselves have computed."""
        return sum(labeller.busy_s for labeller in self._labellers.values())

    def commit(self, lake: Lake, shard: int, networks: NetworkFacts) -> ShardSummary:
        """Write a shard's part of every table, that of `videos` last; then delete its work files.

        If it is called again after a crash or a failure at any point, it writes the same rows under the same names.
        After an unexpected error a video lacks its tracks or segments. A video that can't be written has rows only in
        `videos` and `failures`.

        Args:
            lake: Where the shard is.
            shard: Its number.
            networks: The networks that made its features.

        Raises:
            SystematicError: So many videos fail that they can't be the cause; nothing is committed.
        """
        if lake.is_committed(shard):
            # A process died after the commit, before it could report it.
            lake.drop_work(shard)
            return self._read_summary(lake, shard)
        unwritable: dict[str, UnforeseenError] = {}
        while True:
            try:
                summary = patiently(lake.uri, lambda: self._write(lake, shard, networks, unwritable))
                break
            except _UnwritableVideoError as error:
                # Some rows of the video may have been written, so the parts are begun anew, without it.
                unwritable[error.video_id] = error.cause
        lake.drop_work(shard)
        return summary

    def _write(
        self, lake: Lake, shard: int, networks: NetworkFacts, unwritable: Mapping[str, UnforeseenError]
    ) -> ShardSummary:
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
                detections=part("detections", schemas.detections_schema(networks.n_keypoints)),
                failures=part("failures", schemas.FAILURES),
                segments={
                    scope: part(
                        segments_folder(labeller.bundle), schemas.SEGMENTS, footer | model_facts(labeller.bundle)
                    )
                    for scope, labeller in self._labellers.items()
                },
                features=part("features", features_schema) if self._config.keep_features else None,
            )
            unforeseen: list[str] = []
            for video in videos:
                if video.video_id in unwritable:
                    found = self._commit_failed(shard, video, unwritable[video.video_id], parts, summary)
                else:
                    pieces = [
                        [
                            Piece(lake, f"{lake.work_folder(shard)}/{name}")
                            for name in chunks[video.video_id, chunk.index]
                        ]
                        for chunk in video.chunks
                    ]
                    try:
                        with stage("write", passing=(OSError,)):
                            found = self._commit_video(shard, video, pieces, networks, parts, summary)
                    except UnforeseenError as error:
                        raise _UnwritableVideoError(video.video_id, error) from error
                if video.chunks:
                    unforeseen.append(next((row["message"] for row in found), ""))
            if shard not in self._judged:
                self._judged.add(shard)
                for message in unforeseen:
                    self._breaker.count(message)
        summary.wall_s = time.perf_counter() - started
        return summary

    def _read_summary(self, lake: Lake, shard: int) -> ShardSummary:
        """Return the summary of a shard that is already committed."""
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
    ) -> list[dict[str, Any]]:
        """Write a video's rows; return the rows of `failures` for unexpected errors of tracking and labelling."""
        rows = VideoRows.from_pieces([piece for of_chunk in pieces for piece in of_chunk])
        receipts = [[piece.receipt() for piece in of_chunk] for of_chunk in pieces]
        ends = [of_chunk[-1] for of_chunk in receipts]
        unforeseen: list[dict[str, Any]] = []
        track_ids = no_tracks(rows)
        if self._config.sees_people:
            with _costing_no_more(video, "track", unforeseen):
                track_ids = track(rows, video.probe.fps if video.probe else None, self._config)
            detections = detection_rows(video, rows, track_ids, networks.class_names, parts.detections.schema)
            parts.detections.write(detections)
        # Writing is mostly compression, which runs outside of Python's global lock.
        writing = self._beside.submit(self._write_features, video, rows, track_ids, parts.features)
        try:
            for scope, part in parts.segments.items():
                said = VideoLabels([], 0.0, 0.0)
                with _costing_no_more(video, "label", unforeseen):
                    said = self._labellers[scope].label(
                        video.video_id, video.ref.uri, rows, track_ids, networks.class_names, seen_to_end_s(ends)
                    )
                part.write_rows(said.segments)
                summary.count(said.segments)
                summary.judged_s += said.judged_s
                summary.unlike_s += said.unlike_s
        finally:
            # Wait also after an error, so that no part is closed while it is written to.
            writing.result()
        failures = [*failure_rows(video, receipts, self._config), *unforeseen]
        self._commit_row(video_row(shard, video, rows, ends, failures, self._config), failures, parts, summary)
        return unforeseen

    def _commit_failed(
        self, shard: int, video: PlannedVideo, error: UnforeseenError, parts: _Parts, summary: ShardSummary
    ) -> list[dict[str, Any]]:
        """Write the rows of `videos` and `failures` of a video whose other rows can't be written; return the latter."""
        failures = [failure_row(video, error.stage, error.failure(video.ref.uri))]
        row = video_row(shard, video, VideoRows.from_pieces([]), [], failures, self._config)
        self._commit_row(row, failures, parts, summary)
        return failures

    def _commit_row(
        self, row: dict[str, Any], failures: Sequence[dict[str, Any]], parts: _Parts, summary: ShardSummary
    ) -> None:
        parts.failures.write_rows(list(failures))
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


class _UnwritableVideoError(Exception):
    """The rows of a video can't be written, for an unexpected reason."""

    def __init__(self, video_id: str, cause: UnforeseenError) -> None:
        super().__init__(video_id, cause)
        self.video_id = video_id
        self.cause = cause


@contextmanager
def _costing_no_more(video: PlannedVideo, name: str, failures: list[dict[str, Any]]) -> Iterator[None]:
    """Let an unexpected error end only this block, and add it to the failures of a video.

    Errors of the storage pass through, because the whole shard is then written again.
    """
    try:
        with stage(name, passing=(OSError,)):
            yield
    except UnforeseenError as error:
        failure = error.failure(video.ref.uri)
        log.error("%s", failure, exc_info=error.cause)
        failures.append(failure_row(video, name, failure))
