r"""Nuisance factors: what moves many pixels together and is not one of the labels.

    flux[n,p] = theta[p].v(l_n) + loading[p].z[n] + noise ,   z[n] ~ N(0, I)

Fitted by coordinate ascent on the variational bound of the marginal density with
``q(z) q(theta, loading | s)``: given the coefficients' moments every star's z is Gaussian
(`star_factors`), given the moments of z every pixel is the closed form of `pixel_fit`. Each half
step maximises the same bound, so it never falls; with no factors it *is* the log marginal density.

How many pixels repeat one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.packing import pack, pack_outer, packed_size, unpack
from bayes_cannon.base.parallel import each_block
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.spectra.distortions import Templates
from bayes_cannon.training.pixels.amplitudes import KnownPart, stars_at_a_time
from bayes_cannon.training.pixels.columns import pixel_blocks
from bayes_cannon.training.pixels.fit import Design

__all__ = [
    "StarFactors",
    "align_factors",
    "initial_factors",
    "join_design",
    "most_factors",
    "standardised",
    "star_factors",
]

_RIDGE = 1e-6
"""Variance of a feature below which the factors keep what it predicts of them."""
_BLOCK = 256
"""Stars per block of the E step."""


@dataclass(frozen=True, eq=False)
class StarFactors:
    """Gaussian posterior of each star's factors, or amplitudes in units of their scale.

    Attributes
    ----------
    mean : (n_stars, n_factors) float64
    cov : (n_stars, n_factors, n_factors) float64
    """

    mean: FloatArray
    cov: FloatArray

    @property
    def n_factors(self) -> int:
        """Number of factors."""
        return int(self.mean.shape[1])

    @property
    def divergence(self) -> float:
        """Kullback-Leibler divergence from the prior N(0, I), summed over stars."""
        trace = np.trace(self.cov, axis1=1, axis2=2) + np.sum(self.mean**2, axis=1)
        log_det = np.linalg.slogdet(self.cov)[1]
        return float(0.5 * np.sum(trace - self.n_factors - log_det))

    def transformed(self, matrix: FloatArray, shift: FloatArray | float = 0.0) -> StarFactors:
        """Return the factors ``matrix @ (z - shift)``.

        Parameters
        ----------
        matrix
            Shape (n_factors, n_factors).
        shift
            Shape (n_stars, n_factors), or a number.
        """
        mean = (self.mean - shift) @ matrix.T
        return StarFactors(mean, matrix @ self.cov @ matrix.T)

    def part(self, columns: slice) -> StarFactors:
        """Return some of the factors, the others integrated out.

        Parameters
        ----------
        columns
            Which.
        """
        return StarFactors(self.mean[:, columns], self.cov[:, columns, columns])


def most_factors(n_stars: int, n_pixels: int, n_labels: int) -> int:
    """Largest number of factors that a fit to so many stars and pixels can tell apart.

    Parameters
    ----------
    n_stars, n_pixels, n_labels
        Size of the training set.
    """
    return max(0, min(n_stars - n_labels - 2, n_pixels - 1))


def join_design(labels: Design, factors: StarFactors) -> Design:
    """Design of features and factors together; the two are independent given the data.

    Parameters
    ----------
    labels
        Features of the labels.
    factors
        Posterior of the factors of the same stars.
    """
    n, k, j = labels.mean.shape[0], labels.n_coef, factors.n_factors
    mean = np.concatenate([labels.mean, factors.mean], axis=1)
    second = np.empty((n, packed_size(k + j)))
    second[:, : packed_size(k)] = labels.second
    rest = pack_outer(mean)[:, packed_size(k) :]
    _, columns = np.tril_indices(k + j)
    in_block = columns[packed_size(k) :] >= k
    rest[:, in_block] += pack(factors.cov)
    second[:, packed_size(k) :] = rest
    return Design(mean, second)


def initial_factors(
    whitened: Callable[[slice], NDArray[np.float32]],
    n_stars: int,
    n_pixels: int,
    n_factors: int,
    rng: np.random.Generator,
) -> StarFactors:
    """Leading left singular vectors of the weighted residuals, by randomised subspace iteration.

    Parameters
    ----------
    whitened
        Flux minus model over error (scatter included) of a block of pixels, shape
        (n_stars, n_pixels of the block), float32.
    n_stars, n_pixels
        Of the survey.
    n_factors
        How many.
    rng
        Of the random start.
    """
    size = min(n_factors + 10, n_stars)
    probe = rng.standard_normal((n_pixels, size)).astype(np.float32)
    found = np.zeros((n_stars, size))
    for block in pixel_blocks(n_stars, n_pixels):
        found += whitened(block) @ probe[block]
    basis = np.linalg.qr(found)[0].astype(np.float32)
    for _ in range(4):
        found[:] = 0
        for block in pixel_blocks(n_stars, n_pixels):
            part = whitened(block)
            found += part @ (part.T @ basis)
        basis = np.linalg.qr(found)[0].astype(np.float32)
    square = np.zeros((size, size))
    for block in pixel_blocks(n_stars, n_pixels):
        projected = basis.T @ whitened(block)
        square += projected @ projected.T
    left, _, _ = np.linalg.svd(square)
    mean = (basis.astype(np.float64) @ left[:, :n_factors]) * np.sqrt(n_stars)
    cov = np.broadcast_to(1e-3 * np.eye(n_factors), (n_stars, n_factors, n_factors)).copy()
    return StarFactors(mean, cov)


def star_factors(
    flux: Any,
    ivar: Any,
    labels: Design,
    mean: FloatArray,
    cov: NDArray[Any],
    scatter: FloatArray,
    templates: Templates | None = None,
) -> StarFactors:
    """E step: posterior of every star's factors given the moments of the coefficients.

    With templates, that of factors and amplitudes of the known terms together, in this order.

    Parameters
    ----------
    flux, ivar : (n_stars, n_pixels)
        Arrays, or the like of them (`pixels.columns`): they are read block by block of pixels.
    labels : Design
        Features of the labels.
    mean : (n_pixels, n_coef) float64
        Mean of the coefficients of flux - 1: terms, then loadings.
    cov : (n_pixels, n_coef (n_coef + 1) / 2)
        Their packed covariance.
    scatter : (n_pixels,) float64
    templates : Templates or None
        Of the known terms.
    """
    k = labels.n_coef
    j = mean.shape[1] - k
    theta, loading = mean[:, :k].astype(np.float32), mean[:, k:].astype(np.float32)
    rows, columns = np.tril_indices(k + j)
    in_loading = (rows >= k) & (columns >= k)
    in_cross = (rows >= k) & (columns < k)
    square = (pack_outer(mean[:, k:]) + cov[:, in_loading]).astype(np.float32)
    cross = np.ascontiguousarray(cov[:, in_cross], dtype=np.float32)
    products = np.concatenate([square, cross], axis=1)
    if labels.slopes is not None:
        products = np.concatenate([products, _label_products(mean, cov, k)], axis=1)
    s2 = (scatter**2).astype(np.float32)
    if templates is not None:
        return _with_templates(flux, ivar, labels, mean, products, s2, templates)
    v = labels.mean.astype(np.float32)
    n_stars, n_pixels = flux.shape
    sums, right = np.zeros((n_stars, products.shape[1])), np.zeros((n_stars, j))
    score = np.zeros((n_stars, k))
    for block in pixel_blocks(n_stars, n_pixels):
        some_flux, some_ivar = np.asarray(flux[:, block]), np.asarray(ivar[:, block])

        def add(
            rows_: slice, block: slice = block, flux: Any = some_flux, ivar: Any = some_ivar
        ) -> None:
            w = np.asarray(ivar[rows_], dtype=np.float32)
            w = w / (1 + w * s2[block])
            residual = np.asarray(flux[rows_], dtype=np.float32) - 1 - v[rows_] @ theta[block].T
            residual *= w
            sums[rows_] += w @ products[block]
            right[rows_] += residual @ loading[block]
            if labels.slopes is not None:
                score[rows_] += residual @ theta[block]

        each_block(partial(add, block=block, flux=some_flux, ivar=some_ivar), _BLOCK, n_stars)
    z_mean, z_cov = np.empty((n_stars, j)), np.empty((n_stars, j, j))
    own, all_ = packed_size(j), packed_size(j) + j * k

    def solve(rows_: slice) -> None:
        precision = unpack(sums[rows_, :own]) + np.eye(j)
        mixed = sums[rows_, own:all_].reshape(-1, j, k)
        side = right[rows_] - np.einsum("njk,nk->nj", mixed, labels.mean[rows_])
        if labels.slopes is not None:
            across = sums[rows_, all_ + 2 * packed_size(k) :].reshape(-1, j, k) + mixed
            precision, side = _without_label_errors(
                precision, side, across, sums[rows_, all_:], score[rows_], labels.rows(rows_)
            )
        z_cov[rows_] = _inverse(precision)
        z_mean[rows_] = np.einsum("nij,nj->ni", z_cov[rows_], side)

    each_block(solve, _BLOCK, n_stars)
    return StarFactors(z_mean, 0.5 * (z_cov + z_cov.transpose(0, 2, 1)))


def _with_templates(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    labels: Design,
    mean: FloatArray,
    products: NDArray[np.float32],
    s2: NDArray[np.float32],
    templates: Templates,
) -> StarFactors:
    """`star_factors` with the amplitudes of known terms after the factors; in memory."""
    k, n_stars = labels.n_coef, len(labels.mean)
    j = mean.shape[1] - k
    theta, loading = mean[:, :k].astype(np.float32), mean[:, k:].astype(np.float32)
    size = j + len(templates.columns)
    z_mean, z_cov = np.empty((n_stars, size)), np.empty((n_stars, size, size))
    own, all_ = packed_size(j), packed_size(j) + j * k

    def work(rows: slice) -> None:
        v = labels.mean[rows]
        w = np.asarray(ivar[rows], dtype=np.float32)
        w = w / (1 + w * s2)
        residual = np.asarray(flux[rows], dtype=np.float32) - 1 - v.astype(np.float32) @ theta.T
        sums = (w @ products).astype(np.float64)
        mixed = sums[:, own:all_].reshape(len(sums), j, k)
        right = ((w * residual) @ loading).astype(np.float64)
        right -= np.einsum("njk,nk->nj", mixed, v)
        known = KnownPart.of(templates, v, w, residual)
        precision, right = known.joined(unpack(sums[:, :own]) + np.eye(j), right, loading)
        if labels.slopes is not None:
            score = ((w * residual) @ theta).astype(np.float64)
            across = sums[:, all_ + 2 * packed_size(k) :].reshape(len(sums), j, k) + mixed
            across = np.concatenate([across, known.times(theta)], axis=1)
            precision, right = _without_label_errors(
                precision, right, across, sums[:, all_:], score, labels.rows(rows)
            )
        z_cov[rows] = _inverse(precision)
        z_mean[rows] = np.einsum("nij,nj->ni", z_cov[rows], right)

    each_block(work, stars_at_a_time(templates, _BLOCK), n_stars)
    return StarFactors(z_mean, 0.5 * (z_cov + z_cov.transpose(0, 2, 1)))


def _inverse(precision: FloatArray) -> FloatArray:
    """Inverses of precisions (n, j, j), which are no smaller than that of the prior, I.

    Sums in single precision over bright stars may come out otherwise by rounding.
    """
    precision = 0.5 * (precision + np.swapaxes(precision, 1, 2))
    try:
        np.linalg.cholesky(precision)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(precision)
        return np.asarray(
            (vectors / np.maximum(values, 1.0)[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        )
    return np.asarray(np.linalg.inv(precision))


def _label_products(mean: FloatArray, cov: NDArray[Any], k: int) -> NDArray[np.float32]:
    """What `_without_label_errors` needs for each pixel, side by side.

    Packed theta theta', the packed covariance of theta, and loading theta' row by row.
    """
    theta, loading = mean[:, :k], mean[:, k:]
    across = (loading[:, :, None] * theta[:, None, :]).reshape(len(mean), -1)
    parts = [pack_outer(theta), cov[:, : packed_size(k)], across]
    return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")


def _without_label_errors(
    precision: FloatArray,
    right: FloatArray,
    across: FloatArray,
    sums: FloatArray,
    score: FloatArray,
    labels: Design,
) -> tuple[FloatArray, FloatArray]:
    """Precision and right side of the factors, with the labels' errors integrated out.

    The errors d ~ N(0, I) change a spectrum by theta' slopes d, to first order. Left to the
    factors, that would make factors of the labels' own gradients, and labels could not be told
    from factors in new spectra.

    Parameters
    ----------
    precision, right, across
        Of the factors alone: (n, j, j), (n, j), and sums of w E[loading theta'], (n, j, k).
    sums
        Of w times `_label_products`.
    score : (n, k)
        Sums of w r theta.
    labels
        Of these stars, with slopes.
    """
    assert labels.slopes is not None
    slopes, size = labels.slopes, packed_size(labels.n_coef)
    uncertain = unpack(sums[:, size : 2 * size])
    inner = unpack(sums[:, :size]) + uncertain
    turned = np.swapaxes(slopes, 1, 2)
    own = turned @ inner @ slopes + np.eye(slopes.shape[2])
    own_right = turned @ (score - np.einsum("nik,nk->ni", uncertain, labels.mean))[:, :, None]
    shared = across @ slopes
    solved = np.linalg.solve(own, np.concatenate([np.swapaxes(shared, 1, 2), own_right], axis=2))
    less = shared @ solved
    return precision - less[:, :, :-1], right - less[:, :, -1]


def standardised(factors: StarFactors, features: FloatArray) -> tuple[StarFactors, FloatArray]:
    """Remove from z what the features predict and give it unit covariance.

    The pixels' regression that follows absorbs the change exactly (parameter-expanded EM):
    the fit converges in a few rounds where plain EM creeps.

    Parameters
    ----------
    factors
        Posterior of the factors.
    features
        Of the labels, shape (n_stars, n_terms).

    Returns
    -------
    factors : StarFactors
    matrix : (n_coef, n_coef)
        What multiplies the coefficients [theta, loading] of a pixel, so that the model stays the
        same.
    """
    # A feature that hardly varies, or follows from others, must not be given a wild slope: the
    # model stays the same with any.
    n_terms = features.shape[1]
    ridge = np.sqrt(_RIDGE * len(features)) * np.eye(n_terms)
    padded = np.concatenate([factors.mean, np.zeros((n_terms, factors.n_factors))])
    slope = np.linalg.lstsq(np.concatenate([features, ridge]), padded, rcond=None)[0]
    shift = features @ slope
    centred = factors.mean - shift
    second = centred.T @ centred / len(centred) + factors.cov.mean(axis=0)
    # Any root leaves the model the same; with fewer stars than factors `second` is near singular.
    root = np.linalg.cholesky(second + 1e-10 * np.mean(np.diag(second)) * np.eye(len(second)))
    matrix = np.eye(features.shape[1] + factors.n_factors)
    matrix[: features.shape[1], features.shape[1] :] = slope
    matrix[features.shape[1] :, features.shape[1] :] = root.T
    return factors.transformed(np.linalg.inv(root), shift), matrix


def align_factors(
    factors: StarFactors, loading: FloatArray, scatter: FloatArray
) -> tuple[StarFactors, FloatArray]:
    """Rotate to the convention: loadings orthogonal in units of scatter, strongest first.

    The sign of each factor makes the sum of cubes of its loadings positive, so that the same
    data and seed give the same loadings. Returns the factors and what multiplies the loadings of a
    pixel, shape (n_factors, n_factors).

    Parameters
    ----------
    factors
        Posterior of the factors.
    loading
        Shape (n_pixels, n_factors).
    scatter
        Intrinsic scatter, shape (n_pixels,).
    """
    scaled = loading / scatter[:, None]
    _, vectors = np.linalg.eigh(scaled.T @ scaled)
    rotation = vectors[:, ::-1]
    sign = np.sign(np.sum((loading @ rotation) ** 3, axis=0))
    rotation = rotation * np.where(sign == 0, 1.0, sign)
    return factors.transformed(rotation.T), rotation.T
