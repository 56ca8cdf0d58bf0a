"""Likelihood of one star's labels over all pixels, with the variance that goes with each label."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.packing import pack_outer, unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.likelihood.pixels import LOG_2PI, PixelModel

__all__ = ["full_log_likelihood"]

_SECOND = 0.005
"""Bound of what a log likelihood lacks of the second order in the weights."""
_PIXELS = 1024
"""Pixels at a time where draws times pixels would not fit a processor's cache."""


def full_log_likelihood(
    pixels: PixelModel, flux: NDArray[Any], ivar: NDArray[Any], ell: FloatArray, z: FloatArray
) -> FloatArray:
    """Log likelihood of one star over all pixels, with the variance that goes with each label.

    The coefficients' variance is evaluated at each of the labels (factors at `z`), so that this
    has what the compression leaves out: the change of the variance, and of its log-determinant,
    over the posterior. The work per pixel is done in float32, residuals relative to the mean of
    the labels given; sums are in float64. Differences between labels are good to 0.01.

    Parameters
    ----------
    flux, ivar
        Used pixels of one star, shape (n_pixels,).
    ell
        Standardised labels, shape (n_draws, n_labels).
    z
        Factors of the star, shape (n_factors,); amplitudes of known terms may follow.

    Templates of known terms are those of the mean features.

    Returns
    -------
    (n_draws,) float64
    """
    k, j = pixels.n_terms, pixels.n_hidden
    v = pixels.basis.features(ell)
    z = z[: pixels.n_factors]
    hidden = _Hidden.of(pixels, v.mean(axis=0))
    residual = flux - pixels.coef[:, :k] @ v.mean(axis=0)
    variance = _Variance.of(pixels, v, z)
    weights = np.empty((len(v), pixels.n_pixels), dtype=np.float32)
    powers = pixels.power(ivar[None])
    power = None if powers is None else powers[0]
    total = np.zeros((len(v), 2 + j))
    for start in range(0, pixels.n_pixels, _PIXELS):
        some = slice(start, start + _PIXELS)
        part = _pixel_sums(
            pixels, some, residual[some], ivar[some], v, variance, hidden.loadings[some],
            None if power is None else power[some],
        )  # fmt: skip
        weights[:, some] = part[0]
        total += part[1]
    n_effective = np.sum((ivar > 0) * (1.0 if power is None else power))
    chi2, log_w = total[:, 0], total[:, 1] - n_effective * LOG_2PI
    if j:
        square, log_det = _factor_terms(hidden, weights, total[:, 2:], v)
        chi2, log_w = chi2 - square, log_w - log_det
    return np.asarray(0.5 * (log_w - chi2))


def _factor_terms(
    hidden: _Hidden, weights: NDArray[np.float32], right: FloatArray, v: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return right' M^-1 right and log det M of ``M = 1 + U' w U`` for every draw.

    Most of what the weights change with the labels lies in the span of the features, in which M is
    summed up; the rest is taken to first order, where the second order is below `_SECOND`.
    """
    k = v.shape[1]
    if len(v) > 2 * k:
        span = np.linalg.qr(v)[0]
        coarse = span.T.astype(np.float32) @ weights
        rest = weights - span.astype(np.float32) @ coarse
        square, log_det, factors, inverse = _solve(hidden, span, coarse, right)
        loadings = hidden.loadings
        leverage = np.einsum("pj,pj->p", loadings @ inverse.astype(np.float32), loadings)
        fitted = factors.astype(np.float32) @ loadings.T
        np.square(fitted, out=fitted)
        size = np.abs(rest)
        trace = (size @ leverage).max()
        if trace * max(trace, np.einsum("dp,dp->d", size, fitted).max()) < _SECOND:
            return square - np.einsum("dp,dp->d", rest, fitted), log_det + rest @ leverage
    return _solve(hidden, np.eye(len(v)), weights, right)[:2]


def _solve(
    hidden: _Hidden, span: FloatArray, weights: NDArray[np.float32], right: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Solve M z = right for weights ``span @ weights``; also the inverse of the mean M."""
    inner = unpack(span @ (weights @ hidden.products)) + np.eye(hidden.loadings.shape[1])
    root = np.linalg.cholesky(inner)
    solved = np.linalg.solve(root, right[:, :, None])
    log_det = 2 * np.sum(np.log(np.diagonal(root, axis1=1, axis2=2)), axis=1)
    factors = np.linalg.solve(np.swapaxes(root, 1, 2), solved)[:, :, 0]
    inverse = np.linalg.inv(inner.mean(axis=0))
    return np.sum(solved[:, :, 0] ** 2, axis=1), log_det, factors, np.asarray(inverse)


@dataclass(frozen=True, eq=False)
class _Variance:
    """Variance besides photon noise as a polynomial of the labels, factors fixed.

    Attributes
    ----------
    monomials : (n_draws, n_monomials) float32 or None
        None where the coefficients' uncertainty is left out.
    sums : (n_monomials, n_pixels) float32
        What each is multiplied by; without uncertainty the squares of the scatter, one row.
    """

    monomials: NDArray[np.float32] | None
    sums: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: PixelModel, v: FloatArray, z: FloatArray) -> _Variance:
        """Take it at features v (n_draws, n_terms) and factors z (n_factors,)."""
        scatter2 = pixels.scatter2.astype(np.float32)
        if pixels.coef_cov is None:
            return cls(None, scatter2[None])
        pairs, place, by_monomial = pixels.monomials
        sums = by_monomial.copy()
        if z.size:
            mixed, between = pixels.factor_cov
            sums[place] += (z.astype(np.float32) @ mixed).reshape(len(place), -1)
            sums[0] += pack_outer(z).astype(np.float32) @ between
        sums[0] += scatter2
        rows, columns = np.tril_indices(v.shape[1])
        return cls((v[:, rows[pairs]] * v[:, columns[pairs]]).astype(np.float32), sums)

    def at(self, some: slice, n_draws: int) -> NDArray[np.float32]:
        """Of some pixels, shape (n_draws, n_some)."""
        if self.monomials is None:
            return np.tile(self.sums[:, some], (n_draws, 1))
        extra = self.monomials @ self.sums[:, some]
        return np.asarray(np.maximum(extra, 0, out=extra))


@dataclass(frozen=True, eq=False)
class _Hidden:
    """What is integrated out: loadings of the factors and templates of known terms, side by side.

    Attributes
    ----------
    loadings : (n_pixels, n_hidden) float32
    products : (n_pixels, n_hidden (n_hidden + 1) / 2) float32
        Of all pairs, packed.
    """

    loadings: NDArray[np.float32]
    products: NDArray[np.float32]

    @classmethod
    def of(cls, pixels: PixelModel, v: FloatArray) -> _Hidden:
        """Take templates at features v (n_terms,)."""
        loadings = pixels.coef32[:, pixels.n_terms :]
        if pixels.templates is None:
            return cls(loadings, pixels.factor_products)
        templates = pixels.templates.scaled(v[None])[0].T.astype(np.float32)
        both = np.concatenate([loadings, templates], axis=1)
        return cls(both, pack_outer(both))


def _pixel_sums(
    pixels: PixelModel,
    some: slice,
    residual: FloatArray,
    ivar: NDArray[Any],
    v: FloatArray,
    variance: _Variance,
    hidden: NDArray[np.float32],
    power: FloatArray | None,
) -> tuple[NDArray[np.float32], FloatArray]:
    """Weights of some pixels for every draw, and sums: chi-square, log weights and U'w r."""
    coef = pixels.coef32[some]
    k, good = pixels.n_terms, ivar > 0
    ivar = ivar.astype(np.float32)
    # Variances in units of the photon noise's, of which the logarithms' sum is small.
    share = variance.at(some, len(v))
    share *= ivar
    share += 1
    if power is None:
        log_w = np.sum(np.log(ivar[good], dtype=np.float64)) - np.log(share).sum(axis=1)
        w = np.divide(ivar, share, out=share)
    else:
        narrow = power.astype(np.float32)
        log_w = np.log(ivar[good], dtype=np.float64) @ narrow[good] - np.log(share) @ narrow
        w = np.divide(ivar * narrow, share, out=share)
    r = (v.mean(axis=0) - v).astype(np.float32) @ coef[:, :k].T
    r += residual.astype(np.float32)
    wr = w * r
    chi2 = np.einsum("dp,dp->d", wr, r)
    sums = [chi2[:, None], log_w[:, None], wr @ hidden]
    return w, np.concatenate(sums, axis=1, dtype=np.float64)
