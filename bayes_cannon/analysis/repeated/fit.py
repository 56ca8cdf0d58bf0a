"""Scale and floor of the errors that repeats see, by NUTS; see `models.repeat_model`."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import xarray as xr

from bayes_cannon.analysis.repeated.visits import VisitLabels
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.compiled.kept import compile_model
from bayes_cannon.base.storage import schema_dataset
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FitError
from bayes_cannon.inference.sampler import STATISTICS
from bayes_cannon.models.repeat_model import RepeatedLabels, build_repeat_model, repeat_data

__all__ = [
    "fit_repeats",
    "padded",
]

_DRAWS, _TUNE, _CHAINS = 500, 400, 4
_COMPILED: dict[int, Any] = {}
"""Compiled in this process, by number of labels: data are swapped."""
_LOCK = threading.Lock()


def padded(labels: VisitLabels, unit: FloatArray) -> RepeatedLabels:
    """Labels of visits as the model takes them, a row a star.

    Parameters
    ----------
    labels
        Of the visits.
    unit : (n_labels,) float64
        What they are divided by, less the mean of each star.
    """
    _, number, count = np.unique(labels.star, return_inverse=True, return_counts=True)
    n, most, k = count.size, int(count.max()), len(labels.names)
    value, formal = np.zeros((n, most, k)), np.ones((n, most, k))
    there = np.arange(most) < count[:, None]
    order = np.argsort(number, kind="stable")
    value[there] = labels.mean[order] / unit
    formal[there] = labels.errors["formal"][order] / unit
    middle = value.sum(axis=1, keepdims=True) / count[:, None, None]
    value = np.where(there[:, :, None], value - middle, 0.0)
    return RepeatedLabels(labels.names, value, formal, there)


def fit_repeats(
    labels: VisitLabels, spread: FloatArray, *, seed: int | None = None, cores: int | None = None
) -> xr.DataTree:
    """Sample scale and floor of every label.

    Parameters
    ----------
    labels
        Of the visits.
    spread : (n_labels,) float64
        Robust spread of the labels from visit to visit: standard deviation of the half-normal
        prior of the floor.
    seed
        Of the sampler; None takes a fresh one, which is in the attribute ``seed``.
    cores
        Chains that run side by side; None: all cores.

    Returns
    -------
    xarray.DataTree
        Group ``posterior``: ``scale`` and ``floor`` (in the labels' units) of the central 68.3 %,
        and ``nu``, with the dim label_name; group ``sample_stats``.

    Raises
    ------
    FitError
        If the sampler cannot start.
    """
    import nutpie

    seed = as_seed(seed)
    data = padded(labels, spread)
    compiled = _compiled(data)
    try:
        trace = nutpie.sample(
            compiled, draws=_DRAWS, tune=_TUNE, chains=_CHAINS, cores=cores, seed=seed,
            progress_bar=False, save_warmup=False,
        )  # fmt: skip
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise FitError(
            f"scale and floor of the repeats cannot be sampled ({reason}); look at the labels of "
            "the visits for outliers."
        ) from error
    draws = trace["posterior"].to_dataset()
    lead = ("chain", "draw", "label_name")
    posterior = schema_dataset(
        {
            "scale": (lead, np.exp(draws["log_scale"].values)),
            "floor": (lead, draws["floor"].values * spread, {"units": ", ".join(labels.units)}),
            "nu": (lead, 1.0 + draws["nu_excess"].values),
        },
        {
            "chain": draws["chain"].values, "draw": draws["draw"].values,
            "label_name": list(labels.names),
        },
        {
            "inference_library": "pymc", "sampler": "nutpie", "seed": int(seed),
            "tuning_steps": _TUNE, "n_stars": labels.n_stars, "n_visits": labels.star.size,
        },
    )  # fmt: skip
    stats = trace["sample_stats"].to_dataset()
    kept = {statistic.column: name for name, statistic in STATISTICS.items()}
    groups = {
        "posterior": posterior,
        "sample_stats": stats[list(kept)].reset_coords(drop=True).rename(kept),
    }
    return xr.DataTree.from_dict(groups)


def _compiled(data: RepeatedLabels) -> Any:
    """Compile the model for so many labels (some seconds), or swap the data of an earlier one."""
    with _LOCK:
        k = len(data.names)
        if k not in _COMPILED:
            model = build_repeat_model(data)
            _COMPILED[k] = compile_model(model)
        return _COMPILED[k].with_data(**repeat_data(data))
