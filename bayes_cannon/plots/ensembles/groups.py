"""Figures of a group of stars: its members with their errors, its mean and intrinsic scatter."""

from __future__ import annotations

from collections.abc import Sequence

import corner
import numpy as np
import xarray as xr
from astropy.table import Row
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bayes_cannon.analysis.groups.fit import group_table
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.rounding import error_digits, two_digits
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    label_text,
    new_figure,
    star_text,
    title_of,
)
from bayes_cannon.spectra.label_kinds import label_tex

__all__ = [
    "plot_group_corner",
    "plot_group_forest",
]

_NAMED = 45
"""Members up to which their names are written."""
_ODD = 0.4
"""Weight below which a member is drawn as an odd one."""


def plot_group_forest(found: xr.DataTree, labels: str | Sequence[str] | None = None) -> Figure:
    """Members of a group with their calibrated errors, and its mean and intrinsic scatter.

    A panel a label, a row a star, ordered by the first label. Bars are one standard deviation; the
    line is the mean of the group, the dark band its error, the light one the intrinsic scatter to
    either side. Stars of small weight, which are off by more than their errors say, are orange.

    Parameters
    ----------
    found
        From `population`.
    labels
        Labels shown; all where left out.

    Raises
    ------
    LabelError
        If the group has no such label.
    """
    names, places = _shown(found, labels)
    seen, draws = found["observed_data"].to_dataset(), found["posterior"].to_dataset()
    center, sd = seen["center"].values[:, places], _sd(found)[:, places]
    weight = draws["weight"].mean(("chain", "draw")).values
    n = len(center)
    order = np.argsort(center[:, 0], kind="stable")
    rows, odd = np.arange(n), weight[order] < _ODD
    figure = new_figure((2.5 * len(names) + 1.6, float(np.clip(1.9 + 0.17 * n, 3.6, 12))))
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    table = group_table(found)
    for i, (ax, name) in enumerate(zip(axes, names, strict=True)):
        row = table[places[i]]
        mean, error = float(row["MEAN"]), float(row["MEAN_ERR"])
        ax.axvspan(mean - row["SCATTER"], mean + row["SCATTER"], color=BLUE, alpha=0.18, lw=0)
        ax.axvspan(mean - error, mean + error, color=BLUE, alpha=0.35, lw=0)
        ax.axvline(mean, color=BLUE, lw=1.2)
        for some, colour in ((~odd, BLACK), (odd, ORANGE)):
            ax.errorbar(center[order, i][some], rows[some], xerr=sd[order, i][some], fmt="o", ms=3,
                        lw=0.9, color=colour)  # fmt: skip
        ax.set_title(f"{label_tex(name)}\n{_told(row)}", fontsize=10)
        ax.set_xlabel(label_text(name, str(row["UNIT"])))
        ax.xaxis.set_major_locator(MaxNLocator(4))
    axes[0].set(ylim=(-1, n))
    stars = seen["star"].values[order].astype(np.str_)
    if n <= _NAMED:
        axes[0].set_yticks(rows, [star_text(s) for s in stars.tolist()], fontsize=7)
    else:
        axes[0].set_ylabel("member")
    figure.suptitle(_title(found, f"{count_text(n, 'member')} of a group"), fontsize=13)
    kind = str(found.attrs.get("errors", "calibrated"))
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=BLACK, marker="o", ms=4, label=f"star, {kind} error"),
        Line2D([], [], color=BLUE, label="mean and its error"),
        Patch(color=BLUE, alpha=0.18, label="intrinsic scatter (median)"),
    ]
    if odd.any():
        handles.append(
            Line2D([], [], color=ORANGE, marker="o", ms=4, label=f"star of weight below {_ODD:g}")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)
    return figure


def plot_group_corner(
    found: xr.DataTree, labels: str | Sequence[str] | None = None, *, what: str = "scatter"
) -> Figure:
    """Corner plot of the means or the intrinsic scatters of a group's labels.

    Contours hold 39.3 and 86.5 % of the draws: 1 and 2 sigma of a Gaussian in two dimensions. A
    dotted line is the 95 % upper limit of a scatter whose 95 % interval begins at zero.

    Parameters
    ----------
    found
        From `population`.
    labels
        Labels shown; all where left out.
    what
        ``'mean'`` or ``'scatter'``.

    Raises
    ------
    LabelError
        If the group has no such label.
    InvalidDataError
        If `what` is something else.
    """
    if what not in ("mean", "scatter"):
        raise InvalidDataError(f"what must be 'mean' or 'scatter', got {what!r}.")
    names, places = _shown(found, labels)
    posterior = found["posterior"].to_dataset()
    draws = posterior[what].values.reshape(-1, posterior.sizes["label_name"])[:, places]
    table = group_table(found)
    texts = [label_text(n, str(table["UNIT"][i])) for n, i in zip(names, places, strict=True)]
    high = np.quantile(draws, 0.995, axis=0)
    low = np.zeros(len(names)) if what == "scatter" else np.quantile(draws, 0.005, axis=0)
    figure = new_figure((1.9 * len(names) + 1.0, 1.9 * len(names) + 1.2))
    figure.set_layout_engine(None)
    corner.corner(
        draws, fig=figure, bins=30, smooth=1.0, color=BLUE, levels=(0.393, 0.865), labels=texts,
        range=list(zip(low, np.maximum(high, low + 1e-9), strict=True)), plot_datapoints=False,
        plot_density=False, fill_contours=True, max_n_ticks=4, quiet=True,
        label_kwargs={"fontsize": 11}, hist_kwargs={"density": True},
    )  # fmt: skip
    axes = np.array(figure.axes, dtype=object).reshape(len(names), len(names))
    for i, place in enumerate(places):
        row = table[place]
        error = float(row["MEAN_ERR"])
        mean = f"{row['MEAN']:.{error_digits(error)}f} ± {two_digits(error)}"
        axes[i, i].set_title(_told(row) if what == "scatter" else mean, fontsize=10)
        if what == "scatter" and row["SCATTER_LOW95"] <= 0:
            axes[i, i].axvline(row["SCATTER_LIMIT"], color=GREY, ls=":", lw=1.1)
    title = "Intrinsic scatters" if what == "scatter" else "Means"
    n = found["posterior"].sizes["star"]
    figure.suptitle(
        _title(found, f"{title} of a group of {count_text(n, 'star')}"), fontsize=12, y=0.995
    )
    return figure


def _told(row: Row) -> str:
    """Scatter with its interval; an upper limit where zero is not excluded."""
    if row["SCATTER_LOW95"] <= 0:
        return f"scatter < {two_digits(float(row['SCATTER_LIMIT']))} (95 %)"
    half = 0.5 * float(row["SCATTER_HIGH"] - row["SCATTER_LOW"])
    return f"scatter {row['SCATTER']:.{error_digits(half)}f} ± {two_digits(half)}"


def _sd(found: xr.DataTree) -> np.ndarray:
    """Standard deviations of the members' labels, (n_stars, n_labels)."""
    seen = found["observed_data"].to_dataset()
    if "sd" in seen:
        return np.asarray(seen["sd"].values)
    nu = float(found["constant_data"].to_dataset()["nu"])
    diagonal = np.diagonal(seen["scale"].values, axis1=1, axis2=2)
    return np.asarray(np.sqrt(diagonal * nu / (nu - 2)))


def _title(found: xr.DataTree, text: str) -> str:
    return title_of(
        text, simulated=bool(found.attrs.get("simulated", 0)),
        model_simulated=bool(found.attrs.get("model_simulated", 0)),
    )  # fmt: skip


def _shown(found: xr.DataTree, labels: str | Sequence[str] | None) -> tuple[list[str], list[int]]:
    """Labels that are shown, and their places."""
    known = [str(n) for n in found["posterior"].to_dataset()["label_name"].values]
    wanted = known if labels is None else list(one_or_more(labels))
    if unknown := [n for n in wanted if n not in known]:
        raise LabelError(f"unknown labels {', '.join(unknown)}; the group has {', '.join(known)}.")
    return wanted, [known.index(n) for n in wanted]
