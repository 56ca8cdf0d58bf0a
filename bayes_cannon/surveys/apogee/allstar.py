"""Reading allStar catalogues by column name, and the part of one that is in use.

https://www.sdss4.org/dr17/irspec/parameters describes the columns. Files of 4 GB are read from
beginning to end in small pieces, of which only the columns in use are kept.

Columns of a FITS table, read in small pieces and turned into plain arrays.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from astropy.units import Unit, UnitBase, UnitConversionError
from numpy.typing import NDArray

from bayes_cannon.base.columns import known_values
from bayes_cannon.errors import FileFormatError, LabelError
from bayes_cannon.spectra.label_kinds import known_unit
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.apogee.names import release_name
from bayes_cannon.surveys.catalogue import NOT_LABELS, Catalogue, upper_names
from bayes_cannon.surveys.fits import (
    FitsFile,
    card_text,
    is_simulated,
    open_bytes,
    open_fits,
)
from bayes_cannon.surveys.images import unscaled

__all__ = [
    "FitsTable",
    "find_table",
    "read_allstar",
    "read_columns",
    "read_pieces",
]


_log = logging.getLogger(__name__)
_TEXT = ("APOGEE_ID", "TELESCOPE", "FIELD", "RELEASE")
_FLAGS = ("STARFLAG", "ANDFLAG", "ASPCAPFLAG", "EXTRATARG")
_COUNTS = ("NVISITS", "LOCATION_ID")
_NUMBERS = ("RA", "DEC", "GLON", "GLAT", "J", "H", "K", "SNR", "SNREV",
            "VHELIO_AVG", "VSCATTER", "VERR")  # fmt: skip
_GAIA = "GAIAEDR3_SOURCE_ID"
"""Of DR17; that of DR16 is of Gaia DR2, whose stars have other numbers."""
_CUT_LABELS = ("TEFF", "LOGG", "FE_H")
_NAME = re.compile(r"allStar(?:Lite)?-(?P<apred>[^-.]+(?:\.\d+)?)")


def read_allstar(
    path: str | os.PathLike[str],
    labels: Sequence[str] = DEFAULT_LABELS,
    extra: Sequence[str] = (),
) -> Catalogue:
    """Read the columns in use from an allStar catalogue, whatever their order in the file.

    Read are names and places, flags, S/N, magnitudes, velocities; TEFF, LOGG, FE_H and `labels`
    with ``NAME_ERR`` and ``NAME_FLAG``; where the file has them.

    Parameters
    ----------
    path
        An allStar file of DR12 to DR17, its ``Lite`` version, or a hand-made table with column
        APOGEE_ID and the labels.
    labels
        Labels that the file must have. A value that is not finite or at most -999 is missing
        and becomes NaN, as does an error that is not positive. A column with a unit (TUNIT) is
        converted to that of its label, where the name tells one; the log says what cannot be.
    extra
        Further columns, kept as they are in the file. Names of columns become capitals.

    Raises
    ------
    FileFormatError
        If the file is missing or damaged, or holds no such table.
    LabelError
        If it lacks one of `labels` or `extra`.
    """
    wanted = upper_names(labels)
    with open_fits(path) as file:
        source = find_table(file)
        _require_columns(source, wanted, extra)
        kinds = _columns_in_use(source, wanted, extra)
        raw = read_columns(source, kinds)
        table = Table({n: source.convert(n, kind, raw[n]) for n, kind in kinds.items()})
        _convert_units(source, table, (*_CUT_LABELS, *wanted))
        if _GAIA in table.colnames and _GAIA not in upper_names(extra):
            number = np.ma.filled(np.ma.masked_array(table[_GAIA]), 0)
            table["GAIA_ID"] = np.where(number > 0, number.astype(np.str_), "")
            table.remove_column(_GAIA)
        headers = [file.hdus[0].header, source.hdu.header]
        marked = any(is_simulated(header) for header in headers)
        release = next((r for r in (card_text(h, "RELEASE") for h in headers) if r), "")
    match = _NAME.match(file.path.name)
    simulated = "SIMULATED" in table.colnames and bool(np.any(table["SIMULATED"]))
    return Catalogue(
        table=table,
        release=release.lower() or (release_name(match["apred"]) if match else ""),
        path=file.path,
        simulated=marked or simulated,
    )


def _convert_units(source: FitsTable, table: Table, labels: Sequence[str]) -> None:
    """Bring labels and their errors to the units of their kinds; other units are kept.

    Logarithms stay as they are: catalogues write their unit in many ways.
    """
    for name in dict.fromkeys(label for label in labels if label in table.colnames):
        own, wanted = source.unit(name), known_unit(name)
        if own is None:
            continue
        if wanted is None:
            table[name].unit = own
        if wanted in (None, "", "dex"):
            continue
        spread = f"{name}_ERR"
        for column in (c for c in (name, spread) if c in table.colnames):
            try:
                factor = float((source.unit(column) or own).to(wanted))
            except (UnitConversionError, TypeError):
                _log.warning(
                    "%s: %s is said to be in %s, which is not converted to %s; it is taken as it "
                    "is", source.path, column, source.unit(column), wanted,
                )  # fmt: skip
                break
            if factor != 1.0:
                table[column] = table[column] * factor


def _require_columns(source: FitsTable, labels: Sequence[str], extra: Sequence[str]) -> None:
    unknown = [name for name in (*labels, *upper_names(extra)) if name not in source.names]
    if not unknown:
        _require_numbers(source, labels)
        return
    known = [n for n in source.names if f"{n}_ERR" in source.names and n not in NOT_LABELS]
    close = [m for n in unknown for m in difflib.get_close_matches(n, source.names, n=3)]
    hint = f"did you mean {' or '.join(dict.fromkeys(close))}? " if close else ""
    raise LabelError(
        f"{source.path} has no column {', '.join(unknown)}; {hint}"
        f"Its labels with errors are {', '.join(known) or 'none'}."
    )


def _require_numbers(source: FitsTable, labels: Sequence[str]) -> None:
    wrong = [name for name in labels if not source.is_number(name)]
    if wrong:
        raise LabelError(
            f"{source.path}: {', '.join(wrong)} cannot be labels: they are not one number a row; "
            "name columns like TEFF or MG_FE."
        )


def _columns_in_use(
    source: FitsTable, labels: Sequence[str], extra: Sequence[str]
) -> dict[str, str]:
    """Name of each column to read to what it holds: text, flag, count, number, error, extra."""
    kinds = dict.fromkeys(_TEXT, "text") | dict.fromkeys(_FLAGS, "flag")
    kinds |= dict.fromkeys(_COUNTS, "count") | dict.fromkeys(_NUMBERS, "number")
    for label in (*_CUT_LABELS, *labels):
        kinds |= {label: "number", f"{label}_ERR": "error", f"{label}_FLAG": "flag"}
    kinds["SIMULATED"] = "extra"
    if _GAIA in source.names and source.is_number(_GAIA):
        kinds[_GAIA] = "count"
    kinds = {name: kind for name, kind in kinds.items() if name in source.names}
    return dict.fromkeys((n for n in upper_names(extra) if n not in kinds), "extra") | kinds


_CHUNK_BYTES = 16_000_000


@dataclass(frozen=True, eq=False)
class FitsTable:
    """A table in an open file.

    Attributes
    ----------
    path : Path
    hdu : astropy.io.fits.BinTableHDU
    names : dict of str to str
        Names of the columns, in capitals, to the names as they are in the file.
    dtype : numpy dtype
        Of a row as it is stored.
    start : int
        Place of the first row in the file, bytes.
    n_rows : int
    """

    path: Path
    hdu: Any
    names: dict[str, str]
    dtype: np.dtype[np.void]
    start: int
    n_rows: int

    def is_number(self, name: str) -> bool:
        """Whether a column holds one number a row.

        Parameters
        ----------
        name
            Of the column, in capitals.
        """
        stored = self.dtype[self.names[name]]
        logical = str(self._column(name).format).endswith("L")
        return stored.kind in "iuf" and not stored.shape and not logical

    def unit(self, name: str) -> UnitBase | None:
        """Unit of a column; None without, and where Astropy does not know it.

        Parameters
        ----------
        name
            Of the column, in capitals.
        """
        text = str(self._column(name).unit or "").strip()
        try:
            unit = Unit(text) if text else None
        except ValueError:
            return None
        return unit if isinstance(unit, UnitBase) else None

    def convert(self, name: str, kind: str, raw: NDArray[Any]) -> NDArray[Any]:
        """Turn a stored column into a plain array.

        Parameters
        ----------
        name
            Of the column, in capitals.
        raw : (n_rows, ...)
            As it is stored.
        kind
            ``'text'``: without blanks around it; ``'flag'`` and ``'count'``: int64, the sign bit
            of a shorter flag being its highest bit; ``'number'`` and ``'error'``: float64 with
            NaN for what is missing (see `known_values`); ``'extra'``: as it is. Whole numbers
            that are missing (the column's TNULL) are masked, and 0 below the mask.

        Returns
        -------
        (n_rows, ...) array

        Raises
        ------
        FileFormatError
            If the column cannot be of this kind.
        """
        column = self._column(name)
        if column.format.lstrip("0123456789")[:1] in ("P", "Q"):
            raise self._wrong(name, "values of one length")
        missing = _missing(column, raw)
        if kind in ("extra", "text"):
            plain = _plain(column, raw)
            if missing.any():
                return np.ma.array(np.where(missing, 0, plain), mask=missing)
            if kind == "text" and plain.dtype.kind != "U":
                raise self._wrong(name, "text")
            return plain
        if not self.is_number(name):
            raise self._wrong(name, "one number a row")
        values = _plain(column, raw)
        if kind in ("number", "error"):
            numbers = values.astype(np.float64)
            numbers[missing] = np.nan
            return known_values(numbers, positive=kind == "error")
        if values.dtype.kind == "f":
            missing = missing | np.isnan(values)
            values = np.where(missing, 0, values)
            if not np.all(np.isfinite(values) & (values == np.round(values))):
                raise self._wrong(name, "whole numbers")
            values = values.astype(np.int64)
        if kind == "flag":
            values = values.view(f"u{values.dtype.itemsize}")
        plain = values.astype(np.int64)
        if not missing.any():
            return plain
        return np.ma.array(np.where(missing, 0, plain), mask=missing)

    def _column(self, name: str) -> Any:
        return self.hdu.columns[self.names[name]]

    def _wrong(self, name: str, wanted: str) -> FileFormatError:
        return FileFormatError(
            f"{self.path}: column {name} does not hold {wanted} (its format is "
            f"{self._column(name).format}); write it anew, or use another catalogue."
        )


def find_table(file: FitsFile, column: str = "APOGEE_ID", *, filled: bool = False) -> FitsTable:
    """Find the first table that has a column, APOGEE_ID where no other is named.

    Parameters
    ----------
    file
        Open.
    column
        In capitals.
    filled
        Whether to pass over tables without rows.

    Raises
    ------
    FileFormatError
        If there is none, or it was cut short.
    """
    for number in count(1):
        try:
            hdu = file.hdus[number]
        except IndexError:
            break
        if not hasattr(hdu, "columns"):
            continue
        columns = hdu.columns
        # FITS does not tell capitals from small letters; of two such columns the first counts.
        names: dict[str, str] = {}
        for name in columns.names:
            names.setdefault(name.upper(), name)
        if column not in names or (filled and not hdu.header["NAXIS2"]):
            continue
        file.require_whole(number, "catalogue")
        if columns.dtype.itemsize != hdu.header["NAXIS1"]:
            raise FileFormatError(
                f"{file.path}: rows have {hdu.header['NAXIS1']} bytes, their columns "
                f"{columns.dtype.itemsize}; the file is damaged: download it again."
            )
        start = hdu.fileinfo()["datLoc"]
        # Whatever astropy calls native, a FITS table is stored big-endian.
        stored = columns.dtype.newbyteorder(">")
        return FitsTable(file.path, hdu, names, stored, start, hdu.header["NAXIS2"])
    raise FileFormatError(
        f"{file.path} has no table with a column {column}; give an allStar catalogue."
    )


def read_pieces(source: FitsTable) -> Iterator[NDArray[np.void]]:
    """Rows of the table as they are stored, a few at a time.

    Parameters
    ----------
    source
        Table of an open file.

    Yields
    ------
    (n,) structured array
    """
    step = max(1, _CHUNK_BYTES // max(1, source.dtype.itemsize))
    with open_bytes(source.path) as stream:
        stream.seek(source.start)
        for first in range(0, source.n_rows, step):
            rows = min(step, source.n_rows - first)
            yield np.frombuffer(stream.read(rows * source.dtype.itemsize), source.dtype, rows)


def read_columns(
    source: FitsTable,
    names: Iterable[str],
    wanted: Callable[[NDArray[np.void]], NDArray[np.bool_]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Read columns as they are stored, all in one pass over the table.

    With `wanted`, only the rows for which it is true; it is called with some rows at a time.

    Parameters
    ----------
    source
        Table of an open file.
    names
        Of the columns, in capitals.
    wanted
        Takes some rows as they are stored, and tells which to keep, shape (n_rows,).

    Returns
    -------
    dict of str to (n_rows, ...) arrays
    """
    kept: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for piece in read_pieces(source):
        if wanted is not None:
            piece = piece[wanted(piece)]
        for name, parts in kept.items():
            parts.append(piece[source.names[name]].copy())
    empty = np.empty(0, source.dtype)
    return {
        name: np.concatenate(parts) if parts else empty[source.names[name]]
        for name, parts in kept.items()
    }


def _missing(column: Any, raw: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a column of whole numbers holds its TNULL."""
    if column.null is None or raw.dtype.kind not in "iu":
        return np.zeros(raw.shape, dtype=np.bool_)
    return np.asarray(raw == int(column.null))


def _plain(column: Any, raw: NDArray[Any]) -> NDArray[Any]:
    """Undo the way FITS stores a column: byte order, scaling, logical values, padded text."""
    native = raw.astype(raw.dtype.newbyteorder("="))
    if native.dtype.kind == "S":
        return np.strings.strip(np.strings.decode(native, "ascii", "replace"))
    if column.format.endswith("L"):
        return np.asarray(native == ord("T"))
    return unscaled(native, column.bscale or 1, column.bzero or 0)
