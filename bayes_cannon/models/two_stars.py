r"""The labels of two stars in one spectrum, as a PyMC model. Nothing here samples.

    labels_1, labels_2   ~ MvNormal(training mean, inflated training covariance)
    abundances_2 - _1    ~ Normal(0, alike)               where the stars are of one cloud
    light                ~ Uniform(0, light_max)
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

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.basis import PolynomialBasis

__all__ = [
    "PairPriors",
    "build_two_star_model",
    "pair_features",
]


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
    """

    mean: FloatArray
    precision: FloatArray
    tie: FloatArray
    light_max: float
    dv_max: float
    rest_frame: float


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
        ``A`` (6 n_terms, 6 n_terms) and ``b`` (6 n_terms,) of the compressed spectrum; ``mode``
        and ``chol``, mean and lower Cholesky factor of the whitening, shapes (2 n_labels + 3,) and
        its square: standardised labels of both, logit(light / light_max), dv and shift (km/s).
    kms_per_pixel
        Width of a pixel.

    Raises
    ------
    InvalidDataError
        If an array has another shape.
    """
    k, t = basis.n_labels, basis.n_terms
    n = 2 * k + 3
    shapes = {"A": (6 * t, 6 * t), "b": (6 * t,), "mode": (n,), "chol": (n, n)}
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
        for name, ell in (("labels_1", ell1), ("labels_2", ell2)):
            pm.Deterministic(name, basis.center + basis.scale * ell, dims="label_name")
        apart = ell2 - ell1
        density = -0.5 * pt.dot(apart, pt.dot(priors.tie, apart))
        for ell in (ell1, ell2):
            off = ell - priors.mean
            density = density - 0.5 * pt.dot(off, pt.dot(priors.precision, off))
        density = density + pt.log(share) + pt.log1p(-share)
        at_rest = [-0.5 * (x / priors.rest_frame) ** 2 for x in (shift, shift + light * dv)]
        density = density + at_rest[0] + pt.softplus(at_rest[1] - at_rest[0])
        density = pt.switch(pt.abs(dv) < priors.dv_max, density, -np.inf)
        pm.Potential("log_prior", density)
        start = given["mode"][2 * k + 1 :]
        first = (shift - start[1]) / kms_per_pixel
        second = (shift + dv - start[1] - start[0]) / kms_per_pixel
        q = pair_features(basis.symbolic(ell1), basis.symbolic(ell2), light, first, second)
        pm.Potential("log_likelihood", pt.dot(given["b"], q) - 0.5 * pt.dot(q, given["A"] @ q))
    return model
