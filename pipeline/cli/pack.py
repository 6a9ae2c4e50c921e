"""The command that packs a model for small computers: `pack`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import TEACH, Verbose, app, console, log_to_console, out, split_list
from pipeline.cli.tables import pack_table
from pipeline.cli.teach import LabelMap, LabelsFormat
from pipeline.cli.terminal import plain


@app.command(rich_help_panel=TEACH)
def pack(
    bundle: Annotated[str, typer.Argument(help="Folder of an activity model, or the name of a bundled one.")],
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the pack.")],
    videos: Annotated[
        str | None,
        typer.Option(
            help="Clips of your cameras, to calibrate int8 and to compare the packed networks.", show_default="none"
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Labels of the clips, to measure accuracy.", show_default="none")
    ] = None,
    labels_format: LabelsFormat = None,
    label_map: LabelMap = None,
    precision: Annotated[
        str | None,
        typer.Option(help="f32, f16, int8, separated by commas.", show_default="all; without clips f32,f16"),
    ] = None,
    runtime: Annotated[str, typer.Option(help="openvino, onnx, separated by commas.")] = "openvino",
    verbose: Verbose = False,
) -> None:
    """Pack a model for a small computer beside a camera: networks, and a one-file program that runs them."""
    from pipeline.edge.clips import find_clips
    from pipeline.edge.pack import PRECISIONS
    from pipeline.edge.pack import pack as run

    log_to_console(verbose)
    clips = find_clips(videos, labels, labels_format, label_map)
    precisions = split_list(precision) or [each for each in PRECISIONS if clips or each != "int8"]
    done = run(
        bundle, out_folder, clips, precisions, split_list(runtime) or (),
        lambda said: console.print(plain(said), highlight=False),
    )  # fmt: skip
    if done.outcomes:
        pack_table(out, done)
    out.print(f"python {plain(str(done.folder))}/edge.py VIDEO", highlight=False, soft_wrap=True)
