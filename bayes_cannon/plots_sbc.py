"""Figure of the ranks of simulation-based calibration."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom

from bayes_cannon.plots_common import BLUE, GREY, ORANGE, new_figure
from bayes_cannon.sbc import Ranks

__all__ = ["plot_ranks"]

_ALARM = 0.01


def plot_ranks(ranks: Ranks, *, title: str, n_columns: int = 4) -> Figure:
    """Histogram of the ranks of every parameter, with the p-value of its chi-square test.

    Flat where the posterior is calibrated, a bowl where it is too narrow, a hill where too wide.
    The band holds 99 % of a bin's counts if ranks are uniform. Orange where p is below 0.01.

    Parameters
    ----------
    ranks
        Of the simulations.
    title
        What was simulated.
    n_columns
        Panels per row.
    """
    n_columns = min(n_columns, len(ranks.names))
    n_rows = -(-len(ranks.names) // n_columns)
    figure = new_figure((2.7 * n_columns + 0.4, 2.1 * n_rows + 0.9))
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=True)
    expected = ranks.n_simulations / ranks.n_bins
    edges = np.linspace(0, ranks.n_kept + 1, ranks.n_bins + 1)
    low, high = binom.ppf([0.005, 0.995], ranks.n_simulations, 1 / ranks.n_bins)
    for ax, name, counts, p in zip(
        axes.flat, ranks.names, ranks.counts().T, ranks.p_values(), strict=False
    ):
        colour = BLUE if p > _ALARM else ORANGE
        ax.axhspan(low, high, color=GREY, alpha=0.25, lw=0)
        ax.axhline(expected, color=GREY, ls="--", lw=1)
        ax.stairs(counts, edges, color=colour, lw=1.6)
        ax.set_title(f"{name}, p = {p:.2g}", fontsize=10)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].set(xlim=(0, ranks.n_kept + 1), xticks=[0, 25, 50, 75])
    for ax in axes.flat[len(ranks.names) :]:
        ax.set_visible(False)
    figure.supxlabel(f"rank of the true value among {ranks.n_kept} draws", fontsize=11)
    figure.supylabel("simulations", fontsize=11)
    figure.suptitle(
        f"{title[:1].upper()}{title[1:]}: {ranks.n_simulations} simulations", fontsize=12
    )
    return figure
