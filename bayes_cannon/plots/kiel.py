"""Kiel diagrams: fitted Teff and log g beside MIST isochrones, with posteriors of chosen stars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bayes_cannon.analysis.catalogues import catalogue
from bayes_cannon.analysis.isochrones import Isochrone, IsochroneSet, packaged_isochrones
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more, plain_numbers
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import (
    GivenResult,
    KnownLabels,
    as_draws,
    as_labels,
    as_result,
    as_table,
)
from bayes_cannon.inference.flags import severity
from bayes_cannon.inference.posterior import posterior_names
from bayes_cannon.inference.tables import catalogue_name, star_ids
from bayes_cannon.inference.units import units_of_result, units_of_table
from bayes_cannon.plots.common import (
    BLACK,
    GREEN,
    GREY,
    figure_of,
    label_text,
    new_axes,
    result_title,
    star_text,
    table_title,
)
from bayes_cannon.plots.posteriors import (
    POSTERIOR_STYLES,
    draw_contours,
    posterior_handle,
    star_draws,
)
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import id_column, row_of

__all__ = [
    "FOUR_METALLICITIES",
    "SIX_GYR",
    "plot_kiel",
    "plot_kiel_stars",
]

SIX_GYR = float(np.log10(6e9))
"""log10 of six billion years."""
FOUR_METALLICITIES = (0.5, 0.0, -0.5, -1.0)
"""[Fe/H] of the isochrones."""
_AXES = ("TEFF", "LOGG")
_LINE_STYLES = ("--", "-", "-.", ":")
_COLOURS, _DARK = "viridis", "#303030"
_BEFORE_TIP, _CORE_HELIUM = (0, 2), 3
_RED_CLUMP = range(631, 708)
"""Its EEPs."""
_WIDE = 3.0
"""Times the median error of all stars from which on a posterior is not filled."""
_MOST_STARS = len(ascii_uppercase)
_MANY = 700
"""Stars from which on points are drawn smaller."""


def plot_kiel(
    table: Table | GivenResult,
    *,
    isochrones: IsochroneSet | None = None,
    log10_age: float = SIX_GYR,
    feh: Sequence[float] = FOUR_METALLICITIES,
    result: GivenResult | None = None,
    stars: str | Sequence[str] = (),
    ax: Axes | None = None,
) -> Figure:
    """Fitted Teff and log g coloured by [Fe/H], MIST isochrones, and posteriors of chosen stars.

    Both axes run backwards, as in a colour-magnitude diagram. Error bars are one standard
    deviation, calibrated where the table has it, else formal (the legend says which); they fade as
    stars become many. Contours of the chosen stars hold 39 and 86 % of the draws; of a star whose
    errors are more than three times the median ones they are outlines alone. The isochrones'
    age and composition, in the legend, are those of the nearest there are, and the papers to cite
    stand in a corner.

    Parameters
    ----------
    table
        What `catalogue` made, a result of inference, or a run.
    isochrones
        What `read_mist` read from ``.iso`` or ``.iso.cmd`` files; left out, those that come with
        the package.
    log10_age, feh
        Age (log10 of years) and [Fe/H] of the isochrones: the nearest of each is drawn.
    result, stars
        What `infer_labels` returned, and the ids of stars whose posteriors are drawn, at most 26;
        with a run in place of the table, the result may be left out.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    LabelError
        If the table has no TEFF or LOGG.
    InvalidDataError
        If no star has both, stars are chosen without a result or are not in it, or an isochrone
        has no giants.
    """
    first, given = table, as_table(table, whole=False)
    table = catalogue(table) if given is None else given
    source = as_draws(first) if result is None else as_result(result)
    teff, logg = (_values(table, name) for name in _AXES)
    known = np.isfinite(teff) & np.isfinite(logg)
    if not known.any():
        raise InvalidDataError(
            f"none of the {count_text(len(table), 'star')} of the table has Teff and log g."
        )
    draws = _chosen_draws(source, stars)
    ax = new_axes(ax, (8.6, 7.4))
    handles, norm = _draw_stars(ax, table, known)
    x, y = _extent(teff[known]), _extent(logg[known])
    for clouds in draws.values():
        for cloud in clouds.values():
            x, y = _joined(x, _extent(cloud[:, 0])), _joined(y, _extent(cloud[:, 1]))
    chosen = packaged_isochrones() if isochrones is None else isochrones
    handles += _draw_isochrones(ax, chosen, log10_age, feh, norm)
    typical = [float(np.median(e)) for e in _errors(table, known)[1]]
    flagged = _severities(table)
    for letter, (star, clouds) in zip(ascii_uppercase, draws.items(), strict=False):
        _draw_posterior(ax, clouds, typical)
        top = np.quantile(np.concatenate(list(clouds.values())), 0.95, axis=0)
        ax.annotate(letter, (float(top[0]), float(top[1])), (-4, -4), ha="right", va="top",
                    textcoords="offset points", fontsize=11, weight="bold",
                    path_effects=[withStroke(linewidth=2.5, foreground="white")])  # fmt: skip
        handles.append(
            Line2D([], [], ls="", marker=f"${letter}$", color=BLACK, ms=7,
                   label=f"{star_text(star)}{flagged.get(star, '')}")
        )  # fmt: skip
    if draws:
        handles += [posterior_handle(POSTERIOR_STYLES[kind]) for kind in next(iter(draws.values()))]
    _finish(ax, x, y)
    _cite(ax, chosen)
    text = f"Kiel diagram, {count_text(int(known.sum()), 'star')}"
    ax.set_title(table_title(text, table))
    ax.legend(handles=handles, loc="upper left", fontsize=9, framealpha=0.9)
    return figure_of(ax)


def plot_kiel_stars(
    result: GivenResult,
    stars: str | Sequence[str],
    *,
    aspcap: KnownLabels | None = None,
    isochrones: IsochroneSet | None = None,
    log10_age: float = SIX_GYR,
    feh: Sequence[float] = FOUR_METALLICITIES,
) -> Figure:
    """Each chosen star's place in the Kiel diagram, a panel as wide as its posteriors.

    In the diagram of a survey a formal posterior is often smaller than a point; here both kinds
    can be seen, with the catalogue's value and the isochrones that pass.

    Parameters
    ----------
    result
        What `infer_labels` returned.
    stars
        Ids, 1 to 26.
    aspcap
        The catalogue's labels, drawn with their errors where they know the star.
    isochrones, log10_age, feh
        As in `plot_kiel`.

    Raises
    ------
    InvalidDataError
        Without stars, or if one is not in the result or has no posterior.
    """
    given, tree, aspcap = aspcap, as_result(result), as_labels(aspcap)
    draws = _chosen_draws(tree, stars)
    if not draws:
        raise InvalidDataError("choose at least one star to draw.")
    chosen = packaged_isochrones() if isochrones is None else isochrones
    n_columns = 2 if len(draws) == 4 else min(3, len(draws))
    n_rows = -(-len(draws) // n_columns)
    figure, axes = plt.subplots(
        n_rows, n_columns, figsize=(max(4.2 * n_columns, 7.0), 4.0 * n_rows + 1.2), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    flat = list(axes.ravel())
    handles: list[Line2D | Patch] = []
    for ax, (star, clouds) in zip(flat, draws.items(), strict=False):
        _draw_posterior(ax, clouds)
        ends = [_extent(np.concatenate([c[:, i] for c in clouds.values()])) for i in (0, 1)]
        point = _catalogue_point(aspcap, star)
        if point is not None:
            value, error = point
            ax.errorbar(value[0], value[1], error[1], error[0], color=GREEN, marker="s", ms=4,
                        lw=1.2, zorder=5)  # fmt: skip
            size = np.nan_to_num(error)
            ends = [_joined(e, (v - s, v + s)) for e, v, s in zip(ends, value, size, strict=True)]
        lines = _draw_isochrones(ax, chosen, log10_age, feh, Normalize(min(feh), max(feh)))
        _finish(ax, *ends)
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.set_title(star_text(star), fontsize=10.5)
    for ax in flat[len(draws) :]:
        ax.set_axis_off()
    handles = [posterior_handle(POSTERIOR_STYLES[kind]) for kind in next(iter(draws.values()))]
    if aspcap is not None:
        handles.append(
            Line2D(
                [], [], color=GREEN, marker="s", ms=4, label=f"{catalogue_name(given, tree)} ± 1 sd"
            )
        )
    figure.legend(handles=[*handles, *lines], loc="outside lower center", ncols=3, fontsize=9,
                  title="contours: 39 and 86 % of the draws; thin lines: red clump\n"
                  f"isochrones: {chosen.source}",
                  title_fontsize=8.5)  # fmt: skip
    figure.suptitle(result_title("Posteriors in the Kiel diagram", tree), fontsize=12)
    return figure


def _values(table: Table, name: str) -> FloatArray:
    """Values of a column, NaN where masked."""
    if name not in table.colnames:
        raise LabelError(f"the table has no column {name}; a Kiel diagram needs {_AXES}.")
    _check_unit(name, units_of_table(table, [name])[name])
    return plain_numbers(table[name])


def _check_unit(name: str, unit: str) -> None:
    """Refuse temperatures in another unit than those of the isochrones."""
    if name == "TEFF" and unit != "K":
        raise LabelError(f"a Kiel diagram needs TEFF in K, not in {unit or 'no unit'}; convert it.")


def _chosen_draws(
    result: xr.DataTree | None, stars: str | Sequence[str]
) -> dict[str, dict[str, FloatArray]]:
    """Draws (n_draws, 2) of Teff and log g, by star and kind of posterior."""
    stars = list(one_or_more(stars, ids=True))
    if not stars:
        return {}
    if result is None:
        raise InvalidDataError("posteriors of chosen stars need the result of inference.")
    if len(stars) > _MOST_STARS:
        raise InvalidDataError(
            f"at most {count_text(_MOST_STARS, 'star')} can be told apart, not {len(stars)}."
        )
    if missing := [n for n in _AXES if n not in posterior_names(result)]:
        raise InvalidDataError(f"the result has no {' and '.join(missing)}.")
    for name, unit in units_of_result(result, _AXES).items():
        _check_unit(name, unit)
    kinds = [kind for kind in POSTERIOR_STYLES if kind in result.children]
    return {
        str(star): {kind: star_draws(result, kind, _AXES, str(star)) for kind in kinds}
        for star in stars
    }


def _draw_stars(
    ax: Axes, table: Table, known: NDArray[np.bool_]
) -> tuple[list[Line2D | Patch], Normalize]:
    """Points coloured by [Fe/H] with error bars; returns the legend's entry and the colours."""
    teff, logg = (_values(table, name)[known] for name in _AXES)
    feh = _values(table, "FE_H")[known] if "FE_H" in table.colnames else np.full(teff.size, np.nan)
    kind, errors = _errors(table, known)
    faint = float(np.clip(9 / np.sqrt(teff.size), 0.15, 0.9))
    ax.errorbar(teff, logg, errors[1], errors[0], fmt="none", ecolor=(GREY, faint), elinewidth=0.7,
                zorder=1, rasterized=True)  # fmt: skip
    norm = Normalize(min(FOUR_METALLICITIES), max(FOUR_METALLICITIES))
    size, seen = (26.0 if teff.size < _MANY else 10.0), np.isfinite(feh)
    if not seen.all():
        ax.scatter(teff[~seen], logg[~seen], s=size, color=GREY, lw=0, zorder=2, rasterized=True)
    if seen.any():
        low, high = np.percentile(feh[seen], [1, 99])
        norm = Normalize(low, max(high, low + 1e-6))
        points = ax.scatter(teff[seen], logg[seen], c=feh[seen], s=size, cmap=_COLOURS, zorder=2,
                            norm=norm, edgecolors=BLACK, linewidths=0.25,
                            rasterized=True)  # fmt: skip
        ax.figure.colorbar(points, ax=ax, label=label_text("FE_H"), pad=0.01, extend="both")
    label = f"fitted labels ± {kind} sd" if kind else "fitted labels"
    handle = Line2D([], [], color=GREY, marker="o", ms=5, mfc="#21918c", mec=BLACK, mew=0.4,
                    label=label)  # fmt: skip
    return [handle], norm


def _severities(table: Table) -> dict[str, str]:
    """What the legend says of a star that is flagged."""
    if "LABEL_FLAG" not in table.colnames or id_column(table.colnames, table.meta) is None:
        return {}
    grades = map(severity, np.asarray(table["LABEL_FLAG"], dtype=np.int64).tolist())
    return {
        star: f" (flagged {grade})"
        for star, grade in zip(star_ids(table).tolist(), grades, strict=True)
        if grade
    }


def _errors(table: Table, known: NDArray[np.bool_]) -> tuple[str, list[FloatArray]]:
    """Which kind of errors the table has, and those of Teff and log g."""
    for kind, suffix in (("calibrated", "_ERR"), ("formal", "_FORMAL_ERR")):
        names = [f"{name}{suffix}" for name in _AXES]
        if all(name in table.colnames for name in names):
            errors = [_values(table, name)[known] for name in names]
            if all(np.isfinite(e).any() for e in errors):
                return kind, [np.nan_to_num(e) for e in errors]
    return "", [np.zeros(int(known.sum()))] * 2


def _draw_isochrones(
    ax: Axes, isochrones: IsochroneSet, log10_age: float, feh: Sequence[float], norm: Normalize
) -> list[Line2D | Patch]:
    """Draw each to the tip of its giant branch and, thinner, its red clump; return the legend's."""
    chosen: list[Isochrone] = []
    for value in feh:
        one = isochrones.select(log10_age=log10_age, feh=value)
        if one not in chosen:
            chosen.append(one)
    handles: list[Line2D | Patch] = []
    colours = mpl.colormaps[_COLOURS]
    for i, one in enumerate(chosen):
        one.giant_branch()  # says what is wrong with an isochrone that has none
        style, color = _LINE_STYLES[i % len(_LINE_STYLES)], colours(float(norm(one.feh)))
        for part, width in ((np.isin(one.phase, _BEFORE_TIP), 1.8), (_in_clump(one), 1.0)):
            outline = [withStroke(linewidth=width + 1.4, foreground=_DARK)]
            ax.plot(one.teff[part], one.log_g[part], color=color, ls=style, lw=width, zorder=3,
                    path_effects=outline)  # fmt: skip
        name = one.source.partition(" (")[0]
        outline = [withStroke(linewidth=3.2, foreground=_DARK)]
        handles.append(Line2D([], [], color=color, ls=style, lw=1.8, path_effects=outline,
                              label=f"{name}, {one.label}"))  # fmt: skip
    return handles


def _in_clump(one: Isochrone) -> NDArray[np.bool_]:
    """Points of the red clump; the jump to it from the tip is left out."""
    inside = (one.eep >= _RED_CLUMP.start) & (one.eep < _RED_CLUMP.stop)
    return np.asarray(inside & (one.phase == _CORE_HELIUM))


def _draw_posterior(
    ax: Axes, clouds: dict[str, FloatArray], typical: Sequence[float] = (np.inf, np.inf)
) -> None:
    """Draw contours; one much wider than is typical would hide the stars, and is not filled."""
    for kind in reversed(clouds):  # the narrow formal one above
        style, sd = POSTERIOR_STYLES[kind], clouds[kind].std(axis=0)
        if any(own > _WIDE * usual > 0 for own, usual in zip(sd, typical, strict=True)):
            style = replace(style, fill=0.0)
        draw_contours(ax, clouds[kind], style, zorder=4)


def _catalogue_point(aspcap: Labels | None, star: str) -> tuple[FloatArray, FloatArray] | None:
    """Teff and log g of the catalogue with errors; None where it does not know both."""
    if aspcap is None or not (aspcap.star_id == star).any():
        return None
    row = row_of(aspcap.star_id, star)
    if any(name not in aspcap.names for name in _AXES):
        return None
    value = np.array([aspcap[name][row] for name in _AXES])
    error = np.array([aspcap.error(name)[row] for name in _AXES])
    return (value, error) if np.isfinite(value).all() else None


def _extent(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.001, 0.999])
    return float(low), float(high)


def _joined(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return min(a[0], b[0]), max(a[1], b[1])


def _finish(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    """Axes that run backwards, with room around what is drawn."""
    for (low, high), limit in ((x, ax.set_xlim), (y, ax.set_ylim)):
        room = 0.08 * max(high - low, 1e-3)
        limit(high + room, low - room)
    ax.set(xlabel=label_text("TEFF"), ylabel=label_text("LOGG"))


def _cite(ax: Axes, isochrones: IsochroneSet) -> None:
    text = isochrones.source.replace("; ", ";\n").replace(" (", ":\n").replace(")", "")
    ax.annotate(
        f"thin lines: red clump\nisochrones {text}", (0.985, 0.015), xycoords="axes fraction",
        ha="right", va="bottom", fontsize=8, zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )  # fmt: skip
