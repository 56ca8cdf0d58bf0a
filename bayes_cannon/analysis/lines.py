"""Known lines of cool stars in the APOGEE range, in vacuum and in air.

APOGEE spectra are on a vacuum scale, line lists mostly in air: the two differ by 4.1 to 4.6 Å,
twenty pixels. Everything here that takes or returns a wavelength means **vacuum** unless its name
says air.

The list comes with the package (``data/lines.ecsv``; its header names the sources): 85 atomic
lines, the Brackett series from n = 11 to 21, OH lines, the band heads of CO (Δv = 3), CN and ¹³CO.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy.signal import find_peaks

from bayes_cannon.base.resources import data_path
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.spectra.air import in_medium

__all__ = [
    "LINE_KINDS",
    "explain_peaks",
    "known_lines",
    "lines_in",
    "lines_of",
    "load_lines",
    "nearest_lines",
]


LINE_KINDS = ("atomic", "brackett", "oh", "co_head", "cn", "13co")
"""Kinds of lines in the list."""

_OF_LABEL = {"TEFF": ("H I", "OH", "CO"), "LOGG": ("H I", "CO"), "C12_C13": ("13CO",)}
_OF_ELEMENT = {
    "C": ("C I", "CO", "CN"),
    "CI": ("C I",),
    "N": ("CN",),
    "O": ("OH", "CO"),
    "ALPHA": ("Mg I", "Si I", "S I", "Ca I", "Ti I", "OH"),
}
_ELEMENTS = ("Na", "Mg", "Al", "Si", "P", "S", "K", "Ca", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni",
             "Cu", "Ge", "Rb", "Ce", "Nd", "Yb")  # fmt: skip
_WITHOUT_LINES = ("VMICRO", "VMACRO", "VSINI", "TIII_FE", "RESOLUTION")


def load_lines(kinds: str | Iterable[str] | None = None) -> Table:
    """Read the line list.

    Parameters
    ----------
    kinds
        One or more of `LINE_KINDS`; left out, all.

    Returns
    -------
    astropy.table.Table
        One row a line, by increasing vacuum wavelength: ``name`` (for figures, e.g.
        ``Mg I 15745.0``, ``Br 13``, ``CO 6–3``), ``species``, ``transition``, ``vacuum``, ``air``
        and ``precision`` (Å), ``source`` (explained in ``meta["sources"]``), ``kind``, ``upper``
        (upper level of Brackett lines and CO bands, else 0). A copy that may be changed.

    Raises
    ------
    InvalidDataError
        On an unknown kind.
    """
    table = _all_lines()
    if kinds is None:
        return table.copy()
    wanted = {kinds} if isinstance(kinds, str) else set(kinds)
    unknown = wanted - set(LINE_KINDS)
    if unknown:
        raise InvalidDataError(
            f"unknown kinds of lines {', '.join(sorted(unknown))}; "
            f"there are {', '.join(LINE_KINDS)}."
        )
    return table[np.isin(table["kind"], list(wanted))]


@cache
def _all_lines() -> Table:
    table = Table.read(data_path("lines.ecsv"), format="ascii.ecsv", fill_values=None)
    names = [_name(*row) for row in table["species", "transition", "vacuum", "kind"].iterrows()]
    table.add_column(np.array(names), name="name", index=0)
    return table


def _name(species: str, transition: str, wavelength: float, kind: str) -> str:
    if kind == "brackett":
        return f"Br {transition.partition('-')[0]}"
    if kind == "co_head":
        return f"CO {transition.replace('-', '–')}"
    if kind == "13co":
        return f"¹³CO {wavelength:.1f}"
    return f"{species} {wavelength:.1f}"


def lines_of(label: str, *, medium: str = "vacuum") -> Table:
    """Return the lines that a label of the catalogue acts on most directly.

    An abundance (``MG_FE``, ``FE_H``, ``SI_M``) gives the atomic lines of its element; ``C_FE``
    also CO and CN, ``N_FE`` CN, ``O_FE`` OH and CO. ``M_H`` gives all atomic lines, ``ALPHA_M``
    those of Mg, Si, S, Ca, Ti and OH. ``TEFF`` gives what depends on it most steeply (Brackett
    lines grow, OH and CO fade with it), ``LOGG`` the Brackett lines (pressure broadening) and CO.
    Every line depends on the other labels too: this is a guide to the eye, not a selection.

    Parameters
    ----------
    label
        Name of a catalogue column, in any case.
    medium
        Whether the lines' names give wavelengths in ``'vacuum'`` or ``'air'``.

    Returns
    -------
    astropy.table.Table
        Rows of `load_lines`; none if the list has no line of that element, or if the label has
        no lines of its own (``VMICRO``).

    Raises
    ------
    LabelError
        If the name is not that of a label.
    """
    name = label.upper()
    top, _, bottom = name.partition("_")
    table = _named(load_lines(), medium)
    if name == "M_H":
        return table[table["kind"] == "atomic"]
    if name in _WITHOUT_LINES:
        return table[:0]
    species = _OF_LABEL.get(name, ())
    if bottom in ("FE", "H", "M"):
        atom = (f"{top.capitalize()} I",) if top.capitalize() in _ELEMENTS else ()
        species = _OF_ELEMENT.get(top, atom)
    if species:
        return table[np.isin(table["species"], species)]
    known = [*_OF_LABEL, "M_H", "ALPHA_M", "FE_H", *_WITHOUT_LINES]
    known += [f"{element.upper()}_FE" for element in ("C", "N", "O", *_ELEMENTS)]
    close = get_close_matches(name, known, n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "use a catalogue name such as MG_FE."
    raise LabelError(f"{label!r} is not a label with lines; {hint}")


def known_lines(label: str, *, medium: str = "vacuum") -> Table:
    """Lines of a label as `lines_of` has them; none for a label of another kind.

    Parameters
    ----------
    label
        Any name, such as that of an extinction or an age.
    medium
        As of `lines_of`.
    """
    try:
        return lines_of(label, medium=medium)
    except LabelError:
        return _named(load_lines(), medium)[:0]


def lines_in(
    low: float, high: float, *, kinds: str | Iterable[str] | None = None, medium: str = "vacuum"
) -> Table:
    """Return the lines with wavelengths in [low, high] Å: rows of `load_lines`.

    With `medium` ``'air'`` the range, and what counts of the lines, are in air.

    Parameters
    ----------
    low, high
        Ends of the range, Å.
    kinds
        One or more of `LINE_KINDS`; left out, all.
    medium
        ``'vacuum'`` or ``'air'``.

    Raises
    ------
    InvalidDataError
        If `low` is not below `high`, or on an unknown kind or medium.
    """
    if not low < high:
        raise InvalidDataError(f"the range must run upwards, got {low:g} to {high:g} Å.")
    table = _named(load_lines(kinds), medium)
    place = _column_of(medium)
    return table[(table[place] >= low) & (table[place] <= high)]


def _named(table: Table, medium: str) -> Table:
    """Lines with names that give their wavelengths in a medium."""
    columns = ("species", "transition", _column_of(medium), "kind")
    if medium != "vacuum":
        table["name"] = np.array([_name(*row) for row in table[columns].iterrows()], dtype=np.str_)
    return table


def _column_of(medium: str) -> str:
    """Column of the list with wavelengths in a medium."""
    in_medium(5000.0, medium)
    return medium


def nearest_lines(
    wavelength: ArrayLike,
    tolerance: float = 0.6,
    *,
    kinds: str | Iterable[str] | None = None,
    medium: str = "vacuum",
) -> Table:
    """Name the line nearest to each of many wavelengths.

    A line counts if it is within `tolerance` plus the precision to which its own wavelength is
    known (0.001 Å for atoms, 0.5 Å for most band heads and CN).

    Parameters
    ----------
    wavelength : (n,) float
        Wavelengths, Å, in any order.
    tolerance
        Largest distance, Å.
    kinds
        Kinds to choose among; left out, all.
    medium
        What the wavelengths are in: ``'vacuum'`` or ``'air'``.

    Returns
    -------
    astropy.table.Table
        n rows in the order given: ``wavelength``, ``name``, ``species``, ``kind`` (empty strings
        where no line is near), ``vacuum`` and ``offset``, the wavelength less that of the line in
        the same medium (Å; NaN there).

    Raises
    ------
    InvalidDataError
        On wavelengths that are not finite, or a tolerance that is not positive.
    """
    values = np.atleast_1d(np.asarray(wavelength, dtype=np.float64))
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InvalidDataError("wavelengths must be a one-dimensional array of finite numbers.")
    if not tolerance > 0:
        raise InvalidDataError(f"tolerance must be positive, got {tolerance:g} Å.")
    lines = _named(load_lines(kinds), medium)
    vacuum = np.asarray(lines["vacuum"])
    reach = tolerance + np.asarray(lines["precision"])
    places = np.asarray(lines[_column_of(medium)])
    distance = np.abs(values[:, None] - places)
    distance[distance > reach] = np.inf
    best = distance.argmin(axis=1)
    found = np.isfinite(distance[np.arange(values.size), best])
    result = Table({"wavelength": values})
    for column in ("name", "species", "kind"):
        result[column] = np.where(found, np.asarray(lines[column])[best], "")
    result["vacuum"] = np.where(found, vacuum[best], np.nan)
    result["offset"] = result["wavelength"] - np.where(found, places[best], np.nan)
    for column in ("wavelength", "vacuum", "offset"):
        result[column].unit = "Angstrom"
    return result


def explain_peaks(
    wavelength: ArrayLike,
    values: ArrayLike,
    n: int = 10,
    *,
    tolerance: float = 0.6,
    separation: float = 2.0,
    kinds: str | Iterable[str] | None = None,
    medium: str = "vacuum",
) -> Table:
    """Find the strongest peaks of a quantity over wavelength and name the lines nearest to them.

    For the intrinsic scatter, loadings or gradients: peaks are local maxima of the absolute value.
    A peak without a name is as much worth a look as one with it.

    Parameters
    ----------
    wavelength : (n_pixels,) float
        Å, increasing.
    values : (n_pixels,) float
        NaN where unknown.
    n
        Largest number of peaks.
    tolerance, kinds, medium
        As in `nearest_lines`.
    separation
        Smallest distance (Å) between two peaks; the weaker of a closer pair is left out.

    Returns
    -------
    astropy.table.Table
        Columns of `nearest_lines` and ``pixel`` and ``value``, the strongest first.

    Raises
    ------
    InvalidDataError
        On shapes that do not match, wavelengths that do not increase, or n below 1.
    """
    grid = np.asarray(wavelength, dtype=np.float64)
    array = np.asarray(values, dtype=np.float64)
    if grid.ndim != 1 or array.shape != grid.shape:
        raise InvalidDataError(
            f"wavelength {grid.shape} and values {array.shape} must be one-dimensional arrays of "
            "the same length."
        )
    if not (np.diff(grid) > 0).all():
        raise InvalidDataError("wavelength must be strictly increasing.")
    if n < 1:
        raise InvalidDataError(f"n must be at least 1, got {n}.")
    pixels = _strongest_peaks(grid, np.abs(array), n, separation)
    result = nearest_lines(grid[pixels], tolerance, kinds=kinds, medium=medium)
    result.add_column(pixels, name="pixel", index=0)
    result.add_column(array[pixels], name="value", index=2)
    return result


def _strongest_peaks(
    grid: FloatArray, strength: FloatArray, n: int, separation: float
) -> NDArray[np.intp]:
    """Pixels of the n strongest local maxima, at least `separation` (Å) apart."""
    known = np.where(np.isnan(strength), -np.inf, strength)
    maxima = find_peaks(np.concatenate([[-np.inf], known, [-np.inf]]))[0] - 1
    maxima = maxima[known[maxima] > 0]
    chosen: list[int] = []
    for pixel in maxima[np.argsort(-strength[maxima], kind="stable")]:
        if all(abs(grid[pixel] - grid[other]) >= separation for other in chosen):
            chosen.append(int(pixel))
            if len(chosen) == n:
                break
    return np.array(chosen, dtype=np.intp)
