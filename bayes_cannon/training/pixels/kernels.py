r"""Compiled inner loops of `pixel_fit`: weights of a block of pixels, and small matrices.

What NumPy would do in a dozen sweeps over memory, and LAPACK in thousands of calls for matrices of
20 by 20, is done here in the processor's cache, the small matrices of many pixels side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bayes_cannon.base.compiled.loops import compile_loop

__all__ = [
    "LANES",
    "posterior",
    "weigh",
]


LANES = 64
"""Matrices worked on side by side: what processors do four or eight at a time is then pixels."""
_GROUP = 6
"""Weights multiplied before a logarithm is taken; the product stays within float64."""


@compile_loop
def weigh(
    r: Any, ivar: Any, s2: Any, w: Any, w2: Any, wr: Any, w2r: Any, sums: Any, with_log: bool
) -> None:
    """Weights 1 / (err**2 + s**2) of a block, their products, and sums over stars.

    Parameters
    ----------
    r, ivar : (n_stars, n_pixels)
        Residuals and inverse variances.
    s2 : (n_pixels,)
        Squared scatter.
    w, w2, wr, w2r : (n_stars, n_pixels)
        Filled with w, w**2, w r, w**2 r.
    sums : (5, n_pixels) float64, zeros
        Sums of w r**2, w, w**2, w**2 r**2, log w (of the weights that are not zero).
    with_log : bool
        Whether the last of these is wanted.
    """
    n_stars, n_pixels = r.shape
    product = np.ones(n_pixels)
    for n in range(n_stars):
        for p in range(n_pixels):
            weight = ivar[n, p] / (1 + ivar[n, p] * s2[p])
            times = weight * r[n, p]
            w[n, p] = weight
            wr[n, p] = times
            w2[n, p] = weight * weight
            w2r[n, p] = weight * times
            sums[0, p] += times * r[n, p]
            sums[1, p] += weight
            sums[2, p] += weight * weight
            sums[3, p] += times * times
        if with_log:
            for p in range(n_pixels):
                product[p] *= w[n, p] if w[n, p] > 0 else 1.0
            if n % _GROUP == _GROUP - 1 or n == n_stars - 1:
                for p in range(n_pixels):
                    sums[4, p] += np.log(product[p])
                    product[p] = 1.0


@compile_loop
def _factorize(m: Any, count: int) -> None:
    """Cholesky factors L of positive definite matrices, the diagonal's reciprocals on the diagonal.

    Parameters
    ----------
    m : (n, n, n_lanes)
        Lower triangles of the matrices, one in each of the first `count` lanes; replaced. NaN or
        infinite on the diagonal where a matrix is not positive definite.
    """
    for k in range(len(m)):
        scale = m[k, k]
        for q in range(count):
            scale[q] = 1 / np.sqrt(scale[q])
        for i in range(k + 1, len(m)):
            factor = m[i, k]
            for q in range(count):
                factor[q] *= scale[q]
            for j in range(k + 1, i + 1):
                target, row = m[i, j], m[j, k]
                for q in range(count):
                    target[q] -= factor[q] * row[q]


@compile_loop
def _invert_factor(m: Any, x: Any, count: int) -> None:
    """Fill the lower triangles of `x` with L^-1, from what `_factorize` leaves in `m`."""
    for i in range(len(m)):
        scale = m[i, i]
        for j in range(i):
            x[i, j, :count] = 0.0
        for k in range(i):
            factor = m[i, k]
            for j in range(k + 1):
                target, above = x[i, j], x[k, j]
                for q in range(count):
                    target[q] -= factor[q] * above[q]
        for j in range(i):
            target = x[i, j]
            for q in range(count):
                target[q] *= scale[q]
        x[i, i, :count] = scale[:count]


@compile_loop
def _square(x: Any, c: Any, count: int) -> None:
    """Fill the lower triangles of `c` with X' X, of lower triangular X."""
    for i in range(len(x)):
        for j in range(i + 1):
            c[i, j, :count] = 0.0
        for k in range(i, len(x)):
            factor = x[k, i]
            for j in range(i + 1):
                target, row = c[i, j], x[k, j]
                for q in range(count):
                    target[q] += factor[q] * row[q]


@compile_loop
def posterior(
    a: Any, h: Any, precision: Any, a2: Any, h2: Any, mean: Any, cov: Any, log_det: Any, spread: Any
) -> int:
    """Posterior of the coefficients of each pixel: C = (A + P)^-1 and m = C h.

    Parameters
    ----------
    a, a2 : (n_pixels, n (n + 1) / 2)
        Sums of w x x' and of w**2 x x', packed lower triangles.
    h, h2 : (n_pixels, n)
        Sums of w r x and of w**2 r x.
    precision : (n_pixels or 1, n, n)
        P, the prior's precision.
    mean, cov, log_det
        Filled with m, packed C and log |A + P|.
    spread : (n_pixels,)
        Filled with tr((C + m m') A2) - 2 m.h2.

    Returns
    -------
    int
        -1, or the first pixel whose matrix is not positive definite.
    """
    n_pixels, n = h.shape
    width = min(LANES, n_pixels)
    m, x = np.zeros((n, n, width)), np.zeros((n, n, width))
    d = np.empty((n, width))
    for first in range(0, n_pixels, LANES):
        count = min(LANES, n_pixels - first)
        # Scaled to a unit diagonal, the factorisation is accurate for any weights.
        for q in range(count):
            p = first + q
            prior = precision[p] if precision.shape[0] > 1 else precision[0]
            for i in range(n):
                start = i * (i + 1) // 2
                d[i, q] = 1 / np.sqrt(a[p, start + i] + prior[i, i])
                for j in range(i + 1):
                    m[i, j, q] = (a[p, start + j] + prior[i, j]) * d[i, q] * d[j, q]
        _factorize(m, count)
        _invert_factor(m, x, count)
        for q in range(count):
            total = 0.0
            for i in range(n):
                if not 0 < m[i, i, q] < np.inf:
                    return first + q
                total -= np.log(m[i, i, q] * d[i, q])
            log_det[first + q] = 2 * total
        _square(x, m, count)
        for q in range(count):
            p = first + q
            mean[p] = 0.0
            for i in range(n):
                start = i * (i + 1) // 2
                for j in range(i + 1):
                    value = m[i, j, q] * d[i, q] * d[j, q]
                    cov[p, start + j] = value
                    mean[p, i] += value * h[p, j]
                    if i != j:
                        mean[p, j] += value * h[p, i]
            trace = 0.0
            for i in range(n):
                start = i * (i + 1) // 2
                row = 0.5 * (cov[p, start + i] + mean[p, i] ** 2) * a2[p, start + i]
                for j in range(i):
                    row += (cov[p, start + j] + mean[p, i] * mean[p, j]) * a2[p, start + j]
                trace += 2 * row - 2 * mean[p, i] * h2[p, i]
            spread[p] = trace
    return -1
