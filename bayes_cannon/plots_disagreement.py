"""Spectra of the stars that disagree most with ASPCAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bayes_cannon.arguments import as_spectra, several
from bayes_cannon.aspcap_comparison import AspcapComparison
from bayes_cannon.cannon import Cannon
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.labels import label_tex
from bayes_cannon.plots_common import (
    BLACK,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    row_of,
    star_text,
    title_of,
    wavelength_label,
    with_gaps,
    within,
)
from bayes_cannon.residuals import residual_blocks
from bayes_cannon.spectra import NormalizedSpectra, require_medium

__all__ = ["plot_disagreements"]


def plot_disagreements(
    comparison: AspcapComparison,
    cannon: Cannon,
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
        From `aspcap_comparison`.
    cannon
        The trained model.
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
    spectra = as_spectra(spectra)
    require_medium(spectra, cannon.medium)
    if spectra.n_pixels != cannon.n_pixels:
        raise InvalidDataError(
            f"the spectra have {spectra.n_pixels} pixels, the model {cannon.n_pixels}; prepare "
            "them as its training set was."
        )
    names = _complete(comparison)[:3] if stars is None else several(stars)
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
        title_of("Stars that disagree most with ASPCAP", simulated=simulated), fontsize=13
    )
    return figure


def _complete(comparison: AspcapComparison) -> list[str]:
    """Stars with all labels in both, the one that disagrees most first."""
    table = comparison.stars
    return [str(s) for s in table["APOGEE_ID"][table["N_LABELS"] == len(comparison.names)]]


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
    sets = {
        "our": (comparison.mean[comparison.judged][own, columns], ORANGE, "-"),
        "ASPCAP's": (comparison.aspcap[own, columns], GREEN, "--"),
    }
    if not all(np.isfinite(labels).all() for labels, _, _ in sets.values()):
        raise InvalidDataError(f"star {star} lacks a label of ours or of ASPCAP's.")
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
            f"{label_tex(n)} {v:.{0 if unit == 'K' else 2}f}"
            for n, v, unit in zip(cannon.names, labels, cannon.basis.units, strict=True)
        )
        found.append(f"at {kind} labels, {values}: $\\chi^2$ {chi2:.0f} of {good.sum()} pixels")
    residual, change = (flux[0] - models[0]) / sigma, (models[1] - models[0]) / sigma
    bottom.plot(*with_gaps(w, residual[part], good[part]), color=GREY, lw=0.8,
                label="observed less model at ours")  # fmt: skip
    bottom.plot(*with_gaps(w, change[part], good[part]), color=GREEN, lw=1.6,
                label="model at ASPCAP's less model at ours")  # fmt: skip
    bottom.axhspan(-1, 1, color=SKY, alpha=0.35, lw=0)
    bottom.axhline(0, color=GREY, lw=0.8)
    top.set_ylabel("normalised flux")
    bottom.set_ylabel("difference\n(sigma)")
    head = f"{star_text(star)}   {_flags_of(comparison, star)}"
    top.set_title("\n".join([head, *found]), fontsize=9.5, loc="left")


def _flags_of(comparison: AspcapComparison, star: str) -> str:
    """Flags of a star in words."""
    rows = comparison.stars[comparison.stars["APOGEE_ID"] == star]
    if len(rows) == 0:
        return ""
    wanted = {"FLAGS": "our flags", "ASPCAPFLAG": "ASPCAPFLAG", "STARFLAG": "STARFLAG"}
    return ", ".join(f"{text}: {rows[c][0]}" for c, text in wanted.items() if c in rows.colnames)
