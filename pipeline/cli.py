"""The command `actionlake`: parse, call, show, exit."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline import cli_cluster, cli_learning, cli_measuring
from pipeline.cli_common import (
    ASK,
    KEEP,
    LOOK,
    TEACH,
    Address,
    ConfigFile,
    Device,
    Embedder,
    Engine,
    EngineName,
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
from pipeline.config import Config
from pipeline.errors import ActionlakeError, Interrupted, UsageError
from pipeline.terminal import ProgressDisplay, closing_table, plain

__all__ = ["app", "cli_cluster", "cli_learning", "cli_measuring", "main"]

EXIT_JOB_ERROR = 1
EXIT_USAGE = 2
EXIT_FAILED_VIDEOS = 3


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


@app.command(rich_help_panel=LOOK)
def analyze(
    sources: Annotated[list[str], typer.Argument(help="Files, folders, globs or manifests, local or remote.")],
    lake: Annotated[str, typer.Option(help="Folder or bucket prefix of the results.")],
    model: Annotated[str, typer.Option(help="Folder of a model bundle; none: no labels, features alone.")] = "default",
    detector: Annotated[
        str | None,
        typer.Option(help="Ultralytics detection weights, or a detector bundle.", show_default="person_nano"),
    ] = None,
    detector_px: Annotated[
        int | None,
        typer.Option(help="Longest side of its input: more finds smaller people.", show_default="what it learnt at"),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Classes of the detector to follow, separated by commas.", show_default="person")
    ] = None,
    scope: WantedScope = None,
    sample_fps: SampleFps = None,
    config_file: ConfigFile = None,
    embedder: Embedder = None,
    track: Annotated[
        int | None,
        typer.Option(help="Video track to read, counted from 0.", show_default="the largest that is no picture"),
    ] = None,
    name_time: Annotated[
        str | None,
        typer.Option(
            help="How paths tell when a file was recorded: %Y%m%d_%H%M%S, * for anything.",
            show_default="usual spellings",
        ),
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="Zone of times that do not tell theirs: Europe/Zurich.", show_default="UTC")
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(help="How paths tell the camera: */NVR_{camera}_main_*.", show_default="the folder's name"),
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Write only these activities, separated by commas.")] = None,
    engine: Engine = EngineName.auto,
    layout: Annotated[str | None, typer.Option(help="Of workers on Ray: auto, fused or split.")] = None,
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
    """Decode, embed and label videos into a lake. The same command again takes up where it was cut off."""
    from pipeline.activity.bundle import Bundle, load_bundle
    from pipeline.engine.analyze import analyze as run
    from pipeline.engine.models import NAMES, choose_models, config_for

    log_to_console(verbose)
    named: dict[str, Any] = {
        "scope": scope.value if scope else None,
        "detector": detector,
        "detector_px": detector_px,
        "classes": split_list(classes),
        "sample_fps": sample_fps,
        "embedder": embedder,
        "track": track,
        "name_time": name_time,
        "time_zone": time_zone,
        "camera": camera,
        "labels": split_list(labels),
        "layout": layout,
        "workers": workers,
        "device": device,
        "precision": precision,
        "pickled_weights": "refuse" if refuse_pickle else None,
    }
    chosen = model if model in NAMES else load_bundle(model)
    defaults = {"scope": chosen.scope} if isinstance(chosen, Bundle) else {}
    bundles = choose_models(chosen, Config.load(config_file, defaults, **named).scope)
    config = Config.load(config_file, defaults | config_for(bundles), **named)
    with ProgressDisplay(console) as display:
        state = run(sources, lake, chosen, config, address, display.update, engine.value)
    closing_table(out, state)
    if strict and state.n_failed + state.n_partial:
        raise typer.Exit(EXIT_FAILED_VIDEOS)


@app.command(rich_help_panel=TEACH)
def classify(
    lake: Annotated[str, typer.Argument(help="A lake that holds features.")],
    model: Annotated[str, typer.Option(help="Folder of a model bundle, or the name of a bundled one.")],
    labels: Annotated[str | None, typer.Option(help="Write only these activities, separated by commas.")] = None,
    min_track_s: Annotated[float | None, typer.Option(help="A shorter track gives no segment.")] = None,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Label a lake with another model, from its features: nothing is decoded, other models' segments stay."""
    from pipeline.engine.relabel import ClassifyState
    from pipeline.engine.relabel import classify as run

    log_to_console(verbose)
    started = time.monotonic()

    def show(state: ClassifyState) -> None:
        console.print(f"{state.model}: {state.n_done} of {state.n_shards} shards labelled", highlight=False)

    state = run(lake, model, tuple(split_list(labels) or ()), min_track_s, address, show)
    if not state.n_videos:
        out.print(f"all of it was labelled by {state.model} before", highlight=False)
        return
    table = Table(title=f"new segments by {state.model}")
    table.add_column("label")
    table.add_column("segments", justify="right")
    for label, n in state.label_n.most_common():
        table.add_row(plain(label), str(n))
    out.print(table)
    out.print(f"{state.n_videos} videos labelled in {time.monotonic() - started:.1f} s", highlight=False)
    for message in state.failures:
        console.print(f"[yellow]not labelled:[/] {plain(message)}", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=ASK)
def export(
    lake: Annotated[str, typer.Argument(help="A labelled lake.")],
    out_path: Annotated[Path, typer.Option("--out", help="A file; a folder for vtt.")],
    export_format: Annotated[str, typer.Option("--format", help="activitynet, csv or vtt.")],
    model: Annotated[str | None, typer.Option(help="Whose segments.", show_default="the only model's")] = None,
) -> None:
    """Write a model's segments for other tools: ActivityNet's results JSON, CSV, or WebVTT subtitles."""
    from pipeline.lake.query import open_lake
    from pipeline.report.exports import export_segments

    n_segments = export_segments(open_lake(lake), out_path, export_format, model)
    out.print(f"{plain(str(out_path))}: {n_segments} segments", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=ASK)
def query(
    lake: Annotated[str, typer.Argument(help="The lake.")],
    sql: Annotated[
        str, typer.Argument(help="One SELECT over videos, segments, detections, tracks, features, failures.")
    ],
    output_format: Annotated[Format, typer.Option("--format", help="How to write the answer.")] = Format.table,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Break it off after so many seconds.")] = 300.0,
    memory_gb: Annotated[float, typer.Option(help="Most memory that it may use, and its answer may hold.")] = 4.0,
) -> None:
    """Ask a lake a question in SQL (DuckDB). It only reads, and reaches no other files, nor the network."""
    from pipeline.lake.query import open_lake

    answer = open_lake(lake).sql(sql, timeout_s, memory_gb)
    if output_format is Format.table:
        table = Table()
        for name in answer.column_names:
            table.add_column(name)
        for row in zip(*(column.to_pylist() for column in answer.columns), strict=True):
            table.add_row(*(_cell(value) for value in row))
        out.print(table)
    elif output_format is Format.csv:
        import pyarrow.csv

        try:
            pyarrow.csv.write_csv(answer, sys.stdout.buffer)
        except pyarrow.ArrowException as error:
            raise UsageError(f"--format csv can't hold lists ({error}); leave such columns out, or use json") from error
    elif output_format is Format.json:
        sys.stdout.write(json.dumps(answer.to_pylist(), default=str, indent=1) + "\n")
    else:
        import pyarrow.parquet

        if sys.stdout.isatty():
            raise UsageError("--format parquet is binary; send it to a file with > answer.parquet")
        pyarrow.parquet.write_table(answer, sys.stdout.buffer)


@app.command(rich_help_panel=LOOK)
def picture(
    lake: Annotated[str, typer.Argument(help="The lake.")],
    out_file: Annotated[Path, typer.Option("--out", help="The picture: .png or .jpg.")],
    video: Annotated[str | None, typer.Option(help="Part of the wanted video's path.", show_default="any")] = None,
    at_s: Annotated[
        float | None, typer.Option("--at", help="Seconds into the video.", show_default="most people labelled")
    ] = None,
) -> None:
    """Draw one frame with the boxes, ids and labels of everybody in it."""
    from pipeline.lake.query import open_lake
    from pipeline.report.picture import draw_moment

    moment = draw_moment(open_lake(lake), out_file, video, at_s)
    out.print(
        f"{plain(str(out_file))}: {len(moment.boxes)} followed at {moment.pts_s:.2f} s of {plain(moment.uri)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@app.command(rich_help_panel=KEEP)
def verify(
    lake: Annotated[str, typer.Argument(help="The lake.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Take out what is damaged, so that `analyze` makes it again.")
    ] = False,
) -> None:
    """Check all that a lake promises: parts, checksums, counts, order, overlaps. Exit 1 if anything is wrong."""
    from pipeline.lake.lease import leased
    from pipeline.lake.store import Lake
    from pipeline.lake.verify import verify as check

    store = Lake(lake)
    store.features_made_with()
    with leased(store, "verify --repair") if repair else nullcontext():
        problems = check(store, repair)
    for problem in problems:
        done = f": {problem.way_out}" if repair else ""
        out.print(f"{plain(problem.where)}: {plain(problem.message)}{done}", highlight=False, soft_wrap=True)
    shards = len(store.committed())
    if not problems:
        out.print(f"{plain(store.uri)}: nothing wrong in {shards} committed shards", highlight=False, soft_wrap=True)
    elif not repair:
        out.print(f"{len(problems)} problems; --repair takes out what is damaged", highlight=False)
        raise typer.Exit(EXIT_JOB_ERROR)


@app.command(rich_help_panel=KEEP)
def compact(
    lake: Annotated[str, typer.Argument(help="The lake.")],
    shard_videos: Annotated[
        int, typer.Option(help="A merged shard holds at most so many videos ...")
    ] = Config.shard_videos,
    shard_hours: Annotated[float, typer.Option(help="... and so many hours.")] = Config.shard_hours,
) -> None:
    """Merge small shards into larger ones: fewer and larger files, the same rows."""
    from pipeline.lake.compact import compact as merge
    from pipeline.lake.lease import leased
    from pipeline.lake.store import Lake

    store = Lake(lake)
    store.features_made_with()
    with leased(store, "compact"):
        before, after = merge(store, shard_videos, shard_hours)
    out.print(f"{plain(store.uri)}: {before} shards before, {after} now", highlight=False, soft_wrap=True)


@app.command(rich_help_panel=LOOK)
def info(lake: Annotated[str, typer.Argument(help="The lake.")]) -> None:
    """Show what a lake holds and how its features were made."""
    from pipeline.lake.query import open_lake
    from pipeline.lake.store import Lake

    reader = open_lake(lake)
    store = Lake(lake)
    counts = reader.sql(
        "SELECT count(*) AS videos, coalesce(sum(covered_s), 0) / 3600 AS hours,"
        " count(*) FILTER (status = 'partial') AS partial, count(*) FILTER (status = 'failed') AS failed FROM videos"
    ).to_pylist()[0]
    open_shards = len(store.planned()) - len(store.committed())
    table = Table(title=f"lake {lake}", show_header=False)
    table.add_row("videos", f"{counts['videos']} ({counts['partial']} partial, {counts['failed']} failed)")
    table.add_row("hours covered", f"{counts['hours']:.2f}")
    table.add_row("shards", f"{len(store.committed())} committed, {open_shards} open")
    for name in ("segments", "detections", "features", "failures"):
        table.add_row(name, str(reader.dataset(name).count_rows()))
    table.add_row("models", ", ".join(store.models()) or "none")
    table.add_row("features made with", ", ".join(f"{k} = {v}" for k, v in sorted(reader.feature_options.items())))
    out.print(table)


def main() -> None:
    """Run the command; a user's mistake gets one line, not a traceback."""
    try:
        app()
    except UsageError as error:
        console.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(EXIT_USAGE)
    except ActionlakeError as error:
        console.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(EXIT_JOB_ERROR)
    except OSError as error:
        console.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(EXIT_JOB_ERROR)
    except Interrupted as error:
        console.print("interrupted; what is finished is kept, the same command goes on from there", highlight=False)
        sys.exit(128 + error.signum)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else plain(str(value))


if __name__ == "__main__":
    main()
