"""Units of the labels of results and tables: those of the model, never guessed from a name.

A name says the unit only where nothing else does: in tables and results that hold none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.table import Table

from bayes_cannon.errors import LabelError
from bayes_cannon.inference.arguments import as_labels
from bayes_cannon.inference.posterior import group_of, holds_moments, posterior_names
from bayes_cannon.spectra.label_kinds import known_unit, label_unit
from bayes_cannon.spectra.labels import Labels

__all__ = [
    "known_labels",
    "units_of_result",
    "units_of_table",
    "with_unit",
]


_PLAIN = {"", "dex"}


def with_unit(text: str, unit: str) -> str:
    """Text with a unit in brackets; without, where there is none.

    Parameters
    ----------
    text, unit
        What, and its unit.

    >>> with_unit("AGE", "Gyr"), with_unit("X", "")
    ('AGE (Gyr)', 'X')
    """
    return f"{text} ({unit})" if unit else text


def units_of_result(result: xr.DataTree, names: Sequence[str]) -> dict[str, str]:
    """Unit of each label of a result; '' for a number without.

    Parameters
    ----------
    result
        What inference returned.
    names
        Labels.
    """
    posterior = group_of(result, "posterior")
    if holds_moments(posterior):
        noted = np.atleast_1d(posterior.attrs["label_units"]).tolist()
        known = dict(zip(posterior_names(result), map(str, noted), strict=True))
        return {n: known.get(n, label_unit(n)) for n in names}
    return {n: str(posterior[n].attrs.get("units", label_unit(n))) for n in names}


def units_of_table(table: Table, names: Sequence[str]) -> dict[str, str]:
    """Unit of each label of a catalogue's table; '' for a number without.

    Parameters
    ----------
    table
        A catalogue.
    names
        Labels.
    """
    labels = str(table.meta.get("LABELS", "")).split(",")
    units = str(table.meta["UNITS"]).split(",") if "UNITS" in table.meta else []
    noted = dict(zip(labels, units, strict=True)) if len(labels) == len(units) else {}
    return {n: noted[n] if n in noted else _of_column(table, n) for n in names}


def _of_column(table: Table, name: str) -> str:
    unit = table[name].unit
    return label_unit(name) if unit is None else str(unit)


def known_labels(given: Any, units: Mapping[str, str], what: str = "aspcap") -> Labels | None:
    """Labels that a user gives for comparison, in the units of what they are compared with.

    Parameters
    ----------
    given
        See `bayes_cannon.inference.arguments.as_labels`.
    units
        Unit by label.
    what
        Name of the argument.

    Raises
    ------
    InvalidDataError
        If they are no labels.
    LabelError
        If the units of a label cannot be converted.
    """
    labels = as_labels(given, what)
    if labels is None:
        return None
    factors = np.array(
        [
            _factor(name, own, units[name], what) if name in units else 1.0
            for name, own in zip(labels.names, labels.units, strict=True)
        ]
    )
    if np.all(factors == 1):
        return labels
    own = tuple(units.get(n, unit) for n, unit in zip(labels.names, labels.units, strict=True))
    return Labels(
        labels.names, labels.values * factors, labels.errors * factors, labels.star_id, own
    )


def _factor(name: str, theirs: str, ours: str, what: str) -> float:
    """Factor from one unit to the other; 1 where a label of an unknown kind has none of its own."""
    unsaid = known_unit(name) is None and theirs == label_unit(name)
    if theirs == ours or unsaid or {theirs, ours} <= _PLAIN:
        return 1.0
    try:
        return float(u.Unit(theirs).to(u.Unit(ours)))
    except (ValueError, TypeError, u.UnitConversionError) as error:
        raise LabelError(
            f"{name} is in {ours or 'no unit'} here and in {theirs or 'no unit'} in {what}; "
            "convert it."
        ) from error
