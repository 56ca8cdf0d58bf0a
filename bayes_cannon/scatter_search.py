"""Search of the mode of the log scatter, all pixels of a block side by side."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_STEP", "ScatterSearch"]

FloatArray = NDArray[np.float64]
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
