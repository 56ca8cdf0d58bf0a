"""Labels of a user's own stars: from arrays, tables and their units."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import Numbers, is_fill_value, names_of, numbers_of
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.spectra.label_kinds import known_unit, label_kind
from bayes_cannon.spectra.labels import Labels, check_label_names
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.spectra.star_ids import (
    DEFAULT_ID,
    ID_NAMES,
    check_id_name,
    id_column,
    index_name,
    rows_of,
)

__all__ = [
    "LabelTable",
    "columns_of",
    "make_labels",
    "matched",
    "require_labels",
    "take_ids",
    "units_told",
]

LabelTable = Mapping[str, ArrayLike] | Table | Labels
"""Values by name: a mapping, an astropy table, a pandas DataFrame, or `Labels`."""

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def columns_of(given: Any, what: str = "labels") -> dict[str, Any]:
    """Columns by name of a mapping, a table, a DataFrame, a structured array or `Labels`.

    Parameters
    ----------
    given
        The table.
    what
        Its name, for messages.

    Raises
    ------
    LabelError
        If it is none of these.
    """
    if isinstance(given, Labels):
        values = {n: given[n] for n in given.names}
        return values | {f"{n}_ERR": given.error(n) for n in given.names}
    if isinstance(given, Table):
        return {str(n): given[n] for n in given.colnames}
    if isinstance(given, np.ndarray) and given.dtype.names:
        return {n: given[n] for n in given.dtype.names}
    if isinstance(given, Mapping):
        return {str(n): column for n, column in given.items()}
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):
        if given.columns.nlevels > 1 or not given.columns.is_unique:
            raise LabelError(
                f"{what} must have one column of each name, in one level; those of the DataFrame "
                f"are {', '.join(map(str, given.columns[:6]))}."
            )
        return {str(n): given[n] for n in given.columns}
    raise LabelError(
        f"{what} must be a mapping of names to arrays, a table or a DataFrame, not "
        f"{type(given).__name__}."
    )


def take_ids(given: Any, columns: dict[str, Any]) -> tuple[Any, str]:
    """Take the stars' names out of the columns of a table.

    Parameters
    ----------
    given
        The table as it was given: the named index of a DataFrame, ``ID`` in the meta data, and
        `Labels` tell the names.
    columns
        What `columns_of` made of it; columns of names are removed, also a second one.

    Returns
    -------
    ids
        The names, None where there are none.
    id_name : str
        What their column is called; ``'STAR_ID'`` without.
    """
    if isinstance(given, Labels):
        return given.star_id, given.id_name
    named = index_name(given)
    column = id_column(columns, getattr(given, "meta", None))
    ids = given.index.to_numpy() if named else columns.get(column or "")
    for name in [n for n in columns if n == column or n.upper() in ID_NAMES]:
        del columns[name]
    return ids, check_id_name(named or column or DEFAULT_ID)


def matched(given: Any, star_id: Any, what: str = "labels") -> dict[str, Any]:
    """Columns of a table without the stars' names, in the order of the stars.

    Parameters
    ----------
    given
        Table of any kind; what has no names is in the order of the stars already. The index of a
        DataFrame holds names where it has a name itself, or has some of the stars.
    star_id : (n_stars,) names or None
        Names of the stars; None takes the columns as they are.
    what
        What the table is, for messages.

    Raises
    ------
    LabelError
        If the table has names and lacks some of the stars, or has one of them twice.
    """
    columns = columns_of(given, what)
    ids, _ = take_ids(given, columns)
    if star_id is None:
        return columns
    stars = names_of(star_id)
    if ids is None and hasattr(given, "index") and hasattr(given, "to_numpy"):
        loose = given.index.to_numpy()
        ids = loose if loose.dtype.kind in "OU" and np.isin(loose, stars).any() else None
    if ids is None:
        return columns
    own = names_of(ids, f"the names of {what}")
    rows = rows_of(own, stars)
    unique, counts = np.unique(own[np.isin(own, stars)], return_counts=True)
    for odd, why in ((stars[rows < 0], "lack"), (unique[counts > 1], "have more than once")):
        if odd.size:
            raise LabelError(
                f"{what} have names of stars of their own ({name_some(own)}), and {why} "
                f"{odd.size} of the {count_text(stars.size, 'star')} ({name_some(odd)}); make the "
                f"names agree, or take them out of {what} if their rows are in the order of the "
                "spectra."
            )
    return {n: _rows(c, rows, own.size, n) for n, c in columns.items()}


def _rows(column: Any, rows: NDArray[np.intp], n_rows: int, name: str) -> Any:
    """Some rows of a column of any kind; one number is that of all."""
    if np.ndim(column) == 0:
        return column
    if len(column) != n_rows:
        raise LabelError(
            f"{name} has {count_text(len(column), 'value')} for {count_text(n_rows, 'name')} of "
            "stars."
        )
    if hasattr(column, "iloc"):
        return column.iloc[rows]
    return column[rows] if hasattr(column, "dtype") else [column[row] for row in rows.tolist()]


def units_told(given: Any) -> dict[str, str] | None:
    """Units of labels that a DataFrame of `Labels.to_pandas` still has; None without.

    Parameters
    ----------
    given
        Table of any kind.
    """
    told = getattr(given, "attrs", None) if hasattr(given, "to_numpy") else None
    units = told.get("label_units") if isinstance(told, dict) else None
    if not isinstance(units, dict):
        return None
    return {str(n): str(unit) for n, unit in units.items() if n in given.columns}


def make_labels(
    star_id: NDArray[np.str_],
    values: Any,
    errors: Any | None,
    units: Mapping[str, str] | None,
    id_name: str = DEFAULT_ID,
) -> Labels:
    """Labels of all stars, NaN where unknown.

    A column ``NAME_ERR`` beside ``NAME`` holds errors. Fill values are unknown (see
    `bayes_cannon.base.columns`); errors that are not positive too, as long as others of the label
    are. Units are converted to that of the label: the one declared in `units`, else the one that
    its name tells, else that of its column.

    Parameters
    ----------
    star_id : (n_stars,) str
    values
        Columns by name, of shape (n_stars,), or a table.
    errors
        Standard deviations in the same form; None where they stand beside the values.
    units
        Units by label, where its name and its column do not tell.
    id_name
        What the column of the stars' names is called.

    Raises
    ------
    LabelError
        On names, shapes or units that cannot be, or errors of which none is positive.
    """
    columns = columns_of(values)
    if isinstance(values, Labels) and units is None:
        units = dict(zip(values.names, values.units, strict=True))
    names = tuple(n for n in columns if not _is_error(n, columns))
    beside = {n.removesuffix("_ERR"): columns[n] for n in columns if _is_error(n, columns)}
    given = columns_of(errors, "label_errors") if errors is not None else {}
    given = {n.removesuffix("_ERR") if n not in names else n: c for n, c in given.items()}
    if twice := sorted(beside.keys() & given.keys()):
        raise LabelError(
            f"errors of {', '.join(twice)} are given twice, beside the labels and as label_errors."
        )
    spreads, declared = beside | given, dict(units or {})
    odd = [name for name in names if not _NAME.fullmatch(name)]
    if odd or not names:
        raise LabelError(
            f"labels need names of letters, digits and _, like FE_H: {', '.join(odd) or 'none'}."
        )
    unknown = [name for name in (*spreads, *declared) if name not in names]
    if unknown:
        raise LabelError(f"errors or units of {', '.join(unknown)}, which is not a label.")
    check_label_names(names)
    parts = [
        _column(name, columns[name], spreads.get(name), declared.get(name), star_id)
        for name in names
    ]
    wrong = [n for n, (v, _, _) in zip(names, parts, strict=True) if v.shape != star_id.shape]
    if wrong:
        raise LabelError(f"{', '.join(wrong)} must have shape ({star_id.size},), one value a star.")
    return Labels(
        names,
        np.array([v for v, _, _ in parts]).T,
        np.array([e for _, e, _ in parts]).T,
        star_id,
        tuple(unit for _, _, unit in parts),
        id_name,
    )


def require_labels(labels: Labels, *, allowed: bool) -> None:
    """Raise if a star lacks a label, unless that is allowed.

    Parameters
    ----------
    labels
        Of all stars.
    allowed
        Whether a star may lack some.

    Raises
    ------
    LabelError
        If a star lacks one and that is not allowed.
    """
    lacking = ~labels.complete
    if not lacking.any():
        return
    counts = ", ".join(
        f"{n} of {k}"
        for n, k in zip(labels.names, np.isnan(labels.values).sum(axis=0), strict=True)
        if k
    ).replace(" of ", " in ")
    if not allowed:
        raise LabelError(
            f"{lacking.sum()} of {count_text(len(labels), 'star')} "
            f"({name_some(labels.star_id[lacking])}) lack labels; leave them out, or set "
            f"allow_missing_labels (missing or fill values: {counts})."
        )
    _log.info("labels missing in stars that are kept: %s", counts)


def _is_error(name: str, columns: Mapping[str, Any]) -> bool:
    return name.endswith("_ERR") and name.removesuffix("_ERR") in columns


def _column(
    name: str, given: Any, spread: Any, declared: str | None, star_id: NDArray[np.str_]
) -> tuple[FloatArray, FloatArray, str]:
    """Values, errors and unit of one label."""
    try:
        numbers = numbers_of(given, name)
        errors = numbers_of(np.nan if spread is None else spread, f"the error of {name}")
        wanted, unit = _unit(name, numbers, errors, declared)
        factor = spread_factor = 1.0
        if wanted is not None:
            factor = numbers.factor_to(wanted, name)
            spread_factor = errors.factor_to(wanted, f"the error of {name}")
    except InvalidDataError as error:
        raise LabelError(str(error)) from error
    if factor != 1.0 and errors.unit is None and np.isfinite(errors.values).any():
        raise LabelError(
            f"{name} is in {numbers.unit}, its errors have no unit; give them theirs, or convert "
            f"both to {unit}."
        )
    values = _one_a_star(numbers.values, star_id.size)
    kind = label_kind(name)
    fill = kind.is_fill(values)
    _log_missing(star_id, fill, f"a fill value of {name}")
    known = np.where(fill | np.isinf(values), np.nan, values * factor)
    known[kind.is_fill(known)] = np.nan
    plain = _one_a_star(errors.values, star_id.size)
    if plain.shape not in ((), star_id.shape):
        raise LabelError(f"errors of {name} have shape {plain.shape}, expected ({star_id.size},).")
    return known, _known_errors(name, plain, star_id) * spread_factor, unit


def _known_errors(name: str, given: FloatArray, star_id: NDArray[np.str_]) -> FloatArray:
    """Errors of one label; what is not positive is unknown where others are."""
    errors = np.broadcast_to(given, star_id.shape)
    lacking = ~np.isnan(errors) & ~((errors > 0) & np.isfinite(errors) & ~is_fill_value(errors))
    filled = lacking & is_fill_value(errors)
    if (lacking & ~filled).any() and not (~lacking & np.isfinite(errors)).any():
        raise LabelError(
            f"{lacking.sum()} of {count_text(lacking.size, 'star')} "
            f"({name_some(star_id[lacking])}) have {name} errors that are not positive; use NaN "
            "for what is unknown."
        )
    _log_missing(star_id, lacking, f"no positive error of {name}")
    return np.where(lacking, np.nan, errors)


def _log_missing(star_id: NDArray[np.str_], lacking: NDArray[np.bool_], what: str) -> None:
    if lacking.shape == star_id.shape and lacking.any():
        _log.warning(
            "%d of %d stars (%s) have %s; it is taken as unknown",
            lacking.sum(), star_id.size, name_some(star_id[lacking]), what,
        )  # fmt: skip


def _one_a_star(values: FloatArray, n_stars: int) -> FloatArray:
    """Columns of shape (n, 1), and single numbers for one star, are a value a star."""
    if values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    return np.atleast_1d(values) if n_stars == 1 else values


def _unit(name: str, numbers: Numbers, errors: Numbers, declared: str | None) -> tuple[Any, str]:
    """Unit of a label for astropy, None where nothing is to be converted, and as text."""
    text = declared if declared is not None else known_unit(name)
    given = numbers.unit if numbers.unit is not None else errors.unit
    if text is None:
        return given, "dex" if given is None else _dex_or(given)
    if given is None:
        return None, text
    if text in ("dex", ""):
        for unit in (numbers.unit, errors.unit):
            if unit is not None and _dex_or(unit) not in ("dex", ""):
                raise InvalidDataError(
                    f"{name} is in {unit}, which cannot be converted to {text or 'a number'}."
                )
        return None, text
    try:
        return u.Unit(text), text
    except ValueError:
        if str(given) == text:
            return given, text
        raise InvalidDataError(
            f"the unit {text!r} of {name} cannot be interpreted, and its column is in {given}."
        ) from None


def _dex_or(unit: Any) -> str:
    """Text of a unit; ``'dex'`` for dex of anything, ``''`` for plain numbers."""
    text = str(unit)
    return "dex" if text.startswith("dex") else text
