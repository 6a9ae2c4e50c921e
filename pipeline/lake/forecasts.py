"""Read the forecasts of the people in a video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.lake.query import LakeReader
from pipeline.motion.trajectories import rows_by

# A camera that moves for more than this share of a video is not a fixed one.
_SHARE_MOVING = 0.3
_MOST_NAMED = 3


@dataclass(frozen=True)
class TrackForecasts:
    """The F forecasts of one track, in order of time, P steps ahead each; source pixels."""

    made_at_s: NDArray[np.float64]
    """`float64 [F]`"""
    horizon_s: NDArray[np.float64]
    """`float64 [P]`"""
    mean: NDArray[np.float64]
    """`float64 [F, P, 2]`: where the feet will be."""
    deviation: NDArray[np.float64]
    """`float64 [F, P, 2]`: standard deviations in x and y."""
    rho: NDArray[np.float64]
    """`float64 [F, P]`: their correlation."""

    def last_before(self, time_s: float, within_s: float) -> int | None:
        """Return the index of the last forecast made at or before a time; None if it is older than `within_s`."""
        number = int(np.searchsorted(self.made_at_s, time_s + 1e-6, side="right")) - 1
        return number if number >= 0 and time_s - self.made_at_s[number] <= within_s else None


def read_forecasts(
    lake: LakeReader, video_id: str, model: str, start_s: float = 0.0, end_s: float = float("inf")
) -> dict[int, TrackForecasts]:
    """Return the forecasts of a video that were made from `start_s` on and before `end_s`, by track."""
    columns = ["track_id", "made_at_s", "horizon_s", "x", "y", "sx", "sy", "rho"]
    made_then = (pc.field("made_at_s") >= start_s) & (pc.field("made_at_s") < end_s)
    found = lake.rows_of("forecasts", video_id, columns, (pc.field("model") == model) & made_then)
    found = found.sort_by([(name, "ascending") for name in columns[:3]])
    rows = {name: found[name].to_numpy().astype(np.float64) for name in columns}
    forecasts: dict[int, TrackForecasts] = {}
    n_ahead = len(np.unique(rows["horizon_s"]))
    for part in rows_by(rows["track_id"]):
        forecasts[int(rows["track_id"][part[0]])] = TrackForecasts(
            rows["made_at_s"][part[::n_ahead]],
            rows["horizon_s"][part[:n_ahead]],
            np.stack([rows["x"][part], rows["y"][part]], axis=-1).reshape(-1, n_ahead, 2),
            np.stack([rows["sx"][part], rows["sy"][part]], axis=-1).reshape(-1, n_ahead, 2),
            rows["rho"][part].reshape(-1, n_ahead),
        )
    return forecasts


def check_followed(uri: str, feature_options: Mapping[str, Any]) -> None:
    """Raise if nobody is followed in a lake whose features were made with these options.

    Raises:
        UsageError: Nobody is followed.
    """
    if feature_options["scope"] == "frame":
        raise UsageError(f"{uri}: of scope 'frame', nobody is followed in it; analyze with --scope person")


def moving_cameras(lake: LakeReader, where: str | None = None) -> str:
    """Return a message that names the videos in which the camera moves, as far as known; empty if there are none.

    Args:
        lake: An open lake.
        where: A condition in SQL on the columns of `videos`; only matching videos are examined.

    Raises:
        UsageError: `where` is not such a condition.
    """
    videos = lake.videos_where(where, ("uri", "covered_s", "camera_moved_s"))
    moving = [video["uri"] for video in videos if (video["camera_moved_s"] or 0.0) > _SHARE_MOVING * video["covered_s"]]
    if not moving:
        return ""
    named = ", ".join(moving[:_MOST_NAMED]) + (", ..." if len(moving) > _MOST_NAMED else "")
    return (
        f"the camera moves in {len(moving)} of {len(videos)} videos ({named}); there its motion is part of the paths "
        "of people, and so of forecasts, surprises, zones and lines"
    )


def forecaster_of(lake: LakeReader, name: str | None = None) -> str | None:
    """Return a forecaster that has forecasts in the lake; without a name, the only one, or None if there is none.

    Raises:
        UsageError: The named one has no forecasts, or there are several and none is named.
    """
    there = lake.store.models("forecasts")
    if name is not None and name not in there:
        raise UsageError(
            f"{lake.store.uri}: no forecasts by {name!r}, but by {', '.join(there) or 'nobody'}; run "
            f"`actionlake forecast --model {name}`"
        )
    if name is None and len(there) > 1:
        raise UsageError(f"{lake.store.uri}: forecasts by {', '.join(there)}; name one with --model")
    return name or (there[0] if there else None)
