"""Labels of the same star from several visits: what their differences say about the errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.analysis.repeated.fit import fit_repeats
from bayes_cannon.analysis.repeated.visits import (
    Flagged,
    Pairs,
    VisitLabels,
    labels_of_visits,
    pairs_of,
)
from bayes_cannon.base.cards import SIMULATED, Carded, Row, count_text
from bayes_cannon.base.columns import as_seed
from bayes_cannon.base.numerical import interval_from_zero
from bayes_cannon.base.rounding import two_digits
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import NoStarsError
from bayes_cannon.inference.arguments import GivenResult, as_result
from bayes_cannon.inference.posterior import is_simulated
from bayes_cannon.spectra.label_kinds import shown_label

__all__ = [
    "FEWEST_STARS",
    "SEES",
    "Repeats",
    "compare_visits",
    "repeats",
]

SEES = (
    "Repeats see the part of an error that differs from visit to visit: noise, sky, tellurics, bad "
    "pixels, radial velocity, continuum. What is common to all visits of a star, the error of the "
    "model above all, cancels in their differences and is not seen."
)
"""What repeats measure and what not; stands beside every table of theirs."""
FEWEST_STARS = 8
"""Stars with repeats below which scale and floor are not fitted."""
_INSIDE = {"COVER_68": 1.0, "COVER_95": 1.959964}
_PER_BIN = 12
_BOOTSTRAPS = 300
_HALF = 0.6744898
"""Median of the absolute value of a standard normal."""


@dataclass(frozen=True, eq=False, repr=False)
class Repeats(Carded):
    """What repeated visits say about the errors of labels.

    Attributes
    ----------
    labels : VisitLabels
        Labels of the visits.
    pairs : Pairs
        The pairs they make.
    table : astropy.table.Table
        A row a label, see `repeats`.
    bins : astropy.table.Table
        A row for each label, kind of error and range of S/N.
    fit : xarray.DataTree
        Posterior of ``scale``, ``floor`` and ``nu``.
    simulated : bool
        Whether the spectra are.
    """

    labels: VisitLabels
    pairs: Pairs
    table: Table
    bins: Table
    fit: xr.DataTree
    simulated: bool = False

    def pair_table(self) -> Table:
        """Return a row a pair: star, both visits, S/N, and differences and z of every label."""
        one, two = (self.labels.visit_id[i] for i in (self.pairs.first, self.pairs.second))
        out = Table(
            {"STAR": self.labels.star[self.pairs.first], "FIRST": one, "SECOND": two,
             "SNR": self.pairs.snr, "WEIGHT": self.pairs.weight},
            meta={"SIMULATE": self.simulated},
        )  # fmt: skip
        for i, (name, unit) in enumerate(zip(self.labels.names, self.labels.units, strict=True)):
            mean = self.labels.mean[:, i]
            out[f"{name}_DIFF"] = mean[self.pairs.first] - mean[self.pairs.second]
            out[f"{name}_DIFF"].unit = unit or None
            for kind, z in self.pairs.z.items():
                out[f"{name}_Z{'' if kind == 'formal' else '_CAL'}"] = z[:, i]
        return out

    def _facts(self) -> tuple[str, list[Row]]:
        mark = SIMULATED if self.simulated else ""
        title = f"Repeats of {count_text(self.labels.n_stars, 'star')}{mark}"
        rows = [("visits", str(self.labels.star.size))]
        for row in self.table:
            floor = two_digits(float(row["FLOOR_LIMIT"]))
            rows.append(
                (shown_label(str(row["LABEL"])),
                 f"scale {row['SCALE']:.2f} ± {row['SCALE_ERR']:.2f}, floor below {floor} "
                 f"{row['UNIT']} (95 %), formal z has sd {row['Z_SD']:.2f}".replace("  ", " "))
            )  # fmt: skip
        return title, rows


def repeats(
    result: GivenResult,
    visits: Any,
    *,
    flagged: Flagged = "exclude",
    seed: int | None = None,
    cores: int | None = None,
) -> Repeats:
    """Compare the labels of the visits to stars with each other and with their errors.

    For every pair of visits to a star z = (l1 - l2) / sqrt(s1**2 + s2**2), with the means l of the
    formal posteriors and with formal and calibrated errors s. Pairs of one star are not
    independent: each star of n visits weighs n - 1, and uncertainties are those of a bootstrap over
    stars. Scale and floor are those of `bayes_cannon.models.build_repeat_model`, in which the value
    of each star is integrated out.

    Repeats measure only the part of the error that differs from visit to visit, see `SEES`. The
    calibrated errors, which hold the model's, must come out larger; formal ones too, as far as the
    scatter of pixels about the model, which they hold, is the same at every visit. An sd of z
    above 1, or a scale above 1, is what should alarm.

    Parameters
    ----------
    result
        A result or run of the visits' spectra (`bayes_cannon.surveys.visit_spectra`).
    visits
        Its table: id of the visit, ``STAR``, ``SNR``.
    flagged
        ``'exclude'`` leaves visits with a flag of severity BAD out, ``'keep'`` does not.
    seed
        Of sampler and bootstrap; None takes a fresh one.
    cores
        Chains that run side by side; None: all cores.

    Returns
    -------
    Repeats
        Columns of its `table`, errors in the unit of the label: ``FORMAL_ERR``, ``CAL_ERR``
        (medians of the visits), ``REPEAT_ERR`` (median of sqrt(scale² formal² + floor²)),
        ``SCALE``, ``SCALE_ERR`` (mean and standard deviation), ``FLOOR`` (median), ``FLOOR_LOW``,
        ``FLOOR_HIGH`` (68 % highest-density interval), ``FLOOR_LIMIT`` (95 % upper limit),
        ``NU``; of formal errors ``Z_SD``, ``COVER_68``, ``COVER_95`` and their standard errors
        ``…_SE``; the same of calibrated ones with ``CAL_`` before the name (1.96 standard
        deviations for 95 %). In `bins`, ``N`` is the number of independent differences, ``ERR``
        the median error of that kind and ``REPEAT_ERR`` the robust standard deviation of the
        differences over the square root of 2.

    Raises
    ------
    NoStarsError
        If fewer than eight stars have two visits that can be used.
    InvalidDataError
        If the table does not know the visits.
    FitError
        If the sampler cannot start.
    """
    tree, seed = as_result(result), as_seed(seed)
    return compare_visits(tree, labels_of_visits(tree, visits, flagged=flagged), flagged, seed,
                          cores=cores)  # fmt: skip


def compare_visits(
    tree: xr.DataTree,
    labels: VisitLabels,
    flagged: Flagged,
    seed: int,
    *,
    fit: xr.DataTree | None = None,
    cores: int | None = None,
) -> Repeats:
    """Compare labels of visits; see `repeats`.

    Parameters
    ----------
    tree
        Result that they are from.
    labels
        Of the visits.
    flagged
        What became of flagged visits.
    seed, cores
        As of `repeats`.
    fit
        Of an earlier call on the same labels, in place of sampling.

    Raises
    ------
    NoStarsError
        If there are too few stars.
    """
    if labels.n_stars < FEWEST_STARS:
        raise NoStarsError(
            f"{count_text(labels.n_stars, 'star')} have two usable visits; {FEWEST_STARS} are "
            "needed to compare repeats."
        )
    pairs = pairs_of(labels)
    if fit is None:
        difference = labels.mean[pairs.first] - labels.mean[pairs.second]
        spread = [_robust(np.abs(d), pairs.weight[None])[0] / np.sqrt(2) for d in difference.T]
        least = 0.1 * np.median(labels.errors["formal"], axis=0)
        fit = fit_repeats(labels, np.maximum(spread, least), seed=seed, cores=cores)
    counts = _resampled(pairs, np.random.default_rng(seed))
    simulated = is_simulated(tree)
    meta = {
        "SIMULATE": simulated, "N_STARS": labels.n_stars, "N_VISITS": labels.star.size,
        "N_PAIRS": pairs.star.size, "FLAGGED": flagged, "N_BAD": labels.n_flagged,
        "N_NONE": labels.n_without, "N_ALONE": labels.n_alone, "comments": [SEES],
    }  # fmt: skip
    rows = [_row(labels, pairs, fit, i, counts) for i in range(len(labels.names))]
    table = Table(rows=rows, meta=meta)
    bins = Table(rows=_bins(labels, pairs, counts), meta=meta)
    return Repeats(labels, pairs, table, bins, fit, simulated)


def _resampled(pairs: Pairs, rng: np.random.Generator) -> FloatArray:
    """Weights of the pairs: as they are (row 0), and where stars are drawn anew."""
    n = int(pairs.star.max()) + 1
    times = rng.multinomial(n, np.full(n, 1 / n), size=_BOOTSTRAPS)
    return np.concatenate([pairs.weight[None], times[:, pairs.star] * pairs.weight])


def _robust(size: FloatArray, weight: FloatArray) -> FloatArray:
    """Standard deviation of a normal with the weighted median of `size`, for rows of weights."""
    order = np.argsort(size)
    mass = np.cumsum(weight[:, order], axis=1)
    middle = np.argmax(mass >= 0.5 * mass[:, -1:], axis=1)
    return np.asarray(size[order][middle] / _HALF)


def _statistics(z: FloatArray, counts: FloatArray) -> dict[str, float]:
    """Robust sd and coverage of z, with standard errors from rows 1… of the weights."""
    size = np.abs(z)
    total = counts.sum(axis=1)
    drawn = {"Z_SD": _robust(size, counts)}
    for name, limit in _INSIDE.items():
        drawn[name] = np.round(counts @ (size < limit) / np.where(total > 0, total, np.nan), 9)
    out = {}
    for name, values in drawn.items():
        known = values[1:][total[1:] > 0]
        out[name], out[f"{name}_SE"] = float(values[0]), float(np.std(known, ddof=1))
    return out


def _row(
    labels: VisitLabels, pairs: Pairs, fit: xr.DataTree, i: int, counts: FloatArray
) -> dict[str, Any]:
    """What repeats say of one label."""
    draws = fit["posterior"].to_dataset().isel(label_name=i)
    scale, floor, nu = (draws[n].values.ravel() for n in ("scale", "floor", "nu"))
    formal = labels.errors["formal"][:, i]
    calibrated = labels.errors.get("calibrated", np.full_like(labels.mean, np.nan))[:, i]
    each = np.median(np.sqrt((scale[:, None] * formal) ** 2 + floor[:, None] ** 2), axis=1)
    low, high = interval_from_zero(floor, 0.683)
    row: dict[str, Any] = {
        "LABEL": labels.names[i], "UNIT": labels.units[i],
        "FORMAL_ERR": float(np.median(formal)), "CAL_ERR": float(np.median(calibrated)),
        "REPEAT_ERR": float(np.median(each)), "REPEAT_ERR_SE": float(each.std()),
        "SCALE": float(scale.mean()), "SCALE_ERR": float(scale.std()),
        "FLOOR": float(np.median(floor)), "FLOOR_LOW": low, "FLOOR_HIGH": high,
        "FLOOR_LIMIT": float(np.quantile(floor, 0.95)), "NU": float(np.median(nu)),
    }  # fmt: skip
    row |= _statistics(pairs.z["formal"][:, i], counts)
    none = dict.fromkeys(f"{n}{end}" for n in ("Z_SD", *_INSIDE) for end in ("", "_SE"))
    known: Mapping[str, float | None] = none
    if "calibrated" in pairs.z:
        known = _statistics(pairs.z["calibrated"][:, i], counts)
    return row | {f"CAL_{k}": np.nan if v is None else v for k, v in known.items()}


def _bins(labels: VisitLabels, pairs: Pairs, counts: FloatArray) -> list[dict[str, Any]]:
    """The same in ranges of S/N with as many independent differences each."""
    rows: list[dict[str, Any]] = []
    for within in _ranges(pairs):
        weight = pairs.weight[within]
        low, high = float(pairs.snr[within].min()), float(pairs.snr[within].max())
        middle = float(np.median(pairs.snr[within]))
        one, two = pairs.first[within], pairs.second[within]
        size = np.abs(labels.mean[one] - labels.mean[two]) / np.sqrt(2)
        for kind, z in pairs.z.items():
            sd = labels.errors[kind]
            for i, name in enumerate(labels.names):
                seen = _robust(size[:, i], counts[:, within])
                error = np.sqrt(0.5 * (sd[one, i] ** 2 + sd[two, i] ** 2))
                rows.append(
                    {"LABEL": name, "KIND": kind, "SNR": middle, "SNR_LOW": low,
                     "SNR_HIGH": high, "N": float(weight.sum()), "ERR": float(np.median(error)),
                     "REPEAT_ERR": float(seen[0]), "REPEAT_ERR_SE": float(seen[1:].std()),
                     **_statistics(z[within, i], counts[:, within])}
                )  # fmt: skip
    return rows


def _ranges(pairs: Pairs) -> list[NDArray[np.bool_]]:
    """Pairs of each range of S/N; one range where S/N is not known or pairs are few."""
    known = np.isfinite(pairs.snr)
    if not known.all():
        return [np.ones(known.size, np.bool_)]
    n = int(np.clip(pairs.weight.sum() // _PER_BIN, 1, 4))
    order = np.argsort(pairs.snr, kind="stable")
    mass = np.cumsum(pairs.weight[order])
    number = np.empty(known.size, dtype=np.int64)
    number[order] = np.minimum((n * (mass - 1e-9) / mass[-1]).astype(np.int64), n - 1)
    return [number == k for k in range(n) if (number == k).any()]
