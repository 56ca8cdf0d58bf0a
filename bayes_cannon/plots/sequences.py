"""Model spectra along a sequence of labels: [Fe/H], or the giant branch."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import offset_copy
from numpy.typing import ArrayLike

from bayes_cannon.analysis.isochrones import Isochrone
from bayes_cannon.analysis.lines import lines_in
from bayes_cannon.analysis.sequences import (
    GIANT_BRANCH,
    METALLICITIES,
    LabelSequence,
    isochrone_sequence,
    metallicity_sequence,
)
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenModel, as_model
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.common import (
    GREY,
    figure_of,
    mark_lines,
    new_axes,
    title_of,
    wavelength_label,
    with_gaps,
    within,
)

__all__ = [
    "plot_giant_branch",
    "plot_metallicity",
    "plot_sequence",
]

Window = tuple[float, float] | None
_KINDS = ("atomic", "brackett", "oh", "co_head")
"""Kinds of lines that are named."""
_NAMES_ABOVE = 74
_LEGEND_BELOW = 38
"""Points between the axes and the legend, for ticks and label."""
_COLORS = (0.0, 0.75)
"""Part of the colour map that is dark enough on white."""


def plot_sequence(
    cannon: GivenModel,
    sequence: LabelSequence,
    *,
    window: Window = (16000.0, 16200.0),
    n_lines: int = 25,
    ax: Axes | None = None,
) -> Figure:
    """Model spectra along a sequence, one above the other, with the lines named.

    Spectra of labels that the model was not trained for are dashed, and say so: there the
    polynomial extrapolates. Their band, one standard deviation that comes from the coefficients,
    does not know how wrong a polynomial is beyond its data.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    sequence
        What a function of `bayes_cannon.analysis.sequences` made.
    window
        Wavelengths shown, Å; None: all.
    n_lines
        Most lines named: the deepest in the spectra shown.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    InvalidDataError
        If the sequence is not of the model's labels, or the window holds no pixel.
    """
    cannon = as_model(cannon)
    if sequence.names != cannon.names:
        raise InvalidDataError(
            f"the sequence is of {', '.join(sequence.names)}, the model of "
            f"{', '.join(cannon.names)}; make it from this model."
        )
    part = within(cannon.wavelength, window)
    w, used = cannon.wavelength[part], cannon.used[part]
    found = cannon.predict(sequence.values)
    flux, sd = found.flux[:, part], found.coef_sd[:, part]
    n = len(sequence)
    step = _step(flux[:, used])
    ax = new_axes(ax, (12, 2.6 + 0.75 * n))
    colors = plt.get_cmap("viridis")(np.linspace(*_COLORS, n))
    for i in range(n):
        style = (0, (4, 1.2)) if sequence.outside[i] else "-"
        x, y = with_gaps(w, flux[i] + i * step, used)
        edge = with_gaps(w, sd[i], used)[1]
        ax.fill_between(x, y - edge, y + edge, color=colors[i], alpha=0.3, lw=0)
        ax.plot(x, y, color=colors[i], lw=0.9, ls=style, label=sequence.text(i))
        text = sequence.text(i).replace(", ", "\n")
        text += "\noutside training" if sequence.outside[i] else ""
        ax.annotate(text, (1.008, 1.0 + i * step), xycoords=("axes fraction", "data"), va="center",
                    fontsize=9, color=colors[i], annotation_clip=False)  # fmt: skip
    ax.set_xlim(w[0], w[-1])
    top = 1.0 + (n - 0.65) * step
    heights = flux[:, used] + step * np.arange(n)[:, None]
    ax.set_ylim(float(heights.min(initial=0.9)) - 0.1 * step,
                max(float(heights.max(initial=1.0)) + 0.05 * step, top))  # fmt: skip
    ax.set(
        xlabel=wavelength_label(cannon.medium),
        ylabel=f"normalised flux, each {step:.2f} above the last",
    )
    lines = _deepest(w, np.where(used, flux, np.nan), n_lines, cannon.medium)
    mark_lines(ax, list(lines[cannon.medium]), list(lines["name"]))
    _explain(ax, cannon, sequence, named=len(lines) > 0)
    return figure_of(ax)


def plot_metallicity(
    cannon: GivenModel,
    *,
    feh: ArrayLike = METALLICITIES,
    labels: ArrayLike | None = None,
    window: Window = (16000.0, 16200.0),
    ax: Axes | None = None,
) -> Figure:
    """Model spectra for [Fe/H] from −1 to 0.5, all else the same; see `plot_sequence`.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    feh : (n,) float
        Dex.
    labels : (n_labels,) float
        The other labels; the median of the training stars where left out.
    window
        Wavelengths shown, Å; None: all.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    LabelError, InvalidDataError
        As of `metallicity_sequence` and `plot_sequence`.
    """
    cannon = as_model(cannon)
    return plot_sequence(cannon, metallicity_sequence(cannon, feh, at=labels), window=window, ax=ax)


def plot_giant_branch(
    cannon: GivenModel,
    *,
    log_g: ArrayLike = GIANT_BRANCH,
    isochrone: Isochrone | None = None,
    window: Window = (16000.0, 16200.0),
    ax: Axes | None = None,
) -> Figure:
    """Model spectra up the giant branch of an isochrone, log g from 3.5 to 0.5.

    For the ridge line of the training stars instead, give `plot_sequence` a `ridge_sequence`.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    log_g : (n,) float
        Dex, inside the isochrone's giant branch.
    isochrone
        Left out, the packaged one nearest to 6 Gyr and to [Fe/H] = 0.
    window
        Wavelengths shown, Å; None: all.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    LabelError, InvalidDataError
        As of `isochrone_sequence` and `plot_sequence`.
    """
    cannon = as_model(cannon)
    sequence = isochrone_sequence(cannon, log_g, isochrone=isochrone)
    return plot_sequence(cannon, sequence, window=window, ax=ax)


def _step(flux: FloatArray) -> float:
    """Distance of neighbouring spectra: their lines may reach into each other, not their bulk."""
    if flux.size == 0:
        return 0.1
    depth = np.percentile(flux, 99) - np.percentile(flux, 1)
    return float(max(np.ceil(20 * depth) / 20, 0.05))


def _deepest(wavelength: FloatArray, flux: FloatArray, n: int, medium: str) -> Table:
    """Lines of the list among the pixels, at most n: those where a spectrum is deepest."""
    lines = lines_in(float(wavelength[0]), float(wavelength[-1]), kinds=_KINDS, medium=medium)
    depth = []
    for line in lines[medium]:
        near = flux[:, np.abs(wavelength - line) < 0.6]
        near = near[np.isfinite(near)]
        depth.append(1 - near.min() if near.size else -np.inf)
    known = np.array(depth, dtype=np.float64)
    best = np.argsort(-known)[:n]
    return lines[np.sort(best[np.isfinite(known[best])])]


def _explain(ax: Axes, cannon: Cannon, sequence: LabelSequence, *, named: bool) -> None:
    """Title, what stays the same, what to cite, and the legend of the styles."""
    rest = f"; {sequence.rest}" if sequence.rest else ""
    title = title_of(sequence.title, simulated=cannon.simulated)
    ax.set_title(f"{title}{rest}", fontsize=10.5, pad=_NAMES_ABOVE if named else None)
    handles: list[Line2D | Patch] = [
        Patch(color=GREY, alpha=0.4, lw=0, label="± 1 sd, coefficients")
    ]
    if sequence.outside.any():
        handles.append(
            Line2D([], [], color=GREY, ls=(0, (4, 1.2)),
                   label="labels outside those of the training stars: extrapolated")
        )  # fmt: skip
    if sequence.source:
        handles.append(Line2D([], [], ls="", label=f"isochrone: {sequence.source}"))
    below = offset_copy(
        ax.transAxes, fig=ax.get_figure(root=True), y=-_LEGEND_BELOW, units="points"
    )
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below,
              ncols=len(handles), fontsize=8.5, frameon=False)  # fmt: skip
