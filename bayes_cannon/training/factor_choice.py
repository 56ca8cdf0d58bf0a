"""How many nuisance factors: by the predictive density of spectra that the fit has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.engines.shared import Shared, sharing
from bayes_cannon.base.packing import pack_outer, packed_weights, unpack
from bayes_cannon.base.parallel import as_executor, in_order, one_blas_thread
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.models.hyperparameters import TrainingPriors
from bayes_cannon.spectra.distortions import KnownTerms, Templates
from bayes_cannon.training.factors import StarFactors, join_design
from bayes_cannon.training.map_fit import MapFit, fit_map
from bayes_cannon.training.pixels.amplitudes import KnownPart, stars_at_a_time
from bayes_cannon.training.pixels.columns import SomeStars
from bayes_cannon.training.pixels.fit import Design

__all__ = [
    "FactorChoice",
    "TermChoice",
    "choose_factors",
    "choose_terms",
    "predictive_density",
]

CANDIDATES = (0, 5, 10, 20, 30, 40, 60, 80, 120, 160, 240)
TERMS_TRIED = ("shift",)
"""Known terms that may be chosen: the others gain density on some surveys, and no accuracy."""
_STARS_PER_FACTOR = 3
"""Fitted stars per factor, at least. That more factors are of use, the held-out stars have to say:
of 750 fitted stars with Gaia XP spectra 40 to 60 were best."""
_FEW = 10
"""Up to this number of factors one more step may be worse than none, and the next one better."""
_BLOCK = 256
"""Stars at a time."""
_CLEAR = 2.0
"""Standard errors by which a known term has to raise the density."""
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
    seed : int
        Of the split and of the fits.
    density : (n_held_out,) float64
        Log predictive density of each held-out star with the chosen number.
    base : MapFit or None
        Fit of the other stars without factors.
    """

    n_factors: int
    grid: NDArray[np.int64]
    predictive: FloatArray
    error: FloatArray
    rising: bool
    seed: int
    density: FloatArray
    base: MapFit | None


@dataclass(frozen=True, eq=False)
class TermChoice:
    """Result of `choose_terms`.

    Attributes
    ----------
    names : tuple of str
        Known terms that are kept.
    tried : tuple of str
        In order.
    gain, error : (n_tried,) float64
        What each of them added to the mean log predictive density per held-out star, beside those
        kept before it, and its standard error.
    """

    names: tuple[str, ...]
    tried: tuple[str, ...]
    gain: FloatArray
    error: FloatArray


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
    executor, seed = as_executor(executor), as_seed(seed)
    test, fit = _split(flux.shape[0], held_out, seed)
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
            found = in_order(executor, _try_shared, tasks, ahead=1, named=_Try.name)
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
        chosen, np.array(grid[: len(densities)]), predictive, differences[:, 1], rising, seed,
        densities[grid.index(chosen)], base,
    )  # fmt: skip


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

    def name(self) -> str:
        return count_text(self.n, "factor")


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


def _split(n_stars: int, held_out: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Stars that are predicted, and those that are fitted."""
    order = np.random.default_rng(seed).permutation(n_stars)
    n_test = max(1, round(held_out * n_stars))
    return np.sort(order[:n_test]), np.sort(order[n_test:])


def choose_terms(
    flux: Any,
    ivar: Any,
    labels: Design,
    terms: KnownTerms,
    *,
    n_factors: int,
    free: NDArray[np.bool_] | None = None,
    priors: TrainingPriors | None = None,
    held_out: float = 0.25,
    seed: int | None = None,
    beside: FactorChoice | None = None,
    progress: Progress = None,
) -> TermChoice:
    """Keep those known terms by which the spectra of stars left out become more probable.

    One after the other is added to those that are kept, and stays where the predictive density
    rises by more than two standard errors of the difference star by star.

    Parameters
    ----------
    flux, ivar, labels, free, priors
        As for `fit_map`.
    terms
        All that may be kept, in the order in which they are tried.
    n_factors
        Beside them.
    held_out, seed, progress
        As for `choose_factors`, whose split it is with the same seed.
    beside
        What that found with these data and this seed, which spares its fits.
    """
    seed = as_seed(seed)
    test, fit = _split(flux.shape[0], held_out, seed)
    part, rest = labels.rows(fit), labels.rows(test)
    flux_fit, ivar_fit = SomeStars(flux, fit), SomeStars(ivar, fit)
    base = None if beside is None else beside.base
    if base is None:
        base = fit_map(flux_fit, ivar_fit, part, free=free, priors=priors, seed=seed)

    def density(names: tuple[str, ...]) -> FloatArray:
        found = fit_map(
            flux_fit, ivar_fit, part, n_factors=n_factors, free=free, priors=priors, seed=seed,
            tolerance=5e-3, start=base if n_factors else None,
            terms=terms.named(names) if names else None,
        )  # fmt: skip
        templates = found.templates(part.n_coef)
        fitted = found.mean, found.cov, found.scatter, templates
        return predictive_density(flux[test], ivar[test], rest, *fitted)

    kept, gains = tuple[str, ...](), list[tuple[float, float]]()
    with as_progress(progress) as tell:
        tell(0, len(terms.names) + 1, "choosing known terms")
        if beside is not None and beside.n_factors == n_factors:
            best = beside.density
        else:
            best = density(kept)
        for i, name in enumerate(terms.names, 1):
            tell(i, len(terms.names) + 1, "choosing known terms")
            new = density((*kept, name))
            gains.append(_difference(new, best))
            if gains[-1][0] > _CLEAR * gains[-1][1]:
                kept, best = (*kept, name), new
    gain, error = np.array(gains).reshape(-1, 2).T
    return TermChoice(kept, terms.names, gain, error)


def predictive_density(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    labels: Design,
    mean: FloatArray,
    cov: NDArray[Any],
    scatter: FloatArray,
    templates: Templates | None = None,
) -> FloatArray:
    """Log density of new stars' spectra given their labels, factors and known terms integrated out.

    Arguments are those of `star_factors`, of stars the fit has not seen; the coefficients'
    uncertainty widens every pixel. Returns shape (n_stars,).

    Parameters
    ----------
    flux, ivar, labels, mean, cov, scatter, templates
        See `star_factors`.
    """
    k = labels.n_coef
    j = mean.shape[1] - k
    theta, loading = mean[:, :k].astype(np.float32), mean[:, k:].astype(np.float32)
    weights = packed_weights(k + j)
    products = pack_outer(mean[:, k:]).astype(np.float32)
    out = np.empty(flux.shape[0])
    step = stars_at_a_time(templates, _BLOCK)
    for a in range(0, flux.shape[0], step):
        rows = slice(a, a + step)
        part = labels.rows(rows)
        n = part.mean.shape[0]
        prior = StarFactors(np.zeros((n, j)), np.broadcast_to(np.eye(j), (n, j, j)))
        design = join_design(part, prior)
        extra = (design.second * weights).astype(np.float32) @ cov.T.astype(np.float32)
        i = np.asarray(ivar[rows], dtype=np.float32)
        w = i / (1 + i * (extra + (scatter**2).astype(np.float32)))
        r = np.asarray(flux[rows], dtype=np.float32) - 1 - part.mean.astype(np.float32) @ theta.T
        log_w = np.sum(np.log(w, where=w > 0, out=np.zeros_like(w)), axis=1, dtype=np.float64)
        log_w -= np.log(2 * np.pi) * np.sum(w > 0, axis=1)
        right = ((w * r) @ loading).astype(np.float64)
        precision = unpack((w @ products).astype(np.float64)) + np.eye(j)
        if templates is not None:
            known = KnownPart.of(templates, part.mean, w, r)
            precision, right = known.joined(precision, right, loading)
        chi2 = np.sum(w * r * r, axis=1, dtype=np.float64)
        solved = np.linalg.solve(precision, right[:, :, None])[:, :, 0]
        chi2 -= np.sum(right * solved, axis=1)
        out[rows] = 0.5 * (log_w - chi2 - np.linalg.slogdet(precision)[1])
    return out


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
