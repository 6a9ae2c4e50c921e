"""Commands for clusters and for speed: `submit`, `status`, `benchmark`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.common import (
    CLUSTER,
    ConfigFile,
    LakeUri,
    SampleFps,
    Verbose,
    WantedScope,
    Workers,
    app,
    console,
    log_to_console,
    out,
)
from pipeline.cli.tables import (
    benchmark_table,
)
from pipeline.cli.terminal import plain, progress_line, spoken
from pipeline.config import Config
from pipeline.errors import Interrupted


@app.command(rich_help_panel=CLUSTER)
def submit(
    command: Annotated[list[str], typer.Argument(help="After --, the command: analyze, classify, forecast or train.")],
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="Job server of the cluster: http://HEAD:8265.")
    ],
    submission_id: Annotated[
        str | None, typer.Option("--id", help="Name of the job.", show_default="made by Ray")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job or show its output.")] = False,
) -> None:
    """Run a command as a job on a Ray cluster, with this code. The exit code is that of the job.

    Bundles, weights, option files and manifests that the command names are uploaded with it. Videos and lakes must be
    where the cluster can reach them. If a job is interrupted, submit the same command again to resume it.
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
    except Interrupted:
        console.print(f"job {plain(job.submission_id)} goes on", highlight=False)
        raise typer.Exit(0) from None
    raise typer.Exit(code)


@app.command(rich_help_panel=CLUSTER)
def status(
    lake: LakeUri,
    watch_s: Annotated[
        float | None, typer.Option("--watch", min=1.0, help="Repeat every so many seconds until the job is done.")
    ] = None,
) -> None:
    """Show the progress of the job on a lake. It reads only the lake, so the job may run anywhere."""
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


@app.command(rich_help_panel=CLUSTER)
def benchmark(
    sources: Annotated[list[str], typer.Argument(help="Videos like those of your archive. A few minutes are enough.")],
    repeats: Annotated[int, typer.Option(min=1, help="Number of runs. The command shows median and range.")] = 3,
    scope: WantedScope = None,
    sample_fps: SampleFps = None,
    config_file: ConfigFile = None,
    workers: Workers = None,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers", help="Compare with programs that use other libraries. Needs a checkout and the extra bench."
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--out", help="JSON file for the measurements. With --peers: a folder.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Measure the speed of a job on this machine, and compare it with its stages run alone, or with peers."""
    from pipeline.engine.benchmark import run_benchmark, run_peers
    from pipeline.engine.models import DEFAULT_MODEL, choose_models, config_for, fitted

    log_to_console(verbose)
    named: dict[str, Any] = {"scope": scope.value if scope else None, "sample_fps": sample_fps, "workers": workers}
    so_far = Config.load(config_file, **named)
    bundles = choose_models(DEFAULT_MODEL, so_far.scope, so_far)
    config = fitted(Config.load(config_file, config_for(bundles), **named), bundles)
    if peers:
        run_peers(sources, config, repeats, report)
        return
    found = run_benchmark(sources, config, repeats)
    benchmark_table(out, found)
    if report is not None:
        report.write_text(found.to_json(), encoding="utf-8")
