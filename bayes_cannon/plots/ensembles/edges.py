"""Pulls of stars near and beyond the labels of the training stars."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_table
from bayes_cannon.inference.flags import GridEdge
from bayes_cannon.inference.tables import catalogue_name, star_ids
from bayes_cannon.inference.units import known_labels, units_of_table
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SKY,
    figure_of,
    new_axes,
    table_title,
)
from bayes_cannon.spectra.star_ids import rows_of

__all__ = [
    "plot_edge_pulls",
]

_INSIDE = 1.5
"""How far inside the training labels stars are shown, in sd of these, where any are so near."""
_WIDEST = 6.0
"""Pulls beyond this are drawn at the edge of the panel."""
_FAR = 2.5


def plot_edge_pulls(
    run: GivenResult | Table,
    training: KnownLabels,
    *,
    reference: KnownLabels,
    reference_name: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Pulls of all labels against how far the reference lies beyond the training labels.

    A point is a label of a star. To the right of 0 its reference lies beyond the labels of all
    training stars, by so many of their standard deviations. Pulls count outward: where labels are
    drawn into the training set, they are negative. Colours are the label's own flag, which is made
    of what was inferred, not of the reference.

    Parameters
    ----------
    run
        A run, its catalogue, or what `infer_labels` returned.
    training
        Labels of the training stars, such as ``cannon.training``.
    reference
        The truth of a simulation, or the catalogue's labels.
    reference_name
        What it is called.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    InvalidDataError
        If no star has a label and its reference.
    """
    given = as_table(run)
    table = catalogue(run) if given is None else given
    units = units_of_table(table, str(table.meta["LABELS"]).split(","))
    edge, theirs = known_labels(training, units, "training"), known_labels(reference, units)
    assert edge is not None
    assert theirs is not None
    rows = rows_of(theirs.star_id, star_ids(table))
    parts = [np.empty((0, 3))]
    for name in units:
        if name in edge.names and name in theirs.names and np.isfinite(edge[name]).any():
            value = np.where(rows >= 0, theirs[name][rows], np.nan)
            error = np.where(rows >= 0, np.nan_to_num(theirs.error(name))[rows], np.nan)
            parts.append(_of_label(table, name, edge[name], value, error))
    x, pull, flag = np.concatenate(parts).T
    some = np.isfinite(x) & np.isfinite(pull)
    if not some.any():
        raise InvalidDataError("no star has a label and its reference, within or beyond the edge.")
    if (near := some & (x > -_INSIDE)).any():
        some = near
    ax = new_axes(ax, (8.6, 4.2))
    kinds = (
        (0, BLUE, "o", "not flagged"),
        (GridEdge.GRIDEDGE_WARN, SKY, "s", "GRIDEDGE_WARN"),
        (GridEdge.GRIDEDGE_BAD, ORANGE, "D", "GRIDEDGE_BAD"),
    )
    for bit, color, marker, text in kinds:
        here = some & (flag == int(bit))
        far = int((np.abs(pull[here]) > _FAR).sum())
        ax.plot(x[here], np.clip(pull[here], -_WIDEST, _WIDEST), marker, color=color, ms=4.5,
                mec=BLACK, mew=0.3, ls="", rasterized=True, zorder=3,
                label=f"{text}: {here.sum()}, {far} off by more than {_FAR:g}σ")  # fmt: skip
    ax.axhspan(-2, 2, color=GREY, alpha=0.15, lw=0)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.axvline(0, color=BLACK, lw=1, ls="--")
    reference_name = reference_name or catalogue_name(reference, table)
    ax.set(
        xlabel=f"{reference_name} beyond the training labels (sd of these)",
        ylabel=f"outward pull against {reference_name}", ylim=(-1.06 * _WIDEST, 1.06 * _WIDEST),
    )  # fmt: skip
    ax.legend(loc="best", fontsize=9)
    beyond = count_text(int((some & (x > 0)).sum()), "label")
    ax.set_title(table_title(f"Pulls at the edge of the training set, {beyond} beyond", table))
    return figure_of(ax)


def _of_label(
    table: Table, name: str, training: FloatArray, theirs: FloatArray, their_error: FloatArray
) -> FloatArray:
    """Distance beyond the nearest edge, outward pull, and flag of one label, (n_stars, 3)."""
    low, high, sd = np.nanmin(training), np.nanmax(training), np.nanstd(training)
    outward = np.where(theirs - low < high - theirs, -1.0, 1.0)
    beyond = np.maximum(low - theirs, theirs - high) / max(float(sd), 1e-12)
    error = plain_numbers(table[f"{name}_ERR"])
    error = np.where(np.isfinite(error), error, plain_numbers(table[f"{name}_FORMAL_ERR"]))
    pull = outward * (plain_numbers(table[name]) - theirs) / np.hypot(error, their_error)
    flag = np.zeros(len(table))
    if f"{name}_FLAG" in table.colnames:
        bits = np.asarray(table[f"{name}_FLAG"], dtype=np.int64)
        bad, warn = int(GridEdge.GRIDEDGE_BAD), int(GridEdge.GRIDEDGE_WARN)
        flag = np.where(bits & bad, bad, bits & warn).astype(np.float64)
    return np.stack([beyond, pull, flag], axis=1)
