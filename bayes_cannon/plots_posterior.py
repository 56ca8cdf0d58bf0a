"""How the two posteriors of a star, formal and calibrated, are drawn wherever they are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bayes_cannon.errors import InvalidDataError
from bayes_cannon.mass_contours import mass_contours
from bayes_cannon.plots_common import BLUE, ORANGE, row_of

__all__ = ["POSTERIOR_STYLES", "PosteriorStyle", "draw_contours", "posterior_handle", "star_draws"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PosteriorStyle:
    """How one kind of posterior is drawn.

    Attributes
    ----------
    name : str
        For the legend.
    color, lines : str
        Colour and style of its lines.
    fill : float
        Opacity inside its contours; 0: not filled.
    """

    name: str
    color: str
    lines: str
    fill: float


POSTERIOR_STYLES: Mapping[str, PosteriorStyle] = MappingProxyType(
    {
        "posterior": PosteriorStyle("formal", BLUE, "--", 0.0),
        "calibrated_posterior": PosteriorStyle("calibrated", ORANGE, "-", 0.25),
    }
)
"""By the groups of a result of inference."""


def star_draws(result: xr.DataTree, group: str, names: Sequence[str], star: str) -> FloatArray:
    """Draws of one star, shape (n_draws, n_labels).

    Raises
    ------
    InvalidDataError
        If the star is not there, or its inference failed.
    """
    dataset = result[group].to_dataset()
    row = row_of(dataset["star"].values.astype(np.str_), star)
    columns = [dataset[n].isel(star=row).transpose("chain", "draw").values.ravel() for n in names]
    draws = np.stack(columns, axis=1).astype(np.float64)
    if not np.isfinite(draws).all():
        raise InvalidDataError(f"star {star} has no {group}: its inference failed, see its flag.")
    return draws


def draw_contours(
    ax: Axes, draws: FloatArray, style: PosteriorStyle, *, zorder: float | None = None
) -> None:
    """Draw contours that hold 39 and 86 % of draws (n_draws, 2): one and two sigma."""
    found = mass_contours(draws)
    if style.fill:
        ends = [*found.thresholds, max(found.density.max(), found.thresholds[-1]) * 1.01]
        for low in ends[:-1]:
            ax.contourf(found.x, found.y, found.density, [low, ends[-1]],
                        colors=[style.color], alpha=style.fill, zorder=zorder)  # fmt: skip
    ax.contour(found.x, found.y, found.density, found.thresholds, colors=[style.color],
               linewidths=1.4, linestyles=style.lines, zorder=zorder)  # fmt: skip


def posterior_handle(style: PosteriorStyle) -> Line2D | Patch:
    """Entry of a legend."""
    label = f"{style.name} posterior"
    if style.fill:
        return Patch(facecolor=(style.color, style.fill), edgecolor=style.color, lw=1.4,
                     label=label)  # fmt: skip
    return Line2D([], [], color=style.color, ls=style.lines, label=label)
