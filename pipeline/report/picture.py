"""Draw one frame of a video with all people in it: bounding box, skeleton, track id, label."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.archive.plan import Chunk
from pipeline.archive.probe import probe_video
from pipeline.archive.sources import list_videos
from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader
from pipeline.report.drawing import draw_person
from pipeline.report.scene import Person, read_scene
from pipeline.video.decode import decode_chunk

_MOST_CROWDED = """
    SELECT d.video_id, d.frame_index, any_value(v.uri) AS uri, any_value(d.pts_s) AS pts_s
    FROM detections d JOIN videos v USING (video_id)
    LEFT JOIN segments s ON s.video_id = d.video_id AND s.track_id = d.track_id
        AND d.pts_s >= s.start_s AND d.pts_s < s.end_s
    WHERE d.track_id IS NOT NULL {where}
    GROUP BY d.video_id, d.frame_index
    ORDER BY {first} count(s.label) DESC, count(*) DESC, sum(d.score) DESC, d.video_id, d.frame_index LIMIT 1
"""


@dataclass(frozen=True)
class Moment:
    """The moment that was drawn."""

    uri: str
    pts_s: float
    people: list[Person]
    """All people who are tracked in that frame."""


def draw_moment(lake: LakeReader, out: str | Path, video: str | None = None, at_s: float | None = None) -> Moment:
    """Write a picture of one frame with the boxes, ids and labels of all people tracked in it.

    Args:
        lake: The lake with the boxes. The video must still be where it was analyzed.
        out: The picture, PNG or JPEG by its suffix.
        video: Part of the URI of the wanted video. None: any.
        at_s: Seconds. The first frame with people within a second from then is drawn. None: the frame with the most
            labelled people.

    Raises:
        UsageError: Nobody is tracked there, or the picture can't be written.
        VideoError: The video can't be read any more.
    """
    where = ""
    if video is not None:
        quoted = video.replace("'", "''")
        where += f" AND contains(v.uri, '{quoted}')"
    if at_s is not None:
        where += f" AND d.pts_s >= {at_s!r} AND d.pts_s < {at_s + 1.0!r}"
    found = lake.sql(_MOST_CROWDED.format(where=where, first="" if at_s is None else "d.frame_index,")).to_pylist()
    if not found:
        raise UsageError("nobody was followed there; see SELECT * FROM detections, and the scope in `actionlake info`")
    at = found[0]["pts_s"]
    scene = read_scene(lake, found[0]["video_id"], at, float(np.nextafter(at, np.inf)))
    moment = Moment(found[0]["uri"], at, scene.at(at))
    if not cv2.haveImageWriter(str(out)):
        raise UsageError(f"{out}: not a kind of picture that can be written; name it .png or .jpg")
    image = _frame(lake, moment.uri, found[0]["frame_index"])
    for person in moment.people:
        draw_person(image, person)
    if not cv2.imwrite(str(out), image[:, :, ::-1]):
        raise UsageError(f"{out}: can't be written; is the folder there?")
    return moment


def _frame(lake: LakeReader, uri: str, step: int) -> NDArray[np.uint8]:
    (ref,) = list_videos([uri])
    probe = probe_video(ref)
    rate = Fraction(lake.feature_options["sample_fps"]).limit_denominator(100_000)
    (batch,) = decode_chunk(uri, probe, Chunk(0, step, step + 1, 0.0), rate, max(probe.width, probe.height), 1)
    return np.ascontiguousarray(batch.images[0])
