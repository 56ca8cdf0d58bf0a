"""Tables of stars: which column names them, whose labels stand beside ours, and their files.

A survey says what its stars' names are called (``APOGEE_ID``, ``SDSS_ID``) and what its catalogue
of labels is called (ASPCAP); a result keeps both in its attributes ``id_name`` and ``catalogue``,
a table in its ``meta`` as ``ID`` and ``CATALOG``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.storage import write_atomically
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.posterior import catalogue_of
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.label_kinds import label_kind
from bayes_cannon.spectra.star_ids import (
    ID_NAMES,
    SIMULATED_NOTE,
    id_column,
    row_of,
    simulated_stars,
)
from bayes_cannon.surveys.reductions import other_reductions

__all__ = [
    "MARK",
    "catalogue_name",
    "labels_first",
    "mark_of",
    "notes_of_table",
    "reduction_story",
    "rounded",
    "row_of_star",
    "simulated_rows",
    "star_column",
    "star_ids",
    "write_ecsv",
]

MARK = "SIMULATED spectra: not observations"
"""What a table of simulated spectra says."""

_CATALOGUE = "ASPCAP"
_NAMELESS = "CATALOGUE"
"""What a training set says whose catalogue was given no name."""


def simulated_rows(table: Table) -> NDArray[np.bool_]:
    """Which rows of a catalogue are of simulated spectra, shape (n_rows,).

    Parameters
    ----------
    table
        Catalogue, by its ``meta``, and by its column SIMULATED where not all are.
    """
    notes = {n: np.asarray(table[n]) for n in (SIMULATED_NOTE,) if n in table.colnames}
    some = bool(table.meta.get("SIMULATE"))
    return simulated_stars(some, notes if some else {}, len(table))


def mark_of(table: Table) -> list[str]:
    """What a table says of simulated spectra: a line, or none.

    Parameters
    ----------
    table
        Of a result.
    """
    which = simulated_rows(table)
    if which.all() or not which.any():
        return [MARK] if table.meta.get("SIMULATE") and (which.any() or not which.size) else []
    spectra = count_text(which.size, "spectrum")
    return [f"{which.sum()} of {spectra} are SIMULATED, not observed: column SIMULATED"]


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
        raise InvalidDataError(f"there are {count_text(ids.size, 'star')}; name one with star=.")
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


def reduction_story(table: Table) -> str:
    """Say that spectra are of another reduction than the model's, and how far they are from it.

    Parameters
    ----------
    table
        Catalogue of a result: its meta data name the reductions, its columns CHI2_RED, CHI2_RANK
        and LABEL_FLAG say how well the spectra are fitted.

    Returns
    -------
    str
        '' where the reduction is the model's.
    """
    told = other_reductions(table)
    if not told or not {"CHI2_RED", "LABEL_FLAG"} <= set(table.colnames):
        return told
    flag = np.asarray(table["LABEL_FLAG"], dtype=np.int64)
    chi2 = np.asarray(table["CHI2_RED"], dtype=np.float64)
    other = (flag & int(LabelFlag.OTHER_REDUCTION)) != 0
    if not (other & np.isfinite(chi2)).any():
        return told
    told += f" Their reduced chi-square is {np.nanmedian(chi2[other]):.3g} (median)"
    rank = _numbers(table, "CHI2_RANK")[other]
    if not np.isfinite(rank).any():
        return (
            f"{told}; the model was not cross-validated, so that nothing says what that of its own "
            "kind of spectra is."
        )
    shares = [
        f"{100 * np.mean((flag[other] & int(bit)) != 0):.3g} % {text}"
        for bit, text in (
            (LabelFlag.POOR_CHI2, "are fitted worse than 99 % of these"),
            (LabelFlag.EXTREME_FACTORS, "have larger factors than 99 %"),
            (LabelFlag.UNLIKE_TRAINING, "are beyond them all"),
        )
    ]
    return (
        f"{told}, larger than that of {100 * np.nanmedian(rank):.0f} % of left-out training stars "
        f"at the same S/N (alike: 50 %); {', '.join(shares)} (alike: 1, 1 and 0 %)."
    )


def _numbers(table: Table, name: str) -> NDArray[np.float64]:
    """Column of numbers; NaN where there is none."""
    if name not in table.colnames:
        return np.full(len(table), np.nan)
    return np.asarray(table[name], dtype=np.float64)


def rounded(table: Table, *, digits: int = 6) -> Table:
    """Return the table with numbers of few digits, and a comment where it is of a simulation.

    Parameters
    ----------
    table
        With ``SIMULATE`` in its meta data.
    digits
        Significant ones.
    """
    shown = table.copy()
    for name in shown.colnames:
        if shown[name].dtype.kind == "f":
            shown[name] = [float(f"{value:.{digits}g}") for value in shown[name]]
            shown[name].unit = table[name].unit
    if mark := mark_of(shown):
        shown.meta["comments"] = [*mark, *shown.meta.get("comments", [])]
    return shown


def write_ecsv(table: Table, path: Path, *, overwrite: bool) -> None:
    """Write a table as ECSV, whole or not at all.

    Parameters
    ----------
    table
        What to write.
    path
        Of the file.
    overwrite
        Replace a file that is there.
    """
    write_atomically(path, lambda part: table.write(part, format="ascii.ecsv"), overwrite=overwrite)


def notes_of_table(table: Table) -> list[str]:
    """Lines on what a reader of a table must know, each once.

    Simulated spectra, a model of simulated ones, another reduction than the model's, and the
    table's own comments.

    Parameters
    ----------
    table
        Of a result.
    """
    told = mark_of(table)
    if table.meta.get("SIMMODEL") and not told:
        told = ["The model was trained on SIMULATED spectra."]
    told += [reduction_story(table), *table.meta.get("comments", ())]
    return [line for line in dict.fromkeys(map(str, told)) if line]
