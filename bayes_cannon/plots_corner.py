"""Corner plot of the labels of one star."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.arguments import KnownLabels, as_result, several
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.label_units import known_labels, units_of_result
from bayes_cannon.labels import Labels, label_tex
from bayes_cannon.plots_common import (
    BLACK,
    GREEN,
    corner_grid,
    label_text,
    result_title,
    row_of,
    star_text,
)
from bayes_cannon.plots_posterior import (
    POSTERIOR_STYLES,
    draw_contours,
    posterior_handle,
    star_draws,
)
from bayes_cannon.posterior_moments import posterior_names

__all__ = ["plot_corner"]

FloatArray = NDArray[np.float64]
_N_BINS = 28
_FEW = 3
"""Labels from which on the empty half of the figure has room for the legend."""


def plot_corner(
    result: xr.DataTree,
    star: str,
    *,
    truth: ArrayLike | None = None,
    aspcap: KnownLabels | None = None,
    names: str | Sequence[str] | None = None,
) -> Figure:
    """Corner plot of one star: formal and, where there is one, calibrated posterior.

    Contours hold 39 and 86 % of the draws (one and two sigma in two dimensions); each posterior
    has bins of its own, made for its width. On the diagonal both are densities of the same area;
    the numbers are median and 16 to 84 % interval, which dotted lines show.

    Parameters
    ----------
    result
        What `infer_labels` returned.
    star
        Its id.
    truth
        True labels, shape (n_labels,), in the order of `names`; NaN where unknown.
    aspcap
        The catalogue's labels, with errors, of a set of stars that holds this one.
    names
        Labels shown; all where left out.

    Raises
    ------
    InvalidDataError
        If the star is not there or has no posterior, or `truth` has another length.
    LabelError
        If a label is not in the result.
    """
    result, star = as_result(result), str(star)
    known = posterior_names(result)
    names = list(known) if names is None else several(names)
    if unknown := [n for n in names if n not in known]:
        raise LabelError(f"unknown labels {', '.join(unknown)}; the result has {', '.join(known)}.")
    kinds = [kind for kind in POSTERIOR_STYLES if kind in result.children]
    samples = {kind: star_draws(result, kind, names, star) for kind in kinds}
    true = None if truth is None else np.asarray(truth, dtype=np.float64)
    if true is not None and true.shape != (len(names),):
        raise InvalidDataError(f"truth has shape {true.shape}, expected ({len(names)},).")
    units = units_of_result(result, names)
    theirs = _catalogue_point(known_labels(aspcap, units), star, names)
    limits = _ranges(samples, true, theirs)
    texts = [label_text(n, units[n]) for n in names]
    figure, axes = corner_grid(texts, limits, side=2.8 if len(names) < _FEW else 0.0)
    for kind in kinds:
        for i in range(len(names)):
            for k in range(i):
                draw_contours(axes[i, k], samples[kind][:, [k, i]], POSTERIOR_STYLES[kind])
    for i, name in enumerate(names):
        _draw_diagonal(axes[i, i], {k: samples[k][:, i] for k in kinds}, name, units[name])
    handles = [posterior_handle(POSTERIOR_STYLES[kind]) for kind in kinds]
    handles += _mark_points(axes, true, theirs)
    note = "contours: 39 and 86 % of the draws\nnumbers, dotted: median, 16 to 84 %"
    figure.legend(handles=handles, title=note, loc="upper right", fontsize=10.5,
                  bbox_to_anchor=(0.985, 0.94), title_fontsize=9.5, alignment="left")  # fmt: skip
    figure.suptitle(result_title(f"Labels of {star_text(star)}", result), fontsize=13)
    return figure


def _catalogue_point(
    aspcap: Labels | None, star: str, names: Sequence[str]
) -> tuple[FloatArray, FloatArray] | None:
    """Values and errors of the catalogue for one star, NaN for labels it lacks."""
    if aspcap is None:
        return None
    row = row_of(aspcap.star_id, star)
    values, errors = np.full((2, len(names)), np.nan)
    for i, name in enumerate(names):
        if name in aspcap.names:
            values[i], errors[i] = aspcap[name][row], aspcap.error(name)[row]
    return values, errors


def _ranges(
    samples: dict[str, FloatArray],
    truth: FloatArray | None,
    theirs: tuple[FloatArray, FloatArray] | None,
) -> list[tuple[float, float]]:
    """Limits that hold all posteriors and the points beside them."""
    both = [np.percentile(d, [0.3, 99.7], axis=0) for d in samples.values()]
    low, high = np.min([b[0] for b in both], axis=0), np.max([b[1] for b in both], axis=0)
    extra = [truth] if truth is not None else []
    if theirs is not None:
        values, errors = theirs
        extra += [values - np.nan_to_num(errors), values + np.nan_to_num(errors)]
    for point in extra:
        low, high = np.fmin(low, point), np.fmax(high, point)
    margin = 0.08 * np.maximum(high - low, 1e-9)
    return list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _draw_diagonal(ax: Axes, columns: dict[str, FloatArray], name: str, unit: str) -> None:
    """Histogram of each kind in bins of its own, and its median and interval as text."""
    tallest = 0.0
    for kind, values in columns.items():
        style = POSTERIOR_STYLES[kind]
        low, high = np.percentile(values, [0.05, 99.95])
        edges = np.linspace(low, max(high, low + 1e-9), _N_BINS + 1)
        density = np.histogram(values, edges, density=True)[0]
        tallest = max(tallest, float(density.max()))
        if style.fill:
            ax.stairs(density, edges, fill=True, color=style.color, alpha=style.fill)
        ax.stairs(density, edges, color=style.color, lw=1.4, label=f"{style.name} posterior")
        for at in np.quantile(values, [0.16, 0.5, 0.84]):
            ax.axvline(at, color=style.color, lw=1.0, ls=":", zorder=1)
    ax.set_ylim(0, 1.1 * tallest)
    *others, main = columns
    text = f"{label_tex(name)} = {_quantile_text(columns[main], unit)}"
    ax.set_title(text, fontsize=10.5, color=POSTERIOR_STYLES[main].color, pad=25 if others else 6)
    for kind in others:
        ax.annotate(
            f"{POSTERIOR_STYLES[kind].name} {_quantile_text(columns[kind], unit)}", (0.5, 1),
            (0, 4), xycoords="axes fraction", textcoords="offset points", ha="center", va="bottom",
            fontsize=9, color=POSTERIOR_STYLES[kind].color,
        )  # fmt: skip


def _quantile_text(values: FloatArray, unit: str) -> str:
    """Median and interval with their unit."""
    low, middle, high = np.quantile(values, [0.16, 0.5, 0.84])
    digits = 0 if min(high - middle, middle - low) >= 3 else (1 if unit == "K" else 3)
    up, down = f"{high - middle:.{digits}f}", f"{middle - low:.{digits}f}"
    return f"${middle:.{digits}f}^{{+{up}}}_{{-{down}}}$ {unit}".rstrip()


def _mark_points(
    axes: NDArray[np.object_],
    truth: FloatArray | None,
    theirs: tuple[FloatArray, FloatArray] | None,
) -> list[Line2D]:
    """Draw truth and catalogue into every panel; returns what the legend needs."""
    n = len(axes)
    handles: list[Line2D] = []
    if truth is not None:
        for i in range(n):
            axes[i, i].axvline(truth[i], color=BLACK, lw=1.2)
            for k in range(i):
                axes[i, k].axvline(truth[k], color=BLACK, lw=0.9)
                axes[i, k].axhline(truth[i], color=BLACK, lw=0.9)
        handles.append(Line2D([], [], color=BLACK, lw=1.2, label="truth"))
    if theirs is not None:
        values, errors = theirs
        for i in range(n):
            axes[i, i].axvline(values[i], color=GREEN, lw=1.4)
            axes[i, i].axvspan(values[i] - errors[i], values[i] + errors[i], color=GREEN,
                               alpha=0.2, lw=0)  # fmt: skip
            for k in range(i):
                axes[i, k].errorbar(values[k], values[i], errors[i], errors[k], color=GREEN,
                                    marker="s", ms=4, lw=1.2, zorder=5)  # fmt: skip
        handles.append(Line2D([], [], color=GREEN, marker="s", ms=4, label="ASPCAP ± 1 sd"))
    return handles
