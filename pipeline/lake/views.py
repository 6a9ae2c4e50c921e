"""The views, in SQL, that a connection to a lake has in addition to the tables."""

from __future__ import annotations

from pipeline.vision.keypoints import KEYPOINTS

# Times of recording in UTC. The type has no time zone, so that every client shows the same.
_TIMELINE = """
    CREATE VIEW timeline AS
    SELECT camera,
        make_timestamp(epoch_us(recorded_at) + CAST(round(start_s * 1000000) AS BIGINT)) AS start_at,
        make_timestamp(epoch_us(recorded_at) + CAST(round(end_s * 1000000) AS BIGINT)) AS end_at,
        segments.*
    FROM segments JOIN videos USING (video_id)
"""
# A track is the set of boxes that share an id. All of its columns follow from these boxes.
_TRACKS = """
    CREATE VIEW tracks AS
    SELECT video_id, track_id, any_value(label) AS label, min(pts_s) AS start_s, max(pts_s) AS end_s,
        count(*) AS n_boxes, avg(score) AS score, avg(x1) AS x1, avg(y1) AS y1, avg(x2) AS x2, avg(y2) AS y2
    FROM detections WHERE track_id IS NOT NULL GROUP BY video_id, track_id
"""


# If the weights have other keypoints than COCO's, a keypoint is named by its number.
_POSES = f"""
    CREATE VIEW poses AS
    SELECT video_id, frame_index, pts_s, track_id,
        CASE WHEN len(keypoints) = {len(KEYPOINTS)} THEN {list(KEYPOINTS)}[number] ELSE CAST(number AS VARCHAR) END
            AS keypoint,
        keypoints[number][1] AS x, keypoints[number][2] AS y, keypoints[number][3] AS score
    FROM (SELECT *, unnest(range(1, len(keypoints) + 1)) AS number FROM detections WHERE keypoints IS NOT NULL)
"""

# The true position of the feet is interpolated between the views before and after, if these are near in time. The unit
# of the density is the person's height, so that near and far people, and cameras of all sizes, can be compared. Times
# are sums of steps, so differences in the last bits are ignored.
_SURPRISES = """
    CREATE VIEW surprises AS
    WITH
        told AS (SELECT *, made_at_s + horizon_s + 1e-6 AS at_s FROM forecasts),
        seen AS (
            SELECT video_id, track_id, pts_s, (x1 + x2) / 2 AS x, y2 AS y FROM detections WHERE track_id IS NOT NULL
        ),
        between AS (
            SELECT told.*, told.y2 - told.y1 AS height, before.x AS from_x, before.y AS from_y,
                after.x - before.x AS across, after.y - before.y AS down,
                CASE WHEN after.pts_s > before.pts_s
                    THEN (at_s - 1e-6 - before.pts_s) / (after.pts_s - before.pts_s) ELSE 0 END AS share
            FROM told
            ASOF JOIN seen AS before
            ON told.video_id = before.video_id AND told.track_id = before.track_id AND told.at_s >= before.pts_s
            ASOF JOIN (SELECT *, pts_s + 2e-6 AS until_s FROM seen) AS after
            ON told.video_id = after.video_id AND told.track_id = after.track_id AND told.at_s <= after.until_s
            WHERE after.pts_s - before.pts_s < 1
        ),
        apart AS (
            SELECT *, (from_x + share * across - x) / sx AS zx, (from_y + share * down - y) / sy AS zy FROM between
        ),
        measured AS (SELECT *, (zx * zx - 2 * rho * zx * zy + zy * zy) / (1 - rho * rho) AS squared FROM apart)
    SELECT video_id, track_id, model, made_at_s AS start_s, made_at_s + max(horizon_s) AS end_s, count(*) AS n_steps,
        avg(ln(height * height) - ln(2 * pi() * sx * sy * sqrt(1 - rho * rho)) - squared / 2) AS log_likelihood,
        sqrt(avg(squared) / 2) AS deviation
    FROM measured GROUP BY video_id, track_id, model, made_at_s
"""

VIEWS = (_TRACKS, _POSES, _TIMELINE, _SURPRISES)
"""The statements that create the views, in order."""
