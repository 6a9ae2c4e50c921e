"""Draw one moment of a video with everybody in it: box, skeleton, track id, label."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.archive.plan import Chunk
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader
from pipeline.video.decode import decode_chunk
from pipeline.vision.keypoints import BONES, KEYPOINTS

_LONGEST_PX = 1280
# A keypoint below this score is a guess.
_SEEN_SCORE = 0.3
# Neighbouring ids get colours far apart: each hue is the golden ratio further on.
_GOLDEN = 0.618034
_MOST_CROWDED = """
    SELECT d.video_id, d.frame_index, any_value(v.uri) AS uri, any_value(d.pts_s) AS pts_s
    FROM detections d JOIN videos v USING (video_id)
    LEFT JOIN segments s ON s.video_id = d.video_id AND s.track_id = d.track_id
        AND d.pts_s >= s.start_s AND d.pts_s < s.end_s
    WHERE d.track_id IS NOT NULL {where}
    GROUP BY d.video_id, d.frame_index
    ORDER BY count(s.label) DESC, count(*) DESC, sum(d.score) DESC, d.video_id, d.frame_index LIMIT 1
"""
_BOXES = """
    SELECT d.track_id, d.label AS class, d.score, d.x1, d.y1, d.x2, d.y2,
        any_value(d.keypoints) AS keypoints, arg_max(s.label, s.score) AS label
    FROM detections d LEFT JOIN segments s ON s.video_id = d.video_id AND s.track_id = d.track_id
        AND d.pts_s >= s.start_s AND d.pts_s < s.end_s
    WHERE d.video_id = '{video_id}' AND d.frame_index = {frame_index} AND d.track_id IS NOT NULL
    GROUP BY ALL ORDER BY d.track_id
"""


@dataclass(frozen=True)
class Moment:
    """What was drawn."""

    uri: str
    pts_s: float
    boxes: list[dict[str, Any]]
    """For each box `track_id`, `class`, `score`, `x1`, `y1`, `x2`, `y2`, and `keypoints` and `label`, which may be
    None."""


def draw_moment(lake: LakeReader, out: str | Path, video: str | None = None, at_s: float | None = None) -> Moment:
    """Write a picture of one frame with the boxes, ids and labels of everybody followed in it.

    Args:
        lake: Where they were found; the video itself must still be where it was.
        out: The picture, PNG or JPEG by its suffix.
        video: Part of the URI of the wanted video. None: any.
        at_s: The first moment not before this many seconds. None: the one with the most labelled people.

    Raises:
        UsageError: Nobody was followed there, or the picture can't be written.
        VideoError: The video can't be read any more.
    """
    where = ""
    if video is not None:
        quoted = video.replace("'", "''")
        where += f" AND contains(v.uri, '{quoted}')"
    if at_s is not None:
        where += f" AND d.pts_s >= {at_s!r} AND d.pts_s < {at_s + 1.0!r}"
    found = lake.sql(_MOST_CROWDED.format(where=where)).to_pylist()
    if not found:
        raise UsageError("nobody was followed there; see SELECT * FROM detections, and the scope in `actionlake info`")
    moment = Moment(found[0]["uri"], found[0]["pts_s"], lake.sql(_BOXES.format(**found[0])).to_pylist())
    if not cv2.haveImageWriter(str(out)):
        raise UsageError(f"{out}: not a kind of picture that can be written; name it .png or .jpg")
    image = _frame(lake, moment.uri, found[0]["frame_index"])
    for box in moment.boxes:
        _draw(image, box)
    if not cv2.imwrite(str(out), image[:, :, ::-1]):
        raise UsageError(f"{out}: can't be written; is the folder there?")
    return moment


def _frame(lake: LakeReader, uri: str, step: int) -> NDArray[np.uint8]:
    (ref,) = list_videos([uri])
    probe = probe_video(ref)
    rate = Fraction(lake.feature_options["sample_fps"]).limit_denominator(100_000)
    (batch,) = decode_chunk(uri, probe, Chunk(0, step, step + 1, 0.0), rate, max(probe.width, probe.height), 1)
    return np.ascontiguousarray(batch.images[0])


def _draw(image: NDArray[np.uint8], box: dict[str, Any]) -> None:
    """Draw one box, the skeleton in it, and its caption above it, or inside where there is no room."""
    unit = max(image.shape[:2]) / _LONGEST_PX
    scale, thickness = max(0.4, 0.7 * unit), max(1, round(2 * unit))
    hue = (box["track_id"] * _GOLDEN) % 1.0
    colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.85, 0.95))
    left, top, right, bottom = (round(box[name]) for name in ("x1", "y1", "x2", "y2"))
    cv2.rectangle(image, (left, top), (right, bottom), colour, thickness)
    _draw_skeleton(image, box["keypoints"] or [], colour, thickness)
    caption = f"{box['class']} {box['track_id']}" + (f": {box['label']}" if box["label"] else "")
    (width, height), below = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
    x = min(max(0, left), max(0, image.shape[1] - width))
    y = top - below if top >= height + 2 * below else top + height + below
    cv2.rectangle(image, (x, y - height - below), (x + width, y + below), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, (0.3, 0.59, 0.11)) > 110 else (255, 255, 255)
    cv2.putText(image, caption, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thickness, cv2.LINE_AA)


def _draw_skeleton(
    image: NDArray[np.uint8], keypoints: list[list[float]], colour: tuple[int, ...], thickness: int
) -> None:
    """Draw the keypoints that were seen, and the bones between them, if they are COCO's."""
    places = [(round(x), round(y)) if score >= _SEEN_SCORE else None for x, y, score in keypoints]
    bones = BONES if len(places) == len(KEYPOINTS) else []
    for one, other in bones:
        start, end = places[one], places[other]
        if start and end:
            cv2.line(image, start, end, colour, thickness, cv2.LINE_AA)
    for place in places:
        if place:
            cv2.circle(image, place, 2 * thickness, colour, cv2.FILLED, cv2.LINE_AA)
