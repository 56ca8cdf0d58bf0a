r"""Priors of the training model and the hyperparameters learnt from all pixels.

theta[p,k] ~ Normal(1 if k = 0 else 0, tau[k])         tau[k] ~ HalfNormal(coef_scale)
loading[p,j] ~ Normal(0, tau_loading[j])               tau_loading[j] ~ HalfNormal(loading_scale)
log_s[p] ~ Normal(mu_s, omega_s)                       mu_s ~ Normal(...), omega_s ~ HalfNormal(...)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.errors import InvalidDataError

__all__ = ["Hyperparameters", "TrainingPriors", "update_hyperparameters"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class TrainingPriors:
    """Priors of the hyperparameters. Fluxes are normalised, so all scales are in units of it.

    Attributes
    ----------
    coef_scale : float
        HalfNormal scale of tau, the standard deviation of a term's coefficients over pixels.
    loading_scale : float
        HalfNormal scale of tau_loading.
    log_scatter_mean, log_scatter_mean_sd : float
        Normal prior of mu_s, the mean of log s over pixels.
    log_scatter_spread : float
        HalfNormal scale of omega_s, the standard deviation of log s over pixels.
    """

    coef_scale: float = 1.0
    loading_scale: float = 1.0
    log_scatter_mean: float = float(np.log(0.01))
    log_scatter_mean_sd: float = 2.0
    log_scatter_spread: float = 1.0

    def __post_init__(self) -> None:
        for name in ("coef_scale", "loading_scale", "log_scatter_mean_sd", "log_scatter_spread"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InvalidDataError(f"{name} must be positive and finite, not {value}.")

    def scales(self, n_terms: int, n_factors: int) -> FloatArray:
        """HalfNormal scale of every coefficient's tau, shape (n_terms + n_factors,)."""
        return np.repeat([self.coef_scale, self.loading_scale], [n_terms, n_factors])


@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """What the pixels share.

    Attributes
    ----------
    tau : (n_coef,) float64
        Standard deviation over pixels of each coefficient: terms first, then factors.
    mu_s, omega_s : float
        Mean and standard deviation over pixels of log s.
    """

    tau: FloatArray
    mu_s: float
    omega_s: float

    def log_prior(self, priors: TrainingPriors, n_terms: int) -> float:
        """Log density of the hyperparameters under their priors (up to constants of the priors)."""
        scale = priors.scales(n_terms, self.tau.size - n_terms)
        z = (self.mu_s - priors.log_scatter_mean) / priors.log_scatter_mean_sd
        log_p = -0.5 * np.sum((self.tau / scale) ** 2) - 0.5 * z**2
        return float(log_p - 0.5 * (self.omega_s / priors.log_scatter_spread) ** 2)

    def moved(self, other: Hyperparameters) -> float:
        """Largest change between two sets: relative for scales, in units of omega_s for mu_s."""
        change = np.abs(np.log(self.tau / other.tau))
        rest = [
            abs(np.log(self.omega_s / other.omega_s)),
            abs(self.mu_s - other.mu_s) / self.omega_s,
        ]
        return float(max(change.max(), *rest))


def _half_normal_mode(n: FloatArray, squares: FloatArray, scale: FloatArray) -> FloatArray:
    """Mode of tau**2 given the expected sum of squares of n values ~ N(0, tau)."""
    n = np.maximum(n, 1)
    root = np.sqrt(n**2 + 4 * squares / scale**2)
    return np.asarray(2 * squares / (n + root))


def update_hyperparameters(
    squares: FloatArray,
    counts: FloatArray,
    log_scatter: FloatArray,
    log_scatter_sd: FloatArray,
    priors: TrainingPriors,
    n_terms: int,
) -> Hyperparameters:
    """Maximise the expected log density over the hyperparameters (the M step of EM).

    Parameters
    ----------
    squares : (n_coef,)
        Sum over pixels of E[coefficient**2].
    counts : (n_coef,)
        Number of pixels in which each coefficient is free.
    log_scatter, log_scatter_sd : (n_pixels,)
        Posterior mean and standard deviation of log s of each pixel.
    """
    scale = priors.scales(n_terms, squares.size - n_terms)
    tau = np.sqrt(np.maximum(_half_normal_mode(counts, squares, scale), 1e-20))
    n, spread = float(log_scatter.size), 1.0
    mu = float(log_scatter.mean())
    for _ in range(20):
        weight = n / spread**2
        prior_weight = priors.log_scatter_mean_sd**-2
        mu = (weight * float(log_scatter.mean()) + prior_weight * priors.log_scatter_mean) / (
            weight + prior_weight
        )
        square = np.sum((log_scatter - mu) ** 2 + log_scatter_sd**2)
        spread = float(
            np.sqrt(
                _half_normal_mode(
                    np.array(n), np.array(square), np.array(priors.log_scatter_spread)
                )
            )
        )
        spread = max(spread, 0.02)
    return Hyperparameters(tau, mu, spread)
