"""Figures of binaries: what can be found, and the spectrum of a pair with both its stars."""

from __future__ import annotations

from typing import Any

import corner
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_cannon.analysis.binaries.finding import BinarySearch
from bayes_cannon.inference.arguments import GivenModel, as_model, as_spectra
from bayes_cannon.inference.binaries.curves import pair_curves
from bayes_cannon.inference.posterior import group_of
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    figure_of,
    label_text,
    new_axes,
    new_figure,
    star_text,
    table_title,
    title_of,
    wavelength_label,
    with_gaps,
    within,
)
from bayes_cannon.spectra.star_ids import row_of

__all__ = [
    "completeness_map",
    "plot_completeness",
    "plot_pair",
    "plot_pair_corner",
    "plot_scores_of_pairs",
]

_LIGHT = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
_SPEED = np.array([0.0, 5.0, 10.0, 20.0, 60.0])


def plot_completeness(
    search: BinarySearch,
    *,
    teff: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Share of pairs that are found, by the second star's light and the velocity difference.

    Of sums of two training stars' spectra. Cells without a pair are empty.

    Parameters
    ----------
    search
        What `find_binaries` returned.
    teff
        Range of the difference of the two stars' Teff, K; None: all.
    ax
        Where to draw; a new figure where left out.
    """
    pairs = search.pairs
    light, speed = np.asarray(pairs["LIGHT"]), np.abs(np.asarray(pairs["DV"]))
    some = np.ones(len(pairs), dtype=bool)
    text = "Pairs found"
    if teff is not None and "TEFF_1" in pairs.colnames:
        apart = np.abs(np.asarray(pairs["TEFF_1"]) - np.asarray(pairs["TEFF_2"]))
        some = (apart >= teff[0]) & (apart < teff[1])
        upper = f" to {teff[1]:g}" if np.isfinite(teff[1]) else " or more"
        text += f", $T_{{\\rm eff}}$ {teff[0]:g}{upper} K apart"
    bins = [_LIGHT[light.max(initial=0.1) + 0.1 >= _LIGHT], _SPEED]
    found = np.asarray(pairs["FOUND"], dtype=np.float64)
    number = np.histogram2d(light[some], speed[some], bins)[0]
    hits = np.histogram2d(light[some], speed[some], bins, weights=found[some])[0]
    with np.errstate(invalid="ignore"):
        share = hits / number
    ax = new_axes(ax, (5.5, 4.4))
    rows = np.arange(len(_SPEED))
    mesh = ax.pcolormesh(bins[0], rows, 100 * share.T, vmin=0, vmax=100, cmap="viridis")
    for i, j in zip(*np.nonzero(number), strict=True):
        ax.text(
            0.5 * (bins[0][i] + bins[0][i + 1]), j + 0.5,
            f"{100 * share[i, j]:.0f} %\nof {number[i, j]:.0f}", ha="center", va="center",
            fontsize=8, color="white" if share[i, j] < 0.6 else "black",
        )  # fmt: skip
    ax.set_yticks(rows, [f"{v:g}" for v in _SPEED])
    ax.set(xlabel="second star's share of the light", ylabel=r"$|\Delta v|$ (km/s)")
    ax.set_title(table_title(text, search.table), fontsize=10)
    figure = ax.get_figure()
    if figure is not None:
        figure.colorbar(mesh, ax=ax, label="found (%)")
    return figure_of(ax)


def completeness_map(search: BinarySearch, split: float = 300.0) -> Figure:
    """`plot_completeness` of pairs of like and of different Teff, and the scores beside.

    Parameters
    ----------
    search
        What `find_binaries` returned.
    split
        Difference of Teff that parts the panels, K.
    """
    has_teff = "TEFF_1" in search.pairs.colnames
    figure = new_figure((16.5 if has_teff else 11.0, 4.6))
    axes = figure.subplots(1, 3 if has_teff else 2)
    ranges = [(0.0, split), (split, np.inf)] if has_teff else [None]
    for ax, teff in zip(axes, ranges, strict=False):
        plot_completeness(search, teff=teff, ax=ax)
    plot_scores_of_pairs(search, ax=axes[-1])
    return figure


def plot_scores_of_pairs(search: BinarySearch, *, ax: Axes | None = None) -> Figure:
    """Distribution of the score of left-out single stars, of pairs, and of the stars searched.

    Parameters
    ----------
    search
        What `find_binaries` returned.
    ax
        Where to draw; a new figure where left out.
    """
    evidence = search.evidence
    ax = new_axes(ax, (5.5, 4.4))
    scores = np.asarray(search.table["SCORE"])
    sets = (
        ("training stars, left out", evidence.null_score, BLUE),
        ("sums of two of them", evidence.pair_score, ORANGE),
        ("stars searched", scores[np.isfinite(scores)], GREEN),
    )
    every = np.concatenate([values for _, values, _ in sets])
    low, high = np.quantile(every, [0.0, 0.99])
    bins = np.linspace(float(low), float(high), 40).tolist()
    for name, values, color in sets:
        ax.hist(np.clip(values, bins[0], bins[-1]), bins, density=True, histtype="step",
                color=color, lw=1.5, label=f"{name} ({values.size})")  # fmt: skip
    ax.axvline(search.threshold, color=BLACK, ls="--", lw=1)
    ax.annotate(
        f"{100 * search.false_positive_rate:g} % of single stars", (search.threshold, 0.55),
        xycoords=("data", "axes fraction"), rotation=90, fontsize=8, ha="right", va="center",
    )  # fmt: skip
    ax.set(xlabel="score (larger: more like a pair)", ylabel="density", yscale="log")
    ax.set_title(table_title("Score of single stars and pairs", search.table), fontsize=10)
    ax.legend(fontsize=8)
    return figure_of(ax)


def plot_pair(
    cannon: GivenModel,
    spectra: Any,
    search: BinarySearch,
    star: str,
    *,
    window: tuple[float, float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Spectrum of a star with the best pair, and below it the two stars it is the sum of.

    Parameters
    ----------
    cannon
        The trained model.
    spectra
        That hold the star.
    search
        What `find_binaries` returned.
    star
        Its id.
    window
        Wavelengths shown, Å; None: all.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    InvalidDataError
        If the star is not there, or the window holds no pixel.
    """
    model, given = as_model(cannon), as_spectra(spectra)
    row, place = row_of(given.star_id, star), row_of(search.found.star_id, star)
    flux, ivar = given.flux[row], given.ivar[row]
    curves = pair_curves(model, flux, ivar, search.found.theta[place], search.settings)
    part, good = within(given.wavelength, window), ivar > 0
    ax = new_axes(ax, (12, 5.0))
    w = given.wavelength[part]
    light, below = curves.light, 0.45
    lines = (
        ("observed", flux.astype(np.float64), good, GREY, 1.2),
        ("pair", curves.total, None, BLACK, 0.7),
        (f"first star ({100 * (1 - light):.0f} %)", curves.first - below, None, BLUE, 0.8),
        (f"second star ({100 * light:.0f} %)", curves.second - 2 * below, None, ORANGE, 0.8),
    )
    for name, values, mask, color, width in lines:
        x, y = with_gaps(w, values[part], None if mask is None else mask[part])
        ax.plot(x, y, color=color, lw=width, label=name)
    found = search.table[place]
    ax.set(xlim=(w[0], w[-1]), xlabel=wavelength_label(given.medium))
    ax.set_ylabel("normalised flux (stars set off)")
    text = (
        f"{star_text(star)}: $\\Delta v$ {found['DV']:.1f} ± {found['DV_ERR']:.1f} km/s, "
        f"P(binary) {found['P_BINARY']:.2g}"
    )
    ax.set_title(title_of(text, simulated=given.simulated, model_simulated=model.simulated))
    ax.legend(loc="lower right", ncols=4, fontsize=8)
    return figure_of(ax)


def plot_pair_corner(result: xr.DataTree, *, names: tuple[str, ...] | None = None) -> Figure:
    """Corner plot of the posterior of a pair: light, velocities and labels of both stars.

    Parameters
    ----------
    result
        What `sample_pair` returned.
    names
        Labels shown; None: the first two of the model.

    Returns
    -------
    Figure
    """
    posterior = group_of(result, "posterior")
    every = [str(name) for name in posterior["label_name"].values]
    shown = every[:2] if names is None else list(names)
    columns, texts = [], []
    for name in ("light", "dv"):
        columns.append(posterior[name].values.ravel())
    texts += ["second star's light", r"$\Delta v$ (km/s)"]
    for star in ("1", "2"):
        for name in shown:
            draws = posterior[f"labels_{star}"].sel(label_name=name)
            columns.append(draws.values.ravel())
            texts.append(f"{label_text(name)}, star {star}")
    figure: Figure = corner.corner(
        np.stack(columns, axis=1), labels=texts, color=BLUE, quantiles=[0.16, 0.5, 0.84],
        show_titles=True, title_fmt=".4g", title_kwargs={"fontsize": 9}, levels=(0.393, 0.865),
    )  # fmt: skip
    star_name = star_text(str(posterior.attrs.get("star", "")))
    title = title_of(f"Two stars: {star_name}", simulated=bool(posterior.attrs.get("simulated")))
    figure.suptitle(title, x=0.98, ha="right")
    return figure
