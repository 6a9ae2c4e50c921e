"""The tables of a lake, schema version 1. Seconds are float64, boxes float32 in upright source pixels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.vision.flow import FLOW_DIM
from pipeline.vision.keypoints import KEYPOINTS

SCHEMA_VERSION = 1
_BOX = [(name, pa.float32()) for name in ("x1", "y1", "x2", "y2")]

VECTOR_COLUMNS = ("embedding", "change", "flow")
"""The columns of vectors that `features` may have."""

VIDEOS = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("duration_s", pa.float64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps", pa.float64()),
        ("codec", pa.string()),
        ("rotation_deg", pa.int32()),
        ("vfr", pa.bool_()),
        ("n_frames_sampled", pa.int64()),
        ("status", pa.string()),
        ("covered_s", pa.float64()),
        ("truncated", pa.bool_()),
        ("n_chunks", pa.int32()),
        ("attempts", pa.int32()),
        ("shard", pa.int32()),
        ("run_id", pa.string()),
        ("processed_at", pa.timestamp("us", tz="UTC")),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("recorded_at_source", pa.string()),
        ("camera", pa.string()),
        ("camera_moved_s", pa.float64()),
    ]
)
"""One row per video. `status` is `ok`, `partial` or `failed`. `recorded_at` is the recording time of the first frame,
and `recorded_at_source` (`manifest`, `container` or `name`) is the source of it; both are null if it is unknown.
`camera_moved_s` is for how many seconds most of the picture moved, measured once a second; null if not measured."""
ADDED_LATER = {
    "videos": {
        "recorded_at": "TIMESTAMPTZ",
        "recorded_at_source": "VARCHAR",
        "camera": "VARCHAR",
        "camera_moved_s": "DOUBLE",
    },
    "detections": {"keypoints": "FLOAT[][]"},
    "segments": {"novelty": "FLOAT"},
}
"""Columns that parts of earlier releases lack, by table, with their types in SQL; they are read as null."""

SEGMENTS = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("segment_id", pa.string()),
        ("scope", pa.string()),
        ("track_id", pa.int64()),
        ("label", pa.string()),
        ("label_id", pa.int32()),
        ("score", pa.float32()),
        ("novelty", pa.float32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        *_BOX,
        ("run_id", pa.string()),
    ]
)
"""One row per segment; the model's name is the Hive partition `model`. `novelty`, from 0 to 1, is how unlike the
model's training data the segment is; null if the model does not know."""


def detections_schema(n_keypoints: int) -> pa.Schema:
    """Return the schema of `detections`, one row per box, for weights with `n_keypoints` keypoints, or 0.

    `frame_index` counts steps of the sampling grid; `track_id` is null for a box without a track. `keypoints` are lists
    of `[x, y, score]` in source pixels: COCO's 17 if the weights have 17; null if they have none.
    """
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("frame_index", pa.int64()),
            ("pts_s", pa.float64()),
            ("track_id", pa.int64()),
            ("class_id", pa.int32()),
            ("label", pa.string()),
            ("score", pa.float32()),
            *_BOX,
            ("keypoints", pa.list_(pa.list_(pa.float32(), 3), n_keypoints or len(KEYPOINTS))),
        ]
    )


FORECASTS = pa.schema(
    [
        ("video_id", pa.string()),
        ("track_id", pa.int64()),
        ("made_at_s", pa.float64()),
        ("horizon_s", pa.float64()),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("sx", pa.float32()),
        ("sy", pa.float32()),
        ("rho", pa.float32()),
        *_BOX,
    ]
)
"""One row per forecast and step ahead; the forecaster's name is the Hive partition `model`. `x` and `y` are the mean
position of the feet (the middle of the box's lower side) `horizon_s` after `made_at_s`; `sx`, `sy` and `rho` are its
standard deviations and correlation. The box is the last one seen, moved there. All in source pixels."""
FAILURES = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("stage", pa.string()),
        ("kind", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),
        ("worker", pa.string()),
    ]
)
"""One row per failed chunk, or per failure of a whole video."""


def column_of(name: str) -> str:
    """Return the column of vectors that holds an input: `embedding`, `change` or `flow`."""
    return {"change": "change", "flow": "flow"}.get(name.rpartition("_")[2], "embedding")


def vector_dims(inputs: Sequence[str], embedding_dim: int) -> dict[str, int]:
    """Return the length of each column of vectors that a lake with these inputs has."""
    dims = {"embedding": embedding_dim, "change": embedding_dim, "flow": FLOW_DIM}
    wanted = {"embedding", *(column_of(name) for name in inputs)}
    return {column: dim for column, dim in dims.items() if column in wanted}


def _vectors(dims: Mapping[str, int]) -> list[tuple[str, pa.DataType]]:
    return [(name, pa.list_(pa.float16(), dim)) for name, dim in dims.items()]


def features_schema(vectors: Mapping[str, int]) -> pa.Schema:
    """Return the schema of `features`: one row per frame or crop, with the steps of the sampling grid that show it.

    `embedding` describes the image, `change` how the next image differs from it, and `flow` what moves between both.
    The last two exist only if they are computed. `vectors` are the lengths; see `vector_dims`.
    """
    return pa.schema(
        [
            ("video_id", pa.string()),
            ("pts_s", pa.float64()),
            ("step", pa.int64()),
            ("n_steps", pa.int32()),
            ("scope", pa.string()),
            ("track_id", pa.int64()),
            *_vectors(vectors),
        ]
    )


def work_schema(vectors: Mapping[str, int], n_keypoints: int) -> pa.Schema:
    """Return the schema of a piece of a chunk's features: rows of frames (`box` is -1) and of the boxes in them."""
    keypoints = [("keypoints", pa.list_(pa.float32(), 3 * n_keypoints))] if n_keypoints else []
    return pa.schema(
        [
            ("step", pa.int64()),
            ("n_steps", pa.int32()),
            ("pts_s", pa.float64()),
            ("camera_speed", pa.float32()),
            ("box", pa.int32()),
            ("class_id", pa.int32()),
            ("score", pa.float32()),
            *_BOX,
            *keypoints,
            *_vectors(vectors),
        ]
    )


TABLES = {
    "videos": VIDEOS,
    "segments": SEGMENTS,
    "detections": detections_schema(0),
    "failures": FAILURES,
    "forecasts": FORECASTS,
    "features": features_schema(dict.fromkeys(VECTOR_COLUMNS, 1)),
}
"""Every table that can be queried. The length of vectors is a placeholder: each lake has its own."""
OF_MODELS = ("segments", "forecasts")
"""Tables whose parts lie in one folder per model, `model=<name>`; `model` is also a column of these tables."""


def fits(found: pa.Schema, table: str) -> bool:
    """Whether a part has the columns of its table; it may lack those that were added later."""
    schema = TABLES[table]
    if table == "detections" and "keypoints" in found.names:
        schema = detections_schema(found.field("keypoints").type.list_size)
    later = ADDED_LATER.get(table, {})
    wanted = pa.schema([field for field in schema if field.name in found.names or field.name not in later])
    return bool(found.equals(wanted))


def with_footer(schema: pa.Schema, **facts: Any) -> pa.Schema:
    """Return the schema with a footer: its version, and facts as JSON under the key `actionlake`."""
    footer = {"schema_version": SCHEMA_VERSION, **facts}
    return schema.with_metadata({"actionlake": json.dumps(footer, sort_keys=True)})
