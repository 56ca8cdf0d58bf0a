r"""Model of repeated measurements: what the labels of one star's visits say about their errors.

Label l of visit j of star i has a formal standard deviation s, and what really scatters from visit
to visit is a scale a times it and a floor f, independent of the S/N:

    l[i, j] = t[i] + e[i, j] ,         var e[i, j] = v[i, j] = a**2 s[i, j]**2 + f**2 .

The star's own value t has a flat prior and is integrated out, which leaves the n - 1 differences
between its n visits (a restricted likelihood): the three pairs of three visits are not three
independent ones. With w = 1 / v, W = sum w and the weighted mean m = sum w l / W,

    -2 log L[i] = sum log v + log W + Q ,         Q = sum w (l - m)**2 .

Tails are those of a Student t whose scale is common to a star's visits, so that a star with one
bad visit, or a variable one, counts little. The widths v are those of the central 68.3 %: the t has
scale sqrt(v) / c(nu), where c is the 84.13 % quantile of a t of unit scale, by its Cornish-Fisher
expansion 1 + 1/(2 nu) + 1/(4 nu**2) + 1/(16 nu**3), right to 0.2 % from nu = 2.

Errors common to all visits of a star, of the model above all, cancel in differences and are not
seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt

from bayes_cannon.base.typing import FloatArray

__all__ = [
    "RepeatedLabels",
    "build_repeat_model",
    "core_width",
    "repeat_data",
]


@dataclass(frozen=True, eq=False)
class RepeatedLabels:
    """Labels of the visits, in any unit; rows are filled up to the largest number of visits.

    Attributes
    ----------
    names : tuple of str
    value, formal : (n_stars, n_visits, n_labels) float64
        Labels and their formal standard deviations; anything finite, formal positive, where there
        is no visit.
    there : (n_stars, n_visits) bool
        Whether there is a visit; two at least of every star.
    """

    names: tuple[str, ...]
    value: FloatArray
    formal: FloatArray
    there: np.ndarray[Any, np.dtype[np.bool_]]


def repeat_data(data: RepeatedLabels) -> dict[str, FloatArray]:
    """Values of the model's `pm.Data`, by name.

    Parameters
    ----------
    data
        Labels of repeated visits.
    """
    return {
        "value": np.asarray(data.value, dtype=np.float64),
        "formal": np.asarray(data.formal, dtype=np.float64),
        "there": np.asarray(data.there, dtype=np.float64),
    }


def core_width(nu: Any) -> Any:
    """Half width of the central 68.3 % of a Student t of unit scale with nu degrees of freedom.

    Parameters
    ----------
    nu
        Degrees of freedom, a number or a tensor.
    """
    return 1.0 + 0.5 / nu + 0.25 / nu**2 + 0.0625 / nu**3


def build_repeat_model(data: RepeatedLabels) -> pm.Model:
    """Build the model of the labels of repeated visits.

    Variables, all with the dim ``label_name``: ``log_scale`` ~ N(0, 1), ``floor`` ~ half-Cauchy of
    scale 0.5, in the unit of the data (which the caller makes the robust spread of the
    differences), and ``nu_excess`` ~ Gamma(2, 0.1), nu - 1. The data are the `pm.Data` of
    `repeat_data` and may change their numbers of stars and visits.

    The floor can only add, so that with a flat prior it takes from the scale where there is none:
    68 % intervals of the scale hold 48 % then, with this prior 64 %; with floors of half to three
    times the formal errors those of scale and floor hold 62 to 78 %, 95 % intervals 88 to 100 %
    (50 to 60 simulations of 80 stars).

    Parameters
    ----------
    data
        Labels of the visits.
    """
    with pm.Model(coords={"label_name": list(data.names)}, check_bounds=False) as model:
        given: Any = {name: pm.Data(name, value) for name, value in repeat_data(data).items()}
        log_scale: Any = pm.Normal("log_scale", 0.0, 1.0, dims="label_name")
        floor: Any = pm.HalfCauchy("floor", 0.5, dims="label_name")
        nu: Any = 1.0 + pm.Gamma("nu_excess", 2.0, 0.1, dims="label_name")
        value, there = given["value"], given["there"][:, :, None]
        variance = pt.exp(2 * log_scale) * given["formal"] ** 2 + floor**2
        weight = there / variance
        total = pt.sum(weight, axis=1)
        mean = pt.sum(weight * value, axis=1) / total
        square = pt.sum(weight * (value - mean[:, None, :]) ** 2, axis=1)
        log_det = pt.sum(there * pt.log(variance), axis=1) + pt.log(total)
        free = pt.sum(there, axis=1) - 1.0
        core = core_width(nu)
        half = 0.5 * (nu + free)
        norm = pt.gammaln(half) - pt.gammaln(0.5 * nu) - 0.5 * free * pt.log(np.pi * nu / core**2)
        each = norm - 0.5 * log_det - half * pt.log1p(core**2 * square / nu)
        pm.Potential("log_likelihood", pt.sum(each))
    return model
