"""How many nuisance factors: by the predictive density of spectra that the fit has not seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.factors import predictive_density
from bayes_cannon.map_fit import fit_map
from bayes_cannon.pixel_fit import Design
from bayes_cannon.training_priors import TrainingPriors

__all__ = ["FactorChoice", "choose_factors"]

FloatArray = NDArray[np.float64]
CANDIDATES = (0, 5, 10, 20, 30, 40)


@dataclass(frozen=True, eq=False)
class FactorChoice:
    """Result of `choose_factors`.

    Attributes
    ----------
    n_factors : int
        The number with the highest predictive density.
    grid : (n_tried,) int64
        Numbers tried, in order.
    predictive : (n_tried,) float64
        Mean log predictive density per held-out star.
    error : (n_tried,) float64
        Standard error of the difference from the best, star by star.
    """

    n_factors: int
    grid: NDArray[np.int64]
    predictive: FloatArray
    error: FloatArray


def choose_factors(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    labels: Design,
    *,
    candidates: Sequence[int] = CANDIDATES,
    free: NDArray[np.bool_] | None = None,
    priors: TrainingPriors | None = None,
    held_out: float = 0.25,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> FactorChoice:
    """Fit part of the stars with each number of factors and predict the spectra of the rest.

    The search goes up through `candidates` and ends once two in a row are no better than the
    best before. The smallest number within one standard error of the best is taken.

    Parameters
    ----------
    flux, ivar, labels, free, priors
        As for `fit_map`.
    candidates
        Rising numbers of factors; those above a sixth of the fitted stars are left out.
    held_out
        Fraction of the stars that is predicted.
    seed
        Of the split and of the fits.
    """
    n_stars = flux.shape[0]
    order = np.random.default_rng(seed).permutation(n_stars)
    n_test = max(1, round(held_out * n_stars))
    test, fit = np.sort(order[:n_test]), np.sort(order[n_test:])
    part = labels.rows(fit)
    rest = labels.rows(test)
    grid = [j for j in candidates if j <= len(fit) // 6] or [0]
    flux_fit, ivar_fit = flux[fit], ivar[fit]
    base, densities = None, []
    for i, j in enumerate(grid):
        if progress is not None:
            progress("choosing the number of factors", i / len(grid))
        found = fit_map(
            flux_fit, ivar_fit, part, n_factors=j, free=free, priors=priors, seed=seed,
            tolerance=5e-3, start=base,
        )  # fmt: skip
        base = found if base is None and j == 0 else base
        densities.append(
            predictive_density(flux[test], ivar[test], rest, found.mean, found.cov, found.scatter)
        )
        means = [float(d.mean()) for d in densities]
        if i - int(np.argmax(means)) >= 2:
            break
    best = int(np.argmax(means))
    stacked = np.array(densities)
    difference = stacked - stacked[best]
    error = difference.std(axis=1) / np.sqrt(max(n_test, 2) - 1)
    near = stacked.mean(axis=1) + error >= means[best]
    chosen = grid[int(np.flatnonzero(near)[0])]
    return FactorChoice(chosen, np.array(grid[: len(means)]), stacked.mean(axis=1), error)
