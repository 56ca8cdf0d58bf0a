"""Tables of stars: which column names them, whose labels stand beside ours, columns as numbers.

A survey says what its stars' names are called (``APOGEE_ID``, ``SDSS_ID``) and what its catalogue
of labels is called (ASPCAP); a result keeps both in its attributes ``id_name`` and ``catalogue``,
a table in its ``meta`` as ``ID`` and ``CATALOG``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.posterior import catalogue_of
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.label_kinds import label_kind
from bayes_cannon.spectra.star_ids import ID_NAMES, id_column, row_of

__all__ = [
    "catalogue_name",
    "labels_first",
    "row_of_star",
    "star_column",
    "star_ids",
]

_CATALOGUE = "ASPCAP"
_NAMELESS = "CATALOGUE"
"""What a training set says whose catalogue was given no name."""


def star_column(table: Table) -> str:
    """Name of the column with the stars' names.

    Parameters
    ----------
    table
        Catalogue; what its ``meta`` says counts first.

    Raises
    ------
    InvalidDataError
        If there is none.

    Examples
    --------
    >>> star_column(Table({"STAR_ID": ["a"], "TEFF": [4500.0]}))
    'STAR_ID'
    """
    name = id_column(table.colnames, table.meta)
    if name is None:
        raise InvalidDataError(
            f"the table has no column with the stars' names, such as {', '.join(ID_NAMES)} "
            f"(it has {', '.join(table.colnames[:8])})."
        )
    return name


def star_ids(table: Table) -> NDArray[np.str_]:
    """Names of a table's stars, shape (n_stars,).

    Parameters
    ----------
    table
        Catalogue.

    Raises
    ------
    InvalidDataError
        If no column has them.
    """
    return np.array([_text(star) for star in table[star_column(table)]], dtype=np.str_)


def _text(star: Any) -> str:
    """Name of a star as text, without the blanks that files fill it up with."""
    if np.ma.is_masked(star):
        return ""
    return (star.decode("utf-8", "replace") if isinstance(star, bytes) else str(star)).rstrip()


def row_of_star(table: Table, star: str | None = None) -> int:
    """Row of a star in a table; of the only star where no name is given.

    Parameters
    ----------
    table
        Catalogue.
    star
        Name of the star.

    Raises
    ------
    InvalidDataError
        If the star is not there, or none is named among several.
    """
    ids = star_ids(table)
    if star is None and ids.size == 1:
        return 0
    if star is None:
        raise InvalidDataError(f"there are {ids.size} stars; name one with star=.")
    return row_of(ids, star)


def catalogue_name(*sources: Any) -> str:
    """Name of the catalogue that labels are compared with: of the first source that says it.

    Parameters
    ----------
    sources
        Results, tables of this package, training sets, or anything else, which says nothing.

    >>> catalogue_name(None, Table(meta={"CATALOG": "GALAH_DR3"})), catalogue_name(None)
    ('GALAH DR3', 'ASPCAP')
    """
    found = [name for name in map(_said_by, sources) if name]
    named = [name for name in found if name != _NAMELESS]
    return (named[0] if named else "catalogue" if found else _CATALOGUE).replace("_", " ")


def _said_by(source: Any) -> str:
    """Name of the catalogue that a result, table or training set says; empty for none."""
    if isinstance(source, xr.DataTree):
        return catalogue_of(source)
    if isinstance(source, Table):
        return str(source.meta.get("CATALOG", ""))
    return source.catalogue if isinstance(source, TrainingSet) else ""


def labels_first(table: Table) -> Table:
    """Columns of a catalogue in the order in which it is printed, with digits to read.

    Parameters
    ----------
    table
        With the names of its labels in ``meta``; another one, or a part of its columns, is
        returned as it is.

    Returns
    -------
    astropy.table.Table
        The star, its labels, their errors and flags, then the rest but arrays and correlations.
    """
    plain = Table(table, copy=False)
    names = [n for n in str(table.meta.get("LABELS", "")).split(",") if n in table.colnames]
    error = "_ERR" if table.meta.get("KIND") == "calibrated" else "_FORMAL_ERR"
    key = id_column(table.colnames, table.meta)
    first = [key, *names, *(f"{n}{error}" for n in names), "LABEL_FLAG"]
    # A part of a catalogue has the columns that were asked for, in that order.
    if not names or not {*first, "LABEL_COV"} <= set(table.colnames):
        return plain
    rest = [n for n in table.colnames if n not in first and table[n].ndim == 1]
    rest = [n for n in rest if not n.endswith("_CORR")]
    shown = plain[[*first, *rest]]
    for name in shown.colnames:
        if shown[name].dtype.kind == "f":
            shown[name].info.format = ".5g"
    for name in names:
        digits = label_kind(name, str(table[name].unit or "")).digits + 1
        shown[name].info.format = shown[f"{name}{error}"].info.format = f".{digits}f"
    return shown
