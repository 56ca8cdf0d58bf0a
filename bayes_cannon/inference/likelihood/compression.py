r"""Exact compression of a spectrum to a matrix and a vector of the size of the polynomial.

With the nuisance factors integrated out, the pixels of a star are
``flux ~ N(Theta v(ell), D + U U')``, and the log likelihood of the labels is exactly

    b.v - v'A v / 2 + const ,     A = Theta' S^-1 Theta ,  b = Theta' S^-1 flux ,  S = D + U U' .

`D` is diagonal: photon noise, intrinsic scatter and, because the trained coefficients c are
uncertain, ``x' Cov(c) x`` with ``x = [v(ell), z]``. That last part depends on the star's labels
and factors; it is evaluated at a point that the caller gives and refreshes (see `label_modes`).
Residuals of pixels are correlated: the log likelihood of each is divided by its ``kappa``, the
pixels per independent one (`bayes_cannon.training.effective_pixels`), before the factors are
integrated out, so that S^-1 above is that of weights ``w / kappa``.
Known terms (`bayes_cannon.spectra.distortions`) are further columns of U, templates that follow the
labels; they are evaluated at the same point.
Everything is a matrix product over a block of stars; the sums run in float64, in which the terms
of the log likelihood (about 1e8) cancel to differences good to 1e-7.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.packing import unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.likelihood.pixels import LOG_2PI, PixelModel, extra_variance, times
from bayes_cannon.spectra.distortions import Templates

__all__ = [
    "Compressed",
    "PixelSums",
    "collapse",
    "compress",
    "pixel_sums",
]


@dataclass(frozen=True, eq=False)
class Compressed:
    """Log likelihoods of a block of stars as functions of the features v.

    Attributes
    ----------
    A : (n_stars, n_terms, n_terms) float64
    b : (n_stars, n_terms) float64
    const : (n_stars,) float64
        log likelihood = b.v - v'A v / 2 + const.
    square : (n_stars,) float64
        flux' S^-1 flux: chi^2 of the labels is square - 2 b.v + v'A v.
    n_used : (n_stars,) int
        Pixels with weight.
    n_effective : (n_stars,) float64
        The independent ones among them: sum of 1 / kappa, the degrees of freedom of chi^2.
    factor_mean, factor_slope : (n_stars, n_factors[, n_terms]) float64
        Posterior mean of the factors given v: factor_mean - factor_slope v. Amplitudes of known
        terms, in units of their scales, follow the factors.
    term_cov : (n_stars, n_columns, n_columns) float64
        Posterior covariance of these amplitudes given v.
    """

    A: FloatArray
    b: FloatArray
    const: FloatArray
    square: FloatArray
    n_used: NDArray[np.int64]
    n_effective: FloatArray
    factor_mean: FloatArray
    factor_slope: FloatArray
    term_cov: FloatArray

    def rows(self, rows: slice | NDArray[np.intp]) -> Compressed:
        """Return the likelihoods of some stars, by indices or a slice `rows`."""
        return Compressed(**{name: array[rows] for name, array in vars(self).items()})

    def with_rows(self, rows: NDArray[np.intp], other: Compressed) -> Compressed:
        """Return a copy in which some stars' likelihoods are those of `other`.

        Parameters
        ----------
        rows
            Indices of the stars.
        other
            Their likelihoods, one for each of `rows`.
        """
        copies = {name: array.copy() for name, array in vars(self).items()}
        for name, array in copies.items():
            array[rows] = getattr(other, name)
        return Compressed(**copies)

    def _quadratic(self, v: FloatArray) -> FloatArray:
        """Return v'A v - 2 b.v for v of shape (n_stars, n_terms) or (n_stars, n_draws, n_terms)."""
        many = v if v.ndim == 3 else v[:, None, :]
        value = np.einsum("ndt,ndt->nd", many @ self.A - 2 * self.b[:, None, :], many)
        return np.asarray(value if v.ndim == 3 else value[:, 0])

    def log_likelihood(self, v: FloatArray) -> FloatArray:
        """Log likelihood, shape (n_stars[, n_draws]).

        Parameters
        ----------
        v
            Features, shape (n_stars[, n_draws], n_terms).
        """
        const = self.const[:, None] if v.ndim == 3 else self.const
        return np.asarray(const - 0.5 * self._quadratic(v))

    def chi2(self, v: FloatArray) -> FloatArray:
        """Chi-square (residual)' S^-1 (residual), shape (n_stars[, n_draws]).

        Parameters
        ----------
        v
            Features, shape (n_stars[, n_draws], n_terms).
        """
        square = self.square[:, None] if v.ndim == 3 else self.square
        return np.asarray(square + self._quadratic(v))

    def factors(self, v: FloatArray) -> FloatArray:
        """Posterior mean of the factors, shape (n_stars, n_factors).

        Parameters
        ----------
        v
            Features, shape (n_stars, n_terms).
        """
        return np.asarray(self.factor_mean - np.einsum("njt,nt->nj", self.factor_slope, v))

    def term_covariance(self, feature_cov: FloatArray) -> FloatArray:
        """Covariance of the amplitudes of known terms, shape (n_stars, n_columns, n_columns).

        Parameters
        ----------
        feature_cov
            Covariance of the features, shape (n_stars, n_terms, n_terms).
        """
        slope = self.factor_slope[:, self.factor_slope.shape[1] - self.term_cov.shape[1] :]
        return np.asarray(self.term_cov + slope @ feature_cov @ np.swapaxes(slope, 1, 2))


def compress(
    pixels: PixelModel,
    flux: NDArray[Any],
    ivar: NDArray[Any],
    x: FloatArray,
    *,
    weights: FloatArray | None = None,
) -> Compressed:
    """Compress a block of stars.

    Parameters
    ----------
    pixels
        The trained model.
    flux, ivar
        Used pixels only (`PixelModel.take`), shape (n_stars, n_pixels); ivar 0: not used.
    x
        Where the coefficients' variance and the templates of known terms are evaluated: features
        and factors of every star, shape (n_stars, n_coef); amplitudes may follow.
    weights
        What each pixel's inverse variance is multiplied by, shape (n_stars, n_pixels), as robust
        likelihoods have it (iteratively reweighted least squares); None: 1.
    """
    w = ivar / (1 + ivar * extra_variance(pixels, x))
    if weights is not None:
        w = w * weights
    power = pixels.power(ivar)
    return collapse(
        [pixel_sums(pixels, flux, w, power=power, v=x[:, : pixels.n_terms])], np.ones(1)
    )


@dataclass(frozen=True, eq=False)
class PixelSums:
    """Sums over pixels of a block of stars, before the factors are integrated out.

    Attributes
    ----------
    outer : (n_stars, n_coef, n_coef) float64
        Sum of w c c', c the coefficients of a pixel, templates of known terms after them.
    right : (n_stars, n_coef) float64
        Sum of w c flux.
    square, log_w : (n_stars,) float64
        Sums of w flux^2 and of log w - log 2 pi.
    n_used : (n_stars,) int
    n_effective : (n_stars,) float64
    n_terms, n_columns : int
        Of features, and of amplitudes of known terms.
    """

    outer: FloatArray
    right: FloatArray
    square: FloatArray
    log_w: FloatArray
    n_used: NDArray[np.int64]
    n_effective: FloatArray
    n_terms: int
    n_columns: int


def pixel_sums(
    pixels: PixelModel,
    flux: FloatArray,
    w: FloatArray,
    *,
    v: FloatArray,
    power: FloatArray | None = None,
) -> PixelSums:
    """Add up what the pixels of a block of stars say.

    Parameters
    ----------
    flux, w
        Used pixels and their inverse variances, all but the factors included, shape
        (n_stars, n_pixels); w 0: not used.
    v
        Features at which the templates of known terms are evaluated, shape (n_stars, n_terms).
    power
        Power of each pixel's likelihood, shape (n_stars, n_pixels); None: 1.
    """
    good = w > 0
    log_w = np.log(w, where=good, out=np.zeros_like(w)) - LOG_2PI * good
    n_used = good.sum(axis=1)
    if power is None:
        total, effective = log_w.sum(axis=1), n_used.astype(np.float64)
    else:
        total, effective = np.sum(log_w * power, axis=1), np.sum(good * power, axis=1)
        w = w * power
    wf = w * flux
    outer, right = unpack(times(w, pixels.products)), times(wf, pixels.coef)
    n_columns = pixels.n_hidden - pixels.n_factors
    if pixels.templates is not None:
        outer, right = _with_templates(pixels, pixels.templates, outer, right, flux, w, v)
    return PixelSums(
        outer, right, np.einsum("np,np->n", wf, flux), total, n_used.astype(np.int64), effective,
        pixels.n_terms, n_columns,
    )  # fmt: skip


def _with_templates(
    pixels: PixelModel,
    templates: Templates,
    outer: FloatArray,
    right: FloatArray,
    flux: FloatArray,
    w: FloatArray,
    v: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Sums with the templates of each star after those with the coefficients."""
    n, m, size = len(flux), outer.shape[1], outer.shape[1] + len(templates.columns)
    wide, long = np.zeros((n, size, size)), np.zeros((n, size))
    wide[:, :m, :m], long[:, :m] = outer, right
    for i in range(n):
        own = templates.scaled(v[i : i + 1])[0]
        weighted = own * w[i]
        wide[i, m:, :m] = weighted @ pixels.coef
        wide[i, :m, m:] = wide[i, m:, :m].T
        inner = weighted @ own.T
        wide[i, m:, m:] = 0.5 * (inner + inner.T)
        long[i, m:] = weighted @ flux[i]
    return wide, long


def collapse(parts: Sequence[PixelSums], powers: FloatArray) -> Compressed:
    """Integrate the factors out of the sums of several groups of pixels.

    Parameters
    ----------
    parts
        Sums of each group of pixels, of the same stars.
    powers
        Power of the likelihood of each group, shape (n_groups,) or (n_groups, n_stars).
    """
    k, n_columns = parts[0].n_terms, parts[0].n_columns

    def total(name: str) -> FloatArray:
        arrays = [np.asarray(getattr(part, name)) for part in parts]
        return np.asarray(
            sum(
                a * np.reshape(p, (-1,) + (1,) * (a.ndim - 1))
                for p, a in zip(powers, arrays, strict=True)
            )
        )

    sums, right, square = total("outer"), total("right"), total("square")
    n, j = len(square), right.shape[1] - k
    inner = sums[:, k:, k:] + np.eye(j)
    known = np.broadcast_to(np.eye(j)[:, j - n_columns :], (n, j, n_columns))
    sides = [sums[:, k:, :k], right[:, k:, None], known]
    solved = np.linalg.solve(inner, np.concatenate(sides, axis=2))
    slope, mean, term_cov = solved[:, :, :k], solved[:, :, k], solved[:, j - n_columns :, k + 1 :]
    A = sums[:, :k, :k] - np.swapaxes(sums[:, k:, :k], 1, 2) @ slope
    b = right[:, :k] - np.einsum("njt,nj->nt", sums[:, k:, :k], mean)
    square = square - np.einsum("nj,nj->n", right[:, k:], mean)
    log_det = np.linalg.slogdet(inner)[1] if j else np.zeros(n)
    const = 0.5 * (total("log_w") - log_det - square)
    A = 0.5 * (A + np.swapaxes(A, 1, 2))
    n_used = np.sum([part.n_used for part in parts], axis=0)
    return Compressed(A, b, const, square, n_used, total("n_effective"), mean, slope, term_cov)
