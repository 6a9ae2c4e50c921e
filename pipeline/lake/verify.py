"""Check the invariants of a lake, and remove damaged shards, so that the same command makes them again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.archive.plan import PlannedVideo
from pipeline.config import digest
from pipeline.errors import ActionlakeError
from pipeline.lake import schemas
from pipeline.lake.compact import tidy
from pipeline.lake.parts import by_video, footer_of
from pipeline.lake.plans import PLAN, read_plan
from pipeline.lake.store import Lake, model_folder, part_name

_AGAIN = "taken out; the same `actionlake analyze` makes it again"
# Times of neighbouring segments are computed from the same steps, but may be cut at the end of the video.
_EPSILON_S = 1e-6


@dataclass(frozen=True)
class Problem:
    """A violated invariant of a lake."""

    where: str
    """Part or folder, relative to the lake."""
    message: str
    way_out: str
    """What `repair` does about it."""


class _CheckError(Exception):
    """A check failed."""


def verify(lake: Lake, repair: bool = False) -> list[Problem]:
    """Check every invariant of a lake by reading all of it; return the problems, and repair them if asked.

    In each shard, every part exists, can be read, and has the right checksums, schema and footer. The videos are those
    of the plan, each once in the whole lake. Exactly the videos that are not `ok` have rows in `failures`. Features,
    boxes and segments belong to these videos, are in order, are as many as the videos say, and do not overlap within a
    sequence. The lake holds nothing half-written.

    Args:
        lake: The lake. With `repair` the caller must hold its lease.
        repair: Delete damaged parts and leftovers.

    Raises:
        UsageError: There is no lake.
    """
    options = lake.features_made_with()
    problems = [
        Problem(path, "left behind by an interrupted run, unless a job is running now", "tidied up")
        for path in lake.leftovers()
    ]
    if repair:
        tidy(lake)
    seen: set[str] = set()
    merging = {shard for number, sources in lake.merges().items() for shard in (number, *sources)}
    for shard in lake.planned_or_committed():
        if shard in merging:
            # A merge is under way, which is reported above.
            continue
        found = list(_check_shard(lake, shard, digest(options), seen))
        problems += found
        if repair and found:
            _take_out(lake, shard, found)
    return problems


def _take_out(lake: Lake, shard: int, problems: list[Problem]) -> None:
    """Delete the damaged parts of a shard; if others than parts of models are damaged, all parts, `videos` first."""
    folders = {problem.where.rpartition("/")[0] for problem in problems}
    if any(folder.partition("/")[0] not in schemas.OF_MODELS for folder in folders):
        lake.drop_shard(shard)
    if PLAN in folders:
        lake.drop_work(shard)
    for folder in folders:
        lake.drop_part(folder, shard)


def _check_shard(lake: Lake, shard: int, config_hash: str, seen: set[str]) -> Iterator[Problem]:
    """Yield what is wrong with a shard; `seen` are the videos of the shards before it."""
    plan: list[PlannedVideo] = []
    try:
        with _readable():
            plan = read_plan(lake, shard)
        _demand(seen.isdisjoint(video.video_id for video in plan), "plans videos that another shard holds, too")
    except _CheckError as error:
        yield Problem(f"{PLAN}/{part_name(shard)}", str(error), _AGAIN)
        return
    seen.update(video.video_id for video in plan)
    if not lake.is_committed(shard):
        return
    checks = _ShardChecks(lake, shard, config_hash, plan)
    for folder, check in checks.all():
        try:
            check()
        except _CheckError as error:
            way_out = _AGAIN
            table = folder.partition("/")[0]
            if table in schemas.OF_MODELS:
                command = {"segments": "classify", "forecasts": "forecast"}[table]
                way_out = f"taken out; `actionlake {command}` makes it again"
            yield Problem(f"{folder}/{part_name(shard)}", str(error), way_out)
            if folder == "videos":
                # The other parts are checked against this one, so they can't be checked.
                return


class _ShardChecks:
    """The checks of one committed shard, part by part; each raises `_CheckError`."""

    def __init__(self, lake: Lake, shard: int, config_hash: str, plan: list[PlannedVideo]) -> None:
        self._lake, self._shard, self._config_hash = lake, shard, config_hash
        self._plan = {video.video_id: video for video in plan}
        self._videos: dict[str, dict[str, Any]] = {}
        self._n_boxes: dict[str, int] = {}
        self._keeps_features = True

    def all(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield folders and how to check the part in each; that of `videos` comes first."""
        yield "videos", self._check_videos
        yield "failures", self._check_failures
        yield "detections", self._check_detections
        if self._keeps_features:
            yield "features", self._check_features
        for model in self._lake.models():
            folder = model_folder("segments", model)
            if self._lake.has_part(folder, self._shard):
                yield folder, functools.partial(self._check_segments, model)
        for model in self._lake.models("forecasts"):
            folder = model_folder("forecasts", model)
            if self._lake.has_part(folder, self._shard):
                yield folder, functools.partial(self._check_forecasts, folder)

    def _read(self, folder: str, columns: list[str] | None = None) -> tuple[pa.Table, Any]:
        """Return a part's rows and footer; all columns are read, for the checksums, even if only some are returned."""
        path = self._lake.path(folder, part_name(self._shard))
        with _readable(), self._lake.fs.open_input_file(path) as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            found = file.schema_arrow
            footer = footer_of(found)
            columns = columns or found.names
            groups = [file.read_row_group(number).select(columns) for number in range(file.num_row_groups)]
        _demand(footer["schema_version"] == schemas.SCHEMA_VERSION, f"is of schema version {footer['schema_version']}")
        _demand(footer.get("config_hash", self._config_hash) == self._config_hash, "was made with other options")
        table = folder.partition("/")[0]
        # Only the own schema of `features` tells the lengths of its vectors.
        _demand(table == "features" or schemas.fits(found, table), "has other columns than it should")
        return pa.concat_tables([found.empty_table().select(columns), *groups]), footer

    def _check_videos(self) -> None:
        table, footer = self._read("videos")
        self._keeps_features = bool(footer["config"]["keep_features"])
        ids = table["video_id"].to_pylist()
        _demand(ids == sorted(self._plan), "does not hold the videos of its plan, each once and in order")
        self._videos = {row["video_id"]: row for row in table.to_pylist()}
        for video_id, row in self._videos.items():
            _demand(row["shard"] == self._shard, f"says that {video_id} is of shard {row['shard']}")
            _demand(
                row["n_chunks"] == len(self._plan[video_id].chunks), f"counts other chunks of {video_id} than planned"
            )
            _demand(row["status"] in ("ok", "partial", "failed"), f"says that {video_id} is {row['status']!r}")
            _demand(row["covered_s"] >= 0, f"says that {row['covered_s']} s of {video_id} were seen")

    def _check_failures(self) -> None:
        table, _ = self._read("failures")
        failed = set(table["video_id"].to_pylist())
        bad = {video_id for video_id, row in self._videos.items() if row["status"] != "ok"}
        _demand(failed == bad, f"tells of {len(failed)} videos, but {len(bad)} are not ok")

    def _check_detections(self) -> None:
        table, _ = self._read("detections")
        for video_id, boxes in self._by_video(table):
            frame, track = boxes["frame_index"].to_numpy(), boxes["track_id"].fill_null(-1).to_numpy()
            _demand(bool((np.diff(frame) >= 0).all()), f"has frames of {video_id} out of order")
            followed = np.stack([frame[track >= 0], track[track >= 0]])
            _demand(
                len(np.unique(followed, axis=1).T) == followed.shape[1], f"has a track of {video_id} twice in a frame"
            )
            _demand(_within(boxes["score"], 0.0, 1.0), f"has scores of {video_id} outside 0 to 1")
            self._n_boxes[video_id] = len(boxes)

    def _check_features(self) -> None:
        table, _ = self._read("features", ["video_id", "step", "n_steps", "scope"])
        counts = {(video_id, scope): 0 for video_id in self._videos for scope in ("frame", "person")}
        for video_id, rows in self._by_video(table):
            scope = np.array(rows["scope"].to_pylist())
            frames = rows["step"].to_numpy()[scope == "frame"]
            ends = frames + rows["n_steps"].to_numpy()[scope == "frame"]
            _demand(bool((frames[1:] >= ends[:-1]).all()), f"has frames of {video_id} twice, or out of order")
            for name in ("frame", "person"):
                counts[video_id, name] = int((scope == name).sum())
        for video_id, row in self._videos.items():
            n_frames, n_boxes = row["n_frames_sampled"], self._n_boxes.get(video_id, 0)
            _demand(counts[video_id, "frame"] == n_frames, f"has not the {n_frames} frames of {video_id}")
            _demand(counts[video_id, "person"] == n_boxes, f"has not the {n_boxes} boxes of {video_id}")

    def _check_segments(self, model: str) -> None:
        table, footer = self._read(model_folder("segments", model))
        _demand(footer["model"] == model, f"is of model {footer['model']!r}")
        ids = table["segment_id"].to_pylist()
        _demand(len(ids) == len(set(ids)), "has a segment twice")
        for video_id, rows in self._by_video(table):
            start, end = rows["start_s"].to_numpy(), rows["end_s"].to_numpy()
            _demand(bool((np.diff(start) >= 0).all()), f"has segments of {video_id} out of order")
            _demand(
                bool((start >= 0).all() and (end > start).all()),
                f"has segments of {video_id} that end before they start",
            )
            _demand(_within(rows["score"], 0.0, 1.0), f"has scores of {video_id} outside 0 to 1")
            if "novelty" in rows.column_names:
                _demand(_within(rows["novelty"].drop_null(), 0.0, 1.0), f"has novelties of {video_id} outside 0 to 1")
            track = rows["track_id"].fill_null(-1).to_numpy()
            order = np.lexsort((start, track))
            overlap = end[order][:-1] > start[order][1:] + _EPSILON_S
            _demand(not (overlap & (np.diff(track[order]) == 0)).any(), f"has segments of {video_id} that overlap")

    def _check_forecasts(self, folder: str) -> None:
        table, _ = self._read(folder)
        for video_id, rows in self._by_video(table):
            made_at, horizon = rows["made_at_s"].to_numpy(), rows["horizon_s"].to_numpy()
            keys = np.stack([made_at, rows["track_id"].to_numpy().astype(np.float64), horizon])
            _demand(bool((np.diff(made_at) >= 0).all()), f"has forecasts of {video_id} out of order")
            _demand(len(np.unique(keys, axis=1).T) == len(rows), f"has a forecast of {video_id} twice")
            spread = np.minimum(rows["sx"].to_numpy(), rows["sy"].to_numpy())
            _demand(bool((spread > 0).all() and (horizon > 0).all()), f"has invalid forecasts of {video_id}")

    def _by_video(self, table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """Yield the rows of each video; they must be sorted, and of this shard's videos."""
        rows_of = [(video_id, rows) for video_id, rows, _ in by_video(table)]
        found = [video_id for video_id, _ in rows_of]
        _demand(found == sorted(set(found)), "is not sorted by video")
        unknown = set(found) - self._videos.keys()
        _demand(not unknown, f"has rows of {', '.join(sorted(unknown))}, which the shard does not hold")
        yield from rows_of


@contextmanager
def _readable() -> Iterator[None]:
    """Turn an error from reading a file into a failed check."""
    try:
        yield
    except FileNotFoundError as error:
        raise _CheckError("is missing") from error
    except (ActionlakeError, OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise _CheckError(f"can't be read ({' '.join(str(error).split())[:200]})") from error


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _CheckError(otherwise)


def _within(column: pa.ChunkedArray, low: float, high: float) -> bool:
    values = column.to_numpy()
    return bool(((values >= low) & (values <= high)).all())
