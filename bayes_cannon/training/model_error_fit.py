"""Learn the model error from cross-validation, by NUTS; see `model_error` for the model."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from arviz_stats.base.array import array_stats
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.compiled.any_length import AnyLengthModel
from bayes_cannon.base.numerical import numerical_stage
from bayes_cannon.base.storage import schema_dataset
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError
from bayes_cannon.inference.calibrated import ErrorModel
from bayes_cannon.inference.reference import FitReference
from bayes_cannon.inference.sampler import STATISTICS
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.error_terms import ErrorTerms
from bayes_cannon.models.model_error import (
    Differences,
    build_model_error_model,
    correlation_factors,
    model_data,
)
from bayes_cannon.training.cross_validation import CrossValidation

__all__ = [
    "ModelErrorSettings",
    "fit_model_error",
    "outlier_probability",
    "prepare_differences",
    "stars_needed",
    "width_of_all_stars",
]


_LOG = logging.getLogger(__name__)

_COMPILED: dict[Any, AnyLengthModel] = {}
"""Compiled in this process, by number of labels and by features: data are swapped."""
_LOCK = threading.Lock()
_LOG_U = np.linspace(-5.0, 3.0, 81)
_POWER_OF_STARS = 0.125
_OUTLYING = 0.25
"""Share of the usual precision below which a star is an outlier: errors twice as large."""


@dataclass(frozen=True)
class ModelErrorSettings:
    """How the model error is sampled.

    Attributes
    ----------
    draws, tune, chains : int
        Draws kept and warm-up steps of each chain, and chains.
    max_stars : int
        Of more stars than this a random part is used: the time goes with their number.
    rhat_limit : float
        Beyond it, or with divergences, sampling is done once more with shorter steps, a longer
        warm-up and twice the draws.
    """

    draws: int = 700
    tune: int = 400
    chains: int = 4
    max_stars: int = 600
    rhat_limit: float = 1.02

    def __post_init__(self) -> None:
        if min(self.draws, self.tune, self.max_stars) < 10 or self.chains < 1:
            raise InvalidDataError("draws, tune and max_stars must be at least 10, chains 1.")


def width_of_all_stars(fold: NDArray[np.int64]) -> float:
    """Errors of the model of all stars in units of those of the folds' models.

    These were fitted with the share 1 - 1 / folds of the stars; see `model_error`.

    Parameters
    ----------
    fold
        Of every star, shape (n_stars,).

    Examples
    --------
    >>> round(width_of_all_stars(np.array([0, 1, 2, 3, 4])), 3)
    0.972
    """
    return float((1 - 1 / max(np.unique(fold).size, 2)) ** _POWER_OF_STARS)


def stars_needed(n_labels: int) -> int:
    """Stars below which a covariance of the labels' errors cannot be learnt.

    Parameters
    ----------
    n_labels
        How many labels there are.
    """
    return 4 * n_labels


def prepare_differences(
    found: CrossValidation, basis: PolynomialBasis, *, max_stars: int, seed: int
) -> tuple[Differences, ErrorTerms, FloatArray]:
    """Differences of the complete stars, what they depend on, and their unit (n_labels,).

    The unit is the robust spread of the differences, in standardised labels.

    Parameters
    ----------
    found
        Labels of the training stars, each without the star.
    basis
        Scaling of the labels.
    max_stars
        Stars to keep at most.
    seed
        Of their choice.

    Raises
    ------
    FitError
        If there are too few stars.
    """
    rows = np.flatnonzero(found.complete)
    k = basis.n_labels
    if rows.size < stars_needed(k):
        raise FitError(
            f"{count_text(rows.size, 'star')} with all labels are too few to learn the model error "
            f"of {k} labels; at least {stars_needed(k)} are needed (or train without "
            "cross-validation)."
        )
    if rows.size > max_stars:
        rows = np.sort(np.random.default_rng(seed).choice(rows, max_stars, replace=False))
    predicted, scale = found.predicted[rows], basis.scale
    terms = ErrorTerms.learn(basis, found.catalogue, predicted)
    difference = found.difference[rows] / scale
    error = np.nan_to_num(found.catalogue.errors[rows]) / scale
    formal = found.cov[rows] / scale[:, None] / scale
    unit = median_abs_deviation(difference, axis=0, scale="normal")
    unit = np.maximum(unit, 1e-6)
    data = Differences(
        basis.names, found.catalogue.star_id[rows], difference / unit,
        formal / unit[:, None] / unit, (error / unit)[:, :, None] ** 2 * np.eye(k),
        terms.features(predicted), terms.degree, ("distance", *found.fit.growth_terms),
        np.column_stack([terms.log_growth(predicted), _unusual(found.fit)[rows]]),
        terms.edge(predicted),
    )  # fmt: skip
    return data, terms, unit


def _unusual(fit: FitReference) -> FloatArray:
    """How unusual each left-out star is among all of them."""
    return fit.log_growth(fit.chi2_reduced, fit.factors_square, fit.log_snr)


def fit_model_error(
    found: CrossValidation,
    basis: PolynomialBasis,
    *,
    settings: ModelErrorSettings | None = None,
    seed: int | None = None,
    cores: int | None = None,
) -> xr.DataTree:
    """Learn the model error from cross-validation, by NUTS.

    Parameters
    ----------
    found
        Labels of the training stars, each without the star.
    basis
        Of the trained model.
    settings
        Of the sampler.
    seed
        Of the sampler, and of the choice of stars where there are too many; None takes a fresh
        one, which is in the attribute ``seed``.
    cores
        Chains that run side by side; None: all cores.

    Returns
    -------
    xarray.DataTree
        Groups ``posterior`` (``bias``, ``bias_coef``, ``covariance`` in physical units,
        ``growth``, ``growth_edge``, ``nu``, ``bias_scale``, ``formal_scale``), ``sample_stats``,
        ``constant_data`` (what the error depends on) and ``differences`` (what it was learnt
        from, and ``outlier``, see `outlier_probability`). ArviZ takes it as it is: `az.summary`,
        `az.plot_trace`, `az.plot_forest`.

    Raises
    ------
    FitError
        If there are too few stars, or the sampler cannot start.
    """
    settings, seed = settings or ModelErrorSettings(), as_seed(seed)
    with numerical_stage(
        "the model error", "look at the labels of the training stars for outliers, or train "
        "without cross-validation (folds = 0)",
    ):  # fmt: skip
        data, terms, unit = prepare_differences(
            found, basis, max_stars=settings.max_stars, seed=seed
        )
    trace = _sample(_compiled(data), settings, seed, cores)
    posterior = _physical(
        trace["posterior"].to_dataset(), data, unit * basis.scale, width_of_all_stars(found.fold)
    )
    stats = trace["sample_stats"].to_dataset()
    kept = {statistic.column: name for name, statistic in STATISTICS.items()}
    groups = {
        "posterior": posterior,
        "sample_stats": stats[list(kept)].reset_coords(drop=True).rename(kept),
        "constant_data": terms.to_dataset(basis.names),
        "differences": _differences(found),
    }
    model = ErrorModel.from_tree(xr.DataTree.from_dict(groups))
    groups["differences"]["outlier"] = ("star", outlier_probability(found, model))
    for name in ("posterior", "sample_stats"):
        groups[name].attrs = groups[name].attrs | {
            "inference_library": "pymc", "sampler": "nutpie", "tuning_steps": settings.tune,
            "seed": int(seed), "n_stars": data.star_id.size,
        }  # fmt: skip
    return xr.DataTree.from_dict(groups)


def outlier_probability(found: CrossValidation, error: ErrorModel) -> FloatArray:
    """Probability of each star to have errors over twice those of other stars like it, (n_stars,).

    By the Student-t at the mean of its parameters: that of u < 1/4, given the star's differences.
    What makes a star unusual in its spectrum (factors, chi-square, place) has widened its errors
    before. NaN for a star with a label missing.

    Parameters
    ----------
    found
        Labels of the training stars, each without the star.
    error
        The model error that was learnt from them.
    """
    rows, terms = np.flatnonzero(found.complete), error.terms
    predicted, k = found.predicted[rows], len(error.names)
    log_growth = np.column_stack([terms.log_growth(predicted), _unusual(found.fit)[rows]])
    width = np.exp(
        (log_growth @ error.growth.mean(axis=0))[:, None]
        + error.growth_edge.mean() * terms.edge(predicted)
    )
    bias = error.bias.mean(axis=0) + terms.features(predicted) @ error.bias_coef.mean(axis=0)
    scale, nu = error.formal_scale.mean(axis=0), float(error.nu.mean())
    sigma = np.mean(error.chol @ np.swapaxes(error.chol, 1, 2), axis=0)
    width /= width_of_all_stars(found.fold)
    own = width[:, :, None] * width[:, None] * (sigma + np.outer(scale, scale) * found.cov[rows])
    known = np.nan_to_num(found.catalogue.errors[rows])[:, :, None] ** 2 * np.eye(k)
    r = (found.difference[rows] - bias)[..., None]
    log_p = np.empty((_LOG_U.size, rows.size))
    for i, log_u in enumerate(_LOG_U):
        chol = np.linalg.cholesky(own * np.exp(-log_u) + known)
        y = np.linalg.solve(chol, r)[..., 0]
        log_det = np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
        log_p[i] = 0.5 * (nu * (log_u - np.exp(log_u)) - np.sum(y**2, axis=1)) - log_det
    p = np.exp(log_p - log_p.max(axis=0))
    out = np.full(found.fold.size, np.nan)
    out[rows] = p[np.exp(_LOG_U) < _OUTLYING].sum(axis=0) / p.sum(axis=0)
    return out


def _compiled(data: Differences) -> Any:
    """Compile the model (some seconds), or take an earlier one; with these data."""
    key = (len(data.names), tuple(data.degree.tolist()), data.growth_terms)
    with _LOCK:
        if key not in _COMPILED:
            _COMPILED[key] = AnyLengthModel.compile(build_model_error_model(data))
    return _COMPILED[key].with_data(model_data(data), data.star_id.size)


def _sample(
    compiled: Any, settings: ModelErrorSettings, seed: int, cores: int | None
) -> xr.DataTree:
    """Draw; once more with shorter steps and twice the draws where chains disagree or diverge."""
    import nutpie

    draws, tune, accept = settings.draws, settings.tune, 0.8
    for attempt in range(2):
        try:
            trace = nutpie.sample(
                compiled, draws=draws, tune=tune, chains=settings.chains, cores=cores,
                seed=seed + attempt, target_accept=accept, progress_bar=False, save_warmup=False,
            )  # fmt: skip
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise FitError(
                f"the model error cannot be sampled ({reason}); look at the labels of the "
                "training stars for outliers and for labels that follow from one another, or train "
                "without cross-validation (folds = 0)."
            ) from error
        worst = _worst_rhat(trace)
        divergences = int(trace["sample_stats"]["diverging"].sum())
        if worst <= settings.rhat_limit and divergences == 0:
            break
        draws, tune, accept = 2 * settings.draws, 4 * settings.tune, 0.95
    else:
        _LOG.warning(
            "the model error's chains have R-hat %.3f and %d divergences; look at the group "
            "model_error of the trained model before calibrated errors are used.",
            worst, divergences,
        )  # fmt: skip
    tree: xr.DataTree = trace
    return tree


def _worst_rhat(trace: xr.DataTree) -> float:
    worst = 1.0
    for draws in trace["posterior"].data_vars.values():
        if draws.sizes["chain"] > 1 and draws.size:
            columns = np.moveaxis(draws.values.reshape(*draws.shape[:2], -1), -1, 0)
            rhat = array_stats.rhat(columns)  # type: ignore[no-untyped-call]
            worst = max(worst, float(np.max(rhat)))
    return worst


def _physical(draws: xr.Dataset, data: Differences, unit: FloatArray, width: float) -> xr.Dataset:
    """Draws in physical units, without those of the stars' own u; errors times `width`."""
    lead, k = ("chain", "draw"), len(data.names)
    triangle = correlation_factors(draws["factor_diagonal"].values, draws["factor_lower"].values)
    triangle *= (width * draws["sd"].values * unit)[..., None]
    formal = draws["log_formal_scale"].values[..., None] + draws["log_formal_ratio"].values
    variables: dict[str, Any] = {
        "bias": ((*lead, "label_name"), draws["bias"].values * unit),
        "covariance": (
            (*lead, "label_name", "label_name_2"), triangle @ np.swapaxes(triangle, -1, -2),
        ),
        "growth": ((*lead, "growth_term"), draws["growth"].values),
        "formal_scale": ((*lead, "label_name"), width * np.exp(formal)),
        "growth_edge": (lead, draws["growth_edge"].values),
        "nu": (lead, 2 + draws["nu_excess"].values),
    }  # fmt: skip
    coef = np.zeros((*draws["nu_excess"].shape, data.degree.size, k))
    if data.degree.size:
        scale = draws["bias_scale"].values
        variables["bias_scale"] = ((*lead, "degree"), scale)
        place = np.searchsorted(np.unique(data.degree), data.degree)
        coef = draws["bias_raw"].values * scale[..., place, None] * unit
    variables["bias_coef"] = ((*lead, "feature", "label_name"), coef)
    coords = {"chain": draws["chain"].values, "draw": draws["draw"].values}
    names = {"label_name": list(data.names), "label_name_2": list(data.names)}
    terms = {"growth_term": list(data.growth_terms)}
    return schema_dataset(variables, coords | names | terms)


def _differences(found: CrossValidation) -> xr.Dataset:
    names = list(found.catalogue.names)
    both = ("star", "label_name")
    return schema_dataset(
        {
            "predicted": (both, found.predicted),
            "catalogue": (both, found.catalogue.values),
            "catalogue_error": (both, found.catalogue.errors),
            "formal_cov": ((*both, "label_name_2"), found.cov),
            **found.fit.to_variables(),
            "fold": ("star", found.fold),
        },
        {
            "star": found.catalogue.star_id.astype(object),
            "label_name": names,
            "label_name_2": names,
        },
    )
