r"""K-fold cross-validation inside the training set: labels of stars that a model has not seen.

The stars are split into folds. For every fold the coefficients of all pixels are fitted again
without its stars, and the labels of the fold's stars are found by their mode and Laplace
covariance. Predicted minus catalogue labels then show what the formal covariance leaves out.

A fold's fit begins from nothing. Started from the fit to all stars and carried on for two or five
rounds it would be five times as quick, but the factors remember the stars that are left out: on
three splits of 300 synthetic giants (6 factors) the rms errors came out 5 to 17 % too small.

Stars with one and the same spectrum stay together, else a model would know those it predicts.

A fold's model has fewer stars than the final one (four fifths, with five folds), so that its
errors are slightly larger; `model_error` allows for it.
"""

from __future__ import annotations

import hashlib
import logging
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import chain, count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.engines.shared import Shared, sharing
from bayes_cannon.base.numerical import numerical_stage
from bayes_cannon.base.parallel import as_executor, in_order, one_blas_thread
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.inference.likelihood.pixels import PixelModel, pixels_needed
from bayes_cannon.inference.modes import ModeSettings, fit_laplace
from bayes_cannon.inference.reference import FitReference
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.hyperparameters import TrainingPriors
from bayes_cannon.models.label_priors import LabelPrior, LabelPriors
from bayes_cannon.spectra.distortions import KnownTerms
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra, name_some
from bayes_cannon.training.effective_pixels import (
    EffectivePixels,
    LeftOut,
    learn_effective_pixels,
    look_at_left_out,
)
from bayes_cannon.training.map_fit import MapFit, fit_map
from bayes_cannon.training.pixels.columns import SomeStars, survey_arrays
from bayes_cannon.training.pixels.fit import Design

__all__ = [
    "CrossValidation",
    "assign_folds",
    "cross_validate",
    "same_spectra",
]

_LOG = logging.getLogger(__name__)
_TOLERANCE = 5e-3
"""Of the folds' fits, see `fit_map`."""


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Labels of the training stars, each by a model that was fitted without the star.

    Attributes
    ----------
    catalogue : Labels
        Labels and errors the stars have, physical units.
    predicted : (n_stars, n_labels) float64
        Posterior mode, physical units; NaN for a star without enough pixels.
    cov : (n_stars, n_labels, n_labels) float64
        Formal covariance, physical units.
    fit : FitReference
        How well each star is fitted, NaN where it has no labels.
    fold : (n_stars,) int64
    effective : EffectivePixels
        Pixels per independent one, with which labels and covariances were found.
    seed : int
        Of the split.
    """

    catalogue: Labels
    predicted: FloatArray
    cov: FloatArray
    fit: FitReference
    fold: NDArray[np.int64]
    effective: EffectivePixels
    seed: int = 0

    @property
    def difference(self) -> FloatArray:
        """Predicted minus catalogue, shape (n_stars, n_labels), physical units."""
        return np.asarray(self.predicted - self.catalogue.values)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Stars with a prediction and all labels in the catalogue, shape (n_stars,)."""
        return np.asarray(np.isfinite(self.difference).all(axis=1))


def assign_folds(
    star_id: NDArray[np.str_], folds: int, *, seed: int, same: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Fold of every star, shape (n_stars,): even, and the same in whatever order stars come.

    Parameters
    ----------
    star_id, folds, seed
        What the folds depend on.
    same
        A number for every star, shape (n_stars,): stars that share it are kept in one fold.

    Raises
    ------
    InvalidDataError
        If there are fewer than two folds, or fewer stars than folds.

    >>> np.bincount(assign_folds(np.array(["a", "b", "c", "d", "e", "f"]), 3, seed=1)).tolist()
    [2, 2, 2]
    """
    if not 2 <= folds <= star_id.size:
        raise InvalidDataError(
            f"{count_text(folds, 'fold')} of {count_text(star_id.size, 'star')}; choose 2 to "
            f"{star_id.size}."
        )
    keys = [hashlib.sha256(f"{int(seed)}/{name}".encode()).digest() for name in star_id.tolist()]
    groups: dict[int, list[int]] = {}
    for star in sorted(range(star_id.size), key=keys.__getitem__):
        groups.setdefault(star if same is None else int(same[star]), []).append(star)
    if len(groups) < folds:
        raise InvalidDataError(
            f"{count_text(folds, 'fold')}, but only "
            f"{count_text(len(groups), 'different spectrum')} of "
            f"{count_text(star_id.size, 'training star')}; leave out what is there twice, or train "
            "without cross-validation (folds = 0)."
        )
    out = np.empty(star_id.size, dtype=np.int64)
    for number, stars in enumerate(groups.values()):
        out[stars] = number % folds
    return out


def same_spectra(flux: Any) -> NDArray[np.int64]:
    """Number of every star, shape (n_stars,), that stars with exactly the same flux share.

    Parameters
    ----------
    flux
        Shape (n_stars, n_pixels).
    """
    digests = [
        hashlib.blake2b(np.ascontiguousarray(row).tobytes()).digest()
        for start in range(0, len(flux), 64)
        for row in flux[start : start + 64]
    ]
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    return np.array([first[digest] for digest in digests], dtype=np.int64)


@numerical_stage("cross-validation", "look for extreme fluxes, errors or labels")
def cross_validate(
    cannon: Cannon,
    spectra: NormalizedSpectra,
    design: Design,
    *,
    ivar: Any = None,
    free: NDArray[np.bool_] | None = None,
    folds: int = 5,
    seed: int | None = None,
    priors: TrainingPriors | None = None,
    executor: Executor | None = None,
    progress: Progress = None,
) -> CrossValidation:
    """Predict the labels of every training star without it.

    Parameters
    ----------
    cannon
        The model fitted to all of the stars.
    spectra
        Of its training stars, in the order of ``cannon.training``.
    design
        Features of their labels.
    ivar
        Inverse variances used in training, shape (n_stars, n_pixels), where uncertain labels have
        widened the pixels; None: those of the spectra.
    free
        Coefficients that may differ from zero, shape (n_pixels, n_terms); None: all.
    folds
        Number of folds.
    seed
        Of the split, together with the stars' ids, and of the first guess of the factors; None
        takes a fresh one, which the result holds.
    priors
        Of the hyperparameters.
    executor
        Does folds side by side, see `bayes_cannon.inference.infer_labels`; the result is the same
        to the last bit.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    InvalidDataError
        If stars and model do not belong together, or on an impossible number of folds.
    FitError
        If a fold cannot be fitted, or the executor fails.
    """
    executor, seed = as_executor(executor), as_seed(seed)
    if not np.array_equal(spectra.star_id, cannon.training.star_id):
        raise InvalidDataError("the spectra are not those of the model's training stars, in order.")
    flux, own_ivar = survey_arrays(spectra)
    same = same_spectra(flux)
    if np.any(twins := same != np.arange(same.size)):
        _LOG.warning(
            "%d of %d training stars (%s) have exactly the spectrum of another one: they count "
            "more than once; leave out what is there twice.",
            twins.sum(), twins.size, name_some(spectra.star_id[twins]),
        )  # fmt: skip
    fold = assign_folds(spectra.star_id, folds, seed=seed, same=same)
    ivar = own_ivar if ivar is None else ivar
    n, k = cannon.training.values.shape
    predicted, cov = np.full((n, k), np.nan), np.full((n, k, k), np.nan)
    fit = FitReference(*np.full((3, n), np.nan))
    common = _Stars(fold, cannon, spectra, design, ivar, free, seed, priors)
    done = count(1)
    with as_progress(progress) as tell, sharing(executor, common) as shared:
        tasks = (_Fold(number, shared) for number in range(folds))
        tell(0, folds, "cross-validation")
        parts = list(
            in_order(
                executor, _do_fold, tasks, named=lambda task: f"fold {task.number + 1}",
                finished=lambda _: tell(next(done), folds, "cross-validation"),
            )
        )  # fmt: skip
    blocks = list(chain.from_iterable(parts))
    if not blocks:
        raise FitError(
            "cross-validation found labels of none of the training stars: none has enough usable "
            "pixels; look at the masks, or train without cross-validation (folds = 0)."
        )
    labels = cannon.training
    with one_blas_thread():
        effective, modes = learn_effective_pixels(
            cannon.basis, blocks, labels.values, labels.errors
        )
    for found in modes:
        predicted[found.rows], cov[found.rows] = found.labels, found.cov
        fit.chi2_reduced[found.rows] = found.chi2 / found.n_effective
        fit.factors_square[found.rows] = found.factors_square
        fit.log_snr[found.rows] = found.log_snr
    return CrossValidation(labels, predicted, cov, fit, fold, effective, seed=seed)


@dataclass(frozen=True, eq=False)
class _Stars:
    """What all folds need; see `cross_validate`."""

    fold: NDArray[np.int64]
    cannon: Cannon
    spectra: NormalizedSpectra
    design: Design
    ivar: Any
    free: NDArray[np.bool_] | None
    seed: int
    priors: TrainingPriors | None


@dataclass(frozen=True, eq=False)
class _Fold:
    """What an executor is sent to predict the stars of a fold."""

    number: int
    stars: Shared[_Stars]


def _do_fold(task: _Fold) -> list[LeftOut]:
    """Fit the stars of the other folds and predict those of this one.

    Linear algebra has one thread, whoever else works beside it: its last digits depend on that.
    """
    stars = task.stars.value
    cannon, rows = stars.cannon, np.flatnonzero(stars.fold != task.number)
    terms = KnownTerms.on(cannon.terms, cannon.wavelength, cannon.chips) if cannon.terms else None
    flux = survey_arrays(stars.spectra)[0]
    with one_blas_thread():
        fit = fit_map(
            SomeStars(flux, rows), SomeStars(stars.ivar, rows), stars.design.rows(rows),
            n_factors=cannon.n_factors, free=stars.free, priors=stars.priors, seed=stars.seed,
            tolerance=_TOLERANCE, terms=terms,
        )  # fmt: skip
        test = np.flatnonzero(stars.fold == task.number)
        return _predict(_with_fit(cannon, fit), stars.spectra, test)


def _with_fit(cannon: Cannon, fit: MapFit) -> Cannon:
    """Return the model with the coefficients and scatters of another fit."""
    k = cannon.basis.n_terms
    theta = fit.mean[:, :k].copy()
    theta[:, 0] += 1
    return replace(
        cannon, theta=theta, loadings=fit.mean[:, k:], coef_cov=fit.cov, scatter=fit.scatter,
        hyper=fit.hyper, used=cannon.used & fit.fitted, kappa=np.ones(len(cannon.chips)),
        kappa_noise=np.ones(len(cannon.chips)),
        term_scale=cannon.term_scale if fit.terms is None else fit.terms.scale,
    )  # fmt: skip


def _predict(model: Cannon, spectra: NormalizedSpectra, test: NDArray[np.intp]) -> list[LeftOut]:
    """What the left-out stars say, in blocks of stars; a star that fails is left out."""
    pixels = PixelModel.from_cannon(model)
    low, high = model.label_range
    wide = zip(model.names, low - 3 * (high - low), high + 3 * (high - low), strict=True)
    priors = LabelPriors.for_labels(model.names, {n: LabelPrior.uniform(a, b) for n, a, b in wide})
    settings, out = ModeSettings(n_starts=2), list[LeftOut]()
    arrays = survey_arrays(spectra)

    def look(rows: NDArray[np.intp], flux: FloatArray, ivar: FloatArray) -> LeftOut:
        found = fit_laplace(pixels, priors, flux, ivar, settings)
        return look_at_left_out(pixels, model.chips, priors, rows, flux, ivar, *found)

    for a in range(0, test.size, 64):
        rows = test[a : a + 64]
        flux, ivar = (pixels.take(array[rows]) for array in arrays)
        enough = np.sum(ivar > 0, axis=1) >= pixels_needed(pixels.n_pixels)
        rows, flux, ivar = rows[enough], flux[enough], ivar[enough]
        if rows.size == 0:
            continue
        try:
            out.append(look(rows, flux, ivar))
        except np.linalg.LinAlgError:  # one star costs itself, not its block
            for i in range(rows.size):
                one = slice(i, i + 1)
                try:
                    out.append(look(rows[one], flux[one], ivar[one]))
                except np.linalg.LinAlgError as error:
                    name = spectra.star_id[rows[i]]
                    _LOG.warning("cross-validation: no labels of %s: %s", name, error)
    return out
