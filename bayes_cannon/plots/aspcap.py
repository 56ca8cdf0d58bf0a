"""Figures of a comparison with ASPCAP: errors against S/N, pulls, forest plot of single stars.

Spectra of the stars that disagree most with ASPCAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bayes_cannon.analysis.aspcap import AspcapComparison
from bayes_cannon.analysis.residuals import residual_blocks
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenModel, as_model, as_spectra
from bayes_cannon.inference.units import with_unit
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    label_text,
    new_figure,
    plain_log_ticks,
    star_text,
    title_of,
    wavelength_label,
    with_gaps,
    within,
)
from bayes_cannon.spectra.label_kinds import label_number, label_tex
from bayes_cannon.spectra.spectra import NormalizedSpectra, require_medium
from bayes_cannon.spectra.star_ids import row_of

__all__ = [
    "plot_disagreements",
    "plot_errors",
    "plot_forest",
    "plot_pulls",
]

_THEIRS = "theirs"
_STYLES = {"formal": (BLUE, "s"), "calibrated": (ORANGE, "o"), _THEIRS: (GREEN, "D")}
_WIDEST = 5.0
"""Pulls beyond this are counted in the histogram's last bins."""


def plot_errors(comparison: AspcapComparison) -> Figure:
    """Formal, calibrated and ASPCAP errors of every label against S/N.

    Points are stars, lines the medians in bins of S/N with equal numbers of stars. What each error
    means is said in `bayes_cannon.analysis.aspcap`.

    Parameters
    ----------
    comparison
        From `aspcap_comparison`.

    Raises
    ------
    InvalidDataError
        If no S/N is known.
    """
    table = comparison.errors
    if len(table) == 0:
        raise InvalidDataError(
            "the comparison knows no S/N; pass the TrainingSet of these stars, or snr=, to "
            "aspcap_comparison."
        )
    figure, axes = _panels(len(comparison.names), (3.7, 3.3))
    for i, (ax, name) in enumerate(zip(axes, comparison.names, strict=False)):
        rows = table[table["LABEL"] == name]
        sets = {**comparison.sd, _THEIRS: comparison.aspcap_error}
        columns = {kind: kind.upper() for kind in comparison.sd} | {_THEIRS: comparison.column}
        for kind, errors in sets.items():
            color, marker = _STYLES[kind]
            ax.plot(comparison.snr, errors[:, i], ".", ms=3, mew=0, color=color, alpha=0.45,
                    rasterized=True)  # fmt: skip
            ax.plot(rows["SNR"], rows[columns[kind]], marker + "-", ms=5, lw=1.5, color=color,
                    mec="white", mew=0.6)  # fmt: skip
        plain_log_ticks(ax, x=True, y=True)
        ax.set_xlabel("S/N per pixel")
        ax.set_ylabel(f"error of {label_text(name, comparison.units[i])}")
    handles = [
        Line2D([], [], color=_STYLES[k][0], marker=_STYLES[k][1], ms=5, label=text)
        for k, text in _error_names(comparison).items()
    ]
    _legend(figure, axes, len(comparison.names), handles)
    stars = count_text(len(comparison.stars), "star")
    text = f"Uncertainties of {stars} against S/N, medians as lines"
    figure.suptitle(title_of(text, simulated=comparison.simulated), fontsize=13)
    return figure


def _error_names(comparison: AspcapComparison) -> dict[str, str]:
    names = {
        "formal": "formal: posterior alone",
        "calibrated": "calibrated: with model error",
        _THEIRS: "ASPCAP: internal precision"
        if comparison.catalogue == "ASPCAP"
        else f"{comparison.catalogue}: as it quotes them",
    }
    return {k: v for k, v in names.items() if k in (*comparison.kinds, _THEIRS)}


def plot_pulls(comparison: AspcapComparison) -> Figure:
    """Pulls of every label, ours less ASPCAP's over the joint error, against the unit normal.

    The numbers are standard deviation, robust one, and the shares of stars whose pull is inside the
    central 68 and 95 % of the normal. Pulls beyond 5 are counted in the outermost bins. Labels that
    the catalogue has no errors for have no pulls, and no panel.

    Parameters
    ----------
    comparison
        From `aspcap_comparison`.
    """
    columns = np.flatnonzero(np.isfinite(comparison.pull()).any(axis=0)).tolist()
    figure, axes = _panels(len(columns), (3.7, 3.5))
    edges = np.linspace(-_WIDEST, _WIDEST, 31)
    fine = np.linspace(-_WIDEST, _WIDEST, 301)
    for ax, i in zip(axes, columns, strict=False):
        name = comparison.names[i]
        ax.plot(fine, np.exp(-0.5 * fine**2) / np.sqrt(2 * np.pi), color=BLACK, lw=1.2, ls="--")
        top = 0.4
        for k, kind in enumerate(comparison.kinds):
            color = _STYLES[kind][0]
            pull = comparison.pull(kind)[:, i]
            pull = np.clip(pull[np.isfinite(pull)], -_WIDEST, _WIDEST)
            if pull.size == 0:
                continue
            density = np.histogram(pull, edges)[0] / (pull.size * (edges[1] - edges[0]))
            main = kind == comparison.judged
            ax.stairs(density, edges, fill=main, color=color, alpha=0.3 if main else 1, lw=1.5)
            if main:
                ax.stairs(density, edges, color=color, lw=1.5)
            top = max(top, float(density.max()))
            ax.text(0.03 + 0.5 * k, 0.97, _pull_text(comparison, name, kind), color=color,
                    transform=ax.transAxes, va="top", fontsize=8.5)  # fmt: skip
        ax.set(xlim=(-_WIDEST, _WIDEST), ylim=(0, 1.55 * top))
        ax.set_xlabel(f"pull of {label_tex(name)}")
    for ax in axes[:: min(3, len(columns))]:
        ax.set_ylabel("density of stars")
    handles = [
        Line2D([], [], color=_STYLES[k][0], lw=2, label=f"with {k} errors")
        for k in comparison.kinds
    ]
    handles.append(Line2D([], [], color=BLACK, ls="--", label="unit normal"))
    _legend(figure, axes, len(columns), handles)
    stars = count_text(len(comparison.stars), "star")
    text = f"Pulls, (ours − {comparison.catalogue}) / joint error, of {stars}"
    figure.suptitle(title_of(text, simulated=comparison.simulated), fontsize=13)
    return figure


def _pull_text(comparison: AspcapComparison, name: str, kind: str) -> str:
    table = comparison.pulls
    row = table[(table["LABEL"] == name) & (table["KIND"] == kind)][0]
    return (
        f"{kind}\nsd {row['PULL_SD']:.2f}\nrobust sd {row['PULL_ROBUST_SD']:.2f}\n"
        f"within 68 %: {100 * row['COVER_68']:.0f} %\nwithin 95 %: {100 * row['COVER_95']:.0f} %"
    )


def plot_forest(comparison: AspcapComparison, stars: str | Sequence[str] | None = None) -> Figure:
    """Chosen stars: formal, calibrated and ASPCAP labels with one standard deviation.

    A column per label; every star's labels are drawn relative to its own posterior mean (the
    calibrated one where there is one), so that errors of stars far apart can be seen together.

    Parameters
    ----------
    comparison
        From `aspcap`.
    stars
        Ids, from top to bottom; left out, the ten that disagree most.

    Raises
    ------
    InvalidDataError
        If a star is not there, or none is given.
    """
    names = one_or_more(comparison.stars.columns[0][:10] if stars is None else stars, ids=True)
    if not names:
        raise InvalidDataError("a forest plot needs at least one star.")
    rows = [comparison.row(str(star)) for star in names]
    center = comparison.mean[comparison.judged][rows]
    sets = {k: (comparison.mean[k][rows], comparison.sd[k][rows]) for k in comparison.kinds}
    sets[_THEIRS] = (comparison.aspcap[rows], comparison.aspcap_error[rows])
    figure = new_figure((2.3 * len(comparison.names) + 2.2, 0.5 * len(rows) + 1.9))
    axes = figure.subplots(1, len(comparison.names), sharey=True, squeeze=False)[0]
    place = np.arange(len(rows))
    for i, (ax, name) in enumerate(zip(axes, comparison.names, strict=True)):
        for k, (kind, (values, errors)) in enumerate(sets.items()):
            color, marker = _STYLES[kind]
            shift = 0.22 * (k - 0.5 * (len(sets) - 1))
            ax.errorbar(values[:, i] - center[:, i], place + shift, xerr=errors[:, i], fmt=marker,
                        ms=4.5, lw=1.4, color=color)  # fmt: skip
        ax.axvline(0, color=GREY, lw=0.8, zorder=0)
        for y in place[1:] - 0.5:
            ax.axhline(y, color=GREY, lw=0.4, alpha=0.5, zorder=0)
        ax.set_xlabel(with_unit(f"{label_tex(name)} − ours", comparison.units[i]))
    snr = comparison.snr[rows]
    texts = [
        f"{star_text(str(s))}\nS/N {v:.0f}" if np.isfinite(v) else star_text(str(s))
        for s, v in zip(names, snr, strict=True)
    ]
    axes[0].set_yticks(place, texts, fontsize=9)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    handles = [
        Line2D([], [], color=_STYLES[k][0], marker=_STYLES[k][1], ms=5, label=text)
        for k, text in _error_names(comparison).items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    figure.suptitle(
        title_of(
            "Stars that differ most, ± 1 sd" if stars is None else "Labels of single stars, ± 1 sd",
            simulated=comparison.simulated,
        ),
        fontsize=13,
    )
    return figure


def _panels(n: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Figure with a panel per label, three in a row; places that are left over are empty."""
    n_columns = min(3, n)
    n_rows = -(-n // n_columns)
    figure = new_figure((size[0] * n_columns, size[1] * n_rows + 0.8))
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False, gridspec_kw={"wspace": 0.05})
                .ravel())  # fmt: skip
    for ax in axes[n:]:
        ax.set_axis_off()
    return figure, axes


def _legend(figure: Figure, axes: list[Axes], n: int, handles: list[Line2D]) -> None:
    """Legend in the first empty place, or below where there is none."""
    if n < len(axes):
        axes[n].legend(handles=handles, loc="center", fontsize=10.5)
    else:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(3, n))


def plot_disagreements(
    comparison: AspcapComparison,
    cannon: GivenModel,
    spectra: Any,
    stars: str | Sequence[str] | None = None,
    *,
    window: tuple[float, float] = (16150.0, 16250.0),
) -> Figure:
    """Spectra of the stars that disagree most, with the model at our labels and at ASPCAP's.

    The model's nuisance factors are fitted to the star at either set of labels. Below each
    spectrum, in units of sigma (observational error and intrinsic scatter together), the residuals
    from the model at our labels, and how far the model at ASPCAP's is from it. The chi-square is
    that of the whole spectrum, with the cost of the factors. Ours are near its minimum, being a
    fit to this spectrum; what is to be seen is by how much it fits worse at ASPCAP's labels, and
    where.

    Parameters
    ----------
    comparison
        From `aspcap`.
    cannon
        The trained model, its file, or a run.
    spectra
        Normalised, on the model's wavelengths.
    stars
        Ids; left out, the three that disagree most and have all labels.
    window
        Wavelengths shown, Å.

    Raises
    ------
    InvalidDataError
        If a star is not there or lacks labels, the grids differ, or the window holds no pixel.
    """
    cannon = as_model(cannon)
    spectra = as_spectra(spectra)
    require_medium(spectra, cannon.medium)
    if spectra.n_pixels != cannon.n_pixels:
        raise InvalidDataError(
            f"the spectra have {spectra.n_pixels} pixels, the model {cannon.n_pixels}; prepare "
            "them as its training set was."
        )
    names = _complete(comparison)[:3] if stars is None else list(one_or_more(stars, ids=True))
    if not names:
        raise InvalidDataError("no star has all labels in both; name stars with stars=.")
    part = within(cannon.wavelength, window)
    figure = plt.figure(figsize=(12, 3.6 * len(names) + 0.8), layout="constrained")
    axes = figure.subplots(2 * len(names), 1, sharex=True, squeeze=False,
                           height_ratios=[2, 1.1] * len(names))[:, 0]  # fmt: skip
    for i, star in enumerate(names):
        _draw_star(axes[2 * i], axes[2 * i + 1], comparison, cannon, spectra, star, part)
    axes[-1].set_xlabel(wavelength_label(cannon.medium))
    axes[-1].set_xlim(cannon.wavelength[part][0], cannon.wavelength[part][-1])
    handles = [h for ax in axes[:2] for h in ax.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    simulated = comparison.simulated or spectra.simulated
    figure.suptitle(
        title_of(f"Stars that disagree most with {comparison.catalogue}", simulated=simulated),
        fontsize=13,
    )
    return figure


def _complete(comparison: AspcapComparison) -> list[str]:
    """Stars with all labels in both, the one that disagrees most first."""
    ours = comparison.mean[comparison.judged]
    known = np.isfinite(ours).all(axis=1) & np.isfinite(comparison.aspcap).all(axis=1)
    complete = set(comparison.star_id[known].tolist())
    return [str(s) for s in comparison.stars.columns[0] if str(s) in complete]


def _draw_star(
    top: Axes,
    bottom: Axes,
    comparison: AspcapComparison,
    cannon: Cannon,
    spectra: NormalizedSpectra,
    star: str,
    part: slice,
) -> None:
    row, own = row_of(spectra.star_id, star), comparison.row(star)
    columns = [comparison.names.index(n) for n in cannon.names]
    their = _possessive(comparison.catalogue)
    sets = {
        "our": (comparison.mean[comparison.judged][own, columns], ORANGE, "-"),
        their: (comparison.aspcap[own, columns], GREEN, "--"),
    }
    if not all(np.isfinite(labels).all() for labels, _, _ in sets.values()):
        raise InvalidDataError(f"star {star} lacks a label of ours or of {their}.")
    good = spectra.good[row] & cannon.used
    flux, ivar = spectra.flux[row : row + 1], spectra.ivar[row : row + 1]
    w = cannon.wavelength[part]
    top.plot(*with_gaps(w, flux[0, part], good[part]), color=BLACK, lw=1.1, label="observed")
    found, models, sigma = [], [], np.zeros(cannon.n_pixels)
    for kind, (labels, color, line) in sets.items():
        (block,) = residual_blocks(flux, ivar, labels[None], cannon)
        models.append(flux[0] - block.after[0])
        top.plot(*with_gaps(w, models[-1][part], good[part]), color=color, lw=1.2, ls=line,
                 label=f"model at {kind} labels")  # fmt: skip
        sigma = 1 / np.sqrt(np.where(good, block.weight[0], 1.0))
        chi2 = float(np.sum((block.after[0] / sigma)[good] ** 2) + np.sum(block.z_mean**2))
        values = ", ".join(
            f"{label_tex(n)} {label_number(n, v, unit, dex=False)}"
            for n, v, unit in zip(cannon.names, labels, cannon.basis.units, strict=True)
        )
        found.append(f"at {kind} labels, {values}: $\\chi^2$ {chi2:.0f} of {good.sum()} pixels")
    residual, change = (flux[0] - models[0]) / sigma, (models[1] - models[0]) / sigma
    bottom.plot(*with_gaps(w, residual[part], good[part]), color=GREY, lw=0.8,
                label="observed − model at our labels")  # fmt: skip
    bottom.plot(*with_gaps(w, change[part], good[part]), color=GREEN, lw=1.6,
                label=f"model at {their} − model at our labels")  # fmt: skip
    bottom.axhspan(-1, 1, color=SKY, alpha=0.35, lw=0)
    bottom.axhline(0, color=GREY, lw=0.8)
    top.set_ylabel("normalised flux")
    bottom.set_ylabel("difference\n(sigma)")
    head = f"{star_text(star)}   {_flags_of(comparison, star)}"
    top.set_title("\n".join([head, *found]), fontsize=9.5, loc="left")


def _possessive(catalogue: str) -> str:
    return f"{catalogue}'s"


def _flags_of(comparison: AspcapComparison, star: str) -> str:
    """Flags of a star in words."""
    rows = comparison.stars[comparison.stars.columns[0] == star]
    if len(rows) == 0:
        return ""
    wanted = {"FLAGS": "our flags", "ASPCAPFLAG": "ASPCAPFLAG", "STARFLAG": "STARFLAG"}
    return ", ".join(f"{text}: {rows[c][0]}" for c, text in wanted.items() if c in rows.colnames)
