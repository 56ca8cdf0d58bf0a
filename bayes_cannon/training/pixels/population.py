r"""Moments of the coefficients over pixels, from which their population is learnt.

Prior of the coefficients and the log scatter of a block of pixels.

    c[p] ~ Normal(0, T) ,     log s[p] ~ Normal(mu, omega) .

`T` has the covariances between terms as well as their variances: lines that grow with [Fe/H]
weaken with Teff, and a prior that knows it keeps the noise of the coefficients from adding up
over thousands of pixels (see `training_priors`).

Priors of the training model and the hyperparameters learnt from all pixels.

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
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.packing import unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors

__all__ = [
    "LONGEST",
    "PixelPrior",
    "covariance_mode",
    "extrapolate",
    "second_moment",
    "update_hyperparameters",
]


def second_moment(mean: FloatArray, cov: FloatArray, prior: PixelPrior) -> FloatArray:
    """Sum over pixels of E[c c']; coefficients held at zero count as missing, not as zero.

    Parameters
    ----------
    mean
        Of the coefficients, shape (n_pixels, n_coef).
    cov
        Packed covariances, shape (n_pixels, n_coef (n_coef + 1) / 2).
    prior
        Of the coefficients, with those that are free.
    """
    cases, which = prior.patterns
    total = np.zeros_like(prior.covariance)
    for case, free in enumerate(cases):
        rows = which == case if which.size else slice(None)
        second = mean[rows].T @ mean[rows] + unpack(cov[rows].sum(axis=0))
        total += second if free.all() else _filled(second, len(mean[rows]), free, prior.covariance)
    return total


def _filled(
    second: FloatArray, n: int, free: NDArray[np.bool_], covariance: FloatArray
) -> FloatArray:
    """Sum of E[c c'] over n pixels in which only some coefficients are free."""
    inside, across = np.ix_(free, free), np.ix_(~free, free)
    slope = np.linalg.solve(covariance[inside], covariance[across].T).T
    out = np.zeros_like(covariance)
    out[inside], out[across] = second[inside], slope @ second[inside]
    out[np.ix_(free, ~free)] = out[across].T
    rest = covariance[np.ix_(~free, ~free)] - slope @ covariance[across].T
    out[np.ix_(~free, ~free)] = out[across] @ slope.T + n * rest
    return out


@dataclass(frozen=True, eq=False)
class PixelPrior:
    """Prior of a block of pixels.

    Attributes
    ----------
    covariance : (n_coef, n_coef) float64
        T, positive definite.
    log_scatter_mean, log_scatter_sd : float
        Population of log s.
    free : (n_pixels, n_coef) bool or None
        False where a coefficient is held at zero; the prior of the others is then their part
        of T. None: all are free.
    """

    covariance: FloatArray
    log_scatter_mean: float
    log_scatter_sd: float
    free: NDArray[np.bool_] | None = None

    def rows(self, pixels: slice | NDArray[np.intp]) -> PixelPrior:
        """Return the prior of some pixels."""
        if self.free is None:
            return self
        return PixelPrior(
            self.covariance, self.log_scatter_mean, self.log_scatter_sd, self.free[pixels]
        )

    @cached_property
    def patterns(self) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Which coefficients are free: the different cases (m, n_coef), and the case of each pixel.

        Where all are free in all pixels there is one case, and the second array is empty.
        """
        if self.free is None or self.free.all():
            n_coef = len(self.covariance)
            return np.ones((1, n_coef), dtype=bool), np.zeros(0, dtype=np.intp)
        cases, which = np.unique(self.free, axis=0, return_inverse=True)
        return cases, which.reshape(-1)

    @cached_property
    def _inverses(self) -> tuple[FloatArray, FloatArray]:
        """Of each pattern: T^-1 of the free coefficients (unit diagonal elsewhere) and log |T|."""
        cases, _ = self.patterns
        inverse = np.zeros((len(cases), *self.covariance.shape))
        log_det = np.zeros(len(cases))
        for m, free in enumerate(cases):
            part = self.covariance[np.ix_(free, free)]
            scale = np.sqrt(np.diag(part))
            correlation = part / np.outer(scale, scale)
            inverse[m][np.ix_(free, free)] = np.linalg.inv(correlation) / np.outer(scale, scale)
            inverse[m][~free, ~free] = 1.0
            log_det[m] = np.linalg.slogdet(correlation)[1] + 2 * np.sum(np.log(scale))
        return inverse, log_det

    @cached_property
    def precision(self) -> FloatArray:
        """T^-1 of the pixels, shape (n_pixels or 1, n_coef, n_coef).

        Rows and columns of coefficients held at zero are those of the unit matrix.
        """
        which = self.patterns[1]
        inverse = self._inverses[0]
        return inverse[which] if which.size else inverse

    @cached_property
    def log_det(self) -> FloatArray:
        """Log |T| of the free coefficients, shape (n_pixels or 1,)."""
        which = self.patterns[1]
        log_det = self._inverses[1]
        return log_det[which] if which.size else log_det


LONGEST = 20.0
"""Longest extrapolation, in steps."""


def extrapolate(
    start: Hyperparameters,
    first: Hyperparameters,
    second: Hyperparameters,
    *,
    longest: float = LONGEST,
) -> Hyperparameters:
    """Where two rounds of EM from `start` lead to, by the squared extrapolation of EM.

    The point may be worse than `second`: whoever goes there has to compare the densities.

    Parameters
    ----------
    start, first, second
        Where EM was, and after one and two rounds.
    longest
        Steps at most.

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
    priors
        Of the hyperparameters.
    n_terms
        Coefficients that are not of factors.
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
