"""The trained model's used pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.packing import pack_outer, packed_size, packed_weights
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.noise.independent_pixels import IndependentPixels
from bayes_cannon.spectra.distortions import Templates

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "LOG_2PI",
    "PixelModel",
    "extra_variance",
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
    independent : IndependentPixels or None
        Pixels per independent one, by which log likelihoods are divided; None: 1.
    templates : Templates or None
        Of the known terms, which follow the labels; None where there are none.
    """

    basis: PolynomialBasis
    used: NDArray[np.bool_]
    coef: FloatArray
    products: FloatArray
    coef_cov: NDArray[np.float32] | None
    scatter2: FloatArray
    independent: IndependentPixels | None = None
    templates: Templates | None = None

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
                f"coefficients of {count_text(np.sum(~finite), 'usable pixel')} of the trained "
                "model are not finite; train it again."
            )
        independent = cannon.independent_pixels
        tempered = None if independent.trivial else independent.only(used)
        terms = cannon.known_terms
        templates = None if terms is None else terms.only(used).templates(cannon.theta[used])
        products = pack_outer(coef)
        return cls(cannon.basis, used, coef, products, cov, scatter2, tempered, templates)

    def __getstate__(self) -> dict[str, Any]:
        """What other processes are sent: the products are a multiple of the rest."""
        derived = ("products", "coef32", "factor_products", "factor_cov", "monomials")
        return {name: value for name, value in vars(self).items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, products=pack_outer(state["coef"]))

    def power(self, ivar: NDArray[Any]) -> FloatArray | None:
        """Power of the pixels' likelihoods, shape (n_stars, n_pixels); None: 1.

        Parameters
        ----------
        ivar
            Used pixels, shape (n_stars, n_pixels); 0: not used.
        """
        return None if self.independent is None else 1 / self.independent.kappa(ivar)

    @property
    def n_terms(self) -> int:
        """Number of terms of the polynomial."""
        return self.basis.n_terms

    @property
    def n_factors(self) -> int:
        """Number of nuisance factors."""
        return int(self.coef.shape[1]) - self.n_terms

    @property
    def n_hidden(self) -> int:
        """Number of nuisance factors and amplitudes of known terms, which follow them."""
        return self.n_factors + (0 if self.templates is None else len(self.templates.columns))

    @property
    def n_pixels(self) -> int:
        """Number of used pixels."""
        return int(self.coef.shape[0])

    def flux(self, x: FloatArray) -> FloatArray:
        """Model spectra, shape (n, n_pixels).

        Parameters
        ----------
        x
            Features, factors, and amplitudes of known terms in units of their scales, shape
            (n, n_coef) or (n, n_coef + n_columns).
        """
        n_coef = self.coef.shape[1]
        flux = x[:, :n_coef] @ self.coef.T
        if self.templates is not None:
            scaled = self.templates.scaled(x[:, : self.n_terms])
            flux += np.einsum("nt,ntp->np", x[:, n_coef:], scaled)
        return np.asarray(flux)

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
        Features, then factors, shape (n, n_coef); amplitudes of known terms may follow.

    Returns
    -------
    (n, n_pixels) float64
    """
    if pixels.coef_cov is None:
        return np.broadcast_to(pixels.scatter2, (x.shape[0], pixels.n_pixels))
    x = x[:, : pixels.coef.shape[1]]
    variance = times(pack_outer(x).astype(np.float32), pixels.coef_cov)
    return np.asarray(np.maximum(variance, 0.0) + pixels.scatter2)
