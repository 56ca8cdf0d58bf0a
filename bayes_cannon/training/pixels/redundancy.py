"""How many pixels repeat one another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray

__all__ = [
    "enough_stars",
    "pixels_per_independent_one",
]

_STARS = 250


def enough_stars(n_stars: int) -> slice:
    """Some of the stars, as many as `pixels_per_independent_one` needs.

    Parameters
    ----------
    n_stars
        How many there are.

    Returns
    -------
    slice
        Every n-th star.
    """
    return slice(None, None, max(1, n_stars // _STARS))


def pixels_per_independent_one(
    residual: NDArray[Any], weight: NDArray[Any], *, n_features: int, n_factors: int = 0
) -> float:
    r"""Number of pixels over the number of independent ones with the same spread of residuals.

    Whatever moves many pixels together and is not among the labels leaves residuals that go
    together. By chance it goes along with the labels a little, and then changes the coefficients
    of all those pixels in the same way: they must not count as independent.

    The eigenvalues of the stars' products over p independent pixels of unit variance scatter about
    their mean by ``var / mean**2 = (number of eigenvalues) / p`` (those of a Wishart matrix).

    Parameters
    ----------
    residual, weight
        Flux minus model and inverse variance (scatter included), shape (n_stars, n_pixels).
    n_features
        Coefficients per pixel that were fitted to the residuals.
    n_factors
        Nuisance factors to come, which will explain as many of the strongest patterns.

    Returns
    -------
    float
        At least 1; the number of pixels where there are too few stars to tell.
    """
    n_pixels = residual.shape[1]
    white = residual * np.sqrt(weight)
    gram = _of_unit_stars((white @ white.T).astype(np.float64))
    if 0 < n_factors < len(gram):
        strongest = np.linalg.eigh(gram)[1][:, -n_factors:]
        rest = np.eye(len(gram)) - strongest @ strongest.T
        gram = _of_unit_stars(rest @ gram @ rest)
    values = np.linalg.eigvalsh(gram)[n_features + n_factors :]
    if len(values) < 2:
        return float(n_pixels)
    independent = len(values) * values.mean() ** 2 / max(values.var(), 1e-300)
    return float(np.clip(n_pixels / independent, 1.0, n_pixels))


def _of_unit_stars(gram: FloatArray) -> FloatArray:
    """Products of the stars that have any, scaled to one for each star with itself."""
    square = np.diag(gram)
    some = square > 1e-12 * max(square.max(initial=0.0), 1e-300)
    size = np.sqrt(square[some])
    return np.asarray(gram[np.ix_(some, some)] / np.outer(size, size))
