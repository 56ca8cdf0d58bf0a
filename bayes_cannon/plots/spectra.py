"""Figures of spectra: as observed, with their continuum, and with the model over them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bayes_cannon.analysis.lines import known_lines
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenModel, as_model, as_spectra
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.common import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    figure_of,
    mark_lines,
    new_axes,
    star_text,
    title_of,
    wavelength_label,
    with_gaps,
    within,
)
from bayes_cannon.spectra.continuum import ContinuumFit, ContinuumSettings, match_pixels
from bayes_cannon.spectra.label_kinds import label_number, label_tex
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra, require_medium
from bayes_cannon.spectra.star_ids import row_of

__all__ = [
    "plot_continuum",
    "plot_model",
    "plot_spectrum",
]

Window = tuple[float, float] | None
_CHIP_COLORS = (BLUE, GREEN, ORANGE)
_CHIP_NAMES = ("blue", "green", "red")
_FLUX_UNIT = r"flux ($10^{-17}$ erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$)"


def _flux_label(spectra: ObservedSpectra | NormalizedSpectra) -> str:
    return _FLUX_UNIT if isinstance(spectra, ObservedSpectra) else "normalised flux"


def _shade(ax: Axes, wavelength: FloatArray, bad: NDArray[np.bool_]) -> bool:
    """Shade runs of bad pixels; says whether there were any."""
    if not bad.any():
        return False
    edges = np.flatnonzero(np.diff(np.r_[False, bad, False]))
    half = 0.5 * float(np.median(np.diff(wavelength)))
    for start, stop in edges.reshape(-1, 2):
        low, high = float(wavelength[start]) - half, float(wavelength[stop - 1]) + half
        ax.axvspan(low, high, color=PURPLE, alpha=0.3, lw=0, zorder=0)
    return True


def _limits(values: FloatArray) -> tuple[float, float]:
    """Axis limits that a few wild pixels do not spoil, with room for a legend at the bottom."""
    known = values[np.isfinite(values)]
    if known.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(known, [0.01, 99.8])
    height = max(float(high - low), 1e-6)
    return float(low) - 0.2 * height, float(high) + 0.08 * height


def plot_spectrum(
    spectra: Any,
    star: str,
    *,
    window: Window = None,
    ax: Axes | None = None,
) -> Figure:
    """One spectrum, a colour per chip; its flagged pixels and the gaps between chips are shaded.

    Parameters
    ----------
    spectra
        Observed or normalised.
    star
        Its id.
    window
        Wavelengths shown, Å.
    ax
        Where to draw; a new figure where left out.

    Raises
    ------
    InvalidDataError
        If the star is not there, or the window holds no pixel.
    """
    if not isinstance(spectra, ObservedSpectra):
        spectra = as_spectra(spectra)
    row = row_of(spectra.star_id, star)
    ax = new_axes(ax, (12, 4.2))
    part = within(spectra.wavelength, window)
    w, flux, good = spectra.wavelength, spectra.flux[row].astype(np.float64), spectra.good[row]
    n_chips = len(spectra.chips)
    ends: list[tuple[float, float]] = []
    flagged = False
    for i, (start, stop) in enumerate(spectra.chips):
        chip = slice(max(start, part.start), min(stop, part.stop))
        if chip.start >= chip.stop:
            continue
        text = f"{_CHIP_NAMES[i]} chip" if n_chips == 3 else f"pixels {start}-{stop}"
        x, y = with_gaps(w[chip], flux[chip], good[chip])
        ax.plot(x, y, color=_CHIP_COLORS[i % 3], lw=0.7, label=text)
        # A chip's range may begin and end with pixels that the detector does not reach.
        seen = np.flatnonzero(good[chip])
        if seen.size:
            inner = slice(chip.start + int(seen[0]), chip.start + int(seen[-1]) + 1)
            flagged |= _shade(ax, w[inner], ~good[inner])
            ends.append((float(w[inner][0]), float(w[inner][-1])))
    handles = ax.get_legend_handles_labels()[0]
    if flagged:
        handles.append(Patch(color=PURPLE, alpha=0.3, label="flagged pixels, not used"))
    for (_, last), (first, _) in pairwise(ends):
        ax.axvspan(last, first, color=GREY, alpha=0.15, lw=0, zorder=0)
    if len(ends) > 1:
        handles.append(Patch(color=GREY, alpha=0.15, lw=0, label="gap between chips"))
    shown = slice(part.start, part.stop)
    ax.set(xlim=(w[shown][0], w[shown][-1]), ylim=_limits(flux[shown][good[shown]]))
    ax.set(xlabel=wavelength_label(spectra.medium), ylabel=_flux_label(spectra))
    snr = f", S/N {spectra.snr[row]:.0f} per pixel" if np.isfinite(spectra.snr[row]) else ""
    ax.set_title(title_of(f"{star_text(star)}{snr}", simulated=spectra.simulated))
    ax.legend(handles=handles, loc="lower right", ncols=len(handles), framealpha=0.9)
    return figure_of(ax)


def plot_continuum(
    raw: ObservedSpectra,
    normalized: NormalizedSpectra,
    fit: ContinuumFit,
    star: str,
    *,
    settings: ContinuumSettings | None = None,
    windows: Sequence[tuple[int, int]] | None = None,
) -> Figure:
    """Raw spectrum with continuum pixels and the fit of each chip; below, the normalised one.

    Parameters
    ----------
    raw, normalized, fit
        What went into `normalize` and what came out.
    star
        Its id.
    settings
        Those of the fit: they name the continuum pixels.
    windows
        Ranges (start, stop) of pixels that are used later; the others are shaded.

    Raises
    ------
    InvalidDataError
        If the star is not there.
    """
    row, place = row_of(raw.star_id, star), row_of(fit.star_id, star)
    flat = row_of(normalized.star_id, star)
    w, flux = raw.wavelength, raw.flux[row].astype(np.float64)
    pixels = match_pixels(w, (settings or ContinuumSettings()).wavelengths_in(raw.medium))
    pixels = pixels[raw.good[row, pixels]]
    curve = fit.continuum(place)
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(12, 6.4), sharex=True, layout="constrained")
    top.plot(*with_gaps(w, flux, raw.good[row]), color=GREY, lw=0.6, label="observed")
    top.plot(w[pixels], flux[pixels], "o", color=BLUE, ms=3, label="continuum pixels")
    for i, (start, stop) in enumerate(fit.chips):
        seen = start + np.flatnonzero(raw.good[row, start:stop])
        if seen.size:
            chip = slice(int(seen[0]), int(seen[-1]) + 1)
            top.plot(w[chip], curve[chip], color=ORANGE, lw=1.8,
                     label="fit, one per chip" if i == 0 else None)  # fmt: skip
    top.set(ylabel=_FLUX_UNIT, ylim=_limits(flux[raw.good[row]]))
    top.legend(loc="lower left", ncols=3, framealpha=0.9)
    x, y = with_gaps(normalized.wavelength, normalized.flux[flat], normalized.good[flat])
    bottom.plot(x, y, color=BLACK, lw=0.6, label="normalised")
    bottom.axhline(1, color=ORANGE, lw=1, ls="--", label="continuum")
    bottom.set(xlabel=wavelength_label(raw.medium), ylabel="normalised flux", ylim=_limits(y))
    bottom.set(xlim=(w[0], w[-1]))
    edges = [] if windows is None else [0, *(e for window in windows for e in window), w.size]
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        low, high = w[min(start, w.size - 1)], w[min(stop, w.size - 1)]
        bottom.axvspan(low, high, color=GREY, alpha=0.15, lw=0,
                       label="not used" if start == 0 else None)  # fmt: skip
    bottom.legend(loc="lower left", ncols=2, framealpha=0.9)
    figure.suptitle(title_of(f"Continuum of {star_text(star)}", simulated=raw.simulated))
    return figure


def plot_model(
    cannon: GivenModel,
    spectra: Any,
    star: str,
    labels: Any,
    *,
    window: Window = (16000.0, 16200.0),
) -> Figure:
    """Model spectrum with its band over an observed one; residuals in units of sigma below.

    The band is one standard deviation of what the model expects of a new star: uncertain
    coefficients, intrinsic scatter and factors. Residuals are divided by this and the
    observational error together; their root mean square is 1 where all is well. Named are the
    deepest of the known lines of the elements among the labels.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    spectra
        Normalised, on the model's wavelengths.
    star
        Its id.
    labels
        Of that star, shape (n_labels,), in the order of `Cannon.names`: its posterior mean, say.
    window
        Wavelengths shown, Å; None: all.

    Raises
    ------
    InvalidDataError
        If the star is not there, the grids differ, or the window holds no pixel.
    """
    cannon = as_model(cannon)
    spectra = as_spectra(spectra)
    row = row_of(spectra.star_id, star)
    require_medium(spectra, cannon.medium)
    if spectra.n_pixels != cannon.n_pixels:
        raise InvalidDataError(
            f"the spectra have {spectra.n_pixels} pixels, the model {cannon.n_pixels}; prepare "
            "them as its training set was."
        )
    values = cannon.label_values(labels)
    prediction = cannon.predict(values)
    part = within(cannon.wavelength, window)
    w, flux = cannon.wavelength[part], spectra.flux[row, part].astype(np.float64)
    good = spectra.good[row, part] & cannon.used[part]
    model, band = prediction.flux[part], prediction.sd[part]
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(12, 5.8), sharex=True, height_ratios=(2.4, 1), layout="constrained"
    )
    x, y = with_gaps(w, model, cannon.used[part])
    edge = with_gaps(w, band, cannon.used[part])[1]
    top.fill_between(x, y - edge, y + edge, color=SKY, alpha=0.5, lw=0, label="model ± 1 sd")
    top.plot(*with_gaps(w, flux, good), color=BLACK, lw=1.0, label="observed")
    top.plot(x, y, color=ORANGE, lw=1.2, ls="--", label="model")
    shaded = _shade(top, w, ~good)
    handles = top.get_legend_handles_labels()[0]
    if shaded:
        handles.append(Patch(color=PURPLE, alpha=0.3, label="flagged pixels, not used"))
    top.set(ylabel="normalised flux", xlim=(w[0], w[-1]), ylim=_limits(flux[good]))
    top.legend(handles=handles, loc="lower right", ncols=len(handles), framealpha=0.9)
    _name_lines(top, cannon, w, np.where(good, model, np.nan))
    variance = np.where(good, 1 / np.where(good, spectra.ivar[row, part], 1.0), np.nan) + band**2
    residual = (flux - model) / np.sqrt(variance)
    bottom.plot(*with_gaps(w, residual, good), color=BLUE, lw=0.8)
    bottom.axhspan(-1, 1, color=SKY, alpha=0.35, lw=0)
    bottom.axhline(0, color=GREY, lw=0.8)
    if good.any():
        rms = float(np.sqrt(np.mean(residual[good] ** 2)))
        bottom.annotate(
            f"rms {rms:.2f} sigma (expected: 1)", (0.995, 0.95), xycoords="axes fraction",
            ha="right", va="top", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )  # fmt: skip
    _shade(bottom, w, ~good)
    bottom.set(xlabel=wavelength_label(cannon.medium), ylabel="residual\n(sigma)")
    shown = ", ".join(
        f"{label_tex(n)} {label_number(n, v, u)}"
        for n, v, u in zip(cannon.names, values, cannon.basis.units, strict=True)
    )
    title = title_of(
        f"{star_text(star)} and the model at its labels",
        simulated=spectra.simulated, model_simulated=cannon.simulated,
    )  # fmt: skip
    figure.suptitle(f"{title}\n{shown}", fontsize=11)
    return figure


_MOST_LINES = 20
_NEAR = 0.3
"""Å within which a line's depth in the model is looked for."""


def _name_lines(ax: Axes, cannon: Cannon, wavelength: FloatArray, flux: FloatArray) -> None:
    """Name the deepest known lines of the labels' elements along the top of an axes."""
    depth: dict[tuple[float, str], float] = {}
    for name in cannon.names:
        lines = known_lines(name, medium=cannon.medium)
        atoms = lines[(lines["kind"] == "atomic") & np.isfinite(lines[cannon.medium])]
        for at, text in zip(atoms[cannon.medium], atoms["name"], strict=True):
            near = flux[np.abs(wavelength - float(at)) < _NEAR]
            if np.isfinite(near).any():
                depth[float(at), str(text)] = 1 - float(np.nanmin(near))
    deepest = sorted(depth, key=lambda line: -depth[line])[:_MOST_LINES]
    mark_lines(ax, [at for at, _ in deepest], [text for _, text in deepest])
