"""Reading APOGEE spectra from mwmStar files, one a star, and mwmVisit files, one row a visit."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.paths import user_path
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.surveys.apogee.bits import BAD_BITS, resolve_bits
from bayes_cannon.surveys.apogee.layout import N_PIXELS, WAVELENGTH, unusable
from bayes_cannon.surveys.apogee.names import TELESCOPES
from bayes_cannon.surveys.fits import card_text, is_simulated
from bayes_cannon.surveys.images import Header
from bayes_cannon.surveys.mwm.layout import (
    apogee_tables,
    check_grid,
    read_mwm_name,
    split_telescope,
    visit_file,
)
from bayes_cannon.surveys.mwm.tables import SmallTable, read_tables
from bayes_cannon.surveys.readers import StarSpectrum

__all__ = [
    "REPLACED",
    "MwmSpectrum",
    "read_mwmstar",
    "read_mwmvisit",
    "sdss5_bits",
]

_log = logging.getLogger(__name__)
REPLACED = BAD_BITS["pipeline"]
"""Mask bits of pixels whose flux and error SDSS-V's pipeline replaces by smoothed ones: 0-7, 14."""
_FLAGS_LIMIT = float(1 << 24)  # whole numbers up to here are exact in float32


@dataclass(frozen=True, eq=False, kw_only=True)
class MwmSpectrum:
    """One APOGEE spectrum of an mwmStar or mwmVisit file.

    Attributes
    ----------
    star_id : str
        SDSS_ID.
    apogee_id, gaia_id : str
        Names of 2MASS kind and of Gaia DR3; '' where the file has none.
    telescope : str
        ``'apo25m'``, ``'apo1m'`` or ``'lco25m'``.
    release, apred, v_astra : str
        ``'sdss5'`` or ``'dr17'``; version of the reduction of the spectrum (``'1.3'``,
        ``'dr17'``), and of astra.
    snr, v_rad : float
        Median signal-to-noise ratio per pixel, and barycentric velocity in km/s; NaN where
        unknown.
    n_visits : int
    mjd : int
        Of a visit; 0 for a combination.
    simulated : bool
    path : Path
    hdu, row : int
        Where it was in the file.
    flux, ivar : (8575,) float64
        As in the file, in 1e-17 erg s⁻¹ cm⁻² Å⁻¹ and its inverse square.
    mask : (8575,) int64
        Bits of `PixelBits`.
    bad : (8575,) bool
        Pixels not to use: gaps, unusable flux or ivar, any of the chosen bits.
    """

    star_id: str
    apogee_id: str
    gaia_id: str
    telescope: str
    release: str
    apred: str
    v_astra: str
    snr: float
    v_rad: float
    n_visits: int
    mjd: int
    simulated: bool
    path: Path
    hdu: int
    row: int
    flux: NDArray[np.float64]
    ivar: NDArray[np.float64]
    mask: NDArray[np.int64]
    bad: NDArray[np.bool_]

    @property
    def wavelength(self) -> NDArray[np.float64]:
        """Vacuum wavelength in Å, in the star's rest frame, shape (8575,)."""
        return WAVELENGTH

    @property
    def n_good(self) -> int:
        """Number of pixels that can be used; 0 where the spectrum is of no use."""
        return int(np.sum(~self.bad))

    @property
    def notes(self) -> Mapping[str, str]:
        """What tables say of the star beside its name: APOGEE_ID, GAIA_ID, REDUCTION."""
        return {
            "APOGEE_ID": self.apogee_id, "GAIA_ID": self.gaia_id, "REDUCTION": self.apred,
        }  # fmt: skip

    @property
    def star_spectrum(self) -> StarSpectrum:
        """The spectrum as readers of all surveys return it."""
        ivar = np.where(self.bad, 0.0, self.ivar)
        return StarSpectrum(
            self.star_id, self.flux, ivar, self.snr, self.telescope, self.simulated, self.notes
        )


def sdss5_bits(bad_bits: str | int) -> int:
    """Mask bits of a preset's name or a number, with those of pixels that SDSS-V made up.

    Parameters
    ----------
    bad_bits
        See `resolve_bits`.

    Examples
    --------
    >>> sdss5_bits("lenient") == 4351 | 16384, sdss5_bits(0) == REPLACED
    (True, True)
    """
    return resolve_bits(bad_bits) | REPLACED


def read_mwmstar(
    path: str | os.PathLike[str],
    *,
    telescope: str | None = None,
    bad_bits: str | int = "default",
) -> MwmSpectrum:
    """Read a star's combined spectrum from an mwmStar file.

    Bad pixels of SDSS-V have smoothed flux and an ordinary error, so that the mask alone tells
    them: bits 0-7 and 14 are applied whatever `bad_bits` says. Copies of DR17 tell them by an ivar
    below 1e-18, and gaps are NaN; neither is used.

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder. ``FILE[lco25m]`` names the telescope, too.
    telescope
        ``'apo25m'``, ``'apo1m'`` or ``'lco25m'``; left out, the spectrum from Apache Point, and of
        several the one with the highest S/N.
    bad_bits
        Further bits that make a pixel bad, see `resolve_bits`.

    Raises
    ------
    FileFormatError
        If the file is missing, damaged (checksums are compared), not on the grid of apStar files,
        holds normalised flux, or no APOGEE spectrum of that telescope.
    InvalidDataError
        If there is no such telescope, or `bad_bits` are none.
    """
    header, choices, source = _rows(path, telescope, "Star")
    table, row = min(choices, key=_preferred)
    return _spectrum(source, header, table, row, sdss5_bits(bad_bits))


def read_mwmvisit(
    path: str | os.PathLike[str],
    visit: int,
    *,
    telescope: str | None = None,
    bad_bits: str | int = "default",
) -> MwmSpectrum:
    """Read the spectrum of one visit from an mwmVisit file.

    Parameters
    ----------
    path
        Of the file, or of the mwmStar file of the star, beside which or in whose archive it is.
    visit
        Number of the visit, from 1, in the order of the file, those of Apache Point first.
    telescope, bad_bits
        As for `read_mwmstar`.

    Raises
    ------
    FileFormatError
        As `read_mwmstar`, and if the file has no such visit, or it was left out of the stack: such
        a spectrum is not in the star's rest frame.
    InvalidDataError
        If an argument is impossible.
    """
    number: object = visit
    whole = isinstance(number, int | np.integer) and not isinstance(number, bool)
    if not whole or visit < 1:
        raise InvalidDataError(f"visit must be a number from 1 on, got {visit!r}.")
    header, choices, source = _rows(path, telescope, "Visit")
    if visit > len(choices):
        raise FileFormatError(
            f"{source} has no visit {visit}, it holds {len(choices)}; ask for another visit, or "
            "for the combined spectrum (mwmStar)."
        )
    table, row = choices[visit - 1]
    _require_rest_frame(source, table, row, visit)
    return _spectrum(source, header, table, row, sdss5_bits(bad_bits))


def _require_rest_frame(path: Path, table: SmallTable, row: int, visit: int) -> None:
    """Raise where a visit was left out of the stack: its spectrum is not shifted to rest."""
    if table.value("in_stack", row) == "F":
        raise FileFormatError(
            f"{path}: visit {visit} was left out of the star's stack (in_stack is false), and its "
            "spectrum is not in the star's rest frame; ask for another visit."
        )
    if "v_rel" in table.columns and not np.isfinite(table.number_of("v_rel", row)):
        _log.warning(
            "%s: visit %d has no velocity; its spectrum may not be in the star's rest frame",
            path, visit,
        )  # fmt: skip


def _rows(
    path: str | os.PathLike[str], telescope: str | None, kind: str
) -> tuple[Header, list[tuple[SmallTable, int]], Path]:
    """Primary header, rows of a telescope with their tables, and the path without the telescope."""
    given, named = split_telescope(user_path(path))
    telescope = telescope or named
    if telescope not in (None, *TELESCOPES):
        raise InvalidDataError(
            f"telescope must be one of {', '.join(TELESCOPES)}, got {telescope!r}."
        )
    name = read_mwm_name(given.name)
    if kind == "Visit" and name is not None and name.kind == "Star":
        given = visit_file(given)
    header, tables = read_tables(given)
    found = apogee_tables(given, tables)
    _require_kind(given, found, kind)
    rows = [(table, row) for table in found for row in range(len(table.rows))]
    chosen = [(t, r) for t, r in rows if telescope in (None, _telescope(t, r))]
    if not chosen:
        there = sorted({_telescope(t, r) for t, r in rows})
        what = f"spectrum of {telescope}, only of {', '.join(there)}" if there else "spectrum"
        raise FileFormatError(
            f"{given} holds no APOGEE {what}{'' if there else ': its tables are empty'}; leave "
            "the file out."
        )
    return header, chosen, given


def _require_kind(path: Path, tables: list[SmallTable], kind: str) -> None:
    """Raise where a file of visits is read as one of a star, or models or fluxes are lacking."""
    columns = {name for table in tables for name in table.columns}
    full = any(len(table.rows) for table in tables)
    visits = bool({"mjd", "visit_pk"} & columns)
    if full and {"flux", "ivar", "pixel_flags"} - columns:
        lacking = ", ".join(sorted({"flux", "ivar", "pixel_flags"} - columns))
        raise FileFormatError(
            f"{path} has no column {lacking}: it is no mwm{kind} file (results of astra, such as "
            f"astraStarASPCAP, hold models); give the mwm{kind} file."
        )
    if kind == "Star" and visits:
        raise FileFormatError(
            f"{path} holds visits, one a row; name one (visit=, --visit), or give the mwmStar file."
        )
    if kind == "Visit" and full and not visits:
        raise FileFormatError(
            f"{path} holds combined spectra, no visits; give the mwmVisit file of the star."
        )


def _telescope(table: SmallTable, row: int) -> str:
    """Telescope of a row; by the table's observatory where the row does not say it."""
    said = table.text("telescope", row).lower()
    place = card_text(table.header, "OBSRVTRY").upper()
    return said or ("lco25m" if place == "LCO" or table.number == 4 else "apo25m")


def _preferred(choice: tuple[SmallTable, int]) -> tuple[bool, float]:
    """Sorts spectra from Apache Point first, then the highest S/N."""
    table, row = choice
    snr = table.number_of("snr", row)
    return _telescope(table, row).startswith("lco"), -snr if snr > 0 else 0.0


def _spectrum(path: Path, header: Header, table: SmallTable, row: int, bits: int) -> MwmSpectrum:
    check_grid(table)
    flux, ivar = (np.asarray(table.value(n, row), dtype=np.float64) for n in ("flux", "ivar"))
    mask, unread = _mask(table, row)
    with np.errstate(divide="ignore", invalid="ignore"):
        err = np.where(ivar > 0, ivar, np.nan) ** -0.5
    bad = unusable(flux, err) | (flux == 0) | ((mask & bits) != 0) | unread
    _require_raw(path, flux[~bad])
    name = read_mwm_name(path.name)
    sdss_id = table.value("sdss_id", row) or card_text(header, "SDSS_ID")
    snr = table.number_of("snr", row)
    headers: Any = (header, table.header)
    return MwmSpectrum(
        star_id=str(sdss_id or (name.sdss_id if name else path.name)),
        apogee_id=_apogee_id(header, table, row),
        gaia_id=_known(header, "GAIA3_ID"),
        telescope=_telescope(table, row),
        release=table.text("release", row).lower(),
        apred=(table.text("apred", row) or table.text("release", row)).lower(),
        v_astra=table.text("v_astra", row) or card_text(header, "V_ASTRA"),
        snr=snr if snr > 0 else np.nan,
        v_rad=table.number_of("v_rad", row),
        n_visits=_count(table.number_of("n_visits", row)),
        mjd=_count(table.number_of("mjd", row)),
        simulated=any(is_simulated(h) for h in headers),
        path=path, hdu=table.number, row=row, flux=flux, ivar=ivar, mask=mask, bad=bad,
    )  # fmt: skip


def _mask(table: SmallTable, row: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Bits of the pixels, which the files hold as float32; also where these are no bits."""
    stored = np.asarray(table.value("pixel_flags", row))
    if stored.dtype.kind in "iu":
        return stored.astype(np.int64), np.zeros(N_PIXELS, dtype=np.bool_)
    with np.errstate(invalid="ignore"):
        whole = (stored >= 0) & (stored < _FLAGS_LIMIT) & (stored == np.round(stored))
    return np.where(whole, stored, 0).astype(np.int64), ~whole


def _require_raw(path: Path, flux: NDArray[np.float64]) -> None:
    """Raise where the flux is near one throughout: that of a normalised spectrum."""
    if not flux.size:
        return
    low, middle, high = np.quantile(flux, [0.05, 0.5, 0.95])
    if 0.5 < middle < 1.5 and low > 0.0 and high < 1.5:
        raise FileFormatError(
            f"{path} holds normalised flux (its median is {middle:.3g}), while mwmStar files hold "
            "flux in 1e-17 erg/s/cm2/Å; do not mix the two: give the file as it is in the archive."
        )


def _apogee_id(header: Header, table: SmallTable, row: int) -> str:
    return _known(header, "APOGEEID") or table.text("obj", row)


def _known(header: Header, key: str) -> str:
    """Text of a card; '' where it is empty, masked or a fill value."""
    text = card_text(header, key)
    return "" if text.lower() in ("none", "nan", "-1", "0", "-999") else text


def _count(number: float) -> int:
    return int(number) if number > 0 else 0
