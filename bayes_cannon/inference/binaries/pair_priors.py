"""Priors of a pair in the fast pass: labels of both stars, their light, and the rest frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.binaries.two_stars import TwoStarModel
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
    light : (int, int) or None
        Places of Teff and log g, to which the light is tied; None: free.
    scatter : float
        Of the logarithm of the ratio of the light.
    """

    model: TwoStarModel
    tie: FloatArray
    rest_frame: float
    light: tuple[int, int] | None
    scatter: float

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
        light = light_labels(basis.names) if settings.light == "tied" else None
        return cls(model, tie, settings.rest_frame, light, settings.light_scatter)

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
        t, g = self.light
        labels = [
            kind.basis.unstandardize(ell)
            for kind, ell in ((self.model.first, one), (self.model.second, two))
        ]
        teff = tuple(np.maximum(x[..., t], _COOLEST) for x in labels)
        return np.asarray(
            log_light_ratio((teff[0], teff[1]), (labels[0][..., g], labels[1][..., g]))
        )

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
        if self.light is not None:
            found.append(self._light(theta))
        return found

    def _light(self, theta: FloatArray) -> tuple[float, FloatArray]:
        assert self.light is not None
        (t, g), k = self.light, self.model.n_labels
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
        off = np.log(w) - np.log1p(-w) - float(self.log_ratio(one, two))
        return off / self.scatter, jacobian / self.scatter
