"""Choosing continuum pixels: a first pass without any, and the selection from a trained model.

Both are those of Ness et al. 2015 (ApJ 808, 16): spectra divided by a running quantile train a
first model; pixels near 1 that hardly depend on the labels are the continuum of the next.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.continuum import ContinuumSettings

__all__ = [
    "NESS_LIMITS",
    "choose_continuum",
    "select_continuum_pixels",
]


NESS_LIMITS: Mapping[str, float] = {"TEFF": 1e-5, "LOGG": 0.0045, "FE_H": 0.0085}
"""Largest linear coefficients of a continuum pixel, per K and per dex (Ness et al. 2015, 2.3)."""


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


def choose_continuum(
    cannon: Cannon,
    *,
    degree: int = 4,
    baseline: float = 0.015,
    limits: Mapping[str, float] = NESS_LIMITS,
    other_limit: float = 0.03,
) -> ContinuumSettings:
    """Choose the continuum pixels of a survey by a first trained model, as a continuum's settings.

    For spectra on a grid, or in a resolution, for which there is no published list: normalise them
    by `bayes_cannon.spectra.divide_by_running_quantile`, train, and normalise and train
    again with what this returns.

    Parameters
    ----------
    cannon
        The first model; pixels that it did not use are never chosen.
    degree
        Degree of the Chebyshev series of each chip.
    baseline, limits, other_limit
        See `select_continuum_pixels`.

    Returns
    -------
    ContinuumSettings
        With the wavelengths (Å, in the model's medium) of the pixels.

    Raises
    ------
    InvalidDataError, LabelError
        As `select_continuum_pixels`.
    """
    theta = np.where(cannon.used[:, None], cannon.theta, np.nan)
    chosen = select_continuum_pixels(
        theta, cannon.basis, baseline=baseline, limits=limits, other_limit=other_limit
    )
    return ContinuumSettings(degree=degree, pixels=tuple(cannon.wavelength[chosen].tolist()))
