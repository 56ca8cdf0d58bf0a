"""Tables and headers of SDSS-V's files, column by column as the data model has them.

``data/sdssv_layouts.json`` holds, for each product and HDU, the cards (keyword, value where it is
the same in all files, comment) and the columns (name and TFORM) of DR19.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from astropy.io import fits

from bayes_cannon.base.resources import data_path
from bayes_cannon.surveys.checksums import sum_of
from bayes_cannon.surveys.fits import BLOCK

__all__ = [
    "layout_columns",
    "make_hdu",
]

Card = tuple[str, Any, str]
_FORMAT = re.compile(r"(\d*)([A-Z])")
_TYPES = {"K": "i8", "J": "i4", "E": "f4", "D": "f8", "L": "S1"}
_FILLS: Mapping[str, Any] = {"K": -1, "J": -1, "E": np.nan, "D": np.nan, "L": "F", "A": ""}
_WHEN = "at an invented time"  # that of writing would make equal surveys different files


@cache
def _layouts() -> dict[str, list[dict[str, Any]]]:
    text = data_path("sdssv_layouts.json").read_text(encoding="utf-8")
    found: dict[str, list[dict[str, Any]]] = json.loads(text)
    return found


def layout_columns(product: str, number: int) -> dict[str, str]:
    """Names of the columns of a table, in order, with their TFORM; empty for an image.

    Parameters
    ----------
    product
        ``'mwmStar'``, ``'mwmVisit'``, ``'astraAllStarASPCAP'``, ``'allStar'`` or ``'apStar'``.
    number
        Of its HDU.
    """
    columns = str(_layouts()[product][number]["columns"]).split()
    return {name: form for name, _, form in (column.rpartition(":") for column in columns)}


def make_hdu(
    product: str,
    number: int,
    rows: Sequence[Mapping[str, Any]] = (),
    cards: Mapping[str, Any] | None = None,
    *,
    fitted: bool = False,
    history: Sequence[str] = (),
    simulated: bool = True,
) -> bytes:
    """Header and data of an HDU of a product as they are written, with its checksums.

    Astropy writes no columns without cells (``0E``), which these files have.

    Parameters
    ----------
    product, number
        See `layout_columns`.
    rows
        Values by column, a row each; what is left out is NaN, -1, '' or false.
    cards
        Values of header cards, in place of none.
    fitted
        Whether text is as wide as its longest value, and arrays of an empty table have no cells,
        as in files that astra writes one a star.
    history
        Lines of HISTORY.
    simulated
        Whether to mark it by ``SIMULATE = T``.
    """
    columns = layout_columns(product, number)
    marks: list[Card] = [("SIMULATE", True, "simulated, not observed")] if simulated else []
    marks += [("HISTORY", line, "") for line in history]
    cards_after = [*_cards(product, number, cards or {}), *marks]
    if not columns:
        start: list[Card] = [
            ("SIMPLE", True, "conforms to FITS standard"), ("BITPIX", 8, "array data type"),
            ("NAXIS", 0, "number of array dimensions"), ("EXTEND", True, ""),
        ]  # fmt: skip
        return _with_sums(fits.Header([*start, *cards_after]), b"")
    data = _data(columns, rows, fitted=fitted)
    content = data.astype(data.dtype.newbyteorder(">")).tobytes()
    header = fits.Header([*_table_cards(columns, data), *cards_after])
    return _with_sums(header, content + bytes(-len(content) % BLOCK))


def _cards(product: str, number: int, given: Mapping[str, Any]) -> list[Card]:
    """Cards of the layout with their values; further ones behind them."""
    left, out = dict(given), []
    for key, *rest in _layouts()[product][number]["cards"]:
        value, comment = (rest[0], "") if key == "COMMENT" else (left.pop(key, rest[0]), rest[1])
        out.append((key, value, comment))
    return [*out, *((key, value, "") for key, value in left.items())]


def _table_cards(columns: Mapping[str, str], data: np.ndarray[Any, Any]) -> list[Card]:
    """Cards that tell size and columns of a table, with TDIM of arrays of one dimension, too."""
    out: list[Card] = [
        ("XTENSION", "BINTABLE", "binary table extension"), ("BITPIX", 8, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", data.dtype.itemsize, "length of dimension 1"),
        ("NAXIS2", len(data), "length of dimension 2"),
        ("PCOUNT", 0, "number of group parameters"), ("GCOUNT", 1, "number of groups"),
        ("TFIELDS", len(columns), "number of table fields"),
    ]  # fmt: skip
    dimensions: list[Card] = []
    for k, (name, form) in enumerate(columns.items(), start=1):
        shape, kind = data.dtype[name].shape, data.dtype[name].base
        width = str(kind.itemsize) if form.endswith("A") else str(shape[0]) if shape else ""
        out += [(f"TTYPE{k}", name, ""), (f"TFORM{k}", width + form[-1], "")]
        if shape:
            dimensions.append((f"TDIM{k}", f"({shape[0]})", ""))
    return out + dimensions


def _data(
    columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]], *, fitted: bool
) -> np.ndarray[Any, Any]:
    fields: list[tuple[Any, ...]] = []
    fills = []
    for name, form in columns.items():
        match = _FORMAT.fullmatch(form)
        count, code = (int(match[1] or 1), match[2]) if match else (1, "K")
        if code == "A":
            longest = max([1, *(len(str(row.get(name, ""))) for row in rows)])
            fields.append((name, f"S{longest if fitted else count}"))
        elif count != 1:
            fields.append((name, _TYPES[code], (count if rows or not fitted else 0,)))
        else:
            fields.append((name, _TYPES[code]))
        fills.append(_FILLS[code])
    data = np.zeros(len(rows), dtype=fields)
    for name, fill in zip(columns, fills, strict=True):
        for number, row in enumerate(rows):
            value = row.get(name, fill)
            data[name][number] = "FT"[value] if isinstance(value, bool) else value
    return data


def _with_sums(header: fits.Header, data: bytes) -> bytes:
    """Header and data with the cards CHECKSUM and DATASUM (FITS Standard 4.0, appendix J)."""
    header["CHECKSUM"] = ("0" * 16, f"HDU checksum updated {_WHEN}")
    header["DATASUM"] = (str(sum_of(data)), f"data unit checksum updated {_WHEN}")
    head = header.tostring().encode("ascii")
    header["CHECKSUM"] = _encoded(0xFFFFFFFF - sum_of(data, sum_of(head)))
    return bytes(header.tostring().encode("ascii")) + data


def _encoded(complement: int) -> str:
    """16 letters and digits that add to a header's sum what is lacking."""
    letters = bytearray(16)
    for k, byte in enumerate(complement.to_bytes(4, "big")):
        four = [byte // 4 + ord("0")] * 4
        four[0] += byte % 4
        while any(not chr(c).isalnum() for c in four):
            for pair in (0, 2):
                if any(not chr(c).isalnum() for c in four[pair : pair + 2]):
                    four[pair] += 1
                    four[pair + 1] -= 1
        letters[k::4] = bytes(four)
    return (letters[-1:] + letters[:-1]).decode("ascii")
