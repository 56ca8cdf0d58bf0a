r"""The best mode of each star's labels, the Gaussian there, and the spectrum compressed there.

Every star is searched from several starts. The coefficients' variance, which depends on the
labels, is refreshed at each star's mode until the labels stop moving. How it changes around the
mode is left out on purpose: a star that the model fits badly is drawn to labels of larger variance
by it. Taken into the compressed likelihood to second order, it brings the stars of high k-hat in
the demo survey from 30 to 12 of 299, but their rms error in log g from 0.127 to 0.153 dex. So k-hat
marks the stars to which it matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.compression import Compressed, PixelModel, compress
from bayes_cannon.mode_search import find_modes, gaussian_at, starting_points
from bayes_cannon.priors import LabelPriors

__all__ = ["Laplace", "ModeSettings", "fit_laplace"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class ModeSettings:
    """How the modes are searched.

    Attributes
    ----------
    n_starts : int
        Starting points per star: the mean training label, the solution of the linear terms, and
        random ones around the training labels.
    max_steps : int
        Newton steps per search.
    max_refreshes : int
        How often the coefficients' variance may be evaluated anew.
    tolerance : float
        Largest movement, in posterior standard deviations, that counts as standing still.
    """

    n_starts: int = 6
    max_steps: int = 60
    max_refreshes: int = 4
    tolerance: float = 0.02


@dataclass(frozen=True, eq=False)
class Laplace:
    """Gaussian approximation of the posterior of each star, in unconstrained coordinates.

    Attributes
    ----------
    u, labels : (n_stars, n_labels) float64
        Best mode, unconstrained and in physical units.
    chol : (n_stars, n_labels, n_labels) float64
        Lower Cholesky factor of the covariance of u.
    cov : (n_stars, n_labels, n_labels) float64
        Covariance of the labels to first order, physical units.
    log_density : (n_stars,) float64
        Log posterior density of u at the mode, not normalised.
    factors : (n_stars, n_factors) float64
        Posterior mean of the nuisance factors at the mode.
    n_modes : (n_stars,) int
        Distinct modes found.
    mode_gap : (n_stars,) float64
        Log density of the best mode minus that of the second; NaN where there is one only.
    converged, exact : (n_stars,) bool
        Whether the search ended, and whether the covariance is from the exact second derivatives
        (else from their Gauss-Newton part, for the exact ones are not positive definite).
    refreshes : (n_stars,) int
        How often the coefficients' variance was evaluated anew.
    """

    u: FloatArray
    labels: FloatArray
    chol: FloatArray
    cov: FloatArray
    log_density: FloatArray
    factors: FloatArray
    n_modes: NDArray[np.int64]
    mode_gap: FloatArray
    converged: NDArray[np.bool_]
    exact: NDArray[np.bool_]
    refreshes: NDArray[np.int64]


def fit_laplace(
    pixels: PixelModel,
    priors: LabelPriors,
    flux: NDArray[Any],
    ivar: NDArray[Any],
    settings: ModeSettings | None = None,
) -> tuple[Laplace, Compressed]:
    """Find the best mode of a block of stars and compress their spectra there.

    Parameters
    ----------
    pixels
        The trained model.
    priors
        Of the labels.
    flux, ivar
        Used pixels only (`PixelModel.take`), shape (n_stars, n_pixels); ivar 0: not used.
    settings
        Of the search.
    """
    settings = settings or ModeSettings()
    basis, n = pixels.basis, len(flux)
    v = basis.features(np.zeros((n, basis.n_labels)))
    data = compress(pixels, flux, ivar, np.concatenate([v, np.zeros((n, pixels.n_factors))], 1))
    starts = starting_points(basis, priors, data, min(settings.n_starts, 2))
    ends, value, _ = find_modes(basis, priors, data, starts, settings.max_steps)
    u, refreshes = _pick(ends, value), np.zeros(n, dtype=np.int64)
    if pixels.coef_cov is not None:
        u, data, refreshes = _settle(pixels, priors, flux, ivar, u, data, settings)
    starts = starting_points(basis, priors, data, settings.n_starts)
    starts = np.concatenate([u[:, None], starts], axis=1)
    ends, value, converged = find_modes(basis, priors, data, starts, settings.max_steps)
    return _laplace(pixels, priors, data, ends, value, converged, refreshes), data


def _settle(
    pixels: PixelModel,
    priors: LabelPriors,
    flux: NDArray[Any],
    ivar: NDArray[Any],
    u: FloatArray,
    data: Compressed,
    settings: ModeSettings,
) -> tuple[FloatArray, Compressed, NDArray[np.int64]]:
    """Refresh the coefficients' variance at the mode of every star that still moves."""
    u, refreshes = u.copy(), np.zeros(len(u), dtype=np.int64)
    rows = np.arange(len(u))
    for _ in range(settings.max_refreshes):
        v = pixels.basis(priors.constrain(u[rows]))
        x = np.concatenate([v, data.rows(rows).factors(v)], axis=1)
        fresh = compress(pixels, flux[rows], ivar[rows], x)
        data = data.with_rows(rows, fresh)
        ends, _, _ = find_modes(pixels.basis, priors, fresh, u[rows, None], settings.max_steps)
        chol, _ = gaussian_at(pixels.basis, priors, fresh, ends[:, 0])
        shift = np.linalg.solve(chol, (ends[:, 0] - u[rows])[:, :, None])[:, :, 0]
        u[rows] = ends[:, 0]
        refreshes[rows] += 1
        rows = rows[np.abs(shift).max(axis=1) > settings.tolerance]
        if rows.size == 0:
            break
    return u, data, refreshes


def _count_modes(
    u: FloatArray, value: FloatArray, chol: FloatArray
) -> tuple[NDArray[np.int64], FloatArray]:
    """Count distinct end points of each star, best first; gap to the second best."""
    n, s, _ = u.shape
    order = np.argsort(-value, axis=1, kind="stable")
    u = np.take_along_axis(u, order[:, :, None], axis=1)
    value = np.take_along_axis(value, order, axis=1)
    count, gap = np.ones(n, dtype=np.int64), np.full(n, np.nan)
    distance = np.linalg.norm(
        np.linalg.solve(chol[:, None, None], (u[:, :, None] - u[:, None, :])[..., None])[..., 0],
        axis=-1,
    )
    for i in range(1, s):
        found = np.isfinite(value[:, i])
        new = found & (distance[:, i, :i] > 1.0).all(axis=1)
        count += new
        behind = np.where(found, value[:, 0], 0.0) - np.where(found, value[:, i], 0.0)
        gap = np.where(new & np.isnan(gap), behind, gap)
    return count, gap


def _pick(ends: FloatArray, value: FloatArray) -> FloatArray:
    best = np.argmax(np.where(np.isfinite(value), value, -np.inf), axis=1)
    return ends[np.arange(len(ends)), best]


def _laplace(
    pixels: PixelModel,
    priors: LabelPriors,
    data: Compressed,
    ends: FloatArray,
    value: FloatArray,
    converged: NDArray[np.bool_],
    refreshes: NDArray[np.int64],
) -> Laplace:
    basis = pixels.basis
    u = _pick(ends, value)
    chol, exact = gaussian_at(basis, priors, data, u)
    at = priors.at(u)
    root = at.first[:, :, None] * chol
    n_modes, gap = _count_modes(ends, np.where(converged, value, -np.inf), chol)
    v = basis(at.labels)
    best = np.argmax(np.where(np.isfinite(value), value, -np.inf), axis=1)
    return Laplace(
        u=u, labels=at.labels, chol=chol, cov=root @ np.swapaxes(root, 1, 2),
        log_density=data.log_likelihood(v) + at.log_density,
        factors=data.factors(v), n_modes=n_modes, mode_gap=gap,
        converged=converged[np.arange(len(u)), best], exact=exact, refreshes=refreshes,
    )  # fmt: skip
