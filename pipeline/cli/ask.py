"""Ask what was found: `query`, `search`, `export`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.common import (
    ASK,
    LakeUri,
    Verbose,
    app,
    console,
    log_to_console,
    out,
)
from pipeline.cli.show import VideosRoot, say_written
from pipeline.cli.tables import answer_table, hits_table
from pipeline.cli.terminal import plain
from pipeline.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa


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
        str,
        typer.Argument(
            help="One SELECT over videos, segments, detections, tracks, forecasts, surprises, features, failures."
        ),
    ],
    output_format: Annotated[Format, typer.Option("--format", help="How to write the answer.")] = Format.table,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Break it off after so many seconds.")] = 300.0,
    memory_gb: Annotated[float, typer.Option(help="Most memory that it may use, and its answer may hold.")] = 4.0,
) -> None:
    """Ask a lake a question in SQL (DuckDB). It only reads, and reaches no other files, nor the network."""
    from pipeline.lake.query import open_lake

    _write(open_lake(lake).sql(sql, timeout_s, memory_gb), output_format)


@app.command(rich_help_panel=ASK)
def search(
    lake: LakeUri,
    like: Annotated[
        str | None,
        typer.Option(help="What to look for: VIDEO@12.5, part of one path and seconds, or a segment_id."),
    ] = None,
    person: Annotated[
        int | None, typer.Option(help="Whom, by track_id, at that moment.", show_default="with the largest box")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="Labelled spans that show what to look for; those labelled background, what not."),
    ] = None,
    annotation_format: Annotated[
        str | None,
        typer.Option("--examples-format", help="Format of the examples.", show_default="by its looks"),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="What to look for, in words; may be repeated. For lakes of an open_clip embedder."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most stretches to show.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="Condition in SQL on the columns of videos: look through those alone.")
    ] = None,
    other_videos: Annotated[
        bool, typer.Option("--other-videos", help="Leave out the videos that show what is looked for.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Whose segments.", show_default="all models'")] = None,
    output_format: Annotated[Format, typer.Option("--format", help="How to write the answer.")] = Format.table,
    report_folder: Annotated[
        Path | None, typer.Option("--report", help="Write a page with clips of what is found, into this folder.")
    ] = None,
    videos_root: VideosRoot = None,
    verbose: Verbose = False,
) -> None:
    """Find the stretches of about two seconds that are most like given ones, by poses and looks, or like a text.

    Nothing is decoded.
    """
    from pipeline.lake.examples import example_like
    from pipeline.lake.query import open_lake
    from pipeline.lake.search import search as find
    from pipeline.lake.search import search_texts
    from pipeline.report.examples import read_examples
    from pipeline.report.page import short_names

    log_to_console(verbose)
    if [bool(text), like is not None, examples is not None].count(True) != 1:
        raise UsageError("name what to look for, by one of --like VIDEO@SECONDS, --examples FILE and --text WORDS")
    if person is not None and like is None:
        raise UsageError("--person goes with --like VIDEO@SECONDS; examples show the person with the largest box")
    reader = open_lake(lake)
    if text:
        look = partial(search_texts, reader, text, limit, where, model)
    else:
        shown = (
            read_examples(reader, examples, annotation_format)
            if examples is not None
            else [example_like(reader, like or "", person, model)]
        )
        look = partial(find, reader, shown, limit, where, other_videos, model)
    with console.status("looking") as status:
        hits = look(lambda done, n: status.update(f"looking: {done} of {n} shards are ready"))
    found = hits_table(hits, labelled=examples is not None or len(text or ()) > 1)
    if output_format is Format.table and hits:
        # A terminal has no room for paths.
        place = found.column_names.index("video")
        found = found.set_column(place, "video", [short_names([hit.uri for hit in hits])])
    _write(found, output_format)
    if report_folder is not None:
        from pipeline.engine.cuts import cutting
        from pipeline.report.report import write_hits

        with cutting() as run:
            say_written(
                write_hits(
                    lake, hits, f"like {like or examples or ', '.join(text or ())}", report_folder, run, videos_root
                )
            )


def _write(answer: pa.Table, output_format: Format) -> None:
    """Write an answer as it is wanted."""
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
