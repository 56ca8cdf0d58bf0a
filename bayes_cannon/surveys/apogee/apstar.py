"""Reading APOGEE spectra: apStar and asStar files of DR12 to DR17, and aspcapStar files.

https://www.sdss4.org/dr17/irspec/spectra describes the files; `apstar_layout` says how their
layout differs between releases.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress
from bayes_cannon.errors import FileFormatError, InvalidDataError, NoStarsError
from bayes_cannon.spectra.problems import StarProblem, read_each
from bayes_cannon.spectra.spectra import ObservedSpectra, name_some
from bayes_cannon.surveys.apogee.bits import resolve_bits
from bayes_cannon.surveys.apogee.layout import (
    CHIPS_8575,
    N_PIXELS,
    WAVELENGTH,
    count_visits,
    on_other_chip,
    open_spectrum,
    read_mask,
    spectrum_row,
    unusable,
)
from bayes_cannon.surveys.apogee.names import (
    StarFacts,
    apred_of,
    name_from_path,
    read_facts,
    unique_star_ids,
)
from bayes_cannon.surveys.readers import StarSpectrum

__all__ = [
    "ApStar",
    "AspcapStar",
    "read_apstar",
    "read_aspcapstar",
    "read_spectra",
    "read_visits",
]

_MJD_0 = 2400000.5
"""Julian date of MJD 0."""
_LATEST = 1e5
"""MJD (year 2132) beyond which a date is a fill value."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Spectrum(StarFacts):
    """One spectrum and what is known of its star. See the subclasses."""

    flux: NDArray[np.float64]
    err: NDArray[np.float64]
    bad: NDArray[np.bool_]

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Vacuum wavelength in Å, in the star's rest frame, shape (8575,)."""
        return WAVELENGTH

    @property
    def ivar(self) -> NDArray[np.float64]:
        """Inverse variance of the flux, shape (8575,); 0 where a pixel is bad."""
        ivar = np.zeros(N_PIXELS)
        ivar[~self.bad] = 1 / self.err[~self.bad] ** 2
        return ivar

    @property
    def facts(self) -> StarFacts:
        """What is known of the star, without the arrays."""
        return StarFacts(**{key: getattr(self, key) for key in StarFacts.__dataclass_fields__})

    @property
    def n_good(self) -> int:
        """Number of pixels that can be used; 0 where the spectrum is of no use."""
        return int(np.sum(~self.bad))


@dataclass(frozen=True, eq=False, kw_only=True)
class ApStar(_Spectrum):
    """A star's combined spectrum, or that of one visit, from an apStar or asStar file.

    Attributes of `StarFacts`, and these:

    Attributes
    ----------
    flux, err : (8575,) float64
        As in the file, in 1e-17 erg s⁻¹ cm⁻² Å⁻¹. Where `bad`, either may be NaN, 0 or huge.
    bad : (8575,) bool
        Pixels not to use: gaps, unusable flux or error, any of the chosen bits, or seen by a
        detector other than that of the pixel's range in `CHIPS_8575`.
    mask : (8575,) int64
        Bits of `PixelBits`.
    gap : (8575,) bool
        Pixels without data: between and beyond detectors, or not covered.
    row, mask_row : int
        Rows of the file that flux and mask were taken from.
    """

    mask: NDArray[np.int64]
    gap: NDArray[np.bool_]
    row: int
    mask_row: int

    @property
    def star_spectrum(self) -> StarSpectrum:
        """The spectrum as readers of all surveys return it."""
        place = "/".join(filter(None, (self.telescope, self.field)))
        notes = {"REDUCTION": apred_of(self.release)} if self.release else {}
        notes |= {"TELESCOPE": self.telescope, "FIELD": self.field, "NVISITS": str(self.n_visits)}
        known = {"RA": self.ra, "DEC": self.dec}
        notes |= {name: repr(float(v)) for name, v in known.items() if math.isfinite(v)}
        return StarSpectrum(
            self.star_id, self.flux, self.ivar, self.snr, place, self.simulated, notes
        )

    @property
    def bad_fraction(self) -> float:
        """Fraction of the pixels with data that are bad; NaN where there are none."""
        covered = ~self.gap
        return float(np.mean(self.bad[covered])) if covered.any() else math.nan


@dataclass(frozen=True, eq=False, kw_only=True)
class AspcapStar(_Spectrum):
    """A spectrum as ASPCAP normalised it, with its best model, from an aspcapStar file.

    ASPCAP's continuum is not that of this package: what is trained on one must not be used on
    the other. Attributes of `StarFacts`, and these:

    Attributes
    ----------
    flux, err, model : (8575,) float64
        As in the file, relative to ASPCAP's continuum: 0 outside the windows that were fitted.
    bad : (8575,) bool
        Pixels outside the windows, or with unusable flux or error.
    """

    model: NDArray[np.float64]


def read_apstar(
    path: str | os.PathLike[str],
    *,
    visit: int | None = None,
    weighting: str | None = None,
    bad_bits: str | int = "default",
    mask_row: int | None = None,
) -> ApStar:
    """Read one spectrum from an apStar or asStar file.

    A spectrum without any good pixel is no error: see `ApStar.n_good`.

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder.
    visit
        Number of a visit, from 1; left out, the combined spectrum.
    weighting
        Which combination: ``'pixel'`` (row 0, where left out), or ``'global'`` (row 1; row 0 for a
        single visit). A visit has none.
    bad_bits
        Bits that make a pixel bad, see `resolve_bits`.
    mask_row
        Row to take the mask from; left out, the row that is read. Until DR16, row 0 is the OR of
        the visits' masks, which flags much of a star with many visits, and row 1 their AND; in
        DR17 row 0 is the AND. Where row 1 is not filled (a single visit, DR17), row 0 is taken
        for it. `ApStar.mask_row` says which row it was.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, not on the apStar grid, or has no such visit or row.
    InvalidDataError
        If an argument is impossible.
    """
    _check_choice(visit, weighting, mask_row)
    bits = resolve_bits(bad_bits)
    with open_spectrum(path) as (file, n_rows):
        n_visits = count_visits(file.header, n_rows)
        row = spectrum_row(file, visit, weighting, n_visits, n_rows)
        flux, err = (file.read_row(n, row).astype(np.float64) for n in (1, 2))
        mask, from_row = read_mask(file, row, mask_row, n_visits, n_rows)
        gap = ~np.isfinite(flux) | ~np.isfinite(err) | (flux == 0)
        bad = gap | unusable(flux, err) | ((mask & bits) != 0) | on_other_chip(file.header)
        facts = read_facts(file.path, file.header, n_visits, visit)
    return ApStar(
        **vars(facts), flux=flux, err=err, bad=bad, mask=mask, gap=gap, row=row, mask_row=from_row
    )


def read_visits(path: str | os.PathLike[str]) -> tuple[float, ...]:
    """Dates of the visits whose spectra an apStar or asStar file holds.

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder.

    Returns
    -------
    tuple of float
        MJD of each visit that `read_apstar` can read, NaN where the header does not say it.

    Raises
    ------
    FileFormatError
        As `read_apstar`.
    """
    with open_spectrum(path) as (file, n_rows):
        n_visits = count_visits(file.header, n_rows)
        n_held = min(n_visits, max(1, n_rows - 2))
        return tuple(_mjd(file.header.get(f"JD{n}")) for n in range(1, n_held + 1))


def _mjd(card: object) -> float:
    """MJD of a Julian date in a header; NaN where it is none."""
    try:
        date = float(str(card)) - _MJD_0
    except ValueError:
        return math.nan
    return date if 0 < date < _LATEST else math.nan


def read_aspcapstar(path: str | os.PathLike[str]) -> AspcapStar:
    """Read flux, error and best model from an aspcapStar file.

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged, or not on the apStar grid.
    """
    with open_spectrum(path, third="model") as (file, n_rows):
        flux, err, model = (file.read_row(n, 0).astype(np.float64) for n in (1, 2, 3))
        facts = read_facts(file.path, file.header, count_visits(file.header, n_rows))
    bad = unusable(flux, err) | (flux == 0)
    return AspcapStar(**vars(facts), flux=flux, err=err, model=model, bad=bad)


def read_spectra(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    visit: int | None = None,
    weighting: str | None = None,
    bad_bits: str | int = "default",
    mask_row: int | None = None,
    progress: Progress = None,
    star_ids: Sequence[str] | NDArray[np.str_] | None = None,
) -> tuple[ObservedSpectra, list[StarProblem]]:
    """Read many apStar files; one that cannot be read never stops the others.

    Parameters
    ----------
    paths
        Files, one a star.
    visit, weighting, bad_bits, mask_row
        As for `read_apstar`, for every file.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.
    star_ids
        Unique names of the stars; left out, those in the files, made unique by telescope and
        field (see `names.unique_star_ids`).

    Returns
    -------
    spectra : ObservedSpectra
        The stars that could be read, in the order given; where a pixel is bad, flux and ivar are
        0. A star without any good pixel is among them. Simulated if any of the files is.
    problems : list of StarProblem
        The files that could not be read.

    Raises
    ------
    NoStarsError
        If no file can be read.
    InvalidDataError
        If an argument is impossible.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    files = [user_path(path) for path in paths]
    names = _check_names(star_ids, len(files))
    _check_choice(visit, weighting, mask_row)
    bits = resolve_bits(bad_bits)
    read = partial(read_apstar, visit=visit, weighting=weighting, bad_bits=bits, mask_row=mask_row)
    problems: list[StarProblem] = []

    def name(number: int, path: Path) -> str:
        return names[number] if names else name_from_path(path)

    flux = np.empty((len(files), N_PIXELS), dtype=np.float32)
    ivar = np.empty_like(flux)
    stars: list[tuple[int, StarFacts]] = []
    for number, star in read_each(
        files, lambda _, path: read(path), name, problems,
        expected=(FileFormatError,), progress=progress,
    ):  # fmt: skip
        flux[len(stars)] = np.where(star.bad, 0.0, star.flux)
        ivar[len(stars)] = star.ivar
        stars.append((number, star.facts))
    if not stars:
        raise _nothing_read(problems)
    return _observed(stars, names, flux[: len(stars)], ivar[: len(stars)]), problems


def _observed(
    stars: list[tuple[int, StarFacts]],
    names: list[str],
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
) -> ObservedSpectra:
    """Put the stars that could be read together; `names` of all files, or empty."""
    facts = [star for _, star in stars]
    unique = unique_star_ids(
        [f.star_id for f in facts], [f.telescope for f in facts], [f.field for f in facts]
    )
    return ObservedSpectra(
        star_id=np.array([names[number] for number, _ in stars]) if names else unique,
        wavelength=WAVELENGTH,
        flux=flux,
        ivar=ivar,
        snr=np.array([f.snr for f in facts]),
        chips=CHIPS_8575,
        simulated=any(f.simulated for f in facts),
        id_name="APOGEE_ID",
    )


def _nothing_read(problems: Sequence[StarProblem]) -> NoStarsError:
    if not problems:
        return NoStarsError("no files were given to read spectra from.")
    return NoStarsError(
        f"none of {count_text(len(problems), 'file')} could be read; {problems[0].message}"
    )


def _check_choice(visit: int | None, weighting: str | None, mask_row: int | None) -> None:
    if visit is not None and weighting is not None:
        raise InvalidDataError("give a visit, or the weighting of a combination: not both.")
    if weighting not in (None, "pixel", "global"):
        raise InvalidDataError(f"weighting must be 'pixel' or 'global', got {weighting!r}.")
    for name, number, first in (("visit", visit, 1), ("mask_row", mask_row, 0)):
        whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
        if number is not None and not (whole and number >= first):
            raise InvalidDataError(f"{name} must be a number from {first} on, got {number!r}.")


def _check_names(star_ids: Sequence[str] | NDArray[np.str_] | None, n_files: int) -> list[str]:
    names = [] if star_ids is None else [str(name) for name in star_ids]
    if star_ids is not None and len(names) != n_files:
        raise InvalidDataError(
            f"{count_text(len(names), 'star id')} for {count_text(n_files, 'file')}; give one for "
            "each."
        )
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise InvalidDataError(
            f"{len(repeated)} of {count_text(len(names), 'star id')} are given more than once "
            f"({name_some(repeated)}); make them unique."
        )
    return names
