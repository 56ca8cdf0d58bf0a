r"""Model of a group of stars: the mean and the intrinsic covariance of their labels.

Star i has labels x[i], and its spectrum says of them, by its calibrated posterior, a multivariate
Student t with center m[i], scale matrix S[i] and nu degrees of freedom:

    x[i] ~ N(mean, C) ,        m[i] ~ N(x[i], S[i] / u[i]) ,        u[i] ~ Gamma(nu / 2, nu / 2) .

The labels of the stars are integrated out, which leaves

    m[i] ~ N(mean, C + S[i] / u[i]) ,      C = diag(scatter) R diag(scatter) ,   R ~ LKJ(2) .

There is no funnel then, and the only parameter a star has is its weight u: a star whose labels are
wrong by more than its errors say has a small one. The scatter of each label has a half-normal
prior, which is flat where it matters: a group without intrinsic scatter has a posterior that falls
from zero on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.model_error import NormalsLogLikelihood, correlation_factor

__all__ = [
    "GroupLabels",
    "build_group_model",
    "group_data",
]

_LKJ_ETA = 2.0
_WIDE = 10.0
"""Standard deviation of the prior of the mean, in units of the prior of the scatter."""


@dataclass(frozen=True, eq=False)
class GroupLabels:
    """What the spectra say of the labels of a group's stars, in any unit.

    Attributes
    ----------
    names : tuple of str
    star_id : (n_stars,) str
    center : (n_stars, n_labels) float64
    scale : (n_stars, n_labels, n_labels) float64
        Scale matrix of the Student t: its covariance times (nu - 2) / nu.
    nu : float
        Degrees of freedom.
    """

    names: tuple[str, ...]
    star_id: NDArray[np.str_]
    center: FloatArray
    scale: FloatArray
    nu: float


def group_data(data: GroupLabels) -> dict[str, Any]:
    """Values of the model's `pm.Data`, by name."""
    return {
        "center": np.asarray(data.center, dtype=np.float64),
        "scale": np.asarray(data.scale, dtype=np.float64),
        "half_nu": np.float64(0.5 * data.nu),
    }


def build_group_model(data: GroupLabels) -> pm.Model:
    """Build the model of a group whose labels are in units of the prior of their scatter.

    Variables: ``mean`` (label_name) ~ N(0, 10), ``sd`` (label_name), the intrinsic scatter,
    ~ half-normal of standard deviation 1, ``factor_diagonal`` (label_name) and ``factor_lower``
    (pair) of `correlation_factor`, and ``scaled_log_u`` (star), log u times sqrt(nu / 2). The data
    are the `pm.Data` of `group_data`, so that a compiled model serves every group of as many stars.

    Parameters
    ----------
    data
        Labels of the stars.
    """
    k = len(data.names)
    coords = {
        "label_name": list(data.names),
        "pair": np.arange(k * (k - 1) // 2),
        "star": np.arange(len(data.center)),
    }
    with pm.Model(coords=coords, check_bounds=False) as model:
        given: Any = {name: pm.Data(name, value) for name, value in group_data(data).items()}
        mean: Any = pm.Normal("mean", 0.0, _WIDE, dims="label_name")
        sd: Any = pm.HalfNormal("sd", 1.0, dims="label_name")
        freedom = 2 * _LKJ_ETA + k - 1 - np.arange(k)
        diagonal: Any = pm.Gamma("factor_diagonal", 0.5 * freedom, 0.5, dims="label_name")
        lower: Any = pm.Normal("factor_lower", 0.0, 1.0, dims="pair")
        # u ~ Gamma(nu/2, nu/2), sampled as log u in units of its spread.
        half = given["half_nu"]
        log_u = pm.Flat("scaled_log_u", dims="star") / pt.sqrt(half)
        pm.Potential("u_prior", half * pt.sum(log_u - pt.exp(log_u)))
        factor = sd[:, None] * correlation_factor(diagonal, lower, k)
        outputs: Any = NormalsLogLikelihood()(
            given["center"] - mean, pt.zeros_like(given["scale"]), given["scale"], -0.5 * log_u,
            pt.dot(factor, factor.T), pt.zeros_like(log_u),
        )  # fmt: skip
        pm.Potential("log_likelihood", outputs[0])
    return model
