"""Fit all pixels of a survey: hyperparameters, scatter, coefficients and nuisance factors.

Works through blocks of pixels (and, for the factors, blocks of stars), so that memory stays
bounded by the data themselves plus one block.
"""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.packing import pack, packed_size
from bayes_cannon.base.parallel import as_executor
from bayes_cannon.base.progress import Progress, Tell, as_progress
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError, SingularPixelsError
from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors
from bayes_cannon.spectra.distortions import KnownTerms, Templates
from bayes_cannon.training.factors import (
    StarFactors,
    align_factors,
    initial_factors,
    join_design,
    standardised,
    star_factors,
)
from bayes_cannon.training.pixels.columns import of_stars, pixel_blocks
from bayes_cannon.training.pixels.fit import Design, PixelFit
from bayes_cannon.training.pixels.redundancy import enough_stars, pixels_per_independent_one
from bayes_cannon.training.pixels.scatter import first_scatter
from bayes_cannon.training.pixels.survey import (
    Problem,
    fit_all_pixels,
    learn_population,
    update_population,
)
from bayes_cannon.training.pixels.term_state import TermState, of_flux

__all__ = [
    "MapFit",
    "fit_map",
    "only_pixels",
]

_FACTOR_INNER_ROUNDS = 4
"""Rounds of it in each of the rounds with factors, which go on from one another."""
_FEW_PIXELS = 750
"""Pixels that are enough for a first guess of the hyperparameters."""
_MAX_FACTOR_ROUNDS = 12
_SCATTER_ROUNDS = 2
_LARGEST_FLUX = 1e6
"""Of a normalised spectrum; squares of such values are still exact enough in float32."""
_TRIES = 5
"""Fits until the coefficients of all pixels that are left can be worked out."""
_TERM_ROUNDS = 2
"""Fits without factors, each to the spectra without the known terms of the last."""
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
    seed : int
        Of the first guess of the factors.
    terms : KnownTerms or None
        Known terms, with their scales.
    amplitudes : StarFactors or None
        Of the known terms, in units of their scales.
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
    seed: int = 0
    terms: KnownTerms | None = None
    amplitudes: StarFactors | None = None

    @property
    def scatter(self) -> FloatArray:
        """Intrinsic scatter s, shape (n_pixels,)."""
        return np.exp(self.log_scatter)

    def templates(self, n_terms: int) -> Templates | None:
        """Templates of the known terms on the pixels that were fitted; None without any.

        Parameters
        ----------
        n_terms
            Of the coefficients, how many are terms; the rest are loadings.
        """
        if self.terms is None:
            return None
        return self.terms.templates(of_flux(self.mean[:, :n_terms]), self.fitted)


def _without_factors_but_terms(problem: Problem, terms: KnownTerms) -> MapFit:
    """Coefficients and known terms in turn."""
    known, fit = TermState.of(problem, terms), _fit_without_factors(problem)
    for _ in range(_TERM_ROUNDS):
        known, clean, _ = known.learnt(fit.mean, fit.cov, fit.scatter)
        fit = _fit_without_factors(clean)
    return replace(fit, terms=known.terms, amplitudes=known.amplitudes)


def _fit_without_factors(problem: Problem) -> MapFit:
    """Learn the hyperparameters on part of the pixels, then on all, then fit all."""
    start = first_scatter(problem.flux, problem.ivar, problem.labels.mean)
    start = np.where(np.isfinite(start), start, problem.priors.log_scatter_mean)
    problem = problem.for_redundancy(_first_redundancy(problem, start))
    wide = 0.1**2 * np.eye(problem.labels.n_coef)
    hyper = Hyperparameters(wide, float(start.mean()), 1.0)
    step = max(1, problem.flux.shape[1] // _FEW_PIXELS)
    if step > 1:
        hyper, _ = learn_population(problem.thin(step), problem.labels, hyper, start[::step])
        fit = fit_all_pixels(problem, problem.labels, hyper, start, max_steps=1, finish=False)
        hyper, start = update_population(problem, fit, hyper), fit.log_scatter
    else:
        hyper, start = learn_population(problem, problem.labels, hyper, start)
    fit = fit_all_pixels(problem, problem.labels, hyper, start, max_steps=2)
    return _result(problem, fit, hyper, None, (), converged=bool(fit.converged.all()))


def _first_redundancy(problem: Problem, log_scatter: FloatArray) -> float:
    """Pixels per independent one in what a plain regression on the features leaves."""
    stars = enough_stars(len(problem.flux))
    x = problem.labels.mean[stars].astype(np.float32)
    ivar = of_stars(problem.ivar, stars)
    residual = np.where(ivar > 0, of_stars(problem.flux, stars) - 1, 0).astype(np.float32)
    residual -= x @ (np.linalg.pinv(x.astype(np.float64)).astype(np.float32) @ residual)
    weight = ivar / (1 + ivar * np.exp(2 * log_scatter).astype(np.float32))
    return pixels_per_independent_one(residual, weight, n_features=x.shape[1])


def fit_map(
    flux: Any,
    ivar: Any,
    labels: Design,
    *,
    n_factors: int = 0,
    free: NDArray[np.bool_] | None = None,
    priors: TrainingPriors | None = None,
    seed: int | None = None,
    tolerance: float = 1e-3,
    progress: Progress = None,
    start: MapFit | None = None,
    terms: KnownTerms | None = None,
    executor: Executor | None = None,
) -> MapFit:
    """Fit the training model by its closed forms.

    Parameters
    ----------
    flux, ivar
        Normalised flux and inverse variance (0: not used), shape (n_stars, n_pixels): arrays, in
        memory or mapped from disk, or what can be asked for ``a[:, pixels]`` alike
        (`bayes_cannon.training.pixels.columns`). No copy is made but of one block of pixels.
    labels
        Features of the labels.
    n_factors
        Number of nuisance factors.
    free
        Coefficients that may differ from zero, shape (n_pixels, n_terms); None: all.
    priors
        Priors of the hyperparameters.
    seed
        Of the first guess of the factors; None takes a fresh one, which the result holds.
    tolerance
        The rounds end when the bound rises by less than this fraction of its rise so far.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.
    start
        A fit without factors (or with fewer) of the same data, from which one with factors begins.
    terms
        Known terms on these pixels, with a first guess of their scales; None: none.
    executor
        Fits blocks of pixels of spectra that are on disk side by side, each reading its own; the
        result is the same to the last bit. Spectra in memory are fitted on the cores here.

    Returns
    -------
    MapFit

    Raises
    ------
    InvalidDataError
        If a start is given for a fit without factors.
    FitError
        If no pixel has a good value, the coefficients of many pixels cannot be worked out, or the
        executor fails.
    """
    priors, executor = priors or TrainingPriors(), as_executor(executor)
    problem = Problem(flux, ivar, labels, free, priors, executor=executor)
    if start is not None and n_factors == 0:
        raise InvalidDataError("a fit without factors begins from nothing: leave start out.")
    seed, (seen, fitted) = as_seed(seed), _can_be_fitted(flux, ivar)
    if start is not None:
        fitted &= start.fitted
    with as_progress(progress) as tell:
        tell(0, 1, "pixels")
        for _ in range(_TRIES):
            if not fitted.any():
                break
            pixels = None if fitted.all() else np.flatnonzero(fitted)
            part = problem if pixels is None else problem.only(pixels)
            own = terms if terms is None or pixels is None else terms.only(pixels)
            try:
                if start is not None:
                    begin = start if pixels is None else only_pixels(start, pixels)
                elif own is not None and n_factors == 0:
                    begin = _without_factors_but_terms(part, own)
                else:
                    begin = _fit_without_factors(part)
                if n_factors > 0:
                    begin = _fit_with_factors(part, begin, n_factors, seed, tolerance, tell, own)
            except SingularPixelsError as error:
                bad = np.asarray(error.pixels) if pixels is None else pixels[error.pixels]
                fitted[bad] = False
                continue
            if terms is not None and begin.terms is not None:
                begin = replace(begin, terms=replace(terms, scale=begin.terms.scale))
            begin = replace(begin, seed=seed)
            return begin if pixels is None else _on_all_pixels(begin, fitted, free)
    if not seen.any():
        raise FitError(
            f"none of {seen.size} pixels has a good value in any of "
            f"{count_text(len(flux), 'training star')}; check ivar."
        )
    raise FitError(
        f"the coefficients of {(seen & ~fitted).sum()} of {seen.size} pixels cannot be worked out; "
        "look for extreme fluxes, errors or labels."
    )


def _can_be_fitted(flux: Any, ivar: Any) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pixels with a good value in some star, and those of them without one that is wild.

    Wild is what is beyond any normalised flux.
    """
    seen = np.empty(flux.shape[1], dtype=bool)
    fitted = np.empty_like(seen)
    for block in pixel_blocks(*flux.shape):
        some = np.asarray(flux[:, block])
        good = np.asarray(ivar[:, block]) > 0
        seen[block] = good.any(axis=0)
        fitted[block] = seen[block] & ~(good & ~(np.abs(some) < _LARGEST_FLUX)).any(axis=0)
    return seen, fitted


def only_pixels(fit: MapFit, pixels: NDArray[np.intp]) -> MapFit:
    """Return the fit of some pixels.

    Parameters
    ----------
    fit
        Of all pixels.
    pixels
        Indices of those wanted.
    """
    return replace(
        fit, mean=fit.mean[pixels], cov=fit.cov[pixels], log_scatter=fit.log_scatter[pixels],
        log_scatter_sd=fit.log_scatter_sd[pixels], fitted=fit.fitted[pixels],
        terms=None if fit.terms is None else fit.terms.only(pixels),
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
    problem: Problem,
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
    problem: Problem,
    fit: PixelFit,
    hyper: Hyperparameters,
    factors: StarFactors | None,
    known: TermState | None = None,
) -> float:
    divergence = factors.divergence if factors is not None else 0.0
    if known is not None and known.amplitudes is not None:
        divergence += known.amplitudes.divergence
    total = float(fit.log_density.sum()) - divergence
    return total + hyper.log_prior(problem.priors, problem.labels.n_coef)


def _residuals(
    problem: Problem, fit: MapFit, pixels: slice, stars: slice = slice(None)
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Residuals of the features alone and their weights, of some pixels of some stars."""
    k = problem.labels.n_coef
    v = problem.labels.mean[stars].astype(np.float32)
    flux, ivar = (np.asarray(a[:, pixels])[stars] for a in (problem.flux, problem.ivar))
    residual = flux - 1 - v @ fit.mean[pixels, :k].T.astype(np.float32)
    weight = ivar / (1 + ivar * (fit.scatter[pixels] ** 2).astype(np.float32))
    return np.asarray(residual, np.float32), np.asarray(weight, np.float32)


def _first_factors(
    problem: Problem, start: MapFit, n_factors: int, seed: int
) -> tuple[StarFactors, float]:
    """Of the residuals without factors; and pixels per independent one beside them."""

    def whitened(pixels: slice) -> NDArray[np.float32]:
        residual, weight = _residuals(problem, start, pixels)
        return residual * np.sqrt(weight)

    rng = np.random.default_rng(seed)
    n_stars, n_pixels = problem.flux.shape
    factors = initial_factors(whitened, n_stars, n_pixels, n_factors, rng)
    some = enough_stars(n_stars)
    parts = [_residuals(problem, start, b, some) for b in pixel_blocks(n_stars, n_pixels)]
    residual, weight = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
    return factors, pixels_per_independent_one(
        residual, weight, n_features=problem.labels.n_coef, n_factors=n_factors
    )


def _expanded(
    problem: Problem, factors: StarFactors, hyper: Hyperparameters, *, first: bool
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
    return (new, moved) if gain > 0 and moved.usable else (factors, hyper)


def _fit_with_factors(
    problem: Problem,
    start: MapFit,
    n_factors: int,
    seed: int,
    tolerance: float,
    tell: Tell,
    terms: KnownTerms | None = None,
) -> MapFit:
    k = problem.labels.n_coef
    known = None if terms is None else TermState.of(problem, terms)
    if known is not None:
        begin = start.mean[:, :k], start.cov[:, : packed_size(k)], start.scatter
        known, problem, _ = known.learnt(*begin)
    factors, redundancy = _first_factors(problem, start, n_factors, seed)
    problem = problem.for_redundancy(redundancy)
    if known is not None:
        known = replace(known, problem=known.problem.for_redundancy(redundancy))
    covariance = np.pad(start.hyper.covariance[:k, :k], (0, n_factors))
    covariance[range(k, k + n_factors), range(k, k + n_factors)] = _LOADING_SCALE**2
    hyper = replace(start.hyper, covariance=covariance)
    u, history, converged = start.log_scatter, list[float](), False
    for round_ in range(_MAX_FACTOR_ROUNDS):
        tell(round_, _MAX_FACTOR_ROUNDS, "factors")
        factors, hyper = _expanded(problem, factors, hyper, first=round_ == 0)
        design = join_design(problem.labels, factors)
        fit = fit_all_pixels(problem, design, hyper, u, max_steps=2, finish=False)
        u = fit.log_scatter
        history.append(_bound(problem, fit, hyper, factors, known))
        learnt = update_population(problem, fit, hyper, _FACTOR_INNER_ROUNDS)
        # The population of scatters settles first, then stays: the bound is then exactly that of
        # coordinate ascent and cannot fall.
        settled = round_ >= _SCATTER_ROUNDS
        hyper = replace(hyper, covariance=learnt.covariance) if settled else learnt
        moments = fit.mean, fit.cov, np.exp(u)
        if known is None:
            factors = star_factors(problem.flux, problem.ivar, problem.labels, *moments)
        else:
            known, problem, factors = known.learnt(*moments)
        if round_ >= 2 and history[-1] - history[-2] < tolerance * (history[-1] - history[0]):
            converged = True
            break
    factors, matrix = standardised(factors, problem.labels.mean)
    rotation = np.eye(k + n_factors)
    factors, rotation[k:, k:] = align_factors(
        factors, fit.mean[:, k:] @ matrix[k:, k:].T, np.exp(u)
    )
    tell(_MAX_FACTOR_ROUNDS - 1, _MAX_FACTOR_ROUNDS, "factors")
    hyper = learnt.transformed(rotation @ matrix)
    fit = fit_all_pixels(problem, join_design(problem.labels, factors), hyper, u)
    found = _result(problem, fit, hyper, factors, tuple(history), converged=converged)
    if known is not None:
        found = replace(found, terms=known.terms, amplitudes=known.amplitudes)
    return found
