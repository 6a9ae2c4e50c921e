"""Lakes of made-up people, written without a video: who does the same looks, stands and moves alike."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.lake import schemas
from pipeline.lake.examples import Example, example_like
from pipeline.lake.query import LakeReader
from pipeline.lake.search import Hit
from pipeline.lake.store import Lake, open_part
from pipeline.lake.stretches import steps_per_second
from pipeline.vision.keypoints import MIRRORED


@dataclass(frozen=True)
class MadeUpPerson:
    """Somebody who does one thing for a while; who does the same thing looks, stands and moves alike."""

    track_id: int
    does: int
    first_step: int
    n_steps: int
    size_px: float = 100.0
    mirrored: bool = False


FPS = 5
N_STEPS = 60
CONFIG = Config(
    scope="person", inputs=("crop", "box", "pose"), embedder="detector", detector="person_pose", sample_fps=float(FPS)
)
RATE = steps_per_second(CONFIG.feature_options())
# What people do is told by a number.
SHARDS: list[dict[str, list[MadeUpPerson]]] = [
    {
        "v00": [MadeUpPerson(1, does=1, first_step=0, n_steps=60), MadeUpPerson(2, 2, 10, 25, size_px=200)],
        "v01": [MadeUpPerson(1, 1, 5, 40), MadeUpPerson(2, 3, 0, 12)],
        "v02": [MadeUpPerson(4, 2, 0, 60, mirrored=True)],
    },
    {
        "v03": [MadeUpPerson(1, 3, 0, 30), MadeUpPerson(2, 1, 35, 20)],
        "v04": [MadeUpPerson(7, 2, 20, 11), MadeUpPerson(8, 4, 0, 2)],
        "v05": [],
    },
    {"v06": [MadeUpPerson(1, 4, 0, 60), MadeUpPerson(2, 2, 0, 60)]},
]
DOES = {(video, each.track_id): each.does for shard in SHARDS for video, people in shard.items() for each in people}


def made(folder: Path, shards: Sequence[dict[str, list[MadeUpPerson]]] = SHARDS, config: Config = CONFIG) -> Lake:
    lake = Lake(str(folder))
    lake.claim(config.feature_options())
    for number, videos in enumerate(shards):
        write_people(lake, number, videos, N_STEPS, config)
    return lake


def made_with_segments(folder: Path) -> Path:
    """Write the lake with some segments of a model, and return its folder."""
    lake = made(folder)
    segments = [
        {"video_id": "v03", "uri": "/videos/v03.mp4", "segment_id": "v03-p000000", "scope": "person", "track_id": 2,
         "label": "wave", "score": 0.9, "start_s": 7.0, "end_s": 10.5},
        {"video_id": "v03", "uri": "/videos/v03.mp4", "segment_id": "v03-p000001", "scope": "person", "track_id": 2,
         "label": "walk", "score": 0.9, "start_s": 10.5, "end_s": 11.0},
        {"video_id": "v03", "uri": "/videos/v03.mp4", "segment_id": "v03-p000002", "scope": "person", "track_id": 1,
         "label": "somebody else's", "score": 0.9, "start_s": 0.0, "end_s": 12.0},
    ]  # fmt: skip
    with open_part(lake, "segments/model=m", 1, schemas.with_footer(schemas.SEGMENTS)) as part:
        part.write_rows(segments)
    return folder


def moment(lake: LakeReader, text: str, person: int | None = None) -> list[Example]:
    return [example_like(lake, text, person)]


def places(hits: Sequence[Hit]) -> list[tuple[str, int | None, float, float]]:
    return [(hit.video_id, hit.track_id, round(hit.start_s, 6), round(hit.end_s, 6)) for hit in hits]


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
                  "covered_s": duration_s, "shard": shard, "status": "ok", "n_frames_sampled": n_steps}]
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
