"""Names of stars in tables: which column holds them, and what that column is called.

APOGEE's tables have ``APOGEE_ID``, those of SDSS-V ``SDSS_ID``, a user's ``STAR_ID``; the meta data
of our own tables say it in ``ID``, and a DataFrame by the name of its index.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import names_of
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "DEFAULT_ID",
    "ID_NAMES",
    "SIMULATED_NOTE",
    "catalogue_column",
    "check_id_name",
    "checked_notes",
    "id_column",
    "index_name",
    "index_of",
    "name_some",
    "near_names",
    "plain_name",
    "refuse_repeated",
    "refuse_unnamed",
    "row_of",
    "rows_of",
    "simulated_note",
    "simulated_stars",
    "some_simulated",
]

ID_NAMES = ("APOGEE_ID", "SDSS_ID", "STAR_ID")
"""Names of columns that hold names of stars; the first that a table has counts."""
DEFAULT_ID = "STAR_ID"
_BLANK = ord(" ")
SIMULATED_NOTE, _YES = "SIMULATED", "yes"
"""Column of notes of simulated stars among others, and what it says of them."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def name_some(ids: Sequence[object] | NDArray[Any], limit: int = 3) -> str:
    """Join the first few ids for a message: ``'a, b, c, …'``.

    Parameters
    ----------
    ids
        Of any kind.
    limit
        How many are named.
    """
    shown = ", ".join(str(i) for i in list(ids)[:limit])
    return shown + (", …" if len(ids) > limit else "")


def plain_name(star: str) -> str:
    """Name of a star without the folders before it and the number of its spectrum behind it.

    Parameters
    ----------
    star
        Name in a run.

    Examples
    --------
    >>> plain_name("apo25m/M15/2M21265257+1159208"), plain_name("2M21265257+1159208#2")
    ('2M21265257+1159208', '2M21265257+1159208')
    """
    return star.rpartition("/")[2].partition("#")[0]


def near_names(star: str, ids: Iterable[str]) -> str:
    """Say which names are near one that is not there; '' where none is.

    Parameters
    ----------
    star
        The name that was asked for.
    ids
        Names that are there.

    Examples
    --------
    >>> near_names("2M0350", ["2M0351", "2M9999"])
    'did you mean 2M0351?'
    """
    known = {name.lower(): name for name in ids}
    near = get_close_matches(star.lower(), known, n=3)
    return f"did you mean {', '.join(known[name] for name in near)}?" if near else ""


def check_id_name(name: str) -> str:
    """Return the name of a column of star ids, in capitals.

    Parameters
    ----------
    name
        Of the column.

    Raises
    ------
    InvalidDataError
        If it is not of letters, digits and ``_``.
    """
    if not _NAME.fullmatch(str(name)):
        raise InvalidDataError(
            f"the column of the stars' names needs a name of letters, digits and _, like STAR_ID, "
            f"not {name!r}."
        )
    return str(name).upper()


def refuse_repeated(star_id: NDArray[np.str_]) -> None:
    """Raise `InvalidDataError` where a star comes more than once.

    Parameters
    ----------
    star_id : (n_stars,) str
    """
    unique, counts = np.unique(star_id, return_counts=True)
    if np.any(many := counts > 1):
        raise InvalidDataError(
            f"{count_text(many.sum(), 'star id')} occur more than once "
            f"({name_some(unique[many])}); make them unique."
        )


def refuse_unnamed(star_id: NDArray[np.str_]) -> None:
    """Raise `InvalidDataError` where a name is empty, or has line breaks, tabs and the like.

    Parameters
    ----------
    star_id : (n_stars,) str
    """
    if star_id.size == 0 or star_id.dtype.itemsize == 0:
        codes = np.zeros((star_id.size, 1), dtype=np.uint32)
    else:
        codes = np.ascontiguousarray(star_id).view(np.uint32).reshape(star_id.size, -1)
    odd = ((codes > 0) & (codes < _BLANK)).any(axis=1)
    if (bad := odd | (codes <= _BLANK).all(axis=1)).any():
        rows = np.flatnonzero(bad)
        shown = ", ".join(f"{str(star_id[row])!r} in row {row}" for row in rows[:3])
        raise InvalidDataError(
            f"{rows.size} of {count_text(star_id.size, 'star id')} are empty or have line breaks "
            f"or tabs ({shown}{', …' if rows.size > 3 else ''}); name these stars otherwise, or "
            "leave them out."
        )


def simulated_note(simulated: Iterable[bool]) -> dict[str, NDArray[np.str_]]:
    """Column of notes that says which stars are simulated; none where all are, or none.

    Parameters
    ----------
    simulated
        Whether each star is.
    """
    marks = np.array(list(simulated), dtype=np.bool_)
    mixed = marks.any() and not marks.all()
    return {SIMULATED_NOTE: np.where(marks, _YES, "")} if mixed else {}


def simulated_stars(
    simulated: bool, notes: Mapping[str, NDArray[np.str_]], n_stars: int
) -> NDArray[np.bool_]:
    """Which stars are simulated, shape (n_stars,).

    Parameters
    ----------
    simulated
        Whether some are.
    notes
        Of the stars; one says which, where not all are.
    n_stars
        Number of stars.
    """
    if SIMULATED_NOTE in notes:
        return np.atleast_1d(np.asarray(notes[SIMULATED_NOTE]) == _YES)
    return np.full(n_stars, bool(simulated))


def some_simulated(simulated: bool, notes: Mapping[str, NDArray[np.str_]]) -> bool:
    """Whether some of chosen stars are simulated.

    Parameters
    ----------
    simulated
        Whether some of those that they were chosen of are.
    notes
        Of the chosen ones.
    """
    return bool(simulated_stars(simulated, notes, 1).any())


def checked_notes(given: Mapping[str, Any] | None, n_stars: int) -> dict[str, NDArray[np.str_]]:
    """Return columns of text that stand beside the names of stars, checked.

    Parameters
    ----------
    given
        Columns by name.
    n_stars
        Number of stars.

    Raises
    ------
    InvalidDataError
        If a column is not of one text a star, or its name not of letters, digits and ``_``.
    """
    notes: dict[str, NDArray[np.str_]] = {}
    for name, column in (given or {}).items():
        texts = np.asarray(column).astype(np.str_)
        if texts.shape != (n_stars,):
            raise InvalidDataError(f"the notes {name} must have shape ({n_stars},).")
        notes[check_id_name(name)] = texts
    return notes


def id_column(columns: Iterable[str], meta: Mapping[str, Any] | None = None) -> str | None:
    """Return the column of a table that holds the names of the stars; None without.

    Parameters
    ----------
    columns
        Names of the table's columns.
    meta
        Meta data of the table; ``ID`` names the column in tables of this package.

    Examples
    --------
    >>> id_column(["TEFF", "sdss_id"]), id_column(["NAME", "STAR_ID"], {"ID": "NAME"})
    ('sdss_id', 'NAME')
    """
    columns = list(columns)
    for wanted in (str((meta or {}).get("ID", "")), *ID_NAMES):
        alike = [name for name in columns if name == wanted]
        alike += [name for name in columns if name.upper() == wanted.upper()]
        if wanted and alike:
            return alike[0]
    return None


def index_name(given: Any) -> str:
    """Name of a DataFrame's index, in which it holds the stars' names; '' without.

    Parameters
    ----------
    given
        Table of any kind.
    """
    name = getattr(getattr(given, "index", None), "name", None)
    return str(name) if name is not None and hasattr(given, "to_numpy") else ""


def rows_of(star_id: NDArray[np.str_], wanted: Any) -> NDArray[np.intp]:
    """Rows of stars among others, -1 for one that is not there.

    Parameters
    ----------
    star_id : (n_stars,) str
        Names among which the stars are looked for.
    wanted : (n,) str
        Names of the stars.

    Returns
    -------
    (n,) int

    Examples
    --------
    >>> rows_of(np.array(["a", "b", "c"]), ["c", "x"]).tolist()
    [2, -1]
    """
    names = np.asarray(wanted, dtype=np.str_)
    if star_id.size == 0:
        return np.full(names.shape, -1, dtype=np.intp)
    order = np.argsort(star_id, kind="stable")
    place = np.searchsorted(star_id, names, sorter=order)
    found = order[np.minimum(place, star_id.size - 1)]
    return np.where(star_id[found] == names, found, -1)


def row_of(star_id: NDArray[np.str_], star: str) -> int:
    """Row of a star.

    Parameters
    ----------
    star_id : (n_stars,) str
    star
        Its name.

    Raises
    ------
    InvalidDataError
        If the star is not there.
    """
    row = int(rows_of(star_id, [str(star)])[0])
    if row < 0:
        shown = ", ".join(star_id[:3]) + (", …" if star_id.size > 3 else "")
        near = near_names(str(star), star_id.tolist())
        raise InvalidDataError(
            f"no star {star!r} among {star_id.size} ({shown}){f'; {near}' if near else '.'}"
        )
    return row


def catalogue_column(name: str) -> str:
    """Name of a catalogue as part of the name of a column: capitals, digits and underscores.

    Parameters
    ----------
    name
        Of the catalogue.

    Examples
    --------
    >>> catalogue_column("GALAH DR3"), catalogue_column("ASPCAP")
    ('GALAH_DR3', 'ASPCAP')
    """
    return re.sub(r"[^A-Z0-9]+", "_", name.upper()).strip("_") or "CATALOGUE"


def index_of(star_id: NDArray[np.str_], stars: Any) -> NDArray[np.intp]:
    """Return the row numbers of ids, of a mask, or of indices among `star_id` (checked).

    Parameters
    ----------
    star_id : (n_stars,) str
    stars
        Row numbers, a mask of shape (n_stars,), a slice, or names.

    Returns
    -------
    (n,) int

    Raises
    ------
    InvalidDataError
        If one of them is not there, or they are of another kind.
    """
    n_stars = star_id.size
    if isinstance(stars, slice):
        return np.asarray(np.arange(n_stars)[stars], dtype=np.intp)
    array = _choice(stars)
    if array.size == 0:
        return np.empty(0, dtype=np.intp)
    if array.dtype.kind in "U":
        found = rows_of(star_id, array)
        unknown = found < 0
        if unknown.any():
            raise InvalidDataError(
                f"{unknown.sum()} of {count_text(array.size, 'star id')} are not in these "
                f"{count_text(n_stars, 'spectrum')}: {name_some(array[unknown])}."
            )
        return found
    if array.dtype == bool and array.shape != (n_stars,):
        raise InvalidDataError(f"a mask of stars must have shape ({n_stars},).")
    if array.dtype != bool and not np.all((array >= -n_stars) & (array < n_stars)):
        raise InvalidDataError(f"star numbers run from 0 to {n_stars - 1}, got {name_some(array)}.")
    return np.asarray(np.arange(n_stars)[array], dtype=np.intp)


def _choice(stars: Any) -> NDArray[Any]:
    """Which stars, as an array of bool, of whole numbers or of text."""
    if hasattr(stars, "to_numpy") and not isinstance(stars, np.ndarray):
        stars = stars.to_numpy()
    if np.ma.is_masked(stars):
        if stars.dtype != bool:
            raise InvalidDataError("some of the stars to choose are masked; leave these out.")
        stars = np.ma.filled(stars, False)
    array = np.atleast_1d(np.asarray(stars))
    if array.dtype.kind in "SO" and array.size:
        if all(isinstance(v, bool | np.bool_) for v in array.ravel()):
            return array.astype(np.bool_)
        if not all(isinstance(v, int | np.integer) for v in array.ravel()):
            return names_of(array)
        array = array.astype(np.intp)
    if array.dtype.kind not in "biuU" and array.size:
        raise InvalidDataError(
            f"stars are chosen by numbers, ids or a mask, not by values of kind {array.dtype}."
        )
    return array
