"""Corner plot of the labels of one star."""

from __future__ import annotations

from collections.abc import Sequence

import corner
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.labels import Labels, label_tex, label_unit
from bayes_cannon.plots_common import BLACK, BLUE, GREEN, ORANGE, label_text, row_of, title_of
from bayes_cannon.posterior_moments import is_simulated, posterior_names

__all__ = ["plot_corner"]

FloatArray = NDArray[np.float64]
_LEVELS = (1 - np.exp(-0.5), 1 - np.exp(-2.0))
"""Mass inside one and two sigma of a Gaussian of two dimensions: 39 % and 86 %."""


def _draws(result: xr.DataTree, group: str, names: Sequence[str], star: str) -> FloatArray:
    """Draws of one star, shape (n_draws, n_labels)."""
    dataset = result[group].to_dataset()
    row = row_of(dataset["star"].values.astype(np.str_), star)
    columns = [dataset[n].isel(star=row).transpose("chain", "draw").values.ravel() for n in names]
    draws = np.stack(columns, axis=1).astype(np.float64)
    if not np.isfinite(draws).all():
        raise InvalidDataError(f"star {star} has no {group}: its inference failed, see its flag.")
    return draws


def plot_corner(
    result: xr.DataTree,
    star: str,
    *,
    truth: ArrayLike | None = None,
    aspcap: Labels | None = None,
    names: Sequence[str] | None = None,
) -> Figure:
    """Corner plot of one star: formal and, where there is one, calibrated posterior.

    Contours hold 39 and 86 % of the mass (one and two sigma in two dimensions); dashed lines are
    the 16, 50 and 84 % quantiles, which the titles give too.

    Parameters
    ----------
    result
        What `infer_labels` returned.
    star
        Its id.
    truth
        True labels, shape (n_labels,), in the order of `names`.
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
    known = posterior_names(result)
    names = list(known if names is None else names)
    if unknown := [n for n in names if n not in known]:
        raise LabelError(f"unknown labels {', '.join(unknown)}; the result has {', '.join(known)}.")
    kinds = ["posterior"] + ["calibrated_posterior"] * ("calibrated_posterior" in result.children)
    samples = {kind: _draws(result, kind, names, star) for kind in kinds}
    true = None if truth is None else np.asarray(truth, dtype=np.float64)
    if true is not None and true.shape != (len(names),):
        raise InvalidDataError(f"truth has shape {true.shape}, expected ({len(names)},).")
    theirs = _catalogue_point(aspcap, star, names)
    size = 2.15 * len(names) + 0.6
    figure = plt.figure(figsize=(size, size))
    styles = {"posterior": (BLUE, "formal"), "calibrated_posterior": (ORANGE, "calibrated")}
    main = kinds[-1]
    limits = _ranges(samples[main], samples["posterior"], true, theirs)
    for kind in kinds:
        _draw_corner(figure, samples[kind], names, limits, styles[kind][0], titled=kind == main)
    handles = [Line2D([], [], color=styles[k][0], label=f"{styles[k][1]} posterior") for k in kinds]
    axes = np.array(figure.axes, dtype=object).reshape(len(names), len(names))
    handles += _mark_points(axes, true, theirs)
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=(0.97, 0.9), fontsize=11)
    figure.suptitle(
        title_of(f"Labels of {star}", simulated=is_simulated(result)), fontsize=13, y=0.995
    )
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
    main: FloatArray,
    formal: FloatArray,
    truth: FloatArray | None,
    theirs: tuple[FloatArray, FloatArray] | None,
) -> list[tuple[float, float]]:
    """Limits that hold both posteriors and the points beside them."""
    both = [np.percentile(d, [0.15, 99.85], axis=0) for d in (main, formal)]
    low, high = np.minimum(both[0][0], both[1][0]), np.maximum(both[0][1], both[1][1])
    extra = [truth] if truth is not None else []
    if theirs is not None:
        values, errors = theirs
        extra += [values - np.nan_to_num(errors), values + np.nan_to_num(errors)]
    for point in extra:
        low, high = np.fmin(low, point), np.fmax(high, point)
    margin = 0.06 * np.maximum(high - low, 1e-9)
    return list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _draw_corner(
    figure: Figure,
    draws: FloatArray,
    names: Sequence[str],
    limits: list[tuple[float, float]],
    color: str,
    *,
    titled: bool,
) -> None:
    corner.corner(
        draws, fig=figure, range=limits, bins=30, smooth=1.2, color=color, levels=_LEVELS,
        labels=[label_text(n) for n in names], label_kwargs={"fontsize": 11}, labelpad=0.02,
        plot_datapoints=False, plot_density=False, fill_contours=False, max_n_ticks=4,
        quantiles=[0.16, 0.5, 0.84], hist_kwargs={"density": True, "lw": 1.4},
        contour_kwargs={"linewidths": 1.3},
    )  # fmt: skip
    axes = np.array(figure.axes, dtype=object).reshape(len(names), len(names))
    for i, name in enumerate(names):
        ax = axes[i, i]
        ax.relim()
        ax.set_ylim(0, _tallest(ax))
        if titled:
            ax.set_title(_quantile_text(draws[:, i], name), fontsize=10.5)
    for ax in axes.ravel():
        ax.tick_params(labelsize=9)


def _tallest(ax: Axes) -> float:
    """Height that holds every histogram drawn in an axes so far."""
    tops = [float(np.max(np.asarray(patch.get_path().vertices)[:, 1])) for patch in ax.patches]
    return 1.12 * max(tops, default=1.0)


def _quantile_text(values: FloatArray, name: str) -> str:
    low, middle, high = np.quantile(values, [0.16, 0.5, 0.84])
    unit = label_unit(name)
    digits = 0 if min(high - middle, middle - low) >= 3 else (1 if unit == "K" else 3)
    up, down = f"{high - middle:.{digits}f}", f"{middle - low:.{digits}f}"
    return f"{label_tex(name)} = ${middle:.{digits}f}^{{+{up}}}_{{-{down}}}$ {unit}"


def _mark_points(
    axes: NDArray[np.object_],
    truth: FloatArray | None,
    theirs: tuple[FloatArray, FloatArray] | None,
) -> list[Line2D]:
    """Draw truth and catalogue into every panel; returns what the legend needs."""
    n = len(axes)
    handles: list[Line2D] = []
    if truth is not None:
        corner.overplot_lines(axes[0, 0].figure, truth, color=BLACK, lw=1.0)
        handles.append(Line2D([], [], color=BLACK, lw=1.0, label="truth"))
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
