r"""How well a trained model describes spectra of known labels.

Residuals are taken at the posterior mean of each star's factors *given its labels*, found anew
for the stars at hand (so that training stars and others are treated alike):

    r[n,p] = flux[n,p] - theta[p].v(l_n) - loading[p].z[n] ,    w[n,p] = 1 / (1/ivar[n,p] + s[p]²)

Their expected square is not 1/w. A star that took part in the training has pulled the
coefficients towards itself by its leverage ``h[n,p] = w x' C_p x`` with x = [v, z], a star that
did not has their error added; and every star's factors follow its noise by
``g[n,p] = w loading[p]' Cov(z[n]) loading[p]``:

    E[w r²] = 1 - h - g   (training star) ,    1 + h - g   (other star).

The reduced chi-square is the sum of w r² over the sum of these. It is near 1 in every pixel whose
scatter s could be fitted; a pixel far above 1 has outliers, one below 1 has errors that are too
large. Everything is done in blocks of stars, in memory that does not grow with their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bayes_cannon.analysis.residuals import ResidualBlock, checked_labels, residual_blocks
from bayes_cannon.base.cards import SIMULATED, Carded, Row, count_text, range_text
from bayes_cannon.base.packing import pack, pack_outer, packed_weights
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import (
    GivenModel,
    KnownLabels,
    as_labels,
    as_model,
    as_spectra,
)
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.spectra import require_medium, same_grid

__all__ = [
    "Diagnostics",
    "FitQuality",
    "ResidualCorrelation",
    "diagnose",
    "fit_quality",
    "residual_correlation",
]

_N_EIGENVALUES = 30


@dataclass(frozen=True, eq=False)
class FitQuality:
    """Chi-square and leverage.

    Attributes
    ----------
    star_id : (n_stars,) str
    chi2_pixel : (n_pixels,) float64
        Reduced chi-square of each pixel over stars; NaN where the pixel is not used.
    chi2_star : (n_stars,) float64
        Reduced chi-square of each star over pixels; NaN for a star without a usable pixel.
    n_good_pixel, n_good_star : int64
        Number of values behind each.
    leverage : (n_stars,) float64
        Mean over the star's pixels of h; between 0 and 1 for a training star, where it is the
        share of the fit that this star decides alone. Coefficients per pixel over stars on average.
    training : (n_stars,) bool
        Stars that the model was trained on.
    """

    star_id: NDArray[np.str_]
    chi2_pixel: FloatArray
    chi2_star: FloatArray
    n_good_pixel: NDArray[np.int64]
    n_good_star: NDArray[np.int64]
    leverage: FloatArray
    training: NDArray[np.bool_]

    def worst_stars(self, n: int = 10) -> list[tuple[str, float]]:
        """Ids and reduced chi-squares of the `n` stars that fit worst, worst first.

        Parameters
        ----------
        n
            How many.
        """
        value = np.where(np.isfinite(self.chi2_star), self.chi2_star, -np.inf)
        order = [i for i in np.argsort(-value, kind="stable")[:n] if np.isfinite(value[i])]
        return [(str(self.star_id[i]), float(self.chi2_star[i])) for i in order]


@dataclass(frozen=True, eq=False)
class ResidualCorrelation:
    """Correlation of residuals between pixels, over stars.

    Arrays ending in a dimension of 2 hold it before and after the factors are taken out.

    Attributes
    ----------
    pixels : (n_sampled,) int
        Pixels looked at: runs of neighbours spread over the spectrum.
    lag_edges : (n_bins + 1,) int
        Edges of the bins of distance between two pixels, in pixels.
    lag_mean_abs : (n_bins, 2) float64
        Mean absolute correlation of pairs at that distance; NaN where there are none.
    off_diagonal : (n_pairs, 2) float64
        Correlations of (at most 20 000, evenly chosen) pairs of pixels.
    eigenvalue_share : (n_eigenvalues, 2) float64
        Share of the variance along the leading eigenvectors of the correlation matrix.
    noise_level : float
        Mean absolute correlation that independent residuals of as many stars show.
    """

    pixels: NDArray[np.intp]
    lag_edges: NDArray[np.int64]
    lag_mean_abs: FloatArray
    off_diagonal: FloatArray
    eigenvalue_share: FloatArray
    noise_level: float


@dataclass(frozen=True, eq=False, repr=False)
class Diagnostics(Carded):
    """Everything `diagnose` finds.

    Attributes
    ----------
    quality : FitQuality
    correlation : ResidualCorrelation
    wavelength : (n_pixels,) float64
        In Å.
    n_factors : int
    simulated : bool
    medium : str
        ``'vacuum'`` or ``'air'``.
    """

    quality: FitQuality
    correlation: ResidualCorrelation
    wavelength: FloatArray
    n_factors: int
    simulated: bool = False
    medium: str = "vacuum"

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame, a row a star: ``CHI2``, ``N_PIXELS``, ``LEVERAGE``, ``TRAINING``."""
        found = self.quality
        columns = {"CHI2": found.chi2_star, "N_PIXELS": found.n_good_star,
                   "LEVERAGE": found.leverage, "TRAINING": found.training}  # fmt: skip
        return pd.DataFrame(columns, index=pd.Index(found.star_id, name="STAR_ID", dtype=object))

    def _facts(self) -> tuple[str, list[Row]]:
        found = self.quality
        worst = [f"{star} ({chi2:.2f})" for star, chi2 in found.worst_stars(3)]
        n = count_text(found.star_id.size, "star")
        return f"Fit of {n}{SIMULATED if self.simulated else ''}", [
            ("pixels", str(self.wavelength.size)),
            ("factors", str(self.n_factors)),
            ("chi2 of stars", range_text(found.chi2_star, 2)),
            ("chi2 of pixels", range_text(found.chi2_pixel, 2)),
            ("worst stars", ", ".join(worst)),
        ]


def _leverages(
    block: ResidualBlock, cannon: Cannon, products: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Leverages h and g of a block of stars, (n, n_pixels)."""
    x = np.concatenate([block.features, block.z_mean], axis=1)
    weights = packed_weights(x.shape[1])
    packed = (pack_outer(x) * weights).astype(np.float32)
    h = block.weight * (packed @ cannon.coef_cov.T)
    if not cannon.n_factors:
        return h, np.zeros_like(h)
    own = (pack(block.z_cov) * packed_weights(cannon.n_factors)).astype(np.float32)
    return h, block.weight * (own @ products.T)


def fit_quality(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    labels: FloatArray,
    star_id: NDArray[np.str_],
    cannon: Cannon,
) -> FitQuality:
    """Chi-square per pixel and per star, and leverage of each star.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: not used), shape (n_stars, n_pixels).
    labels
        Physical units, shape (n_stars, n_labels), none missing.
    star_id
        Shape (n_stars,); tells training stars from others.
    cannon
        The trained model.

    Raises
    ------
    InvalidDataError
        On shapes that do not match, or missing labels.
    """
    values = checked_labels(flux, ivar, labels, cannon)
    n_stars, n_pixels = flux.shape
    training = np.isin(star_id, cannon.training.star_id)
    products = pack_outer(cannon.loadings).astype(np.float32)
    square, freedom = np.zeros((2, n_pixels))
    star_square, star_freedom, leverage = np.zeros((3, n_stars))
    n_good_pixel, n_good_star = np.zeros(n_pixels, np.int64), np.zeros(n_stars, np.int64)
    for block in residual_blocks(flux, ivar, values, cannon):
        good = block.weight > 0
        h, g = _leverages(block, cannon, products)
        sign = np.where(training[block.rows], -1, 1).astype(np.float32)[:, None]
        expected = np.where(good, 1 + sign * h - g, 0)
        chi2 = block.weight * block.after**2
        square += chi2.sum(axis=0, dtype=np.float64)
        freedom += expected.sum(axis=0, dtype=np.float64)
        n_good_pixel += good.sum(axis=0)
        n_good_star[block.rows] = good.sum(axis=1)
        star_square[block.rows] = chi2.sum(axis=1, dtype=np.float64)
        star_freedom[block.rows] = expected.sum(axis=1, dtype=np.float64)
        leverage[block.rows] = h.sum(axis=1, dtype=np.float64)
    return FitQuality(
        np.asarray(star_id, dtype=np.str_),
        _ratio(square, freedom),
        _ratio(star_square, star_freedom),
        n_good_pixel,
        n_good_star,
        _ratio(leverage, n_good_star),
        training,
    )


def _ratio(top: FloatArray, bottom: NDArray[Any]) -> FloatArray:
    """Quotient, NaN where the denominator is not positive."""
    return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), np.nan)


def _sampled_pixels(cannon: Cannon, n_pixels: int) -> NDArray[np.intp]:
    """Runs of neighbouring used pixels, spread evenly, `n_pixels` in all at most."""
    used = np.flatnonzero(cannon.used)
    if used.size <= n_pixels:
        return used
    run = min(64, n_pixels)
    starts = np.linspace(0, used.size - run, max(n_pixels // run, 1)).astype(np.intp)
    return np.unique(used[starts[:, None] + np.arange(run)])


def residual_correlation(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    labels: FloatArray,
    cannon: Cannon,
    *,
    n_pixels: int = 1024,
) -> ResidualCorrelation:
    """Correlation between pixels of the residuals, before and after factors.

    *Before* is what is left of the flux after ``theta.v``, weighted with the variance that the
    factors bring; *after* has the factors' posterior mean taken out as well.

    Parameters
    ----------
    flux, ivar, labels, cannon
        As for `fit_quality`.
    n_pixels
        Number of pixels looked at.

    Raises
    ------
    InvalidDataError
        On shapes that do not match, missing labels, or fewer than three stars.
    """
    values = checked_labels(flux, ivar, labels, cannon)
    if len(values) < 3:
        raise InvalidDataError(f"a correlation needs at least 3 stars, got {len(values)}.")
    pixels = _sampled_pixels(cannon, n_pixels)
    extra = np.sum(cannon.loadings[pixels] ** 2, axis=1)
    n = pixels.size
    product, norm = np.zeros((2, n, n)), np.zeros((2, n, n))
    pairs = np.zeros((n, n))
    for block in residual_blocks(flux, ivar, values, cannon):
        part = block.ivar[:, pixels]
        good = (part > 0).astype(np.float64)
        wide = part / (1 + part * (cannon.scatter[pixels] ** 2 + extra).astype(np.float32))
        pairs += good.T @ good
        for i, (residual, weight) in enumerate(
            ((block.before, wide), (block.after, block.weight[:, pixels]))
        ):
            e = (residual[:, pixels] * np.sqrt(weight)).astype(np.float64)
            product[i] += e.T @ e
            norm[i] += (e * e).T @ good
    scale = np.sqrt(norm * norm.transpose(0, 2, 1))
    enough = (pairs >= 3) & (scale > 0).all(axis=0)
    correlation = np.where(enough, product / np.where(scale > 0, scale, 1), 0.0)
    return _summarise(correlation, pixels, pairs, enough)


def _summarise(
    correlation: FloatArray,
    pixels: NDArray[np.intp],
    pairs: FloatArray,
    enough: NDArray[np.bool_],
) -> ResidualCorrelation:
    rows, columns = np.tril_indices(pixels.size, -1)
    known = enough[rows, columns]
    rows, columns = rows[known], columns[known]
    lag = pixels[rows] - pixels[columns]
    values = correlation[:, rows, columns].T
    widest = max(int(lag.max(initial=1)), 1)
    edges = np.unique(np.geomspace(1, widest + 1, 24).astype(np.int64))
    if edges[-1] <= widest:
        edges = np.append(edges, widest + 1)
    place = np.digitize(lag, edges) - 1
    count = np.bincount(place, minlength=edges.size - 1)
    sums = [np.bincount(place, np.abs(values[:, i]), edges.size - 1) for i in range(2)]
    mean_abs = np.stack([_ratio(s, count) for s in sums], axis=1)
    chosen = np.linspace(0, max(rows.size - 1, 0), min(rows.size, 20_000)).astype(np.intp)
    eigenvalues = np.linalg.eigvalsh(correlation)[:, ::-1][:, :_N_EIGENVALUES]
    share = eigenvalues.T / np.trace(correlation, axis1=1, axis2=2)
    typical = float(np.median(pairs[rows, columns])) if rows.size else float("nan")
    noise = float(np.sqrt(2 / (np.pi * typical)))
    return ResidualCorrelation(pixels, edges, mean_abs, values[chosen], share, noise)


def diagnose(cannon: GivenModel, spectra: Any, labels: KnownLabels | None = None) -> Diagnostics:
    """Chi-squares, leverages and residual correlation of stars with known labels.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run.
    spectra
        `NormalizedSpectra` on the model's wavelength grid, or a `TrainingSet`.
    labels
        Of the same stars in the same order; stars that lack a label are left out. Those of the
        training set where left out.

    Raises
    ------
    InvalidDataError
        If spectra, labels and model do not belong together.
    """
    cannon = as_model(cannon)
    labels = as_labels(spectra if labels is None else labels, "labels")
    spectra = as_spectra(spectra)
    if labels is None:
        raise InvalidDataError("the labels of the stars are needed.")
    if not np.array_equal(spectra.star_id, labels.star_id):
        raise InvalidDataError("spectra and labels must be of the same stars in the same order.")
    require_medium(spectra, cannon.medium)
    if not same_grid(cannon.wavelength, spectra.wavelength):
        raise InvalidDataError(
            f"the spectra's grid of {spectra.n_pixels} pixels is not the model's of "
            f"{cannon.n_pixels}; prepare them with the same settings."
        )
    wanted = labels.only(cannon.names)
    if not wanted.complete.all():
        spectra, wanted = spectra.select(wanted.complete), wanted.select(wanted.complete)
    arrays = (spectra.flux, spectra.ivar, wanted.values)
    return Diagnostics(
        fit_quality(*arrays, wanted.star_id, cannon),
        residual_correlation(*arrays, cannon),
        cannon.wavelength,
        cannon.n_factors,
        spectra.simulated,
        cannon.medium,
    )
