"""Figures of the inferred labels of many stars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.labels import Labels, label_unit
from bayes_cannon.plots_common import BLUE, GREY, ORANGE, label_text, new_figure, title_of

__all__ = ["plot_one_to_one"]

FloatArray = NDArray[np.float64]


def plot_one_to_one(
    table: Table,
    *,
    reference: Labels | None = None,
    reference_name: str = "ASPCAP",
    names: Sequence[str] | None = None,
) -> Figure:
    """Our labels against a reference, with residuals below, a pair of panels per label.

    Each panel gives bias, rms and robust scatter (1.4826 times the median absolute deviation) of
    ours minus the reference. Error bars are one standard deviation: ours calibrated where the
    table has it, else formal (the legend says which), theirs as the catalogue gives it.

    Parameters
    ----------
    table
        What `catalogue` made.
    reference
        Labels to compare with, matched by star id (the truth of a simulation, say); left out, the
        table's own columns of ASPCAP.
    reference_name
        Name of the reference, for the axes.
    names
        Labels shown; all of the table where left out.

    Raises
    ------
    LabelError
        If a label is not in the table.
    InvalidDataError
        If no star has both values of any label.
    """
    known = table.meta["LABELS"].split(",")
    names = list(known if names is None else names)
    if unknown := [n for n in names if n not in known]:
        raise LabelError(f"unknown labels {', '.join(unknown)}; the table has {', '.join(known)}.")
    pairs = {name: _pair(table, name, reference) for name in names}
    if not any(p.known.any() for p in pairs.values()):
        raise InvalidDataError(
            f"no star of the table has both its labels and those of {reference_name}."
        )
    n_columns = min(3, len(names))
    n_rows = -(-len(names) // n_columns)
    figure = new_figure((4.1 * n_columns, 5.1 * n_rows))
    cells = figure.subfigures(n_rows, n_columns, squeeze=False)
    for cell, name in zip(cells.ravel(), names, strict=False):
        top, bottom = cell.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
        _draw_pair(top, bottom, name, pairs[name], reference_name)
    kind = "calibrated" if any(p.calibrated for p in pairs.values()) else "formal"
    n_stars = int(max(p.known.sum() for p in pairs.values()))
    text = f"Labels against {reference_name}, {n_stars} stars"
    figure.suptitle(title_of(text, simulated=bool(table.meta.get("SIMULATE"))), fontsize=13)
    handles = [
        Line2D([], [], color=GREY, marker="o", ms=4, mfc=BLUE, mec=BLUE,
               label=f"stars; ours ± {kind} sd, {reference_name} ± its error"),
        Line2D([], [], color=ORANGE, label="equal"),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower right", ncols=2)
    return figure


@dataclass(frozen=True, eq=False)
class _Pair:
    """One label of many stars, ours and theirs, with errors; shape (n_stars,) each."""

    ours: FloatArray
    theirs: FloatArray
    error: FloatArray
    their_error: FloatArray
    calibrated: bool

    @property
    def known(self) -> NDArray[np.bool_]:
        return np.isfinite(self.ours) & np.isfinite(self.theirs)


def _column(table: Table, name: str) -> FloatArray:
    return np.ma.filled(np.ma.asarray(table[name], dtype=np.float64), np.nan)


def _pair(table: Table, name: str, reference: Labels | None) -> _Pair:
    error = _column(table, f"{name}_ERR")
    calibrated = bool(np.isfinite(error).any())
    if not calibrated:
        error = _column(table, f"{name}_FORMAL_ERR")
    if reference is None:
        theirs, their_error = (_column(table, f"{name}_ASPCAP{k}") for k in ("", "_ERR"))
    else:
        theirs, their_error = np.full((2, len(table)), np.nan)
        place = {str(s): i for i, s in enumerate(reference.star_id)}
        rows = [place.get(str(s), -1) for s in np.asarray(table["APOGEE_ID"], dtype=np.str_)]
        found = np.array(rows) >= 0
        if name in reference.names:
            theirs[found] = reference[name][np.array(rows)[found]]
            their_error[found] = reference.error(name)[np.array(rows)[found]]
    return _Pair(_column(table, name), theirs, error, their_error, calibrated)


def _draw_pair(top: Axes, bottom: Axes, name: str, pair: _Pair, reference_name: str) -> None:
    known = pair.known
    x, y = pair.theirs[known], pair.ours[known]
    x_error, y_error = np.nan_to_num(pair.their_error[known]), np.nan_to_num(pair.error[known])
    for ax, values, errors in ((top, y, y_error), (bottom, y - x, np.hypot(x_error, y_error))):
        ax.errorbar(x, values, errors, x_error, fmt="o", ms=2.5, color=BLUE, ecolor=GREY,
                    elinewidth=0.6, alpha=0.6)  # fmt: skip
    unit = label_unit(name)
    top.set_ylabel(f"ours: {label_text(name)}")
    bottom.set_xlabel(f"{reference_name}: {label_text(name)}")
    bottom.set_ylabel(f"difference\n({unit})")
    bottom.axhline(0, color=ORANGE, lw=1.2)
    if not known.any():
        return
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    top.plot([low, high], [low, high], color=ORANGE, lw=1.2, zorder=3)
    difference = y - x
    robust = 1.4826 * float(np.median(np.abs(difference - np.median(difference))))
    rms, bias = float(np.sqrt(np.mean(difference**2))), float(difference.mean())
    digits = 0 if unit == "K" else 3
    text = "\n".join(
        (
            f"bias {bias:+.{digits}f} {unit}",
            f"rms {rms:.{digits}f} {unit}",
            f"robust {robust:.{digits}f} {unit}",
        )
    )
    top.text(0.04, 0.96, text, transform=top.transAxes, va="top", fontsize=9.5,
             bbox={"facecolor": "white", "edgecolor": GREY, "alpha": 0.85})  # fmt: skip
    widest = 1.15 * float(np.percentile(np.abs(difference), 99)) + float(np.median(y_error))
    bottom.set_ylim(-max(widest, 1e-9), max(widest, 1e-9))
