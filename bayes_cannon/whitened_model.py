r"""The training model of a block of pixels in whitened coordinates, as a PyMC model.

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

from typing import Any

import numpy as np
import pymc as pm
import pytensor.tensor as pt
from numpy.typing import NDArray

from bayes_cannon.training_priors import Hyperparameters
from bayes_cannon.whitening import BENT_PARAMETERS, Whitening, bent_line, powers

__all__ = ["build_whitened_model", "set_block"]

AnyArray = NDArray[Any]
FloatArray = NDArray[np.float64]
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
    """Swap the data of a model of `build_whitened_model` for another block of as many pixels."""
    for name, value in _block_data(flux, ivar, whitening).items():
        model[name].set_value(value)
