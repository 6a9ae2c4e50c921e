"""Measure forecasters on ETH/UCY, with each scene left out in turn: the distance from the true paths, in metres.

    python tests/bench/forecasts.py ../shared/data/trajectories [--kind lstm] [--others 0] [--seeds 3] [--noise 0.05]

A forecaster sees eight steps of 0.4 s and forecasts twelve. As in Social GAN's loader, only people count who are there
for all twenty steps while another one is, too. For each scene, it prints the mean, lowest and highest of the seeds, and
the seeds together.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.motion.forecasting import Forecaster, ForecasterSpec
from pipeline.motion.trajectories import Windows, cut_windows, on_grid
from pipeline.training.forecast_fit import ForecastOptions, fit_forecaster
from pipeline.training.forecast_metrics import LEVELS, fit_spread, measure_forecasts
from pipeline.training.trajectories import read_scenes

FIGURES = ("ade", "fde", "best_ade", "best_fde", "one_sigma")


def windows_of(folder: Path, files: list[str], spec: ForecasterSpec) -> Windows:
    scenes = [scene for name in files for scene in read_scenes(folder / name)]
    return Windows.joined(
        [
            cut_windows(on_grid(scene.trajectories, 0.4, 0.4), spec.n_observed, spec.n_foretold, spec.n_others)
            for scene in scenes
        ]
    )


def with_spread(model: Forecaster, windows: Windows) -> Forecaster:
    model.spec = replace(model.spec, spread=fit_spread(model, windows))
    return model


def plot(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw what ellipses hold over what they should hold, a line for each scene that was left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 4), sharey=True)
    for axis, name in zip(axes, ("straight on", "together"), strict=True):
        axis.plot([0, 1], [0, 1], color="grey", linestyle=":", label="right")
        for scene, rows in results.items():
            axis.plot(LEVELS, [rows[name]["levels"][str(level)] for level in LEVELS], marker=".", label=scene)
        axis.set(
            title={"together": "LSTM"}.get(name, name), xlabel="should hold", xlim=(0, 1), ylim=(0, 1), aspect="equal"
        )
    axes[0].set_ylabel("holds")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--kind", default="lstm")
    parser.add_argument("--others", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noise", type=float, default=ForecastOptions.noise)
    parser.add_argument("--epochs", type=int, default=ForecastOptions.epochs)
    parser.add_argument("--scenes", default="eth,hotel,univ,zara1,zara2")
    parser.add_argument("--out", type=Path, help="JSON file for all figures")
    parser.add_argument("--plot", type=Path, help="picture of how much ellipses hold")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spec = ForecasterSpec(options.kind, n_others=options.others)
    splits = json.loads((options.data / "splits.json").read_text())
    results: dict[str, dict[str, Any]] = {}
    print("scene   forecaster          ADE    FDE    best of 20    in 1 sigma   windows", flush=True)
    for scene in options.scenes.split(","):
        training = windows_of(options.data, splits[scene]["train"], spec)
        validation = windows_of(options.data, splits[scene]["val"], spec)
        test = windows_of(options.data, splits[scene]["test"], spec)
        test = test.take(test.n_company > 1)
        straight = fit_forecaster(training, replace(spec, kind="constant_velocity"), ForecastOptions())
        fitting = [
            ForecastOptions(seed=seed, noise=options.noise, epochs=options.epochs) for seed in range(options.seeds)
        ]
        models = [fit_forecaster(training, spec, of_seed) for of_seed in fitting]
        of_seeds = [measure_forecasts(with_spread(model, validation), test) for model in models]
        together = measure_forecasts(with_spread(Forecaster.of(models), validation), test)
        rows = {
            "straight on": measure_forecasts(with_spread(straight, validation), test),
            "mean of seeds": {name: float(np.mean([each[name] for each in of_seeds])) for name in FIGURES},
            "lowest": {name: min(each[name] for each in of_seeds) for name in FIGURES},
            "highest": {name: max(each[name] for each in of_seeds) for name in FIGURES},
            "together": together,
        }
        results[scene] = rows
        for name, row in rows.items():
            told = "  ".join(f"{row[figure]:.3f}" for figure in FIGURES)
            print(f"{scene:7} {name:16} {told}  {len(test)}", flush=True)
    for name in ("straight on", "mean of seeds", "together"):
        told = "  ".join(f"{np.mean([rows[name][figure] for rows in results.values()]):.3f}" for figure in FIGURES)
        print(f"mean    {name:16} {told}", flush=True)
    levels = {
        level: float(np.mean([rows["together"]["levels"][str(level)] for rows in results.values()])) for level in LEVELS
    }
    print("ellipses that should hold / hold:", ", ".join(f"{level}/{share:.2f}" for level, share in levels.items()))
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
