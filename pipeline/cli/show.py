"""Commands that show results as pages and videos: `report`, `clips`, `video`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.common import LOOK, Address, LakeUri, Workers, app, console, out
from pipeline.cli.terminal import plain

if TYPE_CHECKING:
    from pipeline.report.cutting import Written

Where = Annotated[
    str | None, typer.Option(help="Only segments that meet a condition in SQL: \"label = 'fall' AND score > 0.5\".")
]
Model = Annotated[str | None, typer.Option(help="Model whose segments to use.", show_default="the only one")]
VideosRoot = Annotated[
    str | None, typer.Option(help="Folder of the videos, if they were moved.", show_default="where they were")
]


@app.command(rich_help_panel=LOOK)
def report(
    lake: LakeUri,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the page and its clips.")],
    where: Where = None,
    model: Model = None,
    videos_root: VideosRoot = None,
    max_mb: Annotated[float, typer.Option(help="Most megabytes of clips. 0: no clips.", min=0.0)] = 500.0,
    title: Annotated[str | None, typer.Option(help="Title of the page.", show_default="the lake's name")] = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Write a page that opens from disk: timelines, clips with boxes drawn in, a table, totals, failures."""
    from pipeline.engine.cuts import cutting
    from pipeline.report.report import write_report

    with cutting(address, workers) as run:
        written = write_report(lake, out_folder, run, where, model, videos_root, max_mb, title)
    say_written(written)


@app.command(rich_help_panel=LOOK)
def clips(
    lake: LakeUri,
    out_folder: Annotated[Path, typer.Option("--out", help="Folder of the clips and of clips.csv.")],
    where: Where = None,
    model: Model = None,
    margin_s: Annotated[float, typer.Option("--margin", help="Seconds before and after a segment.", min=0.0)] = 1.0,
    draw: Annotated[bool, typer.Option("--draw", help="Draw boxes, ids, poses and labels into the clips.")] = False,
    videos_root: VideosRoot = None,
    workers: Workers = None,
    address: Address = None,
) -> None:
    """Write each segment as a video file, named by its content, and a table of the files."""
    from pipeline.engine.cuts import cutting
    from pipeline.report.clips import write_clips

    with cutting(address, workers) as run:
        written = write_clips(lake, out_folder, run, where, model, margin_s, draw, videos_root)
    _say_why(written.without_clip)
    out.print(
        f"{plain(str(written.path))}: {written.n_clips} clips, {written.n_bytes / 1e6:.1f} MB",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


@app.command(rich_help_panel=LOOK)
def video(
    lake: LakeUri,
    wanted: Annotated[str, typer.Argument(metavar="VIDEO", help="Part of the video's path.")],
    out_file: Annotated[Path, typer.Option("--out", help="Video file to write: .mp4.")],
    model: Model = None,
    videos_root: VideosRoot = None,
) -> None:
    """Write a whole video with boxes, ids, poses and labels drawn in."""
    from pipeline.lake.query import open_lake
    from pipeline.report.clips import write_video

    clip = write_video(open_lake(lake), wanted, out_file, model, videos_root)
    out.print(
        f"{plain(str(out_file))}: {clip.end_s:.1f} s, {clip.width} x {clip.height}", highlight=False, soft_wrap=True
    )


def say_written(written: Written) -> None:
    """Print where a report is, and how many of its segments have no clip."""
    _say_why(written.without_clip)
    out.print(
        f"{plain(str(written.path))}: {written.n_segments} segments, {written.n_clips} clips, "
        f"{written.n_bytes / 1e6:.1f} MB; open it in a browser",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _say_why(failures: Mapping[str, str]) -> None:
    """Print how many segments have no clip, and why."""
    for why, n in Counter(failures.values()).most_common():
        console.print(f"[yellow]{n} segments without a clip:[/] {plain(why)}", highlight=False, soft_wrap=True)
