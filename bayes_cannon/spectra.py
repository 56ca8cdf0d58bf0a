"""Spectra of many stars on one wavelength grid, before and after continuum normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.errors import InvalidDataError

__all__ = ["NormalizedSpectra", "ObservedSpectra", "name_some"]


def name_some(ids: Sequence[object] | NDArray[Any], limit: int = 3) -> str:
    """Join the first few ids for a message: ``'a, b, c, …'``."""
    shown = ", ".join(str(i) for i in list(ids)[:limit])
    return shown + (", …" if len(ids) > limit else "")


@dataclass(frozen=True, eq=False)
class _Spectra:
    """What raw and normalised spectra share. See the subclasses."""

    star_id: NDArray[np.str_]
    wavelength: NDArray[np.float64]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    snr: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    chips: tuple[tuple[int, int], ...] = ()
    simulated: bool = False

    def __post_init__(self) -> None:
        star_id = np.atleast_1d(np.asarray(self.star_id, dtype=np.str_))
        wavelength = np.ascontiguousarray(self.wavelength, dtype=np.float64)
        flux = np.ascontiguousarray(np.atleast_2d(self.flux), dtype=np.float32)
        ivar = np.ascontiguousarray(np.atleast_2d(self.ivar), dtype=np.float32)
        shape = (star_id.size, wavelength.size)
        if wavelength.ndim != 1 or star_id.ndim != 1:
            raise InvalidDataError("wavelength and star_id must be one-dimensional arrays.")
        if flux.shape != shape or ivar.shape != shape:
            raise InvalidDataError(
                f"flux {flux.shape} and ivar {ivar.shape} must both have shape "
                f"(n_stars, n_pixels) = {shape}."
            )
        if not (np.all(np.isfinite(wavelength)) and np.all(np.diff(wavelength) > 0)):
            raise InvalidDataError("wavelength must be finite and strictly increasing.")
        unique, counts = np.unique(star_id, return_counts=True)
        if np.any(counts > 1):
            raise InvalidDataError(
                f"{np.sum(counts > 1)} star ids occur more than once "
                f"({name_some(unique[counts > 1])}); make them unique."
            )
        bad_star = ~(np.isfinite(flux).all(axis=1) & np.isfinite(ivar).all(axis=1))
        bad_star |= (ivar < 0).any(axis=1)
        if bad_star.any():
            raise InvalidDataError(
                f"{bad_star.sum()} of {star_id.size} stars ({name_some(star_id[bad_star])}) have "
                "flux or ivar that is not finite, or negative ivar; "
                "set ivar = 0 and flux = 1 where a pixel is bad."
            )
        snr = np.atleast_1d(np.asarray(self.snr, dtype=np.float64))
        if snr.size == 0:
            snr = np.full(star_id.size, np.nan)
        if snr.shape != star_id.shape:
            raise InvalidDataError(f"snr has shape {snr.shape}, expected ({star_id.size},).")
        chips = tuple((int(a), int(b)) for a, b in self.chips) or ((0, wavelength.size),)
        edges = [edge for chip in chips for edge in chip]
        if edges != sorted(edges) or edges[0] < 0 or edges[-1] > wavelength.size:
            raise InvalidDataError(f"chips {chips} must be ordered [start, stop) ranges of pixels.")
        for name, value in (
            ("star_id", star_id),
            ("wavelength", wavelength),
            ("flux", flux),
            ("ivar", ivar),
            ("snr", snr),
            ("chips", chips),
        ):
            object.__setattr__(self, name, value)

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return int(self.star_id.size)

    @property
    def n_pixels(self) -> int:
        """Number of wavelength pixels."""
        return int(self.wavelength.size)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Usable pixels, shape (n_stars, n_pixels)."""
        return self.ivar > 0

    def __len__(self) -> int:
        return self.n_stars

    def select(self, stars: ArrayLike) -> Self:
        """Return the spectra of some stars.

        Parameters
        ----------
        stars
            Integer indices, a boolean mask of shape (n_stars,), or star ids.
        """
        return self._of_rows(self.index_of(stars))

    def rows(self, rows: slice) -> Self:
        """Return spectra that follow each other; pixels are not copied."""
        return self._of_rows(rows)

    def index_of(self, stars: ArrayLike) -> NDArray[np.intp]:
        """Return the row numbers of ids, of a mask, or of indices (checked)."""
        array = np.atleast_1d(np.asarray(stars))
        if array.size == 0:
            return np.empty(0, dtype=np.intp)
        if array.dtype.kind in "US":
            order = np.argsort(self.star_id)
            place = np.searchsorted(self.star_id, array, sorter=order)
            found = order[np.minimum(place, self.n_stars - 1)]
            unknown = self.star_id[found] != array
            if unknown.any():
                raise InvalidDataError(
                    f"{unknown.sum()} star ids are not in these {self.n_stars} spectra: "
                    f"{name_some(array[unknown])}."
                )
            return found
        if array.dtype == bool and array.shape != (self.n_stars,):
            raise InvalidDataError(f"a mask of stars must have shape ({self.n_stars},).")
        return np.arange(self.n_stars)[array]

    def _of_rows(self, index: NDArray[np.intp] | slice) -> Self:
        return type(self)(
            star_id=self.star_id[index],
            wavelength=self.wavelength,
            flux=self.flux[index],
            ivar=self.ivar[index],
            snr=self.snr[index],
            chips=self.chips,
            simulated=self.simulated,
        )


class ObservedSpectra(_Spectra):
    """Spectra as observed: flux in the instrument's unit, continuum included.

    Attributes
    ----------
    star_id : (n_stars,) str
        Unique name of each star.
    wavelength : (n_pixels,) float64
        Vacuum wavelength in Å, in the star's rest frame, strictly increasing.
    flux : (n_stars, n_pixels) float32
        Flux; for APOGEE in 1e-17 erg s⁻¹ cm⁻² Å⁻¹. Finite everywhere.
    ivar : (n_stars, n_pixels) float32
        Inverse variance of the flux; 0 marks a pixel that must not be used.
    snr : (n_stars,) float64
        Signal-to-noise ratio per pixel from the file's header or the catalogue (NaN: unknown).
    chips : tuple of (start, stop)
        Half-open pixel ranges, one per detector or per range that is normalised on its own.
    simulated : bool
        True where the spectra come from a simulation; figures and files say so.

    Raises
    ------
    InvalidDataError
        On shapes that do not match, values that are not finite, negative ivar, repeated ids.
    """


class NormalizedSpectra(_Spectra):
    """Spectra divided by their pseudo-continuum: flux 1 where there is no line.

    Attributes are those of `ObservedSpectra`, with flux and ivar (scaled along) free of units;
    bad pixels have ivar 0 and flux 1.
    """
