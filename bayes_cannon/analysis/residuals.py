"""Residuals of spectra of known labels from a model, in blocks of stars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.training.factors import star_factors
from bayes_cannon.training.pixels.fit import Design

__all__ = [
    "ResidualBlock",
    "checked_labels",
    "residual_blocks",
]

_BLOCK = 128
"""Stars per block: work arrays of 128 x 7514 pixels in float32 are 4 MB each."""


@dataclass(frozen=True, eq=False)
class ResidualBlock:
    """Residuals of a block of stars.

    Attributes
    ----------
    rows : slice
        Which stars.
    features : (n, n_terms) float64
    z_mean : (n, n_factors) float64
    z_cov : (n, n_factors, n_factors) float64
        Posterior of the factors given the labels.
    before, after : (n, n_pixels) float32
        Residuals without and with the factors taken out.
    ivar, weight : (n, n_pixels) float32
        Inverse variance (0 where the model has no usable pixel), and the same with the scatter.
    """

    rows: slice
    features: FloatArray
    z_mean: FloatArray
    z_cov: FloatArray
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    ivar: NDArray[np.float32]
    weight: NDArray[np.float32]


def residual_blocks(
    flux: NDArray[Any], ivar: NDArray[Any], labels: FloatArray, cannon: Cannon
) -> Iterator[ResidualBlock]:
    """Yield the residuals of all stars, block by block; arguments as `checked_labels` passes.

    Parameters
    ----------
    flux, ivar : (n_stars, n_pixels) float
        Normalised flux and inverse variance.
    labels : (n_stars, n_labels) float64
        In the units of the model, none missing.
    cannon
        The trained model.
    """
    mean = np.concatenate([cannon.theta, cannon.loadings], axis=1)
    mean[:, 0] -= 1  # coefficients of flux - 1
    theta, loading = cannon.theta.astype(np.float32), cannon.loadings.astype(np.float32)
    terms, j = cannon.known_terms, cannon.n_factors
    templates = None if terms is None else terms.templates(cannon.theta, cannon.used)
    s2 = (cannon.scatter**2).astype(np.float32)
    for a in range(0, flux.shape[0], _BLOCK):
        rows = slice(a, min(a + _BLOCK, flux.shape[0]))
        v = cannon.basis(labels[rows])
        part = np.where(cannon.used, ivar[rows], 0).astype(np.float32)
        design = Design.exact(v)
        if j or templates is not None:
            z = star_factors(
                flux[rows], part, design, mean, cannon.coef_cov, cannon.scatter, templates
            )
            z_mean, z_cov = z.mean[:, :j], z.cov[:, :j, :j]
        else:
            z_mean, z_cov = np.zeros((len(v), 0)), np.zeros((len(v), 0, 0))
        before = np.asarray(flux[rows], np.float32) - v.astype(np.float32) @ theta.T
        after = before - z_mean.astype(np.float32) @ loading.T
        if templates is not None:
            known = np.einsum("nt,ntp->np", z.mean[:, j:], templates.scaled(v), optimize=True)
            after -= known.astype(np.float32)
        yield ResidualBlock(rows, v, z_mean, z_cov, before, after, part, part / (1 + part * s2))


def checked_labels(
    flux: NDArray[Any], ivar: NDArray[Any], labels: FloatArray, cannon: Cannon
) -> FloatArray:
    """Return the labels as float64, of shape (n_stars, n_labels).

    Parameters
    ----------
    flux, ivar : (n_stars, n_pixels) float
        Normalised flux and inverse variance.
    labels : (n_stars, n_labels) float64
        In the units of the model.
    cannon
        The trained model.

    Raises
    ------
    InvalidDataError
        If flux, ivar (n_stars, n_pixels) and labels do not fit the model, or labels are missing.
    """
    values = np.asarray(labels, dtype=np.float64)
    shape = (len(values), cannon.n_pixels)
    if flux.shape != shape or ivar.shape != shape or values.shape[1:] != (len(cannon.names),):
        raise InvalidDataError(
            f"flux {flux.shape}, ivar {ivar.shape} and labels {values.shape} do not fit a model of "
            f"{cannon.n_pixels} pixels and {count_text(len(cannon.names), 'label')}."
        )
    missing = ~np.isfinite(values).all(axis=1)
    if missing.any():
        raise InvalidDataError(
            f"{missing.sum()} of {count_text(len(values), 'star')} (rows "
            f"{name_some(np.flatnonzero(missing))}) lack labels; leave them out."
        )
    return values
