"""Figures of a trained model, of how its fit went, and of `bayes_cannon.diagnostics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from astropy.table import Table
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from scipy.stats import median_abs_deviation

from bayes_cannon.analysis.diagnostics import Diagnostics
from bayes_cannon.analysis.lines import explain_peaks, load_lines
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenModel, as_model
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    figure_of,
    mark_lines,
    name_inside,
    new_axes,
    star_text,
    title_of,
    wavelength_label,
    with_gaps,
    within,
)

__all__ = [
    "plot_bound",
    "plot_chi2_pixels",
    "plot_chi2_stars",
    "plot_elbo",
    "plot_factor_choice",
    "plot_leverage",
    "plot_loadings",
    "plot_residual_correlation",
    "plot_scatter",
]

Window = tuple[float, float] | None
_BROAD = 101
"""Pixels (20 Å) over which a loading's slow change is taken away before its peaks are named."""
_SLOW = "mostly a slow wave: continuum or edges of chips"
_PEAK = 5.0
"""Robust standard deviations from which on a peak is named."""
_NAMES_ABOVE = 74  # points that the names of lines take above an axes
_BEYOND = 50.0
"""Å outside the list of lines in which a peak is still worth a question mark."""


def _peaks(wavelength: FloatArray, values: FloatArray, n: int, medium: str) -> Table:
    """The strongest peaks and the lines near them; empty names where the list knows none.

    Wavelengths that the list of lines does not reach have no peaks to name.
    """
    listed = np.asarray(load_lines()[medium])
    covered = (wavelength >= listed.min() - _BEYOND) & (wavelength <= listed.max() + _BEYOND)
    if not n or not covered.any():
        return Table({"wavelength": [], "value": [], "name": np.array([], dtype=np.str_)})
    return explain_peaks(wavelength, np.where(covered, values, np.nan), n, medium=medium)


def plot_scatter(
    cannon: GivenModel, *, n_lines: int = 25, window: Window = None, ax: Axes | None = None
) -> Figure:
    """Intrinsic scatter s against wavelength, with the lines that explain its highest peaks.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    n_lines
        Peaks that are named; a triangle marks those for which the list of
        `bayes_cannon.analysis.lines` has no line.
    window
        Wavelengths shown, Å.
    ax
        Where to draw; a new figure where left out.
    """
    cannon = as_model(cannon)
    ax = new_axes(ax, (12, 4.8))
    part = within(cannon.wavelength, window)
    w, s, used = cannon.wavelength[part], cannon.scatter[part], cannon.used[part]
    x, y = with_gaps(w, s, used)
    ax.plot(x, y, color=BLUE, lw=0.7, label="intrinsic scatter")
    spread = cannon.log_scatter_sd[part]
    low, high = (with_gaps(w, s * np.exp(sign * spread), used)[1] for sign in (-1, 1))
    ax.fill_between(x, low, high, color=BLUE, alpha=0.25, lw=0, label="one standard deviation")
    ax.set(xlim=(w[0], w[-1]), xlabel=wavelength_label(cannon.medium))
    ax.set_ylim(0, 1.25 * float(s[used].max(initial=1e-6)))
    ax.set_ylabel("intrinsic scatter s\n(in normalised flux)")
    peaks = _peaks(w, np.where(used, s, np.nan), n_lines, cannon.medium)
    named, unknown = (peaks[(peaks["name"] == "") == no_name] for no_name in (False, True))
    mark_lines(ax, list(named["wavelength"]), [str(n) for n in named["name"]])
    if len(unknown):
        height = np.asarray(unknown["value"]) + 0.03 * ax.get_ylim()[1]
        ax.plot(unknown["wavelength"], height, "v", ms=4, color=GREY, label="no line known")
    title = title_of("Intrinsic scatter per pixel", simulated=cannon.simulated)
    ax.set_title(title, pad=_NAMES_ABOVE if len(peaks) else None)
    ax.legend(loc="upper left", ncols=3, framealpha=0.9)
    return figure_of(ax)


def _high_pass(values: FloatArray, used: NDArray[np.bool_]) -> FloatArray:
    """Values less their running median, NaN where not used: narrow features alone."""
    filled = np.interp(np.arange(values.size), np.flatnonzero(used), values[used])
    width = min(_BROAD, values.size - 1 + values.size % 2)
    return np.where(used, values - median_filter(filled, width, mode="nearest"), np.nan)


def plot_loadings(
    cannon: GivenModel,
    *,
    factors: Sequence[int] | None = None,
    n_lines: int = 6,
    window: Window = None,
) -> Figure:
    """Loadings of the nuisance factors against wavelength, one panel each, strongest first.

    Parameters
    ----------
    cannon
        A model with factors, its file, or a run.
    factors
        Which (from 0); the first five where left out.
    n_lines
        Most lines named in each panel: those nearest to the strongest narrow peaks of either
        sign, of more than five robust standard deviations of the loading less its running median
        over 20 Å. Peaks without a known line (`bayes_cannon.analysis.lines`) get no name.
    window
        Wavelengths shown, Å.

    Raises
    ------
    InvalidDataError
        If the model has no factors, or not those asked for.
    """
    cannon = as_model(cannon)
    chosen = list(range(min(5, cannon.n_factors))) if factors is None else list(factors)
    if not chosen or not all(0 <= j < cannon.n_factors for j in chosen):
        raise InvalidDataError(f"factors have numbers below {cannon.n_factors}, not {chosen}.")
    part = within(cannon.wavelength, window)
    w, used = cannon.wavelength[part], cannon.used[part]
    figure, axes = plt.subplots(
        len(chosen), 1, figsize=(12, 1.0 + 2.1 * len(chosen)), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    lines = ""
    for ax, j in zip(axes[:, 0], chosen, strict=True):
        loading = cannon.loadings[part, j]
        ax.plot(*with_gaps(w, loading, used), color=BLUE, lw=0.6)
        ax.axhline(0, color=GREY, lw=0.6)
        ax.set_ylabel(f"factor {j + 1}\nflux per unit of z")
        ax.set_xlim(w[0], w[-1])
        low = min(float(loading[used].min(initial=0)), 0.0)
        high = max(float(loading[used].max(initial=1e-6)), 1e-6)
        narrow = _high_pass(loading, used)
        peaks = _peaks(w, narrow, 8 * n_lines, cannon.medium)
        strong = np.abs(np.asarray(peaks["value"], np.float64)) > _PEAK * _spread_of(narrow)
        named = peaks[strong & (peaks["name"] != "")][:n_lines]
        if np.nanvar((loading - narrow)[used]) > 0.5 * np.var(loading[used]) > 0:
            ax.set_title(_SLOW, loc="right", fontsize=9, color="#606060")
        lines = ", with the lines they follow" if len(named) else lines
        up, down = (0.6 if (sign * named["value"] > 0).any() else 0.08 for sign in (1, -1))
        ax.set_ylim(low - down * (high - low), high + up * (high - low))  # room for the names
        for below in (False, True):
            side = named[(named["value"] < 0) == below]
            at = np.interp(side["wavelength"], w, loading)
            name_inside(ax, side["wavelength"], at, side["name"], below=below)
    axes[-1, 0].set_xlabel(wavelength_label(cannon.medium))
    title = f"Loadings of {len(chosen)} of {count_text(cannon.n_factors, 'factor')}{lines}"
    figure.suptitle(title_of(title, simulated=cannon.simulated))
    return figure


def _spread_of(values: FloatArray) -> float:
    return float(median_abs_deviation(values, scale="normal", nan_policy="omit"))


def _history(history: Mapping[str, FloatArray], name: str, what: str) -> FloatArray:
    if name not in history:
        raise InvalidDataError(f"the model's history holds no {name!r}: {what}.")
    return np.asarray(history[name], dtype=np.float64)


def plot_factor_choice(cannon: GivenModel, *, ax: Axes | None = None) -> Figure:
    """Predictive density of held-out spectra against the number of factors; the chosen one marked.

    Shown is the difference from the best; the title says if that is the largest number tried.

    Parameters
    ----------
    cannon
        Trained with the number of factors chosen; a model, its file, or a run.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    InvalidDataError
        If the number was not chosen by the program.
    """
    cannon = as_model(cannon)
    what = "the number of factors was given, not chosen (train with factors 'auto')"
    grid = _history(cannon.history, "factor_grid", what)
    density = _history(cannon.history, "predictive", what)
    error = cannon.history.get("predictive_error")
    ax = new_axes(ax, (7, 4.2))
    below = density - density.max()
    error = None if error is None else np.asarray(error, dtype=np.float64)
    ax.errorbar(grid, below, error, color=BLUE, marker="o", capsize=3,
                label="mean over stars ± error of the difference")  # fmt: skip
    ax.axhline(0, color=GREY, lw=0.8, ls=":", label="best number tried")
    if below.min() < -1e2:
        ax.set_yscale("symlog", linthresh=10)
        ax.set_ylim(3 * float(below.min()), 10)
    chosen = f"chosen: {count_text(cannon.n_factors, 'factor')}"
    ax.axvline(cannon.n_factors, color=ORANGE, ls="--", label=chosen)
    ax.set_xticks(grid)
    ax.set(
        xlabel="number of factors J",
        ylabel="log predictive density per star\nless that of the best",
    )
    at_end = "; the largest number tried is the best" if density[-1] == density.max() else ""
    ax.set_title(title_of(f"Choice of the number of factors{at_end}", simulated=cannon.simulated))
    ax.legend(loc="lower right")
    return figure_of(ax)


def plot_bound(cannon: GivenModel, *, ax: Axes | None = None) -> Figure:
    """Bound on the log density (exact labels) after every round of the fit; see `MapFit`.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    InvalidDataError
        If the model holds no record of it.
    """
    cannon = as_model(cannon)
    bound = _history(cannon.history, "bound", "it was not recorded")
    ax = new_axes(ax, (7, 4.2))
    rise = bound - bound[-1]
    rounds = np.arange(1, bound.size + 1)
    ax.plot(rounds, rise, color=BLUE, marker="o", label="bound after each round")
    ax.axhline(0, color=GREY, lw=0.8, ls=":", label="last round")
    ax.set(xlabel="round", ylabel="bound minus its last value (nat)")
    if rise.min() < -1e3:
        ax.set_yscale("symlog", linthresh=10)
        ax.set_ylim(3 * float(rise.min()), max(30.0, 3 * float(rise.max())))
    ax.set_title(title_of("Rise of the log density during training", simulated=cannon.simulated))
    ax.legend(loc="lower right")
    return figure_of(ax)


def plot_elbo(cannon: GivenModel, *, ax: Axes | None = None) -> Figure:
    """ELBO of every chunk of pixels against the step, relative to where the chunk ended.

    Parameters
    ----------
    cannon
        A model trained by ADVI, its file, or a run.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    InvalidDataError
        If the model was not fitted by ADVI.
    """
    cannon = as_model(cannon)
    elbo = np.atleast_2d(_history(cannon.history, "elbo", "train with method 'advi'"))
    ax = new_axes(ax, (7, 4.2))
    chunks = [row[np.isfinite(row)] for row in elbo]
    smooth = [_running_median(row) for row in chunks if row.size]
    for i, row in enumerate(smooth):
        ax.plot(
            np.arange(row.size), row - np.median(row[-max(row.size // 5, 1) :]), color=BLUE,
            alpha=0.45, lw=0.8,
            label="one chunk of pixels, running median" if i == 0 else None,
        )  # fmt: skip
    ax.axhline(0, color=BLACK, lw=0.8, ls=":", label="median of the last fifth")
    ax.set(xlabel="step", ylabel="ELBO minus its final level (nat)")
    title = f"Convergence of ADVI, {count_text(len(smooth), 'chunk')}"
    ax.set_title(title_of(title, simulated=cannon.simulated))
    ax.legend(loc="lower right")
    return figure_of(ax)


def _running_median(values: FloatArray, width: int = 25) -> FloatArray:
    if values.size < width:
        return values
    view = np.lib.stride_tricks.sliding_window_view(values, width)
    return np.asarray(np.median(view, axis=1))


def plot_chi2_pixels(diagnostics: Diagnostics, *, ax: Axes | None = None) -> Figure:
    """Reduced chi-square of every pixel against wavelength; expected near 1.

    Parameters
    ----------
    diagnostics
        From `diagnose`.
    ax
        Where to draw; a new figure where left out.
    """
    ax = new_axes(ax, (12, 4))
    chi2 = diagnostics.quality.chi2_pixel
    ax.plot(*with_gaps(diagnostics.wavelength, chi2), color=BLUE, lw=0.6, label="pixels")
    ax.axhline(1, color=BLACK, lw=0.8, ls="--", label="expected")
    median = float(np.nanmedian(chi2))
    ax.axhline(median, color=ORANGE, lw=1, label=f"median {median:.2f}")
    ax.set(xlim=(diagnostics.wavelength[0], diagnostics.wavelength[-1]), ylim=(0, None))
    ax.set(xlabel=wavelength_label(diagnostics.medium), ylabel="reduced chi-square over stars")
    stars = count_text(diagnostics.quality.star_id.size, "star")
    ax.set_title(title_of(f"Fit of every pixel, {stars}", simulated=diagnostics.simulated))
    ax.legend(loc="lower right", ncols=3)
    return figure_of(ax)


def plot_chi2_stars(
    diagnostics: Diagnostics, *, n_named: int = 5, ax: Axes | None = None
) -> Figure:
    """Reduced chi-square of the stars, best to worst, the worst with their ids.

    Parameters
    ----------
    diagnostics
        From `diagnose`.
    n_named
        Stars that are named, those that fit worst.
    ax
        Where to draw; a new figure where left out.
    """
    quality = diagnostics.quality
    ax = new_axes(ax, (8, 4.6))
    order = np.argsort(quality.chi2_star)
    order = order[np.isfinite(quality.chi2_star[order])]
    chi2, training = quality.chi2_star[order], quality.training[order]
    rank = np.arange(1, order.size + 1)
    for chosen, color, marker, text in (
        (training, BLUE, "o", "training stars"), (~training, ORANGE, "^", "other stars"),
    ):  # fmt: skip
        if chosen.any():
            ax.scatter(rank[chosen], chi2[chosen], s=12, c=color, marker=marker,
                       label=f"{text} ({chosen.sum()})")  # fmt: skip
    ax.axhline(1, color=BLACK, lw=0.8, ls="--", label="expected")
    worst = quality.worst_stars(n_named)
    if worst:
        text = "worst:\n" + "\n".join(f"{star_text(star)}  {value:.2f}" for star, value in worst)
        ax.text(0.35, 0.97, text, transform=ax.transAxes, va="top", fontsize=9,
                bbox={"facecolor": "white", "edgecolor": GREY, "alpha": 0.9})  # fmt: skip
    ax.set(xlabel="stars, from the best fit to the worst", ylabel="reduced chi-square over pixels")
    ax.set_title(title_of("Fit of every star", simulated=diagnostics.simulated))
    ax.legend(loc="upper left")
    return figure_of(ax)


def plot_residual_correlation(diagnostics: Diagnostics) -> Figure:
    """Correlation of residuals between pixels, before and after the factors.

    Left: against the distance of the pixels; middle: all pairs; right: share of the variance
    along the leading eigenvectors.

    Parameters
    ----------
    diagnostics
        From `diagnose`.
    """
    found, j = diagnostics.correlation, diagnostics.n_factors
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    styles = (("before factors", ORANGE, "--"), (f"after {count_text(j, 'factor')}", BLUE, "-"))
    middle = np.sqrt(found.lag_edges[:-1] * (found.lag_edges[1:] - 1.0))
    number = np.arange(1, found.eigenvalue_share.shape[0] + 1)
    bins = np.linspace(-1, 1, 81)
    for i, (text, color, line) in enumerate(styles[: 2 if j else 1]):
        known = np.isfinite(found.lag_mean_abs[:, i])
        axes[0].plot(middle[known], found.lag_mean_abs[known, i], color=color, ls=line, marker=".",
                     label=text)  # fmt: skip
        axes[1].hist(found.off_diagonal[:, i], bins, density=True, histtype="step", color=color,
                     ls=line, lw=1.4, label=text)  # fmt: skip
        axes[2].plot(number, 100 * found.eigenvalue_share[:, i], color=color, ls=line, marker=".",
                     label=text)  # fmt: skip
    axes[0].axhline(found.noise_level, color=GREY, ls=":", label="independent noise")
    axes[0].set(xscale="log", xlabel="distance (pixels)", ylabel="mean absolute correlation",
                ylim=(0, None))  # fmt: skip
    axes[1].set(xlabel="correlation of two pixels", ylabel="density of pairs")
    axes[2].set(xlabel="eigenvector", ylabel="share of the variance (%)", yscale="log")
    for ax in axes:
        ax.legend(loc="upper right")
    n = diagnostics.quality.star_id.size
    title = f"Residual correlation between {found.pixels.size} pixels over {count_text(n, 'star')}"
    figure.suptitle(title_of(title, simulated=diagnostics.simulated))
    return figure


def plot_leverage(diagnostics: Diagnostics, *, n_named: int = 3, ax: Axes | None = None) -> Figure:
    """Leverage of every star against its reduced chi-square; the highest with their ids.

    Parameters
    ----------
    diagnostics
        From `diagnose`.
    n_named
        Stars that are named, those of largest leverage.
    ax
        Where to draw; a new figure where left out.
    """
    quality = diagnostics.quality
    ax = new_axes(ax, (8, 4.6))
    for chosen, color, marker, text in (
        (quality.training, BLUE, "o", "training stars"),
        (~quality.training, ORANGE, "^", "other stars"),
    ):
        if chosen.any():
            ax.scatter(quality.chi2_star[chosen], quality.leverage[chosen], s=12, c=color,
                       marker=marker, label=f"{text} ({chosen.sum()})")  # fmt: skip
    known = quality.training & np.isfinite(quality.leverage)
    if known.any():
        mean = float(quality.leverage[known].mean())
        ax.axhline(mean, color=BLACK, lw=0.8, ls="--", label=f"mean of training stars {mean:.3f}")
    value = np.where(np.isfinite(quality.leverage), quality.leverage, -np.inf)
    named = [i for i in np.argsort(-value)[:n_named] if np.isfinite(value[i])]
    if named:
        text = "highest:\n" + "\n".join(
            f"{star_text(quality.star_id[i])}  {value[i]:.3f}" for i in named
        )
        ax.text(0.98, 0.97, text, transform=ax.transAxes, va="top", ha="right", fontsize=9,
                bbox={"facecolor": "white", "edgecolor": GREY, "alpha": 0.9})  # fmt: skip
    ax.set(xlabel="reduced chi-square over pixels", ylabel="leverage (mean over pixels)")
    ax.set_yscale("log")
    ax.set_ylim(None, 12 * float(np.nanmax(quality.leverage, initial=1e-6)))
    ax.set_title(title_of("Stars that decide the fit", simulated=diagnostics.simulated))
    ax.legend(loc="upper left")
    return figure_of(ax)
