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
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.model_error import covariance_factor, invert_covariance

__all__ = [
    "GroupLabels",
    "SumOfCovariances",
    "build_group_model",
    "group_data",
]

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
    """Values of the model's `pm.Data`, by name.

    Parameters
    ----------
    data
        Labels of the stars of a group.
    """
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
        factor = covariance_factor(k)
        # u ~ Gamma(nu/2, nu/2), sampled as log u in units of its spread.
        half = given["half_nu"]
        log_u = pm.Flat("scaled_log_u", dims="star") / pt.sqrt(half)
        pm.Potential("u_prior", half * pt.sum(log_u - pt.exp(log_u)))
        outputs: Any = SumOfCovariances()(
            given["center"] - mean, given["scale"], log_u, pt.dot(factor, factor.T)
        )
        pm.Potential("log_likelihood", outputs[0])
    return model


def _log_likelihood(
    r: FloatArray, scale: FloatArray, log_u: FloatArray, common: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Value, and gradients in r, log_u and the common covariance."""
    n, k = r.shape
    value = -0.5 * n * k * np.log(2.0 * np.pi)
    g_r, g_common, g_u = np.empty((n, k)), np.zeros((k, k)), np.empty(n)
    m, low, inverse = np.empty((k, k)), np.empty((k, k)), np.empty((k, k))
    for star in range(n):
        a = np.exp(-log_u[star])
        for i in range(k):
            for j in range(i + 1):
                m[i, j] = common[i, j] + a * scale[star, i, j]
        value -= 0.5 * invert_covariance(m, low, inverse)
        for i in range(k):
            s = 0.0
            for j in range(k):
                s -= inverse[i, j] * r[star, j]
            g_r[star, i] = s
            value += 0.5 * s * r[star, i]
        trace = 0.0
        for i in range(k):
            for j in range(k):
                g = 0.5 * (g_r[star, i] * g_r[star, j] - inverse[i, j])
                g_common[i, j] += g
                trace += a * g * scale[star, i, j]
        g_u[star] = -trace
    return np.asarray(value), g_r, g_u, g_common


class SumOfCovariances(Op):
    """Sum of log N(r[n]; 0, C + S[n] / u[n]), with its gradients, in one loop over the stars.

    Inputs: r (n_stars, n_labels), S (n_stars, n_labels, n_labels), log u (n_stars,) and C
    (n_labels, n_labels). Outputs: the value, and its gradients with respect to r, log u and C; only
    the value is differentiable, and not with respect to S. NaN where a covariance is not positive
    definite.
    """

    __props__ = ()

    def make_node(self, *inputs: Any) -> Any:
        """Apply to inputs."""
        given = [pt.as_tensor(v) for v in inputs]
        shapes = [(), *(given[i].type.shape for i in (0, 2, 3))]
        return Apply(self, given, [pt.tensor(dtype="float64", shape=shape) for shape in shapes])

    def perform(self, node: Any, inputs: Any, output_storage: Any) -> None:
        """Evaluate in plain Python."""
        for storage, value in zip(output_storage, _log_likelihood(*inputs), strict=True):
            storage[0] = value

    def connection_pattern(self, node: Any) -> list[list[bool]]:
        """The value depends, differentiably, on all but S."""
        return [[here, *[False] * 3] for here in (True, False, True, True)]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Vector-Jacobian product."""
        g, (_, g_r, g_u, g_common) = cotangents[0], outputs
        return [g * g_r, disconnected_type(), g * g_u, g * g_common]


@register_funcify_default_op_cache_key(SumOfCovariances)  # type: ignore[untyped-decorator]
def _numba_log_likelihood(op: Op, node: Any, **kwargs: Any) -> Any:
    return numba_njit(_log_likelihood), 1
