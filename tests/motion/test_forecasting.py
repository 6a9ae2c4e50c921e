"""Forecasters: their mixtures, and that what they tell does not depend on where, how large and which way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.errors import UsageError
from pipeline.motion.forecasting import KINDS, Forecaster, ForecasterSpec
from pipeline.motion.mixture import Mixture, log_density
from pipeline.motion.trajectories import Windows
from pipeline.training.forecast_fit import ForecastOptions, fit_forecaster
from pipeline.training.forecast_metrics import ONE_SIGMA, fit_spread, measure_forecasts


def full(covariance: torch.Tensor) -> torch.Tensor:
    """Covariances as matrices."""
    return covariance[..., [[0, 2], [2, 1]]]


def some_mixture(n_paths: int = 3) -> Mixture:
    generator = torch.Generator().manual_seed(1)
    roots = torch.randn(2, n_paths, 4, 2, 2, generator=generator)
    matrices = roots @ roots.mT + 0.1 * torch.eye(2)
    covariance = torch.stack([matrices[..., 0, 0], matrices[..., 1, 1], matrices[..., 0, 1]], dim=-1)
    weight = torch.randn(2, n_paths, generator=generator).log_softmax(-1)
    return Mixture(weight, torch.randn(2, n_paths, 4, 2, generator=generator), covariance)


def test_densities_are_those_of_torch() -> None:
    told = some_mixture()
    places = torch.randn(2, 4, 2)
    of_each = torch.distributions.MultivariateNormal(told.mean, full(told.covariance)).log_prob(places[:, None]).sum(-1)
    torch.testing.assert_close(told.log_likelihood(places), torch.logsumexp(told.log_weight + of_each, 1))
    one = torch.distributions.MultivariateNormal(torch.zeros(2), full(told.covariance)[0, 0, 0])
    torch.testing.assert_close(
        log_density(torch.tensor([0.3, -0.2]), told.covariance[0, 0, 0]), one.log_prob(torch.tensor([0.3, -0.2]))
    )


def test_drawn_paths_have_the_mean_and_the_covariance_that_are_told() -> None:
    told = some_mixture()
    drawn = told.sample(100_000, torch.Generator().manual_seed(0))
    mean, covariance = told.at_each_step()
    torch.testing.assert_close(drawn.mean(1), mean, atol=0.03, rtol=0.03)
    apart = drawn - drawn.mean(1, keepdim=True)
    found = torch.einsum("bnpi,bnpj->bpij", apart, apart) / drawn.shape[1]
    torch.testing.assert_close(found, full(covariance), atol=0.05, rtol=0.05)
    _, wider = told.at_each_step((2.0,) * 4)
    torch.testing.assert_close(wider, 4 * covariance)


@pytest.mark.parametrize("kind", KINDS)
def test_a_turned_moved_enlarged_world_has_the_same_future(kind: str) -> None:
    torch.manual_seed(0)
    model = Forecaster(ForecasterSpec(kind, n_others=3, n_members=2, hidden_dim=16, n_paths=4)).eval()
    # Everybody gets somewhere: who hardly moves is seen at the least length, which has a size.
    past = (torch.tensor([0.6, 0.8]) + 0.3 * torch.randn(5, 8, 2)).cumsum(1)
    others, present = torch.randn(5, 3, 4), torch.rand(5, 3) < 0.5
    turn = torch.tensor([[0.8, -0.6], [0.6, 0.8]])

    def moved(places: torch.Tensor) -> torch.Tensor:
        return 3.0 * places @ turn.mT

    before = model(past, others, present)
    others_after = torch.cat([moved(others[..., :2]), moved(others[..., 2:])], dim=-1)
    after = model(moved(past) + 7.0, others_after, present)
    torch.testing.assert_close(after.log_weight, before.log_weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.mean, moved(before.mean) + 7.0, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        full(after.covariance), 9.0 * turn @ full(before.covariance) @ turn.mT, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_who_stands_still_has_a_future(kind: str) -> None:
    torch.manual_seed(0)
    told = Forecaster(ForecasterSpec(kind, hidden_dim=16)).eval()(torch.ones(2, 8, 2))
    assert torch.isfinite(torch.cat([part.flatten() for part in told])).all()
    assert (told.at_each_step()[1][..., :2] > 0).all()


def test_others_who_are_not_there_change_nothing() -> None:
    torch.manual_seed(0)
    model = Forecaster(ForecasterSpec(n_others=3, hidden_dim=16)).eval()
    past, nobody = torch.randn(2, 8, 2).cumsum(1), torch.zeros(2, 3, dtype=torch.bool)
    for told, same in zip(model(past, torch.randn(2, 3, 4), nobody), model(past), strict=True):
        torch.testing.assert_close(told, same)


def test_baselines_go_on_or_stay() -> None:
    past = torch.tensor([[[0.0, 0.0], [1.0, 0.5]]])
    of_two = ForecasterSpec("constant_velocity", n_observed=2, n_foretold=2)
    np.testing.assert_allclose(Forecaster(of_two)(past).at_each_step()[0].detach()[0], [[2.0, 1.0], [3.0, 1.5]])
    np.testing.assert_allclose(
        Forecaster(replace(of_two, kind="still"))(past).at_each_step()[0].detach()[0], [[1.0, 0.5]] * 2
    )


def test_what_is_no_forecaster_is_refused() -> None:
    with pytest.raises(UsageError, match="kind = 'oracle' is not one of lstm, gru"):
        ForecasterSpec("oracle")
    with pytest.raises(UsageError, match="1 steps seen"):
        ForecasterSpec(n_observed=1)
    with pytest.raises(UsageError, match="nan s each"):
        ForecasterSpec(step_s=float("nan"))


def windows_of(places: np.ndarray) -> Windows:
    """Paths `[N, T, 2]` as windows of one scene; what they do not tell is of no importance here."""
    n, none = len(places), np.zeros(len(places), np.int64)
    return Windows(
        none, none, none, places.astype(np.float32), np.zeros((n, 2)), np.ones(n),
        np.zeros((n, 0, 4), np.float32), np.zeros((n, 0), np.bool_), none + 1,
    )  # fmt: skip


def turners(n: int, rng: np.random.Generator, n_steps: int = 20) -> np.ndarray:
    """Paths of those who walk in circles, each with a radius of their own, one half each way."""
    turn = rng.uniform(0.05, 0.3, n) * rng.choice([-1, 1], n)
    heading = rng.uniform(0, 2 * np.pi, n)[:, None] + turn[:, None] * np.arange(n_steps)
    steps = 0.5 * np.stack([np.cos(heading), np.sin(heading)], axis=-1)
    return steps.cumsum(axis=1)


@pytest.mark.accuracy
@pytest.mark.parametrize("kind", ["lstm", "gru", "transformer"])
def test_a_bend_is_followed_where_going_straight_on_is_far_off(kind: str) -> None:
    rng = np.random.default_rng(0)
    training, test = windows_of(turners(2000, rng)), windows_of(turners(200, rng))
    options = ForecastOptions(epochs=12, batch_size=100, noise=0.0)
    model = fit_forecaster(training, ForecasterSpec(kind, hidden_dim=32, n_paths=3), options)
    straight = fit_forecaster(training, ForecasterSpec("constant_velocity"), options)
    learnt, baseline = measure_forecasts(model, test), measure_forecasts(straight, test)
    assert learnt["fde"] < 0.25 * baseline["fde"]
    assert learnt["log_likelihood"] > baseline["log_likelihood"]


def test_figures_are_those_that_are_computed_by_hand() -> None:
    spec = ForecasterSpec("constant_velocity", n_observed=2, n_foretold=2)
    true = windows_of(np.array([[[0, 0], [1, 0], [2, 1], [3, 2]], [[0, 0], [0, 1], [0, 2], [0, 3]]], float))
    found = measure_forecasts(Forecaster(spec).eval(), true)
    assert found["ade"] == pytest.approx((1 + 2 + 0 + 0) / 4)
    assert found["fde"] == pytest.approx((2 + 0) / 2)
    assert found["n"] == 2
    assert found["one_sigma"] == 0.5
    assert 0 < found["best_ade"] < found["ade"]


def test_the_spread_is_that_which_holds_what_it_should() -> None:
    rng = np.random.default_rng(0)
    n_steps = np.array([1.0, 2.0])
    future = rng.normal(0, 1, (20_000, 2, 2)) * 0.3 * n_steps[:, None]
    windows = windows_of(np.concatenate([np.zeros((20_000, 2, 2)), future], axis=1))
    model = Forecaster(ForecasterSpec("still", n_observed=2, n_foretold=2)).eval()
    model.spec = replace(model.spec, spread=fit_spread(model, windows))
    found = measure_forecasts(model, windows)
    assert found["one_sigma"] == pytest.approx(ONE_SIGMA, abs=0.005)
    # The deviations are those of the Gaussian that it is.
    covariance = model(torch.zeros(1, 2, 2)).at_each_step(model.spec.spread)[1]
    np.testing.assert_allclose(covariance.detach()[0, :, :2].sqrt(), [[0.3, 0.3], [0.6, 0.6]], rtol=0.02)
    assert [found["levels"][str(level)] for level in (0.1, 0.5, 0.9)] == pytest.approx([0.1, 0.5, 0.9], abs=0.01)


def test_who_never_moves_leaves_a_spread_all_the_same() -> None:
    windows = windows_of(np.zeros((50, 4, 2)))
    model = Forecaster(ForecasterSpec("still", n_observed=2, n_foretold=2)).eval()
    spread = fit_spread(model, windows)
    assert all(value > 0 for value in spread)
    model.spec = replace(model.spec, spread=spread)
    assert measure_forecasts(model, windows)["one_sigma"] == 1.0
