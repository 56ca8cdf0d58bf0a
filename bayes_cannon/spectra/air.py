"""Wavelengths in vacuum and in standard air (Ciddor 1996, Applied Optics 35, 1566)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "air_to_vacuum",
    "in_medium",
    "vacuum_to_air",
]


_VALID = (2300.0, 20000.0)  # Å; Ciddor's fit reaches 16900 Å and is smooth beyond
_ITERATIONS = 6  # each gains four digits


def _refraction(vacuum: FloatArray) -> FloatArray:
    """Index of refraction of standard air at vacuum wavelengths (Å)."""
    wavenumber2 = (1e4 / vacuum) ** 2
    return 1 + 0.05792105 / (238.0185 - wavenumber2) + 0.00167917 / (57.362 - wavenumber2)


def _checked(wavelength: ArrayLike) -> FloatArray:
    array = np.asarray(wavelength, dtype=np.float64)
    wrong = ~((array >= _VALID[0]) & (array <= _VALID[1]))
    if wrong.any():
        raise InvalidDataError(
            f"{wrong.sum()} of {count_text(array.size, 'wavelength')} (first: {array[wrong][0]:g}) "
            f"are outside {_VALID[0]:.0f}-{_VALID[1]:.0f} Å, where the refraction of air is known; "
            "give Å."
        )
    return array


def vacuum_to_air(vacuum: ArrayLike) -> FloatArray:
    """Convert vacuum wavelengths to standard air: λ_air = λ_vac / n(λ_vac).

    Parameters
    ----------
    vacuum : (...) float
        Å, from 2300 to 20000.

    Returns
    -------
    (...) float64
        Å in air of 15 °C, 101325 Pa and 450 ppm CO₂.

    Raises
    ------
    InvalidDataError
        Outside that range, and on NaN.

    References
    ----------
    Ciddor 1996, Applied Optics 35, 1566.
    """
    array = _checked(vacuum)
    return array / _refraction(array)


def air_to_vacuum(air: ArrayLike) -> FloatArray:
    """Convert wavelengths in standard air to vacuum: the inverse of `vacuum_to_air`, by iteration.

    Parameters
    ----------
    air : (...) float
        Å, from 2300 to 20000.

    Returns
    -------
    (...) float64
        Å; converting back gives `air` to 1e-10 Å.

    Raises
    ------
    InvalidDataError
        Outside that range, and on NaN.
    """
    array = _checked(air)
    vacuum = array
    for _ in range(_ITERATIONS):
        vacuum = array * _refraction(vacuum)
    return vacuum


def in_medium(vacuum: ArrayLike, medium: str) -> FloatArray:
    """Vacuum wavelengths as they are in ``'vacuum'`` or in ``'air'``.

    Parameters
    ----------
    vacuum : (...) float
        Wavelengths in vacuum, Å.
    medium
        ``'vacuum'`` or ``'air'``.

    Returns
    -------
    (...) float64

    Raises
    ------
    InvalidDataError
        On another medium, and as `vacuum_to_air`.
    """
    if medium not in ("vacuum", "air"):
        raise InvalidDataError(f"the medium of wavelengths is 'vacuum' or 'air', not {medium!r}.")
    return vacuum_to_air(vacuum) if medium == "air" else np.asarray(vacuum, dtype=np.float64)
