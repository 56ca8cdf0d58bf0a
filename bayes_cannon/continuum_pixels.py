"""Choosing continuum pixels: a first pass without any, and the selection from a trained model.

Both are those of Ness et al. 2015 (ApJ 808, 16): spectra divided by a running quantile train a
first model; pixels near 1 that hardly depend on the labels are the continuum of the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.continuum import STARS_AT_ONCE, divide_rows, normalized_like
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.features import PolynomialBasis
from bayes_cannon.spectra import NormalizedSpectra, ObservedSpectra

__all__ = ["NESS_LIMITS", "divide_by_running_quantile", "select_continuum_pixels"]

FloatArray = NDArray[np.float64]

NESS_LIMITS: Mapping[str, float] = {"TEFF": 1e-5, "LOGG": 0.0045, "FE_H": 0.0085}
"""Largest linear coefficients of a continuum pixel, per K and per dex (Ness et al. 2015, 2.3)."""


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


def select_continuum_pixels(
    theta: ArrayLike,
    basis: PolynomialBasis,
    *,
    baseline: float = 0.015,
    limits: Mapping[str, float] = NESS_LIMITS,
    other_limit: float = 0.03,
) -> NDArray[np.intp]:
    """Choose continuum pixels from a trained model (Ness et al. 2015, section 2.3).

    A pixel is continuum where its flux at the mean labels is within `baseline` of 1 and depends
    little on every label: ``|theta_k| / scale_k``, the linear coefficient in the label's own
    unit, is below its limit.

    Parameters
    ----------
    theta
        Coefficients for standardised labels, shape (n_pixels, n_terms). A pixel with a
        coefficient that is not finite is never chosen.
    basis
        The terms and the scaling of the labels.
    baseline
        Largest distance of the constant term from 1.
    limits
        Largest linear coefficient by label name, per K or per dex.
    other_limit
        The same for labels without an entry in `limits`.

    Returns
    -------
    (n,) int
        Pixel numbers, increasing.

    Raises
    ------
    InvalidDataError
        If `theta` does not fit the basis, or no pixel passes.
    LabelError
        If a limit names a label that the model does not have, unless it is one of the defaults.
    """
    coefficients = np.asarray(theta, dtype=np.float64)
    if coefficients.ndim != 2 or coefficients.shape[1] != basis.n_terms:
        raise InvalidDataError(
            f"theta has shape {coefficients.shape}, expected (n_pixels, {basis.n_terms})."
        )
    unknown = [n for n in limits if n not in basis.names and n not in NESS_LIMITS]
    if unknown:
        raise LabelError(
            f"limits for {', '.join(unknown)}, but the model has {', '.join(basis.names)}."
        )
    linear = coefficients[:, [basis.terms.index((k,)) for k in range(basis.n_labels)]] / basis.scale
    allowed = np.array([limits.get(name, other_limit) for name in basis.names])
    with np.errstate(invalid="ignore"):
        chosen = (np.abs(coefficients[:, 0] - 1.0) <= baseline) & np.all(
            np.abs(linear) < allowed, axis=1
        )
    chosen &= np.isfinite(coefficients).all(axis=1)
    if not chosen.any():
        raise InvalidDataError(
            f"none of {chosen.size} pixels is continuum by these limits; raise them."
        )
    return np.flatnonzero(chosen)
