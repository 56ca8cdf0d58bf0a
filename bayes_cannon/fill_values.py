"""Fill values: the numbers that catalogues write where they have no value."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["is_fill_value", "known_values"]

FloatArray = NDArray[np.float64]

_ROUNDING = 1e-7  # of float32
_NINES = {
    10.0**whole - 10.0**-places: whole + places
    for whole in range(1, 7)
    for places in range(7 - whole)
}
"""Numbers of at most six nines and no other digit, 9 to 999999, and how many nines they have."""
_DEX = re.compile(r"LOGG|[A-Z0-9]+_(FE|H|M)")
_IMPOSSIBLE = 99.0  # dex


def known_values(values: ArrayLike, *, positive: bool = False) -> FloatArray:
    """Numbers of the archive's catalogues with NaN for what is missing.

    Missing are values that are not finite or at most -999 (-9999, -9999.99, -999.99); with
    `positive`, as for errors, also those that are not positive.
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = np.isfinite(numbers) & (numbers > (0.0 if positive else -999.0))
    return np.where(known, numbers, np.nan)


def is_fill_value(values: ArrayLike, name: str = "") -> NDArray[np.bool_]:
    """Which values of a label are fill values; NaN is none.

    Of every label: -9.99, -99.9, -999, -9999.99 and the like, minus and three nines or more; and
    with plus those of four nines or more (9999, 99.99). Of LOGG and of abundances (MG_FE, FE_H,
    ALPHA_M) also 9.99 and everything from 99 on, with either sign; of TEFF everything that is not
    positive.

    Parameters
    ----------
    values : (...) float
    name
        Of the label, where known.

    Returns
    -------
    (...) bool
    """
    numbers = np.asarray(values, dtype=np.float64)
    found = np.zeros(numbers.shape, dtype=np.bool_)
    dex = bool(_DEX.fullmatch(name.upper()))
    for size, nines in _NINES.items():
        if nines >= 3:
            found |= np.abs(numbers + size) <= _ROUNDING * size
        if nines >= (3 if dex else 4):
            found |= np.abs(numbers - size) <= _ROUNDING * size
    if dex:
        found |= (numbers <= -_IMPOSSIBLE) | (numbers >= _IMPOSSIBLE)
    if name.upper() == "TEFF":
        found |= numbers <= 0
    return found & np.isfinite(numbers)
