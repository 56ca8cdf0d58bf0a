r"""Search for the modes of the posterior of the labels, for a block of stars at once.

The density is that of the unconstrained coordinates u of `priors` (log-Jacobian included), in
which the sampler works. Newton's method with exact second derivatives, made safe by damping and
by taking the absolute values of the curvatures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.compression import Compressed
from bayes_cannon.features import PolynomialBasis
from bayes_cannon.priors import LabelPriors

__all__ = ["find_modes", "gaussian_at", "log_posterior", "starting_points"]

FloatArray = NDArray[np.float64]


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
    """Log density (n_stars, n_draws) of u (n_stars, n_draws, n_labels), not normalised."""
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
