"""Mean and intrinsic covariance of the labels of a group of stars; see `models.group_model`."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from arviz_stats.base.array import array_stats
from astropy.table import Table

from bayes_cannon.analysis.groups.members import Members, choose_members, labels_of_members
from bayes_cannon.base.columns import as_seed, one_or_more
from bayes_cannon.base.compiled.kept import compile_model
from bayes_cannon.base.numerical import interval_from_zero
from bayes_cannon.base.storage import schema_dataset
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError, InvalidDataError, LabelError
from bayes_cannon.inference.arguments import GivenResult, as_result
from bayes_cannon.inference.posterior import (
    group_of,
    is_simulated,
    model_is_simulated,
    posterior_names,
)
from bayes_cannon.inference.sampler import STATISTICS
from bayes_cannon.inference.units import units_of_result
from bayes_cannon.models.group_model import GroupLabels, build_group_model, group_data
from bayes_cannon.models.model_error import correlation_factors

__all__ = [
    "GroupSettings",
    "fit_group",
    "group_table",
    "population",
]

_LOG = logging.getLogger(__name__)
_COMPILED: dict[tuple[int, int], Any] = {}
"""Compiled in this process, by numbers of labels and stars: data are swapped."""
_MAX_COMPILED = 8
_LOCK = threading.Lock()
_ROUND = 16
"""Stars are filled up to a multiple of this, so that a compiled model serves many groups."""
_NOTHING = 1e6
"""Error of stars that fill up, in units of the prior of the scatter: they say nothing."""


@dataclass(frozen=True)
class GroupSettings:
    """How the model of a group is sampled.

    Attributes
    ----------
    draws, tune, chains : int
        Draws kept and warm-up steps of each chain, and chains.
    rhat_limit : float
        Beyond it, or with divergences, sampling is done once more with shorter steps.
    """

    draws: int = 1000
    tune: int = 500
    chains: int = 4
    rhat_limit: float = 1.02

    def __post_init__(self) -> None:
        if min(self.draws, self.tune) < 10 or self.chains < 1:
            raise InvalidDataError("draws and tune must be at least 10, chains 1.")


def population(
    run: GivenResult,
    stars: Any,
    *,
    labels: str | Sequence[str] | None = None,
    flagged: Literal["exclude", "keep"] = "exclude",
    scatter_prior: Mapping[str, float] | None = None,
    settings: GroupSettings | None = None,
    seed: int | None = None,
    cores: int | None = None,
) -> xr.DataTree:
    """Infer the mean and the intrinsic covariance of the labels of a group of stars.

    The stars' calibrated posteriors, multivariate Student t's, are the data of a hierarchical
    model, `bayes_cannon.models.build_group_model`, sampled by NUTS. Where a run has no calibrated
    posteriors its formal ones are used, with a warning: their errors are too small, and the scatter
    that is found holds the model's error.

    Parameters
    ----------
    run
        A run, or a result of inference.
    stars
        Names of the members, a table with them, or the path of a file of either, see
        `bayes_cannon.analysis.groups.members.read_members`. Stars that are not in the run or have
        no posterior are left out; what became of each is in the group ``members``.
    labels
        Labels of the model; left out, all.
    flagged
        ``'exclude'`` leaves stars with a flag of severity BAD out, ``'keep'`` does not.
    scatter_prior
        By label: standard deviation of the half-normal prior of its intrinsic scatter, in its
        unit. Left out, the spread of the training stars' labels, which is wide for a cluster.
    settings
        Of the sampler.
    seed
        Of the sampler; None takes a fresh one, which is in the attribute ``seed``.
    cores
        Chains that run side by side; None: all cores.

    Returns
    -------
    xarray.DataTree
        Groups ``posterior`` (``mean`` and ``scatter`` by label, ``covariance``, ``correlation``,
        and ``weight`` by star, below 1 where a star is off by more than its errors say),
        ``sample_stats``, ``observed_data`` (centers, scale matrices and standard deviations of the
        stars), ``constant_data`` (degrees of freedom, priors) and ``members``. ArviZ takes it as
        it is.

    Raises
    ------
    NoStarsError
        If fewer than three stars are left.
    LabelError
        If a label is not in the run.
    InvalidDataError
        If the list of stars or a prior cannot be used.
    FitError
        If the sampler cannot start.
    """
    tree = as_result(run)
    known = posterior_names(tree)
    names = known if labels is None else tuple(n.upper() for n in one_or_more(labels))
    if unknown := [n for n in names if n not in known]:
        raise LabelError(f"unknown labels {', '.join(unknown)}; the run has {', '.join(known)}.")
    members = choose_members(tree, stars, flagged=flagged)
    if not members.used.all():
        _LOG.warning("population: %s.", members.told())
    if "calibrated_posterior" not in tree.children:
        _LOG.warning(
            "the run has no calibrated posteriors: the scatter of the group holds the error of the "
            "model; train with folds to have them."
        )
    data, sd = labels_of_members(tree, members, names)
    unit = _scatter_unit(tree, names, scatter_prior)
    found = fit_group(data, unit, settings=settings, seed=seed, cores=cores)
    units = units_of_result(tree, names)
    text = ", ".join(units.values())
    for name in ("mean", "scatter"):
        found["posterior"][name].attrs["units"] = text
    seen = found["observed_data"].to_dataset().assign(sd=(("star", "label_name"), sd))
    found["observed_data"] = xr.DataTree(seen)
    found["members"] = xr.DataTree(_members_dataset(members))
    found.attrs.update(
        simulated=int(is_simulated(tree)), model_simulated=int(model_is_simulated(tree)),
        flagged=flagged, units=list(units.values()), told=members.told(),
        errors="calibrated" if "calibrated_posterior" in tree.children else "formal",
    )  # fmt: skip
    return found


def _members_dataset(members: Members) -> xr.Dataset:
    return xr.Dataset(
        {"fate": ("listed", members.fate.astype(object))},
        {"listed": members.star_id.astype(object)},
    )


def _scatter_unit(
    tree: xr.DataTree, names: Sequence[str], given: Mapping[str, float] | None
) -> FloatArray:
    """Standard deviation of the prior of each label's scatter."""
    wanted = {str(k).upper(): float(v) for k, v in (given or {}).items()}
    wrong = [k for k, v in wanted.items() if k not in names or not 0 < v < np.inf]
    if wrong:
        raise InvalidDataError(
            f"scatter_prior of {', '.join(wrong)} must be a positive number, of one of "
            f"{', '.join(names)}."
        )
    constant = group_of(tree, "constant_data") if "constant_data" in tree.children else None
    if constant is None or "label_scale" not in constant:
        if lacking := [n for n in names if n not in wanted]:
            raise InvalidDataError(
                f"the result does not hold the spread of the training labels; give scatter_prior "
                f"of {', '.join(lacking)}."
            )
        return np.array([wanted[n] for n in names])
    place = constant["label_name"].values.tolist()
    usual = constant["label_scale"].values
    return np.array([wanted.get(n, float(usual[place.index(n)])) for n in names])


def fit_group(
    data: GroupLabels,
    unit: FloatArray,
    *,
    settings: GroupSettings | None = None,
    seed: int | None = None,
    cores: int | None = None,
) -> xr.DataTree:
    """Sample the model of a group.

    Parameters
    ----------
    data
        Student t's of the stars, in the labels' units.
    unit : (n_labels,) float64
        Standard deviation of the half-normal prior of each label's scatter.
    settings, seed, cores
        As of `population`.

    Returns
    -------
    xarray.DataTree
        As `population`, without what only a run knows.

    Raises
    ------
    FitError
        If the sampler cannot start.
    """
    settings, seed = settings or GroupSettings(), as_seed(seed)
    n = len(data.center)
    middle = np.median(data.center, axis=0)
    trace = _sample(_compiled(_filled(data, middle, unit)), settings, seed, cores)
    draws = trace["posterior"].to_dataset()
    sd = draws["sd"].values
    factor = correlation_factors(draws["factor_diagonal"].values, draws["factor_lower"].values)
    corr = factor @ np.swapaxes(factor, -1, -2)
    scatter = sd * unit
    lead = ("chain", "draw")
    both = (*lead, "label_name", "label_name_2")
    half = np.sqrt(0.5 * data.nu)
    coords = {
        "chain": draws["chain"].values, "draw": draws["draw"].values,
        "label_name": list(data.names), "label_name_2": list(data.names),
        "star": data.star_id.astype(object),
    }  # fmt: skip
    variables = {
        "mean": ((*lead, "label_name"), middle + draws["mean"].values * unit),
        "scatter": ((*lead, "label_name"), scatter),
        "correlation": (both, corr),
        "covariance": (both, corr * scatter[..., :, None] * scatter[..., None, :]),
        "weight": ((*lead, "star"), np.exp(draws["scaled_log_u"].values[..., :n] / half)),
    }
    attrs = {
        "inference_library": "pymc", "sampler": "nutpie", "seed": int(seed),
        "tuning_steps": settings.tune, "n_stars": n,
    }  # fmt: skip
    stats = trace["sample_stats"].to_dataset()
    kept = {statistic.column: name for name, statistic in STATISTICS.items()}
    observed = {
        "center": (("star", "label_name"), data.center),
        "scale": (("star", "label_name", "label_name_2"), data.scale),
    }
    constant = {"scatter_prior": ("label_name", unit), "nu": ((), data.nu)}
    own = {k: coords[k] for k in ("star", "label_name", "label_name_2")}
    return xr.DataTree.from_dict(
        {
            "posterior": schema_dataset(variables, coords, attrs),
            "sample_stats": stats[list(kept)].reset_coords(drop=True).rename(kept),
            "observed_data": schema_dataset(observed, own),
            "constant_data": schema_dataset(constant, {"label_name": list(data.names)}),
        }
    )


def _filled(data: GroupLabels, middle: FloatArray, unit: FloatArray) -> GroupLabels:
    """Labels in units of the priors, with stars that say nothing up to a round number of them."""
    n, k = data.center.shape
    more = -n % _ROUND
    center = np.concatenate([(data.center - middle) / unit, np.zeros((more, k))])
    scale = data.scale / unit[:, None] / unit
    nothing = np.tile(_NOTHING**2 * np.eye(k), (more, 1, 1))
    stars = np.arange(n + more).astype(np.str_)
    return GroupLabels(data.names, stars, center, np.concatenate([scale, nothing]), data.nu)


def _compiled(data: GroupLabels) -> Any:
    """Compile the model for so many labels and stars, or swap the data of an earlier one."""
    key = (len(data.names), len(data.center))
    with _LOCK:
        if key not in _COMPILED:
            while len(_COMPILED) >= _MAX_COMPILED:
                del _COMPILED[next(iter(_COMPILED))]
            model = build_group_model(data)
            _COMPILED[key] = compile_model(model)
        return _COMPILED[key].with_data(**group_data(data))


def _sample(compiled: Any, settings: GroupSettings, seed: int, cores: int | None) -> xr.DataTree:
    """Draw; once more with shorter steps where chains disagree or diverge."""
    import nutpie

    tune, accept = settings.tune, 0.9
    worst, divergences = np.inf, 0
    for attempt in range(2):
        try:
            trace: xr.DataTree = nutpie.sample(
                compiled, draws=settings.draws, tune=tune, chains=settings.chains, cores=cores,
                seed=seed + attempt, target_accept=accept, progress_bar=False, save_warmup=False,
            )  # fmt: skip
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise FitError(
                f"the model of the group cannot be sampled ({reason}); look at the labels of its "
                "stars for outliers."
            ) from error
        columns = np.asarray(trace["posterior"].to_dataset()["sd"].values)
        shaped = np.moveaxis(columns.reshape(*columns.shape[:2], -1), -1, 0)
        if settings.chains > 1:
            worst = float(np.max(array_stats.rhat(shaped)))  # type: ignore[no-untyped-call]
        else:
            worst = 1.0
        divergences = int(trace["sample_stats"]["diverging"].sum())
        if worst <= settings.rhat_limit and divergences == 0:
            return trace
        tune, accept = 3 * settings.tune, 0.98
    _LOG.warning(
        "the chains of the group's model have R-hat %.3f and %d divergences; sample more draws.",
        worst, divergences,
    )  # fmt: skip
    return trace


def group_table(found: xr.DataTree) -> Table:
    """Mean and intrinsic scatter of every label of a group.

    Parameters
    ----------
    found
        From `population`.

    Returns
    -------
    astropy.table.Table
        A row a label, in its unit: ``MEAN``, ``MEAN_ERR``, ``SCATTER`` (median), ``SCATTER_LOW``,
        ``SCATTER_HIGH`` and ``SCATTER_LOW95``, ``SCATTER_HIGH95`` (68.3 and 95 % highest-density
        intervals, from zero where zero is not excluded), ``SCATTER_LIMIT`` (95 % upper limit),
        ``ERR`` (median error of a star) and ``SPREAD`` (standard deviation of the stars' labels,
        errors included).
    """
    draws, seen = found["posterior"].to_dataset(), found["observed_data"].to_dataset()
    names = [str(n) for n in draws["label_name"].values]
    units = list(found.attrs.get("units", [""] * len(names)))
    rows = []
    for i, name in enumerate(names):
        mean, scatter = (draws[v].isel(label_name=i).values.ravel() for v in ("mean", "scatter"))
        low, high = interval_from_zero(scatter, 0.683)
        low95, high95 = interval_from_zero(scatter, 0.95)
        sd = seen["sd"].values[:, i] if "sd" in seen else np.sqrt(seen["scale"].values[:, i, i])
        rows.append(
            {"LABEL": name, "UNIT": units[i], "MEAN": float(mean.mean()),
             "MEAN_ERR": float(mean.std()), "SCATTER": float(np.median(scatter)),
             "SCATTER_LOW": low, "SCATTER_HIGH": high, "SCATTER_LOW95": low95,
             "SCATTER_HIGH95": high95, "SCATTER_LIMIT": float(np.quantile(scatter, 0.95)),
             "ERR": float(np.median(sd)),
             "SPREAD": float(np.std(seen["center"].values[:, i], ddof=1))}
        )  # fmt: skip
    meta = {"SIMULATE": bool(found.attrs.get("simulated", 0)), "N_STARS": draws.sizes["star"]}
    return Table(rows=rows, meta=meta)
