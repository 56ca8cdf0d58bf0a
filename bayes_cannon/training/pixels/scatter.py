"""Search of the mode of the log scatter, all pixels of a block side by side.

A first guess of the scatter of every pixel, in one sweep over the data.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.parallel import each_block
from bayes_cannon.base.typing import FloatArray

__all__ = [
    "MAX_STEP",
    "ScatterSearch",
    "first_scatter",
]

MAX_STEP = 1.5
"""Largest change of log s in one step."""


class ScatterSearch:
    """Safeguarded secant search of the mode of log s, all pixels side by side."""

    def __init__(self, u: FloatArray) -> None:
        self.u = u.copy()
        self.low = np.full(u.shape, -np.inf)
        self.high = np.full(u.shape, np.inf)
        self.last_u = np.full(u.shape, np.nan)
        self.last_slope = np.full(u.shape, np.nan)

    def advance(
        self, active: NDArray[np.intp], slope: FloatArray, information: FloatArray
    ) -> FloatArray:
        """Move the active pixels one step uphill; returns the steps.

        Parameters
        ----------
        active
            Pixels that are moved.
        slope, information
            Of the log density in log s, and expected, at `u` of these pixels.
        """
        u = self.u[active]
        rising = slope > 0
        self.low[active] = np.where(rising, u, self.low[active])
        self.high[active] = np.where(rising, self.high[active], u)
        with np.errstate(divide="ignore", invalid="ignore"):
            secant = -(slope - self.last_slope[active]) / (u - self.last_u[active])
            # Scoring in s**2, in which the density of equal errors is closest to a parabola.
            first = 0.5 * np.log1p(np.maximum(2 * slope / information, -0.9))
        usable = np.isfinite(secant) & (secant > 0.1 * information)
        step = np.where(usable, slope / secant, first)
        new = u + np.clip(step, -MAX_STEP, MAX_STEP)
        low, high = self.low[active], self.high[active]
        outside = (new <= low) | (new >= high)
        new = np.where(outside & np.isfinite(low + high), 0.5 * (low + high), new)
        self.last_u[active], self.last_slope[active] = u, slope
        self.u[active] = new
        return new - u


def first_scatter(flux: Any, ivar: Any, x: FloatArray) -> FloatArray:
    """Log scatter of every pixel from the residuals of a plain regression, shape (n_pixels,).

    The regression has one weight for each star, and bad pixels count as the mean spectrum: that is
    rough, but needs no sums of its own for each pixel. NaN where a pixel was never observed.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: not used), shape (n_stars, n_pixels).
    x
        Features of the labels, shape (n_stars, n_terms).
    """
    n_stars, n_pixels = flux.shape
    some = ivar[:, :: max(1, n_pixels // 200)]
    typical = some.sum(axis=1, dtype=np.float64) / np.maximum((some > 0).sum(axis=1), 1)
    typical = np.where(typical > 0, typical, 1.0)
    weight = 1 / (1 / typical + 0.01**2)
    weighted = (x * weight[:, None]).astype(np.float32)
    gram = x.T @ (x * weight[:, None])
    gram += 1e-3 * np.diag(np.diag(gram)) + 1e-6 * np.eye(len(gram))
    start, nothing = np.empty(n_pixels), np.empty(n_pixels, dtype=bool)
    freedom = max(1 - x.shape[1] / n_stars, 0.2)

    def work(block: slice) -> None:
        some_ivar = np.asarray(ivar[:, block])
        good = some_ivar > 0
        r = np.where(good, flux[:, block] - 1, 0).astype(np.float32, copy=False)
        coef = np.linalg.solve(gram, (weighted.T @ r).astype(np.float64))
        r -= x.astype(np.float32) @ coef.astype(np.float32)
        r[~good] = 0
        # Moments with every pixel's own weight: noisy ones say little about the scatter.
        w = some_ivar / (1 + some_ivar * np.float32(0.01**2))
        noise = (w * (1 - np.float32(0.01**2) * w)).sum(axis=0, dtype=np.float64)
        w *= w
        variance = np.einsum("np,np,np->p", w, r, r, dtype=np.float64) / freedom - noise
        total = np.maximum(w.sum(axis=0, dtype=np.float64), 1e-30)
        start[block] = 0.5 * np.log(np.maximum(variance, 0.05 * noise) / total + 1e-10)
        nothing[block] = ~good.any(axis=0)

    each_block(work, 256, n_pixels)
    return np.where(nothing, np.nan, np.minimum(start, np.log(0.5)))
