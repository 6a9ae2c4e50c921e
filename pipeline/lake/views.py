"""Views that a connection to a lake has beside its tables, in SQL."""

from __future__ import annotations

from pipeline.vision.keypoints import KEYPOINTS

# On the clock of the cameras, in UTC; without zone, so that every client shows the same.
_TIMELINE = """
    CREATE VIEW timeline AS
    SELECT camera,
        make_timestamp(epoch_us(recorded_at) + CAST(round(start_s * 1000000) AS BIGINT)) AS start_at,
        make_timestamp(epoch_us(recorded_at) + CAST(round(end_s * 1000000) AS BIGINT)) AS end_at,
        segments.*
    FROM segments JOIN videos USING (video_id)
"""
# A track is the boxes that share an id; what is wanted to be known of it follows from them.
_TRACKS = """
    CREATE VIEW tracks AS
    SELECT video_id, track_id, any_value(label) AS label, min(pts_s) AS start_s, max(pts_s) AS end_s,
        count(*) AS n_boxes, avg(score) AS score, avg(x1) AS x1, avg(y1) AS y1, avg(x2) AS x2, avg(y2) AS y2
    FROM detections WHERE track_id IS NOT NULL GROUP BY video_id, track_id
"""


# Weights with other keypoints than COCO's give them by number.
_POSES = f"""
    CREATE VIEW poses AS
    SELECT video_id, frame_index, pts_s, track_id,
        CASE WHEN len(keypoints) = {len(KEYPOINTS)} THEN {list(KEYPOINTS)}[number] ELSE CAST(number AS VARCHAR) END
            AS keypoint,
        keypoints[number][1] AS x, keypoints[number][2] AS y, keypoints[number][3] AS score
    FROM (SELECT *, unnest(range(1, len(keypoints) + 1)) AS number FROM detections WHERE keypoints IS NOT NULL)
"""

VIEWS = (_TRACKS, _POSES, _TIMELINE)
"""What makes them, in order."""
