"""Make the rows of `detections`, `features`, `failures` and `videos` for one video."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.archive.plan import OPEN_END, PlannedVideo
from pipeline.archive.recorded import camera_of, recorded
from pipeline.config import Config
from pipeline.errors import VideoError
from pipeline.lake import schemas
from pipeline.lake.sequences import FrameRows, VideoRows
from pipeline.lake.work import Receipt
from pipeline.motion.tracking import NO_TRACK

# A file is truncated if it ends earlier than declared, by more than this share and more than this many frames.
_SHORTFALL_SHARE = 0.02
_SHORTFALL_FRAMES = 4
# A camera moves if most of the picture moves faster than this, in picture heights per second.
_CAMERA_MOVES = 0.02


def detection_rows(
    video: PlannedVideo, rows: VideoRows, track_ids: NDArray[np.int64], class_names: dict[int, str], schema: pa.Schema
) -> pa.Table:
    """Return a video's rows of `detections`."""
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
        **{name: np.ascontiguousarray(side) for name, side in zip(("x1", "y1", "x2", "y2"), boxes.xyxy.T, strict=True)},
        "keypoints": _nested(boxes.keypoints),
    }
    return pa.table(columns, schema=schema)


def _nested(keypoints: NDArray[np.float32]) -> pa.Array:
    """Return keypoints `float32 [N, K, 3]` as lists of lists; nulls if K is 0."""
    n, n_keypoints, _ = keypoints.shape
    if not n_keypoints:
        return pa.nulls(n, schemas.detections_schema(0).field("keypoints").type)
    points = pa.FixedSizeListArray.from_arrays(pa.array(keypoints.reshape(-1)), 3)
    return pa.FixedSizeListArray.from_arrays(points, n_keypoints)


def feature_rows(
    video: PlannedVideo, rows: VideoRows, track_ids: NDArray[np.int64], schema: pa.Schema, config: Config
) -> Iterator[pa.Table]:
    """Yield a video's rows of `features` piece by piece: first the frames in order, then the boxes in order."""
    frames, embedded = rows.frames, config.embedded
    no_track = np.full(len(frames.step), NO_TRACK, np.int64)
    scopes = [("frame", "frame", np.arange(len(no_track)), frames.row, no_track)]
    if config.sees_people:
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
            for name in (image, f"{image}_change", f"{image}_flow"):
                column = schemas.column_of(name)
                if column in schema.names:
                    vectors = np.ascontiguousarray(rows.vectors(int(number), column)[row[chosen]])
                    missing = None if name in embedded else pa.array(np.ones(len(vectors), np.bool_))
                    columns[column] = pa.FixedSizeListArray.from_arrays(
                        pa.array(vectors.reshape(-1)), vectors.shape[1], mask=missing
                    )
            yield pa.table(columns, schema=schema)


def failure_rows(
    video: PlannedVideo, receipts: Sequence[Sequence[Receipt]], config: Config
) -> Iterator[dict[str, Any]]:
    """Yield a video's rows of `failures`, by start; `receipts` holds for each chunk the receipts of its pieces."""
    if video.failure is not None:
        yield failure_row(video, "probe", video.failure)
    ends = [of_chunk[-1] for of_chunk in receipts]
    for chunk, of_chunk in zip(video.chunks, receipts, strict=True):
        receipt = next((receipt for receipt in of_chunk if receipt.is_lost), of_chunk[-1])
        reason = _reason(video, receipt, config)
        if reason is not None:
            end_s = None if chunk.end_step == OPEN_END else float(chunk.end_step / config.grid_rate)
            yield {
                "video_id": video.video_id,
                "uri": video.ref.uri,
                "start_s": float(chunk.first_step / config.grid_rate),
                "end_s": end_s if end_s is not None else _duration_s(video, ends),
                "stage": receipt.failure_stage,
                "kind": reason[0],
                "message": reason[1],
                "attempts": receipt.attempts,
                "worker": receipt.worker,
            }


def failure_row(video: PlannedVideo, stage: str, failure: VideoError) -> dict[str, Any]:
    """Return a row of `failures` about a whole video."""
    return {
        "video_id": video.video_id,
        "uri": video.ref.uri,
        "start_s": video.ref.start_s,
        "end_s": video.ref.end_s,
        "stage": stage,
        "kind": failure.kind,
        "message": str(failure),
        "attempts": 1,
    }


def video_row(
    shard: int,
    video: PlannedVideo,
    rows: VideoRows,
    receipts: Sequence[Receipt],
    failures: Sequence[dict[str, Any]],
    config: Config,
) -> dict[str, Any]:
    """Return a video's row of `videos`.

    `receipts` are those of its chunks' last pieces, `failures` its rows of that table.
    """
    probe = video.probe
    recorded_at = recorded(
        video.ref.uri, video.ref.recorded_at, probe.created_at if probe else None, config.name_time, config.time_zone
    )
    truncated = any(row["kind"] == "truncated" for row in failures)
    n_sampled = len(rows.frames.step)
    status = "failed" if n_sampled == 0 and failures else "partial" if failures else "ok"
    covered_s = float(rows.frames.n_steps.sum() / config.grid_rate)
    if n_sampled:
        # The last step may reach past the end of the last frame.
        last_step = int(rows.frames.step[-1] + rows.frames.n_steps[-1])
        covered_s -= max(0.0, float(last_step / config.grid_rate) - seen_to_end_s(receipts))
    return {
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
        "run_id": config.run_id,
        "processed_at": datetime.datetime.now(datetime.UTC),
        "recorded_at": recorded_at.at if recorded_at else None,
        "recorded_at_source": recorded_at.source if recorded_at else None,
        "camera": camera_of(video.ref.uri, config.camera),
        "camera_moved_s": _camera_moved_s(rows.frames, covered_s),
    }


def _camera_moved_s(frames: FrameRows, covered_s: float) -> float | None:
    """Return for how many of the covered seconds the camera moved; None if that was not measured."""
    speed = np.empty(0) if frames.camera_speed is None else frames.camera_speed[~np.isnan(frames.camera_speed)]
    return float((speed > _CAMERA_MOVES).mean() * covered_s) if len(speed) else None


def _reason(video: PlannedVideo, receipt: Receipt, config: Config) -> tuple[str, str] | None:
    """Return what was wrong with a chunk, `(kind, message)`; None if nothing was."""
    if receipt.failure_kind:
        return receipt.failure_kind, receipt.failure_message
    uri, probe = video.ref.uri, video.probe
    assert probe is not None
    chunk = video.chunks[receipt.chunk]
    declared_s = probe.duration_s if chunk.end_step == OPEN_END else float(chunk.end_step / config.grid_rate)
    tolerance_s = max(_SHORTFALL_SHARE * declared_s, _SHORTFALL_FRAMES / (probe.fps or 25.0))
    # If recordings are joined end to end, the header tells the length of one, or the difference of two clocks.
    declared = not receipt.n_joins or chunk.end_step != OPEN_END
    if declared and receipt.reached_eof and receipt.end_s < declared_s - tolerance_s:
        return "truncated", f"{uri}: ends at {receipt.end_s:.2f} s, though it should reach {declared_s:.2f} s"
    if receipt.n_errors:
        return "corrupt", f"{uri}: {receipt.n_errors} damaged packets or frames skipped ({receipt.first_error})"
    if receipt.n_join_errors:
        return (
            "discontinuity",
            f"{uri}: {receipt.n_joins + 1} recordings are joined end to end, and frames are missing or damaged where "
            f"they meet ({receipt.first_error})",
        )
    return None


def seen_to_end_s(receipts: Sequence[Receipt]) -> float:
    """Return when the video ends; infinity if its end was not seen."""
    # A chunk may find the file's end early, while another, which starts after a damaged place, sees more.
    end_s, reached_eof = max(((receipt.end_s, receipt.reached_eof) for receipt in receipts), default=(0.0, False))
    return end_s if reached_eof else math.inf


def _duration_s(video: PlannedVideo, receipts: Sequence[Receipt]) -> float | None:
    """Return the declared duration, or how far the video was seen, if that is more or recordings are joined."""
    if video.probe is None:
        return None
    seen_s = max((receipt.end_s for receipt in receipts), default=0.0)
    if any(receipt.n_joins for receipt in receipts) and math.isfinite(seen_to_end_s(receipts)):
        return seen_s
    return max(video.probe.duration_s, seen_s)
