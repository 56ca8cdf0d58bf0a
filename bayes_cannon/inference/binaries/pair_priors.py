"""Priors of a pair in the fast pass: labels of both stars, their light, and the rest frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.binaries.two_stars import TwoStarModel
from bayes_cannon.models.light.isochrone_light import IsochroneLight
from bayes_cannon.models.two_stars import light_labels, log_light_ratio, log_planck

if TYPE_CHECKING:
    from bayes_cannon.inference.binaries.search import BinarySettings

__all__ = [
    "PairPrior",
]

_COOLEST = 1500.0
"""K; labels on the way of the optimiser may be impossible."""
_DARKEST = 1e-4


@dataclass(frozen=True, eq=False)
class PairPrior:
    """Prior of the parameters of a pair, as `TwoStarModel.pair` takes them.

    Attributes
    ----------
    model : TwoStarModel
    tie : (n_labels, n_labels) float64
        Precision of the difference of the two stars' labels, standardised as the first's.
    rest_frame : float
        km/s.
    light : tuple of int or None
        Places of Teff and log g, to which the light is tied; None: free.
    scatter : float
        Of the logarithm of the ratio of the light.
    isochrones : IsochroneLight or None
        The stars lie on one of them; the place of the metallicity is then the third of `light`.
    """

    model: TwoStarModel
    tie: FloatArray
    rest_frame: float
    light: tuple[int, ...] | None
    scatter: float
    isochrones: IsochroneLight | None = None

    @classmethod
    def make(cls, model: TwoStarModel, settings: BinarySettings) -> PairPrior:
        """Arrange it.

        Parameters
        ----------
        model
            Of both stars.
        settings
            Of the search.

        Raises
        ------
        InvalidDataError
            If light is tied to labels that the model lacks.
        """
        basis, k = model.first.basis, model.n_labels
        tie = np.zeros((k, k))
        if settings.alike is not None:
            tie = np.diag(np.where(model.abundances, (basis.scale / settings.alike) ** 2, 0.0))
        isochrones, light = settings.isochrones, None
        if settings.light != "free":
            light = light_labels(basis.names, metal=isochrones is not None)
        return cls(model, tie, settings.rest_frame, light, settings.light_scatter, isochrones)

    def in_second(self, ell: FloatArray) -> FloatArray:
        """Labels standardised as the first star's in the scale of the second.

        Parameters
        ----------
        ell
            Shape (n_labels,).
        """
        first, second = self.model.first.basis, self.model.second.basis
        if first is second:
            return ell
        return np.asarray(second.standardize(first.unstandardize(ell)))

    def log_ratio(self, one: FloatArray, two: FloatArray) -> FloatArray:
        """Logarithm of the second star's light over the first's.

        Parameters
        ----------
        one, two
            Standardised labels of the two stars, shape (..., n_labels).
        """
        assert self.light is not None
        t, g = self.light[:2]
        labels = [
            kind.basis.unstandardize(ell)
            for kind, ell in ((self.model.first, one), (self.model.second, two))
        ]
        teff = tuple(np.maximum(x[..., t], _COOLEST) for x in labels)
        ratio = np.asarray(
            log_light_ratio((teff[0], teff[1]), (labels[0][..., g], labels[1][..., g]))
        )
        if self.isochrones is None:
            return ratio
        return ratio + self.isochrones.excess_of_pair(*(x[..., self.light] for x in labels))

    def at(self, theta: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Minus twice the log prior, half of minus its slope, and its curvature.

        Parameters
        ----------
        theta
            Shape (n_parameters,).
        """
        k, n = self.model.n_labels, theta.size
        value, slope, curvature = 0.0, np.zeros(n), np.zeros((n, n))
        parts = slice(0, k), slice(k, 2 * k)
        for part, kind in zip(parts, (self.model.first, self.model.second), strict=True):
            off = theta[part] - kind.prior_mean
            pull = kind.prior_precision @ off
            value += float(off @ pull)
            slope[part] -= pull
            curvature[part, part] += kind.prior_precision
        value += self._alike(theta, slope, curvature)
        for row, jacobian in self._residuals(theta):
            value += row**2
            slope -= row * jacobian
            curvature += np.outer(jacobian, jacobian)
        if self.isochrones is not None:
            value += self._on_isochrones(self.isochrones, theta, slope, curvature)
        return value, slope, curvature

    def _alike(self, theta: FloatArray, slope: FloatArray, curvature: FloatArray) -> float:
        """Add that the stars are of one cloud to slope and curvature; return its value."""
        k = self.model.n_labels
        first, second = self.model.first.basis, self.model.second.basis
        change = np.hstack([-np.eye(k), np.diag(second.scale / first.scale)])
        apart = change @ theta[: 2 * k] + (second.center - first.center) / first.scale
        slope[: 2 * k] -= change.T @ self.tie @ apart
        curvature[: 2 * k, : 2 * k] += change.T @ self.tie @ change
        return float(apart @ self.tie @ apart)

    def _residuals(self, theta: FloatArray) -> list[tuple[float, FloatArray]]:
        """Residuals over their errors, and their derivatives: of the rest frame, of the light."""
        k = self.model.n_labels
        w, dv, shift = theta[2 * k : 2 * k + 3]
        # The first star is at rest, or the light of both: whichever is nearer.
        jacobian = np.zeros(theta.size)
        jacobian[2 * k + 2], off = 1.0, shift
        if abs(shift + w * dv) < abs(shift):
            jacobian[2 * k : 2 * k + 2], off = (dv, w), shift + w * dv
        found = [(float(off) / self.rest_frame, jacobian / self.rest_frame)]
        if self.light is not None and self.isochrones is None:
            found.append(self._light(theta))
        return found

    def _light(self, theta: FloatArray) -> tuple[float, FloatArray]:
        """That the light is as stars of equal mass have it."""
        assert self.light is not None
        (t, g), k = self.light[:2], self.model.n_labels
        one, two = theta[:k], theta[k : 2 * k]
        w = float(np.clip(theta[2 * k], _DARKEST, 1 - _DARKEST))
        jacobian = np.zeros(theta.size)
        jacobian[2 * k] = 1 / (w * (1 - w))
        for start, kind, ell, sign in (
            (0, self.model.first, one, 1.0), (k, self.model.second, two, -1.0),
        ):  # fmt: skip
            teff = max(float(kind.basis.unstandardize(ell)[t]), _COOLEST)
            planck = (log_planck(teff + 1.0) - log_planck(teff - 1.0)) / 2
            jacobian[start + t] = sign * planck * kind.basis.scale[t]
            jacobian[start + g] = -sign * np.log(10.0) * kind.basis.scale[g]
        equal = replace(self, isochrones=None).log_ratio(one, two)
        off = np.log(w) - np.log1p(-w) - float(equal)
        return off / self.scatter, jacobian / self.scatter

    def _on_isochrones(
        self, isochrones: IsochroneLight, theta: FloatArray, slope: FloatArray,
        curvature: FloatArray,
    ) -> float:  # fmt: skip
        """Add that both stars lie on an isochrone of one age; return its value."""
        assert self.light is not None
        (row, jacobian), k, place = self._light(theta), self.model.n_labels, list(self.light)
        n_ages = isochrones.log10_age.size
        rows, each = np.full(n_ages, row), np.zeros(n_ages)
        jacobians, slopes = np.tile(jacobian, (n_ages, 1)), np.zeros((n_ages, theta.size))
        curved = np.zeros((n_ages, theta.size, theta.size))
        for start, kind, sign in ((0, self.model.first, 1.0), (k, self.model.second, -1.0)):
            labels = kind.basis.unstandardize(theta[start : start + k])[place]
            scale, here = kind.basis.scale[place], start + np.array(place)
            on = isochrones.at(*labels)
            each += on.log_density
            rows += sign * on.excess / self.scatter
            jacobians[:, here] += sign * on.excess_slope * scale / self.scatter
            slopes[:, here] += on.density_slope * scale
            curved[:, here[:, None], here] += on.curvature * np.outer(scale, scale)
        each -= 0.5 * rows**2
        total = float(logsumexp(each))
        share = np.exp(each - total)
        slope += share @ (slopes - rows[:, None] * jacobians)
        curvature += np.einsum("k,kab->ab", share, curved)
        curvature += (jacobians * share[:, None]).T @ jacobians
        return -2 * (total - float(np.log(n_ages)))
