"""The command `actionlake`: parse, call, show, exit."""

from __future__ import annotations

import json
import logging
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from pipeline.config import Config
from pipeline.errors import ActionlakeError, UsageError
from pipeline.terminal import ProgressDisplay, closing_table, evaluation_tables

EXIT_JOB_ERROR = 1
EXIT_USAGE = 2
EXIT_FAILED_VIDEOS = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From an archive of video to a queryable lake of labelled activity segments.",
)
console = Console(stderr=True)
out = Console()


class Scope(StrEnum):
    """What is labelled."""

    frame = "frame"
    person = "person"
    both = "both"


class Head(StrEnum):
    """What remembers the steps before."""

    lstm = "lstm"
    gru = "gru"
    transformer = "transformer"
    linear = "linear"
    majority = "majority"


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with options; the command line wins.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join; default: $RAY_ADDRESS, else this machine.")]
SampleFps = Annotated[
    float | None, typer.Option(help="Frames looked at per second of video.", show_default="the model's")
]
Embedder = Annotated[str | None, typer.Option(help="CNN: efficientnet_lite0, or a torchvision classifier.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str | None, typer.Option(help="auto, f32, bf16 or f16.")]
Workers = Annotated[int | None, typer.Option(help="Decoding actors.", show_default="one per CPU")]
_LABELS_HELP = (
    "Labels: CSV (video,start_s,end_s,label[,split]), folders of clips, or a file of ActivityNet, CVAT, VIA 3, "
    "Label Studio, ELAN or MS-TCN."
)
LabelsFormat = Annotated[
    str | None, typer.Option("--format", help="Format of the labels.", show_default="what they look like")
]
LabelMap = Annotated[
    Path | None, typer.Option("--map", help="CSV from,to: other names for labels; to may be background.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is decided on the way.")]


@app.command()
def analyze(
    sources: Annotated[list[str], typer.Argument(help="Files, folders, globs or manifests, local or remote.")],
    lake: Annotated[str, typer.Option(help="Folder or bucket prefix of the results.")],
    model: Annotated[str, typer.Option(help="Folder of a model bundle.")] = "default",
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
    scope: Annotated[
        Scope | None, typer.Option(help="Label people, whole frames, or both.", show_default="person")
    ] = None,
    sample_fps: SampleFps = None,
    config_file: ConfigFile = None,
    embedder: Embedder = None,
    labels: Annotated[str | None, typer.Option(help="Write only these activities, separated by commas.")] = None,
    layout: Annotated[str | None, typer.Option(help="auto, fused or split.")] = None,
    workers: Workers = None,
    device: Device = None,
    precision: Precision = None,
    address: Address = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if any video failed.")] = False,
    verbose: Verbose = False,
) -> None:
    """Decode, embed and label videos into a lake. The same command again takes up where it was cut off."""
    from pipeline.activity.bundle import Bundle, load_bundle
    from pipeline.engine.analyze import analyze as run
    from pipeline.engine.models import DEFAULT_MODEL, choose_models, config_for

    _log_to_console(verbose)
    named: dict[str, Any] = {
        "scope": scope.value if scope else None,
        "detector": detector,
        "detector_px": detector_px,
        "classes": _split(classes),
        "sample_fps": sample_fps,
        "embedder": embedder,
        "labels": _split(labels),
        "layout": layout,
        "workers": workers,
        "device": device,
        "precision": precision,
    }
    chosen = DEFAULT_MODEL if model == DEFAULT_MODEL else load_bundle(model)
    defaults = {"scope": chosen.scope} if isinstance(chosen, Bundle) else {}
    bundles = choose_models(chosen, Config.load(config_file, defaults, **named).scope)
    config = Config.load(config_file, defaults | config_for(bundles), **named)
    with ProgressDisplay(console) as display:
        state = run(sources, lake, chosen, config, address, display.update)
    closing_table(out, state)
    if strict and state.n_failed + state.n_partial:
        raise typer.Exit(EXIT_FAILED_VIDEOS)


@app.command()
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

    _log_to_console(verbose)
    started = time.monotonic()

    def show(state: ClassifyState) -> None:
        console.print(f"{state.model}: {state.n_done} of {state.n_shards} shards labelled", highlight=False)

    state = run(lake, model, tuple(_split(labels) or ()), min_track_s, address, show)
    if not state.n_videos:
        out.print(f"all of it was labelled by {state.model} before", highlight=False)
        return
    table = Table(title=f"new segments by {state.model}")
    table.add_column("label")
    table.add_column("segments", justify="right")
    for label, n in state.label_n.most_common():
        table.add_row(_plain(label), str(n))
    out.print(table)
    out.print(f"{state.n_videos} videos labelled in {time.monotonic() - started:.1f} s", highlight=False)


@app.command()
def train(
    annotations: Annotated[Path, typer.Argument(help=_LABELS_HELP)],
    videos: Annotated[str, typer.Option(help="Folder in which the annotated videos lie.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the bundle; its name is the model's.")],
    lake: Annotated[
        str | None, typer.Option(help="Where features stay for next time.", show_default="OUT-lake")
    ] = None,
    scope: Annotated[Scope | None, typer.Option(help="What to label: people, or whole frames.")] = None,
    labels_format: LabelsFormat = None,
    label_map: LabelMap = None,
    inputs: Annotated[
        str | None,
        typer.Option(help="frame, frame_change, crop, crop_change, box; by commas.", show_default="those that help"),
    ] = None,
    detector: Annotated[str | None, typer.Option(help="Who finds the people.", show_default="person_nano")] = None,
    sample_fps: SampleFps = None,
    embedder: Embedder = None,
    head: Annotated[Head | None, typer.Option(help="What remembers.", show_default="lstm")] = None,
    hidden_dim: Annotated[int | None, typer.Option(help="Units of a layer in one direction.")] = None,
    bidirectional: Annotated[bool | None, typer.Option(help="Let a step see what comes after it.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training videos.")] = None,
    patience: Annotated[
        int | None, typer.Option(help="Stop after so many epochs without a gain on held-out videos.", show_default="no")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of weights and augmentation.")] = None,
    note: Annotated[str, typer.Option(help="Origin and licence of the data, for the model card.")] = "",
    config_file: ConfigFile = None,
    workers: Workers = None,
    trainers: Annotated[
        int | None, typer.Option(help="Train by so many workers of the cluster.", show_default="in this process")
    ] = None,
    device: Device = None,
    address: Address = None,
    verbose: Verbose = False,
) -> None:
    """Train an activity model on labelled videos and write a bundle with its metrics."""
    from pipeline.engine.train import train as run
    from pipeline.training.fit import FitOptions
    from pipeline.training.validation import FIGURES

    _log_to_console(verbose)
    config = Config.load(
        config_file,
        scope=scope.value if scope else None,
        inputs=_split(inputs),
        detector=detector,
        sample_fps=sample_fps,
        embedder=embedder,
        workers=workers,
        device=device,
    )
    chosen = {
        "head": head.value if head else None,
        "hidden_dim": hidden_dim,
        "bidirectional": bidirectional,
        "epochs": epochs,
        "patience": patience,
        "seed": seed,
    }
    options = FitOptions(**{name: value for name, value in chosen.items() if value is not None})  # type: ignore[arg-type]
    with ProgressDisplay(console) as display:
        result = run(
            annotations,
            videos,
            out_folder,
            lake,
            config,
            options,
            note,
            label_map,
            labels_format,
            trainers,
            address,
            display.update,
            display.epoch,
        )
    table = Table(title=f"{result.bundle.name}: accuracy on videos not trained on")
    for heading in ("split", *(figure.replace("_", " ") for figure in FIGURES), "spans"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in result.metrics["splits"].items():
        table.add_row(name, *(f"{split[figure]:.3f}" for figure in FIGURES), str(split["n_spans"]))
    for kind, mean in result.metrics["means"].items():
        table.add_row(f"mean of {kind}", *(f"{mean[figure]:.3f}" for figure in FIGURES), "")
    out.print(table)
    out.print(f"bundle: {result.folder}")


@app.command()
def evaluate(
    lake: Annotated[str, typer.Argument(help="A labelled lake.")],
    annotations: Annotated[Path, typer.Argument(help=_LABELS_HELP)],
    out_folder: Annotated[Path, typer.Option("--out", help="Where the JSON and the plots go.")] = Path("evaluation"),
    model: Annotated[str | None, typer.Option(help="Whose segments.", show_default="the only model's")] = None,
    split: Annotated[
        str | None, typer.Option(help="A division of the labels: measure on what is test in it, else val.")
    ] = None,
    labels_format: LabelsFormat = None,
    label_map: LabelMap = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Leave out annotated videos that the lake does not hold.")
    ] = False,
) -> None:
    """Compare a lake's segments with annotations: a table, JSON, and plots."""
    from pipeline.report.evaluation import write_evaluation
    from pipeline.training.cases import evaluate_lake

    found = evaluate_lake(lake, annotations, model, split, labels_format, label_map, partial)
    evaluation_tables(out, found)
    for path in write_evaluation(found, out_folder):
        out.print(_plain(str(path)), highlight=False, soft_wrap=True)


@app.command()
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
    out.print(f"{_plain(str(out_path))}: {n_segments} segments", highlight=False, soft_wrap=True)


@app.command()
def query(
    lake: Annotated[str, typer.Argument(help="The lake.")],
    sql: Annotated[
        str, typer.Argument(help="One SELECT over videos, segments, detections, tracks, features, failures.")
    ],
    output_format: Annotated[Format, typer.Option("--format", help="How to write the answer.")] = Format.table,
) -> None:
    """Ask a lake a question in SQL (DuckDB)."""
    from pipeline.lake.query import open_lake

    answer = open_lake(lake).sql(sql)
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


@app.command()
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
        f"{_plain(str(out_file))}: {len(moment.boxes)} followed at {moment.pts_s:.2f} s of {_plain(moment.uri)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@app.command()
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
        console.print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(EXIT_USAGE)
    except ActionlakeError as error:
        console.print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(EXIT_JOB_ERROR)
    except OSError as error:
        console.print(f"[bold red]error:[/] {_plain(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(EXIT_JOB_ERROR)
    except KeyboardInterrupt:
        console.print("interrupted; the same command takes up where it was cut off", highlight=False)
        sys.exit(EXIT_INTERRUPTED)


def _plain(text: str) -> str:
    """Keep what a message quotes from being read as markup."""
    return text.replace("[", r"\[")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else _plain(str(value))


def _split(text: str | None) -> list[str] | None:
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


def _log_to_console(verbose: bool) -> None:
    handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.INFO if verbose or not console.is_terminal else logging.WARNING)


if __name__ == "__main__":
    main()
