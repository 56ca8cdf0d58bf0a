"""Two labels of many stars against each other, with their joint errors."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_result, as_table
from bayes_cannon.inference.flags import severity
from bayes_cannon.inference.tables import catalogue_name
from bayes_cannon.inference.units import known_labels, units_of_table
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    figure_of,
    label_text,
    new_axes,
    table_title,
)
from bayes_cannon.spectra.label_kinds import label_tex

__all__ = [
    "plot_plane",
]

_BARS = 400
"""Stars up to which each has its error bars."""


def plot_plane(
    run: GivenResult | Table,
    x: str = "FE_H",
    y: str = "MG_FE",
    *,
    reference: KnownLabels | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Two labels of all stars, such as [Mg/Fe] against [Fe/H], with calibrated errors.

    Bars are one standard deviation of a star; the ellipse in the corner is the median of the joint
    errors, which holds 39 % and shows their correlation. Stars with a flag of severity BAD are
    open. Where no calibrated errors are known, formal ones are drawn.

    Parameters
    ----------
    run
        A run, its catalogue, or what `infer_labels` returned.
    x, y
        Labels of the axes.
    reference
        The same labels from elsewhere, such as the catalogue's, drawn behind.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    LabelError
        If a label is not in the table, or both are the same.
    InvalidDataError
        If no star has both.
    """
    table = as_table(run)
    if table is None:
        table = catalogue(as_result(run))
    known = str(table.meta.get("LABELS", "")).split(",")
    if x == y or not {x, y} <= set(known):
        raise LabelError(f"{x} and {y} must be two of the labels {', '.join(known)}.")
    units = units_of_table(table, (x, y))
    theirs = known_labels(reference, units, "reference")
    values = np.stack([np.asarray(table[n], dtype=np.float64) for n in (x, y)])
    there = np.isfinite(values).all(axis=0)
    if not there.any():
        raise InvalidDataError(f"none of the stars of the table has both {x} and {y}.")
    kind, errors = _errors(table, (x, y))
    bad = np.array([severity(int(f)) == "BAD" for f in table["LABEL_FLAG"]], dtype=np.bool_)
    ax = new_axes(ax, (7.5, 5.6))
    if theirs is not None:
        name = catalogue_name(reference, table)
        ax.plot(theirs[x], theirs[y], ".", color=GREY, ms=4, alpha=0.6, label=name, zorder=1)
    if there.sum() <= _BARS:
        (dx, dy), at = errors[:, there], values[:, there]
        ax.errorbar(at[0], at[1], xerr=dx, yerr=dy, fmt="none", ecolor=BLUE, elinewidth=0.6,
                    alpha=0.35, zorder=2)  # fmt: skip
    good = there & ~bad
    ax.plot(*values[:, good], "o", color=BLUE, ms=3.5, zorder=3,
            label=f"this work, {good.sum()} ± {kind} sd")  # fmt: skip
    if (there & bad).any():
        ax.plot(*values[:, there & bad], "o", mfc="none", mec=ORANGE, ms=5, zorder=4,
                label=f"with a BAD flag: {(there & bad).sum()}")  # fmt: skip
    ax.set(xlabel=label_text(x, units[x]), ylabel=label_text(y, units[y]))
    ax.margins(0.08)
    _draw_typical(ax, table, (x, y), errors[:, there], there)
    ax.legend(loc="best", fontsize=9)
    ax.set_title(table_title(f"{label_tex(y)} against {label_tex(x)}", table))
    return figure_of(ax)


def _errors(table: Table, names: tuple[str, str]) -> tuple[str, FloatArray]:
    """Kind of the errors, and they, shape (2, n_stars)."""
    own, formal = (
        np.stack([np.asarray(table[f"{n}{ending}"], dtype=np.float64) for n in names])
        for ending in ("_ERR", "_FORMAL_ERR")
    )
    return ("calibrated", own) if np.isfinite(own).any() else ("formal", formal)


def _draw_typical(
    ax: Axes, table: Table, names: tuple[str, str], errors: FloatArray, there: np.ndarray
) -> None:
    """Ellipse of the median errors and correlation, in the emptiest corner."""
    width, height = np.nanmedian(errors, axis=1)
    columns = (f"{a}_{b}_CORR" for a, b in (names, names[::-1]))
    column = next((c for c in columns if c in table.colnames), None)
    rho = 0.0 if column is None else float(np.nanmedian(np.asarray(table[column])[there]))
    cov = np.array([[width**2, rho * width * height], [rho * width * height, height**2]])
    if not np.isfinite(cov).all():
        return
    sizes, axes = np.linalg.eigh(cov)
    angle = float(np.degrees(np.arctan2(axes[1, 1], axes[0, 1])))
    (x0, x1), (y0, y1) = ax.get_xlim(), ax.get_ylim()
    ax.set(xlim=(x0, x1), ylim=(y0 - 0.12 * (y1 - y0) - 2 * height, y1))
    at = (x0 + 0.04 * (x1 - x0) + 1.3 * width, y0 - 0.06 * (y1 - y0) - height)
    major, minor = 2 * np.sqrt(sizes[1]), 2 * np.sqrt(max(sizes[0], 0.0))
    ax.add_patch(Ellipse(at, major, minor, angle=angle, fc="none", ec=BLACK, lw=1.2))
    ax.annotate("median joint error", at, xytext=(at[0] + 1.6 * width, at[1]), va="center",
                fontsize=9, annotation_clip=False)  # fmt: skip
