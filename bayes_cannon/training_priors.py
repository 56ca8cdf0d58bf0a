r"""Priors of the training model and the hyperparameters learnt from all pixels.

[theta[p] - (1, 0, ...), loading[p]] ~ Normal(0, T) ,    T = diag(tau) R diag(tau)
tau[k] ~ HalfNormal(coef_scale or loading_scale) ,       R ~ LKJ(correlation_shape)
log_s[p] ~ Normal(mu_s, omega_s) ,     mu_s ~ Normal(...) ,     omega_s ~ HalfNormal(...)

Why T is not diagonal: the labels of a star follow from ``G' S^-1 G`` with G the coefficients of
thousands of pixels. Noise in G adds to it whatever its sign, so that labels are pulled towards the
mean (in the library survey by 7 % in Teff and 15 to 25 % in [Mg/Fe] and [Si/Fe]), unless the prior
takes the noise out. Noise is largest where labels go together (Teff with log g, [Mg/Fe] with
[Si/Fe]); a diagonal prior cannot tell it from signal there, one with correlations can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.errors import InvalidDataError

__all__ = ["LONGEST", "Hyperparameters", "TrainingPriors", "covariance_mode", "extrapolate",
           "update_hyperparameters"]  # fmt: skip

FloatArray = NDArray[np.float64]
LONGEST = 20.0
"""Longest extrapolation, in steps."""
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
        """Priors that are worth as much against pixels of which only one in `redundancy` counts."""
        return replace(self, correlation_shape=1 + (self.correlation_shape - 1) * redundancy)

    def scales(self, n_terms: int, n_factors: int) -> FloatArray:
        """HalfNormal scale of every coefficient's tau, shape (n_terms + n_factors,)."""
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
        """Return those of the coefficients ``matrix @ c``."""
        covariance = matrix @ self.covariance @ matrix.T
        return replace(self, covariance=0.5 * (covariance + covariance.T))

    def log_prior(self, priors: TrainingPriors, n_terms: int) -> float:
        """Log density of the hyperparameters under their priors (up to constants of the priors).

        That of tau and R, in these coordinates.
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
        """
        change = np.abs(np.log(self.tau / other.tau))
        rest = [
            abs(np.log(self.omega_s / other.omega_s)),
            abs(self.mu_s - other.mu_s) / self.omega_s,
            np.sqrt(np.mean((self.correlation - other.correlation) ** 2)),
        ]
        return float(max(change.max(), *rest))


def extrapolate(
    start: Hyperparameters,
    first: Hyperparameters,
    second: Hyperparameters,
    *,
    longest: float = LONGEST,
) -> Hyperparameters:
    """Where two rounds of EM from `start` lead to, by the squared extrapolation of EM.

    At most `longest` steps. The point may be worse than `second`: whoever goes there has to
    compare the densities.

    Varadhan & Roland (2008, Scand. J. Statist. 35, 335), their third step length, for the logarithm
    of the covariance: whatever is added to that, its exponential is a covariance.
    """
    unit = np.outer(start.tau, start.tau)
    at, one, two = (_log(h.covariance / unit) for h in (start, first, second))
    step = one - at
    bend = two - one - step
    length = np.linalg.norm(step) / max(float(np.linalg.norm(bend)), 1e-300)
    length = np.clip(length, 1.0, longest)
    values, vectors = np.linalg.eigh(at + 2 * length * step + length**2 * bend)
    covariance = (vectors * np.exp(values)) @ vectors.T * unit
    return replace(second, covariance=0.5 * (covariance + covariance.T))


def _log(covariance: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.log(np.maximum(values, 1e-30))) @ vectors.T)


def _half_normal_mode(n: float, squares: float, scale: float) -> float:
    """Mode of tau**2 given the expected sum of squares of n values ~ N(0, tau)."""
    root = np.sqrt(max(n, 1.0) ** 2 + 4 * squares / scale**2)
    return float(2 * squares / (max(n, 1.0) + root))


def covariance_mode(second: FloatArray, n: float, scale: FloatArray, shape: float) -> FloatArray:
    r"""Mode of T = diag(tau) R diag(tau) given the expected sum of n outer products c c'.

    With ``e = 2 (shape - 1)`` and ``Q = diag(e / tau**2 + 1 / scale**2)`` the mode fulfils
    ``second = (n - e) T + T Q T``; for given Q that is solved by an eigendecomposition, and tau
    is iterated, with the steps that would be Newton's if T were diagonal.

    Parameters
    ----------
    second : (n_coef, n_coef)
        Sum over pixels of E[c c'].
    n : float
        Number of pixels.
    scale : (n_coef,)
        HalfNormal scales of tau.
    shape : float
        Of the LKJ prior of R.
    """
    extra = 2 * (shape - 1)
    n = max(n, 1.0)
    variance = np.maximum(np.diag(second) / n, 1e-20)
    for _ in range(200):
        root = np.sqrt(extra / variance + scale**-2.0)
        values, vectors = np.linalg.eigh(root[:, None] * second * root)
        values, gap = np.maximum(values, 0.0), n - extra
        wide = np.sqrt(gap**2 + 4 * values)
        # The form without cancellation for either sign of the gap.
        x = 2 * values / (gap + wide) if gap > 0 else 0.5 * (wide - gap)
        covariance = (vectors * np.maximum(x, 1e-300)) @ vectors.T / np.outer(root, root)
        step = np.log(np.maximum(np.diag(covariance), 1e-20) / variance)
        if np.max(np.abs(step)) < 1e-7:
            break
        stretch = 1 + extra / (n + 2 * variance / scale**2)
        variance = variance * np.exp(np.clip(stretch * step, -3.0, 3.0))
    floor = 1e-10 * np.diag(np.maximum(variance, 1e-20))  # a coefficient that is zero everywhere
    return np.asarray(0.5 * (covariance + covariance.T) + floor)


def update_hyperparameters(
    second: FloatArray,
    log_scatter: FloatArray,
    log_scatter_sd: FloatArray,
    priors: TrainingPriors,
    n_terms: int,
) -> Hyperparameters:
    """Maximise the expected log density over the hyperparameters (the M step of EM).

    Parameters
    ----------
    second : (n_coef, n_coef)
        Sum over pixels of E[c c'], c the coefficients of flux - 1.
    log_scatter, log_scatter_sd : (n_pixels,)
        Posterior mean and standard deviation of log s of each pixel.
    """
    scale = priors.scales(n_terms, len(second) - n_terms)
    n, spread = float(log_scatter.size), 1.0
    covariance = covariance_mode(second, n, scale, priors.correlation_shape)
    mu = float(log_scatter.mean())
    for _ in range(20):
        weight = n / spread**2
        prior_weight = priors.log_scatter_mean_sd**-2
        mu = (weight * float(log_scatter.mean()) + prior_weight * priors.log_scatter_mean) / (
            weight + prior_weight
        )
        square = float(np.sum((log_scatter - mu) ** 2 + log_scatter_sd**2))
        spread = max(float(np.sqrt(_half_normal_mode(n, square, priors.log_scatter_spread))), 0.02)
    return Hyperparameters(covariance, mu, spread)
