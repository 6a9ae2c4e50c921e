"""Compare lakes, and make one without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.activity.bundle import Bundle
from pipeline.archive.plan import plan_video
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.lake import schemas
from pipeline.lake.plans import write_plan
from pipeline.lake.query import open_lake
from pipeline.lake.store import Lake, open_part
from pipeline.steps.commit import ShardCommitter, ShardSummary
from pipeline.steps.extract import Extractor, describe_networks
from pipeline.steps.in_order import extract_shard
from pipeline.steps.plan import probe_patiently

# What a run may write differently: when it ran, where, and how the work was cut.
_OF_THE_RUN = {"run_id", "processed_at", "worker", "attempts"}
_OF_THE_CUT = {"n_chunks"}
TABLES = ("videos", "segments", "detections", "features", "failures")


def rows(lake: str | Path, table: str, ignore: set[str] = frozenset()) -> pa.Table:
    """Return a table of a lake, in the order in which it lies there, without what may differ."""
    found = open_lake(str(lake)).table(table)
    return found.drop_columns([name for name in found.column_names if name in _OF_THE_RUN | ignore])


def assert_same(a: str | Path, b: str | Path, but: set[str] = frozenset()) -> None:
    """Assert that two lakes hold the same rows, to the last bit and in the same order."""
    for table in TABLES:
        left, right = rows(a, table, but), rows(b, table, but)
        assert left.num_rows == right.num_rows, table
        assert left.equals(right), table


def assert_same_whatever_the_cut(a: str | Path, b: str | Path) -> None:
    """Assert that two lakes of one archive, differently cut into chunks, hold the same rows."""
    assert_same(a, b, _OF_THE_CUT)


def leftovers(lake: Path) -> list[str]:
    """Return what does not belong into a finished lake."""
    files = [path for path in lake.rglob("*") if path.is_file()]
    return [str(path) for path in files if path.name.endswith(".tmp") or "_work" in path.parts]


def lake_of_segments(
    folder: Path, duration_s: dict[str, float], segments: Sequence[dict[str, Any]], models: Sequence[str] = ("m",),
    boxes: Sequence[dict[str, Any]] = (), failures: Sequence[dict[str, Any]] = (),
    columns: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:  # fmt: skip
    """Write a lake of one shard that holds given segments of given videos; `model` may name whose they are.

    `columns` of the videos, by their names, hold what is given for each URI.
    """
    lake = Lake(str(folder))
    lake.claim(Config(scope="frame", sample_fps=10.0).feature_options())
    for model in models:
        with open_part(lake, f"segments/model={model}", 0, schemas.with_footer(schemas.SEGMENTS)) as part:
            part.write_rows(
                [{"video_id": each["uri"], **each} for each in segments if each.get("model", models[0]) == model]
            )
    for table, rows in (("detections", boxes), ("failures", failures)):
        if rows:
            with open_part(lake, table, 0, schemas.with_footer(schemas.TABLES[table])) as part:
                part.write_rows([{"video_id": each["uri"], **each} for each in rows])
    videos: list[dict[str, Any]] = [
        {"video_id": uri, "uri": uri, "duration_s": end_s, "fps": 10.0, "shard": 0} for uri, end_s in duration_s.items()
    ]
    for video in videos:
        video.update(
            {column: given[video["uri"]] for column, given in (columns or {}).items() if video["uri"] in given}
        )
    with open_part(lake, "videos", 0, schemas.with_footer(schemas.VIDEOS)) as part:
        part.write_rows(videos)
    return folder


def analyze_here(
    sources: list[str], lake_uri: str | Path, config: Config, bundles: Sequence[Bundle], extractor: Extractor,
    threads: int = 1, shard: int = 0,
) -> ShardSummary:  # fmt: skip
    """Do a job in this process as one shard, in chunks of just `chunk_s`; `threads` label."""
    lake = Lake(str(lake_uri))
    lake.claim(config.feature_options())
    planned = []
    for ref in list_videos(sources):
        planned.append(plan_video(ref, probe_patiently(ref, config), config.grid_rate, config.chunk_s))
    write_plan(lake, shard, planned)
    for _ in extract_shard(lake, shard, config, extractor):
        pass
    return ShardCommitter(config, bundles, threads).commit(lake, shard, describe_networks(config))


Walk = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Times `[N]` and places of the feet `[N, 2]` of somebody, in pixels."""


def lake_of_walkers(folder: Path, shards: Sequence[Mapping[str, Mapping[int, Walk]]], height: float = 100.0) -> Path:
    """Write a lake whose people, by video and track id, walk as given; all of them are of one height."""
    lake = Lake(str(folder))
    lake.claim(Config(scope="person", sample_fps=10.0).feature_options())
    footer = {"config": {"keep_features": False}}
    for shard, videos in enumerate(shards):
        boxes = [
            {
                "video_id": video_id, "frame_index": round(float(at) * 10), "pts_s": at, "track_id": track_id,
                "class_id": 0, "label": "person", "score": 0.9,
                "x1": x - 20, "y1": y - height, "x2": x + 20, "y2": y,
            }
            for video_id, people in sorted(videos.items())
            for track_id, (time_s, feet) in people.items()
            for at, (x, y) in zip(time_s.tolist(), feet.tolist(), strict=True)
        ]  # fmt: skip
        boxes.sort(key=lambda row: (row["video_id"], row["frame_index"], row["track_id"]))
        of_videos = [
            {
                "video_id": video_id, "uri": f"/videos/{video_id}.mp4", "duration_s": 60.0, "covered_s": 60.0,
                "fps": 10.0, "shard": shard, "status": "ok", "camera": video_id[0],
            }
            for video_id in sorted(videos)
        ]  # fmt: skip
        for table, rows in (("detections", boxes), ("failures", []), ("videos", of_videos)):
            with open_part(lake, table, shard, schemas.with_footer(schemas.TABLES[table], **footer)) as part:
                part.write_rows(rows)
    return folder
