"""The training of forecasters: it resumes, it can be shared out, and a decoder repeats what it saw long before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.motion.forecasting import Forecaster, ForecasterSpec
from pipeline.training.fit import Share
from pipeline.training.forecast_fit import ForecastFitting, ForecastOptions, fit_forecaster
from pipeline.training.forecast_fit import _drawn as drawn
from tests.motion.test_forecasting import turners, windows_of

SPEC = ForecasterSpec(hidden_dim=16, n_paths=2)
OPTIONS = ForecastOptions(epochs=3, batch_size=50)
# A minute and a half of computing, which on a busy machine is more than others have time for.
LONG = (pytest.mark.long, pytest.mark.timeout(900))


def weights(model: Forecaster) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_training_that_was_cut_off_ends_as_a_quiet_one(tmp_path: Path) -> None:
    windows = windows_of(turners(200, np.random.default_rng(0)))
    quiet = weights(fit_forecaster(windows, SPEC, OPTIONS))
    first = ForecastFitting(windows, SPEC, OPTIONS).epochs(tmp_path / "state.pt")
    assert next(first)[0] == 1
    told: list[int] = []
    resumed = fit_forecaster(windows, SPEC, OPTIONS, lambda epoch, _: told.append(epoch), tmp_path / "state.pt")
    assert told == [2, 3]
    assert torch.equal(weights(resumed), quiet)
    # What another training left is not taken up.
    told.clear()
    fit_forecaster(windows, SPEC, replace(OPTIONS, seed=1), lambda epoch, _: told.append(epoch), tmp_path / "state.pt")
    assert told == [1, 2, 3]


def test_the_shares_of_workers_add_up_to_the_whole_batch() -> None:
    """Two workers whose gradients are averaged by hand step as one worker does."""
    windows = windows_of(turners(101, np.random.default_rng(0)))
    options = replace(OPTIONS, epochs=1, batch_size=101)
    alone, *shares = (ForecastFitting(windows, SPEC, options, Share(*share)) for share in ((0, 1), (0, 2), (1, 2)))
    gradients = []
    for fitting in (alone, *shares):
        kept: list[torch.Tensor] = []
        fitting._optimizer.register_step_pre_hook(  # type: ignore[attr-defined]
            lambda optimizer, *_, kept=kept: kept.append(
                torch.cat([parameter.grad.flatten() for parameter in optimizer.param_groups[0]["params"]])
            )
        )
        fitting.run_epoch()
        gradients.append(kept[0])
    # Gradients are clipped to a length of 1 each, which averaging by hand is not.
    both = gradients[1] + gradients[2]
    assert torch.nn.functional.cosine_similarity(both, gradients[0], dim=0) > 0.99


def test_a_crowded_scene_does_not_outvote_all_others() -> None:
    scene = np.repeat([0, 1, 2], [10_000, 400, 25])
    counts = np.bincount(scene[drawn(scene, np.random.default_rng(0))])
    # As the roots: 100, 20 and 5 of 125.
    assert counts.tolist() == [8340, 1668, 417]
    rows = drawn(scene, np.random.default_rng(0))
    of_small = np.bincount(rows[scene[rows] == 2] - 10_400)
    assert of_small.max() - of_small.min() <= 1
    assert not np.array_equal(rows, drawn(scene, np.random.default_rng(1)))


def motifs(n: int, rng: np.random.Generator, n_same: int, n_between: int) -> np.ndarray:
    """Paths that go fast or slowly, some steps each, three times, stand still for long, then do the same again."""
    steps = rng.choice([0.5, 1.5], (n, 3)).repeat(n_same, axis=1)
    ahead = np.concatenate([steps, np.zeros((n, n_between)), steps], axis=1).cumsum(axis=1)
    return np.stack([ahead, np.zeros_like(ahead)], axis=-1)


@pytest.mark.accuracy
@pytest.mark.parametrize(
    ("n_same", "n_between", "options"),
    [
        (2, 10, ForecastOptions(epochs=80, batch_size=64, learning_rate=1e-2, mean_weight=4.0)),
        pytest.param(10, 200, ForecastOptions(epochs=60, batch_size=32, learning_rate=5e-3), marks=LONG),
    ],
)
def test_a_decoder_repeats_a_motif_that_it_saw_long_before(
    n_same: int, n_between: int, options: ForecastOptions
) -> None:
    """Sequence to sequence: steps of 8 kinds, told again after steps of standing still, which tell nothing.

    In the longer case 30 steps are told again after 200.
    """
    rng = np.random.default_rng(0)
    spec = ForecasterSpec(n_observed=3 * n_same + n_between, n_foretold=3 * n_same, n_paths=1, slowest=1.0)
    options = replace(options, noise=0.0, scale=0.0)
    model = fit_forecaster(windows_of(motifs(640, rng, n_same, n_between)), spec, options)
    places = torch.from_numpy(motifs(64, rng, n_same, n_between).astype(np.float32))
    with torch.inference_mode():
        told = model(places[:, : spec.n_observed]).at_each_step()[0]
    fast, was_fast = (torch.diff(each[..., 0], dim=1) > 1.0 for each in (told, places[:, spec.n_observed :]))
    assert (fast == was_fast).float().mean() > 0.9
