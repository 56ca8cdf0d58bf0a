r"""Closed-form training of every pixel: coefficients by conjugacy, scatter by a 1-D search.

Given the labels (and factors) of the stars, pixels are independent. With ``r = flux - 1``,
``w_n = 1 / (err_n**2 + s**2)`` and coefficients ``c ~ N(0, T)``,

    A = sum_n w_n E[x_n x_n'] ,   h = sum_n w_n r_n E[x_n] ,
    c | s ~ N(m, C) ,   C = (A + T^-1)^-1 ,   m = C h ,

    log p(flux | s) = 1/2 sum_n log(w_n / 2 pi) - 1/2 (sum_n w_n r_n**2 - h'm)
                      - 1/2 log|A + T^-1| - 1/2 log|T| .

The expectations are over what is uncertain in the design (factors, errors in the labels); for a
known design they are plain products. The scatter is the mode of the *marginal* posterior of
``log s`` under ``log s ~ N(mu, omega)``: the joint mode of coefficients and scatter would be
too small by about one part in (stars / terms).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.packing import pack, pack_outer, packed_weights, unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import SingularPixelsError
from bayes_cannon.training.pixels.kernels import posterior, weigh
from bayes_cannon.training.pixels.population import PixelPrior
from bayes_cannon.training.pixels.scatter import MAX_STEP, ScatterSearch

__all__ = [
    "Design",
    "PixelFit",
    "fit_pixels",
    "given_scatter",
    "log_marginal",
]

_LOG_2PI = float(np.log(2 * np.pi))
_LARGE_WEIGHT = 1e10
"""Cubes of larger weights are not safe in float32."""
_LAST_TRIES = 8
"""Further steps in float64 for pixels that the search left off their mode."""


@dataclass(frozen=True, eq=False)
class Design:
    """What multiplies the coefficients, for every star.

    Attributes
    ----------
    mean : (n_stars, n_coef) float64
        E[x]: features of the labels, then factors.
    second : (n_stars, n_coef (n_coef + 1) / 2) float64
        E[x x'], packed lower triangles (`packing.pack`).
    slopes : (n_stars, n_coef, n_labels) float64 or None
        What an error of one standard deviation in each independent combination of the labels does
        to the features, where the labels have errors. The factors leave to it what it explains.
    """

    mean: FloatArray
    second: FloatArray
    slopes: FloatArray | None = None

    @classmethod
    def exact(cls, x: FloatArray) -> Design:
        """Design of known features, shape (n_stars, n_coef).

        Parameters
        ----------
        x
            Features of the stars, without errors.
        """
        x = np.asarray(x, dtype=np.float64)
        return cls(x, pack_outer(x))

    def rows(self, stars: slice | NDArray[np.intp]) -> Design:
        """Return the design of some stars."""
        slopes = None if self.slopes is None else self.slopes[stars]
        return Design(self.mean[stars], self.second[stars], slopes)

    @property
    def n_coef(self) -> int:
        """Number of coefficients per pixel."""
        return int(self.mean.shape[1])

    @cached_property
    def _single(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self.second.astype(np.float32), self.mean.astype(np.float32)

    def at(self, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """`second` and `mean` at a precision, float32 or float64.

        Parameters
        ----------
        dtype
            float32 or float64.

        Returns
        -------
        tuple of arrays
            `second`, packed, and `mean`, (n_stars, n_coef).
        """
        return self._single if dtype == np.float32 else (self.second, self.mean)


@dataclass(frozen=True, eq=False)
class PixelFit:
    """Posterior of a block of pixels.

    Attributes
    ----------
    mean : (n_pixels, n_coef) float64
        Coefficients of flux - 1 given the scatter.
    cov : (n_pixels, n_coef (n_coef + 1) / 2) float64
        Their covariance, packed.
    log_scatter, log_scatter_sd : (n_pixels,) float64
        Mode of the marginal posterior of log s and the Laplace standard deviation there.
    skewness_shift : (n_pixels,) float64
        Posterior mean of log s less its mode, to first order in the skewness.
    log_density : (n_pixels,) float64
        log p(flux | s) + log p(log s) at the mode.
    gram, right : (n_pixels, n_coef (n_coef + 1) / 2), (n_pixels, n_coef)
        A (packed) and h at the scatter of the last evaluation, for `given_scatter`.
    converged : (n_pixels,) bool
    """

    mean: FloatArray
    cov: NDArray[np.floating]
    log_scatter: FloatArray
    log_scatter_sd: FloatArray
    skewness_shift: FloatArray
    log_density: FloatArray
    gram: NDArray[np.floating]
    right: FloatArray
    converged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Pass:
    """One evaluation of the marginal density of a block of pixels; arrays start with pixels.

    `cov` and `a` are packed. `information` is the expected one of log s, prior included; `share`
    the typical part of the variance that is intrinsic, s**2 / (err**2 + s**2); `a2` and `h2` the
    sums of w**2 E[x x'] and w**2 r E[x].
    """

    mean: FloatArray
    cov: FloatArray
    value: FloatArray
    slope: FloatArray
    information: FloatArray
    share: FloatArray
    a: FloatArray
    h: FloatArray
    a2: FloatArray
    h2: FloatArray


def given_scatter(
    gram: NDArray[Any], right: FloatArray, prior: PixelPrior
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coefficients of pixels at fixed scatters, from A (packed) and h.

    Parameters
    ----------
    gram
        A of every pixel, sum over stars of w E[x x'], packed, shape
        (n_pixels, n_coef (n_coef + 1) / 2).
    right
        h of every pixel, sum of w r E[x], shape (n_pixels, n_coef).
    prior
        Of the coefficients.

    Returns
    -------
    mean : (n_pixels, n_coef)
    cov : (n_pixels, n_coef (n_coef + 1) / 2)
        Packed.
    log_density : (n_pixels,)
        That part of log p(flux | s) which depends on the prior of the coefficients.
    """
    gram, none = np.asarray(gram, dtype=np.float64), np.zeros_like(right)
    mean, cov, log_det, _ = _solve(gram, right, np.zeros_like(gram), none, prior)
    held = right if prior.free is None else np.where(prior.free, right, 0.0)
    return mean, cov, 0.5 * (np.einsum("pk,pk->p", held, mean) - log_det)


def _products(
    columns: tuple[NDArray[Any], NDArray[Any]], second: NDArray[Any], x: NDArray[Any]
) -> tuple[FloatArray, FloatArray]:
    """Sums over stars of weights times E[x x'] and of weighted residuals times E[x]."""
    weights, residuals = columns
    return (weights.T @ second).astype(np.float64), (residuals.T @ x).astype(np.float64)


def _solve(
    a: FloatArray, h: FloatArray, a2: FloatArray, h2: FloatArray, prior: PixelPrior
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Posterior mean, packed covariance, log|A + T^-1| + log|T| and the trace of `posterior`."""
    held = prior.patterns[1].size > 0
    if held:
        assert prior.free is not None
        both = pack(prior.free[:, :, None] & prior.free[:, None, :])
        a, h = np.where(both, a, 0.0), np.where(prior.free, h, 0.0)
        a2, h2 = np.where(both, a2, 0.0), np.where(prior.free, h2, 0.0)
    mean, cov = np.empty_like(h), np.empty_like(a)
    log_det, spread = np.empty(len(h)), np.empty(len(h))
    if posterior(a, h, prior.precision, a2, h2, mean, cov, log_det, spread) >= 0:
        raise SingularPixelsError(_singular(a, h, prior.precision))
    if held:
        cov = np.where(both, cov, 0.0)
    return mean, cov, log_det + prior.log_det, spread


def _singular(a: FloatArray, h: FloatArray, precision: FloatArray) -> list[int]:
    """Pixels whose A + T^-1 is not positive definite, one by one."""
    found = []
    for p in range(len(h)):
        own, right = a[p : p + 1], h[p : p + 1]
        prior = precision[p : p + 1] if len(precision) > 1 else precision
        room = np.empty_like(right), np.empty_like(own), np.empty(1), np.empty(1)
        if posterior(own, right, prior, own, right, *room) >= 0:
            found.append(p)
    return found


def _evaluate(
    r: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    prior: PixelPrior,
    u: FloatArray,
    *,
    with_value: bool = True,
) -> _Pass:
    """Marginal log density, slope and information at log scatter `u`, at the data's precision.

    `r` and `ivar` have shape (n_stars, n_pixels); their dtype is that of the matrix products with
    the weights; those with the squared weights, which only steer the search, are in float32.
    Without `with_value` the density is not worked out (NaN).
    """
    s2 = np.exp(2 * u)
    w, w2, wr, w2r = (np.empty_like(r) for _ in range(4))
    sums = np.zeros((5, u.size))
    weigh(r, ivar, s2.astype(r.dtype), w, w2, wr, w2r, sums, with_value)
    chi2, sum_w, sum_w2, squares, log_w = sums
    a, h = _products((w, wr), *design.at(r.dtype))
    single = np.dtype(np.float32)
    a2, h2 = _products(
        (w2.astype(single, copy=False), w2r.astype(single, copy=False)), *design.at(single)
    )
    mean, cov, log_det, spread = _solve(a, h, a2, h2, prior)
    z = (u - prior.log_scatter_mean) / prior.log_scatter_sd
    value = np.full(u.size, np.nan)
    if with_value:
        log_w = log_w - _LOG_2PI * np.count_nonzero(ivar > 0, axis=0)
        value = 0.5 * log_w - 0.5 * (chi2 - np.einsum("pk,pk->p", h, mean)) - 0.5 * log_det
        value += -0.5 * z**2 - np.log(prior.log_scatter_sd) - 0.5 * _LOG_2PI
    slope = s2 * (squares + spread - sum_w) - z / prior.log_scatter_sd
    information = 2 * s2**2 * sum_w2 + prior.log_scatter_sd**-2
    share = s2 * sum_w2 / np.maximum(sum_w, 1e-300)
    return _Pass(mean, cov, value, slope, information, share, a, h, a2, h2)


def log_marginal(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    prior: PixelPrior,
    log_scatter: FloatArray,
) -> FloatArray:
    """Log p(flux | s) + log p(log s) of each pixel, coefficients integrated out.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance, shape (n_stars, n_pixels).
    design
        Of the stars.
    prior
        Of the pixels.
    log_scatter
        log s of each pixel, shape (n_pixels,).
    """
    r = np.asarray(flux, dtype=np.float64) - 1
    return _evaluate(r, np.asarray(ivar, np.float64), design, prior, np.asarray(log_scatter)).value


def _curvature(
    r: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    prior: PixelPrior,
    u: FloatArray,
    at: _Pass,
) -> FloatArray:
    """Minus the second derivative of the marginal density in log s, from float32 residuals."""
    s2 = np.exp(2 * u)
    w = ivar / (1 + ivar * s2.astype(ivar.dtype))
    if w.max(initial=0) > _LARGE_WEIGHT:
        w, r = w.astype(np.float64), r.astype(np.float64)
    cube = w * w * w
    a3, h3 = _products((cube, cube * r), *design.at(cube.dtype))
    weights = packed_weights(design.n_coef)
    moment = pack_outer(at.mean) * weights
    square3 = np.einsum("np,np,np->p", cube, r, r, dtype=np.float64)
    square3 += np.sum(moment * a3, axis=1) - 2 * np.sum(h3 * at.mean, axis=1)
    full2, cov = unpack(at.a2), unpack(at.cov)
    q = at.h2 - np.matmul(full2, at.mean[:, :, None])[:, :, 0]
    ca2 = np.matmul(cov, full2)
    second = 0.5 * np.einsum("np,np->p", w, w, dtype=np.float64) - square3
    second += np.einsum("pi,pi->p", q, np.matmul(cov, q[:, :, None])[:, :, 0])
    second += 0.5 * np.einsum("pij,pji->p", ca2, ca2)
    second -= np.sum(at.cov * weights * a3, axis=1)
    z = (u - prior.log_scatter_mean) / prior.log_scatter_sd
    slope = at.slope + z / prior.log_scatter_sd  # of the likelihood alone
    curvature = prior.log_scatter_sd**-2 - (4 * s2**2 * second + 2 * slope)
    return np.where(np.isfinite(curvature), curvature, at.information)


def _skewness_shift(at: _Pass, sd: FloatArray, prior: PixelPrior) -> FloatArray:
    """E[log s] minus the mode: half the third derivative times sd**4.

    With q = w s**2 and E[w r**2] = 1 the third derivative is -4 sum q**2 (3 - 4 q): where the
    errors hide the scatter its posterior leans to small values, and the mode lies above the mean.
    The first order is damped where it is no longer small.
    """
    information = at.information - prior.log_scatter_sd**-2
    skew = (3 - 4 * at.share) * information * sd**3
    return np.asarray(-sd * skew / (1 + np.abs(skew)))


def fit_pixels(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    prior: PixelPrior,
    start: FloatArray,
    *,
    tolerance: float = 1e-2,
    max_steps: int = 12,
    finish: bool = True,
) -> PixelFit:
    """Fit a block of pixels: marginal mode of log s, then coefficients given s.

    The search runs in the precision of the data, float32 or float64; the last evaluation, from
    which everything returned is taken, in float64. Pixels that it finds off their mode are searched
    once more.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: pixel not used), shape (n_stars, n_pixels).
    design
        Features of the stars.
    prior
        Of these pixels.
    start
        First guess of log s, shape (n_pixels,).
    tolerance
        How far log s may be from its mode, in units of its posterior standard deviation.
    max_steps
        Limit on the number of steps.
    finish
        False leaves out the last float64 pass (for rounds that only update hyperparameters).
    """
    dtype = np.dtype(np.float64 if flux.dtype == np.float64 else np.float32)
    r_all = np.asarray(flux, dtype=dtype) - dtype.type(1)
    ivar_all = np.ascontiguousarray(ivar, dtype=dtype)
    search = ScatterSearch(np.asarray(start, dtype=np.float64))
    n_pixels, n = search.u.size, design.n_coef
    active = np.arange(n_pixels)
    mean, cov = np.zeros((n_pixels, n)), np.zeros((n_pixels, n * (n + 1) // 2))
    gram, right = np.zeros_like(cov), np.zeros_like(mean)
    value, info, shift = np.zeros(n_pixels), np.ones(n_pixels), np.zeros(n_pixels)
    for _ in range(max_steps):
        whole = active.size == n_pixels
        r_a, i_a = (r_all, ivar_all) if whole else (r_all[:, active], ivar_all[:, active])
        at = _evaluate(r_a, i_a, design, prior.rows(active), search.u[active])
        mean[active], cov[active] = at.mean, at.cov
        gram[active], right[active] = at.a, at.h
        value[active], info[active] = at.value, at.information
        shift[active] = _skewness_shift(at, at.information**-0.5, prior)
        step = search.advance(active, at.slope, at.information)
        # Steps shrink faster than linearly: after one of this size the next is within tolerance.
        active = active[np.abs(step) * np.sqrt(at.information) > 10 * tolerance]
        if active.size == 0:
            break
    if finish:
        return _finish(flux, ivar, design, prior, search.u, tolerance)
    converged = np.ones(n_pixels, dtype=bool)
    converged[active] = False
    return PixelFit(
        mean, cov, search.u, info**-0.5, shift, value, gram, right, converged,
    )  # fmt: skip


def _finish(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    prior: PixelPrior,
    u: FloatArray,
    tolerance: float,
) -> PixelFit:
    """Evaluate in float64, with the exact curvature; pixels off their mode move there first."""
    r = np.asarray(flux, dtype=np.float64) - 1
    ivar = np.ascontiguousarray(ivar, dtype=np.float64)
    fit, slope = _at_mode(r, ivar, design, prior, u)
    for _ in range(_LAST_TRIES):
        off = np.flatnonzero(np.abs(slope) * fit.log_scatter_sd > tolerance)
        if off.size == 0:
            break
        step = np.clip(slope[off] * fit.log_scatter_sd[off] ** 2, -MAX_STEP, MAX_STEP)
        again, slope[off] = _at_mode(
            r[:, off], ivar[:, off], design, prior.rows(off), fit.log_scatter[off] + step
        )
        for name, values in vars(again).items():
            getattr(fit, name)[off] = values
    converged = np.abs(slope) * fit.log_scatter_sd <= tolerance
    return replace(fit, converged=converged)


def _at_mode(
    r: FloatArray, ivar: FloatArray, design: Design, prior: PixelPrior, u: FloatArray
) -> tuple[PixelFit, FloatArray]:
    """Fit at given log scatters, as if they were the modes, and the slopes there."""
    at = _evaluate(r, ivar, design, prior, u)
    single = r.astype(np.float32), ivar.astype(np.float32)
    curvature = _curvature(single[0], single[1], design, prior, u, at)
    # Where the density is not concave (no excess scatter) the prior's width is the honest one.
    floor = prior.log_scatter_sd**-2
    sd = 1 / np.sqrt(np.maximum(curvature, floor))
    shift = _skewness_shift(at, sd, prior)
    done = np.zeros(u.size, dtype=bool)
    fit = PixelFit(at.mean, at.cov, u.copy(), sd, shift, at.value, at.a, at.h, done)
    return fit, at.slope
