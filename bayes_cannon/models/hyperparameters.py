"""Hyperparameters that the pixels share, and their priors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "Hyperparameters",
    "TrainingPriors",
]

_SINGULAR = 1e-13
"""Ratio of the eigenvalues of correlations below which they count as singular."""


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
    correlation_shape : float
        Shape of the LKJ prior of the correlations between coefficients, at least 1, where pixels
        are independent; 2 (shape - 1) is about the number of pixels with no correlation that it is
        worth. The fit raises it where they are not (`against`).
    """

    coef_scale: float = 1.0
    loading_scale: float = 1.0
    log_scatter_mean: float = float(np.log(0.01))
    log_scatter_mean_sd: float = 2.0
    log_scatter_spread: float = 1.0
    correlation_shape: float = 50.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.correlation_shape) and self.correlation_shape >= 1):
            raise InvalidDataError(
                f"correlation_shape must be finite and at least 1, not {self.correlation_shape}."
            )
        for name in ("coef_scale", "loading_scale", "log_scatter_mean_sd", "log_scatter_spread"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InvalidDataError(f"{name} must be positive and finite, not {value}.")

    def against(self, redundancy: float) -> TrainingPriors:
        """Priors that are worth as much against pixels of which only one in `redundancy` counts.

        Parameters
        ----------
        redundancy
            Pixels per independent one, from 1.

        Examples
        --------
        >>> TrainingPriors(correlation_shape=50.0).against(10.0).correlation_shape
        491.0
        """
        return replace(self, correlation_shape=1 + (self.correlation_shape - 1) * redundancy)

    def scales(self, n_terms: int, n_factors: int) -> FloatArray:
        """HalfNormal scale of every coefficient's tau, shape (n_terms + n_factors,).

        Parameters
        ----------
        n_terms, n_factors
            Numbers of terms and of factors.
        """
        return np.repeat([self.coef_scale, self.loading_scale], [n_terms, n_factors])


@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """What the pixels share.

    Attributes
    ----------
    covariance : (n_coef, n_coef) float64
        T: covariance over pixels of the coefficients, terms first, then factors.
    mu_s, omega_s : float
        Mean and standard deviation over pixels of log s.
    redundancy : float
        Pixels per independent one (`redundancy.pixels_per_independent_one`), to which the prior of
        the correlations was adapted.
    """

    covariance: FloatArray
    mu_s: float
    omega_s: float
    redundancy: float = 1.0

    def __post_init__(self) -> None:
        shape = np.shape(self.covariance)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise InvalidDataError(f"covariance has shape {shape}, expected a square matrix.")

    @property
    def tau(self) -> FloatArray:
        """Standard deviation over pixels of each coefficient, shape (n_coef,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def usable(self) -> bool:
        """Whether T is finite and safely positive definite, and the scatters' moments finite."""
        if not np.isfinite([*self.covariance.flat, self.mu_s, self.omega_s]).all():
            return False
        if not (np.diag(self.covariance) > 0).all() or self.omega_s <= 0:
            return False
        values = np.linalg.eigvalsh(self.correlation)
        return bool(np.isfinite(values).all() and values[0] > _SINGULAR * values[-1])

    @property
    def correlation(self) -> FloatArray:
        """R, shape (n_coef, n_coef)."""
        return self.covariance / np.outer(self.tau, self.tau)

    def transformed(self, matrix: FloatArray) -> Hyperparameters:
        """Return those of the coefficients ``matrix @ c``.

        Parameters
        ----------
        matrix
            Shape (n_coef, n_coef).
        """
        covariance = matrix @ self.covariance @ matrix.T
        return replace(self, covariance=0.5 * (covariance + covariance.T))

    def log_prior(self, priors: TrainingPriors, n_terms: int) -> float:
        """Log density of the hyperparameters under their priors (up to constants of the priors).

        That of tau and R, in these coordinates.

        Parameters
        ----------
        priors
            Their priors.
        n_terms
            Of the coefficients, how many are terms; the rest are loadings.
        """
        scale = priors.scales(n_terms, self.tau.size - n_terms)
        z = (self.mu_s - priors.log_scatter_mean) / priors.log_scatter_mean_sd
        log_p = -0.5 * np.sum((self.tau / scale) ** 2) - 0.5 * z**2
        log_p += (priors.correlation_shape - 1) * np.linalg.slogdet(self.correlation)[1]
        return float(log_p - 0.5 * (self.omega_s / priors.log_scatter_spread) ** 2)

    def moved(self, other: Hyperparameters) -> float:
        """Largest change between two sets.

        Relative for scales, in units of omega_s for mu_s, and the root mean square of the changes
        of the correlations.

        Parameters
        ----------
        other
            Of as many coefficients.
        """
        change = np.abs(np.log(self.tau / other.tau))
        rest = [
            abs(np.log(self.omega_s / other.omega_s)),
            abs(self.mu_s - other.mu_s) / self.omega_s,
            np.sqrt(np.mean((self.correlation - other.correlation) ** 2)),
        ]
        return float(max(change.max(), *rest))
