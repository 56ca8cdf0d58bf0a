"""Figures of the inferred labels of many stars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.isochrones import IsochroneSet, packaged_isochrones
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more, plain_numbers
from bayes_cannon.base.numerical import slope_of
from bayes_cannon.base.rounding import value_with_error
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_table
from bayes_cannon.inference.tables import catalogue_name, star_ids
from bayes_cannon.inference.units import known_labels, units_of_table
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    figure_of,
    label_text,
    new_axes,
    star_text,
    table_title,
)
from bayes_cannon.plots.kiel import SIX_GYR
from bayes_cannon.spectra.label_kinds import label_kind
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import catalogue_column, rows_of

__all__ = [
    "plot_kiel_offsets",
    "plot_one_to_one",
]

_FADED = "#9db7c9"
_COLORS = mpl.colormaps["viridis"].with_extremes(bad=GREY)
_COLUMN_TEXTS = {"SNR": "S/N per pixel"}
_MANY = 700
"""Stars from which on points are drawn smaller."""


def plot_one_to_one(
    table: Table | GivenResult,
    *,
    reference: KnownLabels | None = None,
    reference_name: str | None = None,
    names: str | Sequence[str] | None = None,
    color_by: str | None = "FE_H",
) -> Figure:
    """Labels of this work against a reference, with residuals below, a pair of panels per label.

    Each panel gives bias, rms and robust scatter (1.4826 times the median absolute deviation) of
    this work minus the reference. Error bars are one standard deviation: ours calibrated where the
    table has it, else formal (the legend says which), theirs as the catalogue gives it; those of a
    difference are both in quadrature. They fade as stars become many; the black cross in the corner
    has the median errors. The panel of differences Δ names the number of stars and the slope of a
    line through Δ against the reference, with its standard error and without stars beyond five
    robust standard deviations; errors of the reference alone make it negative.
    Triangles are stars outside the panel of differences. Colours are the [Fe/H] of this work, from
    the 1st to the 99th percentile; stars without are grey.

    Parameters
    ----------
    table
        What `catalogue` made, or a result of inference.
    reference
        `Labels`, a `TrainingSet` or a table to compare with, matched by star id (the truth of a
        simulation, say); left out, the table's own columns of the catalogue.
    reference_name
        Name of the reference, for the axes; left out, that of the table's catalogue.
    names
        Labels shown; all of the table where left out.
    color_by
        Column of the table that colours the stars, such as ``"SNR"``; None: one colour for all. The
        default is for tables that have [Fe/H].

    Raises
    ------
    LabelError
        If a label, or the column of `color_by`, is not in the table.
    InvalidDataError
        If no star has both values of any label.
    """
    given = as_table(table)
    table = catalogue(table) if given is None else given
    known = table.meta["LABELS"].split(",")
    names = list(known) if names is None else list(one_or_more(names))
    if unknown := [n for n in names if n not in known]:
        raise LabelError(f"unknown labels {', '.join(unknown)}; the table has {', '.join(known)}.")
    units = units_of_table(table, known)
    reference_name = reference_name or catalogue_name(reference, table)
    theirs_known = known_labels(reference, units, "reference")
    pairs = {name: _pair(table, name, theirs_known, units[name]) for name in names}
    if not any(p.known.any() for p in pairs.values()):
        raise InvalidDataError(
            f"no star of the table has both its labels and those of {reference_name}."
        )
    colors = _colors(table, color_by)
    kind = "calibrated" if any(p.calibrated for p in pairs.values()) else "formal"
    has_error = any(np.isfinite(p.their_error[p.known]).any() for p in pairs.values())
    theirs = f",\n{reference_name} ± its error" if has_error else ""
    handles = [
        Line2D([], [], color=_FADED, marker="o", ms=4, mec=BLACK, mew=0.3,
               mfc=BLUE if colors is None else _COLORS(0.5),
               label=f"stars: this work ± {kind} sd{theirs}"),
        Line2D([], [], color=BLACK, marker="+", ms=9, ls="", label="median errors"),
        Line2D([], [], color=ORANGE, label="one to one"),
        Line2D([], [], color=PURPLE, marker="^", ls="", ms=5, mec=BLACK, mew=0.5,
               label="Δ beyond the panel"),
        Line2D([], [], ls="", label=f"Δ: this work − {reference_name}"),
    ]  # fmt: skip
    n_stars = int(max(p.known.sum() for p in pairs.values()))
    text = f"Labels against {reference_name}, {count_text(n_stars, 'star')}"
    figure = _page(names, pairs, reference_name, handles, colors)
    figure.suptitle(table_title(text, table), fontsize=13)
    return figure


@dataclass(frozen=True, eq=False)
class _Colors:
    """What colours the stars: values (n_stars,), their range, the text of the colour bar."""

    values: FloatArray
    norm: Normalize
    text: str


def _colors(table: Table, name: str | None) -> _Colors | None:
    """Values of a column and their range; None for one colour."""
    if name is None or (name == "FE_H" and name not in table.colnames):
        return None
    if name not in table.colnames:
        raise LabelError(
            f"the table has no column {name} to colour the stars by; it has "
            f"{', '.join(table.colnames)}."
        )
    values = plain_numbers(table[name])
    if not np.isfinite(values).any():
        return None
    low, high = np.nanpercentile(values, [1, 99])
    if name in table.meta["LABELS"].split(","):
        text = label_text(name, units_of_table(table, [name])[name])
    else:
        text = _COLUMN_TEXTS.get(name, star_text(name))
    return _Colors(values, Normalize(low, max(high, low + 1e-6)), text)


def _page(
    names: Sequence[str],
    pairs: Mapping[str, _Pair],
    reference_name: str,
    handles: list[Line2D],
    colors: _Colors | None,
) -> Figure:
    """A pair of panels per label, three in a row, and the legend in the first free place."""
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    full = len(names) == n_rows * n_columns
    bar = 0.0 if colors is None else 1.2
    width, height = 4.3 * n_columns + 0.1 + bar, 5.1 * n_rows + 0.5
    below = 0.65 + (0 if not full else 1.25 if n_columns == 1 else 0.9)
    figure = plt.figure(figsize=(width, height))
    cells = figure.add_gridspec(
        n_rows, n_columns, left=0.95 / width, right=1 - (0.12 + bar) / width,
        bottom=below / height, top=1 - 0.45 / height, hspace=0.17, wspace=0.33,
    )  # fmt: skip
    for i, name in enumerate(names):
        grid = cells[divmod(i, n_columns)].subgridspec(2, 1, height_ratios=(2.4, 1), hspace=0.08)
        top, bottom = np.asarray(grid.subplots(sharex=True), dtype=object)
        _draw_pair(top, bottom, name, pairs[name], reference_name, colors)
    if colors is not None:
        row = cells[0, n_columns - 1].get_position(figure)
        where = (row.x1 + 0.12 / width, row.y0, 0.14 / width, row.height)
        cax = figure.add_axes(where, label="<colorbar>")
        figure.colorbar(
            ScalarMappable(colors.norm, _COLORS), cax=cax, label=colors.text,
            extend="both", extendfrac=0.02,
        )  # fmt: skip
    at = (0.5, 0.05 / height) if full else (1 - (0.5 * 4.2 + bar) / width, 0.25)
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=at, fontsize=9,
                  ncols=min(2, n_columns) if full else 1)  # fmt: skip
    return figure


@dataclass(frozen=True, eq=False)
class _Pair:
    """One label of many stars, ours and theirs, with errors; shape (n_stars,) each."""

    ours: FloatArray
    theirs: FloatArray
    error: FloatArray
    their_error: FloatArray
    calibrated: bool
    unit: str

    @property
    def known(self) -> NDArray[np.bool_]:
        return np.isfinite(self.ours) & np.isfinite(self.theirs)


def _pair(table: Table, name: str, reference: Labels | None, unit: str) -> _Pair:
    error = plain_numbers(table[f"{name}_ERR"])
    calibrated = bool(np.isfinite(error).any())
    if not calibrated:
        error = plain_numbers(table[f"{name}_FORMAL_ERR"])
    if reference is None:
        their = catalogue_column(catalogue_name(table))
        theirs, their_error = (plain_numbers(table[f"{name}_{their}{k}"]) for k in ("", "_ERR"))
    else:
        theirs, their_error = np.full((2, len(table)), np.nan)
        rows = rows_of(reference.star_id, star_ids(table))
        found = rows >= 0
        if name in reference.names:
            theirs[found] = reference[name][rows[found]]
            their_error[found] = reference.error(name)[rows[found]]
    return _Pair(plain_numbers(table[name]), theirs, error, their_error, calibrated, unit)


def _draw_pair(
    top: Axes, bottom: Axes, name: str, pair: _Pair, reference_name: str, colors: _Colors | None
) -> None:
    known = pair.known
    x, y = pair.theirs[known], pair.ours[known]
    x_error, y_error = np.nan_to_num(pair.their_error[known]), np.nan_to_num(pair.error[known])
    unit = pair.unit
    top.set_ylabel(f"this work: {label_text(name, unit)}")
    top.tick_params(axis="x", labelbottom=False)
    bottom.set_xlabel(f"{reference_name}: {label_text(name, unit)}")
    bottom.set_ylabel(f"Δ {label_text(name, unit)}")
    for ax in (top, bottom):
        ax.yaxis.set_label_coords(-0.2, 0.5)
    bottom.axhline(0, color=ORANGE, lw=1.2, zorder=3)
    if not known.any():
        top.text(0.5, 0.5, "no star has both", transform=top.transAxes, ha="center")
        return
    difference = y - x
    faint = float(np.clip(40 / np.sqrt(known.sum()) / 3, 0.12, 0.9))
    size = 3 if known.sum() < _MANY else 2
    for ax, values, errors in ((top, y, y_error), (bottom, difference, np.hypot(x_error, y_error))):
        if colors is None:
            ax.errorbar(x, values, errors, x_error, fmt="o", ms=size, mew=0,
                        mfc=(BLUE, max(faint, 0.35)), ecolor=(_FADED, faint), elinewidth=0.6,
                        zorder=1, rasterized=True)  # fmt: skip
            continue
        ax.errorbar(x, values, errors, x_error, fmt="none", ecolor=(GREY, 0.6 * faint),
                    elinewidth=0.6, zorder=1, rasterized=True)  # fmt: skip
        ax.scatter(x, values, c=colors.values[known], s=1.8 * size**2, cmap=_COLORS,
                   norm=colors.norm, plotnonfinite=True, edgecolors=BLACK, linewidths=0.15,
                   zorder=2, rasterized=True)  # fmt: skip
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    top.plot([low, high], [low, high], color=ORANGE, lw=1.2, zorder=3)
    room = 0.05 * max(high - low, 1e-9)
    top.set(xlim=(low - room, high + room), ylim=(low - room, high + room))
    width = high - low + 2 * room
    corner = (high + room - 0.13 * width, low - room + 0.13 * width)
    top.errorbar(*corner, np.median(y_error), np.median(x_error), color=BLACK, lw=1.3, zorder=4)
    _write_numbers(top, difference, name, unit)
    _write_trend(bottom, x, difference)
    widest = 1.15 * float(np.percentile(np.abs(difference), 99)) + float(np.median(y_error))
    _limit_differences(bottom, x, difference, max(widest, 1e-9))


def _write_numbers(ax: Axes, difference: FloatArray, name: str, unit: str) -> None:
    """Bias, rms and robust scatter in the upper left corner."""
    robust = float(median_abs_deviation(difference, scale="normal"))
    rms, bias = float(np.sqrt(np.mean(difference**2))), float(difference.mean())
    digits = max(1, label_kind(name, unit).digits)
    signed = f"{round(bias, digits) + 0.0:+.{digits}f}".replace("-", "−")
    text = "\n".join(
        (
            f"bias {signed} {unit}".rstrip(),
            f"rms {rms:.{digits}f} {unit}".rstrip(),
            f"robust {robust:.{digits}f} {unit}".rstrip(),
        )
    )
    ax.text(0.04, 0.96, text, transform=ax.transAxes, va="top", fontsize=9.5,
            bbox={"facecolor": "white", "edgecolor": GREY, "alpha": 0.85, "lw": 0.6})  # fmt: skip


def _write_trend(ax: Axes, x: FloatArray, difference: FloatArray) -> None:
    """Write the number of stars, and the slope of the differences."""
    text = f"n = {x.size}"
    slope, error = slope_of(x, difference)
    if np.isfinite(slope):
        text += f", slope {value_with_error(slope, error)}"
    ax.text(0.03, 0.95, text, transform=ax.transAxes, va="top", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1})  # fmt: skip


def _limit_differences(ax: Axes, x: FloatArray, difference: FloatArray, widest: float) -> None:
    """Limits of a panel of differences; stars beyond them are triangles at its edge."""
    ax.set_ylim(-widest, 1.5 * widest)
    for sign, marker in ((1, "^"), (-1, "v")):
        beyond = sign * difference > widest
        ax.plot(x[beyond], np.full(int(beyond.sum()), sign * 0.93 * widest), marker, ms=5,
                color=PURPLE, mec=BLACK, mew=0.5, zorder=4)  # fmt: skip


_NEEDED = ("TEFF", "LOGG", "FE_H")
_MOST_BINS, _PER_BIN = 8, 12


def plot_kiel_offsets(
    table: Table | GivenResult,
    *,
    isochrones: IsochroneSet | None = None,
    log10_age: float = SIX_GYR,
    ax: Axes | None = None,
) -> Figure:
    """Teff of every star less that of the giant branch of its own [Fe/H] and log g.

    The isochrones of one age are interpolated in [Fe/H]; beyond their range there is no point. The
    line joins medians in bins of log g. Stars of other ages, of [α/Fe] above zero and of the red
    clump lie off the branch, so that an offset is no error by itself.

    Parameters
    ----------
    table
        What `catalogue` made, a result of inference, or a run.
    isochrones, log10_age
        As in `plot_kiel`.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    LabelError
        If the table has no TEFF, LOGG or FE_H.
    InvalidDataError
        If no star lies beside the isochrones.
    """
    given = as_table(table, whole=False)
    table = catalogue(table) if given is None else given
    if lacking := [name for name in _NEEDED if name not in table.colnames]:
        raise LabelError(f"the table has no column {', '.join(lacking)}; offsets need {_NEEDED}.")
    teff, logg, feh = (plain_numbers(table[name]) for name in _NEEDED)
    chosen = packaged_isochrones() if isochrones is None else isochrones
    off = teff - chosen.ridge(logg, feh, log10_age=log10_age)
    known = np.isfinite(off)
    if not known.any():
        raise InvalidDataError("no star has Teff, log g and [Fe/H] within those of the isochrones.")
    logg, off, feh = logg[known], off[known], feh[known]
    ax = new_axes(ax, (8.6, 3.6))
    points = ax.scatter(logg, off, c=feh, s=18, cmap="viridis", lw=0.25, edgecolors=BLACK,
                        rasterized=True)  # fmt: skip
    ax.figure.colorbar(points, ax=ax, label=label_text("FE_H"), pad=0.01)
    n_bins = int(np.clip(off.size // _PER_BIN, 1, _MOST_BINS))
    bins = np.array_split(np.argsort(logg), n_bins)
    middle = np.array([[np.median(logg[b]), np.median(off[b])] for b in bins])
    ax.plot(middle[:, 0], middle[:, 1], color=ORANGE, marker="o", ms=4, lw=1.5,
            label="median in bins of log g")  # fmt: skip
    ax.axhline(0, color=GREY, lw=1)
    low, high = np.percentile(off, [1, 99])
    room = 0.25 * (high - low + 1.0)
    ax.set_ylim(low - room, high + room)
    ax.invert_xaxis()
    age = chosen.select(log10_age=log10_age, feh=0.0).age_gyr
    ax.set(xlabel=label_text("LOGG"), ylabel=r"$T_\mathrm{eff}$ − isochrone (K)")
    ax.set_title(table_title(f"Offsets from MIST giant branches of {age:.2g} Gyr", table))
    ax.legend(loc="best", fontsize=9)
    return figure_of(ax)
