"""Fit all pixels of a survey: hyperparameters, scatter, coefficients and nuisance factors.

Works through blocks of pixels (and, for the factors, blocks of stars), so that memory stays
bounded by the data themselves plus one block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.blocks import each_block
from bayes_cannon.errors import FitError, SingularPixelsError
from bayes_cannon.factors import (
    StarFactors,
    align_factors,
    initial_factors,
    join_design,
    standardised,
    star_factors,
)
from bayes_cannon.first_scatter import first_scatter
from bayes_cannon.packing import pack, packed_size
from bayes_cannon.pixel_fit import Design, PixelFit, fit_pixels, given_scatter
from bayes_cannon.pixel_kernels import LANES
from bayes_cannon.pixel_prior import PixelPrior
from bayes_cannon.population import second_moment
from bayes_cannon.redundancy import enough_stars, pixels_per_independent_one
from bayes_cannon.training_priors import (
    LONGEST,
    Hyperparameters,
    TrainingPriors,
    extrapolate,
    update_hyperparameters,
)

__all__ = ["MapFit", "fit_map", "only_pixels"]

FloatArray = NDArray[np.float64]
Progress = Callable[[str, float], None]
_HYPER_TOLERANCE = 0.005
_MAX_HYPER_ROUNDS = 8
_INNER_ROUNDS = 25
"""Pairs of rounds of EM of the coefficients' population at fixed scatters, without factors."""
_FACTOR_INNER_ROUNDS = 4
"""Rounds of it in each of the rounds with factors, which go on from one another."""
_SOME_PIXELS = 1500
"""Pixels that are enough for the rounds of EM before the one that counts."""
_FEW_PIXELS = 750
"""Pixels that are enough for a first guess of the hyperparameters."""
_MAX_FACTOR_ROUNDS = 12
_SCATTER_ROUNDS = 2
_LARGEST_FLUX = 1e6
"""Of a normalised spectrum; squares of such values are still exact enough in float32."""
_TRIES = 5
"""Fits until the coefficients of all pixels that are left can be worked out."""
_NOT_WORTH_THREADS = 1e7
"""Pixels times cubed coefficients: about 2 ms of small matrices."""
_LOADING_SCALE = 0.02
"""First guess of tau of the loadings."""


@dataclass(frozen=True, eq=False)
class MapFit:
    """Result of `fit_map`.

    Attributes
    ----------
    mean : (n_pixels, n_coef) float64
        Posterior mean of the coefficients of ``flux - 1``: terms, then loadings.
    cov : (n_pixels, n_coef (n_coef + 1) / 2) float32
        Packed covariance given the scatter.
    log_scatter, log_scatter_sd : (n_pixels,) float64
    hyper : Hyperparameters
    factors : StarFactors or None
    bound : tuple of float
        Log density (its variational bound where there are factors) after every round, of the model
        with exact labels. It cannot fall, but where labels have errors: the factors then leave to
        these what they explain, and the last rounds may lose a little.
    converged : bool
    fitted : (n_pixels,) bool
        False where no star has a good value, or where the coefficients cannot be worked out: such a
        pixel has the prior's moments and had no part in the fit.
    """

    mean: FloatArray
    cov: NDArray[np.float32]
    log_scatter: FloatArray
    log_scatter_sd: FloatArray
    hyper: Hyperparameters
    factors: StarFactors | None
    bound: tuple[float, ...]
    converged: bool
    fitted: NDArray[np.bool_]

    @property
    def scatter(self) -> FloatArray:
        """Intrinsic scatter s, shape (n_pixels,)."""
        return np.exp(self.log_scatter)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The data and what does not change during the fit."""

    flux: NDArray[Any]
    ivar: NDArray[Any]
    labels: Design
    free: NDArray[np.bool_] | None
    priors: TrainingPriors
    redundancy: float = 1.0

    def for_redundancy(self, redundancy: float) -> _Problem:
        """Return the problem with its prior of correlations adapted."""
        return replace(self, priors=self.priors.against(redundancy), redundancy=redundancy)

    def thin(self, step: int) -> _Problem:
        return self.only(slice(None, None, step))

    def only(self, pixels: slice | NDArray[np.intp]) -> _Problem:
        """Return the problem of some pixels."""
        free = None if self.free is None else self.free[pixels]
        flux, ivar = self.flux[:, pixels], self.ivar[:, pixels]
        return replace(
            self, flux=np.ascontiguousarray(flux), ivar=np.ascontiguousarray(ivar), free=free
        )

    def prior(self, hyper: Hyperparameters) -> PixelPrior:
        free = self.free
        if free is not None:
            n_factors = len(hyper.covariance) - free.shape[1]
            free = np.pad(free, ((0, 0), (0, n_factors)), constant_values=True)
        return PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s, free)


def _block_size(n_stars: int, n_coef: int) -> int:
    """Pixels per block: the work arrays of a block stay below 100 MB."""
    per_pixel = 8 * (10 * n_stars + 8 * n_coef**2)
    return int(np.clip(100e6 // per_pixel, 16, 256))


def _fit_pixels(
    problem: _Problem, design: Design, hyper: Hyperparameters, start: FloatArray, **options: object
) -> PixelFit:
    """`fit_pixels` over all blocks, results put together; covariances kept in float32."""
    n_pixels, n = problem.flux.shape[1], design.n_coef
    prior = problem.prior(hyper)
    out = PixelFit(
        mean=np.empty((n_pixels, n)),
        cov=np.empty((n_pixels, packed_size(n)), dtype=np.float32),
        gram=np.empty((n_pixels, packed_size(n)), dtype=np.float32),
        right=np.empty((n_pixels, n)),
        log_scatter=np.empty(n_pixels),
        log_scatter_sd=np.empty(n_pixels),
        skewness_shift=np.empty(n_pixels),
        log_density=np.empty(n_pixels),
        converged=np.empty(n_pixels, dtype=bool),
    )

    def work(block: slice) -> None:
        try:
            part = fit_pixels(
                problem.flux[:, block], problem.ivar[:, block], design, prior.rows(block),
                start[block], **options,  # type: ignore[arg-type]
            )  # fmt: skip
        except SingularPixelsError as error:
            raise SingularPixelsError([block.start + p for p in error.pixels]) from None
        for name in PixelFit.__dataclass_fields__:
            getattr(out, name)[block] = getattr(part, name)

    each_block(work, min(_block_size(len(design.mean), n), -(-n_pixels // 4)), n_pixels)
    return out


def _update(
    problem: _Problem, fit: PixelFit, hyper: Hyperparameters, rounds: int | None = None
) -> Hyperparameters:
    """Hyperparameters from a fit that was made with `hyper`.

    EM creeps where coefficients are mostly noise, so T goes through many rounds at the scatters of
    the fit, on part of the pixels, before the round that counts. Without a limit to the `rounds`
    each pair of them is extrapolated.
    """
    step = max(1, problem.flux.shape[1] // _SOME_PIXELS)
    if rounds is None:
        hyper = _accelerated(lambda at: _population(problem, fit, at, step), hyper)
    for _ in range(rounds or 0):
        start, hyper = hyper, _population(problem, fit, hyper, step)[0]
        if hyper.moved(start) < _HYPER_TOLERANCE:
            break
    return _population(problem, fit, hyper, 1)[0]


def _accelerated(
    em: Callable[[Hyperparameters], tuple[Hyperparameters, float]], hyper: Hyperparameters
) -> Hyperparameters:
    """Rounds of EM, each pair of them extrapolated where that does not lower the density.

    `em` returns what a round leads to and the log density of where it started. Where an
    extrapolated point is not a covariance, or its density is below that of the last plain round,
    the plain rounds count and the next step is shorter.
    """
    new, _ = em(hyper)
    longest = LONGEST
    for _ in range(_INNER_ROUNDS):
        start, hyper = hyper, new
        if hyper.moved(start) < _HYPER_TOLERANCE:
            break
        second, density = em(hyper)
        if second.moved(hyper) < _HYPER_TOLERANCE:
            return second
        ahead = extrapolate(start, hyper, second, longest=longest)
        found = _round_or_none(em, ahead)
        if found is not None and found[1] >= density:
            hyper, new, longest = ahead, found[0], min(2 * longest, LONGEST)
        else:
            longest = max(longest / 4, 1.0)
            hyper, new = second, em(second)[0]
    return new


def _round_or_none(
    em: Callable[[Hyperparameters], tuple[Hyperparameters, float]], at: Hyperparameters
) -> tuple[Hyperparameters, float] | None:
    """A round of EM from a point that may be impossible; None where it is."""
    if not at.usable:
        return None
    try:
        new, density = em(at)
    except (SingularPixelsError, np.linalg.LinAlgError):
        return None
    return (new, density) if np.isfinite(density) and new.usable else None


def _population(
    problem: _Problem, fit: PixelFit, hyper: Hyperparameters, step: int
) -> tuple[Hyperparameters, float]:
    """One round of EM at the scatters of a fit, over every step-th pixel.

    Returns
    -------
    hyper : Hyperparameters
        Where it leads to.
    density : float
        Log density of T before it, up to what does not depend on T, its prior included.
    """
    gram, right = fit.gram[::step], fit.right[::step]
    prior = problem.prior(hyper).rows(slice(None, None, step))
    small = right.size * right.shape[1] ** 2 < _NOT_WORTH_THREADS
    size = len(right) if small else LANES * max(1, min(4, len(right) // (8 * LANES)))
    n_blocks = -(-len(right) // size)
    seconds, densities = np.zeros((n_blocks, *prior.covariance.shape)), np.zeros(n_blocks)

    def work(rows: slice) -> None:
        part = prior.rows(rows)
        mean, cov, density = given_scatter(gram[rows], right[rows], part)
        seconds[rows.start // size] = second_moment(mean, cov, part)
        densities[rows.start // size] = density.sum()

    each_block(work, size, len(right))
    share, n_terms = len(fit.right) / len(right), problem.labels.n_coef
    new = update_hyperparameters(
        np.sum(seconds, axis=0) * share, fit.log_scatter + fit.skewness_shift, fit.log_scatter_sd,
        problem.priors, n_terms,
    )  # fmt: skip
    return new, float(densities.sum() * share + hyper.log_prior(problem.priors, n_terms))


def _learn(
    problem: _Problem, design: Design, hyper: Hyperparameters, start: FloatArray
) -> tuple[Hyperparameters, FloatArray]:
    """Alternate between the pixels and their hyperparameters until these stop moving."""
    for _ in range(_MAX_HYPER_ROUNDS):
        fit = _fit_pixels(problem, design, hyper, start, max_steps=2, finish=False)
        new, start = _update(problem, fit, hyper), fit.log_scatter
        moved = new.moved(hyper)
        hyper = new
        if moved < 2 * _HYPER_TOLERANCE:  # of two rounds at least
            break
    return hyper, start


def _fit_without_factors(problem: _Problem) -> MapFit:
    """Learn the hyperparameters on part of the pixels, then on all, then fit all."""
    start = first_scatter(problem.flux, problem.ivar, problem.labels.mean)
    start = np.where(np.isfinite(start), start, problem.priors.log_scatter_mean)
    problem = problem.for_redundancy(_first_redundancy(problem, start))
    wide = 0.1**2 * np.eye(problem.labels.n_coef)
    hyper = Hyperparameters(wide, float(start.mean()), 1.0)
    step = max(1, problem.flux.shape[1] // _FEW_PIXELS)
    if step > 1:
        hyper, _ = _learn(problem.thin(step), problem.labels, hyper, start[::step])
        fit = _fit_pixels(problem, problem.labels, hyper, start, max_steps=1, finish=False)
        hyper, start = _update(problem, fit, hyper), fit.log_scatter
    else:
        hyper, start = _learn(problem, problem.labels, hyper, start)
    fit = _fit_pixels(problem, problem.labels, hyper, start, max_steps=2)
    return _result(problem, fit, hyper, None, (), converged=bool(fit.converged.all()))


def _first_redundancy(problem: _Problem, log_scatter: FloatArray) -> float:
    """Pixels per independent one in what a plain regression on the features leaves."""
    stars = enough_stars(len(problem.flux))
    x = problem.labels.mean[stars].astype(np.float32)
    ivar = problem.ivar[stars]
    residual = np.where(ivar > 0, problem.flux[stars] - 1, 0).astype(np.float32)
    residual -= x @ (np.linalg.pinv(x.astype(np.float64)).astype(np.float32) @ residual)
    weight = ivar / (1 + ivar * np.exp(2 * log_scatter).astype(np.float32))
    return pixels_per_independent_one(residual, weight, n_features=x.shape[1])


def fit_map(
    flux: NDArray[Any],
    ivar: NDArray[Any],
    labels: Design,
    *,
    n_factors: int = 0,
    free: NDArray[np.bool_] | None = None,
    priors: TrainingPriors | None = None,
    seed: int = 0,
    tolerance: float = 1e-3,
    progress: Progress | None = None,
    start: MapFit | None = None,
) -> MapFit:
    """Fit the training model by its closed forms.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: not used), shape (n_stars, n_pixels).
    labels
        Features of the labels.
    n_factors
        Number of nuisance factors.
    free
        Coefficients that may differ from zero, shape (n_pixels, n_terms); None: all.
    priors
        Priors of the hyperparameters.
    seed
        Of the first guess of the factors.
    tolerance
        The rounds end when the bound rises by less than this fraction of its rise so far.
    progress
        Called with what is being done and a fraction done.
    start
        A fit without factors (or with fewer) of the same data, to begin from.

    Returns
    -------
    MapFit

    Raises
    ------
    FitError
        If no pixel has a good value, or the coefficients of many pixels cannot be worked out.
    """
    problem = _Problem(flux, ivar, labels, free, priors or TrainingPriors())
    tell = progress or (lambda stage, done: None)
    tell("pixels", 0.0)
    fitted = _can_be_fitted(flux, ivar)
    if start is not None:
        fitted &= start.fitted
    for _ in range(_TRIES):
        if not fitted.any():
            break
        pixels = None if fitted.all() else np.flatnonzero(fitted)
        part = problem if pixels is None else problem.only(pixels)
        try:
            begin = (
                _fit_without_factors(part)
                if start is None
                else start
                if pixels is None
                else only_pixels(start, pixels)
            )
            if n_factors > 0:
                begin = _fit_with_factors(part, begin, n_factors, seed, tolerance, tell)
        except SingularPixelsError as error:
            bad = np.asarray(error.pixels) if pixels is None else pixels[error.pixels]
            fitted[bad] = False
            continue
        return begin if pixels is None else _on_all_pixels(begin, fitted, free)
    seen = (ivar > 0).any(axis=0)
    if not seen.any():
        raise FitError(
            f"none of {seen.size} pixels has a good value in any of {len(flux)} training stars; "
            "check ivar."
        )
    raise FitError(
        f"the coefficients of {(seen & ~fitted).sum()} of {seen.size} pixels cannot be worked out; "
        "look for extreme fluxes, errors or labels."
    )


def _can_be_fitted(flux: NDArray[Any], ivar: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels with a good value in some star, and none that is beyond any normalised flux."""
    fitted = (ivar > 0).any(axis=0)
    wild = np.flatnonzero(~(np.abs(flux).max(axis=0) < _LARGEST_FLUX))
    fitted[wild] &= ~((ivar[:, wild] > 0) & ~(np.abs(flux[:, wild]) < _LARGEST_FLUX)).any(axis=0)
    return np.asarray(fitted)


def only_pixels(fit: MapFit, pixels: NDArray[np.intp]) -> MapFit:
    """Return the fit of some pixels."""
    return replace(
        fit, mean=fit.mean[pixels], cov=fit.cov[pixels], log_scatter=fit.log_scatter[pixels],
        log_scatter_sd=fit.log_scatter_sd[pixels], fitted=fit.fitted[pixels],
    )  # fmt: skip


def _on_all_pixels(
    fit: MapFit, fitted: NDArray[np.bool_], free: NDArray[np.bool_] | None
) -> MapFit:
    """Return the fit with the pixels that had no part in it, which know only their prior."""
    n_pixels, n_coef = fitted.size, fit.mean.shape[1]
    covariance = fit.hyper.covariance
    cov = np.broadcast_to(pack(covariance).astype(np.float32), (n_pixels, packed_size(n_coef)))
    if free is not None:
        free = np.pad(free, ((0, 0), (0, n_coef - free.shape[1])), constant_values=True)
        cov = np.where(pack(free[:, :, None] & free[:, None, :]), cov, np.float32(0))
    whole = replace(
        fit, mean=np.zeros((n_pixels, n_coef)), cov=np.array(cov),
        log_scatter=np.full(n_pixels, fit.hyper.mu_s),
        log_scatter_sd=np.full(n_pixels, fit.hyper.omega_s), fitted=fitted,
    )  # fmt: skip
    for name in ("mean", "cov", "log_scatter", "log_scatter_sd"):
        getattr(whole, name)[fitted] = getattr(fit, name)
    return whole


def _result(
    problem: _Problem,
    fit: PixelFit,
    hyper: Hyperparameters,
    factors: StarFactors | None,
    history: tuple[float, ...],
    *,
    converged: bool,
) -> MapFit:
    bound = _bound(problem, fit, hyper, factors)
    hyper = replace(hyper, redundancy=problem.redundancy)
    return MapFit(
        fit.mean, np.asarray(fit.cov, dtype=np.float32), fit.log_scatter, fit.log_scatter_sd,
        hyper, factors, (*history, bound), converged, np.ones(len(fit.mean), dtype=bool),
    )  # fmt: skip


def _bound(
    problem: _Problem, fit: PixelFit, hyper: Hyperparameters, factors: StarFactors | None
) -> float:
    divergence = factors.divergence if factors is not None else 0.0
    total = float(fit.log_density.sum()) - divergence
    return total + hyper.log_prior(problem.priors, problem.labels.n_coef)


def _residuals(problem: _Problem, fit: MapFit) -> tuple[NDArray[Any], NDArray[Any]]:
    """Residuals of the features alone and their weights, float32 (n_stars, n_pixels)."""
    k = problem.labels.n_coef
    v = problem.labels.mean.astype(np.float32)
    residual = problem.flux - 1 - v @ fit.mean[:, :k].T.astype(np.float32)
    weight = problem.ivar / (1 + problem.ivar * (fit.scatter**2).astype(np.float32))
    return np.asarray(residual, np.float32), np.asarray(weight, np.float32)


def _expanded(
    problem: _Problem, factors: StarFactors, hyper: Hyperparameters, *, first: bool
) -> tuple[StarFactors, Hyperparameters]:
    """Standardise the factors, and T with them, unless the hyperparameters' prior is against it.

    The first guess of T does not belong to the first guess of the factors: it stays as it is.
    """
    new, matrix = standardised(factors, problem.labels.mean)
    if first:
        return new, hyper
    moved = hyper.transformed(matrix)
    n_terms = problem.labels.n_coef
    gain = factors.divergence - new.divergence
    gain += moved.log_prior(problem.priors, n_terms) - hyper.log_prior(problem.priors, n_terms)
    return (new, moved) if gain > 0 else (factors, hyper)


def _fit_with_factors(
    problem: _Problem,
    start: MapFit,
    n_factors: int,
    seed: int,
    tolerance: float,
    tell: Progress,
) -> MapFit:
    k = problem.labels.n_coef
    residual, weight = _residuals(problem, start)
    factors = initial_factors(residual, weight, n_factors, np.random.default_rng(seed))
    some = enough_stars(len(residual))
    redundancy = pixels_per_independent_one(
        residual[some], weight[some], n_features=k, n_factors=n_factors
    )
    problem = problem.for_redundancy(redundancy)
    del residual, weight
    covariance = np.pad(start.hyper.covariance[:k, :k], (0, n_factors))
    covariance[range(k, k + n_factors), range(k, k + n_factors)] = _LOADING_SCALE**2
    hyper = replace(start.hyper, covariance=covariance)
    u, history, converged = start.log_scatter, list[float](), False
    for round_ in range(_MAX_FACTOR_ROUNDS):
        tell("factors", round_ / _MAX_FACTOR_ROUNDS)
        factors, hyper = _expanded(problem, factors, hyper, first=round_ == 0)
        design = join_design(problem.labels, factors)
        fit = _fit_pixels(problem, design, hyper, u, max_steps=2, finish=False)
        u = fit.log_scatter
        history.append(_bound(problem, fit, hyper, factors))
        learnt = _update(problem, fit, hyper, _FACTOR_INNER_ROUNDS)
        # The population of scatters settles first, then stays: the bound is then exactly that of
        # coordinate ascent and cannot fall.
        settled = round_ >= _SCATTER_ROUNDS
        hyper = replace(hyper, covariance=learnt.covariance) if settled else learnt
        factors = star_factors(
            problem.flux, problem.ivar, problem.labels, fit.mean, fit.cov, np.exp(u)
        )
        if round_ >= 2 and history[-1] - history[-2] < tolerance * (history[-1] - history[0]):
            converged = True
            break
    factors, matrix = standardised(factors, problem.labels.mean)
    rotation = np.eye(k + n_factors)
    factors, rotation[k:, k:] = align_factors(
        factors, fit.mean[:, k:] @ matrix[k:, k:].T, np.exp(u)
    )
    tell("factors", 0.95)
    hyper = learnt.transformed(rotation @ matrix)
    fit = _fit_pixels(problem, join_design(problem.labels, factors), hyper, u)
    return _result(problem, fit, hyper, factors, tuple(history), converged=converged)
