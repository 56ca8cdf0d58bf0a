"""How many nuisance factors: by the predictive density of spectra that the fit has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.engines.shared import Shared, sharing
from bayes_cannon.base.parallel import as_executor, in_order, one_blas_thread
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.hyperparameters import TrainingPriors
from bayes_cannon.training.factors import predictive_density
from bayes_cannon.training.map_fit import MapFit, fit_map
from bayes_cannon.training.pixels.columns import SomeStars
from bayes_cannon.training.pixels.fit import Design

__all__ = [
    "FactorChoice",
    "choose_factors",
]

CANDIDATES = (0, 5, 10, 20, 30, 40, 60, 80, 120, 160, 240)
_STARS_PER_FACTOR = 3
"""Fitted stars per factor, at least. That more factors are of use, the held-out stars have to say:
of 750 fitted stars with Gaia XP spectra 40 to 60 were best."""
_FEW = 10
"""Up to this number of factors one more step may be worse than none, and the next one better."""
_REACH = 5.0
"""Differences between two fits are cut at so many robust standard deviations: a few odd stars must
not hide what all the others say."""


@dataclass(frozen=True, eq=False)
class FactorChoice:
    """Result of `factor_choice`.

    Attributes
    ----------
    n_factors : int
        The number with the highest predictive density.
    grid : (n_tried,) int64
        Numbers tried, in order.
    predictive : (n_tried,) float64
        Mean log predictive density per held-out star.  That of a number is the best one's plus the
        mean difference of the two star by star, in which those of odd stars are cut.
    error : (n_tried,) float64
        Standard error of the difference from the best, star by star.
    rising : bool
        Whether the search came to the end of its grid, or to as many factors as the stars allow,
        while the density was still rising.
    """

    n_factors: int
    grid: NDArray[np.int64]
    predictive: FloatArray
    error: FloatArray
    rising: bool
    seed: int


def choose_factors(
    flux: Any,
    ivar: Any,
    labels: Design,
    *,
    candidates: Sequence[int] = CANDIDATES,
    most: int | None = None,
    free: NDArray[np.bool_] | None = None,
    priors: TrainingPriors | None = None,
    held_out: float = 0.25,
    seed: int | None = None,
    executor: Executor | None = None,
    progress: Progress = None,
) -> FactorChoice:
    """Fit part of the stars with each number of factors and predict the spectra of the rest.

    The search goes up through `candidates` until the density rises no more, by a standard error of
    the difference star by star (up to ten factors, twice in a row). The smallest number within one
    standard error of the best is taken.

    Parameters
    ----------
    flux, ivar, labels, free, priors
        As for `fit_map`.
    candidates
        Rising numbers of factors; those above a third of the fitted stars are left out.
    most
        Largest number that may be chosen.
    held_out
        Fraction of the stars that is predicted.
    seed
        Of the split and of the fits; None takes a fresh one, which the result holds.
    executor
        Tries several numbers side by side, more of them than it turns out to need; the result is
        the same to the last bit.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.
    """
    executor = as_executor(executor)
    seed, n_stars = as_seed(seed), flux.shape[0]
    order = np.random.default_rng(seed).permutation(n_stars)
    n_test = max(1, round(held_out * n_stars))
    test, fit = np.sort(order[:n_test]), np.sort(order[n_test:])
    part = labels.rows(fit)
    rest = labels.rows(test)
    limit = min(len(fit) // _STARS_PER_FACTOR, len(fit) if most is None else most)
    grid = [j for j in candidates if j <= limit] or [0]
    split = _Split(
        SomeStars(flux, fit), SomeStars(ivar, fit), part, flux[test], ivar[test], rest, free,
        priors, seed,
    )  # fmt: skip
    densities = list[FloatArray]()
    best, worse = 0, 0
    with as_progress(progress) as tell:
        tell(0, len(grid), "choosing the number of factors")
        base = None
        if grid[0] == 0:
            base, density = _try(split, 0, None)
            densities.append(density)
        with sharing(executor, (split, base)) as shared:
            tasks = (_Try(shared, j) for j in grid[len(densities) :])
            found = in_order(
                executor, _try_shared, tasks, ahead=1, named=lambda task: f"{task.n} factors"
            )  # fmt: skip
            for i, density in enumerate(found, len(densities)):
                tell(i, len(grid), "choosing the number of factors")
                densities.append(density)
                gain, error = _difference(density, densities[best])
                worse = 0 if i == 0 or gain > error else worse + 1
                best = i if gain > 0 else best
                if worse >= (2 if grid[i] <= _FEW else 1):
                    break
        differences = np.array([_difference(d, densities[best]) for d in densities])
        predictive = densities[best].mean() + differences[:, 0]
        near = differences[:, 0] + differences[:, 1] >= 0
        chosen = grid[int(np.flatnonzero(near)[0])]
        rising = worse == 0 and len(grid) > 1
    return FactorChoice(
        chosen, np.array(grid[: len(densities)]), predictive, differences[:, 1], rising, seed
    )


@dataclass(frozen=True, eq=False)
class _Split:
    """Stars that are fitted, and stars that are predicted."""

    flux: SomeStars
    ivar: SomeStars
    labels: Design
    test_flux: NDArray[Any]
    test_ivar: NDArray[Any]
    test_labels: Design
    free: NDArray[np.bool_] | None
    priors: TrainingPriors | None
    seed: int


@dataclass(frozen=True, eq=False)
class _Try:
    """What an executor is sent to try a number of factors."""

    shared: Shared[tuple[_Split, MapFit | None]]
    n: int


def _try_shared(task: _Try) -> FloatArray:
    split, base = task.shared.value
    return _try(split, task.n, base)[1]


def _try(split: _Split, n: int, base: MapFit | None) -> tuple[MapFit, FloatArray]:
    """Fit with `n` factors; log predictive densities of the other stars.

    Linear algebra has one thread, whoever else works beside it: its last digits depend on that.
    """
    with one_blas_thread():
        found = fit_map(
            split.flux, split.ivar, split.labels, n_factors=n, free=split.free,
            priors=split.priors, seed=split.seed, tolerance=5e-3, start=base,
        )  # fmt: skip
        fitted = found.mean, found.cov, found.scatter
        return found, predictive_density(
            split.test_flux, split.test_ivar, split.test_labels, *fitted
        )


def _difference(one: FloatArray, other: FloatArray) -> tuple[float, float]:
    """Mean difference of two densities star by star, and its standard error.

    Differences of odd stars are cut at five robust standard deviations from the median.
    """
    difference = one - other
    middle = np.median(difference)
    reach = _REACH * median_abs_deviation(difference, scale="normal")
    if reach > 0:
        difference = np.clip(difference, middle - reach, middle + reach)
    return float(difference.mean()), float(difference.std() / np.sqrt(max(one.size, 2) - 1))
