"""The search for binaries: every star of a dataset, with the error rate of the answer.

For the null the training stars are fitted by models that were trained without them, in folds; sums
of two stars of a fold, by the same model, are the pairs that should be found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from astropy.table import Table, vstack
from numpy.typing import NDArray

from bayes_cannon.analysis.binaries.evidence import Evidence, learn_evidence
from bayes_cannon.analysis.binaries.one_age import light_on_isochrones
from bayes_cannon.analysis.binaries.pair_errors import (
    LabelErrors,
    PairErrors,
    learn_pair_errors,
)
from bayes_cannon.analysis.binaries.pairs import Stock, draw_pairs, sum_spectra, with_tied_light
from bayes_cannon.analysis.isochrones import IsochroneSet
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.parallel import as_executor
from bayes_cannon.base.progress import Progress, Tell, as_progress
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, NoStarsError
from bayes_cannon.inference.arguments import GivenModel, as_model, as_spectra
from bayes_cannon.inference.binaries.fast_pass import FastPass, fast_pass, rest_frame_error
from bayes_cannon.inference.binaries.pair_priors import PairPrior
from bayes_cannon.inference.binaries.search import BinarySettings, require_together
from bayes_cannon.inference.binaries.two_stars import TwoStarModel
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.models.two_stars import light_labels
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.spectra import NormalizedSpectra, same_grid
from bayes_cannon.training.cross_validation import assign_folds, same_spectra
from bayes_cannon.training.pipeline import train
from bayes_cannon.training.settings import TrainingSettings

__all__ = [
    "BinarySearch",
    "find_binaries",
]

_LOG = logging.getLogger(__name__)

_VISITS = ("NVISITS", "VHELIO_AVG", "VSCATTER", "VERR")
"""Radial velocities of the visits, shown where the catalogue has them."""
_UNLIKE = 1.5
"""Misfit of the pair over the largest of left-out training stars, from which a star is unlike."""
_FRAMES = 100
"""Stars on which the rest frame's error is measured."""


@dataclass(frozen=True, eq=False)
class BinarySearch:
    """What a search for binaries found.

    Attributes
    ----------
    table : astropy.table.Table
        One row a star: P_BINARY, FALSE_POSITIVE_RATE, CANDIDATE, labels of both stars, LIGHT, DV,
        what they follow from, and UNLIKE_TRAINING, where neither one star nor two fit. Errors
        ``_ERR`` are as large as the labels of known sums of two stars are off, ``_FORMAL_ERR``
        follow from noise and scatter alone.
    found : FastPass
        The same stars.
    evidence : Evidence
        The score, and that of single stars and pairs.
    errors : PairErrors
        How far labels are off.
    pairs : astropy.table.Table
        The sums of two stars: what they are of, and FOUND.
    null : FastPass
        The training stars, each by a model without it.
    settings : BinarySettings
        With the rest frame's error as measured.
    prior_rate, false_positive_rate, threshold : float
        As asked for, and the score from which a star is a candidate.
    second : Cannon or None
        The model of second stars, where it is another one.
    """

    table: Table
    found: FastPass
    evidence: Evidence
    errors: PairErrors
    pairs: Table
    null: FastPass
    settings: BinarySettings
    prior_rate: float
    false_positive_rate: float
    threshold: float
    second: Cannon | None = None

    @property
    def candidates(self) -> NDArray[np.str_]:
        """Ids of the candidates, the most probable first."""
        rows = np.flatnonzero(self.table["CANDIDATE"])
        order = np.argsort(-np.asarray(self.table["SCORE"])[rows], kind="stable")
        return self.found.star_id[rows[order]]


def find_binaries(
    cannon: GivenModel,
    spectra: Any,
    *,
    training: TrainingSet | None = None,
    second: GivenModel | None = None,
    light: Literal["free", "tied", "isochrone"] | None = None,
    isochrones: IsochroneSet | None = None,
    settings: BinarySettings | None = None,
    prior_rate: float = 0.03,
    false_positive_rate: float = 0.01,
    folds: int = 5,
    n_pairs: int | None = None,
    seed: int | None = None,
    executor: Executor | None = None,
    progress: Progress = None,
) -> BinarySearch:
    """Look for spectra that are the sum of two stars.

    Two giants show; a giant's dwarf companion has 1 to 3 % of the light in H and does not. What can
    be found is in `BinarySearch.pairs`.

    Parameters
    ----------
    cannon
        The trained model, the path of its file, or a run.
    spectra
        `NormalizedSpectra` on the model's pixels, or a `TrainingSet`. Training stars among them
        are judged by models that were fitted without them.
    training
        Spectra and labels of the training stars; left out, those among `spectra`.
    second
        A model that second stars are of, of dwarfs and subgiants say, with the same labels, pixels
        and continuum; left out, that of the first stars. Sums then have second stars as this model
        predicts them for its training stars.
    light
        ``'free'``, or ``'tied'`` to the labels of both stars, or ``'isochrone'``, see
        `BinarySettings`; of sums too. Left out, as `settings` say.
    isochrones
        On which both stars lie, of one age, for ``light='isochrone'``: what `read_mist` read from
        files of several ages and [Fe/H].
    settings
        Of the search. The rest frame's error is measured on the training stars where left out.
    prior_rate
        Share of pairs among stars, for P_BINARY.
    false_positive_rate
        Share of single stars that may become candidates.
    folds
        Models that are fitted for the null.
    n_pairs
        Sums of two stars; None: two for each training star.
    seed
        Of folds and pairs; None takes a fresh one, which the table's meta data hold.
    executor
        Fits blocks of stars side by side, see `bayes_cannon.inference.infer_labels`; the result is
        the same to the last bit.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    InvalidDataError
        If a rate is not between 0 and 1, the spectra are not on the model's pixels, or `second`
        is not alike.
    NoStarsError
        If training stars are missing, of which the null is made.
    FitError
        If they are too few, or the executor fails.
    """
    model, given, seed = as_model(cannon), as_spectra(spectra), as_seed(seed)
    fit = partial(fast_pass, executor=as_executor(executor))
    other = None if second is None else as_model(second)
    asked = settings or BinarySettings()
    if light is not None or isochrones is not None:
        require_together(light or asked.light, isochrones)
        models = (model,) if other is None else (model, other)
        one_age = None if isochrones is None else light_on_isochrones(isochrones, *models)
        asked = replace(asked, light=light or asked.light, isochrones=one_age)
    # What does not go together is refused before anything is fitted.
    both = TwoStarModel.from_cannon(model, dv_max=asked.dv_max, inflate=asked.inflate, second=other)
    PairPrior.make(both, asked)
    for name, rate in (("prior_rate", prior_rate), ("false_positive_rate", false_positive_rate)):
        if not 0 < rate < 1:
            raise InvalidDataError(f"{name} = {rate} must lie between 0 and 1.")
    stars = _training_stars(model, spectra if training is None else training)
    for some in (given, stars.spectra):
        if not same_grid(model.wavelength, some.wavelength):
            raise InvalidDataError(
                f"the spectra ({some.n_pixels} pixels) are not on the wavelengths of the model "
                f"({model.n_pixels} pixels); prepare them with the settings of its training set."
            )
    if settings is None:
        few = slice(0, _FRAMES)
        frame = rest_frame_error(model, stars.spectra.flux[few], stars.spectra.ivar[few])
        asked = replace(asked, rest_frame=frame)
    settings = asked
    wanted = 2 * stars.n_stars if n_pairs is None else n_pairs
    with as_progress(progress) as tell:
        null, injected, pairs = _calibrate(
            model, other, stars, settings, folds, wanted, seed, tell, fit
        )  # fmt: skip
        evidence = learn_evidence(null, injected)
        found = _search(model, other, given, null, settings, tell, fit)
    threshold = evidence.threshold(false_positive_rate)
    pairs["DELTA_CHI2"], pairs["SCORE"] = injected.delta_chi2, evidence.score(injected)
    pairs["FOUND"] = pairs["SCORE"] >= threshold
    single = np.isfinite(evidence.score(null))
    single[single] = evidence.null_weight > 0.5
    errors = learn_pair_errors(null, single, stars.labels, injected, pairs)
    table = _table(model, given, found, evidence, errors, prior_rate, threshold)
    table["UNLIKE_TRAINING"] = _unlike(found, null)
    for name in _VISITS:  # of several visits, beside what one spectrum says
        if name.lower() in getattr(spectra, "info", {}):
            table[name] = spectra.info[name.lower()]
    table.meta |= {
        "SEED": seed, "PRIORRAT": prior_rate, "FPR": false_positive_rate, "THRESH": threshold,
        "RESTFRAM": settings.rest_frame, "DVMAX": settings.dv_max, "NNULL": len(null.star_id),
        "NPAIRS": len(pairs), "SHARE": evidence.share, "SIMULATE": bool(given.simulated),
        "LIGHTIS": settings.light, "SECOND": "own" if other is None else "another model",
    }  # fmt: skip
    if settings.isochrones is not None:
        table.meta |= {"ISOCHRON": settings.isochrones.source, "ISOLIGHT": settings.isochrones.band}
    return BinarySearch(
        table, found, evidence, errors, pairs, null, settings, prior_rate, false_positive_rate,
        threshold, other,
    )  # fmt: skip


def _training_stars(cannon: Cannon, given: Any) -> TrainingSet:
    """Return the model's training stars, complete ones, out of a dataset."""
    if not isinstance(given, TrainingSet):
        raise NoStarsError(
            "the null needs spectra and labels of the training stars; give the dataset that the "
            "model was trained on as training."
        )
    rows = np.flatnonzero(np.isin(given.star_id, cannon.training.star_id))
    if not rows.size:
        raise NoStarsError(
            "the dataset holds none of the model's training stars; give the one that the model was "
            "trained on as training."
        )
    stars = given.select(rows)
    return replace(stars, labels=stars.labels.only(cannon.names))


def _calibrate(
    cannon: Cannon, second: Cannon | None, stars: TrainingSet, settings: BinarySettings,
    folds: int, n_pairs: int, seed: int, tell: Tell, fit: Callable[..., FastPass],
) -> tuple[FastPass, FastPass, Table]:  # fmt: skip
    """Fast pass of every training star and of pairs of them, by models without them."""
    spectra, rng = stars.spectra, np.random.default_rng([seed, 1])
    fold = assign_folds(stars.star_id, folds, seed=seed, same=same_spectra(spectra.flux))
    null, injected, tables = list[FastPass](), list[FastPass](), list[Table]()
    every = Stock.make(stars, second)
    for number in range(folds):
        tell(number, folds, "single stars and pairs")
        left = np.flatnonzero(fold == number)
        model = _without(cannon, stars.select(np.flatnonzero(fold != number)), seed)
        null.append(
            fit(
                model,
                spectra.star_id[left],
                spectra.flux[left],
                spectra.ivar[left],
                settings,
                second=second,
            )
        )
        arrays = TwoStarModel.from_cannon(
            model, dv_max=settings.dv_max, inflate=settings.inflate, second=second
        )
        values = cannon.basis.standardize(every.labels)
        tied = arrays.abundances & (settings.alike is not None)
        share = (number + 1) * n_pairs // folds - number * n_pairs // folds
        pairs = draw_pairs(
            share, left, values[:, tied], rng, light_max=settings.light_max,
            dv_max=settings.dv_max if arrays.resolved else 0.0, seconds=every.seconds,
        )  # fmt: skip
        if settings.light != "free":
            places = light_labels(cannon.names, metal=settings.isochrones is not None)
            pairs = with_tied_light(
                pairs, every.labels[:, places], rng, scatter=settings.light_scatter,
                light_max=settings.light_max, swap=second is None, isochrones=settings.isochrones,
            )  # fmt: skip
        flux, ivar = sum_spectra(arrays, every.flux, every.ivar, pairs, rng)
        names = np.array([f"pair-{number}-{i}" for i in range(share)])
        injected.append(fit(model, names, flux, ivar, settings, second=second))
        tables.append(
            pairs.table(cannon.names, every.labels, every.errors, every.star_id, cannon.basis.units)
        )
    tell(folds, folds, "single stars and pairs")
    return _joined(null), _joined(injected), vstack(tables)


def _without(cannon: Cannon, stars: TrainingSet, seed: int) -> Cannon:
    """Fit the model to some of its training stars, with its number of factors."""
    made: Mapping[str, Any] = cannon.settings.get("training", {})
    settings = TrainingSettings(
        n_factors=cannon.n_factors, degree=cannon.basis.degree, folds=0,
        latent_labels=bool(made.get("latent_labels", True)),
    )  # fmt: skip
    windows = {name: [tuple(r) for r in ranges] for name, ranges in made.get("windows", {}).items()}
    fitted = train(stars, settings=settings, windows=windows or None, seed=seed)
    return replace(fitted, kappa=cannon.kappa, kappa_noise=cannon.kappa_noise)


def _joined(parts: list[FastPass]) -> FastPass:
    return FastPass(
        **{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])}
    )


def _search(
    cannon: Cannon, second: Cannon | None, spectra: NormalizedSpectra, null: FastPass,
    settings: BinarySettings, tell: Tell, fit: Callable[..., FastPass],
) -> FastPass:  # fmt: skip
    """Fast pass of all stars; of training stars what the models without them found."""
    place = {star: i for i, star in enumerate(null.star_id.tolist())}
    known = np.array([place.get(star, -1) for star in spectra.star_id.tolist()])
    new = np.flatnonzero(known < 0)
    fresh = fit(
        cannon, spectra.star_id[new], spectra.flux[new], spectra.ivar[new], settings, second=second,
        progress=lambda done: tell(done, new.size, "looking for binaries"),
    )  # fmt: skip
    rows = known.copy()
    rows[new] = len(null.star_id) + np.arange(new.size)
    return _joined([null, fresh]).select(rows)


def _unlike(found: FastPass, null: FastPass) -> NDArray[np.bool_]:
    """Stars that even two stars do not fit as they fit any training star; a warning names some."""
    misfit, usual = (x.chi2_pair / x.independent_pixels for x in (found, null))
    unlike = np.asarray(misfit > _UNLIKE * np.nanmax(usual))
    if unlike.any():
        _LOG.warning(
            "%d of %d stars (%s) are fitted worse than any training star, by two stars, too; "
            "whether they are pairs of other stars was not tested (column UNLIKE_TRAINING).",
            unlike.sum(), unlike.size, ", ".join(found.star_id[unlike][:3]),
        )  # fmt: skip
    return unlike


def _table(
    cannon: Cannon, spectra: NormalizedSpectra, found: FastPass, evidence: Evidence,
    known: PairErrors, prior_rate: float, threshold: float,
) -> Table:  # fmt: skip
    score = evidence.score(found)
    columns: dict[str, Any] = {
        spectra.id_name: found.star_id,
        "CANDIDATE": score >= threshold,
        "P_BINARY": evidence.p_binary(score, prior_rate),
        "FALSE_POSITIVE_RATE": evidence.false_positive_rate(score),
        "SCORE": score,
        "DELTA_CHI2": found.delta_chi2,
        "IMPROVEMENT": found.improvement,
        "LIGHT": found.light, "LIGHT_ERR": found.light_sd,
        "DV": found.dv, "DV_ERR": found.dv_sd,
        "SHIFT": found.shift, "BROADENING": found.broadening,
    }  # fmt: skip
    kinds: tuple[tuple[str, FloatArray, FloatArray, LabelErrors], ...] = (
        ("1", found.primary, found.primary_sd, known.primary),
        ("2", found.secondary, found.secondary_sd, known.secondary),
        ("SINGLE", found.single, found.single_sd, known.single),
    )
    for kind, values, formal, learnt in kinds:
        errors = learnt.of(formal)
        for k, name in enumerate(cannon.names):
            columns[f"{name}_{kind}"] = values[:, k]
            columns[f"{name}_{kind}_ERR"] = errors[:, k]
            columns[f"{name}_{kind}_FORMAL_ERR"] = formal[:, k]
    columns |= {
        "CHI2_SINGLE": found.chi2_single, "CHI2_PAIR": found.chi2_pair,
        "NPIX_INDEPENDENT": found.independent_pixels, "SNR": np.asarray(spectra.snr),
        "N_STARTS": found.n_starts,
        "MODE_GAP": found.mode_gap, "OTHER_LIGHT": found.other_light, "OTHER_DV": found.other_dv,
    }  # fmt: skip
    table = Table(columns)
    units = dict(zip(cannon.names, cannon.basis.units, strict=True))
    for column in table.colnames:
        name = column.removesuffix("_ERR").removesuffix("_FORMAL").rpartition("_")[0]
        if units.get(name):
            table[column].unit = units[name]
    for column in ("DV", "DV_ERR", "SHIFT", "BROADENING", "OTHER_DV"):
        table[column].unit = "km/s"
    return table
