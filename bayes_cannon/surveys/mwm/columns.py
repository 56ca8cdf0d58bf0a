"""Columns of a large table of a catalogue, read once in small pieces, with its checksums."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.apogee.allstar import FitsTable
from bayes_cannon.surveys.checksums import check_sums, sum_of
from bayes_cannon.surveys.fits import AGAIN, FitsFile, card_text, open_bytes

__all__ = [
    "find_stars",
    "first_known",
    "lower_case",
    "numbers_as_text",
    "read_stars",
    "star_names",
    "text_of",
    "truth_of",
]

_CHUNK_BYTES = 16_000_000


def find_stars(file: FitsFile, needed: str) -> tuple[FitsTable, int]:
    """Find the first table with rows, SDSS_ID and a column that tells its kind; and its HDU.

    Tables of BOSS are passed over.

    Parameters
    ----------
    file
        Open.
    needed
        Column that it must have, in capitals.

    Raises
    ------
    FileFormatError
        If there is none, or it is damaged.
    """
    seen = []
    for number in count(1):
        try:
            hdu: Any = file.hdus[number]
        except IndexError:
            break
        if not hasattr(hdu, "columns"):
            continue
        columns = hdu.columns
        names: dict[str, str] = {}
        for name in columns.names:
            names.setdefault(name.upper(), name)
        rows = hdu.header["NAXIS2"]
        seen.append(f"{rows} rows of {card_text(hdu.header, 'INSTRMNT') or len(names)} in {number}")
        boss = card_text(hdu.header, "INSTRMNT").upper() == "BOSS"
        if not rows or boss or "SDSS_ID" not in names or needed not in names:
            continue
        file.require_whole(number, "catalogue")
        if columns.dtype.itemsize != hdu.header["NAXIS1"]:
            raise FileFormatError(
                f"{file.path}: rows have {hdu.header['NAXIS1']} bytes, their columns "
                f"{columns.dtype.itemsize}; the file is damaged: {AGAIN}."
            )
        stored = columns.dtype.newbyteorder(">")
        start = hdu.fileinfo()["datLoc"]
        return FitsTable(file.path, hdu, names, stored, start, rows), number
    raise FileFormatError(
        f"{file.path} has no table of APOGEE stars with columns sdss_id and {needed.lower()} "
        f"({'; '.join(seen) or 'no table'}); give astraAllStarASPCAP-0.6.0.fits.gz, or the "
        "pipeline's allStar-1.3-apo25m.fits."
    )


def read_stars(
    file: FitsFile,
    source: FitsTable,
    number: int,
    names: Iterable[str],
    sdss_ids: Collection[str] | None,
) -> dict[str, NDArray[Any]]:
    """Read columns as they are stored, of some stars; those the file lacks are left out.

    The whole table goes by in pieces, and is compared with its checksums.

    Parameters
    ----------
    file, source, number
        Open file, table and number of its HDU.
    names
        Of the columns, in capitals.
    sdss_ids
        Stars whose rows are kept; None: all.

    Raises
    ------
    FileFormatError
        If the file is cut short, or does not add up to its checksums.
    """
    kept: dict[str, list[NDArray[Any]]] = {n: [] for n in dict.fromkeys(names) if n in source.names}
    chosen = None
    if sdss_ids is not None:
        chosen = np.array(sorted(int(s) for s in sdss_ids if s.isdecimal()), dtype=np.int64)
    info, width = source.hdu.fileinfo(), source.dtype.itemsize
    step = 4 * max(1, _CHUNK_BYTES // (4 * width))  # whole words, for the sum
    total = 0
    with open_bytes(source.path) as stream:
        stream.seek(info["hdrLoc"])
        of_header = sum_of(stream.read(info["datLoc"] - info["hdrLoc"]))
        for first in range(0, source.n_rows, step):
            rows = min(step, source.n_rows - first)
            content = stream.read(rows * width)
            if len(content) < rows * width:
                raise FileFormatError(f"{source.path} is cut short in row {first}; {AGAIN}.")
            piece = np.frombuffer(content, source.dtype, rows)
            if first + rows == source.n_rows:
                content += stream.read(info["datSpan"] - source.n_rows * width)
            total = sum_of(content, total)
            if chosen is not None:
                piece = piece[np.isin(piece[source.names["SDSS_ID"]], chosen)]
            for name, parts in kept.items():
                parts.append(piece[source.names[name]].copy())
    check_sums(source.path, number, source.hdu.header, of_header, total)
    return {name: np.concatenate(parts) for name, parts in kept.items()}


def star_names(
    source: FitsTable, raw: Mapping[str, NDArray[Any]], number: str, name: str
) -> NDArray[np.str_]:
    """SDSS_ID as text; the other name where a star has none.

    Parameters
    ----------
    source, raw
        Table, and its columns as they are stored.
    number, name
        Column of SDSS_ID, and of the other name.
    """
    ids = numbers_as_text(raw, number, 0)
    if (ids != "").all():
        return ids
    return np.where(ids != "", ids, text_of(source, raw, name, ids.size))


def numbers_as_text(raw: Mapping[str, NDArray[Any]], name: str, n_rows: int) -> NDArray[np.str_]:
    """Whole numbers as text; '' where they are not positive, or the file has none.

    Parameters
    ----------
    raw
        Columns as they are stored.
    name
        Of the column.
    n_rows
        Rows of the result where there is no such column.
    """
    if name not in raw:
        return np.full(n_rows, "", dtype=np.str_)
    numbers = raw[name].astype(np.int64)
    return np.where(numbers > 0, numbers.astype(np.str_), "")


def text_of(
    source: FitsTable, raw: Mapping[str, NDArray[Any]], name: str, n_rows: int
) -> NDArray[np.str_]:
    """Text of a column; '' where the file has none.

    Parameters
    ----------
    source, raw
        Table, and its columns as they are stored.
    name
        Of the column.
    n_rows
        Rows of the result where there is no such column.
    """
    if name not in raw:
        return np.full(n_rows, "", dtype=np.str_)
    return np.asarray(source.convert(name, "text", raw[name]))


def first_known(
    source: FitsTable, raw: Mapping[str, NDArray[Any]], *names: str
) -> NDArray[np.str_]:
    """Text of the first column that has any, row by row.

    Parameters
    ----------
    source, raw
        Table, and its columns as they are stored.
    *names
        Of the columns.
    """
    n_rows = len(next(iter(raw.values())))
    out = np.full(n_rows, "", dtype=np.str_)
    for name in names:
        text = text_of(source, raw, name, n_rows)
        out = np.where(out != "", out, text)
    return out


def lower_case(text: NDArray[np.str_]) -> NDArray[np.str_]:
    """Text in small letters.

    Parameters
    ----------
    text
        Of any shape.
    """
    return np.asarray(np.strings.lower(text))


def truth_of(stored: NDArray[Any]) -> NDArray[np.int64]:
    """Logical values of FITS, or numbers, as 0 and 1.

    Parameters
    ----------
    stored
        As in the file.
    """
    if stored.dtype.kind == "S":
        return np.asarray(stored == b"T").astype(np.int64)
    if stored.dtype.itemsize == 1:
        return np.isin(stored, (1, ord("T"))).astype(np.int64)
    return np.asarray(stored != 0).astype(np.int64)
