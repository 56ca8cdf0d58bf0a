"""How the two posteriors of a star, formal and calibrated, are drawn wherever they are shown.

Contours hold stated parts of a cloud of draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.ndimage import gaussian_filter, map_coordinates

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.posterior import holds_moments, model_is_simulated, which_simulated
from bayes_cannon.inference.summaries.described import described_draws
from bayes_cannon.plots.common import (
    BLUE,
    ORANGE,
    title_of,
)
from bayes_cannon.spectra.star_ids import row_of

__all__ = [
    "ONE_TWO_SIGMA",
    "POSTERIOR_STYLES",
    "MassContours",
    "PosteriorStyle",
    "draw_contours",
    "mass_contours",
    "posterior_handle",
    "star_draws",
    "title_of_star",
]


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

    Where moments alone were kept, draws of what they describe: of the calibrated posterior's
    Student t, or of the formal one's normal distribution, the same at every call.

    Parameters
    ----------
    result
        Result of inference.
    group
        ``posterior`` or ``calibrated_posterior``.
    names
        Labels wanted.
    star
        Name of the star.

    Raises
    ------
    InvalidDataError
        If the star is not there, or its inference failed.
    """
    dataset = result[group].to_dataset()
    row = row_of(dataset["star"].values.astype(np.str_), star)
    if holds_moments(dataset):
        draws = described_draws(dataset.isel(star=[row]), names)[:, 0]
    else:
        part = dataset[list(names)].isel(star=row).transpose("chain", "draw")
        draws = np.stack([part[n].values.ravel() for n in names], axis=1).astype(np.float64)
    if not np.isfinite(draws).all():
        raise InvalidDataError(f"star {star} has no {group}: its inference failed, see its flag.")
    return draws


def title_of_star(text: str, result: xr.DataTree, star: str) -> str:
    """Title of a figure of one star, which says whether its spectrum, or the model, is simulated.

    Parameters
    ----------
    text
        What the figure shows.
    result
        Result of inference.
    star
        Name of the star.
    """
    row = row_of(result["posterior"].to_dataset()["star"].values.astype(np.str_), star)
    simulated = bool(which_simulated(result)[row])
    return title_of(text, simulated=simulated, model_simulated=model_is_simulated(result))


def draw_contours(
    ax: Axes, draws: FloatArray, style: PosteriorStyle, *, zorder: float | None = None
) -> None:
    """Draw contours that hold 39 and 86 % of draws (n_draws, 2): one and two sigma.

    Parameters
    ----------
    ax
        Axes to draw into.
    draws : (n_draws, 2) float
        Of the two labels.
    style
        Colours and lines.
    zorder
        Order of drawing.
    """
    found = mass_contours(draws)
    if style.fill:
        ends = [*found.thresholds, max(found.density.max(), found.thresholds[-1]) * 1.01]
        for low in ends[:-1]:
            ax.contourf(found.x, found.y, found.density, [low, ends[-1]],
                        colors=[style.color], alpha=style.fill, zorder=zorder)  # fmt: skip
    ax.contour(found.x, found.y, found.density, found.thresholds, colors=[style.color],
               linewidths=1.4, linestyles=style.lines, zorder=zorder)  # fmt: skip


def posterior_handle(style: PosteriorStyle) -> Line2D | Patch:
    """Entry of a legend.

    Parameters
    ----------
    style
        Colours and lines.
    """
    label = f"{style.name} posterior"
    if style.fill:
        return Patch(facecolor=(style.color, style.fill), edgecolor=style.color, lw=1.4,
                     label=label)  # fmt: skip
    return Line2D([], [], color=style.color, ls=style.lines, label=label)


ONE_TWO_SIGMA = (float(1 - np.exp(-0.5)), float(1 - np.exp(-2.0)))
"""Mass inside one and two sigma of a Gaussian of two dimensions: 39 % and 86 %."""

_N_CELLS = 60
_FEWEST = 20


@dataclass(frozen=True, eq=False)
class MassContours:
    """Density of draws on a mesh, and the densities that enclose the wanted parts of the draws.

    Ready for ``ax.contour(c.x, c.y, c.density, levels=c.thresholds)``.

    Attributes
    ----------
    x, y : (n_cells, n_cells) float64
        Coordinates of the mesh, in the draws' units.
    density : (n_cells, n_cells) float64
        Relative density of the draws.
    thresholds : (n_levels,) float64
        Rising, so that the widest contour comes first.
    """

    x: FloatArray
    y: FloatArray
    density: FloatArray
    thresholds: FloatArray


def mass_contours(draws: FloatArray, levels: Sequence[float] = ONE_TWO_SIGMA) -> MassContours:
    """Find contours that hold stated parts of draws of two quantities.

    The density is a smoothed histogram in coordinates in which the draws have unit covariance:
    neither a narrow cloud nor a tilted one is widened by cells made for another. The threshold of
    a level is the density that this part of the draws exceeds.

    Parameters
    ----------
    draws
        Shape (n_draws, 2).
    levels
        Parts of the draws, between 0 and 1.

    Raises
    ------
    InvalidDataError
        If there are too few draws, some are not finite, or a level is impossible.
    """
    if draws.ndim != 2 or draws.shape[1] != 2 or len(draws) < _FEWEST:
        raise InvalidDataError(
            f"contours need at least {count_text(_FEWEST, 'draw')} of two quantities, got shape "
            f"{draws.shape}."
        )
    if not np.isfinite(draws).all() or not all(0 < level < 1 for level in levels):
        raise InvalidDataError("contours need finite draws, and levels between 0 and 1.")
    center = np.median(draws, axis=0)
    chol = _spread_of(draws - center)
    white = np.linalg.solve(chol, (draws - center).T)
    edges = np.stack([_edges(row) for row in white])
    counts = np.histogram2d(white[0], white[1], bins=[edges[0], edges[1]])[0]
    # Scott's rule in two dimensions, in cells.
    width = len(draws) ** (-1 / 6) / (edges[:, 1] - edges[:, 0])
    density = gaussian_filter(counts, width, mode="constant")
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    mesh = np.stack(np.meshgrid(middle[0], middle[1], indexing="ij"))
    x, y = np.einsum("ij,jab->iab", chol, mesh) + center[:, None, None]
    cell = (white - middle[:, :1]) / (edges[:, 1] - edges[:, 0])[:, None]
    own = map_coordinates(density, cell, order=1, mode="nearest")
    thresholds = np.quantile(own, 1 - np.sort(np.asarray(levels, dtype=np.float64))[::-1])
    return MassContours(x, y, density, _rising(thresholds))


def _spread_of(offset: FloatArray) -> FloatArray:
    """Cholesky factor of the covariance; of tiny round ones where draws do not vary."""
    scale = np.maximum(offset.std(axis=0), 1e-12)
    corr = np.cov((offset / scale).T) + 1e-6 * np.eye(2)
    return np.asarray(scale[:, None] * np.linalg.cholesky(corr))


def _edges(values: FloatArray) -> FloatArray:
    """Edges of cells that hold nearly all draws, with room for smoothing."""
    low, high = np.quantile(values, [0.001, 0.999])
    room = 0.35 * max(float(high - low), 1e-3)
    return np.linspace(low - room, high + room, _N_CELLS + 1)


def _rising(thresholds: FloatArray) -> FloatArray:
    """Strictly rising, as contours want them."""
    step = np.spacing(max(float(thresholds.max()), 1e-300)) * 4
    return np.asarray(np.maximum.accumulate(thresholds) + step * np.arange(thresholds.size))
