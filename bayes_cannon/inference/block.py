"""Posteriors of a block of stars: a pure function of arrays and seeds.

`sample_block` finds the modes of all its stars together, then samples them side by side. A star
that cannot be done is a row of NaN with a status; it never stops the others, and what one star
gives does not depend on which others are done with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayes_cannon.base.parallel import StopSign, one_blas_thread, threads_here
from bayes_cannon.base.typing import AnyArray, FloatArray
from bayes_cannon.errors import BayesCannonError, FitError
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
from bayes_cannon.inference.likelihood.compression import Compressed
from bayes_cannon.inference.likelihood.kinds import (
    Likelihood,
    OneStar,
    likelihood_of,
)
from bayes_cannon.inference.likelihood.pixels import PixelModel, pixels_needed
from bayes_cannon.inference.modes import Laplace, fit_laplace
from bayes_cannon.inference.reference import log_snr
from bayes_cannon.inference.results import StarResult, assemble
from bayes_cannon.inference.sampler import Draws, LabelSampler, Stage, star_seed
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.spectra.spectra import NormalizedSpectra

__all__ = [
    "notes_of",
    "sample_block",
]

_LOG = logging.getLogger(__name__)
_CORRECT_KHAT = 0.5
"""k-hat from which the likelihood is corrected and the star sampled again."""
_WRONG_KHAT = 0.7
"""k-hat that gives a star its flag: it is measured again on more draws before, and a correction of
such a k-hat counts as gone wrong."""
_CORRECTIONS = 3
_BADLY_SAMPLED = StarStatus.RHAT | StarStatus.LOW_ESS | StarStatus.DIVERGENCES
_LONGER = 8
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
    columns = () if pixels.templates is None else pixels.templates.columns
    return assemble(pixels.basis, priors, star_id, n_used, results, settings, seed, columns=columns)


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
        khat, draws, problems, checks = _sample_and_correct(
            pixels, likelihood, sampler, star, settings, seed
        )
        status |= problems
        summary |= vars(checks)
        if settings.n_khat:
            summary["khat"] = khat
    labels = thin(draws.labels, settings.n_khat or 100)
    ell = pixels.basis.standardize(labels)
    summary["chi2_p"] = predictive_p(spectrum.compressed, likelihood.chi2(pixels, spectrum, ell))
    if settings.n_khat and sampler is None:
        summary["khat"] = laplace_khat(
            pixels, priors, star.laplace, spectrum, labels, likelihood=likelihood
        )
    if summary.get("khat", 0.0) > _WRONG_KHAT:
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
        "independent_pixels": float(star.spectrum.compressed.n_effective[0]),
        "log_snr": float(log_snr(star.spectrum.ivar[None])[0]),
        "factors_square": float(np.sum(laplace.factors[0] ** 2)) if pixels.n_hidden else np.nan,
        "factors_p": factors_p(laplace.factors[0]),
        "map_labels": laplace.labels[0],
        "laplace_cov": laplace.cov[0],
        **_known_terms(pixels, star),
    }


def _known_terms(pixels: PixelModel, star: _Star) -> dict[str, Any]:
    """Amplitudes of known terms at the mode, and their errors, the labels' included."""
    if pixels.templates is None:
        return {}
    templates, laplace = pixels.templates, star.laplace
    ell = pixels.basis.standardize(laplace.labels)
    slopes = pixels.basis.jacobian(ell) / pixels.basis.scale
    cov = star.spectrum.compressed.term_covariance(
        slopes @ laplace.cov @ np.swapaxes(slopes, 1, 2)
    )[0]
    mean = laplace.factors[0, pixels.n_factors :] * templates.scale
    sd = np.sqrt(np.maximum(np.diag(cov), 0.0)) * templates.scale
    found = dict[str, Any](term_amplitude=mean, term_amplitude_sd=sd)
    for column, value, error in zip(templates.columns, mean, sd, strict=True):
        if column.chip < 0:
            found |= {column.name: float(value), f"{column.name}_sd": float(error)}
    return found


def _laplace_draws(
    priors: LabelPriors, star: _Star, settings: InferenceSettings, seed: int
) -> Draws:
    rng = np.random.default_rng(star_seed(seed, star.star_id))
    y = rng.standard_normal((settings.chains, settings.draws, star.laplace.u.shape[1]))
    return Draws(priors.constrain(star.laplace.u[0] + y @ star.laplace.chol[0].T), {})


def _sample_and_correct(
    pixels: PixelModel,
    likelihood: Likelihood,
    sampler: LabelSampler,
    star: _Star,
    settings: InferenceSettings,
    seed: int,
) -> tuple[float, Draws, StarStatus, Convergence]:
    """Sample a likelihood that is corrected towards the full one.

    Where k-hat of the draws tells the two apart, what it lacks is learnt at the draws, up to
    `_CORRECTIONS` times. The draws of the smallest k-hat stay; a correction that moves the labels
    by more than a standard deviation, or samples badly, is none, and leaves the star its k-hat.
    """
    spectrum = star.spectrum
    runs: list[tuple[float, Draws, StarStatus, Convergence]] = []
    for number in range(_CORRECTIONS + 1):
        data = likelihood.data(pixels, spectrum)
        draws, checks, problems = _sample_twice(sampler, data, star, settings, seed)
        draws.statistics["lp"] += likelihood.constant(spectrum)
        draws.statistics["energy"] -= likelihood.constant(spectrum)
        if runs and (problems & _BADLY_SAMPLED or _moved(runs[0][1], draws)):
            break
        khat = np.nan
        if settings.n_khat:
            ell = pixels.basis.standardize(thin(draws.labels, settings.n_khat))
            khat = pareto_khat(pixels, spectrum, ell, likelihood=likelihood)
            if khat > _WRONG_KHAT:  # that of few draws scatters by 0.2
                ell = pixels.basis.standardize(thin(draws.labels, 5 * settings.n_khat))
                khat = pareto_khat(pixels, spectrum, ell, likelihood=likelihood)
        runs.append((khat, draws, problems, checks))
        # Draws of a correction that went wrong are no place to learn the next one.
        wrong = khat > _WRONG_KHAT and number > 0
        if wrong or not khat > _CORRECT_KHAT or number == _CORRECTIONS:
            break
        better = likelihood.corrected(pixels, spectrum, ell)
        if better is spectrum:
            break
        spectrum = better
    return min(runs, key=lambda run: np.inf if np.isnan(run[0]) else run[0])


def _moved(first: Draws, draws: Draws) -> bool:
    """Whether draws lie elsewhere than the first ones: beyond one of their standard deviations."""
    old, new = (d.labels.reshape(-1, d.labels.shape[-1]) for d in (first, draws))
    sd = np.maximum(old.std(axis=0), 1e-300)
    ratio = new.std(axis=0) / sd
    far = np.abs(new.mean(axis=0) - old.mean(axis=0)) > sd
    return bool(np.any(far | (ratio > 2) | (ratio < 0.5)))


def _sample_twice(
    sampler: LabelSampler,
    data: Mapping[str, FloatArray],
    star: _Star,
    settings: InferenceSettings,
    seed: int,
) -> tuple[Draws, Convergence, StarStatus]:
    """Sample; where the checks fail, once more: longer, with a longer warm-up and shorter steps.

    Of the longer chains every `_LONGER`-th draw is kept; divergences count wherever they were.
    """
    nuts, every, status = settings.nuts, 1, StarStatus(0)
    for stage in (Stage.FIRST, Stage.AGAIN):
        found = sampler.sample(
            data, star.laplace.u[0], star.laplace.chol[0], nuts,
            star_seed(seed, star.star_id, stage),
        )  # fmt: skip
        kept = {name: values[:, ::every] for name, values in found.statistics.items()}
        draws = Draws(found.labels[:, ::every], kept)
        checks = check_convergence(draws.labels, found.statistics["diverging"])
        problems = checks.problems(settings.rhat_limit, settings.ess_limit)
        if not problems:
            break
        if stage == Stage.FIRST:
            status |= StarStatus.SAMPLED_AGAIN
            accept, every = max(0.95, nuts.target_accept), _LONGER
            nuts = replace(
                nuts, tune=10 * nuts.tune, draws=_LONGER * nuts.draws, target_accept=accept
            )
    return draws, checks, status | problems


def notes_of(spectra: NormalizedSpectra, *, with_snr: bool) -> dict[str, AnyArray]:
    """What is noted of the stars of a block, and their quoted S/N.

    Parameters
    ----------
    spectra
        Of the block.
    with_snr
        Whether S/N is known of any star of all blocks.

    Returns
    -------
    dict of str to (n_stars,) str
        '' where unknown.
    """
    if not with_snr:
        return dict(spectra.notes)
    texts = [f"{snr:.6g}" if np.isfinite(snr) else "" for snr in spectra.snr.tolist()]
    return {**spectra.notes, "SNR": np.array(texts, dtype=np.str_)}
