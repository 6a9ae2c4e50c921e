"""Compare lakes, and make one without Ray."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from pipeline.vision.keypoints import MIRRORED

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
    folder: Path, duration_s: dict[str, float], segments: Sequence[dict[str, Any]], models: Sequence[str] = ("m",)
) -> Path:
    """Write a lake of one shard that holds given segments of given videos; `model` may name whose they are."""
    lake = Lake(str(folder))
    lake.claim(Config(scope="frame", sample_fps=10.0).feature_options())
    for model in models:
        with open_part(lake, f"segments/model={model}", 0, schemas.with_footer(schemas.SEGMENTS)) as part:
            part.write_rows(
                [{"video_id": each["uri"], **each} for each in segments if each.get("model", models[0]) == model]
            )
    with open_part(lake, "videos", 0, schemas.with_footer(schemas.VIDEOS)) as part:
        part.write_rows(
            [{"video_id": uri, "uri": uri, "duration_s": end_s, "fps": 10.0} for uri, end_s in duration_s.items()]
        )
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


@dataclass(frozen=True)
class MadeUpPerson:
    """Somebody who does one thing for a while; who does the same thing looks, stands and moves alike."""

    track_id: int
    does: int
    first_step: int
    n_steps: int
    size_px: float = 100.0
    mirrored: bool = False


def write_people(
    lake: Lake, shard: int, videos: Mapping[str, Sequence[MadeUpPerson]], n_steps: int, config: Config
) -> None:
    """Write a shard whose videos, named by id, show made-up people, and frames that look like what the first does."""
    dims = schemas.vector_dims(config.embedded, 16)
    footer = {"config": {"keep_features": True}, "shard": shard}
    with (
        open_part(lake, "features", shard, schemas.with_footer(schemas.features_schema(dims), **footer)) as features,
        open_part(lake, "detections", shard, schemas.with_footer(schemas.detections_schema(17), **footer)) as boxes,
        open_part(lake, "videos", shard, schemas.with_footer(schemas.VIDEOS, **footer)) as of_videos,
    ):
        for video_id, people in sorted(videos.items()):
            seed = zlib.crc32(video_id.encode())
            of_frames, of_boxes = _made_up_rows(video_id, people, n_steps, config, np.random.default_rng(seed))
            features.write_rows(of_frames)
            boxes.write_rows(of_boxes)
            duration_s = n_steps / config.chosen_fps
            of_videos.write_rows(
                [{"video_id": video_id, "uri": f"/videos/{video_id}.mp4", "duration_s": duration_s, "fps": 25.0,
                  "shard": shard, "status": "ok", "n_frames_sampled": n_steps}]
            )  # fmt: skip


def _made_up_rows(
    video_id: str, people: Sequence[MadeUpPerson], n_steps: int, config: Config, rng: np.random.Generator
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a video's rows of `features` and of `detections`."""
    frames, crops, boxes = [], [], []
    for step in range(n_steps):
        time_s = step / config.chosen_fps
        there = [each for each in people if each.first_step <= step < each.first_step + each.n_steps]
        row = {"video_id": video_id, "pts_s": time_s, "step": step, "n_steps": 1}
        frames.append(row | {"scope": "frame", "embedding": _looks(people[0].does if people else 0, rng)})
        for each in there:
            crops.append(row | {"scope": "person", "track_id": each.track_id, "embedding": _looks(each.does, rng)})
            xyxy, points = _pose(each, step, rng)
            boxes.append(
                {"video_id": video_id, "frame_index": step, "pts_s": time_s, "track_id": each.track_id, "class_id": 0,
                 "label": "person", "score": 0.9, "keypoints": points.tolist(),
                 **dict(zip(("x1", "y1", "x2", "y2"), xyxy, strict=True))}
            )  # fmt: skip
    return [*frames, *crops], boxes


def _looks(does: int, rng: np.random.Generator) -> list[float]:
    mean = np.random.default_rng(does).standard_normal(16)
    return (mean + 0.3 * rng.standard_normal(16)).astype(np.float16).tolist()


def _pose(person: MadeUpPerson, step: int, rng: np.random.Generator) -> tuple[list[float], NDArray[np.float64]]:
    """Return a person's box and keypoints `[17, 3]`: swinging about a pose, in a picture 640 px wide."""
    style = np.random.default_rng(100 + person.does)
    rest, swing = style.uniform(0.1, 0.9, (17, 2)), style.uniform(0, 0.1, (17, 2))
    places = rest + swing * np.sin(step) + 0.02 * rng.standard_normal((17, 2))
    left, size = 50.0 + 40 * person.track_id, person.size_px
    points = np.column_stack([left + size * 0.5 * places[:, 0], 50 + size * places[:, 1], np.full(17, 0.9)])
    x1, x2 = left, left + size * 0.5
    if person.mirrored:
        points[:, 0] = 640 - points[:, 0]
        points = points[list(MIRRORED)]
        x1, x2 = 640 - x2, 640 - x1
    return [x1, 50.0, x2, 50.0 + size], points
