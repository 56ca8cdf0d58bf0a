r"""The two inner loops of the label model as PyTensor operations, with gradients.

The plain graph of the label model has dozens of small operations on vectors of 5 and 21 numbers,
each with its own overhead and its own share of the compilation. Fused, a log density with its
gradient takes about half the time (1 µs for five labels), and so does the compilation. `perform`
runs the same functions in plain Python; tests hold both against the plain graph.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytensor.tensor as pt
from numpy.typing import NDArray
from pytensor.gradient import DisconnectedType, disconnected_type
from pytensor.graph.basic import Apply
from pytensor.graph.op import Op
from pytensor.link.numba.dispatch.basic import numba_njit, register_funcify_default_op_cache_key

__all__ = [
    "CompressedLogLikelihood",
    "Unwhiten",
]


Node = Any
"""An application of an operation to inputs, of PyTensor's class `Apply`."""


def _unwhiten(
    y: NDArray[Any], lower: NDArray[Any], upper: NDArray[Any], coordinates: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    n = y.shape[0]
    x = np.empty(n)
    log_jac = 0.0
    for i in range(n):
        u = coordinates[i, 2]
        for j in range(i + 1):
            u += coordinates[i, 3 + j] * y[j]
        log_jac += np.log(coordinates[i, 3 + i])
        a, z = lower[i], upper[i]
        if np.isfinite(a) and np.isfinite(z):
            e = np.exp(-abs(u))
            share = 1.0 / (1.0 + e) if u > 0 else e / (1.0 + e)
            x[i] = a + (z - a) * share
            log_jac += np.log(z - a) - abs(u) - 2.0 * np.log1p(e)
        elif np.isfinite(a):
            x[i] = a + np.exp(u)
            log_jac += u
        elif np.isfinite(z):
            x[i] = z - np.exp(u)
            log_jac += u
        else:
            x[i] = u
    return x, np.asarray(log_jac)


def _unwhiten_pullback(
    y: NDArray[Any],
    lower: NDArray[Any],
    upper: NDArray[Any],
    coordinates: NDArray[Any],
    g_labels: NDArray[Any],
    g_log_jac: NDArray[Any],
) -> NDArray[Any]:
    n = y.shape[0]
    out = np.zeros(n)
    g = g_log_jac.item()
    for i in range(n):
        u = coordinates[i, 2]
        for j in range(i + 1):
            u += coordinates[i, 3 + j] * y[j]
        a, z = lower[i], upper[i]
        if np.isfinite(a) and np.isfinite(z):
            e = np.exp(-abs(u))
            slope = (1.0 - e) / (1.0 + e)
            d = g_labels[i] * (z - a) * e / (1.0 + e) ** 2 - g * (slope if u > 0 else -slope)
        elif np.isfinite(a):
            d = g_labels[i] * np.exp(u) + g
        elif np.isfinite(z):
            d = g - g_labels[i] * np.exp(u)
        else:
            d = g_labels[i]
        for j in range(i + 1):
            out[j] += coordinates[i, 3 + j] * d
    return out


def _log_likelihood(
    labels: NDArray[Any],
    A: NDArray[Any],
    b: NDArray[Any],
    coordinates: NDArray[Any],
    parent: NDArray[Any],
    factor: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any]]:
    n_labels, n_terms = labels.shape[0], parent.shape[0]
    ell = np.empty(n_labels)
    v = np.empty(n_terms)
    r = np.empty(n_terms)
    for i in range(n_labels):
        ell[i] = (labels[i] - coordinates[i, 0]) / coordinates[i, 1]
    v[0] = 1.0
    for t in range(1, n_terms):
        v[t] = v[parent[t]] * ell[factor[t]]
    value = 0.0
    for t in range(n_terms):
        s = 0.0
        for k in range(n_terms):
            s += A[t, k] * v[k]
        r[t] = b[t] - s
        value += v[t] * (b[t] - 0.5 * s)
    gradient = np.zeros(n_labels)
    for t in range(n_terms - 1, 0, -1):
        gradient[factor[t]] += r[t] * v[parent[t]]
        r[parent[t]] += r[t] * ell[factor[t]]
    for i in range(n_labels):
        gradient[i] /= coordinates[i, 1]
    return np.asarray(value), gradient


class _UnwhitenPullback(Op):
    """Vector-Jacobian product of `Unwhiten`."""

    __props__ = ()

    def make_node(self, *inputs: Any) -> Node:
        """Apply to inputs."""
        inputs = tuple(pt.as_tensor(v) for v in inputs)
        return Apply(self, list(inputs), [pt.dvector(shape=inputs[0].type.shape)])

    def perform(self, node: Node, inputs: Any, output_storage: Any) -> None:
        """Evaluate in plain Python."""
        output_storage[0][0] = _unwhiten_pullback(*inputs)


class Unwhiten(Op):
    """Labels and log-Jacobian of whitened unconstrained coordinates y.

    ``u = mean + chol y``; the labels follow from u by the bounds, see `priors`. Inputs: y, lower,
    upper (n_labels,) and coordinates (n_labels, 3 + n_labels) with columns center, scale, mean
    and the lower triangular chol. Outputs: labels (n_labels,) and the log of
    |d labels / d y|. Differentiable with respect to y alone.
    """

    __props__ = ()

    def make_node(self, *inputs: Any) -> Node:
        """Apply to inputs."""
        inputs = tuple(pt.as_tensor(v) for v in inputs)
        outputs = [pt.dvector(shape=inputs[0].type.shape), pt.dscalar()]
        return Apply(self, list(inputs), outputs)

    def perform(self, node: Node, inputs: Any, output_storage: Any) -> None:
        """Evaluate in plain Python."""
        output_storage[0][0], output_storage[1][0] = _unwhiten(*inputs)

    def connection_pattern(self, node: Node) -> list[list[bool]]:
        """Only the first input has gradients."""
        return [[True, True]] + [[False, False]] * 3

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Vector-Jacobian product."""
        g_labels, g_log_jac = cotangents
        if isinstance(g_labels.type, DisconnectedType):
            g_labels = pt.zeros_like(inputs[0])
        if isinstance(g_log_jac.type, DisconnectedType):
            g_log_jac = pt.as_tensor(0.0)
        rest = [disconnected_type() for _ in inputs[1:]]
        return [_UnwhitenPullback()(*inputs, g_labels, g_log_jac), *rest]


class CompressedLogLikelihood(Op):
    """Log likelihood b.v - v'A v / 2 of the labels and its gradient.

    Inputs: labels (n_labels,) in physical units, A (n_terms, n_terms), b (n_terms,),
    coordinates as for `Unwhiten`, and the recurrence of the features
    (`PolynomialBasis.recurrence`).
    Outputs: the value and its gradient with respect to the labels; only the value is
    differentiable, and with respect to the labels alone.
    """

    __props__ = ()

    def make_node(self, *inputs: Any) -> Node:
        """Apply to inputs."""
        inputs = tuple(pt.as_tensor(v) for v in inputs)
        outputs = [pt.dscalar(), pt.dvector(shape=inputs[0].type.shape)]
        return Apply(self, list(inputs), outputs)

    def perform(self, node: Node, inputs: Any, output_storage: Any) -> None:
        """Evaluate in plain Python."""
        output_storage[0][0], output_storage[1][0] = _log_likelihood(*inputs)

    def connection_pattern(self, node: Node) -> list[list[bool]]:
        """Only the first input has gradients."""
        return [[True, False]] + [[False, False]] * 5

    def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> list[Any]:
        """Vector-Jacobian product."""
        rest = [disconnected_type() for _ in inputs[1:]]
        return [cotangents[0] * outputs[1], *rest]


@register_funcify_default_op_cache_key(Unwhiten)  # type: ignore[untyped-decorator]
def _numba_unwhiten(op: Op, node: Node, **kwargs: Any) -> Any:
    return numba_njit(_unwhiten), 1


@register_funcify_default_op_cache_key(_UnwhitenPullback)  # type: ignore[untyped-decorator]
def _numba_unwhiten_pullback(op: Op, node: Node, **kwargs: Any) -> Any:
    return numba_njit(_unwhiten_pullback), 1


@register_funcify_default_op_cache_key(CompressedLogLikelihood)  # type: ignore[untyped-decorator]
def _numba_log_likelihood(op: Op, node: Node, **kwargs: Any) -> Any:
    return numba_njit(_log_likelihood), 1
