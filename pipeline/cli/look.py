"""Commands that analyze videos and show a lake: `analyze`, `info`, `picture`. `config` shows the options."""

from __future__ import annotations

import ast
import inspect
import itertools
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.common import (
    EXIT_FAILED_VIDEOS,
    LOOK,
    Address,
    ConfigFile,
    Detector,
    Device,
    Embedder,
    Engine,
    EngineName,
    Labels,
    LakeUri,
    MostNovel,
    Precision,
    SampleFps,
    Verbose,
    WantedScope,
    Workers,
    app,
    console,
    log_to_console,
    out,
    split_list,
)
from pipeline.cli.tables import closing_table, info_table
from pipeline.cli.terminal import ProgressDisplay, plain, warn_of_moving_cameras
from pipeline.config import Config, groups_of_options
from pipeline.engine.fork_server import fork_server
from pipeline.options import to_toml

_DetectorPx = Annotated[
    int | None,
    typer.Option(
        help="Longest side of the detector's input, in pixels. A larger input finds smaller people.",
        show_default="480 for person_pose",
    ),
]
_Classes = Annotated[
    str | None, typer.Option(help="Detector classes to track, separated by commas.", show_default="person")
]
_Track = Annotated[
    int | None,
    typer.Option(help="Video track to read, counted from 0.", show_default="the largest one"),
]
_NameTime = Annotated[
    str | None,
    typer.Option(
        help="Pattern of recording times in paths: %Y%m%d_%H%M%S, * for anything.", show_default="common patterns"
    ),
]
_TimeZone = Annotated[
    str | None, typer.Option(help="Time zone of recording times without one: Europe/Zurich.", show_default="UTC")
]
_Camera = Annotated[
    str | None,
    typer.Option(help="Pattern of camera names in paths: */NVR_{camera}_main_*.", show_default="the folder's name"),
]


@app.command(rich_help_panel=LOOK)
def analyze(
    sources: Annotated[list[str], typer.Argument(help="Videos: files, folders, globs or manifests, local or remote.")],
    lake: LakeUri,
    model: Annotated[str, typer.Option(help="Folder of a model bundle. none: features without labels.")] = "default",
    detector: Detector = None,
    detector_px: _DetectorPx = None,
    classes: _Classes = None,
    scope: WantedScope = None,
    sample_fps: SampleFps = None,
    config_file: ConfigFile = None,
    embedder: Embedder = None,
    forecaster: Annotated[
        str | None,
        typer.Option(help="Forecaster of paths to run, too: walkers-lstm, or a folder.", show_default="none"),
    ] = None,
    track: _Track = None,
    name_time: _NameTime = None,
    time_zone: _TimeZone = None,
    camera: _Camera = None,
    labels: Labels = None,
    most_novel: MostNovel = None,
    engine: Engine = EngineName.auto,
    layout: Annotated[str | None, typer.Option(help="Layout of workers on Ray: auto, fused or split.")] = None,
    workers: Workers = None,
    device: Device = None,
    precision: Precision = None,
    address: Address = None,
    refuse_pickle: Annotated[
        bool, typer.Option("--refuse-pickle", help="Refuse detection weights that run code when they are loaded.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if any video failed.")] = False,
    verbose: Verbose = False,
) -> None:
    """Label the activities in videos and write them to a lake. After an interruption, the same command resumes."""
    if engine is not EngineName.ray and not address and "RAY_ADDRESS" not in os.environ:
        # It starts before this process imports its own modules, so that both import at the same time.
        fork_server()
    from pipeline.activity.bundle import Bundle, load_bundle
    from pipeline.engine.analyze import analyze as run
    from pipeline.engine.models import NAMES, choose_models, config_for

    log_to_console(verbose)
    named: dict[str, Any] = {
        "scope": scope.value if scope else None, "detector": detector, "detector_px": detector_px,
        "classes": split_list(classes), "sample_fps": sample_fps, "embedder": embedder, "track": track,
        "name_time": name_time, "time_zone": time_zone, "camera": camera, "labels": split_list(labels),
        "most_novel": most_novel,
        "layout": layout, "workers": workers, "device": device, "precision": precision,
        "pickled_weights": "refuse" if refuse_pickle else None,
    }  # fmt: skip
    chosen = model if model in NAMES else load_bundle(model)
    defaults = {"scope": chosen.scope} if isinstance(chosen, Bundle) else {}
    so_far = Config.load(config_file, defaults, **named)
    bundles = choose_models(chosen, so_far.scope, so_far)
    options = Config.load(config_file, defaults | config_for(bundles), **named)
    with ProgressDisplay(console) as display:
        state = run(sources, lake, chosen, options, address, display.update, engine.value, forecaster)
    closing_table(out, state)
    if forecaster is not None:
        from pipeline.lake.query import open_lake

        warn_of_moving_cameras(console, open_lake(lake))
    if strict and state.n_failed + state.n_partial:
        raise typer.Exit(EXIT_FAILED_VIDEOS)


@app.command(rich_help_panel=LOOK)
def info(lake: LakeUri) -> None:
    """Show what a lake holds and how its features were made."""
    from pipeline.lake.query import open_lake
    from pipeline.lake.store import Lake

    info_table(out, open_lake(lake), Lake(lake))


@app.command(rich_help_panel=LOOK)
def picture(
    lake: LakeUri,
    out_file: Annotated[Path, typer.Option("--out", help="Picture to write: .png or .jpg.")],
    video: Annotated[str | None, typer.Option(help="Part of the video's path.", show_default="any video")] = None,
    at_s: Annotated[
        float | None, typer.Option("--at", help="Seconds into the video.", show_default="most people labelled")
    ] = None,
) -> None:
    """Draw one frame with the bounding boxes, ids and labels of all people in it."""
    from pipeline.lake.query import open_lake
    from pipeline.report.picture import draw_moment

    moment = draw_moment(open_lake(lake), out_file, video, at_s)
    out.print(
        f"{plain(str(out_file))}: {len(moment.people)} followed at {moment.pts_s:.2f} s of {plain(moment.uri)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@app.command(rich_help_panel=LOOK)
def config(config_file: ConfigFile = None) -> None:
    """Print all options as a TOML file, with their values and explanations."""
    chosen = Config.load(config_file)
    sys.stdout.write(to_toml(asdict(chosen), groups_of_options(), _said_of_options()))


def _said_of_options() -> dict[str, str]:
    """Return the docstring of each option, read from the source of `Config`."""
    (record,) = ast.parse(inspect.getsource(Config)).body
    assert isinstance(record, ast.ClassDef)
    said = {}
    for option, text in itertools.pairwise(record.body):
        if isinstance(option, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(option.target, ast.Name)
            said[option.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return said
