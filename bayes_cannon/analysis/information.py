"""Where the information on a label is: shares of the pixels near known lines, species by species.

Two questions, which have different answers. How much do the pixels *know* about a label, each for
itself: their share of the sum of (g/σ)², with g the derivative of the flux with respect to the
label and σ² the variance of the pixel. And from which pixels does the label *come* when all labels
and nuisance factors are inferred together: the optimal filter

    h = (G C⁻¹ Gᵀ)⁻¹ G C⁻¹,  C = diag(σ²) + Λ Λᵀ,

is the change of the labels per change of the flux (G: gradients of all labels, Λ: loadings). With
h Gᵀ = 1, a group of pixels has the share Σ h g of it: where only these pixels change as the label
asks for, the inferred label changes by that share of the truth. Shares of the filter may be
negative. In a model that was trained on stars whose abundances vary together, most of a label may
come from lines of other elements: what is measured then is the company that the element keeps.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.analysis.lines import known_lines, lines_of, load_lines, nearest_lines
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.arguments import GivenModel, as_model
from bayes_cannon.models.cannon import Cannon

__all__ = [
    "OTHERS",
    "OWN",
    "line_information",
    "line_windows",
    "near_lines",
]


OWN = "own lines"
"""Group of the pixels near a line of the label (`lines_of`), whatever else is there."""
OTHERS = "no listed line"
"""Group of the pixels that are near no line of the list."""

_FREE = frozenset({"FE", "M", "ALPHA"})
_BOTTOMS = ("FE", "H", "M")
_LONGEST = 2  # letters of an element


def line_information(
    cannon: GivenModel,
    *,
    at: ArrayLike | None = None,
    snr: float = 150.0,
    half_width: float = 1.5,
) -> Table:
    """Return the share of each group of pixels in what is known of each label.

    A pixel belongs to the species of the nearest line within `half_width` (and the precision of
    the line's wavelength), else to "no listed line"; the shares of these groups add up to 1. "own
    lines" are the pixels near a line of the label itself, apart from that. The list has the strong
    lines and band heads only: "no listed line" is no continuum.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    at : (n_labels,) float
        Labels at which it is judged; the training mean where left out.
    snr
        Signal-to-noise ratio per pixel of the spectrum.
    half_width
        Largest distance of a pixel from a line, Å.

    Returns
    -------
    astropy.table.Table
        A row for each label and group: LABEL, GROUP, N_PIXELS, INFORMATION, the share of the sum
        of (g/σ)², and FILTER, the share of the optimal filter.

    Raises
    ------
    InvalidDataError
        On a S/N or width that is not positive, or a model with a label that no pixel knows of.

    Notes
    -----
    σ² is noise, intrinsic scatter and uncertainty of the coefficients, times the pixels per
    independent one. Nothing is said of the prior, which matters where spectra tell little.
    """
    cannon = as_model(cannon)
    for name, value in (("snr", snr), ("half_width", half_width)):
        if not value > 0:
            raise InvalidDataError(f"{name} must be positive, got {value!r}.")
    place = cannon.label_mean if at is None else cannon.label_values(at)
    information, filter_ = _densities(cannon, place, snr)
    species = nearest_lines(cannon.wavelength, half_width, medium=cannon.medium)["species"]
    species = np.asarray(species, dtype=np.str_)
    listed = list(dict.fromkeys(np.asarray(load_lines()["species"]).tolist()))
    groups = {name: species == name for name in listed if (species == name).any()}
    groups[OTHERS] = species == ""
    rows = []
    for k, label in enumerate(cannon.names):
        for name, pixels in {OWN: _own(cannon, label, half_width), **groups}.items():
            if name == OWN and not pixels.any():
                continue
            pixels = pixels & cannon.used
            shares = [float(density[k, pixels].sum()) for density in (information, filter_)]
            rows.append((label, name, int(pixels.sum()), *shares))
    table = Table(
        rows=rows,
        names=("LABEL", "GROUP", "N_PIXELS", "INFORMATION", "FILTER"),
        dtype=(str, str, int, float, float),
    )
    table.meta = {
        "at": dict(zip(cannon.names, np.asarray(place, dtype=float).tolist(), strict=True)),
        "snr": float(snr),
        "half_width": float(half_width),
        "simulated": cannon.simulated,
    }
    return table


def _own(cannon: Cannon, label: str, half_width: float) -> NDArray[np.bool_]:
    """Pixels near a line of a label; none for a label without lines or of an unknown name."""
    lines = known_lines(label)
    return near_lines(cannon.wavelength, lines, half_width, medium=cannon.medium)


def _densities(cannon: Cannon, at: FloatArray, snr: float) -> tuple[FloatArray, FloatArray]:
    """Shares of each pixel in information and filter, both (n_labels, n_pixels); rows sum to 1."""
    scale = cannon.basis.scale[:, None]
    gradient = np.where(cannon.used, cannon.gradient(at).value * scale, 0.0)
    silent = ~(gradient != 0).any(axis=1)
    if silent.any():
        names = ", ".join(np.asarray(cannon.names)[silent].tolist())
        raise InvalidDataError(
            f"no pixel of the model changes with {names}; train without, or with other windows."
        )
    variance = snr**-2.0 + cannon.scatter**2 + cannon.predict(at).coef_sd ** 2
    ivar = np.where(cannon.used, snr**2, 0.0)
    kappa = cannon.independent_pixels.kappa(ivar[None])[0]
    weight = np.where(cannon.used, 1 / (variance * kappa), 0.0)
    information = weight * gradient**2
    weighted = weight * gradient
    loaded = weight[:, None] * cannon.loadings
    inner = np.eye(cannon.n_factors) + cannon.loadings.T @ loaded
    weighted = weighted - np.linalg.solve(inner, loaded.T @ gradient.T).T @ loaded.T
    filter_ = np.linalg.solve(weighted @ gradient.T, weighted) * gradient
    return information / information.sum(axis=1, keepdims=True), filter_


def near_lines(
    wavelength: FloatArray, lines: Table, half_width: float, *, medium: str = "vacuum"
) -> NDArray[np.bool_]:
    """Pixels near one of some lines, shape (n_pixels,).

    Parameters
    ----------
    wavelength : (n_pixels,) float
        Å.
    lines
        Rows of `load_lines`.
    half_width
        Largest distance, Å, besides the precision of the lines' wavelengths.
    medium
        What the wavelengths are in: ``'vacuum'`` or ``'air'``.
    """
    near = np.zeros(wavelength.shape, dtype=bool)
    for low, high in _ranges(lines, half_width, medium):
        near |= (wavelength >= low) & (wavelength <= high)
    return near


def _ranges(lines: Table, half_width: float, medium: str) -> list[tuple[float, float]]:
    """Ranges around lines, one where they overlap, rising."""
    places = np.asarray(lines[medium], dtype=np.float64)
    reach = half_width + np.asarray(lines["precision"], dtype=np.float64)
    ranges: list[tuple[float, float]] = []
    for low, high in sorted(zip(places - reach, places + reach, strict=True)):
        if ranges and low <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], float(high)))
        else:
            ranges.append((float(low), float(high)))
    return ranges


def line_windows(
    labels: str | Iterable[str], *, half_width: float = 1.5, medium: str = "vacuum"
) -> dict[str, list[tuple[float, float]]]:
    """Return windows for `train` that confine each abundance to the lines of its element.

    Confined are ratios of single elements such as MG_FE or SI_H. What acts on all lines stays
    free: TEFF, LOGG, FE_H, M_H, ALPHA_M and all other labels. Molecules count for C, N and O
    (`lines_of`). The list has strong lines only, so that there is a price, to be measured: on
    simulated giants a model without factors follows [Mg/Fe] and [Si/Fe] better when these are
    confined, one with factors worse and with larger errors, as it takes them from weak lines of
    the element as well (``benchmarks/results.md``).

    Parameters
    ----------
    labels
        Names of the labels.
    half_width
        Å to each side of a line, besides the precision of its wavelength.
    medium
        Whether the spectra are in ``'vacuum'`` or ``'air'``.

    Returns
    -------
    dict of str to list of (low, high)
        Wavelength ranges, Å, of the labels that are confined.

    Raises
    ------
    LabelError
        If there is no label to confine, or the list has no line of its element.
    InvalidDataError
        On a width that is not positive.

    Examples
    --------
    >>> windows = line_windows(("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE"))
    >>> list(windows), len(windows["MG_FE"])
    (['MG_FE', 'SI_FE'], 6)
    """
    names = tuple(name.upper() for name in one_or_more(labels))
    if not half_width > 0:
        raise InvalidDataError(f"half_width must be positive, got {half_width!r}.")
    wanted = [name for name in names if _is_ratio(name)]
    if not wanted:
        raise LabelError(
            f"none of {', '.join(names) or 'no labels'} is the abundance of one element, such as "
            "MG_FE; only those are confined to lines."
        )
    windows = {}
    for name in wanted:
        lines = lines_of(name)
        if not len(lines):
            raise LabelError(f"the list has no line of {name}; name windows of your own.")
        windows[name] = _ranges(lines, half_width, medium)
    return windows


def _is_ratio(name: str) -> bool:
    """Whether a label is the abundance of one element other than iron."""
    top, _, bottom = name.partition("_")
    return bottom in _BOTTOMS and top not in _FREE and len(top) <= _LONGEST
