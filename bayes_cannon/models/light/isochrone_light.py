r"""Two stars on one isochrone: how well they lie on it, and the ratio of their light.

At age k an isochrone of the star's [Fe/H] is a row of points j, interpolated linearly in [Fe/H]
between points of one evolutionary number. A star with labels x = (Teff, log g) lies on it with

    rho_k(x) = sum_j s_j / sqrt(2 pi) exp(-|x - x_j|^2 / 2) + exp(-4.5) ,

distances in units of the stated errors of Teff and log g, s_j the length that belongs to a point:
1 on the isochrone, falling as a normal to what a star at 3 sigma has. No part of an isochrone is
preferred: which stars there are is the prior of the labels. Its light in H is that of a black body
of mass 1, with an excess over it,

    ln F(x) = -ln(10) log g + ln B(Teff) + c_k(x) ,

c_k(x) the mean of c over the points, weighed as in rho: the mass, and what atmospheres differ from
black bodies. The prior of a pair is the mean over the ages, each counting alike, of

    rho_k(x_1) rho_k(x_2) N(logit w; ln F(x_2) - ln F(x_1), scatter) .
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from bayes_cannon.base.typing import FloatArray

__all__ = [
    "IsochroneLight",
    "OnIsochrones",
]

_LOG_OFF = -4.5
"""Logarithm of the density of a star far from an isochrone: as of one at 3 sigma."""


@dataclass(frozen=True, eq=False)
class OnIsochrones:
    """Where stars lie on the isochrones of each age; derivatives to Teff, log g and [Fe/H].

    Attributes
    ----------
    log_density, excess : (..., n_ages) float64
        Logarithm of rho, and c.
    density_slope, excess_slope : (..., n_ages, 3) float64
    curvature : (..., n_ages, 3, 3) float64
        An upper limit of minus the second derivatives of `log_density`.
    """

    log_density: FloatArray
    excess: FloatArray
    density_slope: FloatArray
    excess_slope: FloatArray
    curvature: FloatArray


@dataclass(frozen=True, eq=False)
class IsochroneLight:
    """Isochrones of several ages and metallicities, as the prior of a pair needs them.

    Attributes
    ----------
    log10_age : (n_ages,) float64
        log10 of years.
    feh : (n_feh,) float64
        Increasing, at least two, dex; a star beyond them is taken as one at their end.
    teff, log_g : (n_ages, n_feh, n_points) float64
        K and dex; a point has the same evolutionary number in all isochrones.
    excess : (n_ages, n_feh, n_points) float64
        c: logarithm of the light in H over that of a black body of mass 1, but for a constant.
    log_weight : (n_ages, n_feh, n_points) float64
        Logarithm of s / sqrt(2 pi).
    teff_error, logg_error : float
        By how much stars may lie beside an isochrone, K and dex.
    band : str
        What the light is of: ``'2MASS H'``, or ``'bolometric luminosity'`` and black bodies.
    source : str
        What to cite.
    """

    log10_age: FloatArray
    feh: FloatArray
    teff: FloatArray
    log_g: FloatArray
    excess: FloatArray
    log_weight: FloatArray
    teff_error: float
    logg_error: float
    band: str
    source: str

    @cached_property
    def key(self) -> bytes:
        """Digest of all numbers."""
        digest = hashlib.sha256(repr((self.teff_error, self.logg_error)).encode())
        for array in (self.feh, self.teff, self.log_g, self.excess, self.log_weight):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()

    @cached_property
    def _by_feh(self) -> FloatArray:
        """All arrays together, shape (n_feh, 4, n_ages, n_points)."""
        every = np.stack([self.teff, self.log_g, self.excess, self.log_weight])
        return np.ascontiguousarray(np.moveaxis(every, 2, 0))

    def at(self, teff: ArrayLike, log_g: ArrayLike, feh: ArrayLike) -> OnIsochrones:
        """Where stars lie.

        Parameters
        ----------
        teff, log_g, feh
            Of the stars, shape (...): K, dex and dex.
        """
        metal = np.asarray(feh, np.float64)
        f = np.clip(metal, self.feh[0], self.feh[-1])
        i = np.clip(np.searchsorted(self.feh, f, side="right") - 1, 0, self.feh.size - 2)
        step = self.feh[i + 1] - self.feh[i]
        low, high = self._by_feh[i], self._by_feh[i + 1]  # (..., 4, n_ages, n_points)
        change = (high - low) * ((metal == f) / step)[..., None, None, None]
        of = np.moveaxis(
            low + (high - low) * ((f - self.feh[i]) / step)[..., None, None, None], -3, 0
        )
        change = np.moveaxis(change, -3, 0)
        T, g, c, log_weight = of
        # Distances in errors, and their derivatives to [Fe/H]; those to Teff and log g are 1/error.
        eT, eg = self.teff_error, self.logg_error
        u = (np.asarray(teff, np.float64)[..., None, None] - T) / eT
        v = (np.asarray(log_g, np.float64)[..., None, None] - g) / eg
        du, dv = -change[0] / eT, -change[1] / eg
        log_term = log_weight - 0.5 * (u**2 + v**2)
        most = np.maximum(log_term.max(axis=-1), _LOG_OFF)
        share = np.exp(log_term - most[..., None])
        off = np.exp(_LOG_OFF - most)
        total = share.sum(axis=-1) + off
        share /= total[..., None]
        off /= total
        excess = _sum(share, c) + off * c.mean(axis=-1)
        to_feh = change[3] - u * du - v * dv
        density_slope, excess_slope = (
            np.stack([-_sum(w, u) / eT, -_sum(w, v) / eg, _sum(w, to_feh)], axis=-1)
            for w in (share, share * c)
        )
        excess_slope -= excess[..., None] * density_slope
        excess_slope[..., 2] += _sum(share, change[2]) + off * change[2].mean(axis=-1)
        curvature = np.zeros((*excess.shape, 3, 3))
        near = share.sum(axis=-1)
        curvature[..., 0, 0], curvature[..., 1, 1] = near / eT**2, near / eg**2
        curvature[..., 0, 2] = curvature[..., 2, 0] = _sum(share, du) / eT
        curvature[..., 1, 2] = curvature[..., 2, 1] = _sum(share, dv) / eg
        curvature[..., 2, 2] = _sum(share, du**2 + dv**2)
        return OnIsochrones(
            np.log(total) + most, excess, density_slope, excess_slope, curvature
        )  # fmt: skip

    def excess_of_pair(self, first: FloatArray, second: FloatArray) -> FloatArray:
        """Excess of the second star's light less the first's, the mean over ages, shape (...).

        Parameters
        ----------
        first, second
            Teff, log g and [Fe/H] of the two stars, shape (..., 3); K and dex.
        """
        one, two = (self.at(*np.moveaxis(np.asarray(x), -1, 0)) for x in (first, second))
        each = one.log_density + two.log_density
        share = np.exp(each - logsumexp(each, axis=-1, keepdims=True))
        return np.asarray(np.sum(share * (two.excess - one.excess), axis=-1))

    def symbolic(self, teff: Any, log_g: Any, feh: Any) -> tuple[Any, Any]:
        """Logarithm of rho and c of one star as PyTensor variables, shape (n_ages,) each.

        Parameters
        ----------
        teff, log_g, feh
            Scalars, K, dex and dex.
        """
        f = pt.clip(feh, self.feh[0], self.feh[-1])
        i = pt.sum(pt.ge(f, pt.constant(self.feh[1:-1]))).astype("int64")
        nodes = pt.constant(self.feh)
        s = (f - nodes[i]) / (nodes[i + 1] - nodes[i])
        T, g, c, log_weight = (
            (1 - s) * pt.constant(values)[:, i] + s * pt.constant(values)[:, i + 1]
            for values in (self.teff, self.log_g, self.excess, self.log_weight)
        )
        u = (teff - T) / self.teff_error, (log_g - g) / self.logg_error
        log_term = log_weight - 0.5 * (u[0] ** 2 + u[1] ** 2)
        # Weights are at most of the order of 1, and the least term is not small: no overflow.
        terms, off = pt.exp(log_term), np.exp(_LOG_OFF)
        total = pt.sum(terms, axis=1) + off
        excess = (pt.sum(terms * c, axis=1) + off * pt.mean(c, axis=1)) / total
        return pt.log(total), excess


def _sum(share: FloatArray, values: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("...j,...j->...", share, values))
