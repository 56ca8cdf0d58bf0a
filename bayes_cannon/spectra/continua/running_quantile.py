"""Normalisation without any continuum pixels: division by a running quantile.

The first pass of Ness et al. 2015 (ApJ 808, 16): a model trained on such spectra tells which pixels
are continuum (`bayes_cannon.training.choose_continuum`).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.continuum import STARS_AT_ONCE, divide_rows, normalized_like
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra

__all__ = [
    "divide_by_running_quantile",
]


def divide_by_running_quantile(
    spectra: ObservedSpectra, *, width: float = 50.0, quantile: float = 0.9
) -> NormalizedSpectra:
    """Divide by a running quantile: the first pass of Ness et al. 2015, before any pixel list.

    At nodes a tenth of `width` apart, the quantile of the star's good pixels within half a
    width in the same chip; between nodes, linear. A pixel is bad where a node beside it has
    fewer than ten good pixels or a quantile that is not positive.

    Parameters
    ----------
    spectra
        Observed spectra with their chips.
    width
        Full width of the window, Å.
    quantile
        Between 0 and 1.

    Raises
    ------
    InvalidDataError
        On a width or quantile out of range.
    """
    if not (width > 0 and math.isfinite(width) and 0 < quantile < 1):
        raise InvalidDataError(
            f"the window must be wider than 0 Å and the quantile inside 0 to 1, "
            f"not {width} and {quantile}."
        )
    flux, ivar = np.ones_like(spectra.flux), np.zeros_like(spectra.ivar)
    for start, stop in spectra.chips:
        grid = spectra.wavelength[start:stop]
        n_nodes = max(2, math.ceil((grid[-1] - grid[0]) / (0.1 * width)) + 1)
        nodes = np.linspace(grid[0], grid[-1], n_nodes)
        edges = np.searchsorted(grid, [nodes - 0.5 * width, nodes + 0.5 * width])
        place = np.interp(grid, nodes, np.arange(n_nodes))
        left = np.minimum(place.astype(np.intp), n_nodes - 2)
        part = place - left
        for first in range(0, spectra.n_stars, STARS_AT_ONCE):
            rows = slice(first, min(first + STARS_AT_ONCE, spectra.n_stars))
            good = spectra.ivar[rows, start:stop] > 0
            values = np.where(good, spectra.flux[rows, start:stop], np.inf)
            height = np.stack(
                [_quantile_of_finite(values[:, a:b], quantile) for a, b in edges.T], axis=1
            )
            curve = height[:, left] * (1.0 - part) + height[:, left + 1] * part
            divide_rows(spectra, rows, start, stop, curve, good & (curve > 0), flux, ivar)
    return normalized_like(spectra, flux, ivar)


def _quantile_of_finite(values: NDArray[np.floating], quantile: float) -> FloatArray:
    """Quantile of each row's finite values; NaN where there are fewer than ten, or it is <= 0."""
    ordered = np.sort(values, axis=1)
    count = np.isfinite(ordered).sum(axis=1)
    place = np.maximum(count - 1, 0) * quantile
    low = place.astype(np.intp)
    rows = np.arange(values.shape[0])
    result = np.full(values.shape[0], np.nan)
    some = count >= 10
    rows, low, part = rows[some], low[some], (place - low)[some]
    a = ordered[rows, low].astype(np.float64)
    b = ordered[rows, np.minimum(low + 1, count[some] - 1)].astype(np.float64)
    result[some] = a + part * (b - a)
    result[result <= 0] = np.nan
    return result
