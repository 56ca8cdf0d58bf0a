"""Likelihood of one star's labels over all pixels: the oracle of the compressed one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.compression import PixelModel
from bayes_cannon.packing import pack_outer, packed_size, unpack

__all__ = ["full_log_likelihood"]

FloatArray = NDArray[np.float64]
_LOG_2PI = float(np.log(2 * np.pi))
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
        Factors of the star, shape (n_factors,).

    Returns
    -------
    (n_draws,) float64
    """
    k, j = pixels.n_terms, pixels.n_factors
    v = pixels.basis.features(ell)
    residual = flux - pixels.coef[:, :k] @ v.mean(axis=0)
    total = np.zeros((len(v), 2 + j + packed_size(j)))
    for start in range(0, pixels.n_pixels, _PIXELS):
        some = slice(start, start + _PIXELS)
        total += _pixel_sums(pixels, some, residual[some], ivar[some], v, z)
    chi2, log_w = total[:, 0], total[:, 1] - np.sum(ivar > 0) * _LOG_2PI
    if j == 0:
        return np.asarray(0.5 * (log_w - chi2))
    right, inner = total[:, 2 : 2 + j], unpack(total[:, 2 + j :]) + np.eye(j)
    solved = np.linalg.solve(inner, right[:, :, None])[:, :, 0]
    chi2 = chi2 - np.einsum("dj,dj->d", right, solved)
    return np.asarray(0.5 * (log_w - chi2 - np.linalg.slogdet(inner)[1]))


def _pixel_sums(
    pixels: PixelModel,
    some: slice,
    residual: FloatArray,
    ivar: NDArray[Any],
    v: FloatArray,
    z: FloatArray,
) -> FloatArray:
    """Sums over some pixels for every draw: chi-square, log weights, U'w r and packed U'w U."""
    coef = pixels.coef[some].astype(np.float32)
    k, good = pixels.n_terms, ivar > 0
    ivar = ivar.astype(np.float32)
    # Variances in units of the photon noise's, of which the logarithms' sum is small.
    share = _extra_variance(pixels, some, v, z)
    share *= ivar
    share += 1
    log_w = np.sum(np.log(ivar[good], dtype=np.float64)) - np.log(share).sum(axis=1)
    w = np.divide(ivar, share, out=share)
    r = (v.mean(axis=0) - v).astype(np.float32) @ coef[:, :k].T
    r += residual.astype(np.float32)
    wr = w * r
    chi2 = np.einsum("dp,dp->d", wr, r)
    factors = [wr @ coef[:, k:], w @ pixels.factor_products[some]]
    return np.concatenate([chi2[:, None], log_w[:, None], *factors], axis=1, dtype=np.float64)


def _extra_variance(
    pixels: PixelModel, some: slice, v: FloatArray, z: FloatArray
) -> NDArray[np.float32]:
    """Variance besides photon noise (n_draws, n_some) at features v (n_draws, n_terms)."""
    k, scatter2 = pixels.n_terms, pixels.scatter2[some].astype(np.float32)
    if pixels.coef_cov is None:
        return np.tile(scatter2, (len(v), 1))
    pairs, place, by_monomial = pixels.monomials
    cov = pixels.coef_cov[:, some]
    by_monomial = by_monomial[:, some].copy()
    mixed = np.zeros((k, scatter2.size), dtype=np.float32)
    for n, value in enumerate(z):
        start = packed_size(k + n)
        mixed += np.float32(value) * cov[start : start + k]
    by_monomial[place] += mixed
    by_monomial[0] += pack_outer(np.r_[np.zeros(k), z]).astype(np.float32) @ cov + scatter2
    extra = pack_outer(v)[:, pairs].astype(np.float32) @ by_monomial
    return np.asarray(np.maximum(extra, 0, out=extra))
