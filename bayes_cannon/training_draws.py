"""Draws from the training model's priors in plain NumPy, apart from its definition in PyMC."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.training_priors import Hyperparameters, TrainingPriors

__all__ = ["draw_correlation", "draw_hyperparameters", "draw_pixels"]

FloatArray = NDArray[np.float64]


def draw_correlation(n: int, shape: float, rng: np.random.Generator) -> FloatArray:
    """Draw a correlation matrix from the LKJ distribution by its canonical partial correlations.

    Lewandowski, Kurowicka & Joe (2009), J. Multivar. Anal. 100, 1989: that of row i with column j
    is 2 Beta(b, b) - 1 with b = shape + (n - 2 - j) / 2.

    Parameters
    ----------
    n
        Rows.
    shape
        1: uniform over correlation matrices; larger ones are closer to the identity.
    rng
        Random numbers.
    """
    chol = np.eye(n)
    for i in range(1, n):
        left = 1.0
        for j in range(i):
            b = shape + 0.5 * (n - 2 - j)
            partial = 2 * rng.beta(b, b) - 1
            chol[i, j] = partial * np.sqrt(left)
            left *= 1 - partial**2
        chol[i, i] = np.sqrt(left)
    return np.asarray(chol @ chol.T)


def draw_hyperparameters(
    priors: TrainingPriors, n_terms: int, rng: np.random.Generator
) -> Hyperparameters:
    """Draw what the pixels share from its priors."""
    tau = np.abs(priors.coef_scale * rng.standard_normal(n_terms))
    correlation = draw_correlation(n_terms, priors.correlation_shape, rng)
    mu_s = rng.normal(priors.log_scatter_mean, priors.log_scatter_mean_sd)
    omega_s = abs(priors.log_scatter_spread * rng.standard_normal())
    return Hyperparameters(correlation * np.outer(tau, tau), float(mu_s), float(omega_s))


def draw_pixels(
    hyper: Hyperparameters, features: FloatArray, ivar: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Draw coefficients (n_pixels, n_terms), log scatters (n_pixels,) and fluxes like `ivar`."""
    n_pixels, n_terms = ivar.shape[1], features.shape[1]
    root = np.linalg.cholesky(hyper.covariance)
    theta = rng.standard_normal((n_pixels, n_terms)) @ root.T
    theta[:, 0] += 1
    log_s = hyper.mu_s + hyper.omega_s * rng.standard_normal(n_pixels)
    variance = 1 / np.where(ivar > 0, ivar, 1.0) + np.exp(2 * log_s)
    noise = np.sqrt(variance) * rng.standard_normal(ivar.shape)
    return theta, np.asarray(log_s), np.asarray(features @ theta.T + noise)
