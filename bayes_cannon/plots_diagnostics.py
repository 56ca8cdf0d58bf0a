"""Figures of `bayes_cannon.diagnostics`: chi-squares, correlated residuals, leverage."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_cannon.diagnostics import Diagnostics
from bayes_cannon.plots_common import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    new_axes,
    star_text,
    title_of,
    wavelength_label,
    with_gaps,
)

__all__ = [
    "plot_chi2_pixels",
    "plot_chi2_stars",
    "plot_leverage",
    "plot_residual_correlation",
]


def plot_chi2_pixels(diagnostics: Diagnostics, *, ax: Axes | None = None) -> Axes:
    """Reduced chi-square of every pixel against wavelength; expected near 1."""
    ax = new_axes(ax, (12, 4))
    chi2 = diagnostics.quality.chi2_pixel
    ax.plot(*with_gaps(diagnostics.wavelength, chi2), color=BLUE, lw=0.6, label="pixels")
    ax.axhline(1, color=BLACK, lw=0.8, ls="--", label="expected")
    median = float(np.nanmedian(chi2))
    ax.axhline(median, color=ORANGE, lw=1, label=f"median {median:.2f}")
    ax.set(xlim=(diagnostics.wavelength[0], diagnostics.wavelength[-1]), ylim=(0, None))
    ax.set(xlabel=wavelength_label(diagnostics.medium), ylabel="reduced chi-square over stars")
    n = diagnostics.quality.star_id.size
    ax.set_title(title_of(f"Fit of every pixel, {n} stars", simulated=diagnostics.simulated))
    ax.legend(loc="lower right", ncols=3)
    return ax


def plot_chi2_stars(diagnostics: Diagnostics, *, n_named: int = 5, ax: Axes | None = None) -> Axes:
    """Reduced chi-square of the stars, best to worst, the worst with their ids."""
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
    return ax


def plot_residual_correlation(diagnostics: Diagnostics) -> Figure:
    """Correlation of residuals between pixels, before and after the factors.

    Left: against the distance of the pixels; middle: all pairs; right: share of the variance
    along the leading eigenvectors.
    """
    import matplotlib.pyplot as plt

    found, j = diagnostics.correlation, diagnostics.n_factors
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    styles = (("before factors", ORANGE, "--"), (f"after {j} factors", BLUE, "-"))
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
    title = f"Residual correlation between {found.pixels.size} pixels over {n} stars"
    figure.suptitle(title_of(title, simulated=diagnostics.simulated))
    return figure


def plot_leverage(diagnostics: Diagnostics, *, n_named: int = 3, ax: Axes | None = None) -> Axes:
    """Leverage of every star against its reduced chi-square; the highest with their ids."""
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
    return ax
