"""All pixels of a survey side by side, and the population that they share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.engines.shared import Shared, sharing
from bayes_cannon.base.packing import packed_size
from bayes_cannon.base.parallel import each_block, in_order
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import SingularPixelsError
from bayes_cannon.models.hyperparameters import Hyperparameters, TrainingPriors
from bayes_cannon.training.pixels.columns import SomePixels, pixel_blocks
from bayes_cannon.training.pixels.fit import Design, PixelFit, fit_pixels, given_scatter
from bayes_cannon.training.pixels.kernels import LANES
from bayes_cannon.training.pixels.population import (
    LONGEST,
    PixelPrior,
    extrapolate,
    second_moment,
    update_hyperparameters,
)

_HYPER_TOLERANCE = 0.005
_MAX_HYPER_ROUNDS = 8
_INNER_ROUNDS = 25
"""Pairs of rounds of EM of the coefficients' population at fixed scatters, without factors."""
_SOME_PIXELS = 1500
"""Pixels that are enough for the rounds of EM before the one that counts."""
_NOT_WORTH_THREADS = 1e7
"""Pixels times cubed coefficients: about 2 ms of small matrices."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The data, arrays or the like of them (`columns`), and what does not change in the fit."""

    flux: Any
    ivar: Any
    labels: Design
    free: NDArray[np.bool_] | None
    priors: TrainingPriors
    redundancy: float = 1.0
    executor: Executor | None = None
    """Fits blocks of pixels of data on disk, which whoever does it reads."""

    def for_redundancy(self, redundancy: float) -> Problem:
        """Return the problem with its prior of correlations adapted.

        Parameters
        ----------
        redundancy
            Pixels per independent one, from 1.
        """
        return replace(self, priors=self.priors.against(redundancy), redundancy=redundancy)

    def thin(self, step: int) -> Problem:
        """Return the problem of every step-th pixel.

        Parameters
        ----------
        step
            From 1.
        """
        return self.only(slice(None, None, step))

    def only(self, pixels: slice | NDArray[np.intp]) -> Problem:
        """Return the problem of some pixels: a copy of a slice, a view of others.

        Parameters
        ----------
        pixels
            Slice or numbers of pixels.
        """
        free = None if self.free is None else self.free[pixels]
        flux: Any
        ivar: Any
        if isinstance(pixels, slice):
            flux, ivar = (np.ascontiguousarray(a[:, pixels]) for a in (self.flux, self.ivar))
        else:
            flux, ivar = (SomePixels(a, pixels) for a in (self.flux, self.ivar))
        return replace(self, flux=flux, ivar=ivar, free=free)

    def prior(self, hyper: Hyperparameters) -> PixelPrior:
        """Prior of the coefficients and scatters of all pixels.

        Parameters
        ----------
        hyper
            Of the population of pixels.
        """
        free = self.free
        if free is not None:
            n_factors = len(hyper.covariance) - free.shape[1]
            free = np.pad(free, ((0, 0), (0, n_factors)), constant_values=True)
        return PixelPrior(hyper.covariance, hyper.mu_s, hyper.omega_s, free)


def _block_size(n_stars: int, n_coef: int) -> int:
    """Pixels per block: the work arrays of a block stay below 100 MB."""
    per_pixel = 8 * (10 * n_stars + 8 * n_coef**2)
    return int(np.clip(100e6 // per_pixel, 16, 256))


def fit_all_pixels(
    problem: Problem, design: Design, hyper: Hyperparameters, start: FloatArray, **options: Any
) -> PixelFit:
    """`fit_pixels` over all blocks, results put together; covariances kept in float32.

    Parameters
    ----------
    problem
        Fluxes and inverse variances of all pixels.
    design
        Features of the stars.
    hyper
        Of the population.
    start
        Log scatters to start from, shape (n_pixels,).
    options
        Of `fit_pixels`.

    Raises
    ------
    SingularPixelsError
        With the pixels whose coefficients are not determined.
    """
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

    def keep(block: slice, part: PixelFit) -> None:
        for name in PixelFit.__dataclass_fields__:
            getattr(out, name)[block] = getattr(part, name)

    size = min(_block_size(len(design.mean), n), -(-n_pixels // 4))
    if problem.executor is None or isinstance(problem.flux, np.ndarray):
        here = _Round(problem, design, prior, options)
        each_block(lambda block: keep(block, here.fit(block, start[block])), size, n_pixels)
        return out
    bare = Design(design.mean, design.second)  # without what follows from these
    all_ = _Round(replace(problem, labels=bare, executor=None), bare, prior, options)
    groups = _groups(len(design.mean), n_pixels, size)
    with sharing(problem.executor, all_) as shared:
        tasks = (_Group(blocks, [start[block] for block in blocks], shared) for blocks in groups)
        found = in_order(problem.executor, _fit_group, tasks, named=_pixels_of)
        for blocks, parts in zip(groups, found, strict=True):
            for block, part in zip(blocks, parts, strict=True):
                keep(block, part)
    return out


@dataclass(frozen=True, eq=False)
class _Round:
    """What all blocks of pixels need to be fitted."""

    problem: Problem
    design: Design
    prior: PixelPrior
    options: dict[str, Any]

    def fit(self, block: slice, start: FloatArray) -> PixelFit:
        """Fit a block; the pixels that an error names are numbered among all."""
        flux, ivar = self.problem.flux[:, block], self.problem.ivar[:, block]
        try:
            return fit_pixels(
                flux, ivar, self.design, self.prior.rows(block), start, **self.options
            )
        except SingularPixelsError as error:
            raise SingularPixelsError([block.start + p for p in error.pixels]) from None


@dataclass(frozen=True, eq=False)
class _Group:
    """What an executor is sent: neighbouring blocks, which are read together."""

    blocks: list[slice]
    start: list[FloatArray]
    all_: Shared[_Round]


def _groups(n_stars: int, n_pixels: int, size: int) -> list[list[slice]]:
    """Blocks of pixels by the blocks in which they are read."""
    blocks = [slice(a, min(a + size, n_pixels)) for a in range(0, n_pixels, size)]
    read = next(pixel_blocks(n_stars, n_pixels)).stop
    return [list(some) for _, some in groupby(blocks, lambda block: block.start // read)]


def _pixels_of(group: _Group) -> str:
    return f"pixels {group.blocks[0].start} to {group.blocks[-1].stop - 1}"


def _fit_group(group: _Group) -> list[PixelFit]:
    pairs = zip(group.blocks, group.start, strict=True)
    return [group.all_.value.fit(block, start) for block, start in pairs]


def update_population(
    problem: Problem, fit: PixelFit, hyper: Hyperparameters, rounds: int | None = None
) -> Hyperparameters:
    """Hyperparameters from a fit that was made with `hyper`.

    EM creeps where coefficients are mostly noise, so T goes through many rounds at the scatters of
    the fit, on part of the pixels, before the round that counts.

    Parameters
    ----------
    problem
        Fluxes and inverse variances of all pixels.
    fit
        Of all pixels.
    hyper
        With which it was made.
    rounds
        At most; None: as many as it takes, each pair of them extrapolated.
    """
    step = max(1, problem.flux.shape[1] // _SOME_PIXELS)
    if rounds is None:
        hyper = _accelerated(lambda at: population_round(problem, fit, at, step), hyper)
    for _ in range(rounds or 0):
        start, hyper = hyper, population_round(problem, fit, hyper, step)[0]
        if hyper.moved(start) < _HYPER_TOLERANCE:
            break
    return population_round(problem, fit, hyper, 1)[0]


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


def population_round(
    problem: Problem, fit: PixelFit, hyper: Hyperparameters, step: int
) -> tuple[Hyperparameters, float]:
    """One round of EM at the scatters of a fit, over every step-th pixel.

    Parameters
    ----------
    problem
        Fluxes and inverse variances of all pixels.
    fit
        Of all pixels.
    hyper
        Where the round starts.
    step
        1: every pixel counts.

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


def learn_population(
    problem: Problem, design: Design, hyper: Hyperparameters, start: FloatArray
) -> tuple[Hyperparameters, FloatArray]:
    """Alternate between the pixels and their hyperparameters until these stop moving.

    Parameters
    ----------
    problem
        Fluxes and inverse variances of all pixels.
    design
        Features of the stars.
    hyper, start
        Hyperparameters and log scatters (n_pixels,) to start from.

    Returns
    -------
    Hyperparameters
    (n_pixels,) float64
        Log scatters of the last fit.
    """
    for _ in range(_MAX_HYPER_ROUNDS):
        fit = fit_all_pixels(problem, design, hyper, start, max_steps=2, finish=False)
        new, start = update_population(problem, fit, hyper), fit.log_scatter
        moved = new.moved(hyper)
        hyper = new
        if moved < 2 * _HYPER_TOLERANCE:  # of two rounds at least
            break
    return hyper, start
