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
from scipy.optimize import minimize_scalar
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
_LOG_GRID = np.linspace(np.log(0.05), np.log(100.0), 10)
"""Logarithms of the multipliers that are tried first; the best is refined between neighbours."""
_TOLERANCE = 0.03
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
    score = _LabelScore(basis, blocks, catalogue, np.nan_to_num(errors) ** 2, first)
    if not np.isfinite([score(log_m) for log_m in _LOG_GRID]).any():
        modes = [_modes(basis, block, first) for block in blocks]
        return EffectivePixels(first, np.nan, first, rho, 1.0, np.nan), modes
    tried = np.array(sorted(score.values))
    best = int(np.argmax([score.values[x] for x in tried]))
    low, high = tried[max(best - 1, 0)], tried[min(best + 1, tried.size - 1)]
    minimize_scalar(
        lambda x: -score(float(x)), bounds=(low, high), method="bounded",
        options={"xatol": _TOLERANCE},
    )  # fmt: skip
    top = max(score.values, key=score.values.__getitem__)
    step = 0.2
    bend = 2 * score.values[top] - score(top - step) - score(top + step)
    sd = step / np.sqrt(bend) if bend > 0 else np.nan
    return (
        EffectivePixels(
            score.kappa(top), float(sd), first, rho, float(np.exp(top)), score.degrees[top]
        ),
        score.modes(top),
    )


class _LabelScore:
    """Log density of the catalogue's labels given the left-out spectra, by log multiplier."""

    def __init__(
        self,
        basis: PolynomialBasis,
        blocks: Sequence[LeftOut],
        catalogue: FloatArray,
        known: FloatArray,
        first: FloatArray,
    ) -> None:
        self._basis, self._blocks, self._first = basis, blocks, first
        self._catalogue, self._known = catalogue, known
        self._unit: FloatArray | None = None
        self._kept: tuple[float, list[Modes]] | None = None
        self.values: dict[float, float] = {}
        self.degrees: dict[float, float] = {}

    def kappa(self, log_m: float) -> FloatArray:
        """Pixels per independent one, (n_chips,)."""
        return np.clip(self._first * np.exp(log_m), 1.0, _LARGEST)

    def modes(self, log_m: float) -> list[Modes]:
        """Modes of all stars."""
        if self._kept is None or self._kept[0] != log_m:
            kappa = self.kappa(log_m)
            self._kept = log_m, [_modes(self._basis, block, kappa) for block in self._blocks]
        return self._kept[1]

    def __call__(self, log_m: float) -> float:
        """Score at its best degrees of freedom, prior included; -inf without a complete star."""
        found = self.modes(log_m)
        rows = np.concatenate([m.rows for m in found])
        off = np.concatenate([m.labels for m in found]) - self._catalogue[rows]
        whole = np.isfinite(off).all(axis=1)
        if not whole.any():
            self.values[log_m], self.degrees[log_m] = -np.inf, np.nan
            return -np.inf
        eye = np.eye(off.shape[1])
        cov = np.concatenate([m.cov for m in found]) + self._known[rows][:, :, None] * eye
        off, cov = off[whole], cov[whole]
        if self._unit is None:
            self._unit = np.sqrt(np.median(np.diagonal(cov, axis1=1, axis2=2), axis=0))
        off, cov = off / self._unit, cov / np.outer(self._unit, self._unit) + 1e-10 * eye
        scores = [_score(off, cov, degrees) for degrees in _DEGREES]
        best = int(np.argmax(scores))
        self.degrees[log_m] = _DEGREES[best]
        self.values[log_m] = scores[best] - 0.5 * (log_m / _PRIOR_SD) ** 2
        return self.values[log_m]
