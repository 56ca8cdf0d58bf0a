"""Spectra of many stars on one wavelength grid, before and after continuum normalisation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import Carded, Row, count_text, range_text, simulated_mark
from bayes_cannon.base.columns import as_masked, names_of, numbers_of, unit_of
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.star_ids import (
    DEFAULT_ID,
    check_id_name,
    checked_notes,
    index_of,
    name_some,
    refuse_repeated,
    refuse_unnamed,
    simulated_stars,
    some_simulated,
)

__all__ = [
    "MEDIA",
    "NormalizedSpectra",
    "ObservedSpectra",
    "SpectraOnGrid",
    "check_medium",
    "index_of",
    "name_some",
    "require_medium",
    "same_grid",
]


MEDIA = ("vacuum", "air")
"""What wavelengths are in."""


def check_medium(medium: str) -> str:
    """Return ``'vacuum'`` or ``'air'``; else raise `InvalidDataError`.

    Parameters
    ----------
    medium
        What wavelengths are in.

    Raises
    ------
    InvalidDataError
        If it is neither.
    """
    if str(medium) not in MEDIA:
        raise InvalidDataError(f"the medium of wavelengths is 'vacuum' or 'air', not {medium!r}.")
    return str(medium)


def require_medium(spectra: SpectraOnGrid, medium: str) -> None:
    """Raise `InvalidDataError` where spectra are not in the medium of a trained model.

    Parameters
    ----------
    spectra
        Raw or normalised.
    medium
        Of the model.

    Raises
    ------
    InvalidDataError
        If they are in another.
    """
    if spectra.medium != medium:
        raise InvalidDataError(
            f"the wavelengths of the spectra are in {spectra.medium}, those of the trained model "
            f"in {medium}; give spectra as its training set was (medium=)."
        )


def same_grid(first: NDArray[np.float64], other: NDArray[np.float64]) -> bool:
    """Whether two grids of wavelengths agree to a hundredth of a pixel.

    Parameters
    ----------
    first, other : (n_pixels,) float
        Wavelengths, increasing, in one unit.
    """
    if first.shape != other.shape:
        return False
    if first.size < 2:
        return bool(np.allclose(first, other, rtol=1e-7))
    return bool(np.all(np.abs(first - other) <= 0.01 * np.gradient(first)))


class SpectraOnGrid(Carded):
    """What spectra on one grid share, wherever their pixels are."""

    star_id: NDArray[np.str_]
    wavelength: NDArray[np.float64]
    snr: NDArray[np.float64]
    chips: tuple[tuple[int, int], ...]
    simulated: bool
    medium: str
    notes: Mapping[str, NDArray[np.str_]]

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return int(self.star_id.size)

    @property
    def n_pixels(self) -> int:
        """Number of wavelength pixels."""
        return int(self.wavelength.size)

    def __len__(self) -> int:
        return self.n_stars

    def index_of(self, stars: ArrayLike) -> NDArray[np.intp]:
        """Return the row numbers of ids, of a mask, or of indices (checked).

        Parameters
        ----------
        stars
            Row numbers, a mask of shape (n_stars,), or names.

        Returns
        -------
        (n,) int

        Raises
        ------
        InvalidDataError
            If one of them is not there.
        """
        return index_of(self.star_id, stars)

    @property
    def simulated_stars(self) -> NDArray[np.bool_]:
        """Which stars are simulated, shape (n_stars,)."""
        return simulated_stars(self.simulated, self.notes, self.n_stars)

    def _rows_of_grid(self, good: int, n: int) -> list[Row]:
        """Grid, and how good the spectra are: `good` of `n` pixels are usable."""
        ranges = f", {count_text(len(self.chips), 'chip')}" if len(self.chips) > 1 else ""
        grid = range_text(self.wavelength, unit="Å")
        return [
            ("pixels", f"{self.n_pixels}, {grid} in {self.medium}{ranges}"),
            ("S/N per pixel", range_text(self.snr)),
            ("masked pixels", f"{100 * (1 - good / n):.2g} %" if n else ""),
        ]


@dataclass(frozen=True, eq=False, repr=False)
class _Spectra(SpectraOnGrid):
    """What raw and normalised spectra share. See the subclasses."""

    star_id: NDArray[np.str_]
    wavelength: NDArray[np.float64]
    flux: NDArray[np.float32]
    ivar: NDArray[np.float32]
    snr: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    chips: tuple[tuple[int, int], ...] = ()
    simulated: bool = False
    medium: str = "vacuum"
    id_name: str = DEFAULT_ID
    notes: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        star_id = names_of(self.star_id)
        given = numbers_of(self.wavelength, "wavelength")
        if given.mask.any():
            masked = count_text(given.mask.sum(), "wavelength")
            raise InvalidDataError(f"the mask covers {masked}; a pixel needs its wavelength.")
        wavelength = np.ascontiguousarray(given.values * given.factor_to("Angstrom", "wavelength"))
        flux, ivar = _pixels(self.flux, self.ivar)
        check_medium(self.medium)
        object.__setattr__(self, "id_name", check_id_name(self.id_name))
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
        refuse_repeated(star_id)
        refuse_unnamed(star_id)
        bad_star = ~(np.isfinite(flux).all(axis=1) & np.isfinite(ivar).all(axis=1))
        bad_star |= (ivar < 0).any(axis=1)
        if bad_star.any():
            raise InvalidDataError(
                f"{bad_star.sum()} of {count_text(star_id.size, 'star')} "
                f"({name_some(star_id[bad_star])}) have flux or ivar that is not finite, or "
                "negative ivar; set ivar = 0 and flux = 1 where a pixel is bad."
            )
        snr = np.atleast_1d(numbers_of(self.snr, "snr").values)
        if snr.size == 0:
            snr = np.full(star_id.size, np.nan)
        if snr.shape != star_id.shape:
            raise InvalidDataError(f"snr has shape {snr.shape}, expected ({star_id.size},).")
        try:
            ranges: Any = self.chips
            ranges = () if ranges is None else ranges
            chips = tuple((int(a), int(b)) for a, b in ranges) or ((0, wavelength.size),)
        except (TypeError, ValueError) as error:
            raise InvalidDataError(
                f"chips must be pairs of pixel numbers (start, stop), got {self.chips!r}."
            ) from error
        edges = [edge for chip in chips for edge in chip]
        if edges != sorted(edges) or edges[0] < 0 or edges[-1] > wavelength.size:
            raise InvalidDataError(f"chips {chips} must be ordered [start, stop) ranges of pixels.")
        object.__setattr__(self, "notes", checked_notes(self.notes, star_id.size))
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
    def good(self) -> NDArray[np.bool_]:
        """Usable pixels, shape (n_stars, n_pixels)."""
        return self.ivar > 0

    @property
    def usable(self) -> NDArray[np.bool_]:
        """Stars that have a usable pixel, shape (n_stars,)."""
        return self.good.any(axis=1)

    def in_memory(self) -> Self:
        """Return the spectra themselves, which are in memory."""
        return self

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Yield ``flux`` or ``ivar`` of all stars in parts, in their order; here in one.

        Parameters
        ----------
        name
            Which of the two.

        Yields
        ------
        (n_stars of the part, n_pixels) float32
        """
        yield getattr(self, name)

    def part(self, rows: slice) -> Self:
        """Return spectra that follow each other, where they are: in memory, or on disk.

        Parameters
        ----------
        rows
            Of the stars.
        """
        return self._of_rows(rows)

    def _facts(self) -> tuple[str, list[Row]]:
        kind = type(self).__name__
        title = (
            f"{kind} of {count_text(self.n_stars, 'star')}{simulated_mark(self.simulated_stars)}"
        )
        return title, [*self._pixel_rows(), ("stars", name_some(self.star_id))]

    def _pixel_rows(self) -> list[Row]:
        good = sum(np.count_nonzero(self.ivar[:, a:b]) for a, b in self.chips)
        return self._rows_of_grid(int(good), self.n_stars * sum(b - a for a, b in self.chips))

    def select(self, stars: ArrayLike) -> Self:
        """Return the spectra of some stars.

        Parameters
        ----------
        stars
            Integer indices, a boolean mask of shape (n_stars,), or star ids; each star once.
        """
        return self._of_rows(self.index_of(stars))

    def rows(self, rows: slice) -> Self:
        """Return spectra that follow each other; pixels are not copied.

        Parameters
        ----------
        rows
            Of the stars.
        """
        return self._of_rows(rows)

    def _of_rows(self, index: NDArray[np.intp] | slice) -> Self:
        notes = {name: column[index] for name, column in self.notes.items()}
        return type(self)(
            star_id=self.star_id[index],
            wavelength=self.wavelength,
            flux=self.flux[index],
            ivar=self.ivar[index],
            snr=self.snr[index],
            chips=self.chips,
            simulated=some_simulated(self.simulated, notes),
            medium=self.medium,
            id_name=self.id_name,
            notes=notes,
        )


def _pixels(flux: Any, ivar: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flux and inverse variance of all pixels; what a mask covers has flux 1 and ivar 0."""
    plain = type(flux) is type(ivar) is np.ndarray
    if plain and flux.dtype.kind + ivar.dtype.kind == "ff":
        return (
            np.ascontiguousarray(np.atleast_2d(flux), dtype=np.float32),
            np.ascontiguousarray(np.atleast_2d(ivar), dtype=np.float32),
        )
    unit, other = unit_of(flux, "flux"), unit_of(ivar, "ivar")
    if (unit is not None or other is not None) and (
        unit is None or other is None or unit**-2 != other
    ):
        raise InvalidDataError(
            f"flux has the unit {unit} and ivar {other}; give both without units, or ivar in the "
            "inverse square of the flux's."
        )
    try:
        values, weights = as_masked(flux), as_masked(ivar)
    except (TypeError, ValueError) as error:
        raise InvalidDataError(f"flux and ivar must hold numbers: {error}.") from error
    light, weight = np.atleast_2d(values.data), np.atleast_2d(weights.data)
    if light.shape == weight.shape:
        masked = np.ma.getmaskarray(values) | np.ma.getmaskarray(weights)
        masked = np.reshape(masked, light.shape)
        light, weight = np.where(masked, 1.0, light), np.where(masked, 0.0, weight)
    return (
        np.ascontiguousarray(light, dtype=np.float32),
        np.ascontiguousarray(weight, dtype=np.float32),
    )


class ObservedSpectra(_Spectra):
    """Spectra as observed: flux in the instrument's unit, continuum included.

    Attributes
    ----------
    star_id : (n_stars,) str
        Unique name of each star.
    wavelength : (n_pixels,) float64
        Wavelength in Å, in the star's rest frame, strictly increasing.
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
    medium : str
        ``'vacuum'`` or ``'air'``: what the wavelengths are in. Files, figures and line lists
        follow it.
    id_name : str
        What the column of the stars' names is called in tables: ``'APOGEE_ID'``, ``'SDSS_ID'``, …
    notes : mapping of str to (n_stars,) str
        Columns of text that tables have beside the names: other names of the stars, and
        ``REDUCTION``, the version of the pipeline that made each spectrum; '' where unknown.

    Masked pixels of masked arrays get ivar 0; wavelengths with a unit of length become Å.

    Raises
    ------
    InvalidDataError
        On masked wavelengths, units that do not fit, shapes that do not match, values that are
        not finite, negative ivar, repeated ids.
    """


class NormalizedSpectra(_Spectra):
    """Spectra divided by their pseudo-continuum: flux 1 where there is no line.

    Attributes are those of `ObservedSpectra`, with flux and ivar (scaled along) free of units;
    bad pixels have ivar 0 and flux 1.
    """
