"""What sections of a report are made of: drawings of stars and of the whole, and which stars."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.runs.corners import corner_files
from bayes_cannon.runs.report.inputs import ReportInputs, column
from bayes_cannon.runs.report.page import Explorer, Facts, Grid, Heading, Listing, Note, Text

__all__ = [
    "Chosen",
    "Drawing",
    "Item",
    "Section",
    "chosen_stars",
    "distance_from_catalogue",
    "file_names",
    "furthest_label",
]

_MOST_DRAWN = 8
"""Corner plots that were asked for one by one, which a report shows; many are of all stars."""


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure to come, drawn when it is its turn.

    Attributes
    ----------
    name : str
        Of its file in ``figures/``, without the ending.
    draw : callable
        Makes the figure, or the axes of one.
    alt : str
        What it is of, for those who do not see it.
    caption : str
    kept : bool
        Whether a file of that name that is there already is of this figure, and is taken.
    """

    name: str
    draw: Callable[[], Figure | Axes]
    alt: str
    caption: str = ""
    kept: bool = False


Item = Text | Heading | Note | Listing | Facts | Grid | Explorer | Drawing


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes
    ----------
    key : str
        Its address in the page: letters, digits and hyphens.
    title : str
    see : str
        What to see in it.
    make : callable
        Yields what it shows. What it raises, or a drawing of its does, ends the section with a
        line that says so.
    needs : tuple of str
        Attributes of `ReportInputs` without which it only says what is missing.
    optional : bool
        Whether it is left out where something is missing.
    order : float
        Its place in the page.
    """

    key: str
    title: str
    see: str
    make: Callable[[ReportInputs], Iterable[Item]]
    needs: tuple[str, ...] = ()
    optional: bool = False
    order: float = 0.0


@dataclass(frozen=True)
class Chosen:
    """A star that is shown by itself, and why."""

    star: str
    why: str


def distance_from_catalogue(inputs: ReportInputs) -> FloatArray:
    """Largest difference from the catalogue of any label, in joint errors; NaN for unknown.

    Parameters
    ----------
    inputs
        The run.

    Returns
    -------
    (n_stars,) float64
    """
    pull = np.abs(_pulls(inputs))
    known = np.isfinite(pull).any(axis=1)
    return np.where(known, np.nanmax(np.where(known[:, None], pull, 0.0), axis=1), np.nan)


def _pulls(inputs: ReportInputs) -> FloatArray:
    """Our labels less the catalogue's over the joint error, shape (n_stars, n_labels)."""
    aspcap = inputs.aspcap
    if aspcap is None:
        return np.full((len(inputs.table), len(inputs.names)), np.nan)
    error = np.hypot(inputs.errors, np.nan_to_num(aspcap.errors))
    return np.asarray((inputs.values() - aspcap.values) / error)


def furthest_label(inputs: ReportInputs, row: int) -> tuple[str, float]:
    """Label in which a star differs most from the catalogue, and by how many joint errors.

    Parameters
    ----------
    inputs
        The run.
    row
        Of the star, which has catalogue labels.
    """
    pull = _pulls(inputs)[row]
    i = int(np.nanargmax(np.abs(pull)))
    return inputs.names[i], float(pull[i])


def chosen_stars(inputs: ReportInputs) -> list[Chosen]:
    """Stars that are shown by themselves: an ordinary one, the oddest ones, those drawn already.

    Parameters
    ----------
    inputs
        The run.
    """
    rows = np.flatnonzero(inputs.has_posterior)
    if rows.size == 0:
        return []
    stars = inputs.star_id
    relative = np.log(np.prod(inputs.errors[rows], axis=1))
    middle = rows[np.argsort(np.abs(relative - np.median(relative)), kind="stable")[0]]
    chosen = {str(stars[middle]): "a star with typical (median) uncertainties"}
    far = distance_from_catalogue(inputs)
    if np.isfinite(far[rows]).any():
        worst = rows[np.nanargmax(far[rows])]
        chosen.setdefault(
            str(stars[worst]),
            f"the star that differs most from the catalogue, by {far[worst]:.1f} joint errors "
            "in one label",
        )
    p = column(inputs.table, "CHI2_P")[rows]
    if np.isfinite(p).any():
        misfit = rows[np.nanargmin(p)]
        chosen.setdefault(
            str(stars[misfit]), f"the star whose spectrum fits worst (p = {np.nanmin(p):.2g})"
        )
    drawn = _drawn(inputs)
    for star in drawn if len(drawn) <= _MOST_DRAWN else ():
        chosen.setdefault(star, "drawn when the run was made")
    return [Chosen(star, why) for star, why in chosen.items()]


def _drawn(inputs: ReportInputs) -> list[str]:
    files = corner_files(inputs.star_id.tolist(), inputs.folder / "figures")
    return [star for star, path in files.items() if path.is_file()]


def file_names(prefix: str, stars: Sequence[str], all_stars: Sequence[str]) -> dict[str, str]:
    """Name of a file of each star, without ending: no path, whatever the star is called.

    The names are those of `corner_files`, which are unique among all stars of a run.

    Parameters
    ----------
    prefix
        Begin of the names.
    stars
        Stars that get a file.
    all_stars
        All stars of the run.
    """
    stems = {s: p.stem for s, p in corner_files(all_stars, Path()).items()}
    names = {star: f"{prefix}{stems[star].removeprefix('corner')}" for star in stars}
    repeated = [name for name, times in Counter(names.values()).items() if times > 1]
    assert not repeated, repeated
    return names
