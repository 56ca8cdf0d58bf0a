"""Pairs made of real single stars: shifted sums of a survey's own spectra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import expit

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.binaries.shifting import filtered, spline_coefficients, taps
from bayes_cannon.inference.binaries.two_stars import TwoStarModel
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.light.isochrone_light import IsochroneLight
from bayes_cannon.models.two_stars import log_light_ratio
from bayes_cannon.spectra.dataset import TrainingSet

__all__ = [
    "Pairs",
    "Stock",
    "draw_pairs",
    "sum_spectra",
    "with_tied_light",
]

_DV_SPREAD = 20.0
_FAINTEST = 0.05
_NEIGHBOURS = 8
_NOISELESS = 1e10
"""Inverse variance of spectra that a model predicts."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which stars are added, and how.

    Attributes
    ----------
    first, second : (n,) int
        Rows of the two stars.
    light, dv : (n,) float64
        Second star's share of the light, and its velocity less the first's, km/s.
    """

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    light: FloatArray
    dv: FloatArray

    def __len__(self) -> int:
        return int(self.first.size)

    def table(
        self,
        names: tuple[str, ...],
        labels: FloatArray,
        errors: FloatArray,
        star_id: NDArray[np.str_],
        units: tuple[str, ...],
    ) -> Table:
        """Columns STAR_1, STAR_2, LIGHT, DV and both stars' catalogue labels with their errors.

        Parameters
        ----------
        names
            Of the labels.
        labels, errors
            Of all stars, shape (n_stars, n_labels).
        star_id
            Of all stars.
        units
            Of the labels.
        """
        table = Table({
            "STAR_1": star_id[self.first], "STAR_2": star_id[self.second], "LIGHT": self.light,
            "DV": self.dv,
        })  # fmt: skip
        for k, name in enumerate(names):
            for star, rows in ((1, self.first), (2, self.second)):
                for column, values in ((f"{name}_{star}", labels), (f"{name}_{star}_ERR", errors)):
                    table[column] = values[rows, k]
                    table[column].unit = units[k] or None
        table["DV"].unit = "km / s"
        return table


@dataclass(frozen=True, eq=False)
class Stock:
    """Spectra that pairs are made of.

    Attributes
    ----------
    star_id : (n,) str
    labels, errors : (n, n_labels) float64
        Of the catalogue; errors are NaN where it has none, 0 where a model made the spectrum.
    flux, ivar : (n, n_pixels)
    seconds : (n_seconds,) int or None
        Rows that second stars are of; None: those of the first.
    """

    star_id: NDArray[np.str_]
    labels: FloatArray
    errors: FloatArray
    flux: NDArray[Any]
    ivar: NDArray[Any]
    seconds: NDArray[np.intp] | None

    @classmethod
    def make(cls, stars: TrainingSet, second: Cannon | None) -> Stock:
        """Training stars, and behind them stars as a model of second stars predicts them.

        Parameters
        ----------
        stars
            The training stars.
        second
            The other model, if there is one.
        """
        spectra, labels, errors = stars.spectra, stars.labels.values, stars.labels.errors
        if second is None:
            return cls(stars.star_id, labels, errors, spectra.flux, spectra.ivar, None)
        known = np.isfinite(second.training.values).all(axis=1)
        theirs = second.training.values[known]
        flux = second.predict(theirs).flux
        ivar = np.broadcast_to(np.where(second.used, _NOISELESS, 0.0), flux.shape)
        return cls(
            np.concatenate([stars.star_id, second.training.star_id[known]]),
            np.concatenate([labels, theirs]), np.concatenate([errors, np.zeros_like(theirs)]),
            np.concatenate([spectra.flux, flux]),
            np.concatenate([spectra.ivar, ivar]), len(labels) + np.arange(len(theirs)),
        )  # fmt: skip


def draw_pairs(
    n: int, rows: NDArray[np.intp], abundances: FloatArray, rng: np.random.Generator, *,
    light_max: float, dv_max: float, seconds: NDArray[np.intp] | None = None,
) -> Pairs:  # fmt: skip
    """Draw pairs of stars of nearly the same abundances.

    The second star is one of the eight nearest in abundances, its share of the light uniform from
    0.05, the velocity difference normal with 20 km/s.

    Parameters
    ----------
    n
        How many.
    rows
        Stars to choose from.
    abundances
        Standardised abundances of all stars, shape (n_stars, n_abundances); may have no column.
    rng
        Source of random numbers.
    light_max, dv_max
        Largest share of the light and largest |dv| (km/s; 0: none).
    seconds
        Stars to choose second stars from; None: `rows`.
    """
    seconds = rows if seconds is None else seconds
    first = np.concatenate([rng.permutation(rows) for _ in range(-(-n // rows.size))])[:n]
    second = np.empty_like(first)
    for i, row in enumerate(first):
        others = seconds[seconds != row]
        distance = np.linalg.norm(abundances[others] - abundances[row], axis=1)
        near = others[np.argsort(np.nan_to_num(distance, nan=np.inf), kind="stable")]
        second[i] = rng.choice(near[:_NEIGHBOURS] if abundances.shape[1] else near)
    light = rng.uniform(min(_FAINTEST, light_max / 2), light_max, n)
    dv = np.clip(_DV_SPREAD * rng.standard_normal(n), -dv_max, dv_max)
    return Pairs(first, second, light, dv)


def with_tied_light(
    pairs: Pairs, labels: FloatArray, rng: np.random.Generator, *, scatter: float,
    light_max: float, swap: bool, isochrones: IsochroneLight | None = None,
) -> Pairs:  # fmt: skip
    """Give pairs the light that follows from their labels; the fainter star is the second.

    A pair whose labels are not known keeps its light.

    Parameters
    ----------
    pairs
        Whose light is drawn anew.
    labels
        Teff (K) and log g (dex) of all stars, and [Fe/H] with isochrones, shape (n_stars, 2 or 3).
    rng
        Source of random numbers.
    scatter
        Of the logarithm of the ratio of the light, about `log_light_ratio` and the isochrones.
    light_max
        Largest share of the light.
    swap
        Whether a second star may become the first.
    isochrones
        Which say the light better.
    """
    one, two = labels[pairs.first], labels[pairs.second]
    ratio = log_light_ratio((one[:, 0], two[:, 0]), (one[:, 1], two[:, 1]))
    ratio = ratio + scatter * rng.standard_normal(len(pairs))
    if isochrones is not None:
        complete = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
        ratio[~complete] = np.nan
        ratio[complete] += isochrones.excess_of_pair(one[complete], two[complete])
    known = np.isfinite(ratio)
    turn = known & (ratio > 0) & swap
    light = expit(np.where(turn, -ratio, ratio))
    light = np.where(known, np.minimum(light, light_max), pairs.light)
    return Pairs(
        np.where(turn, pairs.second, pairs.first), np.where(turn, pairs.first, pairs.second),
        light, np.where(turn, -pairs.dv, pairs.dv),
    )  # fmt: skip


def sum_spectra(
    model: TwoStarModel,
    flux: NDArray[Any],
    ivar: NDArray[Any],
    pairs: Pairs,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray]:
    """Spectra of pairs, with the noise of the first star's spectrum.

    The second spectrum is moved by splines over its bad pixels, which become bad in the sum. A sum
    of two noisy spectra is less noisy than either: what lacks to the first star's noise is added.
    The sum is divided by its continuum where the survey's spectra were.

    Parameters
    ----------
    model
        Chips, pixels and continuum.
    flux, ivar
        Of all stars, shape (n_stars, n_pixels); ivar 0: not used.
    pairs
        What to add.
    rng
        Of the noise that is added.

    Returns
    -------
    flux, ivar : (n_pairs, n_pixels) float64
    """
    out_flux, out_ivar = np.ones((2, len(pairs), flux.shape[1]))
    for i in range(len(pairs)):
        a, b, w = pairs.first[i], pairs.second[i], pairs.light[i]
        delta = pairs.dv[i] / model.kms_per_pixel if model.resolved else 0.0
        moved, variance = _moved(model, flux[b], ivar[b], delta)
        good = (ivar[a] > 0) & np.isfinite(variance)
        own = 1 / np.where(good, ivar[a], 1.0).astype(np.float64)
        left = (1 - w) ** 2 * own + w**2 * np.where(good, variance, 0.0)
        noise = rng.standard_normal(good.size) * np.sqrt(np.maximum(own - left, 0.0))
        total = np.where(good, (1 - w) * flux[a] + w * moved, 1.0)
        out_ivar[i] = np.where(good, ivar[a], 0.0)
        if model.continuum:
            norm = model.projected(total[None], out_ivar[i])[0]
            total = np.where(good & (norm > 0.1), total / np.where(norm > 0.1, norm, 1.0), 1.0)
        out_flux[i] = np.where(good, total + noise, 1.0)
    return out_flux, out_ivar


def _moved(
    model: TwoStarModel, flux: NDArray[Any], ivar: NDArray[Any], delta: float
) -> tuple[FloatArray, FloatArray]:
    """Flux moved by delta pixels, and its variance; inf where a bad pixel comes in."""
    filled, variance = flux.astype(np.float64), np.full(flux.size, np.inf)
    first, kernel = taps(delta)
    shift = round(delta)
    chips = tuple((int(a), int(b)) for a, b in model.edges)
    for start, stop in chips:
        here = ivar[start:stop] > 0
        if not here.any():
            continue
        place = np.arange(stop - start)
        filled[start:stop] = np.interp(place, place[here], filled[start:stop][here])
        own = np.where(here, 1 / np.where(here, ivar[start:stop], 1.0), np.inf)
        source = place - shift
        inside = (source >= 0) & (source < own.size)
        seen = np.where(inside, own[np.clip(source, 0, own.size - 1)], np.inf)
        if delta != 0:  # the neighbours that the interpolation reaches
            bad = ~np.isfinite(seen)
            seen[np.convolve(bad, np.ones(3), mode="same") > 0] = np.inf
        variance[start:stop] = seen
    if delta == 0:
        return filled, variance
    return filtered(spline_coefficients(filled[None], chips), kernel[0], first, model.edges)[
        0
    ], variance
