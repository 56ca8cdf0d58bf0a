r"""Closed-form training of every pixel: coefficients by conjugacy, scatter by a 1-D search.

Given the labels (and factors) of the stars, pixels are independent. With ``r = flux - 1``,
``w_n = 1 / (err_n**2 + s**2)`` and coefficients ``c ~ N(0, diag(tau**2))``,

    A = sum_n w_n E[x_n x_n'] ,   h = sum_n w_n r_n E[x_n] ,
    c | s ~ N(m, C) ,   C = (A + diag(tau**-2))^-1 ,   m = C h ,

    log p(flux | s) = 1/2 sum_n log(w_n / 2 pi) - 1/2 (sum_n w_n r_n**2 - h'm)
                      - 1/2 log|A + diag(tau**-2)| - sum_k log tau_k .

The expectations are over what is uncertain in the design (factors, errors in the labels); for a
known design they are plain products. The scatter is the mode of the *marginal* posterior of
``log s`` under ``log s ~ N(mu, omega)``: the joint mode of coefficients and scatter would be
too small by about one part in (stars / terms).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.packing import pack, pack_outer, packed_weights, unpack

__all__ = ["Design", "PixelFit", "PixelPrior", "fit_pixels", "log_marginal"]

FloatArray = NDArray[np.float64]
_LOG_2PI = float(np.log(2 * np.pi))
_MAX_STEP = 1.5
"""Largest change of log s in one step."""


@dataclass(frozen=True, eq=False)
class Design:
    """What multiplies the coefficients, for every star.

    Attributes
    ----------
    mean : (n_stars, n_coef) float64
        E[x]: features of the labels, then factors.
    second : (n_stars, n_coef (n_coef + 1) / 2) float64
        E[x x'], packed lower triangles (`packing.pack`).
    """

    mean: FloatArray
    second: FloatArray

    @classmethod
    def exact(cls, x: FloatArray) -> Design:
        """Design of known features, shape (n_stars, n_coef)."""
        x = np.asarray(x, dtype=np.float64)
        return cls(x, pack_outer(x))

    @property
    def n_coef(self) -> int:
        """Number of coefficients per pixel."""
        return int(self.mean.shape[1])


@dataclass(frozen=True, eq=False)
class PixelPrior:
    """Prior of the coefficients and of the log scatter of a block of pixels.

    Attributes
    ----------
    precision : (n_coef,) or (n_pixels, n_coef) float64
        1 / tau**2; infinite where a coefficient is held at zero.
    log_scatter_mean, log_scatter_sd : float
        Population of log s.
    """

    precision: FloatArray
    log_scatter_mean: float
    log_scatter_sd: float

    def rows(self, pixels: slice | NDArray[np.intp]) -> PixelPrior:
        """Return the prior of some pixels."""
        precision = self.precision if self.precision.ndim == 1 else self.precision[pixels]
        return PixelPrior(precision, self.log_scatter_mean, self.log_scatter_sd)


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
    converged : (n_pixels,) bool
    """

    mean: FloatArray
    cov: NDArray[np.floating]
    log_scatter: FloatArray
    log_scatter_sd: FloatArray
    skewness_shift: FloatArray
    log_density: FloatArray
    converged: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Pass:
    """One evaluation of the marginal density of a block of pixels; arrays start with pixels.

    `information` is the expected one of log s, prior included; `share` the typical part of the
    variance that is intrinsic, s**2 / (err**2 + s**2); `a2` and `h2` the sums of w**2 E[x x'] and
    w**2 r E[x].
    """

    mean: FloatArray
    cov: FloatArray
    value: FloatArray
    slope: FloatArray
    information: FloatArray
    share: FloatArray
    a2: FloatArray
    h2: FloatArray


def _solve(a_packed: FloatArray, h: FloatArray, prior: PixelPrior) -> tuple[FloatArray, ...]:
    """Posterior mean, full covariance and log|A + T^-1| + log|T| of each pixel."""
    precision = np.broadcast_to(prior.precision, h.shape)
    free = np.isfinite(precision)
    a = unpack(a_packed)
    if not free.all():
        both = free[:, :, None] & free[:, None, :]
        a = np.where(both, a, 0.0)
        h = np.where(free, h, 0.0)
    diagonal = np.arange(h.shape[1])
    a[:, diagonal, diagonal] += np.where(free, precision, 1.0)
    # Symmetric scaling to unit diagonal keeps the factorisation accurate for any weights.
    d = 1.0 / np.sqrt(a[:, diagonal, diagonal])
    chol = np.linalg.cholesky(a * d[:, :, None] * d[:, None, :])
    inverse = np.linalg.inv(chol)
    cov = np.matmul(inverse.transpose(0, 2, 1), inverse) * d[:, :, None] * d[:, None, :]
    if not free.all():
        cov = np.where(both, cov, 0.0)
    mean = np.matmul(cov, h[:, :, None])[:, :, 0]
    log_det = 2 * np.sum(np.log(chol[:, diagonal, diagonal]) - np.log(d), axis=1)
    log_det -= np.sum(np.log(np.where(free, precision, 1.0)), axis=1)
    return mean, cov, log_det


def _evaluate(
    r: NDArray[Any], ivar: NDArray[Any], design: Design, prior: PixelPrior, u: FloatArray
) -> _Pass:
    """Marginal log density, slope and information at log scatter `u`, at the data's precision.

    `r` and `ivar` have shape (n_stars, n_pixels); their dtype is that of the matrix products.
    """
    dtype = r.dtype
    s2 = np.exp(2 * u)
    w = ivar / (1 + ivar * s2.astype(dtype))
    wr = w * r
    second, x = design.second.astype(dtype, copy=False), design.mean.astype(dtype, copy=False)
    a = (w.T @ second).astype(np.float64)
    h = (wr.T @ x).astype(np.float64)
    mean, cov, log_det = _solve(a, h, prior)
    chi2 = np.einsum("np,np->p", wr, r, dtype=np.float64)
    with np.errstate(divide="ignore"):
        log_w = np.where(w > 0, np.log(w) - dtype.type(_LOG_2PI), 0).sum(axis=0, dtype=np.float64)
    z = (u - prior.log_scatter_mean) / prior.log_scatter_sd
    value = 0.5 * log_w - 0.5 * (chi2 - np.einsum("pk,pk->p", h, mean)) - 0.5 * log_det
    value += -0.5 * z**2 - np.log(prior.log_scatter_sd) - 0.5 * _LOG_2PI

    w2 = w * w
    a2 = (w2.T @ second).astype(np.float64)
    h2 = ((wr * w).T @ x).astype(np.float64)
    moment = pack(cov + mean[:, :, None] * mean[:, None, :]) * packed_weights(design.n_coef)
    sum_w = w.sum(axis=0, dtype=np.float64)
    sum_w2 = w2.sum(axis=0, dtype=np.float64)
    squares = np.einsum("np,np->p", wr, wr, dtype=np.float64)
    squares += np.einsum("pk,pk->p", moment, a2) - 2 * np.einsum("pk,pk->p", h2, mean)
    slope = s2 * (squares - sum_w) - z / prior.log_scatter_sd
    information = 2 * s2**2 * sum_w2 + prior.log_scatter_sd**-2
    share = s2 * sum_w2 / np.maximum(sum_w, 1e-300)
    return _Pass(mean, cov, value, slope, information, share, a2, h2)


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
    log_scatter
        log s of each pixel, shape (n_pixels,).
    """
    r = np.asarray(flux, dtype=np.float64) - 1
    return _evaluate(r, np.asarray(ivar, np.float64), design, prior, np.asarray(log_scatter)).value


def _curvature(
    r: FloatArray, ivar: FloatArray, design: Design, prior: PixelPrior, u: FloatArray, at: _Pass
) -> FloatArray:
    """Minus the exact second derivative of the marginal density in log s (float64)."""
    s2 = np.exp(2 * u)
    w = ivar / (1 + ivar * s2)
    n = design.n_coef
    cube = w * w * w
    a3, h3 = cube.T @ design.second, (cube * r).T @ design.mean
    outer = at.mean[:, :, None] * at.mean[:, None, :]
    weights = packed_weights(n)
    moment, packed_cov = pack(outer) * weights, pack(at.cov) * weights
    square3 = np.einsum("np,np,np->p", cube, r, r) - 2 * np.sum(h3 * at.mean, axis=1)
    square3 += np.sum(moment * a3, axis=1)
    full2 = unpack(at.a2)
    q = at.h2 - np.matmul(full2, at.mean[:, :, None])[:, :, 0]
    ca2 = np.matmul(at.cov, full2)
    second = 0.5 * np.einsum("np,np->p", w, w) - square3
    second += np.einsum("pi,pij,pj->p", q, at.cov, q)
    second += 0.5 * np.einsum("pij,pji->p", ca2, ca2) - np.sum(packed_cov * a3, axis=1)
    z = (u - prior.log_scatter_mean) / prior.log_scatter_sd
    slope = at.slope + z / prior.log_scatter_sd  # of the likelihood alone
    return np.asarray(prior.log_scatter_sd**-2 - (4 * s2**2 * second + 2 * slope))


def _skewness_shift(at: _Pass, sd: FloatArray, prior: PixelPrior) -> FloatArray:
    """E[log s] minus the mode: half the third derivative times sd**4.

    With q = w s**2 and E[w r**2] = 1 the third derivative is -4 sum q**2 (3 - 4 q): where the
    errors hide the scatter its posterior leans to small values, and the mode lies above the mean.
    The first order is damped where it is no longer small.
    """
    information = at.information - prior.log_scatter_sd**-2
    skew = (3 - 4 * at.share) * information * sd**3
    return np.asarray(-sd * skew / (1 + np.abs(skew)))


class _Search:
    """Safeguarded secant search of the mode of log s, all pixels side by side."""

    def __init__(self, u: FloatArray) -> None:
        self.u = u.copy()
        self.low = np.full(u.shape, -np.inf)
        self.high = np.full(u.shape, np.inf)
        self.last_u = np.full(u.shape, np.nan)
        self.last_slope = np.full(u.shape, np.nan)

    def advance(self, active: NDArray[np.intp], at: _Pass) -> FloatArray:
        """Move the active pixels one step uphill; returns the steps."""
        u, slope = self.u[active], at.slope
        rising = slope > 0
        self.low[active] = np.where(rising, u, self.low[active])
        self.high[active] = np.where(rising, self.high[active], u)
        with np.errstate(divide="ignore", invalid="ignore"):
            secant = -(slope - self.last_slope[active]) / (u - self.last_u[active])
        usable = np.isfinite(secant) & (secant > 0.1 * at.information)
        step = slope / np.where(usable, secant, at.information)
        new = u + np.clip(step, -_MAX_STEP, _MAX_STEP)
        low, high = self.low[active], self.high[active]
        outside = (new <= low) | (new >= high)
        new = np.where(outside & np.isfinite(low + high), 0.5 * (low + high), new)
        self.last_u[active], self.last_slope[active] = u, slope
        self.u[active] = new
        return new - u


def fit_pixels(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    prior: PixelPrior,
    start: FloatArray,
    *,
    tolerance: float = 1e-3,
    max_steps: int = 12,
    finish: bool = True,
) -> PixelFit:
    """Fit a block of pixels: marginal mode of log s, then coefficients given s.

    The search runs in the precision of a float32 matrix product; the last evaluation, from
    which everything returned is taken, in float64 with one more step.

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
        Largest step of log s, in units of its posterior standard deviation, that ends the search.
    max_steps
        Limit on the number of steps.
    finish
        False leaves out the last float64 pass (for rounds that only update hyperparameters).
    """
    r32 = np.asarray(flux, dtype=np.float32) - np.float32(1)
    ivar32 = np.asarray(ivar, dtype=np.float32)
    search = _Search(np.asarray(start, dtype=np.float64))
    n_pixels, n = search.u.size, design.n_coef
    active = np.arange(n_pixels)
    mean, cov = np.zeros((n_pixels, n)), np.zeros((n_pixels, n * (n + 1) // 2))
    value, info, shift = np.zeros(n_pixels), np.ones(n_pixels), np.zeros(n_pixels)
    for _ in range(max_steps):
        whole = active.size == n_pixels
        r_a, i_a = (r32, ivar32) if whole else (r32[:, active], ivar32[:, active])
        at = _evaluate(r_a, i_a, design, prior.rows(active), search.u[active])
        mean[active], cov[active] = at.mean, pack(at.cov)
        value[active], info[active] = at.value, at.information
        shift[active] = _skewness_shift(at, at.information**-0.5, prior)
        step = search.advance(active, at)
        active = active[np.abs(step) * np.sqrt(at.information) > tolerance]
        if active.size == 0:
            break
    converged = np.ones(n_pixels, dtype=bool)
    converged[active] = False
    if not finish:
        return PixelFit(mean, cov, search.u, info**-0.5, shift, value, converged)
    return _finish(flux, ivar, design, prior, search.u, converged)


def _finish(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    design: Design,
    prior: PixelPrior,
    u: FloatArray,
    converged: NDArray[np.bool_],
) -> PixelFit:
    """Evaluate in float64 at the mode, with the exact curvature there."""
    r = np.asarray(flux, dtype=np.float64) - 1
    ivar = np.asarray(ivar, dtype=np.float64)
    at = _evaluate(r, ivar, design, prior, u)
    curvature = _curvature(r, ivar, design, prior, u, at)
    # Where the density is not concave (no excess scatter) the prior's width is the honest one.
    floor = prior.log_scatter_sd**-2
    sd = 1 / np.sqrt(np.maximum(curvature, floor))
    shift = _skewness_shift(at, sd, prior)
    return PixelFit(at.mean, pack(at.cov), u, sd, shift, at.value, converged)
