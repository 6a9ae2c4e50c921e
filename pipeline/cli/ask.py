"""Ask what was found: `query`, `export`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import (
    ASK,
    LakeUri,
    app,
    out,
)
from pipeline.cli.tables import (
    answer_table,
)
from pipeline.cli.terminal import plain
from pipeline.errors import UsageError


class Format(StrEnum):
    """How an answer is written."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"


@app.command(rich_help_panel=ASK)
def query(
    lake: LakeUri,
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
        answer_table(out, answer)
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


@app.command(rich_help_panel=ASK)
def export(
    lake: LakeUri,
    out_path: Annotated[
        Path, typer.Option("--out", help="A file; a folder for vtt, elan, cvat and fiftyone, which hold one a video.")
    ],
    export_format: Annotated[
        str,
        typer.Option("--format", help="activitynet, csv, excel, vtt, boris, elan, cvat, label-studio or fiftyone."),
    ],
    where: Annotated[
        str | None,
        typer.Option(
            help="Only segments that meet this condition in SQL, such as \"label = 'fall' AND score > 0.5\".",
            show_default="all",
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Whose segments.", show_default="the only model's")] = None,
) -> None:
    """Write a model's segments for other tools: spreadsheets, subtitles, tools to annotate and to look at videos."""
    from pipeline.lake.query import open_lake
    from pipeline.report.exports import export_segments

    n_segments = export_segments(open_lake(lake), out_path, export_format, model, where)
    out.print(f"{plain(str(out_path))}: {n_segments} segments", highlight=False, soft_wrap=True)
