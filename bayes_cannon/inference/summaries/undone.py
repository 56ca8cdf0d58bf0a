"""Say which stars of a result have no posterior, and which spectra are of another reduction."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr

from bayes_cannon.base.cards import count_text
from bayes_cannon.errors import BayesCannonWarning
from bayes_cannon.inference.checks import StarStatus
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.likelihood.pixels import pixels_needed
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.reductions import NOTE, reductions_of_settings, reductions_text

__all__ = ["warn_of_undone"]


def warn_of_undone(
    result: xr.DataTree, cannon: Cannon, settings: InferenceSettings
) -> tuple[int, int]:
    """Warn of stars without a posterior.

    Parameters
    ----------
    result
        What inference returned.
    cannon, settings
        The model and settings that it was made with.

    Returns
    -------
    tuple of int
        How many have too few usable pixels, and how many failed.
    """
    stats = result["star_stats"].to_dataset()
    star_id, status = stats["star"].values.astype(np.str_), stats["status"].values
    few = (status & int(StarStatus.NO_PIXELS)) != 0
    failed = (status & int(StarStatus.FAILED)) != 0
    if few.any():
        n_pixels = int(np.sum(cannon.used))
        warnings.warn(
            f"{few.sum()} of {count_text(few.size, 'star')} ({name_some(star_id[few])}) have "
            f"fewer than {pixels_needed(n_pixels, settings.min_pixels)} usable pixels of the "
            f"model's {n_pixels} and get no posterior (flag NO_PIXELS); look at their masks, or "
            "lower min_pixels (--min-pixels).",
            BayesCannonWarning,
            stacklevel=3,
        )
    if failed.any():
        warnings.warn(
            f"{failed.sum()} of {count_text(failed.size, 'star')} ({name_some(star_id[failed])}) "
            "get no posterior, as optimiser or sampler failed (flag FAILED); the log says why.",
            BayesCannonWarning,
            stacklevel=3,
        )
    _warn_of_reductions(stats, cannon)
    return int(few.sum()), int(failed.sum())


def _warn_of_reductions(stats: xr.Dataset, cannon: Cannon) -> None:
    """Warn of spectra of another version of the pipeline, and say how unlike the training ones."""
    other = (stats["label_flag"].values & int(LabelFlag.OTHER_REDUCTION)) != 0
    if not other.any():
        return
    names = reductions_text(stats[f"note_{NOTE}"].values[other].tolist())
    trained = reductions_text(reductions_of_settings(cannon.settings.get("dataset") or {}))
    ranks = [np.nanmedian(stats[n].values[other]) if np.isfinite(stats[n].values[other]).any()
             else np.nan for n in ("chi2_rank", "factors_rank")]  # fmt: skip
    far = (
        f" Their median rank among left-out training stars is {ranks[0]:.2f} in chi-square and "
        f"{ranks[1]:.2f} in factors (0.5: alike)."
        if np.isfinite(ranks[0])
        else ""
    )
    warnings.warn(
        f"{other.sum()} of {count_text(other.size, 'spectrum')} "
        f"({name_some(stats['star'].values[other])}) are of the reduction {names}, the training "
        f"set of {trained} (flag OTHER_REDUCTION): offsets between the two are in the labels and "
        f"not in their errors.{far}",
        BayesCannonWarning,
        stacklevel=4,
    )
