"""Commands that ask a lake for results: `query`, `search`, `export`."""

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
    """Formats of an answer."""

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
    output_format: Annotated[Format, typer.Option("--format", help="Format of the answer.")] = Format.table,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Time limit of the query, in seconds.")] = 300.0,
    memory_gb: Annotated[float, typer.Option(help="Memory limit of the query and of its answer, in GiB.")] = 4.0,
) -> None:
    """Query a lake in SQL (DuckDB). A query only reads: it can't reach other files or the network."""
    from pipeline.lake.query import open_lake

    _write(open_lake(lake).sql(sql, timeout_s, memory_gb), output_format)


@app.command(rich_help_panel=ASK)
def search(
    lake: LakeUri,
    like: Annotated[
        str | None,
        typer.Option(help="Moment to look for: VIDEO@12.5, where VIDEO is part of one path. Or a segment_id."),
    ] = None,
    person: Annotated[
        int | None, typer.Option(help="track_id of the person at that moment.", show_default="the largest box")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="File of labelled spans to look for. Spans labelled background show what to avoid."),
    ] = None,
    annotation_format: Annotated[
        str | None,
        typer.Option("--examples-format", help="Format of the examples.", show_default="detected"),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Words to look for. May be repeated. Needs a lake made with an open_clip embedder."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Most stretches to show.")] = 10,
    where: Annotated[
        str | None, typer.Option(help="Search only videos whose columns meet this condition in SQL.")
    ] = None,
    other_videos: Annotated[bool, typer.Option("--other-videos", help="Leave out the videos of the examples.")] = False,
    model: Annotated[str | None, typer.Option(help="Model that gives the labels.", show_default="all models")] = None,
    output_format: Annotated[Format, typer.Option("--format", help="Format of the answer.")] = Format.table,
    report_folder: Annotated[
        Path | None, typer.Option("--report", help="Write a page with clips of the results into this folder.")
    ] = None,
    videos_root: VideosRoot = None,
    verbose: Verbose = False,
) -> None:
    """Find stretches of about two seconds that are most like an example, by pose and appearance, or like a text.

    The search reads the lake's features. It decodes no video.
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
        # A terminal has no room for whole paths.
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
    """Write an answer in the chosen format."""
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
    out_path: Annotated[Path, typer.Option("--out", help="File to write. For vtt, elan, cvat and fiftyone: a folder.")],
    export_format: Annotated[
        str,
        typer.Option("--format", help="activitynet, csv, excel, vtt, boris, elan, cvat, label-studio or fiftyone."),
    ],
    where: Annotated[
        str | None,
        typer.Option(
            help="Write only segments that meet this condition in SQL: \"label = 'fall' AND score > 0.5\".",
            show_default="all",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Model whose segments to write.", show_default="the only one")
    ] = None,
) -> None:
    """Write a model's segments for other tools: spreadsheets, subtitles, annotation tools and video browsers."""
    from pipeline.lake.query import open_lake
    from pipeline.report.exports import export_segments

    n_segments = export_segments(open_lake(lake), out_path, export_format, model, where)
    out.print(f"{plain(str(out_path))}: {n_segments} segments", highlight=False, soft_wrap=True)
