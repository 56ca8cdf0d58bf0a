"""The same fit one pixel at a time with SciPy, as it is usually done: the yardstick of training.

No pixel knows of another: no shrinkage of the coefficients, no population of scatters.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize_scalar

GRID = np.concatenate([[0.0], np.geomspace(1e-4, 0.3, 14)])
"""Scatters tried by `fit_on_grid`."""


def _solve(x, flux, variance):
    """Weighted least squares in closed form; coefficients and minus twice the log likelihood."""
    weighted = x / variance[:, None]
    try:
        coef = cho_solve(cho_factor(weighted.T @ x), weighted.T @ flux)
    except LinAlgError:
        return np.full(x.shape[1], np.nan), np.inf
    residual = flux - x @ coef
    return coef, np.sum(residual**2 / variance) + np.sum(np.log(variance))


def fit_by_optimizer(x, flux, ivar):
    """Profile likelihood of log s**2, closed-form solve inside, SciPy's bounded search outside."""
    good = ivar > 0
    x, flux, variance = x[good], flux[good].astype(float), 1 / ivar[good].astype(float)
    found = minimize_scalar(
        lambda u: _solve(x, flux, variance + np.exp(u))[1], bounds=(-25.0, 0.0), method="bounded"
    )
    return _solve(x, flux, variance + np.exp(found.x))[0], np.exp(0.5 * found.x)


def fit_on_grid(x, flux, ivar):
    """Weighted least squares at each of 15 scatters, the best of them kept (Ness et al. 2015)."""
    good = ivar > 0
    x, flux, variance = x[good], flux[good].astype(float), 1 / ivar[good].astype(float)
    tried = [(*_solve(x, flux, variance + s**2), s) for s in GRID]
    coef, _, scatter = min(tried, key=lambda t: t[1])
    return coef, scatter
