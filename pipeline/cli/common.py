"""What the commands share: the application, its consoles and exit codes, common options."""

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
"""What one wants of a command: the groups of `--help`."""
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
    """Commands stand in `--help` in the order in which one needs them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands."""
        return sorted(super().list_commands(ctx), key=_FIRST_DAY.index)


app = typer.Typer(
    cls=_InOrder,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="From an archive of video to a queryable lake of labelled activity segments.",
)


@app.callback()
def _main(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


class Scope(StrEnum):
    """What is labelled."""

    frame = "frame"
    person = "person"
    both = "both"


class EngineName(StrEnum):
    """Who runs the steps."""

    auto = "auto"
    local = "local"
    ray = "ray"


LakeUri = Annotated[str, typer.Option("--lake", envvar="ACTIONLAKE_LAKE", help="Folder or bucket prefix of the lake.")]
WantedScope = Annotated[Scope | None, typer.Option(help="Label people, whole frames, or both.", show_default="person")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with options; the command line wins.")]
Address = Annotated[str | None, typer.Option(help="Ray cluster to join.", show_default="$RAY_ADDRESS")]
Engine = Annotated[
    EngineName, typer.Option(help="local: processes of this machine. ray: Ray. auto: Ray where it is worth it.")
]
SampleFps = Annotated[
    float | None, typer.Option(help="Frames looked at per second of video.", show_default="the model's")
]
Embedder = Annotated[
    str | None,
    typer.Option(
        help="CNN: efficientnet_lite0, a torchvision classifier, timm:MODEL, open_clip:MODEL/WEIGHTS, or a path with a "
        "slash. detector: what the detector sees is enough.",
        show_default="the model's",
    ),
]
Detector = Annotated[
    str | None,
    typer.Option(
        help="person_nano, person_pose, weights of Ultralytics, or a detector bundle.",
        show_default="the model's",
    ),
]
Labels = Annotated[str | None, typer.Option(help="Write only these activities, separated by commas.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str | None, typer.Option(help="auto, f32, bf16 or f16.")]
Workers = Annotated[int | None, typer.Option(help="Decoding actors.", show_default="one per CPU")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is decided on the way.")]


def split_list(text: str | None) -> list[str] | None:
    """Return what a text lists between commas."""
    return [part.strip() for part in text.split(",") if part.strip()] if text else None


class _Printable(logging.Formatter):
    """Logs quote names of files, too."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(printable(line) for line in super().format(record).splitlines())


def log_to_console(verbose: bool) -> None:
    """Show warnings, and what is decided on the way if that is wanted or nobody watches."""
    handler = RichHandler(console=console, show_path=False, show_time=False, markup=False)
    handler.setFormatter(_Printable("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("pipeline").setLevel(logging.INFO if verbose or not console.is_terminal else logging.WARNING)
    # Each chunk is told of, which is much.
    logging.getLogger("pipeline.engine.worker").setLevel(logging.INFO if verbose else logging.WARNING)
    # Which networks look, and what was understood of somebody's labels, is for that person to see.
    for name in ("pipeline.steps.extract", "pipeline.training.formats", "pipeline.lake.examples"):
        logging.getLogger(name).setLevel(logging.INFO)
