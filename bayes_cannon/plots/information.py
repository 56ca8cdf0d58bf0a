"""Where the information on labels is, and where inference takes them from."""

from __future__ import annotations

from typing import Literal

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_cannon.analysis.information import OTHERS, OWN
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.plots.common import BLACK, GREY, figure_of, new_axes, title_of
from bayes_cannon.spectra.label_kinds import label_tex

__all__ = [
    "plot_information",
]


_TITLES = {
    "INFORMATION": "Where the information on each label is",
    "FILTER": "Where each inferred label comes from",
}
_SAYS = {
    "INFORMATION": "share of the sum of (gradient/σ)² (per cent)",
    "FILTER": "share of the optimal filter (per cent)",
}
_DARK = 0.6
"""Share from which numbers are white."""


def plot_information(
    information: Table,
    *,
    share: Literal["FILTER", "INFORMATION"] = "FILTER",
    ax: Axes | None = None,
) -> Figure:
    """Share of each group of lines in each label, in per cent: a row a label, a column a group.

    Groups are the species of the line list, in order of their largest share, and pixels near no
    line of the list; together 100. The first column, apart, is that of the label's own lines.

    Parameters
    ----------
    information
        What `bayes_cannon.analysis.line_information` returned.
    share
        ``"FILTER"``: of the optimal filter, what the inferred label takes from the group (may be
        negative); ``"INFORMATION"``: what the pixels of the group know, each for itself.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    InvalidDataError
        On another table, or another share.
    """
    if share not in _TITLES:
        raise InvalidDataError(f"share must be 'FILTER' or 'INFORMATION', not {share!r}.")
    if not {"LABEL", "GROUP", share} <= set(information.colnames):
        raise InvalidDataError("the table must be that of line_information.")
    shares = {
        (str(label), str(group)): float(value)
        for label, group, value in zip(
            information["LABEL"], information["GROUP"], information[share], strict=True
        )
    }
    labels = list(dict.fromkeys(label for label, _ in shares))
    groups = _ordered(labels, shares)
    values = np.array([[shares.get((n, g), np.nan) for g in groups] for n in labels])
    ax = new_axes(ax, (2.4 + 0.75 * len(groups), 1.8 + 0.5 * len(labels)))
    ax.imshow(values, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{round(100 * value)}"
        color = "white" if abs(value) > _DARK else BLACK
        ax.text(column, row, text, ha="center", va="center", fontsize=9, color=color)
    ax.axvline(0.5, color=GREY, lw=2)
    ax.set_xticks(range(len(groups)), [_broken(group) for group in groups], fontsize=9)
    ax.set_yticks(range(len(labels)), [label_tex(name) for name in labels])
    ax.tick_params(length=0)
    width = information.meta.get("half_width")
    near = f", pixels within {width:g} Å of a line" if width else ""
    ax.set_xlabel(f"{_SAYS[share]}{near}")
    simulated = bool(information.meta.get("simulated", False))
    ax.set_title(title_of(_TITLES[share], simulated=simulated), fontsize=11)
    return figure_of(ax)


def _ordered(labels: list[str], shares: dict[tuple[str, str], float]) -> list[str]:
    """Groups by their largest share; the labels' own lines first, what is near no line last."""
    species = {group for _, group in shares} - {OWN, OTHERS}

    def largest(group: str) -> float:
        return max(abs(shares.get((name, group), 0.0)) for name in labels)

    return [OWN, *sorted(species, key=lambda group: (-largest(group), group)), OTHERS]


def _broken(group: str) -> str:
    return group.replace(" ", "\n", 1)
