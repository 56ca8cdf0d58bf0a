"""What became of the stars of a block, as the groups of a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayes_cannon.base.storage import schema_dataset
from bayes_cannon.errors import NoStarsError
from bayes_cannon.inference.checks import (
    StarStatus,
)
from bayes_cannon.inference.likelihood.kinds import (
    likelihood_text,
)
from bayes_cannon.inference.sampler import STATISTICS, Draws
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.basis import PolynomialBasis
from bayes_cannon.models.label_priors import LabelPriors
from bayes_cannon.spectra.distortions import TermColumn

__all__ = [
    "StarResult",
    "assemble",
    "join_blocks",
]


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
    "chi2": "chi-square at the mode, of independent pixels",
    "independent_pixels": "used pixels over pixels per independent one",
    "log_snr": "logarithm of the median signal-to-noise ratio of the used pixels",
    "factors_square": "sum of squares of the nuisance factors at the mode",
    "chi2_p": "posterior-predictive p-value of chi-square",
    "factors_p": "probability under N(0, 1) of nuisance factors as large as at the mode",
}
CONVERGENCE = {
    "r_hat": "R-hat of every label",
    "ess_bulk": "bulk effective sample size of every label",
    "ess_tail": "tail effective sample size of every label",
}
"""What is noted of every label of a star, of all draws, whatever is kept of them."""
_TERMS = {
    "shift": ("rest frame is off by, to the red", "km/s"),
    "broadening": ("variance of the lines' broadening beside the model's", "km2/s2"),
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
    *,
    columns: Sequence[TermColumn] = (),
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
    columns
        What the amplitudes of known terms are.
    """
    coords = {
        "chain": np.arange(settings.chains),
        "draw": np.arange(settings.draws),
        "star": star_id,
    }
    names = {"label_name": list(basis.names), "label_name_2": list(basis.names)}
    label_names = dict(names)
    attrs = {
        "inference_library": "bayes_cannon",
        "sampler": "nutpie" if settings.method == "nuts" else "none",
        "method": settings.method,
        "likelihood": likelihood_text(settings.likelihood),
        "seed": int(seed),
        "tuning_steps": settings.tune if settings.method == "nuts" else 0,
    }
    stats = _star_stats(basis, n_used, results) | _term_stats(columns, results)
    if columns:
        names |= {
            "term_column": [" ".join(map(str, c)) if c.chip >= 0 else c.name for c in columns]
        }
    groups = {
        "posterior": schema_dataset(_posterior(basis, results, coords), coords, attrs),
        "star_stats": schema_dataset(stats, {"star": star_id, **names}, attrs),
        "constant_data": schema_dataset(_constant(basis, priors), label_names, attrs),
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
    for name, text in CONVERGENCE.items():
        values = np.full((n, k), np.nan, dtype=np.float32)
        for i, result in enumerate(results):
            found = result.summary.get(name)
            values[i] = np.nan if found is None else found
        variables[name] = (("star", "label_name"), values, {"long_name": text})
    variables["map_labels"] = (("star", "label_name"), mode)
    variables["laplace_cov"] = (("star", "label_name", "label_name_2"), cov)
    return variables


def _term_stats(columns: Sequence[TermColumn], results: list[StarResult]) -> dict[str, Any]:
    """Amplitudes of known terms and their standard deviations; NaN where a star has none."""
    variables: dict[str, Any] = {}
    if not columns:
        return variables
    for name, text in (
        ("term_amplitude", "amplitudes of known terms: km/s, km2/s2, or a share of the continuum"),
        ("term_amplitude_sd", "standard deviation of term_amplitude"),
    ):
        values = np.full((len(results), len(columns)), np.nan)
        for i, result in enumerate(results):
            values[i] = result.summary.get(name, np.nan)
        variables[name] = (("star", "term_column"), values, {"long_name": text})
    for column in columns:
        if column.chip < 0:
            text, unit = _TERMS[column.name]
            for name, told in ((column.name, text), (f"{column.name}_sd", "error of it")):
                found = np.array([float(r.summary.get(name, np.nan)) for r in results])
                variables[name] = ("star", found, {"long_name": told, "units": unit})
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
