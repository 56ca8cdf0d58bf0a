r"""Nuisance factors: what moves many pixels together and is not one of the labels.

    flux[n,p] = theta[p].v(l_n) + loading[p].z[n] + noise ,   z[n] ~ N(0, I)

Fitted by coordinate ascent on the variational bound of the marginal density with
``q(z) q(theta, loading | s)``: given the coefficients' moments every star's z is Gaussian
(`star_factors`), given the moments of z every pixel is the closed form of `pixel_fit`. Each half
step maximises the same bound, so it never falls; with no factors it *is* the log marginal density.

How many pixels repeat one another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.packing import pack, pack_outer, packed_size, unpack
from bayes_cannon.base.parallel import each_block
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.spectra.distortions import Templates
from bayes_cannon.training.pixels.amplitudes import KnownPart, stars_at_a_time
from bayes_cannon.training.pixels.fit import Design

__all__ = [
    "StarFactors",
    "align_factors",
    "enough_stars",
    "initial_factors",
    "join_design",
    "most_factors",
    "pixels_per_independent_one",
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
        """Return some of the factors, the others integrated out."""
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
    residual: NDArray[Any], weight: NDArray[Any], n_factors: int, rng: np.random.Generator
) -> StarFactors:
    """Leading left singular vectors of the weighted residuals, by randomised subspace iteration.

    Parameters
    ----------
    residual, weight
        Flux minus model and inverse variance (scatter included), shape (n_stars, n_pixels).
    n_factors
        How many.
    rng
        Of the random start.
    """
    whitened = residual * np.sqrt(weight)
    n_stars = residual.shape[0]
    probe = rng.standard_normal((residual.shape[1], min(n_factors + 10, n_stars)))
    basis = np.linalg.qr(whitened @ probe.astype(whitened.dtype))[0]
    for _ in range(4):
        basis = np.linalg.qr(whitened @ (whitened.T @ basis))[0]
    projected = basis.T @ whitened
    left, _, _ = np.linalg.svd((projected @ projected.T).astype(np.float64))
    mean = (basis.astype(np.float64) @ left[:, :n_factors]) * np.sqrt(n_stars)
    cov = np.broadcast_to(1e-3 * np.eye(n_factors), (n_stars, n_factors, n_factors)).copy()
    return StarFactors(mean, cov)


def star_factors(
    flux: NDArray[Any],
    ivar: NDArray[Any],
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
    label_products = None if labels.slopes is None else _label_products(mean, cov, k)
    s2 = (scatter**2).astype(np.float32)
    n_stars, size = flux.shape[0], j + (0 if templates is None else len(templates.columns))
    z_mean, z_cov = np.empty((n_stars, size)), np.empty((n_stars, size, size))

    def work(rows_: slice) -> None:
        v = labels.mean[rows_].astype(np.float32)
        w = np.asarray(ivar[rows_], dtype=np.float32)
        w = w / (1 + w * s2)
        residual = np.asarray(flux[rows_], dtype=np.float32) - 1 - v @ theta.T
        sums = (w @ products).astype(np.float64)
        precision = unpack(sums[:, : packed_size(j)]) + np.eye(j)
        mixed = sums[:, packed_size(j) :].reshape(len(sums), j, k)
        right = ((w * residual) @ loading).astype(np.float64)
        right -= np.einsum("njk,nk->nj", mixed, labels.mean[rows_])
        known = None
        if templates is not None:
            known = KnownPart.of(templates, labels.mean[rows_], w, residual)
            precision, right = known.joined(precision, right, loading)
        if label_products is not None:
            score = ((w * residual) @ theta).astype(np.float64)
            sums = (w @ label_products).astype(np.float64)
            across = sums[:, 2 * packed_size(k) :].reshape(len(sums), j, k) + mixed
            if known is not None:
                across = np.concatenate([across, known.times(theta)], axis=1)
            precision, right = _without_label_errors(
                precision, right, across, sums, score, labels.rows(rows_)
            )
        z_cov[rows_] = _inverse(precision)
        z_mean[rows_] = np.einsum("nij,nj->ni", z_cov[rows_], right)

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


_STARS = 250


def enough_stars(n_stars: int) -> slice:
    """Some of the stars, as many as `pixels_per_independent_one` needs.

    Parameters
    ----------
    n_stars
        How many there are.

    Returns
    -------
    slice
        Every n-th star.
    """
    return slice(None, None, max(1, n_stars // _STARS))


def pixels_per_independent_one(
    residual: NDArray[Any], weight: NDArray[Any], *, n_features: int, n_factors: int = 0
) -> float:
    r"""Number of pixels over the number of independent ones with the same spread of residuals.

    Whatever moves many pixels together and is not among the labels leaves residuals that go
    together. By chance it goes along with the labels a little, and then changes the coefficients
    of all those pixels in the same way: they must not count as so many witnesses.

    The eigenvalues of the stars' products over p independent pixels of unit variance scatter about
    their mean by ``var / mean**2 = (number of eigenvalues) / p`` (those of a Wishart matrix).

    Parameters
    ----------
    residual, weight
        Flux minus model and inverse variance (scatter included), shape (n_stars, n_pixels).
    n_features
        Coefficients per pixel that were fitted to the residuals.
    n_factors
        Nuisance factors to come, which will explain as many of the strongest patterns.

    Returns
    -------
    float
        At least 1; the number of pixels where there are too few stars to tell.
    """
    n_pixels = residual.shape[1]
    white = residual * np.sqrt(weight)
    gram = _of_unit_stars((white @ white.T).astype(np.float64))
    if 0 < n_factors < len(gram):
        strongest = np.linalg.eigh(gram)[1][:, -n_factors:]
        rest = np.eye(len(gram)) - strongest @ strongest.T
        gram = _of_unit_stars(rest @ gram @ rest)
    values = np.linalg.eigvalsh(gram)[n_features + n_factors :]
    if len(values) < 2:
        return float(n_pixels)
    independent = len(values) * values.mean() ** 2 / max(values.var(), 1e-300)
    return float(np.clip(n_pixels / independent, 1.0, n_pixels))


def _of_unit_stars(gram: FloatArray) -> FloatArray:
    """Products of the stars that have any, scaled to one for each star with itself."""
    square = np.diag(gram)
    some = square > 1e-12 * max(square.max(initial=0.0), 1e-300)
    size = np.sqrt(square[some])
    return np.asarray(gram[np.ix_(some, some)] / np.outer(size, size))
