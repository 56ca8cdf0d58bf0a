r"""The spectrum of two stars in one fibre, from the Cannon of one.

    F = [(1 - w) f(l_1) + w f(l_2; dv)] / N ,    f(l) = Theta v(l) ,

with w the second star's share of the light and dv its radial velocity less the first's. Both are
moved by what the rest frame is off (`shift`) and broadened alike (`broadening`), as single stars
are. Data are divided by a polynomial fitted to continuum pixels, chip by chip; so is the sum. The
fit is linear in the flux, and of each star at rest it is 1, so that what is left of it is

    N = 1 + w H[f(l_2; dv) - f(l_2; 0)] ,

with H the projection on the polynomials. At w = 0 the model is that of a single star.

Nuisance factors, with their prior N(0, 1), are shared and integrated out, and pixels are weighted
as in the inference of single stars (kappa included): the weights are those of the best single star.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.binaries.shifting import filtered, spline_coefficients, taps
from bayes_cannon.inference.likelihood.pixels import PixelModel
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_moments import label_moments, safe_inverse
from bayes_cannon.models.noise.independent_pixels import IndependentPixels
from bayes_cannon.spectra.continuum import ContinuumSettings, match_pixels
from bayes_cannon.spectra.label_kinds import label_kind
from bayes_cannon.spectra.spectra import same_grid
from bayes_cannon.surveys.reductions import reductions_of_settings

if TYPE_CHECKING:
    from bayes_cannon.models.cannon import Cannon

__all__ = [
    "SPEED_OF_LIGHT",
    "Evaluated",
    "StarKind",
    "TwoStarModel",
]

SPEED_OF_LIGHT = 299792.458
"""km/s."""
_UNEVEN = 0.05
"""Largest relative change of a pixel's width in km/s within a chip that is shifted in pixels."""
_FINEST = 0.5
"""Velocities are fitted where the largest of them moves a line by at least so many pixels."""


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The model and its derivatives at one point.

    Attributes
    ----------
    flux : (n_pixels,) float64
    slopes : (n_parameters, n_pixels) float64
        With respect to standardised labels of the first star, then of the second, w, dv, shift
        (km/s) and broadening (pixels squared).
    """

    flux: FloatArray
    slopes: FloatArray


@dataclass(frozen=True, eq=False)
class StarKind:
    """Spectra of one kind of star, those of a Cannon.

    Attributes
    ----------
    basis : PolynomialBasis
    splines : (n_terms, n_all_pixels) float64
        Spline coefficients of the terms.
    prior_mean, prior_precision : (n_labels,), (n_labels, n_labels) float64
        Of standardised labels, from the training stars.
    training : (n_stars, n_labels) float64
        Standardised labels of the training stars that have all of them.
    """

    basis: PolynomialBasis
    splines: FloatArray
    prior_mean: FloatArray
    prior_precision: FloatArray
    training: FloatArray

    @classmethod
    def from_cannon(cls, cannon: Cannon, inflate: float) -> StarKind:
        """Arrange the arrays of a trained model.

        Parameters
        ----------
        cannon
            The trained model.
        inflate
            As of `TwoStarModel.from_cannon`.
        """
        theta, used = cannon.theta.T.copy(), np.asarray(cannon.used, dtype=bool)
        for start, stop in cannon.chips:
            _bridge(theta, used, start, stop)
        ell = cannon.basis.standardize(cannon.training.values)
        mean, cov = label_moments(ell)
        return cls(
            cannon.basis, spline_coefficients(theta, cannon.chips), mean,
            safe_inverse(cov * inflate**2), ell[np.isfinite(ell).all(axis=1)],
        )  # fmt: skip

    def rows(self, ell: FloatArray) -> FloatArray:
        """Spline coefficients of the flux and of its derivatives, (1 + n_labels, n_all_pixels).

        Parameters
        ----------
        ell
            Standardised labels, shape (n_labels,).
        """
        terms = np.vstack([self.basis.features(ell)[None], self.basis.jacobian(ell).T])
        return np.asarray(terms @ self.splines)


@dataclass(frozen=True, eq=False)
class TwoStarModel:
    """Arrays of a Cannon arranged for spectra of two stars.

    Attributes
    ----------
    pixels : PixelModel
        All pixels of the Cannon are columns here; `usable` says which are used.
    usable : (n_all_pixels,) bool
        Used pixels that no shift reaches over the end of a chip.
    first, second : StarKind
        What single stars are, and what the second star of a pair is.
    loadings : (n_factors, n_all_pixels) float64
    independent : IndependentPixels
    edges : (n_chips, 2) int64
    kms_per_pixel : float
    resolved : bool
        Whether velocities can be measured on this grid; else dv, shift and broadening are 0.
    continuum : tuple of (pixels, basis) for each chip
        Continuum pixels and polynomials at all pixels of the chip; empty where the spectra were
        not divided by a fitted continuum.
    abundances : (n_labels,) bool
        Labels that the stars of a pair share.
    """

    pixels: PixelModel
    usable: NDArray[np.bool_]
    first: StarKind
    second: StarKind
    loadings: FloatArray
    independent: IndependentPixels
    edges: NDArray[np.int64]
    kms_per_pixel: float
    resolved: bool
    continuum: tuple[tuple[NDArray[np.intp], FloatArray], ...]
    abundances: NDArray[np.bool_]

    @classmethod
    def from_cannon(
        cls, cannon: Cannon, *, dv_max: float, inflate: float, second: Cannon | None = None
    ) -> TwoStarModel:
        """Arrange the arrays of a trained model.

        Parameters
        ----------
        cannon
            The trained model.
        dv_max
            Largest |dv| in km/s.
        inflate
            What the spread of the training labels is multiplied by in the prior of labels.
        second
            The model of second stars, of dwarfs and subgiants say; None: the same one.

        Raises
        ------
        InvalidDataError
            If shifts matter but the wavelengths of a chip are not evenly spaced in velocity, or
            the second model has other labels, pixels or continua than the first.
        """
        pixels = PixelModel.from_cannon(cannon)
        used = np.asarray(cannon.used, dtype=bool)
        width, resolved = _velocity_scale(cannon, dv_max)
        usable = used.copy()
        if second is not None:
            _require_alike(cannon, second)
            usable &= np.asarray(second.used, dtype=bool)
        reach = int(np.ceil(dv_max / width)) + 2 if resolved else 0
        for start, stop in cannon.chips:
            usable[start : min(start + reach, stop)] = False
            usable[max(stop - reach, start) : stop] = False
        if not usable.any():
            raise InvalidDataError(
                f"shifts of up to {dv_max:g} km/s leave no pixel of the model's chips; lower the "
                "largest velocity difference."
            )
        first = StarKind.from_cannon(cannon, inflate)
        return cls(
            pixels=pixels, usable=usable, first=first,
            second=first if second is None else StarKind.from_cannon(second, inflate),
            loadings=np.where(used, cannon.loadings.T, 0.0),
            independent=cannon.independent_pixels,
            edges=np.array(cannon.chips, dtype=np.int64).reshape(-1, 2),
            kms_per_pixel=width, resolved=resolved, continuum=_continuum(cannon),
            abundances=np.array([_is_abundance(name) for name in cannon.names]),
        )  # fmt: skip

    @property
    def n_labels(self) -> int:
        """Number of labels of one star."""
        return int(self.first.prior_mean.size)

    @property
    def n_parameters(self) -> int:
        """Labels of both stars, w, dv, shift and broadening."""
        return 2 * self.n_labels + 4

    def spread(self, kms: float) -> float:
        """Broadening in pixels squared of a standard deviation in km/s.

        Parameters
        ----------
        kms
            Standard deviation of the broadening, km/s.
        """
        return (kms / self.kms_per_pixel) ** 2

    def single(self, ell: FloatArray, shift: float, broad: float) -> Evaluated:
        """Spectrum of one star; derivatives to its labels, shift and broadening alone.

        Parameters
        ----------
        ell
            Standardised labels, shape (n_labels,).
        shift, broad
            km/s and pixels squared.
        """
        return self._seen(self.first.rows(ell), shift, broad)

    def companion(self, ell: FloatArray, shift: float, broad: float) -> Evaluated:
        """As `single`, of the second star of a pair.

        Parameters
        ----------
        ell, shift, broad
            As of `single`.
        """
        return self._seen(self.second.rows(ell), shift, broad)

    def _seen(self, rows: FloatArray, shift: float, broad: float) -> Evaluated:
        """Shift (km/s) and broaden (pixels squared) what `StarKind.rows` returned."""
        scale = 1 / self.kms_per_pixel
        first, kernel = taps(shift * scale, broad)
        seen = filtered(rows, kernel[0], first, self.edges)
        moved = filtered(rows[:1], kernel[1], first, self.edges) * scale
        wider = filtered(rows[:1], kernel[2], first, self.edges)
        return Evaluated(seen[0], np.concatenate([seen[1:], moved, wider]))

    def pair(self, theta: FloatArray, ivar: FloatArray) -> Evaluated:
        """Spectrum of two stars and its derivatives to all parameters.

        Parameters
        ----------
        theta
            Parameters, shape (n_parameters,), in the order of `Evaluated.slopes`.
        ivar
            Inverse variances that weigh the continuum pixels, shape (n_all_pixels,).
        """
        k = self.n_labels
        w, dv, shift, broad = theta[2 * k :]
        second = self.second.rows(theta[k : 2 * k])
        one, two = self.single(theta[:k], shift, broad), self._seen(second, shift + dv, broad)
        slopes = np.empty((self.n_parameters, self.usable.size))
        slopes[:k] = (1 - w) * one.slopes[:k]
        slopes[k : 2 * k] = w * two.slopes[:k]
        slopes[2 * k] = two.flux - one.flux
        slopes[2 * k + 1] = w * two.slopes[k]
        slopes[2 * k + 2] = (1 - w) * one.slopes[k] + slopes[2 * k + 1]
        slopes[2 * k + 3] = (1 - w) * one.slopes[k + 1] + w * two.slopes[k + 1]
        flux = one.flux + w * slopes[2 * k]
        if self.continuum and dv != 0:
            rest = self._seen(second, shift, broad)
            rows = np.vstack([two.flux - rest.flux, two.slopes - rest.slopes, two.slopes[k]])
            gain, *slope = self.projected(rows, ivar)
            norm = 1 + w * gain
            flux = flux / norm
            change = np.zeros_like(slopes)  # of norm
            change[k : 2 * k] = w * np.array(slope[:k])
            change[2 * k] = gain
            change[2 * k + 1] = w * slope[k + 2]
            change[2 * k + 2], change[2 * k + 3] = w * slope[k], w * slope[k + 1]
            slopes = (slopes - flux * change) / norm
        return Evaluated(flux, slopes)

    def projected(self, rows: FloatArray, ivar: FloatArray) -> FloatArray:
        """H of each row: the polynomials fitted to its continuum pixels, at all pixels.

        Parameters
        ----------
        rows
            Shape (n, n_all_pixels).
        ivar
            Inverse variances that weigh the continuum pixels, shape (n_all_pixels,).

        Returns
        -------
        (n, n_all_pixels) float64
            0 outside the chips.
        """
        out = np.zeros_like(rows)
        for (start, stop), (place, curves) in zip(self.edges, self.continuum, strict=True):
            weight, at = ivar[place], curves[place - start]
            gram = (at * weight[:, None]).T @ at
            gram += (1e-9 * np.trace(gram) + 1e-300) * np.eye(len(gram))
            right = at.T @ (weight[:, None] * rows[:, place].T)
            out[:, start:stop] = (curves @ np.linalg.solve(gram, right)).T
        return out


def _require_alike(cannon: Cannon, second: Cannon) -> None:
    """Raise where spectra of two models cannot be added."""
    made = [dict(c.settings.get("dataset", {})) for c in (cannon, second)]
    continua = [[m.get(f"continuum_{key}") for key in ("degree", "pixels")] for m in made]
    first, other = (reductions_of_settings(m) for m in made)
    differ = {
        "labels": cannon.names != second.names or cannon.basis.units != second.basis.units,
        "wavelengths": not same_grid(cannon.wavelength, second.wavelength)
        or tuple(cannon.chips) != tuple(second.chips) or cannon.medium != second.medium,
        "continua": continua[0] != continua[1],
        "reductions": bool(first and other) and first != other,
        "known terms": set(cannon.terms) != set(second.terms),
    }  # fmt: skip
    if wrong := [name for name, other in differ.items() if other]:
        raise InvalidDataError(
            f"the second model has other {' and '.join(wrong)} than the first (labels "
            f"{', '.join(second.names)}; {second.n_pixels} pixels against {cannon.n_pixels}; known "
            f"terms {', '.join(second.terms) or 'none'} against "
            f"{', '.join(cannon.terms) or 'none'}); prepare and train both with the same labels, "
            "pixels, continuum, reduction and --terms."
        )


def _is_abundance(name: str) -> bool:
    """Whether the label is an abundance, which the stars of a pair share."""
    kind: Any = label_kind(name)
    return bool(kind.prior == (-2.0, 2.0))


def _velocity_scale(cannon: Cannon, dv_max: float) -> tuple[float, bool]:
    """Width of a pixel in km/s, and whether velocities matter."""
    widths = [
        np.diff(np.log(cannon.wavelength[a:b])) * SPEED_OF_LIGHT
        for a, b in cannon.chips
        if b - a > 1
    ]
    if not widths:
        return np.inf, False
    every = np.concatenate(widths)
    if dv_max < _FINEST * every.min():
        return float(np.median(every)), False
    middle = float(np.median(every))
    uneven = float(np.max(np.abs(every / middle - 1)))
    if uneven > _UNEVEN:
        raise InvalidDataError(
            f"pixels are {every.min():.2f} to {every.max():.2f} km/s wide; to look for binaries "
            "bring the spectra to a grid that is even in the logarithm of the wavelength."
        )
    return middle, True


def _bridge(theta: FloatArray, used: NDArray[np.bool_], start: int, stop: int) -> None:
    """Put straight lines over the pixels of a chip that are not used, in place."""
    here = used[start:stop]
    if here.all() or not here.any():
        return
    place = np.arange(stop - start)
    for row in theta:
        row[start:stop] = np.interp(place, place[here], row[start:stop][here])


def _continuum(cannon: Cannon) -> tuple[tuple[NDArray[np.intp], FloatArray], ...]:
    """Continuum pixels and Chebyshev polynomials of each chip; none where none was fitted."""
    made = dict(cannon.settings.get("dataset", {}))
    if "continuum_degree" not in made:
        return ()
    given = str(made.get("continuum_pixels", "published"))
    listed = tuple(json.loads(given)) if given.startswith("[") else given
    settings = ContinuumSettings(int(made["continuum_degree"]), listed)
    found = match_pixels(cannon.wavelength, settings.wavelengths_in(cannon.medium))
    out = []
    for start, stop in cannon.chips:
        here = cannon.wavelength[start:stop]
        x = 2 * (here - here[0]) / max(here[-1] - here[0], 1e-300) - 1
        curves = np.asarray(chebyshev.chebvander(x, settings.degree), dtype=np.float64)
        out.append((found[(found >= start) & (found < stop)], curves))
    return tuple(out)
