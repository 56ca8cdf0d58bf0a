"""Train The Cannon: from a training set to a frozen `Cannon`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.numerical import numerical_stage
from bayes_cannon.base.parallel import as_executor
from bayes_cannon.base.progress import Progress, Tell, as_progress
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError, NoStarsError
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.label_moments import require_independent
from bayes_cannon.spectra.distortions import KnownTerms
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.reductions import require_unmixed
from bayes_cannon.training.cross_validation import cross_validate
from bayes_cannon.training.factor_choice import (
    TERMS_TRIED,
    FactorChoice,
    choose_factors,
    choose_terms,
)
from bayes_cannon.training.factors import join_design, most_factors
from bayes_cannon.training.label_errors import (
    LatentLabels,
    SpectrumLabels,
    calibrated_design,
    check_label_errors,
    combine_labels,
    widened_ivar,
)
from bayes_cannon.training.map_fit import MapFit, fit_map, only_pixels
from bayes_cannon.training.missing_labels import labels_from_spectra
from bayes_cannon.training.model_error_fit import fit_model_error, stars_needed
from bayes_cannon.training.pixels.amplitudes import without_terms
from bayes_cannon.training.pixels.columns import SomePixels, SomeStars, good_in_any, survey_arrays
from bayes_cannon.training.pixels.fit import Design
from bayes_cannon.training.pixels.term_state import require_room
from bayes_cannon.training.result import (
    freeze_fit,
    record_of,
    uninformative_labels,
    with_effective_pixels,
)
from bayes_cannon.training.settings import TrainingSettings, Windows, free_coefficients

if TYPE_CHECKING:
    from bayes_cannon.spectra.dataset import TrainingSet

__all__ = [
    "label_design",
    "train",
]


_log = logging.getLogger(__name__)


def label_design(
    labels: Labels,
    basis: PolynomialBasis,
    *,
    latent_labels: bool = True,
    spectrum: SpectrumLabels | None = None,
) -> tuple[Design, FloatArray | None]:
    """Features of the training labels, their means where a label is missing or uncertain.

    `spectrum` holds what the spectra say of stars that lack a label.

    Parameters
    ----------
    labels
        Of the training stars.
    basis
        Scaling and terms.
    latent_labels
        Whether errors of the labels are taken into account.
    spectrum
        What the spectra say of stars that lack a label.

    Returns
    -------
    Design
        v at the labels, or E[v].
    variance : (n_stars, n_terms (n_terms + 1) / 2) float64 or None
        Packed covariance of v; None where all labels are taken as exact.
    """
    incomplete = ~labels.complete
    latent_labels = latent_labels and bool(np.any(labels.errors > 0))
    if not (latent_labels or incomplete.any()):
        ell = basis.standardize(labels.values)
        error = np.nan_to_num(labels.errors / basis.scale)
        slopes = basis.jacobian(ell) * error[:, None, :]
        return replace(Design.exact(basis.features(ell)), slopes=slopes), None
    latent = combine_labels(labels, basis, spectrum)
    if not latent_labels:
        ell = np.where(incomplete[:, None], latent.mean, basis.standardize(labels.values))
        error = np.nan_to_num(labels.errors / basis.scale)
        own = (error**2)[:, :, None] * np.eye(labels.n_labels)
        cov = np.where(incomplete[:, None, None], latent.cov, own)
        tiny = 1e-12 * np.eye(labels.n_labels)
        latent = LatentLabels(ell, np.where(incomplete[:, None, None], latent.cov, tiny))
    else:
        cov = latent.cov
    design, variance = calibrated_design(latent, basis)
    root = np.linalg.cholesky(cov + 1e-12 * np.eye(labels.n_labels))
    return replace(design, slopes=basis.jacobian(latent.mean) @ root), variance


def _training_stars(dataset: TrainingSet, settings: TrainingSettings) -> TrainingSet:
    require_unmixed(dataset)
    bright = ~(dataset.spectra.snr < settings.snr_min)
    keep = bright & (dataset.labels.complete | (settings.missing != "drop"))
    keep &= np.isfinite(dataset.labels.values).any(axis=1)
    if not keep.all():
        _log.info(
            "%d of %d stars left out of training: %d fainter than S/N %g, the rest without labels",
            (~keep).sum(), keep.size, (~bright).sum(), settings.snr_min,
        )  # fmt: skip
    if not keep.any():
        raise NoStarsError(
            f"none of {count_text(keep.size, 'star')} is bright enough (S/N >= "
            f"{settings.snr_min:g}) and has labels; lower snr_min or allow missing labels."
        )
    return dataset.select(keep) if not keep.all() else dataset


def _enough(n_stars: int, basis: PolynomialBasis, ids: NDArray[np.str_]) -> None:
    if n_stars < basis.n_labels + 2:
        raise FitError(
            f"{count_text(n_stars, 'training star')} ({name_some(ids)}) are too few for "
            f"{count_text(basis.n_labels, 'label')}; at least {basis.n_labels + 2} are needed, and "
            "ten per label are sensible."
        )


def _as_training_set(given: Any) -> TrainingSet:
    """A training set; opened where a path is given, with spectra that may stay on disk."""
    from bayes_cannon.spectra.stored import open_dataset

    if isinstance(given, str | os.PathLike):
        return open_dataset(given)
    if not (hasattr(given, "spectra") and hasattr(given, "labels")):
        raise InvalidDataError(
            "a training set is needed, from prepare(), training_set_from_arrays() or "
            f"TrainingSet.load(), or the path of its file, not an object of type "
            f"{type(given).__name__}."
        )
    stars: TrainingSet = given
    return stars


def train(
    dataset: TrainingSet | str | os.PathLike[str],
    *,
    method: Literal["map", "advi"] | None = None,
    n_factors: int | Literal["auto"] | None = None,
    settings: TrainingSettings | None = None,
    windows: Windows | None = None,
    held_out: Sequence[str] = (),
    seed: int | None = None,
    executor: Executor | None = None,
    progress: Progress = None,
) -> Cannon:
    """Fit the training model to a training set.

    Parameters
    ----------
    dataset
        Normalised spectra and labels of the training stars, or the path of their file.
    method, n_factors
        As in `TrainingSettings`, of which they are the short form; None: ``"map"`` and ``"auto"``.
    settings
        All settings together, in place of these two.
    windows
        Wavelength ranges to which labels are confined.
    held_out
        Ids of stars kept for testing, recorded in the result.
    seed
        Of the choice and first guess of the factors, and of ADVI; None draws a fresh one, which
        the result records.
    executor
        Tries numbers of factors, does the folds of the cross-validation and, of spectra on disk,
        fits blocks of pixels side by side, see `cross_validate`.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    NoStarsError, FitError, LabelError
        If there are too few stars, or labels that cannot be trained on.
    InvalidDataError
        If `method` or `n_factors` are given beside `settings`, or `dataset` is no training set.
    """
    dataset = _as_training_set(dataset)
    if settings is not None and not (method is None and n_factors is None):
        raise InvalidDataError(
            "say method and n_factors in settings, TrainingSettings(method=..., n_factors=...), "
            "or give no settings."
        )
    if settings is not None and not isinstance(settings, TrainingSettings):
        raise InvalidDataError(f"settings must be TrainingSettings, not {settings!r}.")
    if settings is None:
        settings = TrainingSettings(
            method="map" if method is None else method,
            n_factors="auto" if n_factors is None else n_factors,
        )
    seed = as_seed(seed)
    stars = _training_stars(dataset, settings)
    labels = stars.labels
    basis = PolynomialBasis.from_labels(labels, settings.degree)
    _enough(len(labels), basis, labels.star_id)
    require_independent(labels.names, basis.standardize(labels.values))
    if settings.latent_labels:
        check_label_errors(labels)
    most = _most_factors(stars, settings)
    remedy = "look for extreme fluxes, errors or labels among the training stars"
    with numerical_stage("training", remedy), as_progress(progress) as tell:
        return _train(
            stars, basis, settings, most=most, windows=windows, held_out=held_out, seed=seed,
            executor=as_executor(executor), progress=tell,
        )  # fmt: skip


def _has_folds(stars: TrainingSet, settings: TrainingSettings) -> bool:
    """Whether there are enough stars with all labels for the cross-validation that is wanted."""
    n_complete = int(stars.labels.complete.sum())
    needed = max(stars_needed(stars.labels.n_labels), settings.folds)
    return settings.folds > 0 and n_complete >= needed


def _most_factors(stars: TrainingSet, settings: TrainingSettings) -> int:
    """Largest possible number of factors; refuses more."""
    n_stars = len(stars.labels)
    fewest = n_stars - -(-n_stars // settings.folds) if _has_folds(stars, settings) else n_stars
    n_pixels = int(good_in_any(survey_arrays(stars.spectra)[1]).sum())
    most = most_factors(fewest, n_pixels, stars.labels.n_labels)
    if settings.n_factors != "auto" and settings.n_factors > most:
        of_fold = f" (of which {fewest} are in the smallest fold)" if fewest < n_stars else ""
        raise FitError(
            f"{count_text(settings.n_factors, 'factor')} are too many for "
            f"{count_text(n_stars, 'training star')}{of_fold}, "
            f"{count_text(stars.labels.n_labels, 'label')} and {n_pixels} pixels: at most {most} "
            "are possible. Lower n_factors (--factors), or leave it at 'auto'."
        )
    return most


def _train(
    stars: TrainingSet,
    basis: PolynomialBasis,
    settings: TrainingSettings,
    *,
    most: int,
    windows: Windows | None,
    held_out: Sequence[str],
    seed: int,
    executor: Executor | None,
    progress: Tell,
) -> Cannon:
    spectra, labels = stars.spectra, stars.labels
    flux, ivar = survey_arrays(spectra)
    if settings.terms not in ((), "auto") and not isinstance(flux, np.ndarray):
        require_room(*flux.shape)
    inner = replace(settings, method="map", missing="drop", folds=0, terms=())
    spectrum = labels_from_spectra(
        stars, basis, partial(train, settings=inner, windows=windows, seed=seed, progress=progress),
        n_factors=settings.n_factors,
    )  # fmt: skip
    design, variance = label_design(
        labels, basis, latent_labels=settings.latent_labels, spectrum=spectrum
    )
    free = free_coefficients(basis, spectra.wavelength, windows)
    if variance is not None:
        first = fit_map(
            flux, ivar, design, free=free, priors=settings.priors, seed=seed, executor=executor
        )
        ivar = widened_ivar(ivar, variance, first.mean[:, : design.n_coef])
    history: dict[str, FloatArray] = {}
    factors, choice = settings.n_factors, None
    if factors == "auto":
        choice = choose_factors(
            flux, ivar, design, most=most, free=free, priors=settings.priors, seed=seed,
            executor=executor, progress=progress,
        )  # fmt: skip
        factors = choice.n_factors
        history["factor_grid"] = choice.grid.astype(np.float64)
        history["predictive"], history["predictive_error"] = choice.predictive, choice.error
        history["predictive_rising"] = np.array(float(choice.rising))
        if choice.rising:
            _log.warning(
                "the predictive density was still rising at %d factors, the most that were tried "
                "on %d training stars: more stars, or more factors by hand, may do better.",
                choice.grid[-1], len(labels),
            )  # fmt: skip
    terms, told = _known_terms(
        stars, ivar, design, settings, choice, n_factors=factors, free=free, seed=seed,
        progress=progress,
    )  # fmt: skip
    fit = fit_map(
        flux, ivar, design, n_factors=factors, free=free, priors=settings.priors,
        seed=seed, progress=progress, terms=terms, executor=executor,
    )  # fmt: skip
    history["bound"] = np.array(fit.bound)
    if settings.method == "advi":
        with numerical_stage("ADVI", "train with method = 'map'"):
            fit, elbo = _advi(flux, ivar, design, fit, seed, progress)
        history["elbo"] = elbo
    record = record_of(stars, settings, factors, windows, seed, converged=fit.converged)
    record["training"] |= told
    cannon = freeze_fit(stars, basis, fit, np.asarray(held_out, np.str_), history, record)
    record["training"]["uninformative_labels"] = uninformative_labels(cannon, ivar)
    if settings.folds == 0:
        return cannon
    return _with_model_error(
        cannon,
        stars,
        design,
        ivar,
        free,
        imputed=spectrum is not None,
        settings=settings,
        seed=seed,
        executor=executor,
        progress=progress,
    )


def _known_terms(
    stars: TrainingSet,
    ivar: NDArray[Any],
    design: Design,
    settings: TrainingSettings,
    beside: FactorChoice | None,
    *,
    n_factors: int,
    free: NDArray[np.bool_] | None,
    seed: int,
    progress: Tell,
) -> tuple[KnownTerms | None, dict[str, Any]]:
    """Known terms of the fit, as given or chosen, and what the record says of them."""
    spectra, names, told = stars.spectra, settings.terms, dict[str, Any]()
    flux = survey_arrays(spectra)[0]
    if names == "auto" and not (settings.n_factors == "auto" and isinstance(flux, np.ndarray)):
        names = ()  # known terms take all spectra in memory, so that they must be asked for there
    if names == "auto":
        tried = KnownTerms.on(TERMS_TRIED, spectra.wavelength, spectra.chips)
        choice = choose_terms(
            flux, ivar, design, tried, n_factors=n_factors, free=free,
            priors=settings.priors, seed=seed, beside=beside, progress=progress,
        )  # fmt: skip
        names = choice.names
        gains = zip(choice.tried, choice.gain.tolist(), choice.error.tolist(), strict=True)
        told["term_gain"] = {name: [gain, error] for name, gain, error in gains}
    told["chosen_terms"] = list(names)
    return (KnownTerms.on(names, spectra.wavelength, spectra.chips) if names else None), told


def _with_model_error(
    cannon: Cannon,
    stars: TrainingSet,
    design: Design,
    ivar: Any,
    free: NDArray[np.bool_] | None,
    *,
    imputed: bool,
    settings: TrainingSettings,
    seed: int,
    executor: Executor | None,
    progress: Tell,
) -> Cannon:
    if not _has_folds(stars, settings):
        return _without_model_error(
            cannon,
            f"{count_text(stars.labels.complete.sum(), 'training star')} with all labels are too "
            "few to learn the model error "
            f"({max(stars_needed(stars.labels.n_labels), settings.folds)} are needed)",
        )
    seen, spectra = cannon, stars.spectra
    if imputed:
        # Labels that were inferred know of the complete stars, also of those that a fold leaves
        # out: with them the errors of the label would come out up to twice too small.
        rows = np.flatnonzero(stars.labels.complete)
        seen = replace(cannon, training=cannon.training.select(rows), factors=cannon.factors[rows])
        spectra, design, ivar = spectra.select(rows), design.rows(rows), SomeStars(ivar, rows)
    try:
        found = cross_validate(
            seen, spectra, design, ivar=ivar, free=free, folds=settings.folds, seed=seed,
            priors=settings.priors, executor=executor, progress=progress,
        )  # fmt: skip
        cannon = with_effective_pixels(cannon, found.effective, settings.folds)
        progress(0, 1, "model error")
        return cannon.with_model_error(fit_model_error(found, cannon.basis, seed=seed))
    except FitError as error:
        return _without_model_error(cannon, str(error).rstrip("."))


def _without_model_error(cannon: Cannon, reason: str) -> Cannon:
    """Return the model as it is; says and records why its errors cannot be calibrated."""
    _log.warning("%s: results will have no calibrated posterior.", reason)
    training = {**cannon.settings["training"], "no_model_error": reason}
    return replace(cannon, settings={**cannon.settings, "training": training})


def _advi(
    flux: Any,
    ivar: Any,
    design: Design,
    fit: MapFit,
    seed: int,
    progress: Tell,
) -> tuple[MapFit, FloatArray]:
    from bayes_cannon.training.advi import fit_advi

    templates = fit.templates(design.n_coef)
    if templates is not None and fit.amplitudes is not None:
        flux, ivar = without_terms(flux, ivar, design.mean, templates, fit.amplitudes)
    whole = design if fit.factors is None else join_design(design, fit.factors)
    known, some = Design.exact(whole.mean), np.flatnonzero(fit.fitted)
    part = only_pixels(fit, some)
    found = fit_advi(
        SomePixels(flux, some), SomePixels(ivar, some), known, part, seed=seed, progress=progress
    )
    if not found.converged.all():
        _log.warning(
            "ADVI used up its steps in %d of %d chunks of pixels; look at the ELBO before use.",
            (~found.converged).sum(), found.converged.size,
        )  # fmt: skip
    arrays = {}
    for name in ("mean", "cov", "log_scatter", "log_scatter_sd"):
        arrays[name] = getattr(fit, name).copy()
        arrays[name][some] = getattr(found, name)
    return replace(fit, **arrays, converged=bool(found.converged.all())), found.elbo
