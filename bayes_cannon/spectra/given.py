"""Checked arrays of a user's own spectra, and normalisation on any grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import Numbers, names_of, numbers_of
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.continuum import ContinuumSettings, divide_by_continuum
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra, check_medium, name_some
from bayes_cannon.spectra.star_ids import DEFAULT_ID, check_id_name

__all__ = [
    "Chips",
    "GivenSpectra",
    "Normalised",
    "check_star_ids",
]

Chips = Sequence[tuple[float, float]]

_log = logging.getLogger(__name__)
_NORMAL = (0.02, 5.0)  # medians of normalised flux, generously
_APART = 30.0  # ratio to 1 from which a median is that of raw flux
_ROUNDING = 1e-10  # of wavelengths
_LARGEST = 1e37  # float32 reaches 3e38


@dataclass(frozen=True, eq=False)
class Normalised:
    """Normalised spectra, and what was found on the way.

    Attributes
    ----------
    spectra : NormalizedSpectra
        Of all stars; one that cannot be used has no good pixel.
    masked_chips : (n_stars, n_chips) bool
        Chips without a usable continuum.
    reasons : dict of int to str
        Why stars cannot be used, by their rows, where more is known than that no pixel is good.
    """

    spectra: NormalizedSpectra
    masked_chips: NDArray[np.bool_]
    reasons: dict[int, str]


@dataclass(frozen=True, eq=False)
class GivenSpectra:
    """Spectra as given, checked: float64, in Å, bad pixels with flux 0 and ivar 0.

    `n_masked` and `n_unusable` are the numbers of pixels of each star that a mask covers, and
    whose flux, error or inverse variance is not a usable number.
    """

    star_id: NDArray[np.str_]
    wavelength: FloatArray
    flux: FloatArray
    ivar: FloatArray
    n_masked: NDArray[np.int64]
    n_unusable: NDArray[np.int64]
    medium: str = "vacuum"
    id_name: str = DEFAULT_ID

    @classmethod
    def make(
        cls,
        wavelength: ArrayLike,
        flux: ArrayLike,
        ivar: ArrayLike | None,
        error: ArrayLike | None,
        star_id: Sequence[str] | None,
        medium: str = "vacuum",
        id_name: str = DEFAULT_ID,
    ) -> GivenSpectra:
        """Check arrays; a spectrum of one star becomes a row.

        Parameters
        ----------
        wavelength : (n_pixels,) float
            Å, or with a unit of length.
        flux : (n_stars, n_pixels) or (n_pixels,) float
            In any unit.
        ivar, error : as flux, or one number
            Its inverse variance or standard deviation; one of the two.
        star_id : (n_stars,) str
            Names, all different; numbered where None.
        medium
            ``'vacuum'`` or ``'air'``.
        id_name
            What the column of the names is called.

        Raises
        ------
        InvalidDataError
            On shapes, units or values that cannot be (see `bayes_cannon.spectra.arrays`).
        """
        if (ivar is None) == (error is None):
            raise InvalidDataError("give either ivar or error, the spread of the flux.")
        name = "error" if ivar is None else "ivar"
        grid = _grid(wavelength)
        numbers, spread = (
            numbers_of(flux, "flux"),
            numbers_of(error if ivar is None else ivar, name),
        )
        values = np.atleast_2d(numbers.values)
        shape = np.atleast_2d(spread.values).shape if spread.values.ndim else values.shape
        if values.ndim != 2 or values.shape[1] != grid.size or shape != values.shape:
            raise InvalidDataError(
                f"flux {values.shape} and {name} {shape} must both have shape "
                f"(n_stars, n_pixels), with the {grid.size} pixels of the wavelengths."
            )
        scale, spread_scale = _scales(numbers, spread, name)
        values = values * scale
        given = np.broadcast_to(spread.values * spread_scale, values.shape)
        masked = np.reshape(numbers.mask, values.shape) | np.broadcast_to(spread.mask, values.shape)
        ids = check_star_ids(star_id, values.shape[0])
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            weight = given if ivar is not None else np.where(given > 0, given, np.nan) ** -2.0
            usable = (weight >= 0) & (weight < _LARGEST * max(1.0, _level(values) ** -2.0))
        declared = masked | (usable & (weight == 0))
        finite = np.isfinite(values)
        good = usable & finite & ~declared
        odd = ~good & ~declared
        if not good.any() and odd.any():
            what = (
                f"an {name} that cannot be" if (odd & finite).any() else "flux that is not finite"
            )
            raise InvalidDataError(
                f"all {count_text(ids.size, 'star')} ({name_some(ids)}) have {what}, in "
                f"{count_text(odd.sum(), 'pixel')}: errors are positive, inverse variances "
                "positive or 0 where a pixel is bad."
            )
        return cls(
            ids, grid, np.where(good, values, 0.0), np.where(good, weight, 0.0),
            masked.sum(axis=1), odd.sum(axis=1), check_medium(medium), check_id_name(id_name),
        )  # fmt: skip

    def about_pixels(self) -> str:
        """What was left out of the pixels, as text; empty where nothing was."""
        parts = [
            f"{count_text(n.sum(), 'pixel')} of {count_text((n > 0).sum(), 'star')} "
            f"({name_some(self.star_id[n > 0])}) {what}"
            for n, what in (
                (self.n_masked, "are masked"),
                (self.n_unusable, "have no usable flux or error"),
            )
            if n.any()
        ]
        return "; ".join(parts)

    def normalized(
        self, chips: Chips | None, continuum: ContinuumSettings | None, *, simulated: bool
    ) -> Normalised:
        """Normalised spectra of all stars.

        Parameters
        ----------
        chips
            Wavelength ranges (low, high), Å, that are normalised each on its own; one with
            everything where empty.
        continuum
            How to normalise; None: they are already.
        simulated
            Whether the spectra are simulated.

        Raises
        ------
        InvalidDataError
            On chips that hold no pixels, no `ContinuumSettings`, or spectra that are not
            normalised though no continuum is asked for.
        """
        if said := self.about_pixels():
            _log.info("not used: %s", said)
        if continuum is not None and not isinstance(continuum, ContinuumSettings):
            raise InvalidDataError(
                f"continuum must be a ContinuumSettings or None, not {type(continuum).__name__}."
            )
        ranges = _pixel_ranges(self.wavelength, chips)
        median = _median(self.flux, self.ivar)
        # Fluxes in erg s⁻¹ cm⁻² Å⁻¹ have inverse variances beyond the range of float32.
        scale = np.where(median > 0, median, 1.0)[:, None] if continuum else 1.0
        reasons = (
            _not_raw(self.flux, self.ivar, median) if continuum
            else _not_normal(self.star_id, median)
        )  # fmt: skip
        ivar = self.ivar * scale**2
        ivar[list(reasons)] = 0.0
        observed = ObservedSpectra(
            star_id=self.star_id,
            wavelength=self.wavelength,
            flux=(np.where(ivar > 0, self.flux, 0.0) / scale).astype(np.float32),
            ivar=ivar.astype(np.float32),
            snr=_median(self.flux * np.sqrt(self.ivar), self.ivar),
            chips=ranges,
            simulated=bool(simulated),
            medium=self.medium,
            id_name=self.id_name,
        )
        if continuum is not None:
            spectra, fit = divide_by_continuum(observed, continuum)
            return Normalised(spectra, fit.masked_chips, reasons)
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
            simulated=observed.simulated,
            medium=self.medium,
            id_name=self.id_name,
        )
        return Normalised(spectra, np.zeros((len(spectra), len(ranges)), np.bool_), reasons)


def check_star_ids(given: Sequence[str] | None, n_stars: int) -> NDArray[np.str_]:
    """One name a star, all different.

    Parameters
    ----------
    given : (n_stars,) str
        Names; None numbers the stars.
    n_stars
        How many there must be.

    Returns
    -------
    (n_stars,) str

    Raises
    ------
    InvalidDataError
        If there are more or fewer, or one comes twice.
    """
    if given is None:
        return np.array([f"star-{i + 1}" for i in range(n_stars)], dtype=np.str_)
    names = names_of(given)
    if names.shape != (n_stars,):
        raise InvalidDataError(
            f"{count_text(names.size, 'name')} for {count_text(n_stars, 'star')}; give one for "
            "each."
        )
    unique, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        raise InvalidDataError(
            f"names must differ from each other: {name_some(unique[counts > 1])} come more than "
            "once."
        )
    return names


def _grid(wavelength: ArrayLike) -> FloatArray:
    """Wavelengths in Å, checked."""
    given = numbers_of(wavelength, "wavelength")
    if given.mask.any():
        raise InvalidDataError(
            f"{given.mask.sum()} of {count_text(given.mask.size, 'wavelength')} are masked (the "
            f"first at pixel {int(np.argmax(given.mask.ravel()))}); a pixel needs its wavelength: "
            "mask its flux."
        )
    if given.unit is not None and given.unit.physical_type != "length":
        raise InvalidDataError(
            f"wavelength is in {given.unit}, which is not a length; convert it to Å with astropy "
            "(quantity.to('Angstrom', equivalencies=u.spectral())) and sort by it."
        )
    grid = given.values * given.factor_to(u.AA, "wavelength")
    if grid.ndim == 2 and grid.shape[0] == 1:
        grid = grid[0]
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


def _scales(flux: Numbers, spread: Numbers, name: str) -> tuple[float, float]:
    """What to multiply flux and its spread by: both in the flux's unit, or plain numbers."""
    unit: Any = u.dimensionless_unscaled if flux.unit is None else flux.unit
    if not isinstance(unit, u.UnitBase) or unit.is_equivalent(u.mag):
        raise InvalidDataError(f"flux is in {unit}, a logarithmic unit; convert it to a flux.")
    plain = unit.is_equivalent(u.dimensionless_unscaled)
    wanted: Any = u.dimensionless_unscaled if plain else unit
    scale = flux.factor_to(wanted, "flux")
    if spread.unit is None and scale != 1.0:
        raise InvalidDataError(
            f"flux is in {unit} and {name} has no unit; give {name} its unit too."
        )
    power = 1 if name == "error" else -2
    return scale, spread.factor_to(wanted**power, name)


def _level(flux: FloatArray) -> float:
    """Size of the flux: median of what is not 0; 1 without any."""
    size = np.abs(flux[np.isfinite(flux) & (flux != 0)])
    return float(np.median(size)) if size.size else 1.0


def _pixel_ranges(grid: FloatArray, chips: Chips | None) -> tuple[tuple[int, int], ...]:
    """Wavelength ranges as half-open pixel ranges; a shared edge belongs to the redder one."""
    if chips is None or np.size(np.asarray(chips, dtype=object)) == 0:
        return ((0, grid.size),)
    given = numbers_of(chips, "chips")
    values = given.values * given.factor_to(u.AA, "chips")
    if values.shape == (2,):
        values = values[None]
    if values.ndim == 0:
        raise InvalidDataError(f"chips {chips!r} must be ordered (low, high) ranges in Å.")
    edges = values.ravel().tolist()
    if values.ndim != 2 or values.shape[1] != 2 or not all(math.isfinite(e) for e in edges):
        raise InvalidDataError(f"chips {chips!r} must be ordered (low, high) ranges in Å.")
    if edges != sorted(edges):
        raise InvalidDataError(f"chips {tuple(chips)} must be ordered (low, high) ranges in Å.")
    ends = np.array(edges)  # a pixel at an edge counts also where rounding parts them
    start = np.searchsorted(grid, ends[::2] * (1 - _ROUNDING), side="left")
    stop = np.searchsorted(grid, ends[1::2] * (1 + _ROUNDING), side="right")
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


def _not_raw(flux: FloatArray, ivar: FloatArray, median: FloatArray) -> dict[int, str]:
    """Stars whose flux is that of a normalised spectrum among raw ones: their rows, and why.

    Two products of a survey in one set teach the model the difference between them.
    """
    lit = median > 0
    usual = float(np.median(median[lit])) if lit.any() else 1.0
    near_one = lit & (median > 0.5) & (median < 1.1)
    if 1 / _APART < usual < _APART or not near_one.any():
        return {}
    found = {}
    for row in np.flatnonzero(near_one).tolist():
        top = float(np.quantile(flux[row][ivar[row] > 0], 0.9))
        if 0.95 < top < 1.1:
            found[row] = (
                f"its flux is that of a normalised spectrum (90 % of it is below {top:.3g}), the "
                f"others' is raw (their median is {usual:.3g}): products are not mixed in one set"
            )
    return found


def _not_normal(star_id: NDArray[np.str_], median: FloatArray) -> dict[int, str]:
    """Stars whose flux, said to be normalised, is not near 1: their rows, and why.

    Raises
    ------
    InvalidDataError
        If these are most of the stars.
    """
    low, high = _NORMAL
    odd = (median < low) | (median > high)
    lit = median > 0
    if lit.any() and 2 * (odd & lit).sum() > lit.sum():
        raise InvalidDataError(
            f"the median flux of {odd.sum()} of {count_text(odd.size, 'star')} "
            f"({name_some(star_id[odd])}) is far from 1: they are not normalised; give "
            "`continuum`, a ContinuumSettings."
        )
    if odd.any() and not lit.any():
        raise InvalidDataError(
            f"the median flux of all {count_text(odd.sum(), 'star')} ({name_some(star_id[odd])}) "
            "with good pixels is 0 or negative; give spectra with flux."
        )
    return {
        int(row): f"its median flux is {median[row]:.3g}, not near 1 like that of the other stars"
        for row in np.flatnonzero(odd)
    }
