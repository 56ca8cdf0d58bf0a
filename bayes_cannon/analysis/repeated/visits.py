"""Labels of the visits to stars, from a result of inference, and the pairs they make."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import names_of, plain_numbers
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError, NoStarsError
from bayes_cannon.inference.flags import BAD
from bayes_cannon.inference.posterior import group_of, moments_in, posterior_names
from bayes_cannon.inference.tables import star_ids
from bayes_cannon.inference.units import units_of_result
from bayes_cannon.spectra.own_labels import columns_of
from bayes_cannon.spectra.spectra import name_some

__all__ = [
    "Pairs",
    "VisitLabels",
    "labels_of_visits",
    "pairs_of",
]

_log = logging.getLogger(__name__)
Flagged = Literal["exclude", "keep"]


@dataclass(frozen=True, eq=False)
class VisitLabels:
    """Labels of visits and their errors, in the labels' units, ordered by star.

    Attributes
    ----------
    names : tuple of str
    units : tuple of str
    visit_id : (n_visits,) str
    star : (n_visits,) str
        Star of each visit; each star has two visits at least.
    snr : (n_visits,) float64
        Per pixel, NaN where unknown.
    mean : (n_visits, n_labels) float64
        Means of the formal posteriors.
    errors : mapping of str to (n_visits, n_labels) float64
        Standard deviations by kind: ``formal`` and, where the model error was measured,
        ``calibrated``.
    n_flagged : int
        Visits with a flag of severity BAD, whether left out or not.
    n_without : int
        Visits without a posterior, which are left out.
    n_alone : int
        Visits left out because their star has no other one.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    visit_id: NDArray[np.str_]
    star: NDArray[np.str_]
    snr: FloatArray
    mean: FloatArray
    errors: Mapping[str, FloatArray]
    n_flagged: int = 0
    n_without: int = 0
    n_alone: int = 0

    @property
    def n_stars(self) -> int:
        """Number of stars."""
        return int(np.unique(self.star).size)


def labels_of_visits(
    result: xr.DataTree, visits: Any, *, flagged: Flagged = "exclude"
) -> VisitLabels:
    """Collect the labels of visits from a result.

    Parameters
    ----------
    result
        What inference returned, with visits in the place of stars.
    visits
        Table with a row a visit: its id, as in the result, ``STAR`` and, where known, ``SNR``.
    flagged
        What becomes of visits with a flag of severity BAD.

    Raises
    ------
    InvalidDataError
        If the table lacks a column, or visits of the result.
    NoStarsError
        If no star has two visits with a posterior.
    """
    if flagged not in ("exclude", "keep"):
        raise InvalidDataError(f"flagged must be 'exclude' or 'keep', got {flagged!r}.")
    names = posterior_names(result)
    posterior = group_of(result, "posterior")
    visit_id = posterior["star"].values.astype(np.str_)
    star, snr = _told(visits, visit_id)
    moments = {"formal": moments_in(result, "posterior", names)}
    if "calibrated_posterior" in result.children:
        moments["calibrated"] = moments_in(result, "calibrated_posterior", names)
    has = np.isfinite(moments["formal"].sd).all(axis=1) & (moments["formal"].sd > 0).all(axis=1)
    bad = _is_bad(result, visit_id.size) & has
    keep = has & ~bad if flagged == "exclude" else has
    _, place, n = np.unique(star[keep], return_inverse=True, return_counts=True)
    several = np.flatnonzero(keep)[n[place] > 1]
    if several.size == 0:
        raise NoStarsError(
            f"none of {count_text(np.unique(star).size, 'star')} has two visits with a posterior"
            f"{' and without a BAD flag' if flagged == 'exclude' and bad.any() else ''}; "
            "repeats cannot be compared."
        )
    rows = several[np.argsort(star[several], kind="stable")]
    return VisitLabels(
        names, tuple(units_of_result(result, names).values()), visit_id[rows], star[rows],
        snr[rows], moments["formal"].mean[rows],
        {kind: found.sd[rows] for kind, found in moments.items()},
        int(bad.sum()), int((~has).sum()), int(keep.sum()) - several.size,
    )  # fmt: skip


def _told(visits: Any, visit_id: NDArray[np.str_]) -> tuple[NDArray[np.str_], FloatArray]:
    """Star and S/N of each visit of a result."""
    table = visits if isinstance(visits, Table) else Table(columns_of(visits, "visits"))
    if "STAR" not in table.colnames:
        raise InvalidDataError(
            f"the table of visits has no column STAR (it has {', '.join(table.colnames[:8])}); "
            "give that of visit_spectra."
        )
    place = {visit: i for i, visit in enumerate(star_ids(table).tolist())}
    lacking = [v for v in visit_id.tolist() if v not in place]
    if lacking:
        raise InvalidDataError(
            f"the table of visits lacks {len(lacking)} of {count_text(visit_id.size, 'visit')} of "
            f"the result ({name_some(lacking)})."
        )
    rows = [place[v] for v in visit_id.tolist()]
    star = names_of(table["STAR"], "STAR")[rows]
    snr = (
        plain_numbers(table["SNR"])[rows] if "SNR" in table.colnames else np.full(len(rows), np.nan)
    )
    return star, snr


def _is_bad(result: xr.DataTree, n: int) -> NDArray[np.bool_]:
    """Whether stars have a flag of severity BAD; none where the result has no flags."""
    stats = group_of(result, "star_stats") if "star_stats" in result.children else xr.Dataset()
    if "label_flag" not in stats:
        return np.zeros(n, dtype=np.bool_)
    return np.asarray(stats["label_flag"].values.astype(np.int64) & int(BAD) != 0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """All pairs of visits to one star.

    Attributes
    ----------
    first, second : (n_pairs,) int64
        Rows of `VisitLabels`.
    star : (n_pairs,) int64
        Number of the star.
    weight : (n_pairs,) float64
        2 / n for a star of n visits: its n (n - 1) / 2 pairs count as the n - 1 differences that
        are independent.
    snr : (n_pairs,) float64
        Of a spectrum whose variance is the mean of the two.
    z : mapping of str to (n_pairs, n_labels) float64
        Difference over its standard deviation, by kind of error.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    star: NDArray[np.int64]
    weight: FloatArray
    snr: FloatArray
    z: Mapping[str, FloatArray]


def pairs_of(labels: VisitLabels) -> Pairs:
    """Pairs of visits, z = (l1 - l2) / sqrt(s1**2 + s2**2).

    Parameters
    ----------
    labels
        Of the visits.
    """
    _, number, count = np.unique(labels.star, return_inverse=True, return_counts=True)
    first, second = np.triu_indices(labels.star.size, 1)
    same = number[first] == number[second]
    first, second = first[same], second[same]
    difference = labels.mean[first] - labels.mean[second]
    z = {kind: difference / np.hypot(sd[first], sd[second]) for kind, sd in labels.errors.items()}
    snr = np.sqrt(2 / (labels.snr[first] ** -2.0 + labels.snr[second] ** -2.0))
    return Pairs(first, second, number[first], 2.0 / count[number[first]], snr, z)
