"""Moments of the draws of every star of a result of inference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from bayes_cannon.base.packing import unpack
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.spectra.star_ids import simulated_stars

__all__ = [
    "DIMS",
    "Moments",
    "catalogue_of",
    "draws_of",
    "group_of",
    "holds_moments",
    "id_name_of",
    "is_simulated",
    "model_is_simulated",
    "model_reduction_of",
    "moments_group",
    "moments_in",
    "moments_of",
    "notes_of",
    "posterior_names",
    "which_simulated",
]

DIMS = ("chain", "draw", "star")
"""Dimensions of the draws of a label."""
OF_ALL_DRAWS = "_moments"
"""What the names of groups end with that hold moments of all draws beside some draws."""
_BLOCK = 512
"""Stars whose draws are in memory at one time."""


def group_of(result: xr.DataTree, name: str) -> xr.Dataset:
    """Return a group of a result.

    Parameters
    ----------
    result
        What inference returned.
    name
        Of the group.

    Raises
    ------
    InvalidDataError
        If it is not there.
    """
    if not isinstance(result, xr.DataTree):
        raise InvalidDataError(
            f"a result of infer_labels or open_run is needed, not an object of type "
            f"{type(result).__name__}."
        )
    if name not in result.children:
        raise InvalidDataError(
            f"the result has no group {name!r} (it has {', '.join(result.children) or 'none'}); "
            "pass what infer_labels returned."
        )
    return result[name].to_dataset()


def holds_moments(group: xr.Dataset) -> bool:
    """Whether a group of posteriors holds their moments in place of draws.

    Parameters
    ----------
    group
        ``posterior`` or ``calibrated_posterior``, see `bayes_cannon.inference.summaries.keeping`.
    """
    return {"mean", "cov", "quantiles"} <= set(group.data_vars)


def moments_group(result: xr.DataTree, name: str) -> xr.Dataset:
    """Group that says the moments of posteriors: of all draws, where a part of them was kept.

    Parameters
    ----------
    result
        What inference returned.
    name
        ``posterior`` or ``calibrated_posterior``.

    Returns
    -------
    xarray.Dataset
        ``posterior_moments`` or ``calibrated_posterior_moments``, which a result with ``thin:N``
        has; else the group itself.

    Raises
    ------
    InvalidDataError
        If it is not there.
    """
    noted = f"{name}{OF_ALL_DRAWS}"
    return group_of(result, noted if noted in getattr(result, "children", ()) else name)


def draws_of(result: xr.DataTree, name: str) -> xr.Dataset:
    """Return a group of draws.

    Parameters
    ----------
    result
        What inference returned.
    name
        Of the group.

    Raises
    ------
    InvalidDataError
        If it is not there, or moments alone were kept of it.
    """
    group = group_of(result, name)
    if holds_moments(group):
        raise InvalidDataError(
            f"the {name} holds moments and no draws, which this needs; infer the stars again with "
            "keep='draws' or 'thin:200' (--keep)."
        )
    return group


def posterior_names(result: xr.DataTree) -> tuple[str, ...]:
    """Names of the labels in a result: variables of ``posterior`` with dims (chain, draw, star).

    They come in the order of ``label_name`` in the group ``constant_data``, the model's, where
    that is there: groups that were read from Zarr come in alphabetical order.

    Parameters
    ----------
    result
        Result of `infer_labels`.

    Raises
    ------
    InvalidDataError
        If there is no posterior, or none of its variables has these dims.
    """
    posterior = group_of(result, "posterior")
    if holds_moments(posterior):
        return tuple(str(n) for n in posterior["label_name"].values)
    names = tuple(str(n) for n, v in posterior.data_vars.items() if set(v.dims) == set(DIMS))
    if not names:
        raise InvalidDataError(
            "the posterior has no variable with dims (chain, draw, star); select one star by "
            "result.sel(star=[...]), which keeps the dimension."
        )
    if (
        "constant_data" in result.children
        and "label_name" in result["constant_data"].to_dataset().coords
    ):
        order = [str(n) for n in result["constant_data"].to_dataset()["label_name"].values]
        names = tuple(sorted(names, key=lambda n: order.index(n) if n in order else len(order)))
    return names


def is_simulated(result: xr.DataTree) -> bool:
    """Whether spectra of the result are simulated, some at least.

    Parameters
    ----------
    result
        Result of `infer_labels`.
    """
    return bool(which_simulated(result).any())


def which_simulated(result: xr.DataTree) -> NDArray[np.bool_]:
    """Which stars of a result are simulated, shape (n_stars,).

    All, by the attribute ``simulated`` of the result or of its posterior, unless they are noted.

    Parameters
    ----------
    result
        Result of `infer_labels`.
    """
    posterior = result["posterior"]
    some = bool(int(result.attrs.get("simulated", posterior.attrs.get("simulated", 0))))
    return simulated_stars(some, notes_of(result) if some else {}, posterior.sizes.get("star", 1))


def id_name_of(result: xr.DataTree) -> str:
    """What the column of the stars' names of a result is called in tables.

    ``'APOGEE_ID'`` where the result does not say it, as those of earlier versions.

    Parameters
    ----------
    result
        Result of `infer_labels`.
    """
    return str(result["posterior"].attrs.get("id_name", "APOGEE_ID"))


def catalogue_of(result: xr.DataTree) -> str:
    """Name of the catalogue of a result's training labels, ``'ASPCAP'`` where it does not say.

    Parameters
    ----------
    result
        Result of `infer_labels`.
    """
    return str(result["posterior"].attrs.get("catalogue", "ASPCAP"))


def notes_of(result: xr.DataTree) -> dict[str, NDArray[np.str_]]:
    """What is noted of the stars of a result beside their names, by column; empty without.

    Parameters
    ----------
    result
        Result of `infer_labels`.

    Returns
    -------
    dict of (n_stars,) str
    """
    stats = result["star_stats"].to_dataset() if "star_stats" in result.children else xr.Dataset()
    found = {str(n): v for n, v in stats.data_vars.items() if str(n).startswith("note_")}
    return {n.removeprefix("note_"): v.values.astype(np.str_) for n, v in found.items()}


def model_reduction_of(result: xr.DataTree) -> str:
    """Versions of the pipeline of the training spectra, such as ``'dr17'``; '' where unknown.

    Parameters
    ----------
    result
        Result of `infer_labels`.
    """
    return str(result["posterior"].attrs.get("model_reduction", ""))


def model_is_simulated(result: xr.DataTree) -> bool:
    """Whether the model was trained on simulated stars: ``model_simulated`` of the posterior.

    Parameters
    ----------
    result
        Result of `infer_labels`.
    """
    return bool(int(result["posterior"].attrs.get("model_simulated", 0)))


def _blocks(n_stars: int) -> Iterator[slice]:
    return (slice(a, min(a + _BLOCK, n_stars)) for a in range(0, n_stars, _BLOCK))


@dataclass(frozen=True, eq=False)
class Moments:
    """What the draws of every star say, in the labels' units.

    Attributes
    ----------
    mean : (n_stars, n_labels) float64
    cov : (n_stars, n_labels, n_labels) float64
    quantiles : (n_quantiles, n_stars, n_labels) float64
        16, 50 and 84 % where no others were asked for.
    """

    mean: FloatArray
    cov: FloatArray
    quantiles: FloatArray

    @property
    def sd(self) -> FloatArray:
        """Standard deviation, shape (n_stars, n_labels)."""
        return np.asarray(np.sqrt(np.diagonal(self.cov, axis1=1, axis2=2)))


def moments_of(
    group: xr.Dataset, names: tuple[str, ...], *, quantiles: tuple[float, ...] = (0.16, 0.5, 0.84)
) -> Moments:
    """Moments of each star's draws, NaN for a star with a draw that is not finite.

    Parameters
    ----------
    group
        Draws with dims chain, draw and star, or the moments that were kept of them.
    names
        Labels, in the order wanted.
    quantiles
        Levels of `Moments.quantiles`.

    Raises
    ------
    InvalidDataError
        If there is one draw only, or a quantile was not kept.
    """
    if holds_moments(group):
        return _kept_moments(group, names, quantiles)
    levels = np.array(quantiles)
    n_stars, n = group.sizes["star"], len(names)
    mean = np.full((n_stars, n), np.nan)
    cov = np.full((n_stars, n, n), np.nan)
    edges = np.full((levels.size, n_stars, n), np.nan)
    for block in _blocks(n_stars):
        part = group[list(names)].isel(star=block).transpose("star", "chain", "draw")
        draws = np.stack([part[name].values for name in names], axis=-1).astype(np.float64)
        draws = draws.reshape(draws.shape[0], -1, n)
        if draws.shape[1] < 2:
            raise InvalidDataError("one draw has no standard deviation; keep at least two.")
        sound = np.flatnonzero(np.isfinite(draws).all(axis=(1, 2)))
        place, draws = block.start + sound, draws[sound]
        mean[place] = draws.mean(axis=1)
        offset = draws - mean[place][:, None]
        cov[place] = offset.swapaxes(1, 2) @ offset / (draws.shape[1] - 1)
        edges[:, place] = np.quantile(draws, levels, axis=1)
    return Moments(mean, cov, edges)


def moments_in(result: xr.DataTree, name: str, names: tuple[str, ...] | None = None) -> Moments:
    """Moments of all draws of a group of a result, whatever was kept of them.

    Parameters
    ----------
    result
        What inference returned.
    name
        ``posterior`` or ``calibrated_posterior``.
    names
        Labels, in the order wanted; all where left out.

    Raises
    ------
    InvalidDataError
        If the group is not there.
    """
    return moments_of(moments_group(result, name), names or posterior_names(result))


def _kept_moments(
    group: xr.Dataset, names: tuple[str, ...], quantiles: tuple[float, ...]
) -> Moments:
    """Moments of some labels, as they were kept."""
    order = [group["label_name"].values.tolist().index(n) for n in names]
    known = group["quantile"].values
    rows = [int(np.argmin(np.abs(known - q))) for q in quantiles]
    if not np.allclose(known[rows], quantiles):
        raise InvalidDataError(
            f"quantiles {', '.join(map(str, quantiles))} were not kept; there are "
            f"{', '.join(map(str, known.tolist()))}."
        )
    kept = {n: group[n].values.astype(np.float64) for n in ("mean", "cov", "quantiles")}
    cov = unpack(kept["cov"])[:, order][:, :, order]
    edges = kept["quantiles"][:, rows][:, :, order].swapaxes(0, 1)
    return Moments(kept["mean"][:, order], cov, edges)
