"""A future as a mixture of paths, each with a bivariate Gaussian at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch


class Mixture(NamedTuple):
    """Futures of B people, each as M paths of P steps, in the unit of the forecaster, from now as the origin."""

    log_weight: torch.Tensor
    """`float32 [B, M]`: logarithm of how likely each path is; the likelihoods sum to 1."""
    mean: torch.Tensor
    """`float32 [B, M, P, 2]`"""
    covariance: torch.Tensor
    """`float32 [B, M, P, 3]`: of x with x, y with y, x with y."""

    def at_each_step(self, spread: Sequence[float] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean `float32 [B, P, 2]` and covariance `float32 [B, P, 3]` of a person's place at each step.

        Args:
            spread: See `ForecasterSpec.spread`.
        """
        weight = self.log_weight.exp()[:, :, None, None]
        mean = (weight * self.mean).sum(1)
        apart = self.mean - mean[:, None]
        between = torch.cat([apart**2, apart[..., :1] * apart[..., 1:]], dim=-1)
        covariance = (weight * (self.covariance + between)).sum(1)
        return mean, covariance * covariance.new_tensor(spread)[:, None] ** 2 if len(spread) else covariance

    def log_likelihood(self, places: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of the mixture's density at the true paths `float32 [B, P, 2]`, `float32 [B]`."""
        of_each = log_density(places[:, None] - self.mean, self.covariance).sum(-1)
        return torch.logsumexp(self.log_weight + of_each, dim=1)

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw paths, `float32 [B, n, P, 2]`.

        Each path is drawn as a whole: if it is to the left of its mean at one step, it is so at all steps. So it is as
        smooth as the means are.
        """
        chosen = torch.multinomial(self.log_weight.exp(), n, replacement=True, generator=generator)
        rows = torch.arange(len(chosen), device=chosen.device)[:, None]
        drawn = torch.randn(*chosen.shape, 1, 2, generator=generator)
        return self.mean[rows, chosen] + _scaled(drawn, self.covariance[rows, chosen])


def log_density(apart: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of a Gaussian's density, `[...]`, at an offset `[..., 2]` from its mean."""
    xx, yy, xy = covariance.unbind(-1)
    determinant = xx * yy - xy**2
    x, y = apart.unbind(-1)
    squared = (yy * x**2 - 2 * xy * x * y + xx * y**2) / determinant
    return -0.5 * (squared + determinant.log()) - math.log(2 * math.pi)


def _scaled(drawn: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Return standard normal numbers `[..., 2]` with a covariance, by its Cholesky factor."""
    xx, yy, xy = covariance.unbind(-1)
    of_x = xx.sqrt()
    of_y = (yy - xy**2 / xx).clamp(min=0).sqrt()
    x, y = drawn.unbind(-1)
    return torch.stack([of_x * x, xy / of_x * x + of_y * y], dim=-1)
