r"""The effective number of pixels: how much less neighbouring pixels say than independent ones.

Noise and systematics of a spectrum are shared by neighbouring pixels, so that a likelihood that
multiplies pixels as independent is too narrow. The log likelihood of the pixels of a chip is
divided by

    kappa_c = 1 + 2 sum_k rho_ck f_ck ,

with rho the autocorrelation of the standardised residuals of stars that the model has not seen
(labels and factors at their modes) and f that of the labels' filters, the weights h with which
residuals r move the estimate of a label (factors marginalised), for

    var(sum_p h_p r_p) = (1 + 2 sum_k rho_k f_k) sum_p h_p^2 ,
    f_k = sum_p h_p h_(p+k) / sum_p h_p^2 .

Without f, faint slow waves of the continuum would count: on the demo survey rho is 0.03 over 50
pixels of the red chip and sums up to 4.4, where a label, measured from lines, sees 1.3. Of all
labels and stars f is one mean by chip, weighted by the chip's share of a label's information.

The multiplier m is of the part of the variance that is intrinsic scatter: misfit, not noise, is
what the residuals do not tell. A chip of a star is divided by

    kappa_c (1 + (m - 1) mean(s^2 / (s^2 + sigma^2)))

(see `bayes_cannon.models.noise.independent_pixels`), and only where m < 1, the residuals say too
much, noise is multiplied alike. It is learnt from the labels of the left-out stars: the share of
predictions whose difference from the catalogue is within one standard deviation, errors of the
catalogue included, shall be that of a normal distribution. With log m ~ Normal(0, 1) as its prior,
by which few stars keep the estimate from the residuals,

    log p(m) = -(share(m) - 0.683)^2 / 2 s^2 - log(m)^2 / 2 ,    s^2 = 0.43 / (n_stars n_labels) .

The share, and not the log density of the labels, for errors have heavy tails that a normal
posterior cannot have: a density of heavy tails fits their scale, not the width of their core.
That is a power posterior (generalised Bayes) whose power is chosen by the labels it has to
predict. The priors of labels and factors are not tempered, and the compression stays exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import ndtri

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.likelihood.compression import (
    Compressed,
    PixelSums,
    collapse,
    pixel_sums,
)
from bayes_cannon.inference.likelihood.pixels import PixelModel, extra_variance
from bayes_cannon.inference.modes import Laplace, find_modes, gaussian_at
from bayes_cannon.inference.reference import log_snr
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.models.noise.independent_pixels import (
    IndependentPixels,
    chip_of_pixels,
    kappa_of_chips,
)

__all__ = [
    "EffectivePixels",
    "LeftOut",
    "Modes",
    "learn_effective_pixels",
    "look_at_left_out",
]

_MOST_LAGS = 50
_FILTERS = 30
"""Most stars of a block whose filters are looked at: they differ little from star to star."""
_LOG_GRID = np.linspace(np.log(0.05), np.log(100.0), 10)
"""Logarithms of the multipliers that are tried first; the best is refined between neighbours."""
_TOLERANCE = 0.03
_PRIOR_SD = 1.0
_WITHIN = 0.6827
_SOFT = 0.1
"""Width of the step in log abs(z) by which a star counts as within one standard deviation."""
_LARGEST = 8.0
"""What would need more is no shared noise but a wrong model, of which the model error speaks."""


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
    shares : (n_chips, n) float64
        Mean share of the scatter in the variance of each chip.
    log_snr : (n,) float64
        See `bayes_cannon.inference.reference.log_snr`.
    priors : LabelPriors
    products, pairs : (n_chips, _MOST_LAGS + 1) float64
        Sums over stars and pixels of the products of standardised residuals, by lag in pixels,
        and how many there are.
    filters : (n_chips, _MOST_LAGS + 1) float64
        The same sums of the labels' filters, each of which has the sum of squares 1, of some of the
        stars.
    """

    rows: NDArray[np.intp]
    sums: Sequence[PixelSums]
    u: FloatArray
    shares: FloatArray
    log_snr: FloatArray
    priors: LabelPriors
    products: FloatArray
    pairs: FloatArray
    filters: FloatArray


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
    factors_square : (n,) float64
        Sum of squares of the factors at the mode; NaN without factors.
    log_snr : (n,) float64
        See `bayes_cannon.inference.reference.log_snr`.
    """

    rows: NDArray[np.intp]
    labels: FloatArray
    cov: FloatArray
    chi2: FloatArray
    n_effective: FloatArray
    factors_square: FloatArray
    log_snr: FloatArray


@dataclass(frozen=True, eq=False)
class EffectivePixels:
    """Result of `learn_effective_pixels`.

    Attributes
    ----------
    kappa : (n_chips,) float64
        Pixels per independent one where scatter rules, at least 1, of models of the folds.
    log_sd : float
        Standard deviation of the logarithm of the multiplier.
    from_residuals : (n_chips,) float64
        1 + 2 sum rho f, before the labels were looked at.
    rho : (n_chips, n_lags) float64
        Autocorrelation of the residuals, lag 0 first.
    multiplier : float
        m.
    """

    kappa: FloatArray
    log_sd: float
    from_residuals: FloatArray
    rho: FloatArray
    multiplier: float

    @property
    def noise(self) -> FloatArray:
        """Kappa (n_chips,) where noise rules."""
        return np.minimum(self.kappa, self.from_residuals)

    def of_final_model(self, folds: int) -> FloatArray:
        """Kappa (n_chips,) of the model of all stars.

        What exceeds the estimate from residuals is misfit that more stars cure, its variance
        falling as their number; the noise of the star itself stays.

        Parameters
        ----------
        folds
            Of the cross-validation.
        """
        shared = self.noise
        return np.maximum(shared + (self.kappa - shared) * (1 - 1 / folds), 1.0)


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
    pixels
        The model that has not seen them.
    chips
        Ranges (start, stop) of pixels.
    priors
        Of the labels.
    rows
        Indices of the stars in the training set, shape (n_stars,).
    flux, ivar
        Used pixels only, shape (n_stars, n_pixels).
    laplace, data
        Modes and likelihoods of the stars with kappa = 1.
    """
    places = np.flatnonzero(pixels.used)
    chip = chip_of_pixels(chips, pixels.used.size)[places]
    v = pixels.basis(laplace.labels)
    z = data.factors(v)
    x = np.concatenate([v, z], axis=1)
    w = ivar / (1 + ivar * extra_variance(pixels, x))
    sums = [pixel_sums(pixels, flux, np.where(chip == c, w, 0.0), v=v) for c in range(len(chips))]
    residual = np.sqrt(w) * (flux - pixels.flux(x))
    full, good = np.zeros((len(rows), pixels.used.size)), np.zeros((len(rows), pixels.used.size))
    # Single bad pixels must not stand for the correlation of all.
    full[:, places] = np.clip(residual, -5.0, 5.0)
    good[:, places] = w > 0
    some = np.unique(np.linspace(0, len(rows) - 1, min(_FILTERS, len(rows))).astype(np.intp))
    h = np.zeros((len(some) * pixels.basis.n_labels, pixels.used.size))
    h[:, places] = np.concatenate([_filters(pixels, laplace.labels[i], w[i]) for i in some])
    products, pairs, filters = (
        np.stack([_by_lag(a[:, start:stop]) for start, stop in chips]) for a in (full, good, h)
    )
    ones = np.ones(len(chips))
    shares = IndependentPixels(ones, ones, chip, pixels.scatter2).shares(ivar)
    return LeftOut(rows, sums, laplace.u, shares, log_snr(ivar), priors, products, pairs, filters)


def _by_lag(rows: FloatArray) -> FloatArray:
    """Sums of the products of neighbours of all rows, by their distance, (_MOST_LAGS + 1,)."""
    n = rows.shape[1]
    out = np.zeros(_MOST_LAGS + 1)
    for lag in range(min(_MOST_LAGS + 1, n)):
        out[lag] = np.einsum("np,np->", rows[:, lag:], rows[:, : n - lag])
    return out


def _filters(pixels: PixelModel, labels: FloatArray, w: FloatArray) -> FloatArray:
    """Weights of the standardised residuals of a star in its labels, (n_labels, n_pixels).

    Rows of (X' W X + P)^-1 X' W^(1/2), with X the derivatives of the flux by labels, factors and
    amplitudes of known terms, and P the prior of the last two; each of sum of squares 1.
    """
    ell = pixels.basis.standardize(labels)
    gradient = pixels.coef[:, : pixels.n_terms] @ pixels.basis.jacobian(ell)
    columns = [gradient.T, pixels.coef[:, pixels.n_terms :].T]
    if pixels.templates is not None:
        columns.append(pixels.templates.scaled(pixels.basis.features(ell)[None])[0])
    x = np.concatenate(columns) * np.sqrt(w)
    k = gradient.shape[1]
    inner = x @ x.T
    inner[k:, k:] += np.eye(len(x) - k)
    h = np.linalg.lstsq(inner, x, rcond=None)[0][:k]
    size = np.sqrt(np.sum(h**2, axis=1, keepdims=True))
    return np.asarray(np.divide(h, size, out=np.zeros_like(h), where=size > 0))


def _from_residuals(blocks: Sequence[LeftOut]) -> tuple[FloatArray, FloatArray]:
    """Autocorrelation (n_chips, n_lags) and 1 + 2 sum rho f (n_chips,)."""
    products, pairs, filters = (
        np.sum([getattr(b, name) for b in blocks], axis=0)
        for name in ("products", "pairs", "filters")
    )
    covariance = products / np.maximum(pairs, 1.0)
    rho = covariance / np.maximum(covariance[:, :1], 1e-300)
    seen = filters / np.maximum(filters[:, :1], 1e-300)
    kappa = 1 + 2 * np.sum(rho[:, 1:] * seen[:, 1:], axis=1)
    return rho, np.maximum(kappa, 1.0)


def _modes(basis: PolynomialBasis, block: LeftOut, kappa: FloatArray, noise: FloatArray) -> Modes:
    data = collapse(block.sums, 1 / kappa_of_chips(kappa, noise, block.shares))
    ends, _, _ = find_modes(basis, block.priors, data, block.u[:, None])
    chol, _ = gaussian_at(basis, block.priors, data, ends[:, 0])
    at = block.priors.at(ends[:, 0])
    root = at.first[:, :, None] * chol
    v = basis(at.labels)
    z = data.factors(v)
    square = np.sum(z**2, axis=1) if z.shape[1] else np.full(len(z), np.nan)
    return Modes(
        block.rows, at.labels, root @ np.swapaxes(root, 1, 2), data.chi2(v), data.n_effective,
        square, block.log_snr,
    )  # fmt: skip


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
    look = _Look(basis, blocks, catalogue, np.nan_to_num(errors) ** 2, first)
    if not np.isfinite([look(log_m) for log_m in _LOG_GRID]).any():
        return EffectivePixels(first, np.nan, first, rho, 1.0), look.modes(0.0)
    tried = np.array(sorted(look.values))
    best = int(np.argmax([look.values[x] for x in tried]))
    low, high = tried[max(best - 1, 0)], tried[min(best + 1, tried.size - 1)]
    minimize_scalar(
        lambda x: -look(float(x)), bounds=(low, high), method="bounded",
        options={"xatol": _TOLERANCE},
    )  # fmt: skip
    top = max(look.values, key=look.values.__getitem__)
    step = 0.2
    bend = 2 * look.values[top] - look(top - step) - look(top + step)
    sd = step / np.sqrt(bend) if bend > 0 else np.nan
    found = EffectivePixels(look.kappa(top), float(sd), first, rho, float(np.exp(top)))
    return found, look.modes(top)


class _Look:
    """Log posterior density of the multiplier, by its logarithm; -inf without a usable star."""

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
        self._found: dict[bytes, list[Modes]] = {}
        self.values: dict[float, float] = {}

    def kappa(self, log_m: float) -> FloatArray:
        """Pixels per independent one, (n_chips,)."""
        return np.asarray(np.clip(self._first * np.exp(log_m), 1.0, _LARGEST))

    def modes(self, log_m: float) -> list[Modes]:
        """Modes of all stars, once for every kappa: at its bounds many m have the same."""
        kappa = self.kappa(log_m)
        key = kappa.tobytes()
        if key not in self._found:
            noise = np.minimum(kappa, self._first)
            self._found[key] = [_modes(self._basis, b, kappa, noise) for b in self._blocks]
        return self._found[key]

    def __call__(self, log_m: float) -> float:
        found = self.modes(log_m)
        rows = np.concatenate([m.rows for m in found])
        off = np.concatenate([m.labels for m in found]) - self._catalogue[rows]
        variance = np.concatenate([np.diagonal(m.cov, axis1=1, axis2=2) for m in found])
        z2 = off**2 / (variance + self._known[rows])
        z2 = z2[np.isfinite(z2)]
        value = -np.inf
        if z2.size:
            share = float(np.mean(_within(z2)))
            sd2 = _WITHIN * (1 - _WITHIN) / max(0.5 * z2.size, 1.0)
            value = -0.5 * (share - _OF_NORMAL) ** 2 / sd2 - 0.5 * (log_m / _PRIOR_SD) ** 2
        self.values[log_m] = value
        return value


def _within(z2: FloatArray) -> FloatArray:
    """Soft count of squared pulls below 1, differentiable in their scale."""
    return np.asarray(1 / (1 + np.maximum(z2, 1e-300) ** (0.5 / _SOFT)))


_OF_NORMAL = float(np.mean(_within(ndtri((np.arange(10_000) + 0.5) / 10_000) ** 2)))
"""The soft share of a normal distribution."""
