"""Measure how near forecasts come to what happened, and whether their uncertainty is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.motion.forecasting import Forecaster
from pipeline.motion.trajectories import Windows

N_SAMPLES = 20
"""Number of paths that are drawn for the figures "best of 20"."""
LEVELS = tuple(round(0.1 * number, 1) for number in range(1, 10))
"""Shares of the true places that ellipses around a forecast should contain."""
_LEAST_SPREAD = 0.05
ONE_SIGMA = 1 - float(np.exp(-0.5))
"""Share that an ellipse of one standard deviation contains if a bivariate Gaussian is right: 0.393."""


def measure_forecasts(model: Forecaster, windows: Windows, seed: int = 0) -> dict[str, Any]:
    """Measure a forecaster on windows of trajectories.

    Returns:
        `ade` and `fde`: distance of the mean from the true place, over all steps and at the last one, in the
        forecaster's unit (Alahi et al. 2016). `best_ade` and `best_fde`: the same for the best of `N_SAMPLES` drawn
        paths, chosen separately for each figure (Gupta et al. 2018). `log_likelihood` of the true path, per step.
        `one_sigma`: share of steps whose place is in the ellipse of one standard deviation, ideally `ONE_SIGMA`.
        `levels`: the same for the ellipses of `LEVELS`. `n`: number of windows.
    """
    past, others, present = (torch.from_numpy(values) for values in (windows.places, windows.others, windows.present))
    future = past[:, model.spec.n_observed :]
    past = past[:, : model.spec.n_observed]
    generator = torch.Generator().manual_seed(seed)
    apart, nearest, nearest_last, squared, likelihood = [], [], [], [], []
    for some, told in model.in_batches(past, others, present):
        true = future[some]
        mean, covariance = told.at_each_step(model.spec.spread)
        apart.append((mean - true).norm(dim=-1))
        of_samples = (told.sample(N_SAMPLES, generator) - true[:, None]).norm(dim=-1)
        nearest.append(of_samples.mean(dim=-1).amin(dim=1))
        nearest_last.append(of_samples[..., -1].amin(dim=1))
        squared.append(_mahalanobis(mean - true, covariance))
        likelihood.append(told.log_likelihood(true) / model.spec.n_foretold)
    distance = torch.cat(apart).double()
    holding = ellipse_of(torch.cat(squared).numpy())
    return {
        "ade": float(distance.mean()),
        "fde": float(distance[:, -1].mean()),
        "best_ade": float(torch.cat(nearest).double().mean()),
        "best_fde": float(torch.cat(nearest_last).double().mean()),
        "log_likelihood": float(torch.cat(likelihood).double().mean()),
        "one_sigma": float((holding <= ONE_SIGMA).mean()),
        "levels": {str(level): float((holding <= level).mean()) for level in LEVELS},
        "n": len(windows),
    }


def fit_spread(model: Forecaster, windows: Windows) -> tuple[float, ...]:
    """Return the `ForecasterSpec.spread` with which, at each step, the ellipse of one sigma contains `ONE_SIGMA`."""
    past, others, present = (torch.from_numpy(values) for values in (windows.places, windows.others, windows.present))
    n_observed = model.spec.n_observed
    squared = []
    for some, told in model.in_batches(past[:, :n_observed], others, present):
        mean, covariance = told.at_each_step()
        squared.append(_mahalanobis(mean - past[some, n_observed:], covariance))
    # This quantile of the squared distance is 1 for a Gaussian. If many people stand still, it is 0.
    reached = np.quantile(torch.cat(squared).double().numpy(), ONE_SIGMA, axis=0)
    return tuple(np.sqrt(reached).clip(_LEAST_SPREAD).tolist())


def _mahalanobis(apart: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Return the squared distance from the mean, in standard deviations, `[...]`."""
    xx, yy, xy = covariance.unbind(-1)
    x, y = apart.unbind(-1)
    return (yy * x**2 - 2 * xy * x * y + xx * y**2) / (xx * yy - xy**2)


def ellipse_of(squared: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the share that an ellipse contains, given the squared distance of its edge from the mean."""
    return np.asarray(1 - np.exp(-0.5 * squared.astype(np.float64)))
