"""Commands that maintain a lake: `verify`, `compact`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated

import typer

from pipeline.cli.common import (
    EXIT_JOB_ERROR,
    KEEP,
    LakeUri,
    app,
    out,
)
from pipeline.cli.terminal import plain
from pipeline.config import Config


@app.command(rich_help_panel=KEEP)
def verify(
    lake: LakeUri,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove damaged parts, so that `analyze` makes them again.")
    ] = False,
) -> None:
    """Check that a lake is intact: parts, checksums, counts, order, overlaps. Exit 1 if anything is wrong."""
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
    lake: LakeUri,
    shard_videos: Annotated[int, typer.Option(help="Most videos in a merged shard.")] = Config.shard_videos,
    shard_hours: Annotated[float, typer.Option(help="Most hours of video in a merged shard.")] = Config.shard_hours,
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
