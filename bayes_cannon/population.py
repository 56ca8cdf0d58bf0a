"""Moments of the coefficients over pixels, from which their population is learnt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.packing import unpack
from bayes_cannon.pixel_prior import PixelPrior

__all__ = ["second_moment"]

FloatArray = NDArray[np.float64]


def second_moment(mean: FloatArray, cov: FloatArray, prior: PixelPrior) -> FloatArray:
    """Sum over pixels of E[c c']; coefficients held at zero count as missing, not as zero."""
    cases, which = prior.patterns
    total = np.zeros_like(prior.covariance)
    for case, free in enumerate(cases):
        rows = which == case if which.size else slice(None)
        second = mean[rows].T @ mean[rows] + unpack(cov[rows].sum(axis=0))
        total += second if free.all() else _filled(second, len(mean[rows]), free, prior.covariance)
    return total


def _filled(
    second: FloatArray, n: int, free: NDArray[np.bool_], covariance: FloatArray
) -> FloatArray:
    """Sum of E[c c'] over n pixels in which only some coefficients are free."""
    inside, across = np.ix_(free, free), np.ix_(~free, free)
    slope = np.linalg.solve(covariance[inside], covariance[across].T).T
    out = np.zeros_like(covariance)
    out[inside], out[across] = second[inside], slope @ second[inside]
    out[np.ix_(free, ~free)] = out[across].T
    rest = covariance[np.ix_(~free, ~free)] - slope @ covariance[across].T
    out[np.ix_(~free, ~free)] = out[across] @ slope.T + n * rest
    return out
