"""How far stars lie from the giant branch of their own metallicity."""

from __future__ import annotations

import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.isochrones import IsochroneSet, packaged_isochrones
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import GivenResult, as_table
from bayes_cannon.plots.common import BLACK, GREY, ORANGE, label_text, new_axes, table_title
from bayes_cannon.plots.kiel import SIX_GYR

__all__ = ["plot_kiel_offsets"]


_NEEDED = ("TEFF", "LOGG", "FE_H")
_MOST_BINS, _PER_BIN = 8, 12


def plot_kiel_offsets(
    table: Table | GivenResult,
    *,
    isochrones: IsochroneSet | None = None,
    log10_age: float = SIX_GYR,
    ax: Axes | None = None,
) -> Axes:
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
    return ax
