r"""The labels of two stars in one spectrum, as a PyMC model. Nothing here samples.

    labels_1, labels_2   ~ MvNormal(training mean, inflated training covariance)
    abundances_2 - _1    ~ Normal(0, alike)               where the stars are of one cloud
    light                ~ Uniform(0, light_max), or tied to the labels, see `log_light_ratio` and
                           `IsochroneLight`
    dv                   ~ Uniform(-dv_max, dv_max)
    shift                ~ Normal(0, rest_frame)          of the first star, or of the light of both
    flux                 ~ MvNormal(C' q, D + U U')       the nuisance factors integrated out

The likelihood is compressed, ``b.q - q'A q / 2``, about the best pair: with a the first star's
shift and e the second's, in pixels, less those of the best pair,

    q = [(1-w) (1, a, a^2/2) x v(labels_1),  w (1, e, e^2/2) x v(labels_2)] ,

the columns C are the terms of the polynomial at the two shifts, with two derivatives each. A line
is three pixels wide, so that the expansion is good to 1e-3 of its depth for half a pixel (2 km/s).
Broadening and continuum are those of the best pair. Free are whitened coordinates of all parameters
about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.light.isochrone_light import IsochroneLight

__all__ = [
    "PairPriors",
    "build_two_star_model",
    "light_labels",
    "log_light_ratio",
    "log_planck",
    "pair_features",
]


_HC_K = 14387.77 / 1.6
"""hc / k over 1.6 µm, K."""


def light_labels(names: Sequence[str], *, metal: bool = False) -> tuple[int, ...]:
    """Places of the labels that the light is tied to: TEFF, LOGG, and FE_H (else M_H) if asked.

    Parameters
    ----------
    names
        Of the labels.
    metal
        Whether the metallicity is needed, too.

    Raises
    ------
    InvalidDataError
        If one is missing.
    """
    lacking = [name for name in ("TEFF", "LOGG") if name not in names]
    if lacking:
        raise InvalidDataError(
            f"light can be tied to Teff and log g alone, and the model has no label "
            f"{', '.join(lacking)} (it has {', '.join(names)}); leave the light free."
        )
    wanted = ["TEFF", "LOGG"]
    if metal:
        found = [name for name in ("FE_H", "M_H") if name in names]
        if not found:
            raise InvalidDataError(
                f"isochrones need a metallicity, and the model has no label FE_H or M_H (it has "
                f"{', '.join(names)}); leave the light free or tie it to Teff and log g."
            )
        wanted.append(found[0])
    return tuple(list(names).index(name) for name in wanted)


@dataclass(frozen=True, eq=False)
class PairPriors:
    """Priors of a pair.

    Attributes
    ----------
    mean, precision : (n_labels,), (n_labels, n_labels) float64
        Of each star's standardised labels.
    tie : (n_labels, n_labels) float64
        Precision of the difference of the two stars' standardised labels.
    light_max, dv_max, rest_frame : float
        Largest share of the light; largest |dv| and the rest frame's error, km/s.
    second_mean, second_precision
        As `mean` and `precision`, of a second star of another Cannon; None: the same.
    light_scatter : float or None
        Standard deviation of the logarithm of the two stars' light about that of
        `log_light_ratio`; None leaves the light free.
    isochrones : IsochroneLight or None
        The two stars lie on one of them, which says their light better.
    """

    mean: FloatArray
    precision: FloatArray
    tie: FloatArray
    light_max: float
    dv_max: float
    rest_frame: float
    second_mean: FloatArray | None = None
    second_precision: FloatArray | None = None
    light_scatter: float | None = None
    isochrones: IsochroneLight | None = None


def log_planck(teff: Any) -> Any:
    """Logarithm of a black body's brightness at 1.6 µm, the middle of H, but for a constant.

    Parameters
    ----------
    teff
        In K: a number or a PyTensor variable.
    """
    if isinstance(teff, int | float | np.ndarray | np.number):
        return -np.log(np.expm1(_HC_K / teff))
    return -pt.log(pt.expm1(_HC_K / teff))


def log_light_ratio(teff: tuple[Any, Any], logg: tuple[Any, Any]) -> Any:
    """Logarithm of the second star's light over the first's in H, for equal masses.

    R² is proportional to M / g, and a star shines in H as a black body of its Teff does at 1.6 µm:
    ``ln(F2 / F1) = ln 10 (logg1 - logg2) + ln B(Teff2) - ln B(Teff1)``. Two stars of one age that
    are both evolved differ by a few per cent in mass.

    Parameters
    ----------
    teff, logg
        Of the two stars, K and dex.

    Examples
    --------
    >>> round(float(np.exp(log_light_ratio((4800.0, 4800.0), (2.0, 3.0)))), 3)
    0.1
    """
    planck = log_planck(teff[1]) - log_planck(teff[0])
    return np.log(10.0) * (logg[0] - logg[1]) + planck


def pair_features(v1: Any, v2: Any, light: Any, first: Any, second: Any) -> Any:
    """Features q (6 n_terms,) of a pair: of numbers or of PyTensor variables.

    Parameters
    ----------
    v1, v2
        Features of the two stars, shape (n_terms,).
    light
        The second star's share.
    first, second
        Shifts of the two stars less those of the expansion, pixels.
    """
    one, two = (1 - light) * v1, light * v2
    parts = [one, first * one, 0.5 * first**2 * one, two, second * two, 0.5 * second**2 * two]
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts)
    return pt.concatenate(parts)


def build_two_star_model(
    basis: PolynomialBasis,
    priors: PairPriors,
    data: Mapping[str, FloatArray],
    *,
    kms_per_pixel: float,
    second: PolynomialBasis | None = None,
) -> pm.Model:
    """Build the model of one pair.

    What belongs to the star is ``pm.Data``: the model is compiled once and the data swapped.

    Parameters
    ----------
    basis
        Labels, scaling and terms.
    priors
        Of labels, light and velocities.
    data
        ``A`` (3 t, 3 t) and ``b`` (3 t,) of the compressed spectrum, t the terms of both stars;
        ``mode`` and ``chol``, mean and lower Cholesky factor of the whitening, shapes
        (2 n_labels + 3,) and its square: standardised labels of both,
        logit(light / light_max), dv and shift (km/s).
    kms_per_pixel
        Width of a pixel.
    second
        Labels, scaling and terms of the second star; None: those of the first.

    Raises
    ------
    InvalidDataError
        If an array has another shape.
    """
    other = basis if second is None else second
    k, t = basis.n_labels, 3 * (basis.n_terms + other.n_terms)
    n = 2 * k + 3
    shapes = {"A": (t, t), "b": (t,), "mode": (n,), "chol": (n, n)}
    for name, shape in shapes.items():
        if np.shape(data[name]) != shape:
            raise InvalidDataError(f"{name} has shape {np.shape(data[name])}, expected {shape}.")
    coords = {"label_name": list(basis.names), "coordinate": np.arange(n)}
    with pm.Model(coords=coords, check_bounds=False) as model:
        given = {name: pm.Data(name, np.asarray(data[name], np.float64)) for name in shapes}
        y = pm.Flat("y", dims="coordinate")
        u = given["mode"] + pt.dot(given["chol"], y)
        ell1, ell2 = u[:k], u[k : 2 * k]
        share = pt.sigmoid(u[2 * k])
        light = pm.Deterministic("light", priors.light_max * share)
        dv, shift = (
            pm.Deterministic(name, u[2 * k + 1 + i]) for i, name in enumerate(("dv", "shift"))
        )
        labels = [
            pm.Deterministic(name, of.center + of.scale * ell, dims="label_name")
            for name, of, ell in (("labels_1", basis, ell1), ("labels_2", other, ell2))
        ]
        apart = (labels[1] - basis.center) / basis.scale - ell1
        density = -0.5 * pt.dot(apart, pt.dot(priors.tie, apart))
        same = priors.second_mean is None
        for ell, mean, precision in (
            (ell1, priors.mean, priors.precision),
            (ell2, priors.mean, priors.precision) if same
            else (ell2, priors.second_mean, priors.second_precision),
        ):  # fmt: skip
            off = ell - mean
            density = density - 0.5 * pt.dot(off, pt.dot(precision, off))
        density = density + pt.log(share) + pt.log1p(-share)
        if priors.light_scatter is not None:
            density = density + _tied_light(
                basis, labels, light, priors.light_scatter, priors.isochrones
            )
        at_rest = [-0.5 * (x / priors.rest_frame) ** 2 for x in (shift, shift + light * dv)]
        density = density + at_rest[0] + pt.softplus(at_rest[1] - at_rest[0])
        density = pt.switch(pt.abs(dv) < priors.dv_max, density, -np.inf)
        pm.Potential("log_prior", density)
        start = given["mode"][2 * k + 1 :]
        first = (shift - start[1]) / kms_per_pixel
        second = (shift + dv - start[1] - start[0]) / kms_per_pixel
        q = pair_features(basis.symbolic(ell1), other.symbolic(ell2), light, first, second)
        pm.Potential("log_likelihood", pt.dot(given["b"], q) - 0.5 * pt.dot(q, given["A"] @ q))
    return model


def _tied_light(
    basis: PolynomialBasis,
    labels: Sequence[Any],
    light: Any,
    scatter: float,
    isochrones: IsochroneLight | None,
) -> Any:
    """Log density of the light: its logit is normal about the ratio that the labels say."""
    t, g, *metal = light_labels(basis.names, metal=isochrones is not None)
    ratio = log_light_ratio((labels[0][t], labels[1][t]), (labels[0][g], labels[1][g]))
    off = pt.log(light) - pt.log1p(-light) - ratio
    density = -pt.log(light) - pt.log1p(-light)
    if isochrones is None:
        return density - 0.5 * (off / scatter) ** 2
    (first, one), (second, two) = (
        isochrones.symbolic(ell[t], ell[g], ell[metal[0]]) for ell in labels
    )
    each: Any = first + second - 0.5 * ((off - two + one) / scatter) ** 2
    most = pt.max(each)
    return density + most + pt.log(pt.sum(pt.exp(each - most)))
