"""Figures of a check of calibration: coverage, PIT and scores.

Figure of the ranks of simulation-based calibration.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.stats import binom

from bayes_cannon.analysis.calibration import LEVELS, TOLERANCES, Check
from bayes_cannon.analysis.sbc.ranks import Ranks
from bayes_cannon.analysis.scores import Scores
from bayes_cannon.base.cards import count_text
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    label_text,
    new_figure,
    title_of,
)
from bayes_cannon.plots.posteriors import POSTERIOR_STYLES
from bayes_cannon.spectra.label_kinds import label_tex

__all__ = [
    "plot_calibration",
    "plot_ranks",
    "plot_scores",
]


_COLOURS = {style.name: style.color for style in POSTERIOR_STYLES.values()}
_BINS = 10
_AXES = {
    "S/N": "S/N per pixel",
    "DISTANCE": "Mahalanobis distance\nfrom the training labels",
}


def _kinds(check: Check, reference: str) -> list[str]:
    kinds = [kind for name, kind in check.scores if name == reference]
    if not kinds:
        known = ", ".join(dict.fromkeys(name for name, _ in check.scores))
        raise InvalidDataError(f"the check has no reference {reference!r}; it has {known}.")
    return kinds


def plot_calibration(check: Check, reference: str) -> Figure:
    """Coverage and PIT histograms of every label against one reference.

    Top: part of the stars whose central interval holds the reference, against the nominal level;
    bars are binomial standard errors, brackets the tolerances. Bottom: histograms of the
    probability integral transform, flat where the posterior is calibrated; the band holds 99 % of
    a bin's counts then, and the number is the p-value of a Kolmogorov-Smirnov test.

    Parameters
    ----------
    check
        What `check_calibration` found.
    reference
        Name of the reference, ``truth`` say.

    Raises
    ------
    InvalidDataError
        If the check has no such reference.
    """
    kinds = _kinds(check, reference)
    names = check.scores[reference, kinds[0]].names
    figure = new_figure((2.6 * len(names) + 0.6, 6.4))
    axes = figure.subplots(2, len(names), squeeze=False, sharey="row")
    for i, (top, bottom) in enumerate(axes.T):
        _draw_coverage(top, check, reference, names[i])
        for kind in kinds:
            found = check.scores[reference, kind]
            _draw_pit(bottom, found, i, kind, last=kind == check.judged)
        top.set_title(label_tex(names[i]), fontsize=12)
        bottom.set_xlabel("PIT (probability below\nthe reference)")
        top.set_xlabel("nominal level")
    axes[0, 0].set_ylabel("fraction of stars inside")
    axes[1, 0].set_ylabel("stars per bin / expected")
    axes[1, 0].set_ylim(bottom=0)
    axes[0, 0].set_ylim(_lowest(check, reference), 1.02)
    n = int(max(check.coverage["N"][check.coverage["REFERENCE"] == reference]))
    text = f"Calibration against the {reference}, {count_text(n, 'held-out star')}"
    figure.suptitle(title_of(text, simulated=check.simulated), fontsize=13)
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=_COLOURS[k], marker="o", ms=5, label=f"{k} posterior") for k in kinds
    ]
    handles += [
        Line2D([], [], color=GREY, ls="--", label="perfect"),
        Line2D([], [], color="black", lw=3, alpha=0.3, label="tolerance (top)"),
        Patch(color=GREY, alpha=0.25, label="99 % of counts if calibrated (bottom)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9.5)
    return figure


def _draw_coverage(ax: Axes, check: Check, reference: str, label: str) -> None:
    table = check.coverage
    ax.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
    rows = table[(table["REFERENCE"] == reference) & (table["LABEL"] == label)]
    for row in rows:
        cover = [row[f"COVER_{100 * level:g}"] for level in LEVELS]
        error = [row[f"COVER_{100 * level:g}_SE"] for level in LEVELS]
        ax.errorbar(LEVELS, cover, error, fmt="o-", ms=4, lw=1, color=_COLOURS[row["KIND"]])
        if row["KIND"] == check.judged:
            for tolerance in TOLERANCES:
                low, high = tolerance.limits(int(row["N"]))
                ax.plot([tolerance.level] * 2, [low, high], color="black", lw=7, alpha=0.18,
                        solid_capstyle="butt")  # fmt: skip
    ax.set(xlim=(0.45, 1), xticks=LEVELS)
    ax.set_xticklabels([f"{level:.2f}" if level != 0.9 else "" for level in LEVELS])


def _lowest(check: Check, reference: str) -> float:
    """Lower end of the axis of coverage: all points and tolerances with their errors are inside."""
    rows = check.coverage[check.coverage["REFERENCE"] == reference]
    low = [min(LEVELS), *(t.limits(int(row["N"]))[0] for row in rows for t in TOLERANCES)]
    for level in LEVELS:
        name = f"COVER_{100 * level:g}"
        low += [float(row[name]) - float(row[f"{name}_SE"]) for row in rows]
    return max(0.0, float(np.nanmin(low)) - 0.03)


def _draw_pit(ax: Axes, found: Scores, i: int, kind: str, *, last: bool) -> None:
    pit = found.pit[np.isfinite(found.pit[:, i]), i]
    edges = np.linspace(0, 1, _BINS + 1)
    expected = pit.size / _BINS
    counts = np.histogram(pit, edges)[0] / expected
    ax.stairs(counts, edges, color=_COLOURS[kind], lw=1.8, fill=False, zorder=3 if last else 2)
    if not last:
        return
    low, high = binom.ppf([0.005, 0.995], pit.size, 1 / _BINS) / expected
    ax.axhspan(low, high, color=GREY, alpha=0.25, lw=0)
    ax.axhline(1, color=GREY, ls="--", lw=1)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1])


def plot_scores(check: Check, reference: str, *, kind: str | None = None) -> Figure:
    """Pulls, by rank, in bins of stars: a row per kind of bin, a column per label.

    A pull by rank is the normal quantile of the PIT, the rank of the reference among the draws: of
    a Gaussian posterior, reference less ours over the error. Mean (0 where unbiased) and
    standard deviation (1 where intervals are as wide as they should be; above where too narrow)
    with their standard errors.

    Parameters
    ----------
    check
        What `check_calibration` found.
    reference
        Name of the reference.
    kind
        ``calibrated`` or ``formal``; left out, the one that is judged.

    Raises
    ------
    InvalidDataError
        If the check has no such reference or kind.
    """
    kind = kind or check.judged
    if kind not in _kinds(check, reference):
        raise InvalidDataError(f"the check has no {kind} posterior against the {reference}.")
    table = check.bins
    table = table[(table["REFERENCE"] == reference) & (table["KIND"] == kind)]
    names = check.scores[reference, kind].names
    units = {str(r["LABEL"]): str(r["UNIT"]) for r in check.coverage}
    bys = list(dict.fromkeys(str(by) for by in table["BY"]))
    figure = new_figure((2.5 * len(names) + 0.6, 2.1 * len(bys) + 1.2))
    axes = figure.subplots(len(bys), len(names), squeeze=False, sharex="row", sharey=True)
    for row, by in zip(axes, bys, strict=True):
        for ax, name in zip(row, names, strict=True):
            part = table[(table["BY"] == by) & (table["LABEL"] == name)]
            for column, colour, marker, ideal in (("MEAN", BLACK, "o", 0), ("SD", PURPLE, "s", 1)):
                ax.axhline(ideal, color=colour, ls="--", lw=1, alpha=0.7)
                ax.errorbar(part["CENTER"], part[column], part[f"{column}_SE"], fmt=marker + "-",
                            ms=5, lw=1, color=colour)  # fmt: skip
            ax.margins(x=0.12)
        row[len(names) // 2].set_xlabel(_bin_axis(by, units))
        row[0].set_ylabel("pull, by rank")
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(label_tex(name), fontsize=12)
    text = f"Pulls, by rank, of the {kind} posteriors against the {reference}"
    figure.suptitle(title_of(text, simulated=check.simulated), fontsize=13)
    handles = [
        Line2D([], [], color=BLACK, marker="o", label="mean (dashed: unbiased)"),
        Line2D([], [], color=PURPLE, marker="s", label="standard deviation (dashed: calibrated)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _bin_axis(by: str, units: Mapping[str, str]) -> str:
    if by in _AXES:
        return f"{_AXES[by]} (median of a third of the stars)".replace("\n", " ")
    text = label_text(by, units.get(by))
    return f"{text}, posterior mean (median of a third of the stars)"


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
    figure.supxlabel(
        f"rank of the true value among {count_text(ranks.n_kept, 'draw')}", fontsize=11
    )
    figure.supylabel("simulations", fontsize=11)
    figure.suptitle(
        f"{title[:1].upper()}{title[1:]}: {count_text(ranks.n_simulations, 'simulation')}",
        fontsize=12,
    )
    return figure
