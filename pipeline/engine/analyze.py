"""The main job: an archive in, a lake of labelled segments out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Thread

from pipeline.activity.bundle import Bundle, load_bundle
from pipeline.archive.recorded import check_options
from pipeline.archive.sources import list_videos
from pipeline.config import Config
from pipeline.engine.board import JobState
from pipeline.engine.interrupts import stopping_on_signals
from pipeline.engine.job import Engine, Job, Observer, new_run_id
from pipeline.engine.models import (
    DEFAULT_MODEL,
    NAMES,
    check_fit,
    check_lake,
    check_vectors,
    choose_forecaster,
    choose_models,
    config_for,
    fitted,
)
from pipeline.errors import UsageError
from pipeline.extras import require
from pipeline.lake.lease import leased
from pipeline.lake.store import Lake
from pipeline.steps.extract import describe_networks
from pipeline.vision.weights import check_trust

ENGINES = ("auto", "local", "ray")
"""The engines that can run the steps of a job."""


def analyze(
    sources: Sequence[str] | str,
    lake: str,
    model: str | Path | Bundle | None = DEFAULT_MODEL,
    config: Config | None = None,
    address: str | None = None,
    observer: Observer | None = None,
    engine: str = "auto",
    forecaster: str | Path | None = None,
) -> JobState:
    """Analyse videos into a lake, or take up where an earlier run of the same lake was cut off.

    Args:
        sources: Files, folders, globs or manifests, local or remote.
        lake: Folder or bucket prefix to write to.
        model: A bundle, the folder of one, `"default"`, or `"none"` or None to extract only features.
        config: Options. None: the defaults, adapted to what the model was trained with.
        address: A Ray cluster to join. None: `$RAY_ADDRESS`, if it is set.
        observer: Called with the state whenever something is finished.
        engine: `"local"` runs the job in processes of this machine, `"ray"` on Ray. `"auto"` takes Ray if a cluster is
            named or already joined. Both engines write the same rows.
        forecaster: The folder of a forecaster in heights, or the name of one in the package. After all shards are
            committed, it forecasts the paths of the tracked people. None: no forecasts.

    Returns:
        What was done and found.

    Raises:
        UsageError: The sources, the options, the model or the lake can't be used.
        ActionlakeError: The job can't go on.
    """
    bundles, config = _fitting(model, config)
    named = choose_engine(engine, address, config)
    # Checked before anything is decoded, so that a wrong name costs nothing.
    foreteller = choose_forecaster(forecaster, config) if forecaster is not None else None
    videos = list_videos([sources] if isinstance(sources, str) else sources)
    target = Lake(lake)
    state = JobState(target.uri, config.run_id or "")
    check_lake(target, config)
    notify = observer or (lambda _: None)
    notify(state)
    # Networks that do not load end the job before a lake is made.
    networks = describe_networks(config)
    check_vectors(bundles, networks.dim)
    if named == "ray":
        # The import of Ray Data needs the CPU, while the start of Ray mostly waits.
        Thread(target=import_module, args=("pipeline.engine.ray.graph",), daemon=True).start()
    with leased(target, f"run {config.run_id}") as lease, stopping_on_signals(config.grace_s) as stop:
        if named == "ray":
            from pipeline.engine.ray.driver import on_ray

            begun: AbstractContextManager[Engine] = on_ray(target.uri, bundles, networks, config, stop, address)
        else:
            from pipeline.engine.local import LocalEngine

            begun = closing(LocalEngine(target.uri, bundles, networks, config))
        job = Job(target, bundles, config, state, notify, lease, stop)
        with begun as running:
            job.run(running, job.plan(running, videos))
    if foreteller is not None:
        # Imported here because it imports this module.
        from pipeline.engine.forecast import forecast

        foretold = forecast(lake, foreteller, address=address)
        state.n_forecasts = foretold.n_forecasts
        state.failures += foretold.failures
        notify(state)
    return state


def choose_engine(engine: str, address: str | None, config: Config) -> str:
    """Return the engine of a job: `local` or `ray`.

    One machine is faster without Ray, however much video there is: docs/benchmarks.md.

    Args:
        engine: The requested engine, one of `ENGINES`.
        address: The cluster that was named, if any.
        config: The job's options.

    Raises:
        UsageError: There is no such engine, or it does not fit the other options.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine = {engine!r} is not one of {', '.join(ENGINES)}")
    if engine == "ray" or address:
        require("ray", "--engine ray" if engine == "ray" else "--address")
    if engine == "local" and address:
        raise UsageError(f"--engine local runs on this machine, not on the cluster at {address}; leave one of them out")
    named = address or os.environ.get("RAY_ADDRESS") or ("ray" in sys.modules and sys.modules["ray"].is_initialized())
    if engine == "auto":
        return "ray" if named or config.layout == "split" else "local"
    return engine


def _fitting(model: str | Path | Bundle | None, config: Config | None) -> tuple[list[Bundle], Config]:
    """Return the models of a job, and its options adapted to them.

    Raises:
        UsageError: They do not fit together.
    """
    if config is None and isinstance(model, (str, Path)) and model not in NAMES:
        model = load_bundle(model)
    scope = config.scope if config is not None else model.scope if isinstance(model, Bundle) else Config().scope
    bundles = choose_models(model, scope, config)
    config = fitted(config or Config.load(None, {"scope": scope} | config_for(bundles)), bundles)
    check_fit(bundles, config)
    check_options(config.name_time, config.time_zone, config.camera)
    if config.sees_people:
        check_trust(config.chosen_detector, config.pickled_weights)
    return bundles, replace(config, run_id=config.run_id or new_run_id())
