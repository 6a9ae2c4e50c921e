"""Train a forecaster on trajectories from text files or lakes."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.activity.bundle import check_name
from pipeline.config import Config
from pipeline.engine.interrupts import stopping_on_signals
from pipeline.errors import UsageError
from pipeline.motion.forecaster_bundle import HEIGHTS, METRES, ForecasterBundle, load_forecaster
from pipeline.motion.forecasting import BASELINES, Forecaster, ForecasterSpec
from pipeline.motion.ground import read_ground
from pipeline.motion.trajectories import Windows, cut_windows, on_grid
from pipeline.training.cameras import PERSON_M, seen_by_cameras
from pipeline.training.card import forecaster_card
from pipeline.training.distributed import run_worker, train_on_cluster
from pipeline.training.fit import SEEDS_APART
from pipeline.training.forecast_fit import ForecastFitting, ForecastOptions, fit_forecaster
from pipeline.training.forecast_metrics import fit_spread, measure_forecasts
from pipeline.training.trajectories import SceneTracks, read_scenes

OnEpoch = Callable[[str, int, float], None]
"""Called with the name of a network, the epoch, from 1, and its mean loss."""
# If no source is named to measure on, this last part of each source is held out.
_HELD_OUT = 0.2
# As in inference: if boxes are missing for no longer than this, the path counts as seen.
_GAP_S = 1.0
# The spread is fitted on at most this many windows.
_MOST_CALIBRATED = 20_000


@dataclass(frozen=True)
class ForecasterResult:
    """A written bundle with its measurements."""

    bundle: ForecasterBundle
    folder: Path
    metrics: dict[str, Any]


@dataclass(frozen=True)
class TrackOptions:
    """How sources are read."""

    fps: float = 25.0
    """Frames per second of text files."""
    ground: str | Path | None = None
    """File of the homography that converts boxes to metres; see `read_ground`."""
    cameras: int = 0
    """Number of simulated cameras that view each source in metres, for a forecaster in heights. 0: sources stay in
    metres."""


def train_forecaster(
    tracks: Sequence[str | Path],
    out: str | Path,
    spec: ForecasterSpec | None = None,
    options: ForecastOptions | None = None,
    reading: TrackOptions | None = None,
    test: Sequence[str | Path] = (),
    note: str = "",
    trainers: int | None = None,
    address: str | None = None,
    on_epoch: OnEpoch | None = None,
) -> ForecasterResult:
    """Train a forecaster and write it as a bundle, with its metrics and those of two baselines.

    After an interruption, the same call continues from the last epoch.

    Args:
        tracks: Text files and lakes to learn from; see `read_scenes`.
        out: Folder of the bundle; its name is the forecaster's.
        spec: The network. Its unit follows from the sources; `slowest` is in metres.
        options: Regularisation and the seed.
        reading: How the sources are read.
        test: Sources to measure on, not used for training. Empty: the last fifth of each source.
        note: Where the data come from and under which licence, for the model card.
        trainers: Number of data-parallel workers of a cluster that train each network. None: this process trains.
        address: A Ray cluster to join.
        on_epoch: Called with the progress of the training.

    Raises:
        UsageError: A source or an option can't be used; the message names it.
    """
    options, reading, spec = options or ForecastOptions(), reading or TrackOptions(), spec or ForecasterSpec()
    check_name(Path(out).name)
    if not tracks:
        raise UsageError("no source of tracks was named")
    if not (np.isfinite([spec.step_s, reading.fps, options.noise]).all() and options.noise >= 0 < reading.fps):
        raise UsageError(
            f"step = {spec.step_s}, fps = {reading.fps}, noise = {options.noise}: they must be positive; only the "
            "noise may be 0"
        )
    scenes = [scene for source in tracks for scene in _scenes(source, reading)]
    unit = _unit(scenes)
    spec = replace(spec, unit=unit, slowest=spec.slowest / (PERSON_M if unit == HEIGHTS else 1.0))
    held_out = [scene for source in test for scene in _scenes(source, reading)]
    if test and _unit(held_out) != spec.unit:
        raise UsageError(f"--test: its places are in {_unit(held_out)!r}, those to learn from in {spec.unit!r}")
    training = _windows(scenes, spec)
    if test:
        measured = _windows(held_out, spec)
    else:
        training, measured = _divided(training)
    if not len(training) or not len(measured):
        long_s = (spec.n_observed + spec.n_foretold - 1) * spec.step_s
        raise UsageError(
            f"{'the sources' if not len(training) else 'what is measured on'}: nobody is followed for {long_s:.1f} s, "
            "which is what is seen and foretold; name more tracks, or shorten --observed or --ahead"
        )
    checkpoints = Path(f"{os.path.abspath(out)}-checkpoints")
    model = _trained(training, spec, options, checkpoints, trainers, address, on_epoch)
    metrics = {"model": measure_forecasts(model, measured)}
    for kind in BASELINES:
        # A baseline only learns how large its errors are.
        fitted = fit_forecaster(training, replace(spec, kind=kind, n_members=1), replace(options, epochs=2))
        metrics[kind] = measure_forecasts(_with_spread(fitted, training), measured)
    told = {
        "tracks": [Path(source).name for source in tracks],
        "test": [Path(source).name for source in test] or "the last fifth of each source",
        "n_windows": len(training),
        "n_scenes": len(scenes),
        "options": asdict(options),
        "reading": asdict(reading) | {"ground": Path(reading.ground).name if reading.ground else None},
        "note": note,
    }
    bundle = ForecasterBundle.of(Path(out).name, model, told, metrics)
    bundle.save(out, forecaster_card(bundle))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return ForecasterResult(load_forecaster(out), Path(out), metrics)


def _scenes(source: str | Path, reading: TrackOptions) -> list[SceneTracks]:
    """Return the scenes of a source, as simulated cameras see them if requested."""
    ground = read_ground(reading.ground) if reading.ground is not None else None
    scenes = [scene for scene in read_scenes(source, reading.fps, ground) if scene.trajectories]
    if not scenes:
        raise UsageError(f"{source}: nobody is followed in it")
    if not reading.cameras:
        return scenes
    return [
        seen
        for scene in scenes
        for seen in (
            seen_by_cameras(scene, reading.cameras, zlib.crc32(scene.name.encode()))
            if scene.unit == METRES
            else [scene]
        )
    ]


def _unit(scenes: Sequence[SceneTracks]) -> str:
    units = {scene.unit for scene in scenes}
    if len(units) > 1:
        raise UsageError(
            f"some places are in metres ({_named(scenes, METRES)}), some in pixels ({_named(scenes, HEIGHTS)}); name "
            "--ground for the boxes, or --cameras for the places"
        )
    return units.pop() if units else METRES


def _named(scenes: Sequence[SceneTracks], unit: str) -> str:
    return next(scene.name for scene in scenes if scene.unit == unit)


def _windows(scenes: Sequence[SceneTracks], spec: ForecasterSpec) -> Windows:
    """Return all windows of all scenes."""
    grids = (on_grid(scene.trajectories, spec.step_s, _GAP_S) for scene in scenes)
    return Windows.joined([cut_windows(grid, spec.n_observed, spec.n_foretold, spec.n_others) for grid in grids])


def _divided(windows: Windows) -> tuple[Windows, Windows]:
    """Return the first windows of each scene and the last ones. The two parts share no step."""
    last, reach = np.zeros(len(windows)), windows.places.shape[1]
    for scene in np.unique(windows.scene):
        own = windows.scene == scene
        last[own] = np.quantile(windows.step[own], 1 - _HELD_OUT)
    return windows.take(windows.step + reach < last), windows.take(windows.step - reach >= last)


def _trained(
    windows: Windows,
    spec: ForecasterSpec,
    options: ForecastOptions,
    checkpoints: Path,
    trainers: int | None,
    address: str | None,
    on_epoch: OnEpoch | None,
) -> Forecaster:
    """Return the trained forecaster. Each member is trained from its own seed."""
    config, members = Config(), []
    with stopping_on_signals(config.grace_s) as stop, ExitStack() as stack:
        if trainers:
            from pipeline.engine.ray.resources import joined

            stack.enter_context(joined(address, config, stop))
        for number in range(spec.n_members):
            of_member = replace(options, seed=options.seed + number * SEEDS_APART)
            one, name = replace(spec, n_members=1), f"network {number + 1}"
            if trainers:
                members.append(_fit_on_cluster(windows, one, of_member, trainers, checkpoints))
                continue
            tell = (lambda epoch, loss, name=name: on_epoch(name, epoch, loss)) if on_epoch else None
            members.append(fit_forecaster(windows, one, of_member, tell, checkpoints / f"{number}.pt"))
    return _with_spread(Forecaster.of(members), windows)


def _with_spread(model: Forecaster, windows: Windows) -> Forecaster:
    """Fit the spread of the ellipses to the training windows."""
    step = -(-len(windows) // _MOST_CALIBRATED)
    spread = fit_spread(model, windows.take(np.arange(0, len(windows), step)))
    model.spec = replace(model.spec, spread=spread)
    return model


def _fit_on_cluster(
    windows: Windows, spec: ForecasterSpec, options: ForecastOptions, n_workers: int, storage: Path
) -> Forecaster:
    """Train one network by several workers of the cluster that is joined; they average their gradients."""
    from pipeline.engine.ray.resources import cluster_has_gpus

    purpose = repr((asdict(spec), asdict(options), zlib.crc32(windows.places.tobytes()), n_workers))
    config = {"windows": windows, "spec": spec, "options": options}
    saved = train_on_cluster(_work, config, purpose, n_workers, storage, cluster_has_gpus(n_workers))
    model = Forecaster(spec)
    model.load_state_dict(saved["state"]["model"])
    return model.eval()


def _work(config: dict[str, Any]) -> None:
    """Train as one of the workers."""
    windows, spec, options = config["windows"], config["spec"], config["options"]
    run_worker(lambda *share: ForecastFitting(windows, spec, options, *share), asdict(spec))
