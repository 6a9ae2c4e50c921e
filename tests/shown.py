"""A lake over real small videos, with people and labels that are made up: what pages, clips and reviews show."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from pipeline.vision.keypoints import KEYPOINTS
from tests.lakes import lake_of_segments
from tests.synthetic import RECIPES, make_video

H264, AVI = (next(r for r in RECIPES if r.name == name) for name in ("h264.mp4", "mpeg4.avi"))
SIZE = (320, 192)
LABELS = ("walk", "sit", "fall")
SECONDS = 6
NAME_OF_EVIL = "<img src=x onerror=window.evil=1></script>"
"""A label that would run, if it were taken for markup."""


def video_id(number: int) -> str:
    return f"{number:016x}"


def person(uri: str, video: str, track: int, step: int) -> dict[str, Any]:
    """Return a box of somebody who walks to the right."""
    x, y = 20 + 30 * track + 2 * step, 40
    keypoints = [[x + 4 + k, y + 5 * k, 0.9 if k % 2 else 0.1] for k in range(len(KEYPOINTS))]
    return {
        "uri": uri, "video_id": video, "frame_index": step, "pts_s": step / 10, "track_id": track, "class_id": 0,
        "label": "person", "score": 0.8, "x1": x, "y1": y, "x2": x + 40, "y2": y + 100, "keypoints": keypoints,
    }  # fmt: skip


def make_lake(folder: Path, n_videos: int = 3, frame_scope: bool = False) -> Path:
    """Write `n_videos` videos of 6 s, the second an AVI that no browser plays, and the lake of what is seen in them.

    In each are two people, who walk, sit and fall for 2 s each, one after the other; the second one's label in the
    first video is hostile. Scores fall from video to video.
    """
    videos, segments, boxes = [], [], []
    (folder / "videos").mkdir(parents=True)
    for number in range(n_videos):
        recipe = AVI if number == 1 else H264
        path = folder / "videos" / f"20240503_14{number:02d}00{Path(recipe.name).suffix}"
        make_video(path, recipe, n_frames=30 * SECONDS, size=SIZE)
        videos.append(path)
        for track in (1, 2):
            for k, label in enumerate(LABELS):
                box = dict(
                    zip(
                        ("x1", "y1", "x2", "y2"),
                        (20 + 30 * track + 40 * k, 40, 98 + 30 * track + 40 * k, 140),
                        strict=True,
                    )
                )
                segments.append(
                    {
                        "uri": str(path), "video_id": video_id(number), "scope": "frame" if frame_scope else "person",
                        "segment_id": f"{video_id(number)}-p{len(segments):06d}", "label_id": k,
                        "label": NAME_OF_EVIL if (number, track, k) == (0, 2, 2) else label,
                        "track_id": None if frame_scope else track, "score": 0.9 - 0.2 * number - 0.05 * k,
                        "novelty": 0.1 * number, "start_s": 2.0 * k, "end_s": 2.0 * k + 2, **box,
                    }
                )  # fmt: skip
            boxes += [person(str(path), video_id(number), track, step) for step in range(10 * SECONDS)]
    uris = [str(path) for path in videos]
    at = datetime.datetime(2024, 5, 3, 14, tzinfo=datetime.UTC)
    columns: dict[str, dict[str, Any]] = {
        "video_id": {uri: video_id(i) for i, uri in enumerate(uris)},
        "size_bytes": {uri: path.stat().st_size for uri, path in zip(uris, videos, strict=True)},
        "covered_s": dict.fromkeys(uris, float(SECONDS)),
        "width": dict.fromkeys(uris, SIZE[0]),
        "height": dict.fromkeys(uris, SIZE[1]),
        "fps": dict.fromkeys(uris, 30.0),
        "status": dict.fromkeys(uris, "ok"),
        "recorded_at": {uri: at + datetime.timedelta(hours=i) for i, uri in enumerate(uris)},
    }
    failed = {
        "uri": uris[-1], "video_id": video_id(n_videos - 1), "start_s": 5.0, "end_s": 6.0, "stage": "decode",
        "kind": "corrupt", "message": "a packet is damaged", "attempts": 1,
    }  # fmt: skip
    return lake_of_segments(
        folder / "lake", dict.fromkeys(uris, float(SECONDS)), segments, boxes=[] if frame_scope else boxes,
        failures=[failed], columns=columns,
    )  # fmt: skip
