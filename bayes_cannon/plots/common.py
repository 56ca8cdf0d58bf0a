"""What all figures share: colours for colour-blind readers, axes, wavelengths, files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.collections import Collection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from bayes_cannon.base.cards import simulated_text
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.posterior import model_is_simulated, which_simulated
from bayes_cannon.inference.tables import simulated_rows
from bayes_cannon.inference.units import with_unit
from bayes_cannon.spectra.label_kinds import label_tex, label_unit

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "SKY",
    "corner_grid",
    "figure_of",
    "for_paper",
    "label_text",
    "mark_lines",
    "name_inside",
    "new_axes",
    "new_figure",
    "plain_log_ticks",
    "result_title",
    "save_figure",
    "star_text",
    "table_title",
    "title_of",
    "wavelength_label",
    "with_gaps",
    "within",
]


# Okabe & Ito (2008), https://jfly.uni-koeln.de/color/
BLACK, BLUE, ORANGE, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, GREY = "#CC79A7", "#56B4E9", "#808080"
_LONGEST_NAME = 40
_MOST_ROWS = 4


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes given, or those of a new figure of `size` inches.

    Parameters
    ----------
    ax
        Axes, or None.
    size
        Width and height of a new figure, inches.
    """
    return ax if ax is not None else plt.subplots(figsize=size, layout="constrained")[1]


def new_figure(size: tuple[float, float]) -> Figure:
    """Return an empty figure of `size` inches.

    Parameters
    ----------
    size
        Width and height, inches.
    """
    return plt.figure(figsize=size, layout="constrained")


def figure_of(drawn: Figure | Axes) -> Figure:
    """Figure that was `drawn`, or whose axes were: what every function of the wing returns."""
    owner = drawn.get_figure(root=True) if isinstance(drawn, Axes) else drawn
    assert owner is not None
    return owner


def title_of(text: str, *, simulated: bool | str, model_simulated: bool = False) -> str:
    """Title of a figure; says where its data are simulated, or else the model's training stars.

    Parameters
    ----------
    text
        What the figure shows.
    simulated
        Whether its spectra are, or how many of them.
    model_simulated
        Whether those are that the model was trained on.
    """
    if simulated:
        return f"{text} ({'simulated' if simulated is True else simulated})"
    return f"{text} (model trained on simulated stars)" if model_simulated else text


def result_title(text: str, result: xr.DataTree) -> str:
    """Title of a figure of posteriors, by their attributes.

    Parameters
    ----------
    text
        What the figure shows.
    result
        Whose attributes say what is simulated.
    """
    simulated = simulated_text(which_simulated(result)).lower()
    return title_of(text, simulated=simulated, model_simulated=model_is_simulated(result))


def table_title(text: str, table: Table) -> str:
    """Title of a figure of a catalogue table, by the marks in its header.

    Parameters
    ----------
    text
        What the figure shows.
    table
        Whose header says what is simulated.
    """
    simulated = simulated_text(simulated_rows(table)).lower()
    return title_of(text, simulated=simulated, model_simulated=bool(table.meta.get("SIMMODEL")))


def wavelength_label(medium: str = "vacuum") -> str:
    """Text of a wavelength axis, for wavelengths in vacuum or in air.

    Parameters
    ----------
    medium
        ``'vacuum'`` or ``'air'``.
    """
    return f"wavelength in {medium}, rest frame (Å)"


def star_text(star: str) -> str:
    r"""Name of a star as text of a figure: no formula in it, no control characters, not too long.

    >>> print(star_text("2M$0350$"))
    2M\$0350\$
    """
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in star)
    short = shown if len(shown) <= _LONGEST_NAME else f"{shown[: _LONGEST_NAME - 1]}…"
    return short.replace("$", r"\$")


def label_text(name: str, unit: str | None = None) -> str:
    """Name and unit of a label, for an axis; no unit for ''.

    Parameters
    ----------
    name
        Name of the label.
    unit
        Its unit; that of its kind where left out.
    """
    return with_unit(label_tex(name), label_unit(name) if unit is None else unit)


def corner_grid(
    texts: Sequence[str], limits: Sequence[tuple[float, float]], *, side: float = 0.0
) -> tuple[Figure, NDArray[np.object_]]:
    """Figure and axes of a corner plot, shape (n, n): the upper triangle is invisible.

    Parameters
    ----------
    texts
        Name and unit of each quantity.
    limits
        Range of each quantity.
    side
        Room left to the right of the panels, inches.
    """
    n = len(texts)
    panel, left, below, above = 1.95, 0.85, 0.85, 0.95
    width, height = left + panel * n + 0.2 + side, below + panel * n + above
    figure = plt.figure(figsize=(width, height))
    # A fixed grid, as titles may stand in the empty half: constrained layout would make room.
    grid = figure.add_gridspec(
        n, n, wspace=0.07, hspace=0.07, left=left / width, right=1 - (0.2 + side) / width,
        bottom=below / height, top=1 - above / height,
    )  # fmt: skip
    axes = np.asarray(grid.subplots(squeeze=False), dtype=object)
    for i in range(n):
        for k in range(n):
            ax = axes[i, k]
            if k > i:
                ax.set_visible(False)
                continue
            ax.set_xlim(limits[k])
            ax.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
            ax.tick_params(labelsize=9)
            if i == n - 1:
                ax.set_xlabel(texts[k], fontsize=11)
                ax.tick_params(axis="x", rotation=45)
                for text in ax.get_xticklabels():
                    text.set(ha="right", rotation_mode="anchor")
            else:
                ax.tick_params(axis="x", labelbottom=False)
            if k == i:
                ax.set_yticks([])
                continue
            ax.set_ylim(limits[i])
            ax.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
            if k == 0:
                ax.set_ylabel(texts[i], fontsize=11)
            else:
                ax.tick_params(axis="y", labelleft=False)
    figure.align_labels()
    return figure, axes


def plain_log_ticks(ax: Axes, *, x: bool = False, y: bool = False) -> None:
    """Make axes logarithmic, with plain numbers at 1, 2 and 5 of each decade.

    Parameters
    ----------
    ax
        Axes to change.
    x, y
        Which of its axes.
    """
    for wanted, axis, scale in ((x, ax.xaxis, ax.set_xscale), (y, ax.yaxis, ax.set_yscale)):
        if wanted:
            scale("log")
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())


def with_gaps(
    wavelength: FloatArray, values: NDArray[Any], good: NDArray[np.bool_] | None = None
) -> tuple[FloatArray, FloatArray]:
    """Curve with breaks: NaN where not `good`, and a NaN point in every gap of the wavelengths.

    Parameters
    ----------
    wavelength : (n_pixels,) float64
        In Å, increasing.
    values : (n_pixels,) float
        Of the curve.
    good : (n_pixels,) bool
        Pixels that are drawn; all where left out.
    """
    y = np.array(values, dtype=np.float64)
    if good is not None:
        y[~good] = np.nan
    if wavelength.size < 3:
        return wavelength, y
    step = np.diff(wavelength)
    after = np.flatnonzero(step > 3 * np.median(step)) + 1
    middle = 0.5 * (wavelength[after] + wavelength[after - 1])
    return np.insert(wavelength, after, middle), np.insert(y, after, np.nan)


def within(wavelength: FloatArray, window: tuple[float, float] | None) -> slice:
    """Pixels inside a window of wavelengths (all where None).

    Parameters
    ----------
    wavelength : (n_pixels,) float64
        In Å, increasing.
    window
        Lowest and highest wavelength, Å.

    Raises
    ------
    InvalidDataError
        If the window holds no pixel.
    """
    if window is None:
        return slice(0, wavelength.size)
    low, high = np.searchsorted(wavelength, window)
    if low >= high:
        raise InvalidDataError(
            f"the window {window[0]:g}-{window[1]:g} Å holds no pixel; the spectrum runs from "
            f"{wavelength[0]:.1f} to {wavelength[-1]:.1f} Å."
        )
    return slice(int(low), int(high))


def mark_lines(
    ax: Axes, wavelength: Sequence[float], names: Sequence[str], *, min_gap: float = 0.016
) -> None:
    """Name lines along the top of an axes; names that would overlap are moved apart.

    Parameters
    ----------
    ax
        With its final wavelength limits.
    wavelength, names
        Of the lines.
    min_gap
        Least distance of two names, as a share of the width.
    """
    low, high = ax.get_xlim()
    shown = sorted((w, n) for w, n in zip(wavelength, names, strict=True) if low <= w <= high)
    if not shown:
        return
    at = _spread(np.array([(w - low) / (high - low) for w, _ in shown]), min_gap)
    for x, (line, name) in zip(at, shown, strict=True):
        ax.axvline(line, color=GREY, lw=0.6, ls=":", zorder=0)
        ax.annotate(
            name, (line, 1.0), (x, 1.04), xycoords=("data", "axes fraction"),
            textcoords="axes fraction", rotation=90, ha="center", va="bottom", fontsize=8,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5},
            annotation_clip=False,
        )  # fmt: skip


def name_inside(
    ax: Axes,
    wavelength: Iterable[float],
    values: Iterable[float],
    names: Iterable[str],
    *,
    below: bool = False,
) -> None:
    """Name points of a curve in the room above it, in four rows; what finds no place is left out.

    Parameters
    ----------
    ax
        With its final limits, which leave room above the curve (or below).
    wavelength, values
        Of the points.
    names
        What to write; no longer than ``Mg I 15745.0``.
    below
        Write below the curve.
    """
    (low, high), rows = ax.get_xlim(), list[float]()
    for line, value, name in sorted(zip(wavelength, values, names, strict=True)):
        at = min(max((float(line) - low) / (high - low), 0.045), 0.955)  # all of it inside
        free = [i for i, end in enumerate(rows) if at - 0.045 > end]
        row = free[0] if free else len(rows)
        if row == _MOST_ROWS:
            continue
        rows[row : row + 1] = [at + 0.045]
        ax.annotate(
            str(name), (float(line), float(value)),
            (at, 0.03 + 0.09 * row if below else 0.97 - 0.09 * row),
            textcoords="axes fraction", ha="center", va="bottom" if below else "top", fontsize=8,
            arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5},
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )  # fmt: skip


def _spread(at: FloatArray, gap: float) -> FloatArray:
    """Positions in [0, 1], in order, at least `gap` apart where they fit, near where they were."""
    x = at.copy()
    for _ in range(200):
        short = gap - np.diff(x)
        if not (short > 1e-6).any():
            break
        push = 0.5 * np.maximum(short, 0)
        x[:-1] -= push
        x[1:] += push
        x = np.clip(x, 0, 1)
    return x


_COLUMN, _PAGE = 3.4, 7.1
"""Width in inches of one and of two columns of a journal's page."""
_SMALLEST, _LARGEST = 6.0, 8.5
"""Sizes of text in a paper, points."""


def for_paper(figure: Figure | Axes, *, columns: int | None = None) -> Figure:
    """Make a figure as wide as one or two columns of a paper, its text readable at that size.

    Parameters
    ----------
    figure
        A figure, or axes of one; it is changed.
    columns
        1 or 2; left out, 1 for one panel, or two above each other, with or without colour bar.

    Raises
    ------
    InvalidDataError
        If `columns` is another number.
    """
    owner = figure_of(figure)
    if columns is None:
        panels = [ax for ax in owner.axes if ax.get_visible() and ax.get_label() != "<colorbar>"]
        columns = 1 + (len(panels) > 2 or len({ax.get_position().x0 for ax in panels}) > 1)
    if columns not in (1, 2):
        raise InvalidDataError(f"a paper has 1 or 2 columns, not {columns}.")
    width, height = owner.get_size_inches()
    scale = (_COLUMN if columns == 1 else _PAGE) / width
    softer = max(scale, 0.5)
    owner.set_size_inches(scale * width, scale * height * (1.15 if columns == 1 else 1.0))
    for text in owner.findobj(Text):
        text.set_fontsize(float(np.clip(1.1 * scale * text.get_fontsize(), _SMALLEST, _LARGEST)))
    for drawn in (item for kind in (Line2D, Patch, Collection) for item in owner.findobj(kind)):
        drawn.set(linewidth=softer * np.asarray(plt.getp(drawn, "linewidth")))
    for line in owner.findobj(Line2D):
        line.set_markersize(softer * line.get_markersize())
    for points in owner.findobj(PathCollection):
        points.set_sizes(softer**2 * np.asarray(points.get_sizes()))
    return owner


def save_figure(
    figure: Figure | Axes,
    path: str | os.PathLike[str],
    *,
    dpi: int = 130,
    style: Literal["screen", "paper"] = "screen",
) -> Path:
    """Save a figure (or that of some axes) and close it; folders are made.

    Parameters
    ----------
    figure
        A figure, or axes of one.
    path
        File to write; its ending says the format, such as ``.png`` or ``.pdf``.
    dpi
        Dots per inch.
    style
        ``"paper"``: as wide as the columns of a journal, see `for_paper`.
    """
    owner = figure_of(figure)
    if style == "paper":
        for_paper(owner)
    target = user_path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    owner.savefig(target, dpi=dpi)
    plt.close(owner)
    return target
