"""The commands for jobs that run elsewhere: `submit` and `status`."""

from __future__ import annotations

import sys
import time
from typing import Annotated

import typer

from pipeline.cli_common import CLUSTER, app, console, out
from pipeline.terminal import plain, progress_line, spoken


@app.command(rich_help_panel=CLUSTER)
def submit(
    command: Annotated[list[str], typer.Argument(help="After --, a command: analyze, classify or train.")],
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Job server of the cluster: http://HEAD:8265.")
    ],
    submission_id: Annotated[
        str | None, typer.Option("--id", help="Name of the job.", show_default="made by Ray")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job, nor show what it says.")] = False,
) -> None:
    """Run a command as a job of a Ray cluster, with this very code; exit as it exits.

    Bundles, weights, options and manifests that it names go with it; videos and lakes have to be where the cluster can
    reach them. The same command again takes up where a job was cut off.
    """
    from pipeline.engine.ray.submit import submit as run

    job = run(address, command, submission_id)
    there = f"{job.submission_id} --address {address}"
    console.print(f"job {plain(job.submission_id)} is submitted", highlight=False)
    console.print(plain(f"ray job logs --follow {there}; ray job stop {there}"), highlight=False, soft_wrap=True)
    if detach:
        return
    try:
        code = job.follow(lambda text: console.print(spoken(text), end="", highlight=False, soft_wrap=True))
    except KeyboardInterrupt:
        console.print(f"job {plain(job.submission_id)} goes on", highlight=False)
        raise typer.Exit(0) from None
    raise typer.Exit(code)


@app.command(rich_help_panel=CLUSTER)
def status(
    lake: Annotated[str, typer.Argument(help="A lake, local or remote.")],
    watch_s: Annotated[
        float | None, typer.Option("--watch", min=1.0, help="Look again after so many seconds, until all is done.")
    ] = None,
) -> None:
    """Show how far the job on a lake is, by what lies in the lake alone, wherever the job runs."""
    from pipeline.lake.progress import progress_of
    from pipeline.lake.store import Lake

    store = Lake(lake)
    before = None
    while True:
        found = progress_of(store)
        out.print(progress_line(found, before), highlight=False, soft_wrap=True)
        sys.stdout.flush()
        if watch_s is None or found.is_done:
            return
        before = before or found
        time.sleep(watch_s)
