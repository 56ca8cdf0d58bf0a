"""Corner plot of the labels of one star, as the package corner draws them (Foreman-Mackey 2016).

Bins, smoothing and the densities of the contours are those of that package; lines and fills go
straight into one path a panel, so that a survey's plots take a fifth of a second each.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from contourpy import FillType, LineType, contour_generator
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.rounding import error_digits
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_result
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.posterior import group_of, holds_moments, posterior_names
from bayes_cannon.inference.tables import catalogue_name
from bayes_cannon.inference.units import known_labels, units_of_result
from bayes_cannon.plots.common import (
    BLACK,
    GREEN,
    label_text,
    star_text,
)
from bayes_cannon.plots.posteriors import (
    ONE_TWO_SIGMA,
    POSTERIOR_STYLES,
    PosteriorStyle,
    posterior_handle,
    star_draws,
    title_of_star,
)
from bayes_cannon.spectra.label_kinds import label_tex
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import row_of

__all__ = ["plot_corner"]

_FEWEST_DRAWS = 20
_BINS, _BINS_1D, _POINTS = 36, 26, 500
_SOFT = "#444444"
_FEW = 3
"""Labels from which on the empty half of the figure has room for the legend."""
_PANEL, _LEFT, _RIGHT, _BELOW, _LEGEND = 1.5, 0.95, 0.25, 0.8, 2.9
"""Sizes in inches: a panel, the margins, and the room for a legend beside few panels."""
_LINE = 0.19
"""Height of a line of text, inches."""
_TALLEST = 4.0
"""Peak of a density, in units of the lowest peak, beyond which a panel cuts it."""


def plot_corner(
    result: GivenResult,
    star: str,
    *,
    truth: ArrayLike | None = None,
    aspcap: KnownLabels | None = None,
    names: str | Sequence[str] | None = None,
    snr: float | None = None,
    figure: Figure | None = None,
) -> Figure:
    """Corner plot of one star: formal and, where there is one, calibrated posterior.

    Contours hold 39.3 and 86.5 % of the draws: 1 and 2 sigma of a Gaussian in two dimensions. Each
    posterior has bins of its own, made for its width, and they are smoothed as Scott (1992) says
    for the tightest pair of labels; points are draws of the broader posterior. On the diagonal
    both are densities of the same area; a formal peak more than four times as high as the
    calibrated one is cut, and the legend says so. Numbers are the median and the 16 to 84 %
    interval (dotted lines), with two digits of the error. Below the star's name stand its S/N and
    its flags, where they are known. Moments that were kept are drawn from, and the title says so.

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
    snr
        S/N per pixel, for the title; left out, that of the result where it has one.
    figure
        An empty figure, or an earlier corner plot of as many labels, which is wiped: with the
        same figure many plots are drawn faster than each with a new one.

    Raises
    ------
    InvalidDataError
        If the star is not there or has no posterior, has fewer than 20 draws, or `truth` has
        another length.
    LabelError
        If a label is not in the result.
    """
    result, star = as_result(result), str(star)
    known = posterior_names(result)
    names = list(known) if names is None else list(one_or_more(names))
    if unknown := [n for n in names if n not in known]:
        raise LabelError(f"unknown labels {', '.join(unknown)}; the result has {', '.join(known)}.")
    kinds = [kind for kind in POSTERIOR_STYLES if kind in result.children]
    samples = {kind: star_draws(result, kind, names, star) for kind in kinds}
    if few := [k for k in kinds if len(samples[k]) < max(_FEWEST_DRAWS, len(names))]:
        raise InvalidDataError(
            f"star {star} has {count_text(len(samples[few[0]]), 'draw')}; a corner plot needs at "
            f"least {max(_FEWEST_DRAWS, len(names))}."
        )
    true = None if truth is None else np.asarray(truth, dtype=np.float64)
    if true is not None and true.shape != (len(names),):
        raise InvalidDataError(f"truth has shape {true.shape}, expected ({len(names)},).")
    units = units_of_result(result, names)
    theirs = _catalogue_point(known_labels(aspcap, units), star, names)
    heading = _heading(result, star, snr, wide=len(names) >= _FEW)
    figure, axes = _canvas(figure, len(names), n_lines=len(heading))
    for kind in reversed(kinds):  # the narrow formal one above
        _draw_posterior(axes, samples[kind], kind, points=kind == kinds[-1])
    _finish_axes(axes, _ranges(samples, true, theirs), [label_text(n, units[n]) for n in names])
    cut = False
    for i, name in enumerate(names):
        cut |= _limit_densities(axes[i, i])
        columns = {kind: samples[kind][:, i] for kind in kinds}
        _write_numbers(axes[i, i], columns, label_tex(name), units[name])
    handles = [posterior_handle(POSTERIOR_STYLES[kind]) for kind in kinds]
    handles += _mark_points(figure, axes, true, theirs, catalogue_name(aspcap, result))
    _write_legend(figure, handles, heading, cut=cut)
    return figure


def _heading(result: xr.DataTree, star: str, snr: float | None, *, wide: bool) -> list[str]:
    """Lines above the figure: the star, then S/N and flags where they are known."""
    stats = group_of(result, "star_stats") if "star_stats" in result.children else xr.Dataset()
    row = row_of(stats["star"].values.astype(np.str_), star) if "star" in stats else 0
    known = np.nan if snr is None else float(snr)
    if not np.isfinite(known) and "snr" in stats:
        known = float(stats["snr"].values[row])
    facts = [f"S/N {known:.0f}"] if np.isfinite(known) else []
    if "label_flag" in stats:
        flag = int(stats["label_flag"].values[row])
        flags = [str(bit.name) for bit in LabelFlag if flag & bit]
        facts.append(f"flags: {', '.join(flags)}" if flags else "no flags")
    facts += ["drawn from moments"] * holds_moments(group_of(result, "posterior"))
    title = title_of_star(f"Labels of {star_text(star)}", result, star)
    return [title, *textwrap.wrap("; ".join(facts), 90 if wide else 56)]


def _canvas(figure: Figure | None, n: int, *, n_lines: int) -> tuple[Figure, NDArray[np.object_]]:
    """Figure with n × n axes, wiped where it was used before; the upper triangle is invisible."""
    width = _LEFT + _PANEL * n + _RIGHT + (_LEGEND if n < _FEW else 0.0)
    above = 0.25 + _LINE * n_lines + 3.9 * _LINE
    height = _BELOW + _PANEL * n + above
    if figure is None:
        figure = plt.figure()
    figure.set_layout_engine(None)
    figure.set_size_inches(width, height)
    if not figure.axes:
        _label_outside(figure.subplots(n, n, squeeze=False))
    if len(figure.axes) != n * n:
        have = f"the figure has {len(figure.axes)} axes, and {count_text(n, 'label')} need {n * n}"
        raise InvalidDataError(f"{have}; pass an empty figure.")
    axes = np.array(figure.axes, dtype=object).reshape(n, n)
    for text in [*figure.texts, *figure.legends]:
        text.remove()
    for i, ax in enumerate(axes.ravel()):
        ax.set_visible(i % n <= i // n)
        for artist in [*ax.lines, *ax.collections, *ax.patches, *ax.texts]:
            artist.remove()
    return figure, axes


def _label_outside(axes: NDArray[np.object_]) -> None:
    """Numbers at the outer axes alone, and none at those of densities."""
    n = len(axes)
    for i in range(n):
        axes[i, i].yaxis.set_major_locator(NullLocator())
        for k in range(i + 1):
            axes[i, k].tick_params(labelbottom=i == n - 1, labelleft=k == 0 < i)


def _place(figure: Figure, n: int) -> None:
    """Panels side by side, and margins in inches."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=_LEFT / width, right=(_LEFT + _PANEL * n) / width, bottom=_BELOW / height,
        top=(_BELOW + _PANEL * n) / height, wspace=0.06, hspace=0.06,
    )  # fmt: skip


def _draw_posterior(
    axes: NDArray[np.object_], draws: FloatArray, kind: str, *, points: bool
) -> None:
    """Draw one posterior into all panels, in bins of its own."""
    style = POSTERIOR_STYLES[kind]
    low, high = np.percentile(draws, [0.2, 99.8], axis=0)
    middle = 0.5 * (low + high)
    half = 0.6 * np.maximum(high - low, 1e-6 * np.abs(middle) + 1e-9)
    smooth, limits = _smoothing(draws, half), np.stack([middle - half, middle + half], axis=1)
    some = slice(None, None, max(1, len(draws) // _POINTS))
    cells = np.floor((draws - limits[:, 0]) * (_BINS / (2 * half))).astype(np.int64)
    for i in range(len(axes)):
        axes[i, i].add_patch(_histogram(draws[:, i], limits[i], style))
        for k in range(i):
            if points:
                axes[i, k].plot(draws[some, k], draws[some, i], "o", color=style.color, ms=1.4,
                                mec="none", alpha=0.3, zorder=-1, rasterized=True)  # fmt: skip
            _add_contours(axes[i, k], cells[:, [k, i]], limits[[k, i]], smooth, style)


def _histogram(values: FloatArray, limits: FloatArray, style: PosteriorStyle) -> Polygon:
    """Outline of the density of one label, along the steps and back along zero."""
    density, edges = np.histogram(
        values, np.linspace(float(limits[0]), float(limits[1]), _BINS_1D + 1), density=True
    )
    x, y = np.repeat(edges, 2), np.concatenate([[0.0], np.repeat(density, 2), [0.0]])
    return Polygon(np.stack([x, y], axis=1), closed=True, fc=(style.color, style.fill),
                   ec=style.color, lw=1.2, label=f"{style.name} posterior")  # fmt: skip


def _add_contours(
    ax: Axes, cells: NDArray[np.int64], limits: FloatArray, smooth: float, style: PosteriorStyle
) -> None:
    """Contours that hold 39 and 86 % of the draws, in cells (n_draws, 2), and fills between."""
    inside = cells[((cells >= 0) & (cells < _BINS)).all(axis=1)] @ np.array([_BINS, 1])
    counts = np.bincount(inside, minlength=_BINS**2).reshape(_BINS, _BINS).astype(np.float64)
    density = np.pad(gaussian_filter(counts, smooth), 1)  # closed at the ends of the bins
    centers = (np.arange(_BINS + 2) - 0.5) / _BINS
    x, y = (low + (high - low) * centers for low, high in limits.tolist())
    outer, inner = _thresholds(density)
    lines = contour_generator(x=x, y=y, z=density.T, line_type=LineType.SeparateCode)
    outlines = [_path(lines.lines(level)) for level in (outer, inner)]
    if style.fill:
        fills = contour_generator(x=x, y=y, z=density.T, fill_type=FillType.OuterCode)
        between = [fills.filled(outer, inner), fills.filled(inner, 1.01 * float(density.max()))]
        shades = [(style.color, style.fill), (style.color, 1.8 * style.fill)]
        ax.add_collection(
            PathCollection([_path(found) for found in between], facecolors=shades,
                           edgecolors="none"), autolim=False)  # fmt: skip
    ax.add_collection(
        PathCollection(outlines, facecolors="none", edgecolors=style.color, linewidths=1.1,
                       linestyles=style.lines, zorder=2), autolim=False)  # fmt: skip


def _path(found: Any) -> Path:
    """One path of what contourpy found: points and codes, a pair of lists."""
    points, codes = found
    if not points:
        return Path(np.empty((0, 2)))
    return Path(np.concatenate(points), np.concatenate(codes))


def _thresholds(density: FloatArray) -> tuple[float, float]:
    """Densities whose cells and those above hold 86 and 39 % of the draws."""
    falling = np.sort(density, axis=None)[::-1]
    held = np.cumsum(falling) / falling.sum()
    rows = np.maximum(np.searchsorted(held, np.array(ONE_TWO_SIGMA), "right") - 1, 0)
    inner, outer = falling[rows].tolist()
    top = float(falling[0])
    inner = min(inner, top * (1 - 1e-4))
    return min(outer, inner * (1 - 1e-4)), inner


def _smoothing(draws: FloatArray, half: FloatArray) -> float:
    """Standard deviation of the kernel in bins: Scott's rule for the tightest pair of labels."""
    sd = draws.std(axis=0)
    per_bin = float(np.median(sd / (2 * half / _BINS)))
    if draws.shape[1] > 1 and (sd > 0).all():
        tightest = np.abs(np.corrcoef(draws.T) - np.eye(draws.shape[1])).max()
        per_bin *= float(np.sqrt(max(1 - tightest**2, 0.0)))
    return float(np.clip(len(draws) ** (-1 / 6) * per_bin, 0.8, 3.0))


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
    samples: Mapping[str, FloatArray],
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
    margin = 0.08 * np.maximum(high - low, 1e-6 * np.abs(low) + 1e-9)
    return list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))


def _finish_axes(
    axes: NDArray[np.object_], limits: Sequence[tuple[float, float]], texts: Sequence[str]
) -> None:
    """Set limits that hold everything, the same ticks along a column and a row, and names."""
    n = len(axes)
    _place(axes[0, 0].figure, n)
    ticks = [FixedLocator(_inner_ticks(*limit)) for limit in limits]
    for i in range(n):
        for k in range(i + 1):
            ax = axes[i, k]
            ax.set_xlim(limits[k])
            ax.xaxis.set_major_locator(ticks[k])
            if k < i:
                ax.set_ylim(limits[i])
                ax.yaxis.set_major_locator(ticks[i])
        if i > 0:
            axes[i, 0].set_ylabel(texts[i], fontsize=11.5)
            axes[i, 0].yaxis.set_label_coords(-0.44, 0.5)
            axes[i, 0].tick_params(axis="y", labelsize=9.5)
        bottom = axes[n - 1, i]
        bottom.set_xlabel(texts[i], fontsize=11.5)
        bottom.xaxis.set_label_coords(0.5, -0.35)
        bottom.tick_params(axis="x", labelsize=9.5, rotation=45)


def _inner_ticks(low: float, high: float) -> list[float]:
    """Round values, none so near to a corner that its number meets the next panel's."""
    ticks, room = np.asarray(MaxNLocator(4).tick_values(low, high)), 0.07 * (high - low)
    return [float(t) for t in ticks if low + room < t < high - room]


def _limit_densities(ax: Axes) -> bool:
    """Limits of a panel of densities; whether a peak is cut."""
    peaks = [float(np.asarray(patch.get_path().vertices)[:, 1].max()) for patch in ax.patches]
    top = min(max(peaks), _TALLEST * min(peaks))
    ax.set_ylim(0, 1.1 * top)
    return top < max(peaks)


def _write_numbers(ax: Axes, columns: Mapping[str, FloatArray], name: str, unit: str) -> None:
    """Name of the label and, in the colour of each posterior, its median and interval."""
    for line, (kind, values) in enumerate(columns.items()):
        style = POSTERIOR_STYLES[kind]
        main = line == len(columns) - 1
        low, middle, high = np.quantile(values, [0.16, 0.5, 0.84])
        text = _interval_text(middle, middle - low, high - middle)
        if main:
            ax.vlines([low, high], 0, 1, transform=ax.get_xaxis_transform(), color=style.color,
                      lw=1.0, ls=":")  # fmt: skip
        _write_above(ax, f"{text} {unit}".rstrip() if main else f"formal {text}", line,
                     color=style.color, size=10.5 if main else 9.0)  # fmt: skip
    _write_above(ax, name, len(columns), color=BLACK, size=11.0)


def _write_above(ax: Axes, text: str, line: int, *, color: str, size: float) -> None:
    ax.annotate(
        text, (0.5, 1.0), (0, 4 + 72 * 1.12 * _LINE * line), xycoords="axes fraction",
        textcoords="offset points", ha="center", va="bottom", fontsize=size, color=color,
    )  # fmt: skip


def _interval_text(middle: float, down: float, up: float) -> str:
    """Median and interval as text, with two digits of the smaller error.

    >>> _interval_text(4780.3, 28.4, 28.2), _interval_text(0.0499, 0.0081, 0.0079)
    ('4780 ± 28', '0.0499 ± 0.0080')
    """
    small = min(down, up)
    digits = error_digits(small)
    below, above = f"{down:.{digits}f}", f"{up:.{digits}f}"
    shown = f"{middle:.{digits}f}"
    if abs(down - up) < 0.15 * small or below == above:
        return f"{shown} ± {0.5 * (down + up):.{digits}f}".replace("-", "\N{MINUS SIGN}")
    return f"${shown}^{{+{above}}}_{{-{below}}}$"


def _mark_points(
    figure: Figure,
    axes: NDArray[np.object_],
    truth: FloatArray | None,
    theirs: tuple[FloatArray, FloatArray] | None,
    catalogue: str,
) -> list[Line2D]:
    """Draw truth and catalogue into every panel; returns what the legend needs."""
    n = len(axes)
    handles: list[Line2D] = []
    if truth is not None:
        for row, col in zip(*np.tril_indices(n), strict=True):
            if np.isfinite(truth[col]):
                axes[row, col].axvline(truth[col], color=BLACK, lw=0.9)
            if col < row and np.isfinite(truth[row]):
                axes[row, col].axhline(truth[row], color=BLACK, lw=0.9)
        handles.append(Line2D([], [], color=BLACK, lw=0.9, label="truth"))
    if theirs is not None:
        values, errors = theirs
        for i in range(n):
            axes[i, i].axvline(values[i], color=GREEN, lw=1.2)
            axes[i, i].axvspan(values[i] - errors[i], values[i] + errors[i], color=GREEN,
                               alpha=0.2, lw=0)  # fmt: skip
            for k in range(i):
                x, y, dx, dy = values[k], values[i], errors[k], errors[i]
                axes[i, k].plot([x - dx, x + dx, np.nan, x, np.nan, x, x],
                                [y, y, np.nan, y, np.nan, y - dy, y + dy], color=GREEN, lw=1.3,
                                marker="s", ms=4, markevery=[3], zorder=5)  # fmt: skip
        handles.append(Line2D([], [], color=GREEN, marker="s", ms=4, label=f"{catalogue} ± 1 sd"))
    return handles


def _write_legend(
    figure: Figure, handles: Sequence[Any], heading: Sequence[str], *, cut: bool
) -> None:
    """Title, and in the empty half the legend with what contours and numbers are."""
    width, height = figure.get_size_inches()
    several = len(figure.axes) > 1
    note = "contours: 39.3 and 86.5 % of the draws\n(1σ, 2σ in 2-D)\n" if several else ""
    note += "numbers, dotted: median, 16 to 84 %"
    note += "\nhigh peaks: cut at 4 times the lower one" if cut else ""
    figure.legend(
        handles=handles, title=note, loc="upper right", fontsize=10.5, title_fontsize=9.5,
        bbox_to_anchor=(1 - 0.1 / width, 1 - (0.2 + _LINE * len(heading)) / height),
        alignment="left", borderaxespad=0.0,
    )  # fmt: skip
    size = min(13.0, 72 * width / (0.6 * len(heading[0])))  # a long name fits, too
    figure.suptitle(heading[0], fontsize=size, y=1 - 0.1 / height, va="top")
    if len(heading) > 1:
        figure.text(0.5, 1 - (0.16 + _LINE) / height, "\n".join(heading[1:]), fontsize=10,
                    color=_SOFT, ha="center", va="top")  # fmt: skip
