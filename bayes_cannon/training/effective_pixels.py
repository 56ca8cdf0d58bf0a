r"""The effective number of pixels: how much less neighbouring pixels say than independent ones.

Noise and systematics of a spectrum are shared by neighbouring pixels, so that a likelihood that
multiplies pixels as independent is too narrow. The log likelihood of the pixels of a chip is
divided by

    kappa_c = m (1 + 2 sum_k rho_ck) ,

with rho the autocorrelation of the standardised residuals of stars that the model has not seen
(labels and factors at their modes), and the multiplier m learnt from their labels: the score

    sum_n log t_nu(l_n - mode_n(m); C_n(m) + catalogue variance)

is maximised over m and the degrees of freedom nu (outliers then do not widen everyone's errors),
with log m ~ Normal(0, 1) as its prior, by which few stars keep the estimate from the residuals.
That is a power posterior (generalised Bayes) whose power is chosen by the labels it has to
predict. The priors of labels and factors are not tempered, and the compression stays exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.likelihood import (
    Compressed,
    PixelModel,
    PixelSums,
    collapse,
    extra_variance,
    pixel_sums,
)
from bayes_cannon.inference.modes import Laplace, find_modes, gaussian_at
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_priors import LabelPriors

__all__ = ["EffectivePixels", "LeftOut", "Modes", "learn_effective_pixels", "look_at_left_out"]

_MOST_LAGS = 50
_LEAST = 0.02
"""Autocorrelation below which lags count no more."""
_LOG_GRID = np.linspace(np.log(0.05), np.log(100.0), 39)
"""Logarithms of the multipliers that are tried: a fifth apart."""
_PRIOR_SD = 1.0
_DEGREES = (3.0, 5.0, 10.0, 30.0, 100.0)
_LARGEST = 500.0


@dataclass(frozen=True, eq=False)
class LeftOut:
    """What a block of left-out stars says, kept until the effective number is learnt.

    Attributes
    ----------
    rows : (n,) int
        Stars, among the training stars.
    sums : sequence of PixelSums
        Of each chip, at the stars' modes.
    u : (n, n_labels) float64
        Modes, unconstrained.
    priors : LabelPriors
    products, pairs : (n_chips, _MOST_LAGS + 1) float64
        Sums over stars and pixels of the products of standardised residuals, by lag in pixels,
        and how many there are.
    """

    rows: NDArray[np.intp]
    sums: Sequence[PixelSums]
    u: FloatArray
    priors: LabelPriors
    products: FloatArray
    pairs: FloatArray


@dataclass(frozen=True, eq=False)
class Modes:
    """Modes of a block of left-out stars.

    Attributes
    ----------
    rows : (n,) int
    labels : (n, n_labels) float64
        Physical units.
    cov : (n, n_labels, n_labels) float64
    chi2, n_effective : (n,) float64
        Chi-square at the mode and its degrees of freedom.
    """

    rows: NDArray[np.intp]
    labels: FloatArray
    cov: FloatArray
    chi2: FloatArray
    n_effective: FloatArray


@dataclass(frozen=True, eq=False)
class EffectivePixels:
    """Result of `learn_effective_pixels`.

    Attributes
    ----------
    kappa : (n_chips,) float64
        Pixels per independent one, at least 1.
    log_sd : float
        Standard deviation of the logarithm of the multiplier.
    from_residuals : (n_chips,) float64
        1 + 2 sum rho, before the labels were looked at.
    rho : (n_chips, n_lags) float64
        Autocorrelation of the residuals, lag 0 first.
    multiplier, degrees : float
        m and nu.
    """

    kappa: FloatArray
    log_sd: float
    from_residuals: FloatArray
    rho: FloatArray
    multiplier: float
    degrees: float


def chip_of_pixels(chips: Sequence[tuple[int, int]], used: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Number of the chip of every used pixel, shape (n_used,)."""
    number = np.zeros(used.size, dtype=np.int64)
    for c, (start, stop) in enumerate(chips):
        number[start:stop] = c
    return number[used]


def look_at_left_out(
    pixels: PixelModel,
    chips: Sequence[tuple[int, int]],
    priors: LabelPriors,
    rows: NDArray[np.intp],
    flux: FloatArray,
    ivar: FloatArray,
    laplace: Laplace,
    data: Compressed,
) -> LeftOut:
    """Sums and autocorrelations of stars that the model has not seen, at their modes.

    Parameters
    ----------
    flux, ivar
        Used pixels only, shape (n_stars, n_pixels).
    laplace, data
        Modes and likelihoods of the stars with kappa = 1.
    """
    chip, places = chip_of_pixels(chips, pixels.used), np.flatnonzero(pixels.used)
    v = pixels.basis(laplace.labels)
    z = data.factors(v)
    x = np.concatenate([v, z], axis=1)
    w = ivar / (1 + ivar * extra_variance(pixels, x))
    sums = [pixel_sums(pixels, flux, np.where(chip == c, w, 0.0)) for c in range(len(chips))]
    residual = np.sqrt(w) * (flux - x @ pixels.coef.T)
    products = np.zeros((len(chips), _MOST_LAGS + 1))
    pairs = np.zeros_like(products)
    full, good = np.zeros((len(rows), pixels.used.size)), np.zeros((len(rows), pixels.used.size))
    # Single bad pixels must not stand for the correlation of all.
    full[:, places] = np.clip(residual, -5.0, 5.0)
    good[:, places] = w > 0
    for c, (start, stop) in enumerate(chips):
        r, g = full[:, start:stop], good[:, start:stop]
        for lag in range(min(_MOST_LAGS + 1, stop - start)):
            here, there = slice(lag, None), slice(0, stop - start - lag)
            products[c, lag] = np.einsum("np,np->", r[:, here], r[:, there])
            pairs[c, lag] = np.einsum("np,np->", g[:, here], g[:, there])
    return LeftOut(rows, sums, laplace.u, priors, products, pairs)


def _from_residuals(blocks: Sequence[LeftOut]) -> tuple[FloatArray, FloatArray]:
    """Autocorrelation (n_chips, n_lags) and 1 + 2 sum rho (n_chips,), lags until it is nothing."""
    products = np.sum([b.products for b in blocks], axis=0)
    pairs = np.sum([b.pairs for b in blocks], axis=0)
    covariance = products / np.maximum(pairs, 1.0)
    rho = covariance / np.maximum(covariance[:, :1], 1e-300)
    kappa = np.ones(len(rho))
    for c, row in enumerate(rho):
        below = np.flatnonzero(row[1:] < _LEAST)
        last = int(below[0]) if below.size else row.size - 1
        kappa[c] = 1 + 2 * float(row[1 : 1 + last].sum())
    return rho, np.maximum(kappa, 1.0)


def _modes(basis: PolynomialBasis, block: LeftOut, kappa: FloatArray) -> Modes:
    data = collapse(block.sums, 1 / kappa)
    ends, _, _ = find_modes(basis, block.priors, data, block.u[:, None])
    chol, _ = gaussian_at(basis, block.priors, data, ends[:, 0])
    at = block.priors.at(ends[:, 0])
    root = at.first[:, :, None] * chol
    chi2 = data.chi2(basis(at.labels))
    return Modes(block.rows, at.labels, root @ np.swapaxes(root, 1, 2), chi2, data.n_effective)


def _score(difference: FloatArray, cov: FloatArray, degrees: float) -> float:
    """Log density of differences (n, k) under Student-t of scale matrices (n, k, k)."""
    k = difference.shape[1]
    chol = np.linalg.cholesky(cov)
    z = np.linalg.solve(chol, difference[:, :, None])[:, :, 0]
    log_det = np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
    value = gammaln(0.5 * (degrees + k)) - gammaln(0.5 * degrees) - 0.5 * k * np.log(degrees)
    return float(
        np.sum(value - log_det - 0.5 * (degrees + k) * np.log1p(np.sum(z**2, axis=1) / degrees))
    )


def learn_effective_pixels(
    basis: PolynomialBasis,
    blocks: Sequence[LeftOut],
    catalogue: FloatArray,
    errors: FloatArray,
) -> tuple[EffectivePixels, list[Modes]]:
    """Learn kappa of every chip from left-out stars.

    Parameters
    ----------
    basis
        The model's `PolynomialBasis`.
    blocks
        Of `look_at_left_out`, of all folds.
    catalogue, errors
        Labels of the training stars and their errors, shape (n_stars, n_labels), physical units.

    Returns
    -------
    EffectivePixels
    list of Modes
        Modes and covariances of the left-out stars with that kappa, block by block.
    """
    rho, first = _from_residuals(blocks)
    known = np.nan_to_num(errors) ** 2
    eye = np.eye(catalogue.shape[1])
    scores = np.full((_LOG_GRID.size, len(_DEGREES)), -np.inf)
    tried: list[list[Modes]] = []
    for row, log_m in enumerate(_LOG_GRID):
        kappa = np.clip(first * np.exp(log_m), 1.0, _LARGEST)
        modes = [_modes(basis, block, kappa) for block in blocks]
        tried.append(modes)
        differences, covs = [], []
        for found in modes:
            off = found.labels - catalogue[found.rows]
            whole = np.isfinite(off).all(axis=1)
            differences.append(off[whole])
            covs.append(found.cov[whole] + known[found.rows][whole][:, :, None] * eye)
        off, cov = np.concatenate(differences), np.concatenate(covs)
        if not len(off):
            break
        unit = np.sqrt(np.median(np.diagonal(cov, axis1=1, axis2=2), axis=0))
        off, cov = off / unit, cov / np.outer(unit, unit)
        jitter = 1e-10 * np.eye(len(unit))
        for j, degrees in enumerate(_DEGREES):
            scores[row, j] = _score(off, cov + jitter, degrees) - len(off) * np.log(unit).sum()
            scores[row, j] -= 0.5 * (log_m / _PRIOR_SD) ** 2
        if np.all(kappa >= _LARGEST):
            break
    if not np.isfinite(scores).any():
        modes = [_modes(basis, block, first) for block in blocks]
        return EffectivePixels(first, np.nan, first, rho, 1.0, np.nan), modes
    i, j = (int(x) for x in np.unravel_index(int(np.argmax(scores)), scores.shape))
    weight = np.exp(scores.max(axis=1) - scores[i, j])
    weight /= weight.sum()
    mean = float(weight @ _LOG_GRID)
    sd = float(np.sqrt(max(weight @ (_LOG_GRID - mean) ** 2, 0.0)))
    multiplier = float(np.exp(_LOG_GRID[i]))
    kappa = np.clip(first * multiplier, 1.0, _LARGEST)
    return EffectivePixels(kappa, sd, first, rho, multiplier, _DEGREES[j]), tried[i]
