r"""The best mode of each star's labels, the Gaussian there, and the spectrum compressed there.

Every star is searched from several starts. The coefficients' variance, which depends on the
labels, is refreshed at each star's mode until the labels stop moving. How it changes around the
mode is left out on purpose: a star that the model fits badly is drawn to labels of larger variance
by it. Taken into the compressed likelihood to second order, it brings the stars of high k-hat in
the demo survey from 30 to 12 of 299, but their rms error in log g from 0.127 to 0.153 dex. So k-hat
marks the stars to which it matters.

Search for the modes of the posterior of the labels, for a block of stars at once.

The density is that of the unconstrained coordinates u of `priors` (log-Jacobian included), in
which the sampler works. Newton's method with exact second derivatives, made safe by damping and
by taking the absolute values of the curvatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.likelihood.compression import Compressed
from bayes_cannon.inference.likelihood.kinds import GAUSSIAN, Likelihood
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_priors import LabelPriors

__all__ = [
    "Laplace",
    "ModeSettings",
    "find_modes",
    "fit_laplace",
    "gaussian_at",
    "log_posterior",
    "starting_points",
]


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
        Posterior mean of the nuisance factors at the mode, and after them of the amplitudes of
        known terms, in units of their scales.
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
    *,
    likelihood: Likelihood = GAUSSIAN,
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
    likelihood
        Of the pixels.

    Returns
    -------
    tuple of Laplace and Compressed
    """
    settings = settings or ModeSettings()
    basis, n = pixels.basis, len(flux)
    v = basis.features(np.zeros((n, basis.n_labels)))
    x = np.concatenate([v, np.zeros((n, pixels.n_hidden))], axis=1)
    data = likelihood.compress(pixels, flux, ivar, x)
    starts = starting_points(basis, priors, data, min(settings.n_starts, 2))
    ends, value, _ = find_modes(basis, priors, data, starts, settings.max_steps)
    u, refreshes = _pick(ends, value), np.zeros(n, dtype=np.int64)
    if likelihood.depends_on_labels(pixels):
        u, data, refreshes = _settle(pixels, priors, flux, ivar, u, data, settings, likelihood)
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
    likelihood: Likelihood,
) -> tuple[FloatArray, Compressed, NDArray[np.int64]]:
    """Refresh the coefficients' variance at the mode of every star that still moves."""
    u, refreshes = u.copy(), np.zeros(len(u), dtype=np.int64)
    rows = np.arange(len(u))
    for _ in range(settings.max_refreshes):
        v = pixels.basis(priors.constrain(u[rows]))
        x = np.concatenate([v, data.rows(rows).factors(v)], axis=1)
        fresh = likelihood.compress(pixels, flux[rows], ivar[rows], x)
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


@dataclass(frozen=True, eq=False)
class _Point:
    """Log density at u with slope and minus the second derivatives, exact and Gauss-Newton."""

    value: FloatArray
    slope: FloatArray
    curvature: FloatArray
    gauss_newton: FloatArray


def log_posterior(
    basis: PolynomialBasis, priors: LabelPriors, data: Compressed, u: FloatArray
) -> FloatArray:
    """Log density (n_stars, n_draws) of u (n_stars, n_draws, n_labels), not normalised.

    Parameters
    ----------
    basis, priors
        Labels with their scaling, and their priors.
    data
        Compressed spectra of n_stars stars.
    u
        Unconstrained coordinates, shape (n_stars, n_draws, n_labels).
    """
    at = priors.at(u)
    v = basis.features(basis.standardize(at.labels))
    return data.log_likelihood(v) + at.log_density


def _evaluate(
    basis: PolynomialBasis, priors: LabelPriors, A: FloatArray, b: FloatArray, u: FloatArray
) -> _Point:
    """Evaluate at u (m, n_labels) for A (m, n_terms, n_terms) and b (m, n_terms)."""
    at = priors.at(u)
    ell = basis.standardize(at.labels)
    first, second = at.first / basis.scale, at.second / basis.scale
    v, dv = basis.features(ell), basis.jacobian(ell)
    av = np.einsum("mij,mj->mi", A, v)
    r = b - av
    value = np.einsum("mi,mi->m", v, b - 0.5 * av) + at.log_density
    slope_ell = np.einsum("mi,mik->mk", r, dv)
    inner = np.swapaxes(dv, 1, 2) @ (A @ dv)
    bend = np.einsum("mi,mikl->mkl", r, basis.hessian(ell))
    outer = first[:, :, None] * first[:, None, :]
    diagonal = np.zeros_like(outer)
    index = np.arange(u.shape[1])
    diagonal[:, index, index] = -at.curvature
    gauss_newton = inner * outer + diagonal
    diagonal = np.zeros_like(outer)
    diagonal[:, index, index] = slope_ell * second
    curvature = gauss_newton - bend * outer - diagonal
    return _Point(value, slope_ell * first + at.slope, curvature, gauss_newton)


def _newton_step(point: _Point, damping: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Damped step up the hill, curvatures by their absolute values; and where it is a hill.

    At a saddle, where the slope vanishes, the step leads off along the direction of ascent.
    """
    values, vectors = np.linalg.eigh(point.curvature)
    size = np.maximum(np.abs(values), 1e-10 * np.abs(values).max(axis=1, keepdims=True) + 1e-30)
    convex = values[:, 0] >= -1e-8 * np.abs(values[:, -1])
    projected = np.einsum("mki,mk->mi", vectors, point.slope) / (size * (1 + damping[:, None]))
    kick = 0.1 / np.sqrt(size[:, 0])
    stuck = ~convex & (np.abs(projected[:, 0]) < kick)
    projected[:, 0] = np.where(stuck, np.copysign(kick, projected[:, 0]), projected[:, 0])
    return np.asarray(np.einsum("mki,mi->mk", vectors, projected)), convex


def _climb(
    basis: PolynomialBasis,
    priors: LabelPriors,
    A: FloatArray,
    b: FloatArray,
    u: FloatArray,
    max_steps: int,
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Maximise from u (m, n_labels); returns u, the values and which searches converged."""
    u = u.copy()
    value = np.full(len(u), -np.inf)
    converged = np.zeros(len(u), dtype=bool)
    damping = np.zeros(len(u))
    alive = np.arange(len(u))
    current = _evaluate(basis, priors, A, b, u)
    for _ in range(max_steps):
        step, convex = _newton_step(current, damping[alive])
        step = _limit(basis, priors, u[alive], step)
        gain = 0.5 * np.einsum("mk,mk->m", step, current.slope)
        trial_u = u[alive] + step
        trial = _evaluate(basis, priors, A[alive], b[alive], trial_u)
        better = trial.value >= current.value - 1e-9 * np.abs(gain)
        done = (np.abs(gain) < 1e-7) & convex
        u[alive] = np.where((better | done)[:, None], trial_u, u[alive])
        damping[alive] = np.where(better, damping[alive] / 5, np.maximum(4 * damping[alive], 0.5))
        damping[alive] = np.where(damping[alive] < 0.05, 0.0, damping[alive])
        keep = _Point(
            *(
                np.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                for new, old in zip(vars(trial).values(), vars(current).values(), strict=True)
            )
        )
        value[alive] = keep.value
        converged[alive] = done
        going = ~done & (damping[alive] < 1e12)
        alive = alive[going]
        if alive.size == 0:
            break
        current = _Point(*(array[going] for array in vars(keep).values()))
    return u, value, converged


def _limit(
    basis: PolynomialBasis, priors: LabelPriors, u: FloatArray, step: FloatArray
) -> FloatArray:
    """Shorten steps to two standard deviations of the training labels, and to 2 in bent u."""
    pace = np.abs(priors.at(u).first / basis.scale)
    bent = np.isfinite(priors.lower) | np.isfinite(priors.upper)
    pace = np.maximum(pace, np.where(bent, 1.0, 0.0))
    longest = np.max(np.abs(step) * pace / 2.0, axis=1, keepdims=True)
    return np.asarray(step / np.maximum(longest, 1.0))


def starting_points(
    basis: PolynomialBasis, priors: LabelPriors, data: Compressed, n_starts: int
) -> FloatArray:
    """Starting points u, shape (n_stars, n_starts, n_labels).

    The mean training label, the solution of the linear terms, and random ones around the training
    labels, the same for all stars.

    Parameters
    ----------
    basis, priors
        Labels with their scaling, and their priors.
    data
        Compressed spectra of n_stars stars.
    n_starts
        Points per star.
    """
    k, n = basis.n_labels, len(data.b)
    ell = np.zeros((n, max(n_starts, 1), k))
    if n_starts > 1:
        linear = slice(1, 1 + k)
        A, right = data.A[:, linear, linear], data.b[:, linear] - data.A[:, linear, 0]
        ridge = 1e-6 * np.trace(A, axis1=1, axis2=2)[:, None, None] / k + 1e-6
        ell[:, 1] = np.linalg.solve(A + ridge * np.eye(k), right[:, :, None])[:, :, 0]
    if n_starts > 2:
        rng = np.random.default_rng(20150712)
        ell[:, 2:] = 1.5 * rng.standard_normal((n_starts - 2, k))
    labels = basis.unstandardize(np.clip(ell, -4.0, 4.0))
    return priors.unconstrain(priors.clip(labels))


def find_modes(
    basis: PolynomialBasis,
    priors: LabelPriors,
    data: Compressed,
    starts: FloatArray,
    max_steps: int = 60,
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Climb from starts (n_stars, n_starts, n_labels).

    Returns the end points, their log densities (constants of the likelihood left out) and which
    searches converged, shapes (n_stars, n_starts[, n_labels]).

    Parameters
    ----------
    basis, priors
        Labels with their scaling, and their priors.
    data
        Compressed spectra of n_stars stars.
    starts
        Unconstrained coordinates, shape (n_stars, n_starts, n_labels).
    max_steps
        Newton steps per search.
    """
    n, s, k = starts.shape
    A, b = np.repeat(data.A, s, axis=0), np.repeat(data.b, s, axis=0)
    u, value, converged = _climb(basis, priors, A, b, starts.reshape(n * s, k), max_steps)
    return u.reshape(n, s, k), value.reshape(n, s), converged.reshape(n, s)


def gaussian_at(
    basis: PolynomialBasis, priors: LabelPriors, data: Compressed, u: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Lower Cholesky factor of the Laplace covariance at u (n_stars, n_labels), and whether exact.

    Where the exact second derivatives are not positive definite (a saddle, or a mode on the
    prior's edge) their Gauss-Newton part stands in, and failing that their absolute values.

    Parameters
    ----------
    basis, priors
        Labels with their scaling, and their priors.
    data
        Compressed spectra of n_stars stars.
    u
        Unconstrained coordinates, shape (n_stars, n_labels).
    """
    point = _evaluate(basis, priors, data.A, data.b, u)
    values, vectors = np.linalg.eigh(point.curvature)
    exact = values[:, 0] > 1e-8 * values[:, -1]
    other, other_vectors = np.linalg.eigh(point.gauss_newton)
    values = np.where(exact[:, None], values, np.abs(other))
    vectors = np.where(exact[:, None, None], vectors, other_vectors)
    values = np.maximum(values, 1e-8 * values.max(axis=1, keepdims=True) + 1e-12)
    cov = (vectors / values[:, None, :]) @ np.swapaxes(vectors, 1, 2)
    return np.linalg.cholesky(0.5 * (cov + np.swapaxes(cov, 1, 2))), exact
