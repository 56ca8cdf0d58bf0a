r"""Log likelihood of many small normals with star-by-star covariances, as one operation.

    log p = sum over stars of log N(r[n]; 0, exp(2 log_scale[n]) Sigma + V[n])

The factorisations of hundreds of small matrices and their gradient in one loop, with nothing
allocated per star. `perform` runs the same function in plain Python; tests hold it against SciPy
and finite differences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from numba.extending import register_jitable
from numpy.typing import NDArray
from pytensor.gradient import disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key

__all__ = ["NormalsLogLikelihood"]

FloatArray = NDArray[np.float64]
Node = Any
"""An application of an operation to inputs, of PyTensor's class `Apply`."""


@register_jitable
def _invert(m: FloatArray, low: FloatArray, out: FloatArray) -> float:
    """Write the inverse of m (its lower triangle is read) to `out`; returns its log-determinant.

    `low` is room for the factor.
    """
    k = m.shape[0]
    log_det = 0.0
    for i in range(k):
        for j in range(i + 1):
            s = m[i, j]
            for h in range(j):
                s -= low[i, h] * low[j, h]
            if i > j:
                low[i, j] = s / low[j, j]
            else:
                low[i, i] = np.sqrt(s) if s > 0.0 else np.nan
                log_det += 2.0 * np.log(low[i, i])
    # Row by row, the inverse of the factor: row i of `low` becomes row i of its inverse.
    for i in range(k):
        diagonal = 1.0 / low[i, i]
        for j in range(i):
            s = 0.0
            for h in range(j, i):
                s += low[i, h] * low[h, j]
            out[i, j] = -s * diagonal
        for j in range(i):
            low[i, j] = out[i, j]
        low[i, i] = diagonal
    for i in range(k):
        for j in range(i + 1):
            s = 0.0
            for h in range(i, k):
                s += low[h, i] * low[h, j]
            out[i, j] = s
            out[j, i] = s
    return log_det


def _log_likelihood(
    r: FloatArray, V: FloatArray, sigma: FloatArray, log_scale: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Value, and gradients in r, sigma and log_scale."""
    n, k = r.shape
    value = -0.5 * n * k * np.log(2.0 * np.pi)
    g_r, g_sigma, g_scale = np.empty((n, k)), np.zeros((k, k)), np.empty(n)
    m, low, inverse = np.empty((k, k)), np.empty((k, k)), np.empty((k, k))
    for star in range(n):
        c = np.exp(2.0 * log_scale[star])
        for i in range(k):
            for j in range(i + 1):
                m[i, j] = c * sigma[i, j] + V[star, i, j]
        value -= 0.5 * _invert(m, low, inverse)
        for i in range(k):
            s = 0.0
            for j in range(k):
                s -= inverse[i, j] * r[star, j]
            g_r[star, i] = s
            value += 0.5 * s * r[star, i]
        trace = 0.0
        for i in range(k):
            for j in range(k):
                g = 0.5 * c * (g_r[star, i] * g_r[star, j] - inverse[i, j])
                g_sigma[i, j] += g
                trace += g * sigma[i, j]
        g_scale[star] = 2.0 * trace
    return np.asarray(value), g_r, g_sigma, g_scale


class NormalsLogLikelihood(Op):
    """Sum of log N(r[n]; 0, exp(2 log_scale[n]) Sigma + V[n]) over stars.

    Inputs: r (n_stars, n_labels), V (n_stars, n_labels, n_labels), Sigma (n_labels, n_labels)
    and log_scale (n_stars,). Outputs: the value, and its gradients with respect to r, Sigma and
    log_scale; only the value is differentiable, and not with respect to V. NaN where a covariance
    is not positive definite.
    """

    __props__ = ()

    def make_node(self, *inputs: Any) -> Node:
        """Apply to inputs."""
        r, V, sigma, log_scale = (pt.as_tensor(v) for v in inputs)
        shapes = [(), r.type.shape, sigma.type.shape, log_scale.type.shape]
        outputs = [pt.tensor(dtype="float64", shape=shape) for shape in shapes]
        return Apply(self, [r, V, sigma, log_scale], outputs)

    def perform(self, node: Node, inputs: Any, output_storage: Any) -> None:
        """Evaluate in plain Python."""
        for storage, value in zip(output_storage, _log_likelihood(*inputs), strict=True):
            storage[0] = value

    def connection_pattern(self, node: Node) -> list[list[bool]]:
        """The value depends, differentiably, on all but V."""
        return [[here, False, False, False] for here in (True, False, True, True)]

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Vector-Jacobian product."""
        g, (_, g_r, g_sigma, g_scale) = cotangents[0], outputs
        return [g * g_r, disconnected_type(), g * g_sigma, g * g_scale]


@register_funcify_default_op_cache_key(NormalsLogLikelihood)  # type: ignore[untyped-decorator]
def _numba_log_likelihood(op: Op, node: Node, **kwargs: Any) -> Any:
    return numba_njit(_log_likelihood), 1
