"""Training trajectories: text files of ETH/UCY and of MOT, and the tracks of lakes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.bounded import LABELS_BYTES, read_bounded
from pipeline.errors import UsageError
from pipeline.lake.forecasts import moving_cameras
from pipeline.lake.query import LakeReader, open_lake
from pipeline.lake.store import Lake
from pipeline.motion.forecaster_bundle import HEIGHTS, METRES
from pipeline.motion.ground import Ground
from pipeline.motion.trajectories import Trajectory, rows_by

log = logging.getLogger(__name__)

# A line with a box has at least these columns: frame, id, left, top, width, height.
_MOT_COLUMNS = 6
_PLACE_COLUMNS = 4


@dataclass(frozen=True)
class SceneTracks:
    """The trajectories of one file, or of one video of a lake. They share a clock and a place."""

    name: str
    trajectories: Sequence[Trajectory]
    unit: str
    """`METRES` or `HEIGHTS`: the unit of a length after it is divided by the trajectory's size."""


def read_scenes(source: str | Path, fps: float = 25.0, ground: Ground | None = None) -> Iterator[SceneTracks]:
    """Yield the scenes of a source.

    Args:
        source: A text file with a line for each person and frame, or a lake. Lines of four columns are in ETH/UCY's
            format: frame, person, x and y in metres. Lines of six or more are in MOT's: frame, person, left, top, width
            and height of the box in pixels. A 0 in a seventh column marks a line that does not count.
        fps: Frames per second of a text file.
        ground: The ground that boxes stand on. None: boxes are measured in heights of the person.

    Raises:
        UsageError: There is no such source, or one of its lines is invalid; the message names the line.
    """
    path = Path(source).expanduser()
    if path.is_file():
        yield _read_text(path, fps, ground)
    elif Lake(str(source)).exists():
        lake = open_lake(str(source))
        if moving := moving_cameras(lake):
            log.warning("%s: %s", source, moving)
        yield from _of_lake(lake, ground)
    else:
        raise UsageError(f"{source}: no file of tracks, and no lake")


def _read_text(path: Path, fps: float, ground: Ground | None) -> SceneTracks:
    try:
        lines = read_bounded(path, LABELS_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: can't be read as text ({error})") from error
    rows, width = [], 0
    for number, line in enumerate(lines, 1):
        cells = line.replace(",", " ").split()
        if not cells:
            continue
        try:
            values = [float(cell) for cell in cells]
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}") from error
        width = width or len(values)
        is_known = len(values) == _PLACE_COLUMNS or len(values) >= _MOT_COLUMNS
        if len(values) != width or not is_known or not np.isfinite(values).all():
            raise UsageError(
                f"{path}, line {number}: {len(values)} columns; wanted are frame, person, x, y in all lines, or frame, "
                "person, left, top, width, height"
            )
        rows.append(values)
    if not rows:
        raise UsageError(f"{path}: no tracks in it")
    table = np.array(rows)
    if width > _MOT_COLUMNS:
        table = table[table[:, 6] != 0]
    is_boxes = width != _PLACE_COLUMNS
    if ground is not None and not is_boxes:
        raise UsageError(f"{path}: its places are in metres already; --ground is for boxes")
    trajectories = []
    for person, seen in _by_person(table[:, 1], table[:, 0]):
        of_one = table[seen]
        if (np.diff(of_one[:, 0]) == 0).any():
            raise UsageError(f"{path}: person {person:g} is twice in one frame")
        time_s = of_one[:, 0] / fps
        if is_boxes:
            xyxy = np.hstack([of_one[:, 2:4], of_one[:, 2:4] + of_one[:, 4:6]]).astype(np.float32)
            trajectories.append(Trajectory.of_boxes(time_s, xyxy, ground))
        else:
            trajectories.append(Trajectory(time_s, of_one[:, 2:4], np.ones(len(of_one))))
    return SceneTracks(path.name, trajectories, HEIGHTS if is_boxes and ground is None else METRES)


def _by_person(person: NDArray[np.float64], time: NDArray[np.float64]) -> Iterator[tuple[float, NDArray[np.int64]]]:
    """Yield each person and the rows of the person's track, in order of time."""
    by_time = np.argsort(time, kind="stable")
    for rows in rows_by(person[by_time]):
        yield float(person[by_time[rows[0]]]), by_time[rows]


def _of_lake(lake: LakeReader, ground: Ground | None) -> Iterator[SceneTracks]:
    columns = ["track_id", "pts_s", "x1", "y1", "x2", "y2"]
    for video in lake.table("videos", ["video_id", "uri"]).to_pylist():
        rows = lake.rows_of("detections", video["video_id"], columns, pc.field("track_id").is_valid())
        column = {name: rows[name].to_numpy() for name in columns}
        xyxy = np.column_stack([column[name] for name in columns[2:]]).astype(np.float32)
        tracks = [
            Trajectory.of_boxes(column["pts_s"][seen], xyxy[seen], ground)
            for _, seen in _by_person(column["track_id"].astype(np.float64), column["pts_s"])
        ]
        yield SceneTracks(video["uri"], tracks, METRES if ground is not None else HEIGHTS)
