"""Draws of posteriors of which moments alone were kept: of the distributions that they describe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from bayes_cannon.base.packing import unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.posterior import moments_of
from bayes_cannon.inference.sampler import star_seed

__all__ = [
    "described_draws",
]


N_DRAWS = 2000
"""Draws of a star."""


def described_draws(group: xr.Dataset, names: Sequence[str]) -> FloatArray:
    """Draws of what the moments of stars describe, the same at every call.

    Of the calibrated posterior they are of its Student t, of the formal one of the normal
    distribution with its mean and covariance.

    Parameters
    ----------
    group
        ``posterior`` or ``calibrated_posterior`` of some stars, of which moments were kept.
    names
        Labels wanted.

    Returns
    -------
    (n_draws, n_stars, n_labels) float64
        NaN for a star without a posterior.
    """
    moments = moments_of(group, tuple(names))
    center, scale, nu = moments.mean, moments.cov, np.inf
    if "scale" in group:
        order = [group["label_name"].values.tolist().index(n) for n in names]
        center = group["center"].values[:, order].astype(np.float64)
        scale = unpack(group["scale"].values.astype(np.float64))[:, order][:, :, order]
        nu = float(group.attrs["nu"])
    draws = np.full((N_DRAWS, *center.shape), np.nan)
    for i in np.flatnonzero(np.isfinite(moments.mean).all(axis=1)):
        rng = np.random.default_rng(star_seed(0, str(group["star"].values[i])))
        values, vectors = np.linalg.eigh(scale[i])
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = rng.standard_normal((N_DRAWS, len(names)))
        stretch = np.ones(N_DRAWS) if np.isinf(nu) else np.sqrt(nu / rng.chisquare(nu, N_DRAWS))
        draws[:, i] = center[i] + stretch[:, None] * (normal @ root.T)
    return draws
