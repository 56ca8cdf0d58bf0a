r"""Coordinates in which the posterior of a pixel is close to N(0, I), from the closed form.

Given the scatter the coefficients are Normal(m(s), C(s)), and the marginal posterior of log s
is known on a grid (`pixel_fit.log_marginal`). With standard normal e and w,

    log s = g(e) ,    theta = m(e) + B (d(e) * w) .

``g`` rises monotonically and takes e to the marginal posterior of log s, which is far from
Gaussian where a pixel shows no excess scatter (a long tail to small s, a sharp end at large s).
``m(e)`` and ``log d(e)`` are cubics in tanh(e / 3) fitted to m(s) and C(s): coefficients move
and widen with s, as the stars' weights change. The columns of B diagonalise C at two values of s.
Without the dependence on e a mean-field fit makes log s too certain: by the factor
sqrt(1 - terms / stars) for equal stars, and by 15 % for 300 stars whose errors differ much.

All is a change of variables: where it fits the posterior less well nothing is lost but
independence.

The training model of a block of pixels in whitened coordinates, as a PyMC model.

Prior and likelihood are those of `training_model.build_training_model` with fixed
hyperparameters,

    theta[p] ~ MvNormal([1, 0, ...], T) ,    log_s[p] ~ Normal(mu_s, omega_s) ,
    flux[n,p] ~ Normal(theta[p].x[n], sqrt(err[n,p]**2 + s[p]**2)) ,

but the free variables are w and e of `whitening.Whitening`: flat, with the priors' densities and
the logarithm of the Jacobian added. All data may be swapped (`set_block`) for those of another
block of the same shape, so that one compiled function serves all blocks: the likelihood runs
over every star and pixel, and where ``ivar`` is 0 its terms are zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import ndtr

from bayes_cannon.base.packing import pack, unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.hyperparameters import Hyperparameters
from bayes_cannon.training.pixels.fit import Design, fit_pixels, log_marginal
from bayes_cannon.training.pixels.population import PixelPrior

__all__ = [
    "BENT_PARAMETERS",
    "Moments",
    "Whitening",
    "bent_line",
    "build_whitened_model",
    "powers",
    "set_block",
    "whiten",
]


BENT_PARAMETERS = ("offset", "log_left", "log_right", "log_sharpness", "bend")
"""Parameters of `bent_line`."""
_GRID = np.linspace(-9.0, 5.0, 36)
"""Nodes of log s around its mode, in units of the Laplace standard deviation."""
_E = np.linspace(-4.5, 4.5, 46)
"""Points at which the bent line is fitted to the quantiles."""
_E_FIT = np.linspace(-4.0, 4.0, 9)
"""Points at which m(e) and d(e) are fitted."""
_RIDGE = 1e-3
"""Holds the place and sharpness of the bend where there is none."""


@dataclass(frozen=True, eq=False)
class Moments:
    """First two moments of the coefficients and the log scatter of a block of pixels.

    Attributes
    ----------
    mean : (n_pixels, n_coef) float64
        Of the coefficients of flux - 1.
    cov : (n_pixels, n_coef (n_coef + 1) / 2) float64
        Packed.
    log_scatter, log_scatter_sd : (n_pixels,) float64
    """

    mean: FloatArray
    cov: FloatArray
    log_scatter: FloatArray
    log_scatter_sd: FloatArray


@dataclass(frozen=True, eq=False)
class Whitening:
    """The change of variables of a block of pixels.

    Attributes
    ----------
    line : (n_pixels, 5) float64
        Parameters of g, see `bent_line`.
    shift : (n_pixels, 4, n_coef) float64
        m(e), of the coefficients of flux - 1: factors of `powers`.
    stretch : (n_pixels, 4, n_coef) float64
        log d(e): factors of `powers`.
    basis : (n_pixels, n_coef, n_coef) float64
        B.
    log_det : (n_pixels,) float64
        log |det B|.
    free : (n_pixels, n_coef) float64
        1, or 0 where a coefficient is held at zero (its coordinate is then of no consequence, and
        standard normal).
    prior_root : (n_pixels, n_coef, n_coef) float64
        Lower triangular F with F'F = T^-1, the prior's precision; unit rows where held.
    """

    line: FloatArray
    shift: FloatArray
    stretch: FloatArray
    basis: FloatArray
    log_det: FloatArray
    free: FloatArray
    prior_root: FloatArray

    def moments(self, w: FloatArray, w_sd: FloatArray, e: FloatArray, e_sd: FloatArray) -> Moments:
        """Return the moments of coefficients and log s for independent normal w and e.

        `w` and `w_sd` have shape (n_pixels, n_coef), `e` and `e_sd` shape (n_pixels,).

        Parameters
        ----------
        w, w_sd
            Means and standard deviations of whitened coefficients, shape (n_pixels, n_coef).
        e, e_sd
            The same of the whitened log s, shape (n_pixels,).
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(24)
        weights = weights / weights.sum()
        at = e[:, None] + e_sd[:, None] * nodes
        u = bent_line(np, at, self.line)[0]
        log_s = u @ weights
        log_s_sd = np.sqrt(np.maximum((u - log_s[:, None]) ** 2 @ weights, 0.0))
        t = np.stack(powers(np, at), axis=-1)
        d = np.exp(np.matmul(t, self.stretch))
        center = np.matmul(t, self.shift)
        center += np.matmul(d * w[:, None, :], self.basis.transpose(0, 2, 1))
        mean = np.einsum("m,pmi->pi", weights, center)
        center -= mean[:, None, :]
        cov = np.matmul((center * weights[:, None]).transpose(0, 2, 1), center)
        scaled = self.basis * (w_sd * np.sqrt(np.einsum("m,pmi->pi", weights, d**2)))[:, None, :]
        cov += np.matmul(scaled, scaled.transpose(0, 2, 1))
        cov *= self.free[:, :, None] * self.free[:, None, :]
        return Moments(self.free * mean, pack(cov), log_s, log_s_sd)


def powers(xp: Any, e: Any) -> tuple[Any, Any, Any, Any]:
    """1, t, t**2 and t**3 with t = tanh(e / 3), bounded wherever e goes; `xp` as in `bent_line`."""
    t = xp.tanh(e / 3.0)
    return xp.ones_like(t), t, t * t, t * t * t


def bent_line(xp: Any, e: Any, line: Any) -> tuple[Any, Any]:
    """Two straight lines joined smoothly: g(e) and its slope.

    g(e) = offset + left e + (right - left) log(1 + exp(sharpness (e - bend))) / sharpness ,
    slope: `left` far below the bend and `right` far above it, both positive.

    Parameters
    ----------
    xp
        Where `exp`, `tanh` and `logaddexp` come from: `numpy` or `pytensor.tensor`.
    e
        Standard normal coordinate, shape (n_pixels,) or (n_pixels, m).
    line
        Offset, log of left slope, log of right slope, log of sharpness, bend; (n_pixels, 5).
    """
    column = (slice(None),) + (None,) * (e.ndim - 1)
    offset, left, right, sharpness, bend = (line[:, i][column] for i in range(5))
    left, right, sharpness = xp.exp(left), xp.exp(right), xp.exp(sharpness)
    x = sharpness * (e - bend)
    value = offset + left * e + (right - left) * xp.logaddexp(0.0, x) / sharpness
    slope = left + (right - left) * 0.5 * (1 + xp.tanh(0.5 * x))
    return value, slope


def whiten(
    flux: NDArray[Any], ivar: NDArray[Any], design: Design, prior: PixelPrior, start: FloatArray
) -> Whitening:
    """Find the coordinates of a block of pixels.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: not used), shape (n_stars, n_pixels).
    design
        Known features.
    prior
        Of these pixels.
    start
        First guess of log s, shape (n_pixels,).
    """
    r, ivar = np.asarray(flux, np.float64) - 1, np.asarray(ivar, np.float64)
    fit = fit_pixels(flux, ivar, design, prior, start)
    nodes = fit.log_scatter + fit.log_scatter_sd * _GRID[:, None]
    density = np.array([log_marginal(flux, ivar, design, prior, u) for u in nodes])
    line = fit_bent_line(_quantiles(nodes.T, density.T))
    free = np.ones(fit.mean.shape, dtype=bool) if prior.free is None else prior.free
    precision = np.broadcast_to(prior.precision, (*fit.mean.shape, design.n_coef))

    def given(e: float) -> tuple[FloatArray, FloatArray]:
        u = bent_line(np, np.full(len(line), e), line)[0]
        return _given_scatter(r, ivar, design, precision, free, u)

    chol = np.linalg.cholesky(given(0.0)[1])
    inverse = np.linalg.inv(chol)
    _, rotation = np.linalg.eigh(_congruent(inverse, given(1.5)[1]))
    basis = np.matmul(chol, rotation)
    unbasis = np.matmul(rotation.transpose(0, 2, 1), inverse)
    means, log_d = [], []
    for e in _E_FIT:
        mean, cov = given(e)
        means.append(mean)
        log_d.append(0.5 * np.log(np.einsum("pij,pij->pi", np.matmul(unbasis, cov), unbasis)))
    weight = np.exp(-(_E_FIT**2) / 4)[:, None]
    solve = np.linalg.pinv(np.stack(powers(np, _E_FIT), axis=1) * weight) * weight.T
    shift, stretch = (np.einsum("ke,epi->pki", solve, np.array(a)) for a in (means, log_d))
    log_det = np.sum(np.log(np.diagonal(chol, axis1=1, axis2=2)), axis=1)
    root = np.linalg.inv(np.linalg.cholesky(np.linalg.inv(precision)))
    return Whitening(line, shift, stretch, basis, log_det, free.astype(float), root)


def _congruent(a: FloatArray, b: FloatArray) -> FloatArray:
    """Products a b a' of matrices (n_pixels, n, n)."""
    product: FloatArray = np.matmul(np.matmul(a, b), a.transpose(0, 2, 1))
    return product


def _given_scatter(
    r: FloatArray,
    ivar: FloatArray,
    design: Design,
    precision: FloatArray,
    free: NDArray[np.bool_],
    u: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Mean and covariance of the coefficients given log s; unit variance where held at zero."""
    weight = ivar / (1 + ivar * np.exp(2 * u))
    a = unpack(weight.T @ design.second) * (free[:, :, None] & free[:, None, :]) + precision
    diagonal = np.arange(design.n_coef)
    d = 1 / np.sqrt(a[:, diagonal, diagonal])
    outer = d[:, :, None] * d[:, None, :]
    cov = np.linalg.inv(a * outer) * outer
    h = ((weight * r).T @ design.mean) * free
    return np.matmul(cov, h[:, :, None])[:, :, 0], cov


def _quantiles(nodes: FloatArray, log_density: FloatArray) -> FloatArray:
    """Values of log s, (n_pixels, len(_E)), at the probabilities of a standard normal at _E.

    `nodes` and `log_density` have shape (n_pixels, n_nodes), nodes equally spaced.
    """
    t, fine = np.linspace(0, 1, nodes.shape[1]), np.linspace(0, 1, 1001)
    density = np.exp(CubicSpline(t, log_density - log_density.max(1, keepdims=True), axis=1)(fine))
    total = np.cumsum(density, axis=1)
    cumulative = (total - 0.5 * density) / total[:, -1:]
    probability = ndtr(_E)
    place = np.array([np.interp(probability, row, fine) for row in cumulative])
    return nodes[:, :1] + place * (nodes[:, -1:] - nodes[:, :1])


def fit_bent_line(quantiles: FloatArray) -> FloatArray:
    """Least-squares fit of `bent_line` to quantiles (n_pixels, len(_E)), normal weights.

    Levenberg-Marquardt, all pixels side by side.
    """
    weight = np.exp(-(_E**2) / 4)
    middle = len(_E) // 2
    center = 0.5 * (quantiles[:, middle] + quantiles[:, middle - 1])[:, None]
    scale = np.sqrt(
        np.mean(((quantiles - center) * weight) ** 2, axis=1) / np.mean((weight * _E) ** 2)
    )
    y = (quantiles - center) / scale[:, None]
    x = np.zeros((len(y), 5))
    residual, jacobian = _bent_residual(x, y, weight)
    cost, damping = np.sum(residual**2, axis=1), np.full(len(y), 1e-2)
    diagonal = np.arange(5)
    for _ in range(40):
        normal = np.matmul(jacobian.transpose(0, 2, 1), jacobian)
        normal[:, diagonal, diagonal] *= 1 + damping[:, None]
        gradient = np.einsum("pei,pe->pi", jacobian, residual)
        step = np.linalg.solve(normal, gradient[:, :, None])[:, :, 0]
        new = x - np.clip(step, -1.0, 1.0)
        new_residual, new_jacobian = _bent_residual(new, y, weight)
        new_cost = np.sum(new_residual**2, axis=1)
        better = new_cost < cost
        damping = np.clip(np.where(better, 0.3 * damping, 4 * damping), 1e-8, 1e8)
        x[better], cost[better] = new[better], new_cost[better]
        residual[better], jacobian[better] = new_residual[better], new_jacobian[better]
    x[:, 0] = center[:, 0] + scale * x[:, 0]
    x[:, 1:3] += np.log(scale)[:, None]
    return x


def _bent_residual(
    x: FloatArray, y: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Weighted residuals and their Jacobian, with two ridge rows."""
    e = np.broadcast_to(_E, y.shape)
    value, _ = bent_line(np, e, x)
    left, right, sharpness = np.exp(x[:, 1:4]).T[:, :, None]
    a = sharpness * (e - x[:, 4:])
    soft, rise = np.logaddexp(0.0, a) / sharpness, 0.5 * (1 + np.tanh(0.5 * a))
    columns = [
        np.ones_like(e),
        left * (e - soft),
        right * soft,
        (right - left) * (rise * (e - x[:, 4:]) - soft),
        -(right - left) * rise,
    ]
    residual = np.concatenate([(value - y) * weight, _RIDGE * x[:, 3:]], axis=1)
    jacobian = np.stack(columns, axis=-1) * weight[:, None]
    ridge = np.zeros((len(x), 2, 5))
    ridge[:, 0, 3] = ridge[:, 1, 4] = _RIDGE
    return residual, np.concatenate([jacobian, ridge], axis=1)


_LOG_2PI = float(np.log(2 * np.pi))


def _block_data(
    flux: NDArray[Any], ivar: NDArray[Any], whitening: Whitening
) -> dict[str, FloatArray]:
    """Data of a block of pixels by name."""
    ivar = np.asarray(ivar, dtype=np.float64)
    good = ivar > 0
    norm = 0.5 * np.sum(np.log(ivar, where=good, out=np.zeros_like(ivar)) - _LOG_2PI * good, axis=0)
    return {
        "flux": np.asarray(flux, dtype=np.float64) * good,
        "ivar": ivar,
        "log_norm": norm,
        "line": whitening.line,
        "shift": whitening.shift,
        "stretch": whitening.stretch,
        "basis": whitening.basis,
        "log_det": whitening.log_det,
        "free": whitening.free,
        "prior_root": whitening.prior_root,
        "prior_log_root": np.log(np.diagonal(whitening.prior_root, axis1=1, axis2=2)).sum(axis=1),
    }


_DIMS = {
    "flux": ("star", "pixel"),
    "ivar": ("star", "pixel"),
    "log_norm": ("pixel",),
    "line": ("pixel", "bent_parameter"),
    "shift": ("pixel", "power", "term"),
    "stretch": ("pixel", "power", "white"),
    "basis": ("pixel", "term", "white"),
    "log_det": ("pixel",),
    "free": ("pixel", "term"),
    "prior_root": ("pixel", "white", "term"),
    "prior_log_root": ("pixel",),
}


def build_whitened_model(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    features: FloatArray,
    hyper: Hyperparameters,
    whitening: Whitening,
) -> pm.Model:
    """Build the training model of a block of pixels in the coordinates of `whitening`.

    Free variables are ``w`` (pixel, white) and ``e`` (pixel); ``theta`` and ``log_s`` follow from
    them and are those of `build_training_model`.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: not used), shape (n_stars, n_pixels).
    features
        Known design of the stars, shape (n_stars, n_coef): v(ell), then factors if there are any.
    hyper
        Fixed hyperparameters.
    whitening
        Of these pixels.
    """
    n_stars, n_pixels = flux.shape
    terms = np.arange(features.shape[1])
    coords = {
        "star": np.arange(n_stars),
        "pixel": np.arange(n_pixels),
        "term": terms,
        "white": terms,
        "power": np.arange(whitening.shift.shape[1]),
        "bent_parameter": list(BENT_PARAMETERS),
    }
    first = (terms == 0).astype(np.float64)
    with pm.Model(coords=coords) as model:
        x = pm.Data("features", np.asarray(features, np.float64), dims=("star", "term"))
        data = {
            name: pm.Data(name, value, dims=_DIMS[name])
            for name, value in _block_data(flux, ivar, whitening).items()
        }
        w = pm.Flat("w", dims=("pixel", "white"))
        e = pm.Flat("e", dims="pixel")
        value, slope = bent_line(pt, e, data["line"])
        log_s = pm.Deterministic("log_s", value, dims="pixel")
        t = powers(pt, e)
        log_d = sum(data["stretch"][:, i] * t[i][:, None] for i in range(len(t)))
        deviation = sum(data["shift"][:, i] * t[i][:, None] for i in range(len(t)))
        deviation += pt.sum(data["basis"] * (pt.exp(log_d) * w)[:, None, :], axis=-1)
        theta = pm.Deterministic("theta", first + deviation, dims=("pixel", "term"))

        scaled = pt.sum(data["prior_root"] * deviation[:, None, :], axis=-1)
        prior_theta = pt.sum(data["prior_log_root"]) - 0.5 * pt.sum(scaled**2 + _LOG_2PI)
        prior_s = pm.logp(pm.Normal.dist(hyper.mu_s, hyper.omega_s), log_s)
        pm.Potential("prior", prior_theta + pt.sum(prior_s))
        pm.Potential("jacobian", pt.sum(data["log_det"] + pt.log(slope)) + pt.sum(log_d))
        s2 = pt.exp(2 * log_s)
        residual = data["flux"] - x @ (data["free"] * theta).T
        widening = 1 + data["ivar"] * s2
        loss = pt.log(widening) + data["ivar"] * residual**2 / widening
        pm.Potential("likelihood", pt.sum(data["log_norm"]) - 0.5 * pt.sum(loss))
    return model


def set_block(
    model: pm.Model, flux: NDArray[Any], ivar: NDArray[Any], whitening: Whitening
) -> None:
    """Swap the data of a model of `build_whitened_model` for another block of as many pixels.

    Parameters
    ----------
    model
        Of `build_whitened_model`.
    flux, ivar
        Of the block, shape (n_stars, n_pixels).
    whitening
        Of the block.
    """
    for name, value in _block_data(flux, ivar, whitening).items():
        model[name].set_value(value)
