"""Where gradient spectra have their extrema, beside the known lines of the label.

The flux of a pixel changes with an abundance where the element has a line: the extrema of the
gradient lie at its lines, to a pixel or two. In a saturated line the core no longer changes and
the extremum moves into a wing, by up to 0.5 Å.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray
from scipy.signal import find_peaks

from bayes_cannon.analysis.lines import lines_of
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenModel, as_model
from bayes_cannon.spectra.air import in_medium

__all__ = [
    "LineGroup",
    "gradient_extrema",
    "line_groups",
]

_MOST_LINES = 9
"""Lines on one page."""
_CHOSEN = MappingProxyType(
    {
        "Mg I": ("Mg I triplet", (15745.017, 15753.291, 15770.147)),
        "Si I": ("Si I, least blended", (15964.424, 16064.397, 16099.184, 16685.327)),
    }
)
"""Lines of a species that get a page of their own, the first."""
_REACH = 0.5
"""Share of the strongest extremum that one must reach to count."""


@dataclass(frozen=True)
class LineGroup:
    """Lines shown together.

    Attributes
    ----------
    title : str
        Name of the group, for figures.
    label : str
        Label whose gradient they are to explain.
    names : tuple of str
        Names of the lines.
    vacuum : tuple of float
        Their vacuum wavelengths, Å, rising.

    Raises
    ------
    InvalidDataError
        Without lines, or with another number of names.
    """

    title: str
    label: str
    names: tuple[str, ...]
    vacuum: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.vacuum or len(self.names) != len(self.vacuum):
            raise InvalidDataError(
                "a group of lines needs a name for each wavelength, got "
                f"{count_text(len(self.names), 'name')} and "
                f"{count_text(len(self.vacuum), 'wavelength')}."
            )

    def places(self, medium: str) -> FloatArray:
        """Wavelengths of the lines (Å) in ``'vacuum'`` or ``'air'``, shape (n_lines,).

        Parameters
        ----------
        medium
            ``'vacuum'`` or ``'air'``.
        """
        return in_medium(self.vacuum, medium)


def line_groups(label: str, *, medium: str = "vacuum") -> tuple[LineGroup, ...]:
    """Return the known lines of a label in pages of at most nine, a species after the other.

    Magnesium begins with its triplet at 15745, 15753 and 15770 Å, silicon with the four lines
    that other elements disturb least.

    Parameters
    ----------
    label
        Name of a label of the catalogue, see `bayes_cannon.analysis.lines.lines_of`.
    medium
        Whether names and titles give wavelengths in ``'vacuum'`` or ``'air'``.

    Returns
    -------
    tuple of LineGroup
        Empty for a label without known lines.

    Raises
    ------
    LabelError
        If the name is not that of a label.
    """
    table = lines_of(label, medium=medium)
    groups: list[LineGroup] = []
    for species in dict.fromkeys(table["species"].tolist()):
        rows = table[table["species"] == species]
        title, chosen = _CHOSEN.get(species, (species, ()))
        first = np.isin(rows["vacuum"], chosen)
        pages = [(title, rows[first])] if first.any() else []
        rest = rows[~first]
        n_pages = -(-len(rest) // _MOST_LINES)
        for page in np.array_split(np.arange(len(rest)), n_pages) if n_pages else ():
            low, high = (float(rest[medium][page[i]]) for i in (0, -1))
            pages.append((f"{species}, {low:.0f}–{high:.0f} Å", rest[page]))
        groups += [_group(title, label, part) for title, part in pages]
    return tuple(groups)


def _group(title: str, label: str, rows: Table) -> LineGroup:
    names = tuple(str(name) for name in rows["name"])
    return LineGroup(title, label.upper(), names, tuple(float(w) for w in rows["vacuum"]))


def gradient_extrema(
    cannon: GivenModel,
    label: str,
    vacuum: ArrayLike,
    *,
    at: ArrayLike | None = None,
    search: float = 1.5,
) -> Table:
    """Find the extremum of a gradient spectrum that belongs to each of some lines.

    That is the one nearest to the line among the local extrema within `search` that are at least
    half as strong as the strongest of them: of the two wings of a saturated line the nearer.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    label
        Label with respect to which the gradient is taken.
    vacuum : (n_lines,) float
        Vacuum wavelengths of the lines, Å, also for a model whose wavelengths are in air.
    at : (n_labels,) float
        Labels at which it is taken; the training mean where left out.
    search
        Largest distance looked at, Å.

    Returns
    -------
    astropy.table.Table
        A row for each line: ``vacuum``; ``extremum``, by a parabola through three pixels, and
        ``offset`` from the line (Å), both in the medium of the model; ``value`` and ``sd`` of the
        gradient in that pixel, per unit of the label. NaN where the model has no extremum near the
        line, in a gap say.

    Raises
    ------
    LabelError
        If the model has no such label.
    InvalidDataError
        On wavelengths that are not finite, or a search that is not positive.
    """
    cannon = as_model(cannon)
    lines = np.atleast_1d(np.asarray(vacuum, dtype=np.float64))
    if lines.ndim != 1 or not np.isfinite(lines).all():
        raise InvalidDataError("wavelengths must be a one-dimensional array of finite numbers.")
    if not search > 0:
        raise InvalidDataError(f"search must be positive, got {search:g} Å.")
    k = cannon.training.column(label)
    gradient = cannon.gradient(cannon.label_mean if at is None else at)
    value = np.where(cannon.used, gradient.value[k], np.nan)
    extrema = _local_extrema(cannon.wavelength, value)
    rows = []
    for given, line in zip(lines, in_medium(lines, cannon.medium), strict=True):
        pixel = _belonging(cannon.wavelength[extrema], value[extrema], line, search)
        if pixel is None:
            rows.append((given, *(np.nan,) * 4))
            continue
        i = int(extrema[pixel])
        place = _vertex(cannon.wavelength[i - 1 : i + 2], value[i - 1 : i + 2])
        rows.append((given, place, place - line, value[i], gradient.sd[k, i]))
    columns = ("vacuum", "extremum", "offset", "value", "sd")
    table = Table(rows=rows, names=columns, dtype=(float,) * 5)
    for column in columns[:3]:
        table[column].unit = "Angstrom"
    return table


def _local_extrema(wavelength: FloatArray, value: FloatArray) -> NDArray[np.intp]:
    """Pixels whose two neighbours, both there and adjacent, are weaker in the same sense."""
    strength = np.abs(value)
    peaks = find_peaks(np.where(np.isnan(strength), -np.inf, strength))[0]
    signs, step = np.sign(value), np.diff(wavelength)
    alike = (signs[peaks - 1] == signs[peaks]) & (signs[peaks] == signs[peaks + 1])  # not NaN
    close = np.maximum(step[peaks - 1], step[peaks]) < 3 * np.median(step)
    return np.asarray(peaks[alike & close], dtype=np.intp)


def _belonging(places: FloatArray, values: FloatArray, line: float, search: float) -> int | None:
    """Which of the extrema belongs to a line."""
    near = np.flatnonzero(np.abs(places - line) <= search)
    if near.size == 0:
        return None
    strength = np.abs(values[near])
    near = near[strength >= _REACH * strength.max()]
    return int(near[np.argmin(np.abs(places[near] - line))])


def _vertex(wavelength: FloatArray, value: Sequence[float] | FloatArray) -> float:
    """Wavelength of the vertex of the parabola through three pixels."""
    low, middle, high = value
    bend = low - 2 * middle + high
    shift = 0.5 * (low - high) / bend if bend else 0.0
    return float(wavelength[1] + shift * 0.5 * (wavelength[2] - wavelength[0]))
