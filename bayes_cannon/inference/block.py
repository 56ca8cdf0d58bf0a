"""Posteriors of a block of stars: a pure function of arrays and seeds.

`sample_block` finds the modes of all its stars together, then samples them side by side. A star
that cannot be done is a row of NaN with a status; it never stops the others, and what one star
gives does not depend on which others are done with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayes_cannon.base.parallel import StopSign, one_blas_thread, threads_here
from bayes_cannon.base.storage import schema_dataset
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import BayesCannonError, FitError, NoStarsError
from bayes_cannon.inference.checks import (
    Convergence,
    StarStatus,
    check_convergence,
    factors_p,
    laplace_khat,
    pareto_khat,
    predictive_p,
    thin,
)
from bayes_cannon.inference.likelihood import Compressed, PixelModel, pixels_needed
from bayes_cannon.inference.likelihoods import Likelihood, OneStar, likelihood_of, likelihood_text
from bayes_cannon.inference.modes import Laplace, fit_laplace
from bayes_cannon.inference.sampler import STATISTICS, Draws, LabelSampler, star_seed
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_priors import LabelPriors

__all__ = [
    "StarResult",
    "assemble",
    "join_blocks",
    "sample_block",
]

_LOG = logging.getLogger(__name__)
_OF_ONE_STAR = (FitError, np.linalg.LinAlgError, ArithmeticError, RuntimeError, ValueError)
"""What numbers of one star may lead to: the star has no posterior, and the others go on."""


@dataclass(frozen=True, eq=False)
class _Star:
    """What is known of one star before it is sampled."""

    star_id: str
    spectrum: OneStar
    laplace: Laplace


def sample_block(
    pixels: PixelModel,
    flux: NDArray[Any],
    ivar: NDArray[Any],
    star_id: NDArray[np.str_],
    *,
    priors: LabelPriors,
    settings: InferenceSettings,
    seed: int,
    progress: Callable[[int], None] | None = None,
    stop: StopSign | None = None,
) -> xr.DataTree:
    """Infer the labels of a block of stars; a pure function of its arguments.

    Parameters
    ----------
    pixels
        The trained model.
    flux, ivar
        All pixels, shape (n_stars, n_all_pixels); ivar 0: not used.
    star_id
        Ids, from which together with `seed` the stars' seeds follow.
    priors, settings, seed
        See `infer_labels`.
    progress
        Called with the number of stars of the block that are done.
    stop
        Looked at before each star.

    Raises
    ------
    FitError
        If something fails that is no matter of a star's numbers; it names the star.
    """
    flux, ivar = pixels.take(flux), pixels.take(ivar)
    likelihood = likelihood_of(settings.likelihood)
    n_used = np.sum(ivar > 0, axis=1)
    results: list[StarResult] = [StarResult(StarStatus.NO_PIXELS)] * len(star_id)
    usable = n_used >= pixels_needed(pixels.n_pixels, settings.min_pixels)

    def work(item: tuple[int, _Star | None]) -> tuple[int, StarResult]:
        index, star = item
        if stop is not None:
            stop.check()
        if star is None:
            return index, StarResult(StarStatus.FAILED)
        try:
            return index, _infer_star(pixels, priors, likelihood, sampler, star, settings, seed)
        except _OF_ONE_STAR as error:
            _LOG.warning("%s: no posterior: %s", star.star_id, error)
            return index, StarResult(StarStatus.FAILED)
        except (BayesCannonError, MemoryError, CancelledError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())
            raise FitError(
                f"labels of {star.star_id} cannot be inferred ({type(error).__name__}: {reason})."
            ) from error

    threads = settings.cores or threads_here()
    # Threads of BLAS inside threads of stars, or on small matrices, cost many times the time; and
    # their number would change the last digits of what comes out.
    with one_blas_thread(), ThreadPoolExecutor(threads) as pool:
        stars = _prepare(pixels, priors, likelihood, flux, ivar, star_id, usable, settings)
        sampler = _compiled(pixels, priors, likelihood, stars, settings)
        for count, (index, result) in enumerate(pool.map(work, stars.items()), 1):
            results[index] = result
            if progress is not None:
                progress(len(star_id) - len(stars) + count)
    return assemble(pixels.basis, priors, star_id, n_used, results, settings, seed)


def _compiled(
    pixels: PixelModel,
    priors: LabelPriors,
    likelihood: Likelihood,
    stars: Mapping[int, _Star | None],
    settings: InferenceSettings,
) -> LabelSampler | None:
    """Return the compiled label model; None where no star is sampled."""
    first = next((star for star in stars.values() if star is not None), None)
    if settings.method != "nuts" or first is None:
        return None
    data = likelihood.data(pixels, first.spectrum)
    return LabelSampler.compile(pixels.basis, priors, likelihood, data)


def _prepare(
    pixels: PixelModel,
    priors: LabelPriors,
    likelihood: Likelihood,
    flux: FloatArray,
    ivar: FloatArray,
    star_id: NDArray[np.str_],
    usable: NDArray[np.bool_],
    settings: InferenceSettings,
) -> dict[int, _Star | None]:
    """Modes and compression of the usable stars, by row; None where that fails."""
    rows = np.nonzero(usable)[0]
    out: dict[int, _Star | None] = dict.fromkeys(rows.tolist())

    def fit(rows: NDArray[np.intp]) -> tuple[Laplace, Compressed]:
        return fit_laplace(
            pixels, priors, flux[rows], ivar[rows], settings.modes, likelihood=likelihood
        )

    try:
        groups = [(rows, fit(rows))]
    except _OF_ONE_STAR:
        groups = []
        for row in rows:
            one = np.array([row])
            try:
                groups.append((one, fit(one)))
            except _OF_ONE_STAR as error:
                _LOG.warning("%s: no mode found: %s", star_id[row], error)
    for group, (laplace, data) in groups:
        x = np.concatenate([pixels.basis(laplace.labels), laplace.factors], axis=1)
        for i, row in enumerate(group):
            here = slice(i, i + 1)
            out[int(row)] = _Star(
                str(star_id[row]),
                OneStar(flux[row], ivar[row], data.rows(here), x[i]),
                Laplace(**{k: a[here] for k, a in vars(laplace).items()}),
            )
    return out


def _infer_star(
    pixels: PixelModel,
    priors: LabelPriors,
    likelihood: Likelihood,
    sampler: LabelSampler | None,
    star: _Star,
    settings: InferenceSettings,
    seed: int,
) -> StarResult:
    """Draws and checks of one star."""
    status, summary = _at_mode(pixels, likelihood, star)
    spectrum = star.spectrum
    if sampler is None:
        draws = _laplace_draws(priors, star, settings, seed)
        status |= StarStatus.LAPLACE
    else:
        data = likelihood.data(pixels, spectrum)
        draws, checks, problems = _sample_twice(sampler, data, star, settings, seed)
        draws.statistics["lp"] += likelihood.constant(spectrum)
        draws.statistics["energy"] -= likelihood.constant(spectrum)
        status |= problems
        summary |= vars(checks)
    labels = thin(draws.labels, settings.n_khat or 100)
    ell = pixels.basis.standardize(labels)
    summary["chi2_p"] = predictive_p(spectrum.compressed, likelihood.chi2(pixels, spectrum, ell))
    if settings.n_khat and sampler is None:
        summary["khat"] = laplace_khat(
            pixels, priors, star.laplace, spectrum, labels, likelihood=likelihood
        )
    elif settings.n_khat:
        summary["khat"] = pareto_khat(pixels, spectrum, ell, likelihood=likelihood)
    if summary.get("khat", 0.0) > 0.7:
        status |= StarStatus.HIGH_KHAT
    return StarResult(status, draws, summary)


def _at_mode(
    pixels: PixelModel, likelihood: Likelihood, star: _Star
) -> tuple[StarStatus, dict[str, Any]]:
    laplace, status = star.laplace, StarStatus(0)
    if not laplace.converged[0]:
        status |= StarStatus.MODE_NOT_CONVERGED
    if not laplace.exact[0]:
        status |= StarStatus.NOT_GAUSSIAN
    if laplace.mode_gap[0] < 10:
        status |= StarStatus.SEVERAL_MODES
    ell = pixels.basis.standardize(laplace.labels)
    return status, {
        "n_modes": int(laplace.n_modes[0]),
        "mode_gap": float(laplace.mode_gap[0]),
        "chi2": float(likelihood.chi2(pixels, star.spectrum, ell)[0]),
        "factors_p": factors_p(laplace.factors[0]),
        "map_labels": laplace.labels[0],
        "laplace_cov": laplace.cov[0],
    }


def _laplace_draws(
    priors: LabelPriors, star: _Star, settings: InferenceSettings, seed: int
) -> Draws:
    rng = np.random.default_rng(star_seed(seed, star.star_id))
    y = rng.standard_normal((settings.chains, settings.draws, star.laplace.u.shape[1]))
    return Draws(priors.constrain(star.laplace.u[0] + y @ star.laplace.chol[0].T), {})


def _sample_twice(
    sampler: LabelSampler,
    data: Mapping[str, FloatArray],
    star: _Star,
    settings: InferenceSettings,
    seed: int,
) -> tuple[Draws, Convergence, StarStatus]:
    """Sample; where the checks fail, once more with a longer warm-up and shorter steps."""
    nuts, status = settings.nuts, StarStatus(0)
    for stage in range(2):
        draws = sampler.sample(
            data, star.laplace.u[0], star.laplace.chol[0], nuts,
            star_seed(seed, star.star_id, stage),
        )  # fmt: skip
        checks = check_convergence(draws.labels, draws.statistics["diverging"])
        problems = checks.problems(settings.rhat_limit, settings.ess_limit)
        if not problems:
            break
        if stage == 0:
            status |= StarStatus.SAMPLED_AGAIN
            accept = max(0.95, nuts.target_accept)
            nuts = replace(nuts, tune=10 * nuts.tune, target_accept=accept)
    return draws, checks, status | problems


@dataclass(frozen=True, eq=False)
class StarResult:
    """What became of one star.

    Attributes
    ----------
    status : StarStatus
    draws : Draws or None
        None where there is no posterior.
    summary : mapping of str
        Values of the star's row in ``star_stats``.
    """

    status: StarStatus
    draws: Draws | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)


_SUMMARY = {
    "rhat_max": "largest R-hat over the labels",
    "ess_bulk_min": "smallest bulk effective sample size",
    "ess_tail_min": "smallest tail effective sample size",
    "divergences": "divergent transitions",
    "n_modes": "distinct modes found",
    "mode_gap": "log density of the best mode minus that of the second",
    "khat": "Pareto k-hat of the draws' density against the likelihood of all pixels",
    "chi2": "chi-square at the mode",
    "chi2_p": "posterior-predictive p-value of chi-square",
    "factors_p": "probability under N(0, 1) of nuisance factors as large as at the mode",
}
_DIMS = ("chain", "draw", "star")


def assemble(
    basis: PolynomialBasis,
    priors: LabelPriors,
    star_id: NDArray[np.str_],
    n_used: NDArray[np.integer[Any]],
    results: list[StarResult],
    settings: InferenceSettings,
    seed: int,
) -> xr.DataTree:
    """Put the stars of a block together, a DataTree by the InferenceData schema.

    Parameters
    ----------
    basis, priors, settings
        Labels with their scaling, their priors, and how they were inferred.
    star_id, n_used
        Ids and numbers of used pixels, shape (n_stars,).
    results
        One per star.
    seed
        Kept among the attributes.
    """
    coords = {
        "chain": np.arange(settings.chains),
        "draw": np.arange(settings.draws),
        "star": star_id,
    }
    names = {"label_name": list(basis.names), "label_name_2": list(basis.names)}
    attrs = {
        "inference_library": "bayes_cannon",
        "sampler": "nutpie" if settings.method == "nuts" else "none",
        "method": settings.method,
        "likelihood": likelihood_text(settings.likelihood),
        "seed": int(seed),
        "tuning_steps": settings.tune if settings.method == "nuts" else 0,
    }
    stats = _star_stats(basis, n_used, results)
    groups = {
        "posterior": schema_dataset(_posterior(basis, results, coords), coords, attrs),
        "star_stats": schema_dataset(stats, {"star": star_id, **names}, attrs),
        "constant_data": schema_dataset(_constant(basis, priors), names, attrs),
    }
    if settings.method == "nuts":
        groups["sample_stats"] = schema_dataset(_sample_stats(results, coords), coords, attrs)
    return xr.DataTree.from_dict(groups)


def _shape(coords: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    return tuple(len(coords[d]) for d in _DIMS)


def _posterior(
    basis: PolynomialBasis, results: list[StarResult], coords: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    labels = np.full((basis.n_labels, *_shape(coords)), np.nan, dtype=np.float32)
    for i, result in enumerate(results):
        if result.draws is not None:
            labels[..., i] = np.moveaxis(result.draws.labels, -1, 0)
    return {
        name: (_DIMS, labels[i], {"units": unit})
        for i, (name, unit) in enumerate(zip(basis.names, basis.units, strict=True))
    }


def _sample_stats(results: list[StarResult], coords: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    variables: dict[str, Any] = {}
    for name, statistic in STATISTICS.items():
        empty = np.nan if statistic.kept.kind == "f" else 0
        array = np.full(_shape(coords), empty, dtype=statistic.kept)
        for i, result in enumerate(results):
            if result.draws is not None:
                array[..., i] = result.draws.statistics[name]
        variables[name] = (_DIMS, array)
    return variables


def _star_stats(
    basis: PolynomialBasis, n_used: NDArray[np.integer[Any]], results: list[StarResult]
) -> dict[str, Any]:
    k, n = basis.n_labels, len(results)
    variables: dict[str, Any] = {}
    for name, text in _SUMMARY.items():
        column = np.array([float(r.summary.get(name, np.nan)) for r in results])
        variables[name] = ("star", column, {"long_name": text})
    variables["used_pixels"] = ("star", n_used.astype(np.int32), {"long_name": "pixels used"})
    status = np.array([int(r.status) for r in results], dtype=np.int32)
    meaning = " ".join(str(s.name) for s in StarStatus)
    masks = np.array([int(s) for s in StarStatus], dtype=np.int32)
    variables["status"] = ("star", status, {"flag_masks": masks, "flag_meanings": meaning})
    mode, cov = np.full((n, k), np.nan), np.full((n, k, k), np.nan)
    for i, result in enumerate(results):
        mode[i] = result.summary.get("map_labels", np.nan)
        cov[i] = result.summary.get("laplace_cov", np.nan)
    variables["map_labels"] = (("star", "label_name"), mode)
    variables["laplace_cov"] = (("star", "label_name", "label_name_2"), cov)
    return variables


def _constant(basis: PolynomialBasis, priors: LabelPriors) -> dict[str, Any]:
    columns = {
        "prior_lower": priors.lower,
        "prior_upper": priors.upper,
        "prior_mean": priors.mean,
        "prior_sd": np.array([p.sd for p in priors.priors]),
        "label_center": basis.center,
        "label_scale": basis.scale,
    }
    return {name: ("label_name", array) for name, array in columns.items()}


def join_blocks(blocks: list[xr.DataTree]) -> xr.DataTree:
    """Put the DataTrees of several blocks of stars together.

    Parameters
    ----------
    blocks
        Results of `sample_block`, of one and the same model, in the order of the stars.

    Raises
    ------
    NoStarsError
        If there is none.
    """
    if not blocks:
        raise NoStarsError("there is no block of stars to join.")
    if len(blocks) == 1:
        return blocks[0]
    groups: dict[str, xr.Dataset] = {}
    for name in blocks[0].children:
        parts = [block[name].to_dataset() for block in blocks]
        if "star" in parts[0].dims:
            groups[name] = xr.concat(parts, "star", combine_attrs="override", join="exact")
        else:
            groups[name] = parts[0]
    return xr.DataTree.from_dict(groups)
