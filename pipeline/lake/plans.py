"""A lake's plan: one Parquet part per shard, so that every run cuts the archive in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.archive.plan import Chunk, PlannedVideo
from pipeline.archive.probe import Probe
from pipeline.archive.refs import VideoRef
from pipeline.errors import VideoError
from pipeline.lake.parts import read_part
from pipeline.lake.patience import patiently
from pipeline.lake.store import Lake, open_part

PLAN = "_plan"
"""The folder of a lake in which its plan lies."""
_CHUNK = pa.struct([("first_step", pa.int64()), ("end_step", pa.int64()), ("duration_s", pa.float64())])
_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("size_bytes", pa.int64()),
        ("modified", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("rotation_deg", pa.int32()),
        ("mirrored", pa.bool_()),
        ("track", pa.int32()),
        ("fps", pa.float64()),
        ("vfr", pa.bool_()),
        ("duration_s", pa.float64()),
        ("time_base", pa.string()),
        ("origin_pts", pa.int64()),
        ("streamed", pa.bool_()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("recorded_at", pa.string()),
        ("chunks", pa.list_(_CHUNK)),
        ("failure_kind", pa.string()),
        ("failure_message", pa.string()),
    ]
)
# Fields of a probe that are stored unchanged.
_OF_PROBE = (
    "codec", "width", "height", "rotation_deg", "mirrored", "track", "fps", "vfr", "duration_s", "origin_pts",
    "streamed", "created_at",
)  # fmt: skip


def write_plan(lake: Lake, shard: int, videos: Sequence[PlannedVideo]) -> None:
    """Write the plan of one shard."""
    rows = [_to_row(video) for video in videos]

    def write() -> None:
        with open_part(lake, PLAN, shard, _SCHEMA) as part:
            part.write_rows(rows)

    patiently(lake.uri, write)


def read_plan(lake: Lake, shard: int) -> list[PlannedVideo]:
    """Return the videos of one shard, without keyframes, because the chunks are already cut."""
    return [_from_row(row) for row in read_part(lake, PLAN, shard).to_pylist()]


def planned_ids(lake: Lake) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Yield `(shard, ids of its videos as numbers)` for every planned shard."""
    for shard in lake.planned():
        column = read_part(lake, PLAN, shard, ["video_id"])["video_id"].to_pylist()
        yield shard, np.fromiter((int(video_id, 16) for video_id in column), np.uint64, len(column))


def planned_work(lake: Lake, shard: int) -> tuple[int, int, float]:
    """Return a shard's number of videos, number of chunks and seconds of video."""
    of_videos = read_part(lake, PLAN, shard, ["chunks"])["chunks"]
    chunks = pc.list_flatten(of_videos)
    return len(of_videos), len(chunks), pc.sum(pc.struct_field(chunks, "duration_s")).as_py() or 0.0


def _to_row(video: PlannedVideo) -> dict[str, Any]:
    ref, probe, failure = video.ref, video.probe, video.failure
    row: dict[str, Any] = {
        "video_id": video.video_id,
        "uri": ref.uri,
        "size_bytes": ref.size_bytes,
        "modified": ref.modified,
        "start_s": ref.start_s,
        "end_s": ref.end_s,
        "recorded_at": ref.recorded_at,
        "chunks": [
            {"first_step": chunk.first_step, "end_step": chunk.end_step, "duration_s": chunk.duration_s}
            for chunk in video.chunks
        ],
        "failure_kind": failure.kind if failure else None,
        "failure_message": str(failure) if failure else None,
    }
    if probe is not None:
        row |= {name: getattr(probe, name) for name in _OF_PROBE}
        row["time_base"] = str(probe.time_base)
    return row


def _from_row(row: dict[str, Any]) -> PlannedVideo:
    ref = VideoRef(row["uri"], row["size_bytes"], row["modified"], row["start_s"], row["end_s"], row.get("recorded_at"))
    probe = None
    if row["codec"] is not None:
        probe = Probe(
            codec=row["codec"],
            width=row["width"],
            height=row["height"],
            rotation_deg=row["rotation_deg"],
            fps=row["fps"],
            vfr=row["vfr"],
            duration_s=row["duration_s"],
            time_base=Fraction(row["time_base"]),
            origin_pts=row["origin_pts"],
            keyframes_s=np.empty(0),
            # Plans of earlier releases lack these.
            mirrored=bool(row.get("mirrored")),
            track=row.get("track") or 0,
            streamed=bool(row.get("streamed")),
            created_at=row.get("created_at"),
        )
    chunks = tuple(
        Chunk(index, chunk["first_step"], chunk["end_step"], chunk["duration_s"])
        for index, chunk in enumerate(row["chunks"])
    )
    failure = VideoError(row["failure_kind"], row["failure_message"]) if row["failure_kind"] else None
    return PlannedVideo(ref, probe, chunks, failure)
