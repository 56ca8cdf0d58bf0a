"""Gradient spectra: how the flux changes with each label, beside the known lines of that label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from bayes_cannon.analysis.gradients import LineGroup, gradient_extrema
from bayes_cannon.analysis.lines import known_lines, lines_in
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenModel, as_model
from bayes_cannon.models.cannon import Cannon, Gradient
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SKY,
    mark_lines,
    name_inside,
    title_of,
    wavelength_label,
    with_gaps,
    within,
)
from bayes_cannon.spectra.label_kinds import label_kind, label_number, label_tex

__all__ = [
    "plot_gradients",
    "plot_line_group",
]

Window = tuple[float, float] | None
_CREDIBLE = 1.96
"""Standard deviations of a 95 % band."""
_WIDTH = 200.0
"""Å shown of each label where the window is that of its lines."""
_FEWEST = 60
"""Pixels in those; spectra of fewer, of low resolution, are shown whole."""
_NEAR = 0.6
"""Distance (Å) in which a line's gradient is looked up."""


def plot_gradients(
    cannon: GivenModel,
    *,
    labels: ArrayLike | None = None,
    names: str | Sequence[str] | None = None,
    window: Window | Literal["lines"] = "lines",
    n_lines: int = 8,
) -> Figure:
    """Change of the flux with each label, with its 95 % band and the lines of that label.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    labels
        Where the gradient is taken, shape (n_labels,); the training mean where left out.
    names
        Labels shown; all where left out.
    window
        Wavelengths shown, Å; None: all; ``"lines"``: of each label the 200 Å in which the gradient
        is strongest at its known lines, gaps between chips avoided; all of a spectrum of which
        200 Å have too few pixels to see a line.
    n_lines
        Most lines named in each panel: those at which the gradient is strongest. The others of
        the label are dotted too.

    Raises
    ------
    LabelError, InvalidDataError
        On an unknown label, or a window without pixels.
    """
    cannon = as_model(cannon)
    at = _place(cannon, labels)
    gradient = cannon.gradient(at)
    names = list(cannon.names) if names is None else list(one_or_more(names))
    columns = [cannon.training.column(n) for n in names]
    parts = [
        _shown(cannon, gradient.value[k], n, window) for n, k in zip(names, columns, strict=True)
    ]
    figure, axes = plt.subplots(
        len(names), 1, figsize=(12, 1.2 + 2.3 * len(names)), squeeze=False,
        sharex=window != "lines",
        layout="constrained",
    )  # fmt: skip
    medium = cannon.medium
    known = {
        n: _between(known_lines(n, medium=medium), cannon.wavelength[part], medium)
        for n, part in zip(names, parts, strict=True)
    }
    dotted = any(len(lines) for lines in known.values())
    for ax, name, k, part in zip(axes[:, 0], names, columns, parts, strict=True):
        step, per = _step(name, cannon.basis.units[k])
        curve = _draw(ax, cannon, gradient, k, part, step)
        low, high = _range(curve)
        height = high - low
        ax.set_ylim(low - 0.08 * height, high + (0.55 if n_lines and dotted else 0.08) * height)
        ax.set_ylabel(f"{label_tex(name)}\nflux per {per}")
        _name_lines(ax, cannon, part, curve, known[name], n_lines)
    axes[-1, 0].set_xlabel(wavelength_label(medium))
    title = title_of("Gradients of the model flux", simulated=cannon.simulated)
    figure.suptitle(f"{title}\nat {_labels_text(cannon, at)}", fontsize=11)
    handles = _handles("known lines of the label" if dotted else None)
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def _shown(
    cannon: Cannon, value: FloatArray, name: str, window: Window | Literal["lines"]
) -> slice:
    """Pixels of the panel of a label."""
    if window != "lines":
        return within(cannon.wavelength, window)
    w, strength = cannon.wavelength, np.where(cannon.used, np.abs(value), 0.0)
    lines = np.asarray(known_lines(name, medium=cannon.medium)[cannon.medium], dtype=np.float64)
    at_line = [strength[np.abs(w - line) <= _NEAR].max(initial=0.0) for line in lines]
    if not any(at_line):
        lines, at_line = w[[np.argmax(strength)]], [1.0]
    starts = np.concatenate([lines - 0.1 * _WIDTH, lines - 0.9 * _WIDTH])
    starts = np.clip(starts, w[0], max(w[0], w[-1] - _WIDTH))
    edge = 0.03 * _WIDTH
    off = lines - starts[:, None]
    inside = (off >= edge) & (off <= _WIDTH - edge)
    pixels = np.searchsorted(w, starts + _WIDTH) - np.searchsorted(w, starts)  # gaps have none
    if pixels.max() < _FEWEST:
        return slice(0, w.size)
    start = float(starts[np.argmax((inside @ np.asarray(at_line)) * pixels)])
    return within(w, (start, start + _WIDTH))


def plot_line_group(
    cannon: GivenModel,
    group: LineGroup,
    *,
    labels: ArrayLike | None = None,
    half_width: float = 5.0,
) -> Figure:
    """A page of lines: around each, the model spectrum and its gradient with the 95 % band.

    The lines of the group are orange, at their wavelengths; others of the list are dotted.
    A triangle marks the extremum of the gradient that belongs to the line (`gradient_extrema`),
    and a number says how far from the line it is.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    group
        What `line_groups` gave, or a group of your own.
    labels
        Where the gradient is taken, shape (n_labels,); the training mean where left out.
    half_width
        Wavelengths shown to each side of a line, Å.

    Raises
    ------
    LabelError
        If the model does not have the group's label.
    InvalidDataError
        If the model has no pixel near any of the lines.
    """
    cannon = as_model(cannon)
    at = _place(cannon, labels)
    extrema = gradient_extrema(cannon, group.label, group.vacuum, at=at)
    places = group.places(cannon.medium).tolist()
    shown = [
        i for i, line in enumerate(places)
        if cannon.used[np.abs(cannon.wavelength - line) <= _NEAR].any()
    ]  # fmt: skip
    if not shown:
        raise InvalidDataError(
            f"the model has no used pixel within {_NEAR} Å of any line of the group "
            f"{group.title!r}; it runs from {cannon.wavelength[0]:.1f} to "
            f"{cannon.wavelength[-1]:.1f} Å, with gaps."
        )
    n_columns = 2 if len(shown) == 4 else min(3, len(shown))
    n_rows = -(-len(shown) // n_columns)
    width, height = max(4.0 * n_columns + 0.4, 8.0), 3.6 * n_rows + 1.6
    figure = plt.figure(figsize=(width, height))
    grid = figure.add_gridspec(
        n_rows, n_columns, left=1.1 / width, right=1 - 0.2 / width, bottom=1.25 / height,
        top=1 - 1.3 / height, hspace=0.45, wspace=0.28,
    )  # fmt: skip
    flux, gradient = cannon.predict(at).flux, cannon.gradient(at)
    for place, i in enumerate(shown):
        window = (places[i] - half_width, places[i] + half_width)
        axes = _line_panel(figure, grid[divmod(place, n_columns)], cannon, flux, window, group)
        _draw_extremum(axes, cannon, gradient, group, extrema, i, window)
        if place % n_columns == 0:
            axes[0].set_ylabel("model\nflux")
            unit = _step(group.label, cannon.basis.units[cannon.training.column(group.label)])[1]
            axes[1].set_ylabel(f"flux per {unit}\nof {label_tex(group.label)}")
    missing = [name for i, name in enumerate(group.names) if i not in shown]
    _frame(figure, cannon, group, at, missing)
    return figure


def _frame(
    figure: Figure, cannon: Cannon, group: LineGroup, at: FloatArray, missing: Sequence[str]
) -> None:
    """Title, axis label and legend of a page of lines."""
    height = figure.get_figheight()
    title = title_of(f"{group.title}: gradient with {label_tex(group.label)}",
                     simulated=cannon.simulated)  # fmt: skip
    if missing:
        title += f"; not among the model's pixels: {', '.join(missing)}"
    figure.suptitle(f"{title}\nat {_labels_text(cannon, at)}", fontsize=11, y=1 - 0.1 / height)
    figure.supxlabel(wavelength_label(cannon.medium), fontsize=10, y=0.66 / height)
    own = [
        Line2D([], [], color=ORANGE, lw=1.2, label="line of the group"),
        Line2D([], [], color=BLACK, marker="^", ls="", ms=6, label="nearest extremum"),
    ]
    handles = [*_handles("other known lines"), *own]
    figure.legend(
        handles=handles, loc="lower center", ncols=5 if figure.get_figwidth() > 8.5 else 3,
        fontsize=9, bbox_to_anchor=(0.5, 0.02 / height),
    )  # fmt: skip


def _place(cannon: Cannon, labels: ArrayLike | None) -> FloatArray:
    return cannon.label_mean if labels is None else cannon.label_values(labels)


def _between(lines: Table, wavelength: FloatArray, medium: str) -> Table:
    """Those of the lines that lie among the wavelengths."""
    return lines[(lines[medium] >= wavelength[0]) & (lines[medium] <= wavelength[-1])]


def _range(curve: FloatArray) -> tuple[float, float]:
    """Lowest and highest known value, zero among them; never equal."""
    known = curve[np.isfinite(curve)]
    low, high = float(known.min(initial=0.0)), float(known.max(initial=0.0))
    return low, max(high, low + 1e-9)


def _step(name: str, unit: str) -> tuple[float, str]:
    """Step in a label whose change of flux is shown, as a number and as text."""
    step = label_kind(name, unit).step
    return step, f"{step:g} {unit}".rstrip()


def _labels_text(cannon: Cannon, at: FloatArray) -> str:
    return ", ".join(
        f"{label_tex(n)} = {label_number(n, v, u)}"
        for n, v, u in zip(cannon.names, at, cannon.basis.units, strict=True)
    )


def _handles(dotted: str | None) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=BLUE, lw=0.9, label="posterior mean"),
        Patch(color=SKY, alpha=0.6, lw=0, label="95 % band"),
    ]
    if dotted:
        handles.append(Line2D([], [], color=GREY, lw=0.8, ls=":", label=dotted))
    return handles


def _draw(
    ax: Axes, cannon: Cannon, gradient: Gradient, k: int, part: slice, step: float
) -> FloatArray:
    """Draw one gradient and its band; returns what was drawn, NaN in pixels not used."""
    w, used = cannon.wavelength[part], cannon.used[part]
    value, sd = step * gradient.value[k, part], step * gradient.sd[k, part]
    x, y = with_gaps(w, value, used)
    low, high = (with_gaps(w, value + sign * _CREDIBLE * sd, used)[1] for sign in (-1, 1))
    ax.fill_between(x, low, high, color=SKY, alpha=0.6, lw=0, label="95 % band")
    ax.plot(x, y, color=BLUE, lw=0.9, label="posterior mean")
    ax.axhline(0, color=GREY, lw=0.6)
    ax.set_xlim(w[0], w[-1])
    return np.where(used, value, np.nan)


def _name_lines(
    ax: Axes, cannon: Cannon, part: slice, curve: FloatArray, known: Table, n_lines: int
) -> None:
    """Dot the lines in the panel, and name those at which the curve is strongest."""
    wavelength, medium = cannon.wavelength[part], cannon.medium
    values = []
    for line in known[medium]:
        ax.axvline(float(line), color=GREY, lw=0.8, ls=":", zorder=0)
        near = curve[np.abs(wavelength - line) <= _NEAR]
        near = near[np.isfinite(near)]
        values.append(near[np.argmax(np.abs(near))] if near.size else np.nan)
    strength = np.abs(np.array(values, dtype=np.float64))
    rows = [i for i in np.argsort(-strength)[:n_lines] if np.isfinite(strength[i])]
    name_inside(ax, known[medium][rows], [values[i] for i in rows], known["name"][rows])


def _around(cannon: Cannon, window: tuple[float, float]) -> slice:
    """Pixels of a window and one more to each side, so that curves run to its edges."""
    part = within(cannon.wavelength, window)
    return slice(max(part.start - 1, 0), part.stop + 1)


def _line_panel(
    figure: Figure,
    place: SubplotSpec,
    cannon: Cannon,
    flux: FloatArray,
    window: tuple[float, float],
    group: LineGroup,
) -> tuple[Axes, Axes]:
    """Two axes over each other with the model flux in the upper one, and the lines' names."""
    grid = place.subgridspec(2, 1, height_ratios=(1, 1.7), hspace=0.1)
    top, bottom = np.asarray(grid.subplots(sharex=True), dtype=object)
    part = _around(cannon, window)
    top.plot(*with_gaps(cannon.wavelength[part], flux[part], cannon.used[part]), color=BLACK, lw=1)
    top.set_xlim(window)
    medium, places = cannon.medium, group.places(cannon.medium)
    known = lines_in(*window, medium=medium)
    own = np.isclose(np.asarray(known[medium])[:, None], places, rtol=0, atol=0.002)
    others = known[~own.any(axis=1)]
    named = [*zip(others[medium], others["name"], strict=True)]
    named += [*zip(places, group.names, strict=True)]
    mark_lines(top, [float(w) for w, _ in named], [str(n) for _, n in named], min_gap=0.06)
    for ax in (top, bottom):
        for line in others[medium]:
            ax.axvline(float(line), color=GREY, lw=0.8, ls=":", zorder=0)
        for line in places:
            ax.axvline(float(line), color=ORANGE, lw=1.2, zorder=0)
        ax.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
        ax.tick_params(labelsize=8.5)
    top.tick_params(labelbottom=False)
    bottom.xaxis.set_major_locator(MaxNLocator(5, integer=True, prune="both"))
    bottom.ticklabel_format(axis="x", useOffset=False)
    return top, bottom


def _draw_extremum(
    axes: tuple[Axes, Axes],
    cannon: Cannon,
    gradient: Gradient,
    group: LineGroup,
    extrema: Table,
    i: int,
    window: tuple[float, float],
) -> None:
    """Draw the gradient around a line of the group, its extremum and how far it is off."""
    k = cannon.training.column(group.label)
    step, _ = _step(group.label, cannon.basis.units[k])
    ax = axes[1]
    curve = _draw(ax, cannon, gradient, k, _around(cannon, window), step)
    ax.set_xlim(window)
    low, high = _range(curve)
    room = high - low
    ax.set_ylim(low - 0.28 * room, high + 0.28 * room)
    value = step * float(extrema["value"][i])
    if not np.isfinite(value):
        text = "no extremum"
    else:
        below = value < 0
        ax.plot(float(extrema["extremum"][i]), value + (-0.1 if below else 0.1) * room,
                marker="^" if below else "v", color=BLACK, ms=6, ls="")  # fmt: skip
        text = f"{extrema['offset'][i]:+.2f} Å".replace("-", "−")
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
    ax.annotate(text, (0.03, 0.05), xycoords="axes fraction", fontsize=9, bbox=box)
