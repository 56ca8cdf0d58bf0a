"""A smooth function of the labels at many draws, evaluated at some of them.

What a star's compressed likelihood leaves out is nearly a polynomial over its posterior. It is
evaluated at the draws by which a cubic is best determined, fitted there by least squares, and every
node is predicted from the others (leave-one-out, from the fit's leverages). Where that is not as
good as `_GOOD`, the remaining draws are evaluated too, and nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr, solve_triangular

from bayes_cannon.base.typing import FloatArray

__all__ = [
    "at_all_draws",
]

_GOOD, _SHARE = 0.01, 0.003
"""Root mean square of the leave-one-out residuals up to which the polynomial is taken, itself and
as a share of the values' standard deviation. Errors at the other draws are about a third of it."""
_SPARE = 0.25
"""Nodes beyond the coefficients, by which the fit is judged, as a share of them."""
_WORTH = 0.6
"""Share of the draws beyond which nodes are not worth the fit."""


def at_all_draws(function: Callable[[FloatArray], FloatArray], ell: FloatArray) -> FloatArray:
    """Values of a smooth function at draws, most of them by a cubic through the others.

    Parameters
    ----------
    function
        Of labels (m, n_labels): its values (m,), in units in which an error of 0.01 is small.
    ell
        Draws, shape (n_draws, n_labels).

    Returns
    -------
    (n_draws,) float64
        At the nodes the function's own values.
    """
    basis = _polynomial(ell)
    if basis is None:
        return function(ell)
    n_terms = basis.shape[1]
    nodes, others = _nodes(basis, n_terms + int(np.ceil(_SPARE * n_terms)))
    out = np.empty(len(ell))
    out[nodes] = function(ell[nodes])
    q, r = qr(basis[nodes], mode="economic", check_finite=False)
    coefficients = q.T @ out[nodes]
    left_out = (out[nodes] - q @ coefficients) / np.maximum(1 - np.sum(q**2, axis=1), 1e-9)
    if np.sqrt(np.mean(left_out**2)) <= max(_GOOD, _SHARE * float(np.std(out[nodes]))):
        out[others] = basis[others] @ solve_triangular(r, coefficients, check_finite=False)
    else:
        out[others] = function(ell[others])
    return out


def _polynomial(ell: FloatArray) -> FloatArray | None:
    """Monomials to the third degree of whitened draws; None where there are too few draws."""
    n, k = ell.shape
    powers = _powers(k)
    if (1 + _SPARE) * (1 + sum(len(p) for p in powers)) > _WORTH * n:
        return None
    offset = ell - ell.mean(axis=0)
    spread = offset.std(axis=0)
    if not np.all(spread > 0):
        return None
    q, r = qr(offset / spread, mode="economic", check_finite=False)
    if np.abs(np.diag(r)).min() < 1e-6 * np.abs(r[0, 0]):
        return None
    y = q * np.sqrt(n)
    parts = [np.ones((n, 1)), *(np.prod(y[:, p], axis=2) for p in powers)]
    return np.concatenate(parts, axis=1)


@lru_cache(maxsize=16)
def _powers(k: int) -> tuple[NDArray[np.intp], ...]:
    return tuple(np.array(list(combinations_with_replacement(range(k), d))) for d in (1, 2, 3))


def _nodes(basis: FloatArray, m: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draws that determine the polynomial best, and among the others those it is least sure of."""
    n_terms = basis.shape[1]
    r, order = qr(basis.T, mode="r", pivoting=True, check_finite=False)
    # Coefficients of the other draws in terms of the first ones: their squares are the leverage.
    share = solve_triangular(r[:, :n_terms], r[:, n_terms:], check_finite=False)
    far = n_terms + np.argsort(-np.sum(share**2, axis=0), kind="stable")
    order = order[np.concatenate([np.arange(n_terms), far])]
    return order[:m], order[m:]
