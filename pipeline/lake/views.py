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

# Where the feet then were: the last box not after that time, if there was one just before. The density is that of
# heights of the person, so that near and far ones, and cameras of all sizes, can be compared.
_SURPRISES = """
    CREATE VIEW surprises AS
    SELECT video_id, track_id, model, made_at_s AS start_s, max(at_s) AS end_s, count(*) AS n_steps,
        avg(ln(height * height) - ln(2 * pi() * sx * sy * sqrt(1 - rho * rho)) - squared / 2) AS log_likelihood,
        sqrt(avg(squared) / 2) AS deviation
    FROM (
        SELECT *, (zx * zx - 2 * rho * zx * zy + zy * zy) / (1 - rho * rho) AS squared
        FROM (
            SELECT told.*, told.y2 - told.y1 AS height,
                ((seen.x1 + seen.x2) / 2 - told.x) / sx AS zx, (seen.y2 - told.y) / sy AS zy, seen.pts_s
            FROM (SELECT *, made_at_s + horizon_s AS at_s FROM forecasts) AS told
            ASOF JOIN (SELECT * FROM detections WHERE track_id IS NOT NULL) AS seen
            ON told.video_id = seen.video_id AND told.track_id = seen.track_id AND told.at_s >= seen.pts_s
        )
        WHERE at_s - pts_s < 0.2
    )
    GROUP BY video_id, track_id, model, made_at_s
"""

VIEWS = (_TRACKS, _POSES, _TIMELINE, _SURPRISES)
"""What makes them, in order."""
