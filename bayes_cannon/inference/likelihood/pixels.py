"""The trained model's used pixels, and the likelihood of one star's labels over all of them."""

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
    "LOG_2PI",
    "PixelModel",
    "extra_variance",
    "full_log_likelihood",
    "pixels_needed",
    "times",
]

LOG_2PI = float(np.log(2 * np.pi))
_ENOUGH = 100
"""Usable pixels that are enough for any model."""
_TILE = {4: 8, 8: 16}
"""Stars per matrix product, by the bytes of a number.

Linear algebra libraries sum in an order that depends on a row's place in its panel; with so few
rows all panels are alike (on processors with AVX2 that takes no more than 8 rows of float32).
"""
_SECOND = 0.005
"""Bound of what a log likelihood lacks of the second order in the weights."""
_PIXELS = 1024
"""Pixels at a time where draws times pixels would not fit a processor's cache."""


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
    kappa : (n_pixels,) float64 or None
        Pixels per independent one, by which log likelihoods are divided; None: 1.
    """

    basis: PolynomialBasis
    used: NDArray[np.bool_]
    coef: FloatArray
    products: FloatArray
    coef_cov: NDArray[np.float32] | None
    scatter2: FloatArray
    kappa: FloatArray | None = None

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
        kappa = cannon.kappa_of_pixels[used]
        tempered = kappa if np.any(kappa != 1) else None
        return cls(cannon.basis, used, coef, pack_outer(coef), cov, scatter2, tempered)

    def __getstate__(self) -> dict[str, Any]:
        """What other processes are sent: the products are a multiple of the rest."""
        derived = ("products", "coef32", "factor_products", "factor_cov", "monomials")
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
    def coef32(self) -> NDArray[np.float32]:
        """`coef` as float32."""
        return self.coef.astype(np.float32)

    @cached_property
    def factor_products(self) -> NDArray[np.float32]:
        """Columns of `products` that belong to pairs of factors, as float32."""
        rows, columns = np.tril_indices(self.coef.shape[1])
        pairs = (rows >= self.n_terms) & (columns >= self.n_terms)
        return self.products[:, pairs].astype(np.float32)

    @cached_property
    def factor_cov(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Covariances with the loadings, in order of the products of factors that take them.

        Returns
        -------
        mixed : (n_factors, n_terms * n_pixels) float32
            Of each factor's loading and the terms' coefficients.
        between : (n_factors (n_factors + 1) / 2, n_pixels) float32
            Of pairs of loadings, packed.

        Raises
        ------
        InvalidDataError
            If the coefficients' uncertainty was left out.
        """
        if self.coef_cov is None:
            raise InvalidDataError("these pixels leave the coefficients' uncertainty out.")
        k = self.n_terms
        starts = [packed_size(k + n) for n in range(self.n_factors)]
        mixed = np.stack([self.coef_cov[start : start + k].ravel() for start in starts])
        between = [self.coef_cov[start + k : start + k + n + 1] for n, start in enumerate(starts)]
        return mixed, np.concatenate(between)

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


def times(rows: NDArray[Any], matrix: NDArray[Any]) -> NDArray[Any]:
    """Matrix product by tiles of a fixed number of rows, the last filled with zeros.

    The order of the sums in a matrix product may depend on the number of rows; by equal tiles what
    comes out for a star does not depend on the stars beside it, to the last bit.

    Parameters
    ----------
    rows
        Shape (n_rows, n).
    matrix
        Shape (n, m).

    Returns
    -------
    (n_rows, m)
        Their product.
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
    pixels
        The trained model.
    x
        Features, then factors, shape (n, n_coef).

    Returns
    -------
    (n, n_pixels) float64
    """
    if pixels.coef_cov is None:
        return np.broadcast_to(pixels.scatter2, (x.shape[0], pixels.n_pixels))
    variance = times(pack_outer(x).astype(np.float32), pixels.coef_cov)
    return np.asarray(np.maximum(variance, 0.0) + pixels.scatter2)


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
    variance = _Variance.of(pixels, v, z)
    weights = np.empty((len(v), pixels.n_pixels), dtype=np.float32)
    total = np.zeros((len(v), 2 + j))
    for start in range(0, pixels.n_pixels, _PIXELS):
        some = slice(start, start + _PIXELS)
        part = _pixel_sums(pixels, some, residual[some], ivar[some], v, variance)
        weights[:, some] = part[0]
        total += part[1]
    power = 1.0 if pixels.kappa is None else 1 / pixels.kappa
    chi2, log_w = total[:, 0], total[:, 1] - np.sum((ivar > 0) * power) * LOG_2PI
    if j:
        square, log_det = _factor_terms(pixels, weights, total[:, 2:], v)
        chi2, log_w = chi2 - square, log_w - log_det
    return np.asarray(0.5 * (log_w - chi2))


def _factor_terms(
    pixels: PixelModel, weights: NDArray[np.float32], right: FloatArray, v: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return right' M^-1 right and log det M of ``M = 1 + U' w U`` for every draw.

    Most of what the weights change with the labels lies in the span of the features, in which M is
    summed up; the rest is taken to first order, where the second order is below `_SECOND`.
    """
    k = pixels.n_terms
    if len(v) > 2 * k:
        span = np.linalg.qr(v)[0]
        coarse = span.T.astype(np.float32) @ weights
        rest = weights - span.astype(np.float32) @ coarse
        square, log_det, factors, inverse = _solve(pixels, span, coarse, right)
        loadings = pixels.coef32[:, k:]
        leverage = np.einsum("pj,pj->p", loadings @ inverse.astype(np.float32), loadings)
        fitted = factors.astype(np.float32) @ loadings.T
        np.square(fitted, out=fitted)
        size = np.abs(rest)
        trace = (size @ leverage).max()
        if trace * max(trace, np.einsum("dp,dp->d", size, fitted).max()) < _SECOND:
            return square - np.einsum("dp,dp->d", rest, fitted), log_det + rest @ leverage
    return _solve(pixels, np.eye(len(v)), weights, right)[:2]


def _solve(
    pixels: PixelModel, span: FloatArray, weights: NDArray[np.float32], right: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Solve M z = right for weights ``span @ weights``; also the inverse of the mean M."""
    inner = unpack(span @ (weights @ pixels.factor_products)) + np.eye(pixels.n_factors)
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


def _pixel_sums(
    pixels: PixelModel,
    some: slice,
    residual: FloatArray,
    ivar: NDArray[Any],
    v: FloatArray,
    variance: _Variance,
) -> tuple[NDArray[np.float32], FloatArray]:
    """Weights of some pixels for every draw, and sums: chi-square, log weights and U'w r."""
    coef = pixels.coef32[some]
    k, good = pixels.n_terms, ivar > 0
    ivar = ivar.astype(np.float32)
    # Variances in units of the photon noise's, of which the logarithms' sum is small.
    share = variance.at(some, len(v))
    share *= ivar
    share += 1
    if pixels.kappa is None:
        log_w = np.sum(np.log(ivar[good], dtype=np.float64)) - np.log(share).sum(axis=1)
        w = np.divide(ivar, share, out=share)
    else:
        power = (1 / pixels.kappa[some]).astype(np.float32)
        log_w = np.log(ivar[good], dtype=np.float64) @ power[good] - np.log(share) @ power
        w = np.divide(ivar * power, share, out=share)
    r = (v.mean(axis=0) - v).astype(np.float32) @ coef[:, :k].T
    r += residual.astype(np.float32)
    wr = w * r
    chi2 = np.einsum("dp,dp->d", wr, r)
    sums = [chi2[:, None], log_w[:, None], wr @ coef[:, k:]]
    return w, np.concatenate(sums, axis=1, dtype=np.float64)
