"""The command that measures how fast this machine is: `benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pipeline.cli_common import CLUSTER, ConfigFile, SampleFps, Verbose, WantedScope, Workers, app, log_to_console, out


@app.command(rich_help_panel=CLUSTER)
def benchmark(
    sources: Annotated[list[str], typer.Argument(help="Videos like those of the archive; some minutes are enough.")],
    repeats: Annotated[int, typer.Option(min=1, help="How often; the median and the range are shown.")] = 3,
    scope: WantedScope = None,
    sample_fps: SampleFps = None,
    config_file: ConfigFile = None,
    workers: Workers = None,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers", help="Measure programs that people would write instead. Needs a checkout, and the extra bench."
        ),
    ] = False,
    report: Annotated[
        Path | None, typer.Option("--out", help="JSON file for all that was measured; for peers a folder.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Measure a job on this machine beside what its decoding and its networks cost alone, or beside its peers."""
    from pipeline.config import Config
    from pipeline.engine.benchmark import median_and_range, run_benchmark, run_peers
    from pipeline.engine.models import DEFAULT_MODEL, choose_models, config_for

    log_to_console(verbose)
    named: dict[str, Any] = {"scope": scope.value if scope else None, "sample_fps": sample_fps, "workers": workers}
    bundles = choose_models(DEFAULT_MODEL, Config.load(config_file, **named).scope)
    config = Config.load(config_file, config_for(bundles), **named)
    if peers:
        run_peers(sources, config, repeats, report)
        return
    found = run_benchmark(sources, config, repeats)
    alone = found.alone[0]
    table = Table(
        title=f"{alone.video_s / 60:.1f} min of video, {alone.n_frames} frames, {alone.n_boxes} people in them"
    )
    for heading in ("stage alone, on one core", "seconds", "core-seconds per video-hour"):
        table.add_column(heading, justify="left" if heading.startswith("stage") else "right")
    for name in alone.stages:
        seconds = [trial.stages[name] for trial in found.alone]
        per_hour = [trial.stages[name] / trial.video_s * 3600 for trial in found.alone]
        table.add_row(name, median_and_range(seconds, 1), median_and_range(per_hour, 0))
    out.print(table)
    out.print(f"job, from command to prompt: {median_and_range(found.job_s, 1)} s on {found.cpus} cores")
    out.print(f"video-hours per hour: {median_and_range(found.hours_per_hour, 1)}")
    out.print(
        f"efficiency, what the stages alone would take on all cores over that: {median_and_range(found.efficiency)}"
    )
    if report is not None:
        report.write_text(found.to_json(), encoding="utf-8")
