"""Tables from a lake: who was in which zone of the picture, who crossed which line, and who was expected to do so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.lake.forecasts import TrackForecasts, check_followed, forecaster_of, read_forecasts
from pipeline.lake.query import LakeReader
from pipeline.motion.places import Line, Zone, crossings, expected_crossing, visits
from pipeline.motion.trajectories import Trajectory, rows_by

_LEAST_CORNERS = 3
# Times are multiples of a step, except for rounding errors.
_EPSILON_S = 1e-6
_PERSON = [("video_id", pa.string()), ("uri", pa.string()), ("track_id", pa.int64())]
VISITS = pa.schema(
    [
        *_PERSON,
        ("zone", pa.string()),
        ("entered_s", pa.float64()),
        ("left_s", pa.float64()),
        ("dwell_s", pa.float64()),
        ("was_there", pa.bool_()),
        ("stays", pa.bool_()),
    ]
)
"""One row per stay of a person in a zone. `was_there`: the person was in it when first seen; `stays`: when last seen.
In both cases the true stay may be longer than `dwell_s`."""
CROSSINGS = pa.schema([*_PERSON, ("line", pa.string()), ("at_s", pa.float64()), ("direction", pa.string())])
"""One row per crossing of a line by a person, to its `right` or `left` as seen from its start to its end."""
EXPECTED = pa.schema(
    [
        *_PERSON,
        ("line", pa.string()),
        ("made_at_s", pa.float64()),
        ("in_s", pa.float64()),
        ("probability", pa.float64()),
        ("direction", pa.string()),
    ]
)
"""One row per expected crossing: a forecast made at `made_at_s` expects a person to cross a line `in_s` later."""


@dataclass(frozen=True)
class Places:
    """What happened at zones and lines."""

    visits: pa.Table
    crossings: pa.Table
    expected: pa.Table


def parse_zone(text: str) -> Zone:
    """Read `name=x1,y1,x2,y2,x3,y3...`.

    Raises:
        UsageError: The text is not a polygon.
    """
    name, corners = _parse(text, "--zone", "door=100,300,220,300,220,420,100,420")
    if len(corners) < _LEAST_CORNERS:
        raise UsageError(f"--zone {text}: {len(corners)} corners; a zone has at least {_LEAST_CORNERS}")
    return Zone(name, corners.astype(np.float32))


def parse_line(text: str) -> Line:
    """Read `name=x1,y1,x2,y2`.

    Raises:
        UsageError: The text is not a line.
    """
    name, ends = _parse(text, "--line", "gate=100,300,400,300")
    if len(ends) != 2 or np.array_equal(ends[0], ends[1]):
        raise UsageError(f"--line {text}: {len(ends)} points; a line has two that differ")
    return Line(name, ends[0], ends[1])


def _parse(text: str, option: str, example: str) -> tuple[str, NDArray[np.float64]]:
    name, _, numbers = text.partition("=")
    try:
        values = np.array([float(number) for number in numbers.split(",")])
    except ValueError:
        values = np.empty(0)
    if not name.strip() or not len(values) or len(values) % 2 or not np.isfinite(values).all():
        raise UsageError(f"{option} {text!r}: a name and pairs of pixels are wanted, such as {option} {example}")
    return name.strip(), values.reshape(-1, 2)


def watch(
    lake: LakeReader,
    zones: Sequence[Zone] = (),
    lines: Sequence[Line] = (),
    where: str | None = None,
    model: str | None = None,
) -> Places:
    """Return who was in some zones, who crossed some lines, and who was expected to cross them.

    The position of a person is that of the feet: the middle of the box's lower side.

    Args:
        lake: An open lake.
        zones: In source pixels.
        lines: In source pixels.
        where: A condition in SQL on the columns of `videos`; only matching ones are examined, such as one camera's.
        model: The forecaster of expected crossings. None: the only one in the lake, if there is one.

    Raises:
        UsageError: There is nothing to watch, two places share a name, there is no such forecaster, there are several
            and none is named, or the condition is not valid.
    """
    names = [zone.name for zone in zones] + [line.name for line in lines]
    if not names:
        raise UsageError("nothing to watch: name --zone or --line")
    if doubles := {name for name in names if names.count(name) > 1}:
        raise UsageError(f"{', '.join(sorted(doubles))}: several zones or lines of one name")
    check_followed(lake.store.uri, lake.feature_options)
    chosen = forecaster_of(lake, model) if lines or model is not None else None
    stays, crossed, expected = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for video in lake.videos_where(where):
        tracks = _paths(lake, video["video_id"])
        told = read_forecasts(lake, video["video_id"], chosen) if chosen is not None and lines else {}
        for track_id, path in tracks.items():
            time_s, feet, height = path.time_s, path.xy, path.size
            person = {"video_id": video["video_id"], "uri": video["uri"], "track_id": track_id}
            for zone in zones:
                for stay in visits(zone, time_s, feet, height):
                    dwell = {"zone": zone.name, "dwell_s": stay.left_s - stay.entered_s}
                    stays.append(person | dwell | stay._asdict())
            for line in lines:
                crossed += [
                    person | {"line": line.name} | each._asdict() for each in crossings(line, time_s, feet, height)
                ]
                foretold = _expected(line, told[track_id], time_s, feet) if track_id in told else ()
                expected += [person | {"line": line.name} | each for each in foretold]
    return Places(
        pa.Table.from_pylist(stays, VISITS),
        pa.Table.from_pylist(crossed, CROSSINGS),
        pa.Table.from_pylist(expected, EXPECTED),
    )


def write_places(found: Places, folder: str | Path) -> None:
    """Write the tables as `visits.csv`, `crossings.csv` and `expected.csv`.

    Raises:
        UsageError: The folder can't be written to.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, table in vars(found).items():
            pacsv.write_csv(table, target / f"{name}.csv")
    except OSError as error:
        raise UsageError(f"{target}: can't be written to ({error.strerror or error})") from error


def _expected(
    line: Line, told: TrackForecasts, time_s: NDArray[np.float64], feet: NDArray[np.float64]
) -> Iterator[dict[str, Any]]:
    """Yield the crossings of a line that the forecasts of one person expect."""
    for number, made_at_s in enumerate(told.made_at_s.tolist()):
        now = feet[max(0, int(np.searchsorted(time_s, made_at_s + _EPSILON_S, side="right")) - 1)]
        of_one = told.horizon_s, told.mean[number], told.deviation[number], told.rho[number]
        crossing = expected_crossing(line, now, *of_one)
        if crossing is not None:
            yield {"made_at_s": made_at_s} | crossing._asdict()


def _paths(lake: LakeReader, video_id: str) -> dict[int, Trajectory]:
    """Return the path of the feet of each track of a video."""
    columns = ["track_id", "pts_s", "x1", "y1", "x2", "y2"]
    found = lake.rows_of("detections", video_id, columns, pc.field("track_id").is_valid())
    found = found.sort_by([("track_id", "ascending"), ("pts_s", "ascending")])
    rows = {name: found[name].to_numpy() for name in columns}
    xyxy = np.column_stack([rows[name] for name in columns[2:]]).astype(np.float32)
    return {
        int(rows["track_id"][part[0]]): Trajectory.of_boxes(rows["pts_s"][part], xyxy[part])
        for part in rows_by(rows["track_id"])
    }
