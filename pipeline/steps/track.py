"""Follow people through a video: the boxes of its frames get track ids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Config
from pipeline.lake.sequences import VideoRows
from pipeline.motion.tracking import NO_TRACK, TrackOptions, track_video


def track(rows: VideoRows, fps: float | None, config: Config) -> NDArray[np.int64]:
    """Return the track of every box of a video, `int64 [N]`; `NO_TRACK` where a box belongs to none.

    Args:
        rows: The video's features, with its boxes in order of time.
        fps: The video's own frame rate, if it is known.
        config: The job's configuration.
    """
    if not len(rows.boxes.score):
        return np.full(0, NO_TRACK, np.int64)
    options = TrackOptions(config.track_score, config.track_gap_s)
    return np.concatenate(list(track_video(rows.frames_of_boxes(), config.frame_rate(fps), options)))


def no_tracks(rows: VideoRows) -> NDArray[np.int64]:
    """Return `NO_TRACK` for every box of a video."""
    return np.full(len(rows.boxes.score), NO_TRACK, np.int64)
