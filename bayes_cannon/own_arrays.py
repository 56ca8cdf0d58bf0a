"""Checked arrays of a user's own spectra and labels, and normalisation on any grid."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.continuum import ContinuumSettings, divide_by_continuum
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.labels import Labels
from bayes_cannon.spectra import NormalizedSpectra, ObservedSpectra, name_some

__all__ = [
    "Chips",
    "GivenSpectra",
    "as_numbers",
    "check_star_ids",
    "make_labels",
    "require_labels",
]

FloatArray = NDArray[np.float64]
Chips = Sequence[tuple[float, float]]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NORMAL = (0.02, 5.0)  # medians of normalised flux, generously


@dataclass(frozen=True, eq=False)
class GivenSpectra:
    """Spectra as given, checked: float64, bad pixels with flux 0 and ivar 0."""

    star_id: NDArray[np.str_]
    wavelength: FloatArray
    flux: FloatArray
    ivar: FloatArray

    @classmethod
    def make(
        cls,
        wavelength: ArrayLike,
        flux: ArrayLike,
        ivar: ArrayLike | None,
        error: ArrayLike | None,
        star_id: Sequence[str] | None,
    ) -> GivenSpectra:
        """Check arrays; a spectrum of one star becomes a row."""
        if (ivar is None) == (error is None):
            raise InvalidDataError("give either ivar or error, the spread of the flux.")
        grid = _grid(wavelength)
        values = np.atleast_2d(np.asarray(flux, dtype=np.float64))
        given = np.atleast_2d(np.asarray(error if ivar is None else ivar, dtype=np.float64))
        if values.ndim != 2 or values.shape[1] != grid.size or given.shape != values.shape:
            name = "error" if ivar is None else "ivar"
            raise InvalidDataError(
                f"flux {values.shape} and {name} {given.shape} must both have shape "
                f"(n_stars, n_pixels), with the {grid.size} pixels of the wavelengths."
            )
        ids = check_star_ids(star_id, values.shape[0])
        if ivar is None:
            _refuse(ids, ~(given > 0), "an error that is not positive", "make it infinite")
            given = 1.0 / given**2
        _refuse(ids, ~(np.isfinite(given) & (given >= 0)), "an ivar that cannot be", "set ivar = 0")
        good = given > 0
        _refuse(ids, good & ~np.isfinite(values), "flux that is not finite", "set ivar = 0")
        return cls(ids, grid, np.where(good, values, 0.0), given)

    def normalized(
        self, chips: Chips, continuum: ContinuumSettings | None, *, simulated: bool
    ) -> tuple[NormalizedSpectra, NDArray[np.bool_]]:
        """Normalised spectra, and which chips of which stars have no usable continuum."""
        ranges = _pixel_ranges(self.wavelength, chips)
        median = _median(self.flux, self.ivar)
        # Fluxes in erg s⁻¹ cm⁻² Å⁻¹ have inverse variances beyond the range of float32.
        scale = np.where(median > 0, median, 1.0)[:, None] if continuum else 1.0
        observed = ObservedSpectra(
            star_id=self.star_id,
            wavelength=self.wavelength,
            flux=(self.flux / scale).astype(np.float32),
            ivar=(self.ivar * scale**2).astype(np.float32),
            snr=_median(self.flux * np.sqrt(self.ivar), self.ivar),
            chips=ranges,
            simulated=simulated,
        )
        if continuum is not None:
            spectra, fit = divide_by_continuum(observed, continuum)
            return spectra, fit.masked_chips
        _require_normal(self.star_id, median)
        inside = np.zeros(self.wavelength.size, dtype=np.bool_)
        for start, stop in ranges:
            inside[start:stop] = True
        used = inside & (observed.ivar > 0)
        spectra = NormalizedSpectra(
            star_id=observed.star_id,
            wavelength=observed.wavelength,
            flux=np.where(used, observed.flux, np.float32(1.0)),
            ivar=np.where(used, observed.ivar, np.float32(0.0)),
            snr=observed.snr,
            chips=ranges,
            simulated=simulated,
        )
        return spectra, np.zeros((len(spectra), len(ranges)), dtype=np.bool_)


def check_star_ids(given: Sequence[str] | None, n_stars: int) -> NDArray[np.str_]:
    """One name a star, all different."""
    if given is None:
        return np.array([f"star-{i + 1}" for i in range(n_stars)], dtype=np.str_)
    names = np.atleast_1d(np.asarray(given, dtype=np.str_))
    if names.shape != (n_stars,):
        raise InvalidDataError(f"{names.size} names for {n_stars} stars; give one for each.")
    unique, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        raise InvalidDataError(
            f"names must differ from each other: {name_some(unique[counts > 1])} come more than "
            "once."
        )
    return names


def _grid(wavelength: ArrayLike) -> FloatArray:
    grid = np.asarray(wavelength, dtype=np.float64)
    if grid.ndim != 1 or grid.size < 2:
        raise InvalidDataError(
            f"wavelength must have shape (n_pixels,), the same for all stars, not {grid.shape}."
        )
    steps = np.diff(grid)
    if not (np.isfinite(grid).all() and (steps > 0).all()):
        first = int(np.argmin(steps > 0)) if np.isfinite(grid).all() else 0
        raise InvalidDataError(
            "wavelength must be finite and increase from pixel to pixel (it does not at pixel "
            f"{first}); sort it with np.argsort, and flux and ivar along."
        )
    return grid


def _refuse(ids: NDArray[np.str_], wrong: NDArray[np.bool_], what: str, remedy: str) -> None:
    """Raise if any value of any star is wrong."""
    stars = wrong.any(axis=1)
    if stars.any():
        raise InvalidDataError(
            f"{stars.sum()} of {ids.size} stars ({name_some(ids[stars])}) have {what}, in "
            f"{wrong.sum()} pixels; {remedy} where a pixel is bad."
        )


def _pixel_ranges(grid: FloatArray, chips: Chips) -> tuple[tuple[int, int], ...]:
    """Wavelength ranges as half-open pixel ranges; a shared edge belongs to the redder one."""
    if not len(chips):
        return ((0, grid.size),)
    edges = [float(edge) for chip in chips for edge in chip]
    if edges != sorted(edges) or not all(math.isfinite(e) for e in edges):
        raise InvalidDataError(f"chips {tuple(chips)} must be ordered (low, high) ranges in Å.")
    start = np.searchsorted(grid, edges[::2], side="left")
    stop = np.searchsorted(grid, edges[1::2], side="right")
    stop[:-1] = np.minimum(stop[:-1], start[1:])
    if np.any(stop - start < 2):
        raise InvalidDataError(
            f"each of the chips {tuple(chips)} must hold some of the pixels, which are at "
            f"{grid[0]:.1f}-{grid[-1]:.1f} Å."
        )
    return tuple(zip(start.tolist(), stop.tolist(), strict=True))


def _median(values: FloatArray, ivar: FloatArray) -> FloatArray:
    """Median over each star's good pixels, NaN where there are none."""
    return np.asarray(
        np.ma.filled(np.ma.median(np.ma.array(values, mask=ivar <= 0), axis=1), np.nan)
    )


def _require_normal(star_id: NDArray[np.str_], median: FloatArray) -> None:
    """Spectra that need no continuum must be near 1."""
    low, high = _NORMAL
    odd = (median < low) | (median > high)
    if odd.any():
        raise InvalidDataError(
            f"the median flux of {odd.sum()} of {odd.size} stars ({name_some(star_id[odd])}) is "
            "far from 1: they are not normalised; give `continuum`, a ContinuumSettings."
        )


def make_labels(
    star_id: NDArray[np.str_],
    values: Mapping[str, ArrayLike],
    errors: Mapping[str, ArrayLike] | None,
    units: Mapping[str, str] | None,
) -> Labels:
    """Labels of all stars, NaN where unknown."""
    names, errors, units = tuple(values), dict(errors or {}), dict(units or {})
    odd = [name for name in names if not _NAME.fullmatch(name)]
    if odd or not names:
        raise LabelError(
            f"labels need names of letters, digits and _, like FE_H: {', '.join(odd) or 'none'}."
        )
    unknown = [name for name in (*errors, *units) if name not in names]
    if unknown:
        raise LabelError(f"errors or units of {', '.join(unknown)}, which is not a label.")
    columns = [as_numbers(values[name]) for name in names]
    wrong = [n for n, c in zip(names, columns, strict=True) if c.shape != star_id.shape]
    if wrong:
        raise LabelError(f"{', '.join(wrong)} must have shape ({star_id.size},), one value a star.")
    spreads = [np.broadcast_to(as_numbers(errors.get(n, np.nan)), star_id.shape) for n in names]
    plain = Labels(names, np.array(columns).T, np.array(spreads).T, star_id)
    given = tuple(units.get(n, u) for n, u in zip(names, plain.units, strict=True))
    return Labels(names, plain.values, plain.errors, star_id, given)


def require_labels(labels: Labels, *, allowed: bool) -> None:
    """Raise if a star lacks a label, unless that is allowed."""
    lacking = ~labels.complete
    if lacking.any() and not allowed:
        raise LabelError(
            f"{lacking.sum()} of {len(labels)} stars ({name_some(labels.star_id[lacking])}) lack "
            "labels; leave them out, or set allow_missing_labels."
        )


def as_numbers(column: object) -> FloatArray:
    """Values of a column or array as float64; NaN where they are masked."""
    return np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
