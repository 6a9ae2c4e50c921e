"""Parts that all commands share: the application, its consoles, its exit codes and common options."""

from __future__ import annotations

import logging
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.core import TyperGroup

from pipeline.cli.terminal import printable

console = Console(stderr=True)
out = Console()


EXIT_JOB_ERROR = 1
EXIT_USAGE = 2
EXIT_FAILED_VIDEOS = 3

LOOK, ASK, TEACH, KEEP, CLUSTER = "Look", "Ask", "Teach", "Keep", "Cluster"
"""The groups of commands in `--help`."""
_FIRST_DAY = [
    "analyze",
    "info",
    "picture",
    "report",
    "clips",
    "video",
    "forecast",
    "config",
    "query",
    "search",
    "watch",
    "export",
    "review",
    "agreement",
    "train",
    "teach",
    "evaluate",
    "classify",
    "train-forecaster",
    "pack",
    "verify",
    "compact",
    "submit",
    "status",
    "benchmark",
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"actionlake {version('actionlake')}")
        raise typer.Exit


class _InOrder(TyperGroup):
    """A group of commands whose `--help` lists them in the order in which users need them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return sorted(super().list_commands(ctx), key=_FIRST_DAY.index)


app = typer.Typer(
    cls=_InOrder,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Turn an archive of videos into a lake: Parquet files of labelled activity segments, to query in SQL.",
)


@app.callback()
def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


class Scope(StrEnum):
    """What a job labels."""

    frame = "frame"
    person = "person"
    both = "both"


class EngineName(StrEnum):
    """Engines that can run a job."""

    auto = "auto"
    local = "local"
    ray = "ray"


LakeUri = Annotated[str, typer.Option("--lake", envvar="ACTIONLAKE_LAKE", help="Folder or bucket prefix of the lake.")]
WantedScope = Annotated[Scope | None, typer.Option(help="Label people, whole frames, or both.", show_default="person")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with options. Command-line options override it.")
]
Address = Annotated[str | None, typer.Option(help="Address of a Ray cluster.", show_default="$RAY_ADDRESS")]
Engine = Annotated[
    EngineName,
    typer.Option(help="local: processes on this machine. ray: Ray. auto: Ray if a cluster is named, else local."),
]
SampleFps = Annotated[
    float | None, typer.Option(help="Frames to analyze per second of video.", show_default="the model's")
]
Embedder = Annotated[
    str | None,
    typer.Option(
        help="CNN: efficientnet_lite0, a torchvision classifier, timm:MODEL, open_clip:MODEL/WEIGHTS, or a path with a "
        "slash. detector: no CNN, only the detector's features.",
        show_default="the model's",
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        help="person_pose, person_nano, Ultralytics weights, or a detector bundle.",
        show_default="the model's",
    ),
]
Labels = Annotated[str | None, typer.Option(help="Write only these activities, separated by commas.")]
MostNovel = Annotated[
    float | None,
    typer.Option(
        help="Drop segments and events with a higher novelty; 1: none.",
        min=0.0,
        max=1.0,
        show_default="the model's own limits",
    ),
]
Device = Annotated[str | None, typer.Option(help="Where the networks run: auto, cpu or cuda.")]
Precision = Annotated[str | None, typer.Option(help="Arithmetic of the networks: auto, f32, bf16 or f16.")]
Workers = Annotated[int | None, typer.Option(help="Number of decoding workers.", show_default="one per CPU")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log each decision of the command.")]


def split_list(text: str | None) -> list[str] | None:
    """Return the items of a comma-separated text. None: there is no text."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


class _Printable(logging.Formatter):
    """A formatter that spells out control characters. File names in log lines may hold some."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).splitlines())


def log_to_console(verbose: bool) -> None:
    """Show warnings. Show decisions, too, with `verbose`, or if the output is no terminal."""
    handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.INFO if verbose or not console.is_terminal else logging.WARNING)
    # This logger reports every chunk.
    logging.getLogger("pipeline.engine.worker").setLevel(logging.INFO if verbose else logging.WARNING)
    # Users always see which networks run and how their labels and examples were understood.
    for name in ("pipeline.steps.extract", "pipeline.training.formats", "pipeline.lake.examples"):
        logging.getLogger(name).setLevel(logging.INFO)
