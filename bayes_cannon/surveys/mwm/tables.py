"""Tables of small FITS files, read whole, with their checksums."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.paths import user_path
from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.checksums import block_end, check_sums, sum_of
from bayes_cannon.surveys.fits import AGAIN, open_bytes, plain_size
from bayes_cannon.surveys.images import FitsImage, Header, read_hdu, unscaled

__all__ = [
    "SmallTable",
    "read_tables",
]

_MOST_HDUS = 100
_FORMAT = re.compile(r"(\d*)([LXBIJKAED])")
_TYPES = {"L": "S1", "X": "u1", "B": "u1", "I": ">i2", "J": ">i4", "K": ">i8", "E": ">f4",
          "D": ">f8"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class SmallTable:
    """A table of an open file.

    Attributes
    ----------
    path : Path
    number : int
        Of the HDU, from 0.
    header : Header
    rows : (n_rows,) structured array
        As stored; names of the fields in small letters.
    """

    path: Path
    number: int
    header: Header
    rows: NDArray[np.void]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in small letters."""
        return self.rows.dtype.names or ()

    def value(self, name: str, row: int) -> Any:
        """One number, a text without blanks around it, or an array; None without such a column.

        Parameters
        ----------
        name
            Of the column, in small letters.
        row
            Number of the row.
        """
        if name not in self.columns:
            return None
        stored = self.rows[name][row]
        if isinstance(stored, bytes):
            return stored.split(b"\0")[0].decode("ascii", "replace").strip()
        native = np.asarray(stored).astype(stored.dtype.newbyteorder("="))
        return native if native.ndim else native.item()

    def text(self, name: str, row: int) -> str:
        """Text of a column; '' without one, and for masked values that are written as text.

        Parameters
        ----------
        name
            Of the column, in small letters.
        row
            Number of the row.
        """
        value = self.value(name, row)
        text = "" if value is None else str(value)
        return "" if text.lower() in ("none", "nan", "n/a", "--") else text

    def number_of(self, name: str, row: int) -> float:
        """A number; NaN without one and for a fill value (-1, -999 and below).

        Parameters
        ----------
        name
            Of the column, in small letters.
        row
            Number of the row.
        """
        value = self.value(name, row)
        if not isinstance(value, int | float) or not np.isfinite(value) or value <= -999:
            return float("nan")
        return float(value)


def read_tables(path: Path) -> tuple[Header, list[SmallTable]]:
    """Read the primary header and all tables of a file, whole.

    Every HDU is compared with its checksums (see `check_sums`).

    Parameters
    ----------
    path
        Of the file, gzipped or not; ``~`` is the home folder.

    Returns
    -------
    header : Header
        The primary one.
    tables : list of SmallTable
        In the order of the HDUs, those without rows too.

    Raises
    ------
    FileFormatError
        If the file is missing, no FITS file, damaged or cut short.
    """
    source = user_path(path)
    with open_bytes(source) as stream:
        size = plain_size(source, stream)
        tables: list[SmallTable] = []
        start, primary = 0, None
        for number in range(_MOST_HDUS):
            stream.seek(start)
            if number and not stream.read(1):
                break
            hdu = read_hdu(source, stream, start, number)
            if size is not None and size < hdu.stop:
                raise FileFormatError(
                    f"{source} is cut short: it has {size} bytes, and HDU {number} ends at "
                    f"{hdu.stop}; {AGAIN}."
                )
            content = _checked(source, stream, hdu, start, number)
            if primary is None:
                primary = hdu.header
            if hdu.header.get("XTENSION") == "BINTABLE":
                tables.append(_table(source, number, hdu, content))
            start = block_end(hdu.stop)
    return primary or Header(b""), tables


def _checked(path: Path, stream: IO[bytes], hdu: FitsImage, start: int, number: int) -> bytes:
    """Data of an HDU, filled up to whole blocks, after a look at its checksums."""
    stream.seek(start)
    head, data = stream.read(hdu.start - start), stream.read(block_end(hdu.stop) - hdu.start)
    if len(data) < hdu.stop - hdu.start:
        raise FileFormatError(f"{path} is cut short in HDU {number}; {AGAIN}.")
    check_sums(path, number, hdu.header, sum_of(head), sum_of(data))
    return data


def _table(path: Path, number: int, hdu: FitsImage, content: bytes) -> SmallTable:
    n_rows, width = (0, 0) if len(hdu.shape) != 2 else hdu.shape
    if not n_rows or not width:
        return SmallTable(path, number, hdu.header, np.empty(0, np.dtype([])))
    n_fields = hdu.header.get("TFIELDS", 0)
    dtype = _row_type(hdu.header, n_fields if type(n_fields) is int else 0, width)
    if dtype is None:
        raise FileFormatError(
            f"{path}: the columns of HDU {number} do not fill its rows of {width} bytes; {AGAIN}."
        )
    rows = np.frombuffer(content, dtype, n_rows)
    return SmallTable(path, number, hdu.header, _unscaled(rows, hdu.header))


def _row_type(header: Header, n_fields: int, width: int) -> np.dtype[np.void] | None:
    """Type of a row as it is stored; None where its columns are not as wide as the row."""
    fields: dict[str, list[Any]] = {"names": [], "formats": [], "offsets": []}
    offset = 0
    for k in range(1, n_fields + 1):
        match = _FORMAT.match(str(header.get(f"TFORM{k}", "")))
        if match is None:
            return None
        count, code = int(match[1] or 1), match[2]
        kind = f"S{count}" if code == "A" else _TYPES[code]
        repeat = 1 if code == "A" else (count + 7) // 8 if code == "X" else count
        form = np.dtype(kind) if repeat == 1 else np.dtype((kind, (repeat,)))
        name = str(header.get(f"TTYPE{k}", "")).strip().lower()
        if count and name not in fields["names"]:
            fields["names"].append(name)
            fields["formats"].append(form)
            fields["offsets"].append(offset)
        offset += form.itemsize if count else 0
    if offset != width:
        return None
    return np.dtype({**fields, "itemsize": width})  # type: ignore[call-overload,no-any-return]


def _unscaled(rows: NDArray[np.void], header: Header) -> NDArray[np.void]:
    """Undo TSCAL and TZERO where a column has them."""
    scaled: dict[str, NDArray[Any]] = {}
    for k, name in enumerate(_names(header), start=1):
        scale, zero = header.get(f"TSCAL{k}", 1), header.get(f"TZERO{k}", 0)
        if (scale != 1 or zero != 0) and name in (rows.dtype.names or ()):
            stored = rows[name]
            native = stored.astype(stored.dtype.newbyteorder("="))
            scaled[name] = unscaled(native, scale, zero)
    if not scaled:
        return rows
    return _replaced(rows, scaled)


def _names(header: Header) -> list[str]:
    n_fields = int(header.get("TFIELDS", 0))
    return [str(header.get(f"TTYPE{k}", "")).strip().lower() for k in range(1, n_fields + 1)]


def _replaced(rows: NDArray[np.void], new: Mapping[str, NDArray[Any]]) -> NDArray[np.void]:
    """The same rows with other values of some columns."""
    names = rows.dtype.names or ()
    forms = [new[n].dtype.str if n in new else rows.dtype[n].base.str for n in names]
    shapes = [new[n].shape[1:] if n in new else rows.dtype[n].shape for n in names]
    out = np.empty(rows.shape, [(n, f, s) for n, f, s in zip(names, forms, shapes, strict=True)])
    for name in names:
        out[name] = new.get(name, rows[name])
    return out
