"""Labels of stars as a table of pandas, as `az.summary` makes one, rounded by their errors."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import xarray as xr

from bayes_cannon.base.rounding import error_digits
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.inference.arguments import GivenResult, as_result
from bayes_cannon.inference.posterior import (
    group_of,
    holds_moments,
    moments_group,
    moments_in,
    posterior_names,
)
from bayes_cannon.inference.summaries.convergence import rank_diagnostics
from bayes_cannon.spectra.star_ids import index_of

__all__ = [
    "summary",
]

_CHECKS = ("r_hat", "ess_bulk", "ess_tail")


def summary(
    result: GivenResult, stars: str | Iterable[str] | None = None, *, round_values: bool = True
) -> pd.DataFrame:
    """Table of labels: mean, errors, 68 % interval and convergence, a row for a label of a star.

    Parameters
    ----------
    result
        A run, or what `infer_labels` returned.
    stars
        Names of stars, or of one; all where left out.
    round_values
        Round each value to two digits of its error.

    Returns
    -------
    pandas.DataFrame
        With the index (star, label) and the columns ``mean``, ``sd``, ``eti68_lb`` and
        ``eti68_ub`` (quantiles 0.16 and 0.84) of the calibrated posterior, or of the formal one
        where there is no other; ``formal_sd``; ``r_hat``, ``ess_bulk`` and ``ess_tail`` of the
        formal draws, of all that were drawn, whatever was kept. A star without a posterior has NaN.

    Raises
    ------
    InvalidDataError
        If a star is not there.
    """
    tree = as_result(result)
    names, formal = posterior_names(tree), group_of(tree, "posterior")
    ids = formal["star"].values.astype(np.str_)
    if stars is not None:
        rows = index_of(ids, [stars] if isinstance(stars, str) else list(stars))
        tree, ids = tree.isel(star=rows), ids[rows]
        formal = group_of(tree, "posterior")
    kind = "calibrated_posterior" if "calibrated_posterior" in tree.children else "posterior"
    main, own = moments_in(tree, kind, names), moments_in(tree, "posterior", names)
    columns = {
        "mean": main.mean, "sd": main.sd, "eti68_lb": main.quantiles[0],
        "eti68_ub": main.quantiles[2], "formal_sd": own.sd,
    }  # fmt: skip
    checks = dict(zip(_CHECKS, _convergence(tree, formal, names), strict=True))
    index = pd.MultiIndex.from_product([ids.tolist(), list(names)], names=["star", "label"])
    if round_values:
        digits = [error_digits(float(error)) for error in main.sd.ravel()]
        columns = {name: _rounded(values, digits) for name, values in columns.items()}
        checks["r_hat"] = np.round(checks["r_hat"], 3)
        checks |= {name: np.round(checks[name]) for name in _CHECKS[1:]}
    table = {name: np.asarray(values).ravel() for name, values in (columns | checks).items()}
    return pd.DataFrame(table, index=index)


def _rounded(values: FloatArray, digits: list[int]) -> FloatArray:
    pairs = zip(values.ravel().tolist(), digits, strict=True)
    return np.array([round(value, n) for value, n in pairs])


def _convergence(
    tree: xr.DataTree, formal: xr.Dataset, names: tuple[str, ...]
) -> tuple[FloatArray, ...]:
    """R-hat and effective sizes, (n_stars, n_labels) each."""
    shape = formal.sizes["star"], len(names)
    if not holds_moments(moments_group(tree, "posterior")):
        order = ("star", "chain", "draw")
        draws = np.stack([formal[n].transpose(*order).values for n in names], axis=1)
        found = [rank_diagnostics(star.astype(np.float64)) for star in draws]
        return tuple(np.array(part).reshape(shape) for part in zip(*found, strict=True))
    stats = group_of(tree, "star_stats")
    unknown = np.full(shape, np.nan)
    places = [stats["label_name"].values.tolist().index(n) for n in names]
    return tuple(stats[n].values[:, places] if n in stats else unknown for n in _CHECKS)
