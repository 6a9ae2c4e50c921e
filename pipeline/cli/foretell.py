"""Commands for forecasts of paths, and for zones and lines: `forecast`, `watch`, `train-forecaster`."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import ASK, LOOK, TEACH, Address, LakeUri, Verbose, app, console, log_to_console, out
from pipeline.cli.tables import forecaster_table, places_tables
from pipeline.cli.terminal import plain, warn_of_moving_cameras

_Ground = Annotated[
    Path | None, typer.Option(help="File of the camera's 3 x 3 homography, from pixels to metres on the ground.")
]


class Kind(StrEnum):
    """Kinds of forecasters."""

    lstm = "lstm"
    gru = "gru"
    transformer = "transformer"
    constant_velocity = "constant_velocity"
    still = "still"


@app.command(rich_help_panel=LOOK)
def forecast(
    lake: LakeUri,
    model: Annotated[str, typer.Option(help="Folder of a forecaster, or the name of a bundled one.")] = "walkers-lstm",
    horizon_s: Annotated[
        float | None, typer.Option("--horizon", help="Seconds to forecast ahead.", show_default="as trained")
    ] = None,
    every_s: Annotated[
        float | None, typer.Option("--every", help="Seconds between two forecasts.", show_default="one step")
    ] = None,
    ground: _Ground = None,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Forecast the paths of the people in a lake, from their bounding boxes. It decodes no video."""
    from pipeline.engine.forecast import ForecastState
    from pipeline.engine.forecast import forecast as run
    from pipeline.lake.query import open_lake
    from pipeline.steps.foretell import ForetellOptions

    log_to_console(verbose)
    started = time.monotonic()

    def show(state: ForecastState) -> None:
        console.print(f"{state.model}: {state.n_done} of {state.n_shards} shards foretold", highlight=False)

    state = run(lake, model, ForetellOptions(horizon_s, every_s), ground, address, show)
    if not state.n_videos:
        out.print(f"{plain(state.model)} has made all forecasts of this lake before", highlight=False)
        return
    out.print(
        f"{state.n_forecasts} forecasts of {state.n_videos} videos in {time.monotonic() - started:.1f} s",
        highlight=False,
    )
    warn_of_moving_cameras(console, open_lake(lake))
    for message in state.failures:
        console.print(f"[yellow]not foretold:[/] {plain(message)}", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=ASK)
def watch(
    lake: LakeUri,
    zone: Annotated[
        list[str] | None, typer.Option(help="Zone: name=x1,y1,x2,y2,x3,y3..., corners in pixels. May be repeated.")
    ] = None,
    line: Annotated[
        list[str] | None, typer.Option(help="Line: name=x1,y1,x2,y2, ends in pixels. May be repeated.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="Videos that meet a condition in SQL: \"camera = 'door'\".", show_default="all")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Forecaster that tells who will cross a line.", show_default="the only one")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Folder for visits.csv, crossings.csv, expected.csv.")
    ] = None,
) -> None:
    """Show who was in each zone and for how long, who crossed each line, and who was expected to cross it."""
    from pipeline.lake.places import parse_line, parse_zone, watch, write_places
    from pipeline.lake.query import open_lake

    zones, lines = [parse_zone(text) for text in zone or ()], [parse_line(text) for text in line or ()]
    reader = open_lake(lake)
    found = watch(reader, zones, lines, where, model)
    places_tables(out, found, [each.name for each in zones], [each.name for each in lines])
    warn_of_moving_cameras(console, reader, where)
    if out_folder is not None:
        write_places(found, out_folder)
        out.print(f"{plain(str(out_folder))}: visits.csv, crossings.csv, expected.csv", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=TEACH)
def train_forecaster(
    tracks: Annotated[
        list[str], typer.Argument(help="Lakes, or text files: frame, person, x, y in metres, or boxes in MOT format.")
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the bundle; its name is the forecaster's.")],
    test: Annotated[
        list[str] | None, typer.Option(help="Source to measure on.", show_default="the last fifth of each")
    ] = None,
    kind: Annotated[Kind, typer.Option(help="Kind of forecaster.")] = Kind.lstm,
    observed: Annotated[int, typer.Option(help="Past steps that the forecaster sees.", min=2)] = 8,
    ahead: Annotated[int, typer.Option(help="Future steps that it forecasts.", min=1)] = 12,
    step_s: Annotated[float, typer.Option("--step", help="Seconds from one step to the next.", min=0.01)] = 0.4,
    members: Annotated[int, typer.Option(help="Networks whose forecasts are combined.", min=1)] = 3,
    others: Annotated[int, typer.Option(help="Number of nearest other people that it sees.", min=0)] = 0,
    fps: Annotated[float, typer.Option(help="Frames per second of text files.", min=0.01)] = 25.0,
    ground: _Ground = None,
    cameras: Annotated[
        int,
        typer.Option(help="Simulated cameras per source in metres, to train a forecaster for pictures.", min=0),
    ] = 0,
    epochs: Annotated[int | None, typer.Option(help="Passes over the tracks.", min=1)] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Largest noise on the past places, in metres or heights.", show_default="0.12"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and augmentation.")] = 0,
    note: Annotated[str, typer.Option(help="Origin and licence of the data, for the model card.")] = "",
    trainers: Annotated[
        int | None, typer.Option(help="Ray workers that train each network together.", show_default="none")
    ] = None,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Train a forecaster of paths on tracks, and compare it with simple baselines."""
    from pipeline.engine.train_forecaster import TrackOptions
    from pipeline.engine.train_forecaster import train_forecaster as run
    from pipeline.motion.forecasting import ForecasterSpec
    from pipeline.training.forecast_fit import ForecastOptions

    log_to_console(verbose)
    spec = ForecasterSpec(kind.value, observed, ahead, step_s, n_others=others, n_members=members)
    options = ForecastOptions(seed=seed)
    options = options if epochs is None else replace(options, epochs=epochs)
    options = options if noise is None else replace(options, noise=noise)

    def show(network: str, epoch: int, loss: float) -> None:
        console.print(f"{network}: epoch {epoch} of {options.epochs}, loss {loss:.3f}", highlight=False)

    reading = TrackOptions(fps, ground, cameras)
    result = run(tracks, out_folder, spec, options, reading, test or (), note, trainers, address, show)
    forecaster_table(out, result.bundle)
    out.print(plain(str(result.folder)), highlight=False, soft_wrap=True)
