"""Spectra of a fitted pair: their sum with the factors, and each star's part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.binaries.search import BinarySettings, Search, Star

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "PairCurves",
    "pair_curves",
]


@dataclass(frozen=True, eq=False)
class PairCurves:
    """Model spectra of a pair, shape (n_pixels,) each; NaN in pixels that were not fitted.

    Attributes
    ----------
    total : float64
        Sum of the two stars with the most probable factors.
    first, second : float64
        Spectra of the two stars, each with its continuum at 1.
    light : float
        The second star's share.
    """

    total: FloatArray
    first: FloatArray
    second: FloatArray
    light: float


def pair_curves(
    cannon: Cannon,
    flux: NDArray[Any],
    ivar: NDArray[Any],
    theta: FloatArray,
    settings: BinarySettings,
    *,
    second: Cannon | None = None,
) -> PairCurves:
    """Spectra of a pair that the fast pass found.

    Parameters
    ----------
    cannon
        The trained model.
    flux, ivar
        Of the star, shape (n_pixels,); ivar 0: not used.
    theta
        Its row of `FastPass.theta`.
    settings, second
        Of the search.
    """
    search = Search.prepare(cannon, settings, second)
    model, k = search.model, search.model.n_labels
    weights = np.where(model.usable, ivar, 0.0).astype(np.float64)
    star = Star.make(search, np.asarray(flux, np.float64), weights, cannon.scatter**2)
    light, dv, shift, broad = theta[2 * k :]
    total = star.with_factors(model.pair(theta, weights).flux)
    first = model.single(theta[:k], shift, broad).flux
    other = model.companion(theta[k : 2 * k], shift + dv, broad).flux
    total, first, other = (np.where(model.usable, x, np.nan) for x in (total, first, other))
    return PairCurves(total, first, other, float(light))
