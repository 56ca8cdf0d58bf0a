"""From isochrones of several ages and metallicities to the prior of pairs of one age."""

from __future__ import annotations

import logging
import warnings

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.analysis.isochrones import Isochrone, IsochroneSet
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import BayesCannonWarning, InvalidDataError
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.light.isochrone_light import IsochroneLight
from bayes_cannon.models.two_stars import light_labels, log_planck

__all__ = [
    "light_on_isochrones",
]

_LOG = logging.getLogger(__name__)
_LOG_AGES = (8.7, 10.15)  # 0.5 to 14 Gyr
_MOST_AGES = 12
_FLASH = (606, 630)  # EEPs between the tip of the giant branch and core helium burning
_PHASES = (0, 2, 3, 4, 5)
_STEP, _MARGIN = 0.5, 4.0  # distance of points, and reach beyond the labels, in errors
_NEAR_FEH = 0.15
"""Dex that stars may be beyond the isochrones' [Fe/H]."""
_NEAR, _FEWEST, _FEW = -2.0, 0.5, 0.9
"""Log density of a star at two errors; share of such stars that is refused, and warned of."""


def light_on_isochrones(
    isochrones: IsochroneSet, *models: Cannon, teff_error: float = 100.0, logg_error: float = 0.2
) -> IsochroneLight:
    """Arrange isochrones as the prior of a pair of one age and metallicity.

    Of ages between 0.5 and 14 Gyr that all [Fe/H] have at most twelve are taken, evenly; where
    there are several [α/Fe], that nearest to 0. The light is that of 2MASS H where all isochrones
    have it, else that of black bodies of their luminosity. Kept are the parts near the training
    labels of the models; the short way from the tip of the giant branch to the clump is left out.

    Parameters
    ----------
    isochrones
        Of several ages and [Fe/H].
    *models
        Cannons that the two stars are of.
    teff_error, logg_error
        By how much stars may lie beside an isochrone, K and dex: errors of labels, and of scales.

    Raises
    ------
    InvalidDataError
        If the isochrones have no age in common or no brightness, their points cannot be matched,
        or fewer than half of the training stars lie near them.

    Warns
    -----
    BayesCannonWarning
        If fewer than nine in ten training stars do.
    """
    labels = [m.training.values[:, light_labels(m.names, metal=True)] for m in models]
    every = np.concatenate(labels)
    every = every[np.isfinite(every).all(axis=1)]
    feh, ages, grid = _grid(isochrones)
    band = _band([one for row in grid for one in row])
    eeps = _common(grid, band)
    columns = np.array([[_columns(one, eeps, band) for one in row] for row in grid])
    teff, log_g, excess = np.moveaxis(columns, 2, 0)
    errors = np.array([teff_error, logg_error])
    reach = _MARGIN * errors
    low, high = every[:, :2].min(axis=0) - reach, every[:, :2].max(axis=0) + reach
    inside = (teff > low[0]) & (teff < high[0]) & (log_g > low[1]) & (log_g < high[1])
    keep = inside.any(axis=(0, 1))
    if keep.sum() < 2:
        raise InvalidDataError(
            "the isochrones do not pass the training stars: " + _ranges(teff, log_g, feh)
        )
    nodes, log_weight = _points(
        eeps[keep], teff[..., keep] / teff_error, log_g[..., keep] / logg_error
    )
    teff, log_g, excess = (_interpolated(nodes, eeps, x) for x in (teff, log_g, excess))
    if feh.size == 1:  # the same at any metallicity
        feh = feh[0] + np.array([-_NEAR_FEH, _NEAR_FEH])
        teff, log_g, excess, log_weight = (
            np.repeat(x, 2, axis=1) for x in (teff, log_g, excess, log_weight)
        )
    light = IsochroneLight(
        ages, feh, teff, log_g, excess, log_weight, teff_error, logg_error, band,
        isochrones.source,
    )  # fmt: skip
    _check(light, every)
    _LOG.info("light of %s on %d isochrones (%s)", band, ages.size * feh.size, isochrones.source)
    return light


def _grid(isochrones: IsochroneSet) -> tuple[FloatArray, FloatArray, list[list[Isochrone]]]:
    """[Fe/H], ages and the isochrones, a row an age."""
    by_feh: dict[float, list[Isochrone]] = {}
    for one in isochrones:
        by_feh.setdefault(round(one.feh, 4), []).append(one)
    found: dict[float, dict[float, Isochrone]] = {}
    for feh, ones in sorted(by_feh.items()):
        alpha = min((one.alpha_fe or 0.0 for one in ones), key=abs)
        found[feh] = {
            round(one.log10_age, 4): one for one in ones if (one.alpha_fe or 0.0) == alpha
        }
    common = set.intersection(*(set(ones) for ones in found.values()))
    ages = np.array(sorted(age for age in common if _LOG_AGES[0] <= age <= _LOG_AGES[1]))
    if not ages.size:
        raise InvalidDataError(
            "no age between 0.5 and 14 Gyr is one of all isochrones' [Fe/H] "
            f"({', '.join(f'{feh:g}' for feh in found)}); fetch files of the same ages."
        )
    if ages.size > _MOST_AGES:
        ages = ages[np.linspace(0, ages.size - 1, _MOST_AGES).round().astype(int)]
    grid = [[ones[age] for ones in found.values()] for age in ages.tolist()]
    return np.array(list(found)), ages, grid


def _band(every: list[Isochrone]) -> str:
    """What the light is of."""
    if all(one.H is not None and np.isfinite(one.H).any() for one in every):
        return "2MASS H"
    if all(one.log_L is not None for one in every):
        return "bolometric luminosity"
    lacking = next(one for one in every if one.log_L is None)
    raise InvalidDataError(
        f"the isochrone of {lacking.label} has no brightness: files need a column 2MASS_H "
        "(.iso.cmd of UBVRIplus) or log_L."
    )


def _common(grid: list[list[Isochrone]], band: str) -> NDArray[np.int64]:
    """Evolutionary points that all isochrones have, without those of rapid phases."""
    common: set[int] | None = None
    for one in (one for row in grid for one in row):
        good = np.isin(one.phase, _PHASES) & ~((one.eep >= _FLASH[0]) & (one.eep <= _FLASH[1]))
        if band == "2MASS H":
            good &= np.isfinite(np.asarray(one.H))
        here = set(one.eep[good].tolist())
        common = here if common is None else common & here
    if not common or len(common) < 10:
        raise InvalidDataError(
            f"the isochrones share {len(common or ())} evolutionary points (EEPs), 10 are needed; "
            "use files of one version and kind."
        )
    return np.array(sorted(common), dtype=np.int64)


def _columns(one: Isochrone, eeps: NDArray[np.int64], band: str) -> FloatArray:
    """Teff, log g and the excess over a black body of mass 1, shape (3, n_points)."""
    rows = np.searchsorted(one.eep, eeps)
    teff, log_g = one.teff[rows], one.log_g[rows]
    planck = log_planck(teff)
    if band == "2MASS H":
        light = -0.4 * np.log(10.0) * np.asarray(one.H)[rows]
    else:
        light = np.log(10.0) * np.asarray(one.log_L)[rows] + planck - 4 * np.log(teff)
    return np.stack([teff, log_g, light + np.log(10.0) * log_g - planck])


def _points(
    eeps: NDArray[np.int64], teff: FloatArray, log_g: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Evolutionary numbers at most half an error apart, and the logarithm of their weights.

    `teff` and `log_g` are in errors, shape (n_ages, n_feh, n_eeps).
    """
    nodes = []
    for rows in np.split(np.arange(eeps.size), np.flatnonzero(_broken(eeps)) + 1):
        step = np.hypot(np.diff(teff[..., rows]), np.diff(log_g[..., rows])).max(axis=(0, 1))
        length = np.append(0.0, np.cumsum(step + 1e-9))
        n = int(length[-1] / _STEP) + 2
        nodes.append(np.interp(np.linspace(0, length[-1], n), length, eeps[rows]))
    place, weights = np.concatenate(nodes), []
    for part in nodes:
        x, y = _interpolated(part, eeps, teff), _interpolated(part, eeps, log_g)
        step = np.hypot(np.diff(x), np.diff(y))
        weight = np.zeros_like(x)
        weight[..., :-1] += step / 2
        weight[..., 1:] += step / 2
        weights.append(weight)
    weight = np.concatenate(weights, axis=-1) / np.sqrt(2 * np.pi)
    return place, np.log(np.maximum(weight, 1e-6))


def _interpolated(nodes: FloatArray, eeps: NDArray[np.int64], values: FloatArray) -> FloatArray:
    """Values, shape (..., n_eeps), at other evolutionary numbers."""
    rows = values.reshape(-1, eeps.size)
    out = np.array([np.interp(nodes, eeps, row) for row in rows])
    return out.reshape(*values.shape[:-1], nodes.size)


def _broken(eeps: NDArray[np.int64]) -> NDArray[np.bool_]:
    """After which points a part is left out: a step that spans the tip, or is far from even."""
    step = np.diff(eeps)
    crosses = (eeps[:-1] < _FLASH[0]) & (eeps[1:] > _FLASH[1])
    return np.asarray(crosses | (step > 10 * np.median(step)))


def _check(light: IsochroneLight, labels: FloatArray) -> None:
    """Refuse isochrones that do not pass the training stars, warn where they pass few."""
    on = light.at(*labels.T).log_density.max(axis=-1) > _NEAR
    low, high = light.feh[0] - _NEAR_FEH, light.feh[-1] + _NEAR_FEH
    on &= (labels[:, 2] > low) & (labels[:, 2] < high)
    text = (
        f"{int(on.sum())} of {count_text(on.size, 'training star')} lie within two errors "
        f"({light.teff_error:g} K, {light.logg_error:g} dex) of an isochrone; "
        + _ranges(light.teff, light.log_g, light.feh)
    )
    if on.mean() < _FEWEST:
        raise InvalidDataError(text)
    if on.mean() < _FEW:
        warnings.warn(text, BayesCannonWarning, stacklevel=4)


def _ranges(teff: FloatArray, log_g: FloatArray, feh: FloatArray) -> str:
    return (
        f"they have Teff {teff.min():.0f} to {teff.max():.0f} K, log g {log_g.min():.1f} to "
        f"{log_g.max():.1f}, [Fe/H] {feh.min():.2f} to {feh.max():.2f}. Give files of the [Fe/H] "
        "and ages of the stars, or tie the light without isochrones."
    )
