"""The part of the allStar catalogue that a survey needs, from whichever source it comes.

Both sources, SkyServer and the archive's allStar file, pass through `make_table`, so that they
give the same table: the archive's column names and types, its sentinels, one order of rows.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.paths import user_path
from bayes_cannon.base.storage import write_atomically
from bayes_cannon.errors import FileFormatError, LabelError
from bayes_cannon.surveys.apogee.allstar import FitsTable, find_table, read_columns
from bayes_cannon.surveys.archive.addresses import Release, Spectrum
from bayes_cannon.surveys.fits import open_fits

__all__ = [
    "CatalogueColumn",
    "catalogue_columns",
    "is_commissioning",
    "make_table",
    "read_allstar_rows",
    "spectra_of",
    "write_catalogue",
]


Arrays = Mapping[str, NDArray[np.generic]]

_LABEL = re.compile(r"[A-Z][A-Z0-9_]{0,30}")
_WITHOUT_ERROR = frozenset({"VMICRO", "VMACRO", "VSINI"})
_WITHOUT_FLAG = _WITHOUT_ERROR | {"TEFF", "LOGG", "M_H", "ALPHA_M"}
_REQUIRED = ("APOGEE_ID", "TELESCOPE", "FIELD", "NVISITS", "SNR", "STARFLAG", "ASPCAPFLAG")
_COMMISSIONING_BIT = 1 << 1
_KINDS = {"U": "text", "i": "flag", "f": "number"}


@dataclass(frozen=True)
class CatalogueColumn:
    """One column: its name in allStar, its NumPy type there, its name in SkyServer's tables."""

    name: str
    dtype: str
    sql: str

    @property
    def kind(self) -> str:
        """``'U'`` text, ``'i'`` integer or ``'f'`` floating point."""
        return np.dtype(self.dtype).kind


def catalogue_columns(release: Release, labels: Sequence[str]) -> tuple[CatalogueColumn, ...]:
    """Columns of the catalogue of a survey: who, where, how good, and the labels.

    Each label comes with ``NAME_ERR`` and, for single elements, ``NAME_FLAG``, as in allStar.

    Parameters
    ----------
    release
        Of the catalogue.
    labels
        Names of the labels.

    Raises
    ------
    LabelError
        If a name cannot be that of a column, or none is given.
    """
    wrong = [name for name in labels if not _LABEL.fullmatch(name)]
    if wrong or not labels:
        raise LabelError(f"no label names: {', '.join(map(repr, wrong)) or 'none given'}.")
    old = release.name == "dr16"
    flag = "i4" if old else "i8"
    head = (
        ("FILE", "U39" if old else "U64", "s.[file]"),
        ("APOGEE_ID", "U18" if old else "U30", "s.apogee_id"),
        ("TELESCOPE", "U8" if old else "U6", "s.telescope"),
        ("FIELD", "U16" if old else "U20", "s.field"),
        *((name, "f8", f"s.{name.lower()}") for name in ("RA", "DEC", "GLON", "GLAT")),
        ("EXTRATARG", "i2" if old else "i4", "s.extratarg"),
        ("NVISITS", "i4", "s.nvisits"),
        ("SNR", "f4", "s.snr"),
        ("STARFLAG", flag, "s.starflag"),
        ("ANDFLAG", flag, "s.andflag"),
        *((name, "f4", f"s.{name.lower()}") for name in ("VHELIO_AVG", "VSCATTER", "VERR")),
        ("ASPCAPFLAG", flag, "a.aspcapflag"),
    )
    tail: list[tuple[str, str, str]] = []
    for label in dict.fromkeys(labels):
        tail.append((label, "f4", f"a.{label.lower()}"))
        if label not in _WITHOUT_ERROR and not label.endswith("_SPEC"):
            tail.append((f"{label}_ERR", "f4", f"a.{label.lower()}_err"))
            if label not in _WITHOUT_FLAG:
                tail.append((f"{label}_FLAG", "i4", f"a.{label.lower()}_flag"))
    return tuple(CatalogueColumn(*spec) for spec in (*head, *tail))


def _missing_value(release: Release, name: str) -> float:
    """What the archive's file holds where a number is unknown."""
    if release.name != "dr16":
        return float("nan")
    return -999.99 if name.endswith("_ERR") else -9999.99


def _convert(
    column: CatalogueColumn, values: NDArray[np.generic], release: Release
) -> NDArray[np.generic]:
    """Values of one column with the archive's type and sentinel."""
    if column.kind == "U":
        text = np.strings.strip(values.astype(np.str_))
        return text.astype(
            f"U{max(np.dtype(column.dtype).itemsize // 4, text.dtype.itemsize // 4)}"
        )
    if column.kind == "i":
        return values.astype(np.int64).astype(column.dtype)
    numbers = values.astype(column.dtype)
    if column.dtype == "f4":
        unknown = ~np.isfinite(numbers) | (numbers <= -999)
        numbers = np.where(unknown, np.float32(_missing_value(release, column.name)), numbers)
    return numbers


def make_table(arrays: Arrays, release: Release, labels: Sequence[str]) -> Table:
    """Make the catalogue of a survey from its columns.

    Parameters
    ----------
    arrays : mapping of str to (n_rows,) arrays
        By the names of `catalogue_columns`, any byte order; numbers at or below -999, NaN and
        infinities mean unknown. A column that is left out is filled with unknowns.
    release : Release
    labels : sequence of str

    Returns
    -------
    table : astropy.table.Table
        Rows in order of TELESCOPE, FIELD, APOGEE_ID, each star in a field once. Unknown
        numbers are NaN (dr17), or -9999.99 and for errors -999.99 (dr16), as in the archive.
    """
    n_rows = len(arrays["APOGEE_ID"])
    columns = catalogue_columns(release, labels)
    fill = {"U": "", "i": 0, "f": np.nan}
    table = Table()
    for column in columns:
        values = arrays.get(column.name)
        if values is None:
            values = np.full(n_rows, fill[column.kind])
        table[column.name] = _convert(column, values, release)
    for i in np.flatnonzero(np.asarray(table["FILE"]) == ""):
        star, telescope, field = (str(table[i][n]) for n in ("APOGEE_ID", "TELESCOPE", "FIELD"))
        table["FILE"][i] = Spectrum(star, telescope, field).file_name(release)
    keys = [np.asarray(table[name]) for name in ("TELESCOPE", "FIELD", "APOGEE_ID", "FILE")]
    order = np.lexsort(keys[::-1])
    table = table[order]
    if n_rows == 0:
        return table
    same = np.ones(n_rows, dtype=bool)
    same[0] = False
    for key in keys:
        same[1:] &= key[order][1:] == key[order][:-1]
    return table[~same]


def is_commissioning(table: Table) -> NDArray[np.bool_]:
    """Rows of commissioning data (``apStarC`` files), shape (n_rows,): not for science.

    Parameters
    ----------
    table
        From `make_table`.
    """
    names = np.asarray(table["FILE"]).astype(np.str_)
    flagged = (np.asarray(table["EXTRATARG"]) & _COMMISSIONING_BIT) != 0
    special = np.strings.startswith(names, "apStarC") | np.strings.startswith(names, "asStarC")
    return np.asarray(flagged | special, dtype=bool)


def spectra_of(table: Table) -> list[Spectrum]:
    """One `Spectrum` per row of a catalogue made by `make_table`.

    Parameters
    ----------
    table
        From `make_table`, n_rows rows.
    """
    names = ("APOGEE_ID", "TELESCOPE", "FIELD", "NVISITS", "FILE")
    rows = zip(*(table[name].tolist() for name in names), strict=True)
    return [Spectrum(star, scope, field, int(n), file) for star, scope, field, n, file in rows]


def _check_columns(source: FitsTable, labels: Sequence[str]) -> None:
    """Raise where the file lacks a column that cannot be done without."""
    lacking = [name for name in _REQUIRED if name not in source.names]
    if lacking:
        raise FileFormatError(
            f"{source.path} lacks the column{'s' * (len(lacking) > 1)} {', '.join(lacking)}; "
            "is it an allStar file?"
        )
    for label in labels:
        if label not in source.names:
            near = difflib.get_close_matches(label, source.names, n=3)
            raise LabelError(
                f"{source.path} has no label {label!r}; near names: {', '.join(near) or '-'}."
            )


def read_allstar_rows(
    path: str | os.PathLike[str],
    release: Release,
    *,
    labels: Sequence[str],
    fields: Sequence[str] = (),
    stars: Sequence[str] = (),
) -> Table:
    """Read the rows of some fields and stars from an allStar file, in bounded memory.

    The file (4 GB) is read once from its beginning to its end, some rows at a time, and only the
    rows and columns asked for are kept.

    Parameters
    ----------
    path
        Of the allStar file.
    release
        Of the file.
    labels
        Names of the labels.
    fields, stars
        Names of fields and ids of stars whose rows are kept.

    Returns
    -------
    table : astropy.table.Table
        See `make_table`.

    Raises
    ------
    FileFormatError
        If the file is no allStar table or cut short.
    LabelError
        If it lacks a label.
    """
    wanted = {
        name: np.array([text.encode() for text in texts], dtype=np.bytes_)
        for name, texts in (("FIELD", fields), ("APOGEE_ID", stars))
    }

    def is_wanted(rows: NDArray[np.void]) -> NDArray[np.bool_]:
        kept = np.zeros(len(rows), dtype=bool)
        for name, texts in wanted.items():
            kept |= np.isin(np.strings.strip(rows[source.names[name]]), texts)
        return kept

    with open_fits(user_path(path)) as file:
        source = find_table(file)
        _check_columns(source, labels)
        for name in wanted:
            source.convert(name, "text", np.empty(0, source.dtype)[source.names[name]])
        columns = [c for c in catalogue_columns(release, labels) if c.name in source.names]
        raw = read_columns(source, [column.name for column in columns], is_wanted)
        arrays = {c.name: source.convert(c.name, _KINDS[c.kind], raw[c.name]) for c in columns}
    return make_table(arrays, release, labels)


def write_catalogue(table: Table, path: Path, release: Release) -> None:
    """Write a catalogue as the archive's allStar files are, all or nothing, without a date.

    Parameters
    ----------
    table
        From `make_table`.
    path
        Of the file to write; one that is there is replaced.
    release
        Of the catalogue.

    Raises
    ------
    OutputExistsError
        If it cannot be written.
    """
    hdu = fits.table_to_hdu(table)
    primary = fits.PrimaryHDU()
    primary.header["RELEASE"] = (release.name, "data release")
    primary.header["APRED"] = (release.apred, "version of the spectra")
    primary.header["ASPCAP"] = (release.aspcap, "version of the catalogue")
    hdus = fits.HDUList([primary, hdu])
    write_atomically(path, lambda part: hdus.writeto(part, overwrite=True), overwrite=True)
