"""Figure of the errors that repeated visits see, beside formal and calibrated ones."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bayes_cannon.analysis.repeated.comparison import Repeats
from bayes_cannon.base.cards import count_text
from bayes_cannon.plots.common import BLACK, GREY, label_text, new_figure, title_of
from bayes_cannon.plots.posteriors import POSTERIOR_STYLES
from bayes_cannon.spectra.label_kinds import label_tex

__all__ = ["plot_repeats"]

_COLOURS = {style.name: style.color for style in POSTERIOR_STYLES.values()}


def plot_repeats(found: Repeats) -> Figure:
    """Errors of every label against S/N, and the standard deviation of z = difference / error.

    Top: half-size of the differences between visits (robust standard deviation over the square
    root of 2, bars are bootstrap errors over stars) with the fit of scale and floor, beside the
    medians of formal and calibrated errors. Bottom: standard deviation of z with either error; 1
    where errors are those of the repeats, less where they hold more than repeats can see.

    Parameters
    ----------
    found
        From `repeats`.
    """
    names, units = found.labels.names, found.labels.units
    figure = new_figure((2.7 * len(names) + 0.6, 5.6))
    axes = figure.subplots(2, len(names), squeeze=False, sharex=True)
    kinds = tuple(found.labels.errors)
    for i, (top, bottom) in enumerate(axes.T):
        _draw_errors(top, found, i)
        _draw_z(bottom, found, names[i])
        top.set_title(label_tex(names[i]), fontsize=12)
        top.set_ylabel(f"error of {label_text(names[i], units[i])}", fontsize=9.5)
        top.set_ylim(bottom=0)
        bottom.set_xlabel("S/N per pixel of a visit")
        bottom.xaxis.set_major_locator(MaxNLocator(4))
    highest = max(ax.get_ylim()[1] for ax in axes[1])
    for ax in axes[1]:
        ax.set_ylim(0, highest)
    axes[1, 0].set_ylabel("sd of z")
    n = found.labels
    text = f"Repeats: {count_text(n.star.size, 'visit')} to {count_text(n.n_stars, 'star')}"
    figure.suptitle(title_of(text, simulated=found.simulated), fontsize=13)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=BLACK, marker="o", ls="", label="differences of visits"),
        Patch(color=GREY, alpha=0.4, label="scale and floor (68 %)"),
    ]
    handles += [
        Line2D([], [], color=_COLOURS[k], marker="s", ms=4, label=f"{k} errors") for k in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9.5)
    return figure


def _draw_errors(ax: Axes, found: Repeats, i: int) -> None:
    table = found.bins[found.bins["LABEL"] == found.labels.names[i]]
    for kind, colour in _COLOURS.items():
        part = table[table["KIND"] == kind]
        if len(part):
            ax.plot(_place(part), part["ERR"], "s-", ms=4, lw=1, color=colour)
    part = table[table["KIND"] == "formal"]
    draws = found.fit["posterior"].to_dataset().isel(label_name=i)
    scale, floor = (draws[n].values.ravel() for n in ("scale", "floor"))
    both = np.sqrt((scale[:, None] * np.asarray(part["ERR"])) ** 2 + floor[:, None] ** 2)
    low, high = np.quantile(both, [0.16, 0.84], axis=0)
    ax.fill_between(_place(part), low, high, color=GREY, alpha=0.4, lw=0)
    ax.errorbar(_place(part), part["REPEAT_ERR"], part["REPEAT_ERR_SE"], fmt="o", ms=5, lw=1,
                color=BLACK, zorder=4)  # fmt: skip


def _draw_z(ax: Axes, found: Repeats, name: str) -> None:
    ax.axhline(1, color=GREY, ls="--", lw=1)
    table = found.bins[found.bins["LABEL"] == name]
    for kind, colour in _COLOURS.items():
        part = table[table["KIND"] == kind]
        if len(part):
            ax.errorbar(_place(part), part["Z_SD"], part["Z_SD_SE"], fmt="s-", ms=4, lw=1,
                        color=colour)  # fmt: skip
    ax.margins(x=0.12)


def _place(part: object) -> np.ndarray:
    """S/N of the bins; 0 where it is not known."""
    return np.nan_to_num(np.asarray(part["SNR"], dtype=np.float64))  # type: ignore[index]
