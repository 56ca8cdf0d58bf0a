"""Columns of a FITS table, read in small pieces and turned into plain arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.errors import FileFormatError
from bayes_cannon.fill_values import known_values
from bayes_cannon.fits_image import unscaled
from bayes_cannon.fitsfile import FitsFile, open_bytes

__all__ = ["FitsTable", "find_table", "read_columns"]

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
        """Whether a column holds one number a row."""
        stored = self.dtype[self.names[name]]
        logical = str(self._column(name).format).endswith("L")
        return stored.kind in "iuf" and not stored.shape and not logical

    def convert(self, name: str, kind: str, raw: NDArray[Any]) -> NDArray[Any]:
        """Turn a stored column into a plain array.

        Parameters
        ----------
        kind
            ``'text'``: without blanks around it; ``'flag'`` and ``'count'``: int64, the sign bit
            of a shorter flag being its highest bit; ``'number'`` and ``'error'``: float64 with
            NaN for what is missing (see `known_values`); ``'extra'``: as it is. Whole numbers
            that are missing (the column's TNULL) are masked, and 0 below the mask.

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


def find_table(file: FitsFile) -> FitsTable:
    """Find the first table that has a column APOGEE_ID.

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
        if "APOGEE_ID" not in names:
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
        f"{file.path} has no table with a column APOGEE_ID; give an allStar catalogue."
    )


def _pieces(source: FitsTable) -> Iterator[NDArray[np.void]]:
    """Rows of the table, a few at a time."""
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
    """
    kept: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    for piece in _pieces(source):
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
