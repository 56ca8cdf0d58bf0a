r"""Amplitudes of the known terms of stars in training, and the scales they have in common.

    flux[n] = theta.v(l_n) + loading.z[n] + sum_t a[n,t] G_t(theta) v(l_n) + noise ,
    a[n,t] ~ Normal(0, scale[t]) ,    scale[t] ~ HalfNormal(widest[t])

The templates G_t are those of the coefficients of the last round (see
`bayes_cannon.spectra.distortions`). The E step of the factors has the amplitudes beside the factors
(`bayes_cannon.training.factors.star_factors`); the coefficients are then fitted to the spectra
without the terms, with the variance that their uncertainty leaves. A term that the spectra do not
have gets a scale near zero, and is then without effect.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.parallel import each_block
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.spectra.distortions import KnownTerms, Templates

if TYPE_CHECKING:
    from bayes_cannon.training.factors import StarFactors

__all__ = [
    "KnownPart",
    "learn_scales",
    "stars_at_a_time",
    "without_terms",
]

_BLOCK = 256
_ROUNDS = 30
"""Of EM of the scales at one posterior of the amplitudes."""
_LEAST = 1e-3
"""Smallest scale, as a share of its prior's."""


def stars_at_a_time(templates: Templates | None, most: int) -> int:
    """Stars per block, so that their templates stay as small as the other work arrays.

    Parameters
    ----------
    templates
        Of the known terms; None where there are none.
    most
        Stars per block without them.
    """
    n_columns = 0 if templates is None else len(templates.columns)
    return max(most // (1 + n_columns), 8)


@dataclass(frozen=True, eq=False)
class KnownPart:
    """Templates of a block of stars, and their sums over pixels with weights and residuals.

    Attributes
    ----------
    weighted : (n_stars, n_columns, n_pixels) float32
        Templates in units of the scales, times the weights.
    inner : (n_stars, n_columns, n_columns) float64
    right : (n_stars, n_columns) float64
        Sums with the templates, and with the residuals.
    """

    weighted: NDArray[np.float32]
    inner: FloatArray
    right: FloatArray

    @classmethod
    def of(
        cls, templates: Templates, v: FloatArray, w: NDArray[Any], residual: NDArray[Any]
    ) -> KnownPart:
        """Sums of a block of stars.

        Parameters
        ----------
        templates
            Of the known terms.
        v
            Features, shape (n_stars, n_terms).
        w, residual
            Inverse variances and residuals, shape (n_stars, n_pixels).
        """
        scaled = templates.scaled(v).astype(np.float32)
        weighted = scaled * w[:, None].astype(np.float32)
        inner = (weighted @ np.swapaxes(scaled, 1, 2)).astype(np.float64)
        right = np.einsum("ntp,np->nt", weighted, residual, optimize=True).astype(np.float64)
        return cls(weighted, 0.5 * (inner + np.swapaxes(inner, 1, 2)), right)

    def times(self, coefficients: NDArray[Any]) -> FloatArray:
        """Sums over pixels with coefficients, shape (n_stars, n_columns, m).

        Parameters
        ----------
        coefficients
            Shape (n_pixels, m).
        """
        return (self.weighted @ coefficients.astype(np.float32)).astype(np.float64)

    def joined(
        self, precision: FloatArray, right: FloatArray, loading: NDArray[Any]
    ) -> tuple[FloatArray, FloatArray]:
        """Precision and right side of factors and amplitudes together, priors included.

        Parameters
        ----------
        precision, right
            Of the factors, shapes (n_stars, n_factors, n_factors) and (n_stars, n_factors).
        loading
            Shape (n_pixels, n_factors).
        """
        across = self.times(loading)
        own = self.inner + np.eye(self.inner.shape[1])
        upper = np.concatenate([precision, np.swapaxes(across, 1, 2)], axis=2)
        lower = np.concatenate([across, own], axis=2)
        return np.concatenate([upper, lower], axis=1), np.concatenate([right, self.right], axis=1)


def learn_scales(terms: KnownTerms, amplitudes: StarFactors) -> tuple[KnownTerms, StarFactors]:
    """Scales that the amplitudes' posterior is most probable under, by EM, and it in their units.

    Columns of one group share their scale. The likelihood of the amplitudes is taken as what their
    posterior has beyond its prior N(0, I).

    Parameters
    ----------
    terms
        With the scales of the prior of `amplitudes`.
    amplitudes
        Posterior of the stars, in units of the scales.

    Returns
    -------
    KnownTerms
        With the new scales.
    StarFactors
        Posterior under them, in their units.
    """
    n_stars, n_columns = amplitudes.mean.shape
    unit = np.eye(n_columns)
    precision = np.linalg.inv(amplitudes.cov)
    likelihood = precision - unit
    right = np.einsum("nst,nt->ns", precision, amplitudes.mean)
    group, ratio = terms.groups, np.ones(n_columns)
    mean, cov = amplitudes.mean, amplitudes.cov
    for _ in range(_ROUNDS):
        square = np.mean(mean**2 + np.diagonal(cov, axis1=1, axis2=2), axis=0)
        new = np.empty(n_columns)
        for g in np.unique(group):
            own = group == g
            widest = float((terms.widest / terms.scale)[own][0])
            n = n_stars * int(own.sum())
            total = float(square[own].sum()) * n_stars
            variance = 2 * total / (n + np.sqrt(n**2 + 4 * total / widest**2))
            new[own] = max(np.sqrt(variance), _LEAST * widest)
        moved = np.max(np.abs(np.log(new / ratio)))
        ratio = new
        cov = np.linalg.inv(likelihood + unit / ratio**2)
        mean = np.einsum("nst,nt->ns", cov, right)
        if moved < 1e-3:
            break
    found = type(amplitudes)(mean / ratio, cov / np.outer(ratio, ratio))
    return replace(terms, scale=terms.scale * ratio), found


def without_terms(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    v: FloatArray,
    templates: Templates,
    amplitudes: StarFactors,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Spectra without the known terms, and inverse variances with what is uncertain in these.

    Parameters
    ----------
    flux, ivar
        Shape (n_stars, n_pixels).
    v
        Features of the stars, shape (n_stars, n_terms).
    templates
        Of the known terms.
    amplitudes
        Of the stars, in units of the scales.
    """
    out = np.empty(flux.shape, dtype=np.float32), np.empty(flux.shape, dtype=np.float32)

    def work(rows: slice) -> None:
        scaled = templates.scaled(v[rows])
        mean = np.einsum("nt,ntp->np", amplitudes.mean[rows], scaled, optimize=True)
        variance = np.einsum("ntp,ntp->np", scaled, amplitudes.cov[rows] @ scaled)
        out[0][rows] = flux[rows] - mean
        out[1][rows] = ivar[rows] / (1 + ivar[rows] * variance)

    each_block(work, stars_at_a_time(templates, _BLOCK), len(flux))
    return out
