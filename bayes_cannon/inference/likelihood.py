r"""Exact compression of a spectrum to a matrix and a vector of the size of the polynomial.

With the nuisance factors integrated out, the pixels of a star are
``flux ~ N(Theta v(ell), D + U U')``, and the log likelihood of the labels is exactly

    b.v - v'A v / 2 + const ,     A = Theta' S^-1 Theta ,  b = Theta' S^-1 flux ,  S = D + U U' .

`D` is diagonal: photon noise, intrinsic scatter and, because the trained coefficients c are
uncertain, ``x' Cov(c) x`` with ``x = [v(ell), z]``. That last part depends on the star's labels
and factors; it is evaluated at a point that the caller gives and refreshes (see `label_modes`).
Everything is a matrix product over a block of stars; the sums run in float64, in which the terms
of the log likelihood (about 1e8) cancel to differences good to 1e-7.

Likelihood of one star's labels over all pixels: the oracle of the compressed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.packing import pack_outer, packed_size, packed_weights, unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "Compressed",
    "PixelModel",
    "compress",
    "extra_variance",
    "full_log_likelihood",
    "pixels_needed",
]

_LOG_2PI = float(np.log(2 * np.pi))
_ENOUGH = 100
"""Usable pixels that are enough for any model."""
_TILE = {4: 8, 8: 16}
"""Stars per matrix product, by the bytes of a number.

Linear algebra libraries sum in an order that depends on a row's place in its panel; with so few
rows all panels are alike (on processors with AVX2 that takes no more than 8 rows of float32).
"""


def pixels_needed(n_pixels: int, asked: int | None = None) -> int:
    """Usable pixels that a star needs for a posterior.

    Parameters
    ----------
    n_pixels
        Pixels that the model uses.
    asked
        A number of the user's; left out, half of the model's pixels, and no more than 100.

    >>> pixels_needed(7514), pixels_needed(90), pixels_needed(90, 10)
    (100, 45, 10)
    """
    return min(_ENOUGH, (n_pixels + 1) // 2) if asked is None else asked


@dataclass(frozen=True, eq=False)
class PixelModel:
    """The used pixels of a trained model, arranged for matrix products.

    Attributes
    ----------
    basis : PolynomialBasis
    used : (n_all_pixels,) bool
        Which pixels of the spectra these are.
    coef : (n_pixels, n_coef) float64
        Coefficients: terms, then loadings of the factors.
    products : (n_pixels, n_coef (n_coef + 1) / 2) float64
        Packed outer products of `coef`.
    coef_cov : (n_coef (n_coef + 1) / 2, n_pixels) float32 or None
        Packed covariances of the coefficients, off-diagonal entries doubled; None leaves the
        coefficients' uncertainty out ("plug-in").
    scatter2 : (n_pixels,) float64
        Square of the intrinsic scatter.
    """

    basis: PolynomialBasis
    used: NDArray[np.bool_]
    coef: FloatArray
    products: FloatArray
    coef_cov: NDArray[np.float32] | None
    scatter2: FloatArray

    @classmethod
    def from_cannon(cls, cannon: Cannon, *, coefficient_uncertainty: bool = True) -> PixelModel:
        """Arrange the arrays of a trained model.

        Parameters
        ----------
        cannon
            The trained model.
        coefficient_uncertainty
            Whether the coefficients' covariances are taken along.

        Raises
        ------
        InvalidDataError
            If no pixel is usable, or a usable pixel has coefficients that are not finite.
        """
        used = np.asarray(cannon.used, dtype=bool)
        if not used.any():
            raise InvalidDataError("the trained model has no usable pixel; train it again.")
        coef = np.concatenate([cannon.theta[used], cannon.loadings[used]], axis=1)
        coef = np.ascontiguousarray(coef, dtype=np.float64)
        scatter2 = np.asarray(cannon.scatter[used], dtype=np.float64) ** 2
        finite = np.isfinite(coef).all(axis=1) & np.isfinite(scatter2)
        cov = None
        if coefficient_uncertainty:
            weights = packed_weights(coef.shape[1]).astype(np.float32)
            cov = np.ascontiguousarray(np.asarray(cannon.coef_cov, np.float32)[used].T)
            cov *= weights[:, None]
            finite &= np.isfinite(cov).all(axis=0)
        if not finite.all():
            raise InvalidDataError(
                f"{np.sum(~finite)} usable pixels of the trained model have coefficients that are "
                "not finite; train it again."
            )
        return cls(cannon.basis, used, coef, pack_outer(coef), cov, scatter2)

    def __getstate__(self) -> dict[str, Any]:
        """What other processes are sent: the products are a multiple of the rest."""
        derived = ("products", "factor_products", "monomials")
        return {name: value for name, value in vars(self).items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, products=pack_outer(state["coef"]))

    @property
    def n_terms(self) -> int:
        """Number of terms of the polynomial."""
        return self.basis.n_terms

    @property
    def n_factors(self) -> int:
        """Number of nuisance factors."""
        return int(self.coef.shape[1]) - self.n_terms

    @property
    def n_pixels(self) -> int:
        """Number of used pixels."""
        return int(self.coef.shape[0])

    @cached_property
    def factor_products(self) -> NDArray[np.float32]:
        """Columns of `products` that belong to pairs of factors, as float32."""
        rows, columns = np.tril_indices(self.coef.shape[1])
        pairs = (rows >= self.n_terms) & (columns >= self.n_terms)
        return self.products[:, pairs].astype(np.float32)

    @cached_property
    def monomials(self) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
        """Covariances of the terms added up by the products of terms that are the same monomial.

        Returns
        -------
        pairs : (n_monomials,) int
            A packed pair of terms of each monomial; the constant comes first.
        place : (n_terms,) int
            Monomial that each term is.
        sums : (n_monomials, n_pixels) float32

        Raises
        ------
        InvalidDataError
            If the coefficients' uncertainty was left out.
        """
        if self.coef_cov is None:
            raise InvalidDataError("these pixels leave the coefficients' uncertainty out.")
        terms, rows = self.basis.terms, np.tril_indices(self.n_terms)
        product = [tuple(sorted(terms[i] + terms[j])) for i, j in zip(*rows, strict=True)]
        number = {monomial: n for n, monomial in enumerate(dict.fromkeys(product))}
        sums = np.zeros((len(number), self.n_pixels), dtype=np.float32)
        pairs = np.zeros(len(number), dtype=np.intp)
        for pair, monomial in enumerate(product):
            sums[number[monomial]] += self.coef_cov[pair]
            pairs[number[monomial]] = pair
        return pairs, np.array([number[term] for term in terms], dtype=np.intp), sums

    def take(self, array: NDArray[Any]) -> NDArray[Any]:
        """Columns of the used pixels, shape (n_stars, n_pixels), as float64.

        Parameters
        ----------
        array
            Of all pixels, shape (n_stars, n_all_pixels).

        Raises
        ------
        InvalidDataError
            If it has another number of pixels than the model.
        """
        if array.shape[-1] != self.used.size:
            raise InvalidDataError(
                f"spectra have {array.shape[-1]} pixels, the trained model {self.used.size}; "
                "prepare them with the settings of the training set."
            )
        return np.asarray(array[:, self.used] if not self.used.all() else array, dtype=np.float64)


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
    factor_mean, factor_slope : (n_stars, n_factors[, n_terms]) float64
        Posterior mean of the factors given v: factor_mean - factor_slope v.
    """

    A: FloatArray
    b: FloatArray
    const: FloatArray
    square: FloatArray
    n_used: NDArray[np.int64]
    factor_mean: FloatArray
    factor_slope: FloatArray

    def rows(self, rows: slice | NDArray[np.intp]) -> Compressed:
        """Return the likelihoods of some stars."""
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
        """Log likelihood, shape (n_stars[, n_draws]), of features (n_stars[, n_draws], n_terms)."""
        const = self.const[:, None] if v.ndim == 3 else self.const
        return np.asarray(const - 0.5 * self._quadratic(v))

    def chi2(self, v: FloatArray) -> FloatArray:
        """Chi-square (residual)' S^-1 (residual), of the same shapes."""
        square = self.square[:, None] if v.ndim == 3 else self.square
        return np.asarray(square + self._quadratic(v))

    def factors(self, v: FloatArray) -> FloatArray:
        """Posterior mean of the factors (n_stars, n_factors) at features (n_stars, n_terms)."""
        return np.asarray(self.factor_mean - np.einsum("njt,nt->nj", self.factor_slope, v))


def _times(rows: NDArray[Any], matrix: NDArray[Any]) -> NDArray[Any]:
    """Matrix product by tiles of a fixed number of rows, the last filled with zeros.

    The order of the sums in a matrix product may depend on the number of rows; by equal tiles what
    comes out for a star does not depend on the stars beside it, to the last bit.
    """
    n, size = len(rows), _TILE[np.result_type(rows, matrix).itemsize]
    out = np.empty((n, matrix.shape[1]), dtype=np.result_type(rows, matrix))
    for start in range(0, n, size):
        tile = np.zeros((size, rows.shape[1]), dtype=rows.dtype)
        tile[: n - start] = rows[start : start + size]
        out[start : start + size] = (tile @ matrix)[: n - start]
    return out


def extra_variance(pixels: PixelModel, x: FloatArray) -> FloatArray:
    """Variance of each pixel besides photon noise: scatter and coefficients.

    Parameters
    ----------
    x
        Features, then factors, shape (n, n_coef).

    Returns
    -------
    (n, n_pixels) float64
    """
    if pixels.coef_cov is None:
        return np.broadcast_to(pixels.scatter2, (x.shape[0], pixels.n_pixels))
    variance = _times(pack_outer(x).astype(np.float32), pixels.coef_cov)
    return np.asarray(np.maximum(variance, 0.0) + pixels.scatter2)


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
        Where the coefficients' variance is evaluated: features and factors of every star,
        shape (n_stars, n_coef).
    weights
        What each pixel's inverse variance is multiplied by, shape (n_stars, n_pixels), as robust
        likelihoods have it (iteratively reweighted least squares); None: 1.
    """
    k, j, n = pixels.n_terms, pixels.n_factors, flux.shape[0]
    w = ivar / (1 + ivar * extra_variance(pixels, x))
    if weights is not None:
        w = w * weights
    good = w > 0
    wf = w * flux
    sums = unpack(_times(w, pixels.products))
    right = _times(wf, pixels.coef)
    square = np.einsum("np,np->n", wf, flux)
    log_w = np.log(w, where=good, out=np.zeros_like(w)).sum(axis=1)
    n_used = good.sum(axis=1)
    inner = sums[:, k:, k:] + np.eye(j)
    solved = np.linalg.solve(inner, np.concatenate([sums[:, k:, :k], right[:, k:, None]], axis=2))
    slope, mean = solved[:, :, :k], solved[:, :, k]
    A = sums[:, :k, :k] - np.swapaxes(sums[:, k:, :k], 1, 2) @ slope
    b = right[:, :k] - np.einsum("njt,nj->nt", sums[:, k:, :k], mean)
    square = square - np.einsum("nj,nj->n", right[:, k:], mean)
    log_det = np.linalg.slogdet(inner)[1] if j else np.zeros(n)
    const = 0.5 * (log_w - n_used * _LOG_2PI - log_det - square)
    A = 0.5 * (A + np.swapaxes(A, 1, 2))
    return Compressed(A, b, const, square, n_used.astype(np.int64), mean, slope)


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
