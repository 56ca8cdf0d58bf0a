"""Multivariate Student t's in the place of the draws of calibrated posteriors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "Students",
    "fit_at",
    "fit_students",
    "without_prior",
]

_NUS = (2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 11.0, 16.0, 25.0, 50.0, 200.0)
_MOST_DRAWS = 800
_STEPS = 12


@dataclass(frozen=True, eq=False)
class Students:
    """Student t's of several stars with as many degrees of freedom.

    Attributes
    ----------
    center : (n_stars, n_labels) float64
    scale : (n_stars, n_labels, n_labels) float64
        Scale matrices: covariances times (nu - 2) / nu.
    nu : float
    """

    center: FloatArray
    scale: FloatArray
    nu: float


def fit_students(draws: FloatArray) -> Students:
    """Fit a t to the draws of each star by maximum likelihood, with nu common to all.

    A calibrated posterior is a t by construction: the model error and the formal deviation of a
    draw are stretched by the same factor (see `bayes_cannon.inference.calibrated`). With nu given,
    each is found by EM; nu is the best of a list from 2.5 to 200.

    Parameters
    ----------
    draws : (n_stars, n_draws, n_labels) float64
        Finite.
    """
    step = max(1, -(-draws.shape[1] // _MOST_DRAWS))
    thin = draws[:, ::step]
    unit = np.median(thin.std(axis=1), axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    middle = np.median(thin, axis=1)
    x = (thin - middle[:, None]) / unit
    center, scale = _start(x)
    best, best_value = None, -np.inf
    for nu in _NUS[::-1]:
        center, scale, value = _em(x, center, scale, nu)
        if value < best_value:
            break  # the likelihood has one maximum in nu
        best, best_value = Students(center, scale, nu), value
    assert best is not None
    return Students(middle + best.center * unit, best.scale * unit[:, None] * unit, best.nu)


def fit_at(draws: FloatArray, nu: float) -> Students:
    """Fit a t of given degrees of freedom to the draws of each star, whatever the others are.

    Parameters
    ----------
    draws : (n_stars, n_draws, n_labels) float64
        Finite.
    nu
        Degrees of freedom.
    """
    draws = draws[:, :: max(1, -(-draws.shape[1] // _MOST_DRAWS))]
    middle, unit = np.median(draws, axis=1), draws.std(axis=1)
    unit = np.where(unit > 0, unit, 1.0)
    x = (draws - middle[:, None]) / unit[:, None]
    center, scale, _ = _em(x, *_start(x), nu)
    return Students(middle + center * unit, scale * unit[:, :, None] * unit[:, None], nu)


def _start(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and second moments, from which EM sets out."""
    second = np.swapaxes(x, 1, 2) @ x / x.shape[1]
    return x.mean(axis=1), np.asarray(second + 1e-12 * np.eye(x.shape[-1]))


def _em(
    x: FloatArray, center: FloatArray, scale: FloatArray, nu: float
) -> tuple[FloatArray, FloatArray, float]:
    """Center and scale for a given nu, and the log likelihood."""
    n, k = x.shape[1:]
    value = -np.inf
    for _ in range(_STEPS):
        inverse = np.linalg.inv(scale)
        off = x - center[:, None]
        square = np.einsum("sdi,sdi->sd", off @ inverse, off)
        log_det = np.linalg.slogdet(scale)[1]
        value = float(np.sum(-0.5 * n * log_det - 0.5 * (nu + k) * np.log1p(square / nu).sum(1)))
        weight = (nu + k) / (nu + square)
        center = np.einsum("sd,sdi->si", weight, x) / weight.sum(axis=1)[:, None]
        off = x - center[:, None]
        scale = np.swapaxes(weight[:, :, None] * off, 1, 2) @ off / n
        scale += 1e-12 * np.eye(k)
    norm = gammaln(0.5 * (nu + k)) - gammaln(0.5 * nu) - 0.5 * k * np.log(nu * np.pi)
    return center, scale, value + x.shape[0] * n * float(norm)


def without_prior(
    mean: FloatArray, cov: FloatArray, prior_mean: FloatArray, prior_sd: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Likelihood of a Gaussian posterior whose prior was normal, independent in the labels.

    Parameters
    ----------
    mean : (n_stars, n_labels) float64
    cov : (n_stars, n_labels, n_labels) float64
    prior_mean, prior_sd : (n_labels,) float64
        An infinite standard deviation is that of a uniform prior.

    Returns
    -------
    mean, cov : as given

    Raises
    ------
    InvalidDataError
        If the prior says more of a star than its spectrum.
    """
    weight = 1 / prior_sd**2
    precision = np.linalg.inv(cov)
    left = precision - np.diag(weight)
    if not np.all(np.linalg.eigvalsh(left) > 0.05 * np.linalg.eigvalsh(precision)[:, :1]):
        raise InvalidDataError(
            "the normal priors of the run say more of the labels of some stars than their spectra; "
            "infer the group again with uniform priors."
        )
    out = np.linalg.inv(left)
    shifted = np.einsum("sij,sj->si", precision, mean) - weight * np.where(
        np.isfinite(prior_sd), prior_mean, 0.0
    )
    return np.einsum("sij,sj->si", out, shifted), out
