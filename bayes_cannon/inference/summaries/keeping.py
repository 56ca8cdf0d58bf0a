"""What a result keeps of the posteriors: all draws, some of them, or their moments.

Diagnostics, flags and calibrated posteriors are those of all draws, whatever is kept. Of moments a
group holds, in place of one variable of draws for each label,

- ``mean`` (star, label_name), ``cov`` (star, label_pair), the covariance's lower triangle, and
  ``quantiles`` (star, quantile, label_name) of every label, at `QUANTILES`;
- the calibrated one also ``center`` and ``scale`` (as ``mean`` and ``cov``) of the Student t whose
  degrees of freedom, the model error's, are its attribute ``nu``.

Where some of the draws are kept, the same of all draws is in the groups ``posterior_moments`` and
``calibrated_posterior_moments`` beside them, of which tables are made.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.base.columns import whole_number
from bayes_cannon.base.packing import pack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.posterior import (
    OF_ALL_DRAWS,
    Moments,
    moments_of,
    posterior_names,
)
from bayes_cannon.inference.summaries.students import fit_at
from bayes_cannon.inference.units import units_of_result

__all__ = [
    "MANY_STARS",
    "QUANTILES",
    "checked_keep",
    "chosen_keep",
    "reduce_draws",
]

_LOG = logging.getLogger(__name__)
MANY_STARS = 20_000
"""Stars beyond which moments are kept where nothing else is asked for."""
QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
_FEWEST = 20
"""Draws of a star that a figure needs."""


def checked_keep(keep: Any) -> str | None:
    """What to keep, as it was given; None is decided by the number of stars.

    Parameters
    ----------
    keep
        ``'draws'``, ``'moments'``, ``'thin:N'`` or None.

    Raises
    ------
    InvalidDataError
        If it is something else, or N is below 20.

    Examples
    --------
    >>> checked_keep("thin:0200")
    'thin:200'
    """
    if keep is None or keep in ("draws", "moments"):
        return None if keep is None else str(keep)
    kind, _, number = str(keep).partition(":")
    if kind != "thin" or not number.isdecimal():
        raise InvalidDataError(
            f"keep (--keep) must be draws, thin:N with N draws of a star, or moments, not {keep!r}."
        )
    if whole_number(int(number), "keep") < _FEWEST:
        raise InvalidDataError(f"keep={keep!r} leaves too few draws; keep at least {_FEWEST}.")
    return f"thin:{int(number)}"


def chosen_keep(keep: str | None, n_stars: int) -> str:
    """What is kept of so many stars; said where the number decides it.

    Parameters
    ----------
    keep
        From `checked_keep`.
    n_stars
        In the run.
    """
    if keep is not None or n_stars <= MANY_STARS:
        return keep or "draws"
    _LOG.warning(
        "%d stars: their moments are kept, no draws (keep='draws' or 'thin:200', --keep on the "
        "command line, keeps draws).", n_stars,
    )  # fmt: skip
    return "moments"


def reduce_draws(result: xr.DataTree, keep: str, nu: float | None = None) -> xr.DataTree:
    """Leave of a finished block what shall be kept.

    Parameters
    ----------
    result
        All groups, with flags.
    keep
        From `chosen_keep`.
    nu
        Degrees of freedom of the calibrated posteriors.

    Returns
    -------
    xarray.DataTree
        The same where all draws are kept.
    """
    if keep == "draws":
        return result
    groups = {str(name): node.to_dataset() for name, node in result.children.items()}
    names = posterior_names(result)
    units = list(units_of_result(result, names).values())
    moments: dict[str, xr.Dataset] = {
        name: _moments(groups[name], names, units, nu if name.startswith("calibrated") else None)
        for name in ("posterior", "calibrated_posterior")
        if name in groups
    }
    if keep != "moments":
        n = int(keep.partition(":")[2])
        fewer = {name: _thinned(group, n) for name, group in groups.items()}
        if fewer["posterior"].sizes != groups["posterior"].sizes:
            fewer |= {f"{name}{OF_ALL_DRAWS}": group for name, group in moments.items()}
        return xr.DataTree.from_dict(fewer)
    groups.pop("sample_stats", None)
    groups |= moments
    groups["star_stats"] = _narrow(groups["star_stats"])
    return xr.DataTree.from_dict(groups)


def _thinned(group: xr.Dataset, n: int) -> xr.Dataset:
    """About n draws of every star, evenly spaced in each chain."""
    if not {"chain", "draw"} <= set(group.dims):
        return group
    each, n_draws = -(-n // group.sizes["chain"]), group.sizes["draw"]
    if each >= n_draws:
        return group
    return group.isel(draw=np.linspace(0, n_draws - 1, each).round().astype(int))


def _moments(
    group: xr.Dataset, names: tuple[str, ...], units: list[str], nu: float | None
) -> xr.Dataset:
    found = moments_of(group, names, quantiles=QUANTILES)
    variables: dict[str, tuple[tuple[str, ...], FloatArray]] = {
        "mean": (("star", "label_name"), found.mean),
        "cov": (("star", "label_pair"), pack(found.cov)),
        "quantiles": (("star", "quantile", "label_name"), found.quantiles.swapaxes(0, 1)),
    }
    attrs = {**group.attrs, "label_units": units, "keep": "moments"}
    if nu is not None:
        center, scale = _student(group, names, found, nu)
        variables["center"] = (("star", "label_name"), center)
        variables["scale"] = (("star", "label_pair"), pack(scale))
        attrs["nu"] = float(nu)
    coords = {
        "star": group["star"].values,
        "label_name": list(names),
        "quantile": np.array(QUANTILES),
    }
    narrow = {name: (dims, values.astype(np.float32)) for name, (dims, values) in variables.items()}
    return xr.Dataset(narrow, coords, attrs)


def _student(
    group: xr.Dataset, names: tuple[str, ...], found: Moments, nu: float
) -> tuple[FloatArray, FloatArray]:
    """Center and scale of each star's t; NaN for a star without a posterior."""
    center, scale = np.full_like(found.mean, np.nan), np.full_like(found.cov, np.nan)
    sound = np.flatnonzero(np.isfinite(found.mean).all(axis=1))
    if sound.size:
        part = group.isel(star=sound)
        draws = np.stack([part[n].transpose("star", "chain", "draw").values for n in names], -1)
        fitted = fit_at(draws.reshape(sound.size, -1, len(names)).astype(np.float64), nu)
        center[sound], scale[sound] = fitted.center, fitted.scale
    return center, scale


def _narrow(stats: xr.Dataset) -> xr.Dataset:
    """Floats of ``star_stats`` in single precision."""
    wide = [n for n, v in stats.data_vars.items() if v.dtype == np.float64]
    return stats.assign({n: stats[n].astype(np.float32) for n in wide})
