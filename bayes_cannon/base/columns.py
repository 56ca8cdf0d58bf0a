"""Columns and arrays of every kind that users have, as plain numbers with their mask and unit.

Fill values: the numbers that catalogues write where they have no value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import BuiltinMethodType, MethodType
from typing import Any

import numpy as np
from astropy import units as u
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "Numbers",
    "as_masked",
    "as_seed",
    "is_fill_value",
    "known_values",
    "names_of",
    "numbers_of",
    "one_or_more",
    "plain_numbers",
    "unit_of",
    "whole_number",
]


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers as a user gave them.

    Attributes
    ----------
    values : (...) float64
        NaN where masked.
    mask : (...) bool
        True where the user's mask, None or NA says that there is no value.
    unit : astropy unit or None
        None where no unit was given.
    """

    values: FloatArray
    mask: NDArray[np.bool_]
    unit: Any = None

    def factor_to(self, wanted: Any, what: str) -> float:
        """What to multiply by to have the values in another unit; 1 where no unit was given.

        Parameters
        ----------
        wanted
            Astropy unit, or its text.
        what
            What the numbers are, for messages.

        Raises
        ------
        InvalidDataError
            If the unit cannot be converted.
        """
        if self.unit is None:
            return 1.0
        try:
            return float(self.unit.to(wanted))
        except (u.UnitsError, TypeError, ValueError) as error:
            raise InvalidDataError(
                f"{what} is in {_text(self.unit)}, which cannot be converted to {_text(wanted)}."
            ) from error


def numbers_of(given: Any, what: str) -> Numbers:
    """Numbers of an array, masked array, Quantity, table column, pandas object or list.

    Parameters
    ----------
    given
        Of any shape; of a list of Quantities the first tells the unit.
    what
        Its name, for messages.

    Raises
    ------
    InvalidDataError
        If it does not hold real numbers, or its unit cannot be interpreted.
    """
    if _holds_quantities(given):
        given = _joined(given, what)
    unit = unit_of(given, what)
    try:
        masked = as_masked(given)
    except (TypeError, ValueError) as error:
        raise InvalidDataError(
            f"{what} must hold numbers; {type(given).__name__} does not: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}."
        ) from error
    mask = np.array(np.ma.getmaskarray(masked), dtype=np.bool_)
    return Numbers(np.where(mask, np.nan, np.ma.getdata(masked)), mask, unit)


def unit_of(given: Any, what: str) -> Any:
    """Unit of a Quantity, a table column, or an array with ``attrs["units"]``; None without.

    Parameters
    ----------
    given
        Anything that may have a unit.
    what
        Its name, for messages.

    Returns
    -------
    astropy unit or None

    Raises
    ------
    InvalidDataError
        If it cannot be interpreted.
    """
    unit = None if hasattr(given, "columns") else _attribute(given, ("unit", "units"))
    attributes = getattr(given, "attrs", None)
    if unit is None and isinstance(attributes, dict):
        unit = attributes.get("units", attributes.get("unit"))
    if isinstance(unit, u.UnitBase | u.FunctionUnitBase) and not isinstance(
        unit, u.UnrecognizedUnit
    ):
        return unit
    if unit is None or not str(unit).strip():
        return None
    try:
        return u.Unit(str(unit))
    except ValueError as error:
        raise InvalidDataError(
            f"the unit {str(unit)!r} of {what} cannot be interpreted; give it a unit that "
            "astropy knows, such as nm, Angstrom, K, or none."
        ) from error


def _attribute(given: Any, names: Sequence[str]) -> Any:
    """The first attribute that is there and no method; None without."""
    for name in names:
        found = getattr(given, name, None)
        if found is not None and not isinstance(found, MethodType | BuiltinMethodType):
            return found
    return None


def as_masked(given: Any) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
    """Return float64 numbers with their mask; units are left aside.

    Parameters
    ----------
    given : (...) numbers
        Of any kind: array, Quantity, column, pandas object, list.

    Returns
    -------
    (...) masked array of float64

    Raises
    ------
    TypeError, ValueError
        If these are not real numbers.
    """
    if hasattr(given, "unmasked") and hasattr(given, "mask"):  # astropy's Masked
        plain, mask = given.unmasked, np.asarray(given.mask, dtype=np.bool_)
        return np.ma.array(as_masked(plain).data, mask=mask)
    if isinstance(given, u.Quantity):
        given = given.value
    elif hasattr(given, "magnitude") and hasattr(given, "units"):
        given = given.magnitude
    if hasattr(given, "to_numpy") and not isinstance(given, np.ndarray):
        lacking = np.asarray(given.isna()) if hasattr(given, "isna") else False
        plain = as_masked(given.to_numpy())
        return np.ma.array(plain.data, mask=np.ma.getmaskarray(plain) | lacking)
    if isinstance(given, list | tuple) and any(isinstance(v, np.ma.MaskedArray) for v in given):
        given = np.ma.stack([as_masked(v) for v in given])
    array = np.ma.asarray(given)
    if array.dtype.kind in "OUS":
        return _each(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"values of kind {array.dtype}")
    return np.ma.asarray(array.astype(np.float64))


def names_of(given: Any, what: str = "star_id") -> NDArray[np.str_]:
    """Names as an array of text, shape (n,): of text, bytes, whole numbers or objects.

    Parameters
    ----------
    given : (n,) names
        Of any kind: array, column, pandas object, list; one name is a list of one.
    what
        What they are, for messages.

    Returns
    -------
    (n,) str

    Raises
    ------
    InvalidDataError
        If one is masked or missing, or these are not names.
    """
    if type(given) is np.ndarray and given.dtype.kind == "U" and given.ndim == 1:
        return given
    if hasattr(given, "unmasked") and hasattr(given, "mask"):
        given = np.ma.array(given.unmasked, mask=given.mask)
    if hasattr(given, "to_numpy") and not isinstance(given, np.ndarray):
        given = given.to_numpy()
    if isinstance(given, set | frozenset | dict):
        raise InvalidDataError(f"{what} must be a list of names in the order of the stars.")
    if not isinstance(given, str | bytes | np.ndarray) and isinstance(given, Iterable):
        given = list(given)
    array = np.atleast_1d(np.ma.asarray(given))
    if array.ndim != 1:
        raise InvalidDataError(f"{what} must have shape (n_stars,), not {array.shape}.")
    missing = np.ma.getmaskarray(array).copy()
    if array.dtype.kind in "Of":
        missing |= np.array([_is_missing(v) for v in array.data], dtype=np.bool_)
    if missing.any():
        raise InvalidDataError(
            f"{missing.sum()} of {count_text(array.size, 'value')} of {what} are masked or missing "
            f"(the first in row {int(np.argmax(missing))}); give every star a name, or leave these "
            "rows out."
        )
    return np.array([_name(v) for v in array.data.tolist()], dtype=np.str_)


def one_or_more(names: Any, *, ids: bool = False) -> tuple[str, ...]:
    """Return names as a tuple; one may be given as plain text.

    Parameters
    ----------
    names
        Text, or a list, array or column of text.
    ids
        Whether these are names of stars: a single whole number is one, too.

    Raises
    ------
    InvalidDataError
        If they are not names.

    Examples
    --------
    >>> one_or_more("TEFF"), one_or_more(["TEFF", b"LOGG"]), one_or_more(17, ids=True)
    (('TEFF',), ('TEFF', 'LOGG'), ('17',))
    """
    if isinstance(names, str | bytes) or (ids and isinstance(names, int | np.integer)):
        return (_name(names),)
    bare = isinstance(names, np.ndarray) and names.ndim == 0
    if bare or not isinstance(names, Iterable):
        raise InvalidDataError(f"names must be text or a list of text, not {names!r}.")
    return tuple(_name(name) for name in names)


def plain_numbers(column: Any) -> FloatArray:
    """Numbers of a column, NaN where it is masked, as what a file read back is where it was NaN.

    Parameters
    ----------
    column : (...) array, column or value of a table
        Of numbers; units are left aside.

    Returns
    -------
    (...) float64

    Examples
    --------
    >>> plain_numbers(np.ma.array([1, 2], mask=[False, True]))
    array([ 1., nan])
    """
    return np.asarray(np.ma.filled(np.ma.asarray(column, dtype=np.float64), np.nan))


def whole_number(given: object, what: str, *, least: int | None = None) -> int:
    """Return a whole number as int; 2.0 is one, and so are NumPy's.

    Parameters
    ----------
    given
        What a user gave.
    what
        Its name, for messages.
    least
        Smallest that is allowed; any where left out.

    Raises
    ------
    InvalidDataError
        If it is none, or less than `least`.
    """
    kinds = int | float | np.integer | np.floating
    if not isinstance(given, kinds) or isinstance(given, bool) or given != given // 1:
        raise InvalidDataError(f"{what} must be a whole number, not {given!r}.")
    if least is not None and given < least:
        raise InvalidDataError(f"{what} must be at least {least}, not {given!r}.")
    return int(given)


def as_seed(given: Any) -> int:
    """Return a seed: a whole number from 0, or a fresh one for None, to be kept with the result.

    Parameters
    ----------
    given
        A whole number from 0; a `numpy.random.Generator`, from which one is drawn; or None.

    Raises
    ------
    InvalidDataError
        If it is anything else.

    >>> as_seed(7), as_seed(None) == as_seed(None)
    (7, False)
    """
    if given is None:
        return int(np.random.SeedSequence().generate_state(2, np.uint32)[0])
    if isinstance(given, np.random.Generator):
        return int(given.integers(2**32))
    kinds = int | float | np.integer | np.floating
    if not isinstance(given, kinds) or isinstance(given, bool) or given != given // 1 or given < 0:
        raise InvalidDataError(f"seed must be a whole number from 0, or None, not {given!r}.")
    return int(given)


def _name(value: Any) -> str:
    return value.decode("utf-8", "replace").rstrip() if isinstance(value, bytes) else str(value)


def _text(unit: Any) -> str:
    return str(unit) or "no unit (a plain number)"


def _is_missing(value: Any) -> bool:
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _each(array: np.ma.MaskedArray[Any, Any]) -> np.ma.MaskedArray[Any, np.dtype[np.float64]]:
    """Objects or text one by one; None and NA are masked."""
    mask = np.ma.getmaskarray(array).ravel().copy()
    values = np.full(mask.size, np.nan)
    for i, value in enumerate(np.ma.getdata(array).ravel()):
        if mask[i]:
            continue
        if _is_missing(value):
            mask[i] = not isinstance(value, float)
        elif isinstance(value, np.ndarray | u.Quantity) and np.ndim(value):
            raise ValueError("its rows have different lengths")
        else:
            values[i] = float(value)
    return np.ma.array(values.reshape(array.shape), mask=mask.reshape(array.shape))


def _holds_quantities(given: Any) -> bool:
    if isinstance(given, list | tuple):
        return any(isinstance(v, u.Quantity) for v in given)
    return (
        isinstance(given, np.ndarray)
        and given.dtype.kind == "O"
        and any(isinstance(v, u.Quantity) for v in given.ravel())
    )


def _joined(given: Any, what: str) -> Any:
    """A list of Quantities as one Quantity."""
    try:
        return u.Quantity(list(given))
    except (TypeError, ValueError) as error:
        raise InvalidDataError(
            f"{what} mixes units, or numbers with and without: {str(error).splitlines()[0]}."
        ) from error


_ROUNDING = 1e-7  # of float32
_NINES = {
    10.0**whole - 10.0**-places: whole + places
    for whole in range(1, 7)
    for places in range(7 - whole)
}
"""Numbers of at most six nines and no other digit, 9 to 999999, and how many nines they have."""
_IMPOSSIBLE = 99.0  # dex


def known_values(values: ArrayLike, *, positive: bool = False) -> FloatArray:
    """Numbers of the archive's catalogues with NaN for what is missing.

    Missing are values that are not finite or at most -999 (-9999, -9999.99, -999.99); with
    `positive`, as for errors, also those that are not positive.

    Parameters
    ----------
    values : (...) float
    positive
        Whether what is not positive is missing.

    Returns
    -------
    (...) float64
    """
    numbers = np.asarray(values, dtype=np.float64)
    known = np.isfinite(numbers) & (numbers > (0.0 if positive else -999.0))
    return np.where(known, numbers, np.nan)


def is_fill_value(
    values: ArrayLike, *, dex: bool = False, positive: bool = False
) -> NDArray[np.bool_]:
    """Which values are fill values; NaN is none.

    Always: -9.99, -99.9, -999, -9999.99 and the like, minus and three nines or more; and with plus
    those of four nines or more (9999, 99.99). Which holds for a label is a matter of its kind, see
    `bayes_cannon.spectra.label_kinds.LabelKind.is_fill`.

    Parameters
    ----------
    values : (...) float
    dex
        Whether these are logarithms: also 9.99 and everything from 99 on, with either sign.
    positive
        Whether what is not positive is a fill value, as of temperatures.

    Returns
    -------
    (...) bool
    """
    numbers = np.asarray(values, dtype=np.float64)
    found = np.zeros(numbers.shape, dtype=np.bool_)
    for size, nines in _NINES.items():
        if nines >= 3:
            found |= np.abs(numbers + size) <= _ROUNDING * size
        if nines >= (3 if dex else 4):
            found |= np.abs(numbers - size) <= _ROUNDING * size
    if dex:
        found |= (numbers <= -_IMPOSSIBLE) | (numbers >= _IMPOSSIBLE)
    if positive:
        found |= numbers <= 0
    return found & np.isfinite(numbers)
