r"""Compiled inner loops of `pixel_fit`: weights of a block of pixels, and small matrices.

What NumPy would do in a dozen sweeps over memory, and LAPACK in thousands of calls for matrices of
20 by 20, is done here pixel by pixel in the processor's cache. Compiled once and kept on disk
where that is possible; they release the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

__all__ = ["posterior", "weigh"]

_GROUP = 6
"""Weights multiplied before a logarithm is taken; the product stays within float64."""


def _compile(function: Callable[..., Any]) -> Any:
    """Compile without the lock; where no folder for the result can be written, for this process."""
    fast = {"reassoc", "contract", "arcp", "nsz"}
    try:
        return numba.njit(cache=True, nogil=True, fastmath=fast)(function)
    except RuntimeError:
        return numba.njit(nogil=True, fastmath=fast)(function)


@_compile
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


@_compile
def _invert(m: Any, column: Any, x: Any, c: Any) -> None:
    """Cholesky factor and inverse of a positive definite matrix.

    Every inner loop adds a multiple of one row to another, which processors do four or eight
    elements at a time; sums along a row, which they do not, are left out.

    Parameters
    ----------
    m : (n, n)
        Lower triangle of the matrix; its Cholesky factor L afterwards.
    column : (n,)
        For use inside.
    x, c : (n, n)
        Filled with the lower triangles of L^-1 and of the inverse.
    """
    n = m.shape[0]
    for k in range(n):
        m[k, k] = np.sqrt(m[k, k])
        for i in range(k + 1, n):
            column[i] = m[i, k] / m[k, k]
            m[i, k] = column[i]
        for i in range(k + 1, n):
            factor, row = column[i], m[i]
            for j in range(k + 1, i + 1):
                row[j] -= factor * column[j]
    for i in range(n):
        row = x[i]
        for j in range(i):
            row[j] = 0.0
        for k in range(i):
            factor, above = m[i, k], x[k]
            for j in range(k + 1):
                row[j] -= factor * above[j]
        scale = 1 / m[i, i]
        for j in range(i):
            row[j] *= scale
        row[i] = scale
    for i in range(n):
        for j in range(i + 1):
            c[i, j] = 0.0
    for k in range(n):
        below = x[k]
        for i in range(k + 1):
            factor, row = below[i], c[i]
            for j in range(i + 1):
                row[j] += factor * below[j]


@_compile
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
    m, x, c = np.zeros((n, n)), np.zeros((n, n)), np.zeros((n, n))
    d, column = np.empty(n), np.empty(n)
    for p in range(n_pixels):
        prior = precision[p] if precision.shape[0] > 1 else precision[0]
        # Scaled to a unit diagonal, the factorisation is accurate for any weights.
        for i in range(n):
            d[i] = 1 / np.sqrt(a[p, i * (i + 1) // 2 + i] + prior[i, i])
        for i in range(n):
            for j in range(i + 1):
                m[i, j] = (a[p, i * (i + 1) // 2 + j] + prior[i, j]) * d[i] * d[j]
        _invert(m, column, x, c)
        total, trace = 0.0, 0.0
        for i in range(n):
            if not m[i, i] > 0:
                return p
            total += np.log(m[i, i]) - np.log(d[i])
            mean[p, i] = 0.0
        log_det[p] = 2 * total
        for i in range(n):
            start = i * (i + 1) // 2
            for j in range(i + 1):
                value = c[i, j] * d[i] * d[j]
                cov[p, start + j] = value
                mean[p, i] += value * h[p, j]
                if i != j:
                    mean[p, j] += value * h[p, i]
        for i in range(n):
            start = i * (i + 1) // 2
            row = 0.5 * (cov[p, start + i] + mean[p, i] ** 2) * a2[p, start + i]
            for j in range(i):
                row += (cov[p, start + j] + mean[p, i] * mean[p, j]) * a2[p, start + j]
            trace += 2 * row - 2 * mean[p, i] * h2[p, i]
        spread[p] = trace
    return -1
