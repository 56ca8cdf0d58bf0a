"""Layout of mwmStar and mwmVisit files: their names, tables, grid and telescopes.

https://data.sdss.org/datamodel/files/MWM_ASTRA/V_ASTRA/spectra/star/ describes them: after the
primary header BOSS/APO, BOSS/LCO, APOGEE/APO, APOGEE/LCO, of which those without spectra have no
rows. The grid of APOGEE's is that of apStar files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bayes_cannon.base.paths import is_fits_name, without_fits_ending
from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.apogee.layout import N_PIXELS, WAVELENGTH
from bayes_cannon.surveys.apogee.names import TELESCOPES
from bayes_cannon.surveys.fits import card_number, card_text
from bayes_cannon.surveys.mwm.tables import SmallTable

__all__ = [
    "MwmName",
    "apogee_tables",
    "check_grid",
    "read_mwm_name",
    "split_telescope",
    "star_folder",
    "visit_file",
    "with_telescope",
]

_NAME = re.compile(r"mwm(?P<kind>Star|Visit)-(?P<v_astra>[^-]+)-(?P<sdss_id>\d+)")
_NUMBERS = {3: "APO", 4: "LCO"}
_CHOSEN = re.compile(rf"(?P<file>.*)\[(?P<telescope>{'|'.join(TELESCOPES)})\]")


class MwmName(NamedTuple):
    """What the name of a file says: ``'Star'`` or ``'Visit'``, version of astra, star."""

    kind: str
    v_astra: str
    sdss_id: str


def read_mwm_name(name: str) -> MwmName | None:
    """Take the name of a file apart; None where it is of another kind.

    Parameters
    ----------
    name
        Of a file, without folders.

    Examples
    --------
    >>> read_mwm_name("mwmStar-0.6.0-54392544.fits")
    MwmName(kind='Star', v_astra='0.6.0', sdss_id='54392544')
    """
    match = _NAME.fullmatch(without_fits_ending(name)) if is_fits_name(name) else None
    return match and MwmName(match["kind"], match["v_astra"], match["sdss_id"])


def star_folder(sdss_id: int) -> str:
    """Folder of a star below ``spectra/star`` and ``spectra/visit``.

    Parameters
    ----------
    sdss_id
        Of the star.

    Examples
    --------
    >>> star_folder(54392544), star_folder(117524931), star_folder(7)
    ('25/44', '49/31', '00/07')
    """
    return f"{sdss_id // 100 % 100:02d}/{sdss_id % 100:02d}"


def with_telescope(path: str, telescope: str) -> str:
    """Path of a file together with the telescope whose spectrum is meant, as CFITSIO writes it.

    Parameters
    ----------
    path
        Of a file.
    telescope
        One of APOGEE's.
    """
    return f"{path}[{telescope}]" if telescope in TELESCOPES else path


def split_telescope(path: Path) -> tuple[Path, str | None]:
    """Take apart what `with_telescope` made; None where no telescope is named.

    Parameters
    ----------
    path
        Of a file.

    Examples
    --------
    >>> split_telescope(Path("a/mwmStar-0.6.0-7.fits[lco25m]"))[1]
    'lco25m'
    """
    match = _CHOSEN.fullmatch(path.name)
    return (path, None) if match is None else (path.with_name(match["file"]), match["telescope"])


def visit_file(path: Path) -> Path:
    """The mwmVisit file that belongs to an mwmStar file, in the archive's folders or beside it.

    Parameters
    ----------
    path
        Of an mwmStar file.
    """
    beside = path.with_name(path.name.replace("mwmStar-", "mwmVisit-", 1))
    parts = list(beside.parts)
    if beside.is_file() or "star" not in parts:
        return beside
    last = len(parts) - 1 - parts[::-1].index("star")
    return Path(*parts[:last], "visit", *parts[last + 1 :])


def apogee_tables(path: Path, tables: Sequence[SmallTable]) -> list[SmallTable]:
    """Tables of APOGEE's spectra, that of Apache Point first; by their names, else HDU 3 and 4.

    Parameters
    ----------
    path
        Of the file, for messages.
    tables
        Of the file.

    Raises
    ------
    FileFormatError
        If there is none.
    """
    named = {_place(table): table for table in tables if _place(table)}
    if not named:
        named = {_NUMBERS[t.number]: t for t in tables if t.number in _NUMBERS and _is_spectra(t)}
    if not named:
        raise FileFormatError(
            f"{path} has no tables APOGEE/APO and APOGEE/LCO, as mwmStar and mwmVisit files have "
            f"them in HDU 3 and 4 (it has {', '.join(map(_told, tables)) or 'none'}); give such a "
            "file."
        )
    return [named[place] for place in ("APO", "LCO") if place in named]


def _place(table: SmallTable) -> str:
    """``'APO'`` or ``'LCO'`` where a table says that it is of APOGEE; else ''."""
    name = card_text(table.header, "EXTNAME").upper()
    said = name or "/".join(card_text(table.header, k) for k in ("INSTRMNT", "OBSRVTRY")).upper()
    instrument, _, place = said.partition("/")
    return place if instrument == "APOGEE" and place in ("APO", "LCO") else ""


def _is_spectra(table: SmallTable) -> bool:
    return {"sdss_id", "pixel_flags"} <= set(table.columns) or not len(table.rows)


def _told(table: SmallTable) -> str:
    return card_text(table.header, "EXTNAME") or f"HDU {table.number}"


def check_grid(table: SmallTable) -> None:
    """Check that a table's spectra are on the grid of apStar files, to a tenth of a pixel.

    Its header says so (CRVAL, CDELT, CRPIX, in log10 Å); where that is silent, its column
    ``wavelength``.

    Parameters
    ----------
    table
        With rows.

    Raises
    ------
    FileFormatError
        If they are on another grid, or nothing says on which.
    """
    header = table.header
    start, step = (card_number(header, k, card_number(header, f"{k}1")) for k in ("CRVAL", "CDELT"))
    first = card_number(header, "CRPIX", card_number(header, "CRPIX1", 1.0))
    n_pixels = table.rows.dtype["flux"].shape if "flux" in table.columns else ()
    grid = None
    if np.isfinite([start, step]).all() and 0 < step < 1e-3 and 0 < start < 10:
        grid = 10 ** (start + step * (np.arange(N_PIXELS) + 1 - first))
    elif "wavelength" in table.columns and table.rows.dtype["wavelength"].shape == (N_PIXELS,):
        grid = np.asarray(table.value("wavelength", 0), dtype=np.float64)
    off = np.inf if grid is None else float(np.max(np.abs(np.log10(grid) - np.log10(WAVELENGTH))))
    if n_pixels != (N_PIXELS,) or not off < 0.6e-6:
        raise FileFormatError(
            f"{table.path}: {_told(table)} is on another wavelength grid (CRVAL {start}, CDELT "
            f"{step}, CRPIX {first}, flux of shape {n_pixels}); APOGEE's has 4.179, 6e-06, 1 and "
            f"({N_PIXELS},). Resample the spectrum, or leave the file out."
        )
