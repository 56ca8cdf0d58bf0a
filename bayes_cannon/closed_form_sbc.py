"""Calibration of the training model's closed forms: exact where they say so."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import chi2

from bayes_cannon.packing import unpack
from bayes_cannon.pixel_fit import Design, PixelFit, fit_pixels, log_marginal
from bayes_cannon.pixel_prior import PixelPrior
from bayes_cannon.training_draws import draw_pixels
from bayes_cannon.training_priors import Hyperparameters

__all__ = ["closed_form_pits"]

FloatArray = NDArray[np.float64]


def closed_form_pits(
    hyper: Hyperparameters, features: FloatArray, ivar: FloatArray, *, seed: int
) -> Mapping[str, FloatArray]:
    """Probabilities below the true values by the closed forms, hyperparameters known.

    Every pixel is a simulation of its own. What the closed forms claim exactly is that the
    coefficients are Gaussian given the scatter, and the marginal posterior of log s; that one
    is integrated on a grid. The Gaussian at its mode, ``log_s laplace``, and coefficients at the
    mode of the scatter, ``theta[k] at mode``, are approximations.

    Parameters
    ----------
    hyper
        Known hyperparameters.
    features
        Shape (n_stars, n_terms).
    ivar
        Shape (n_stars, n_pixels); 0: not used.
    seed
        Of the simulated pixels.

    Returns
    -------
    mapping of str to (n_pixels,) float64
        ``theta[k]`` for every term and ``theta joint`` (chi-square of the whole vector) given the
        true scatter; ``log_s``; and the approximations.
    """
    rng = np.random.default_rng(seed)
    theta, log_s, flux = draw_pixels(hyper, features, ivar, rng)
    design = Design.exact(features)
    prior = PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s)
    # One step without the last pass: what is returned was evaluated at the start, the true scatter.
    given = fit_pixels(flux, ivar, design, prior, log_s, max_steps=1, finish=False)
    fitted = fit_pixels(flux, ivar, design, prior, np.full(log_s.shape, hyper.mu_s))
    z, joint = _standardised(given, theta)
    pits = {f"theta[{k}]": ndtr(column) for k, column in enumerate(z.T)}
    pits["theta joint"] = chi2.cdf(joint, theta.shape[1])
    pits["log_s"] = _grid_pit(flux, ivar, design, prior, fitted, log_s)
    middle = fitted.log_scatter + fitted.skewness_shift
    pits["log_s laplace"] = ndtr((log_s - middle) / fitted.log_scatter_sd)
    at_mode = _standardised(fitted, theta)[0]
    return pits | {f"theta[{k}] at mode": ndtr(column) for k, column in enumerate(at_mode.T)}


def _standardised(fit: PixelFit, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Coefficients in posterior standard deviations, and their joint chi-square."""
    cov = unpack(np.asarray(fit.cov, dtype=np.float64))
    off = theta - fit.mean
    off[:, 0] -= 1  # the fit is one of flux - 1
    solved = np.linalg.solve(cov, off[:, :, None])[:, :, 0]
    sd = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    return off / sd, np.sum(off * solved, axis=1)


def _grid_pit(
    flux: FloatArray,
    ivar: FloatArray,
    design: Design,
    prior: PixelPrior,
    fit: PixelFit,
    log_s: FloatArray,
) -> FloatArray:
    """Part of the marginal posterior of log s below the true value, by the trapezium rule."""
    wide = 8 * prior.log_scatter_sd
    low = np.minimum(prior.log_scatter_mean - wide, log_s)
    high = np.maximum(prior.log_scatter_mean + wide, log_s)
    narrow = 8 * fit.log_scatter_sd
    low = np.maximum(low, np.minimum(fit.log_scatter - 3 * narrow, log_s - narrow))
    high = np.minimum(high, np.maximum(fit.log_scatter + narrow, log_s + narrow))
    below, above = np.linspace(low, log_s, 200), np.linspace(log_s, high, 200)
    grids = np.concatenate([below, above])
    density = np.stack([log_marginal(flux, ivar, design, prior, u) for u in grids])
    density = np.exp(density - density.max(axis=0))
    left, right = (
        np.trapezoid(density[part], grids[part], axis=0) for part in (slice(200), slice(200, None))
    )
    return np.asarray(left / (left + right))
