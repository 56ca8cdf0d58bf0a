r"""Are posteriors calibrated? Coverage, PIT, pulls and scores against truth and catalogue.

What is judged is how often the 68 % and 95 % intervals hold the reference. The allowed range of a
coverage c over n stars is the one stated in `TOLERANCES`, which is about three binomial standard
errors of 300 stars, or three standard errors of n stars where those are wider.

Scores are also looked at in bins: by S/N, by distance from the training labels, by place among
the labels. The bins are cut at posterior means, not at reference values: given the data a
calibrated posterior is right on average, given the truth it need not be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray
from scipy.stats import kstest

from bayes_cannon.analysis.scores import Scores, judged_by_moments, score
from bayes_cannon.base.cards import SIMULATED, Carded, Row, count_text
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_result
from bayes_cannon.inference.posterior import (
    group_of,
    is_simulated,
    posterior_names,
)
from bayes_cannon.inference.units import known_labels, units_of_result
from bayes_cannon.spectra.label_kinds import shown_label
from bayes_cannon.spectra.labels import Labels

__all__ = [
    "LEVELS",
    "OF_MOMENTS",
    "TOLERANCES",
    "Check",
    "Tolerance",
    "check_calibration",
    "cover_error",
    "coverage",
]

LEVELS = (0.50, 0.68, 0.90, 0.95)
"""Nominal levels that are reported."""
_GROUPS = {"formal": "posterior", "calibrated": "calibrated_posterior"}
_PLACES = ("TEFF", "FE_H")
_N_BINS = 3
_FEWEST = 20
"""Least stars with which a coverage is judged."""


@dataclass(frozen=True)
class Tolerance:
    """Range in which the coverage of a nominal level must lie."""

    level: float
    low: float
    high: float

    def limits(self, n: int) -> tuple[float, float]:
        """Range for n stars: the stated one, or three binomial standard errors where wider.

        Parameters
        ----------
        n
            Number of stars.

        >>> low, high = Tolerance(0.68, 0.60, 0.76).limits(50)
        >>> round(low, 2), round(high, 2)
        (0.48, 0.88)
        """
        error = 3 * np.sqrt(self.level * (1 - self.level) / max(n, 1))
        low, high = min(self.low, self.level - error), max(self.high, self.level + error)
        return float(max(low, 0.0)), float(min(high, 1.0))


TOLERANCES = (Tolerance(0.68, 0.60, 0.76), Tolerance(0.95, 0.91, 0.985))
"""What the calibrated posteriors of about 300 held-out stars must keep."""


OF_MOMENTS = (
    "The run keeps moments, few draws or none: intervals and regions are of what they describe, a "
    "Student t of calibrated and a normal distribution of formal posteriors."
)
"""What a check of such a run says."""


@dataclass(frozen=True, eq=False, repr=False)
class Check(Carded):
    """Result of `check_calibration`.

    Attributes
    ----------
    coverage : astropy.table.Table
        One row per reference, kind of posterior and label, see `check_calibration`.
    bins : astropy.table.Table
        Rank-normalised scores in bins of stars.
    joint : astropy.table.Table
        How often regions of all labels together hold the reference, of all stars and in bins.
    failures : tuple of str
        What is outside its tolerance, one sentence each; empty where all is well.
    scores : mapping of (str, str) to Scores
        By reference and kind.
    judged : str
        Kind of posterior that is judged: ``calibrated``, or ``formal`` where there is no other.
    simulated : bool
    of_moments : bool
        Whether moments alone were kept of the posteriors, so that intervals are those of the
        distributions that they describe.
    """

    coverage: Table
    bins: Table
    joint: Table
    failures: tuple[str, ...]
    scores: Mapping[tuple[str, str], Scores]
    judged: str
    simulated: bool
    of_moments: bool = False

    @property
    def passed(self) -> bool:
        """Whether every coverage that is judged is within its tolerance."""
        return not self.failures

    def to_pandas(self) -> pd.DataFrame:
        """Return `coverage` as a DataFrame."""
        return self.coverage.to_pandas()

    def _facts(self) -> tuple[str, list[Row]]:
        rows = self.coverage[self.coverage["KIND"] == self.judged]
        covers = [
            f"{shown_label(str(r['LABEL']))} {100 * r['COVER_68']:.0f}, {100 * r['COVER_95']:.0f} %"
            for r in rows
        ]
        found = "passed" if self.passed else "; ".join(self.failures)
        title = f"Check of {self.judged} posteriors{SIMULATED if self.simulated else ''}"
        return title, [
            ("references", ", ".join(dict.fromkeys(str(name) for name, _ in self.scores))),
            ("stars", str(max(rows["N"], default=0))),
            ("inside 68, 95 %", "; ".join(covers)),
            *self._joint_facts(),
            ("found", found),
            ("intervals", OF_MOMENTS if self.of_moments else ""),
        ]

    def joint_text(self, reference: str) -> str:
        """How often the judged posterior's regions of all labels hold a reference, in words.

        Parameters
        ----------
        reference
            ``truth`` or ``catalogue``, as given to `check_calibration`.
        """
        table = self.joint
        here = (table["REFERENCE"] == reference) & (table["KIND"] == self.judged)
        row = table[here & (table["BY"] == "ALL")][0]
        covers = " and ".join(
            f"{100 * row[name]:.0f} ± {100 * row[f'{name}_SE']:.0f} % ({name[6:]} %)"
            for name in ("COVER_68", "COVER_95")
        )
        return f"{covers} of {count_text(row['N'], 'star')}"

    def _joint_facts(self) -> list[Row]:
        names = dict.fromkeys(str(name) for name, _ in self.scores)
        return [(f"regions of all labels, {name}", self.joint_text(name)) for name in names]


def cover_error(cover: float, n: int) -> float:
    """Binomial standard error of a coverage found with n stars, not 0 where all or none are in.

    Parameters
    ----------
    cover
        Share of the stars, 0 to 1.
    n
        Number of stars.
    """
    shrunk = (cover * n + 0.5) / (n + 1)
    return float(np.sqrt(shrunk * (1 - shrunk) / max(n, 1)))


def check_calibration(
    result: GivenResult,
    references: Mapping[str, KnownLabels],
    *,
    snr: Mapping[str, float] | None = None,
    tolerances: Sequence[Tolerance] = TOLERANCES,
) -> Check:
    """Check formal and calibrated posteriors against references.

    Parameters
    ----------
    result
        What `infer_labels` returned, or a run's posteriors; of stars not trained on.
    references
        Labels to compare with by name (``truth``, ``catalogue``); their errors are included.
    snr
        S/N per pixel by star id.
    tolerances
        What is judged.

    Returns
    -------
    Check
        Its table ``coverage`` has ``REFERENCE``, ``KIND``, ``LABEL``, ``UNIT``, ``N`` stars,
        ``BIAS`` and ``RMS`` of posterior mean less reference, ``SD`` (median posterior standard
        deviation), ``PULL_MEAN`` and ``PULL_SD``, ``COVER_50`` with its binomial standard error
        ``COVER_50_SE`` (and so on for 68, 90, 95), ``PIT_P`` (Kolmogorov-Smirnov test of a uniform
        PIT) and ``VERDICT``: ``pass``, ``fail``, or empty where nothing is judged. ``bins`` has
        ``BY``, ``LOW``, ``HIGH``, ``CENTER`` of each bin with ``MEAN`` and ``SD`` of the scores
        and ``COVER_68``, each with its standard error ``_SE``. ``joint`` has a row for ``BY`` =
        ``ALL`` and one for every bin, with ``N`` stars that have all labels and the share
        ``COVER_50`` … of them inside the ellipsoid of that level, each with its ``_SE``; it is
        told, not judged.

    Raises
    ------
    InvalidDataError
        If there is no reference, or one shares too few stars with the result to judge a label.
    """
    if not references:
        raise InvalidDataError("there is nothing to check against: give at least one reference.")
    if not isinstance(references, Mapping):
        raise InvalidDataError(
            'references must be given by name, like {"catalogue": labels}, not as an object of '
            f"type {type(references).__name__}."
        )
    result = as_result(result)
    units = units_of_result(result, posterior_names(result))
    known = {name: known_labels(labels, units, name) for name, labels in references.items()}
    kinds = [kind for kind, group in _GROUPS.items() if group in result.children]
    judged = "calibrated" if "calibrated" in kinds else "formal"
    scores = {
        (name, kind): score(result, labels, group=_GROUPS[kind])
        for name, labels in known.items()
        if labels is not None
        for kind in kinds
    }
    rows, failures, bins, joint = [], [], [], []
    for (name, kind), found in scores.items():
        for i, label in enumerate(found.names):
            where = f"{name}, {kind}, {label}"
            row, wrong = _row(found, i, where, tolerances if kind == judged else (), units[label])
            rows.append({"REFERENCE": name, "KIND": kind, **row})
            failures += wrong
        of_which = {"REFERENCE": name, "KIND": kind}
        joint.append(of_which | _joint_row(found, "ALL", np.isfinite(found.joint)))
        for by, values in _places(result, found, snr):
            bins += [of_which | row for row in _bin_rows(found, by, values)]
            joint += [of_which | row for row in _joint_rows(found, by, values)]
    simulated = is_simulated(result)
    coverage, binned, together = (
        Table(rows=part, meta={"SIMULATE": simulated}) for part in (rows, bins, joint)
    )
    of_moments = judged_by_moments(result, _GROUPS[judged])
    return Check(coverage, binned, together, tuple(failures), scores, judged, simulated, of_moments)


def _moments(found: Scores, i: int) -> dict[str, float]:
    """Number of stars, bias, rms and median error of one label."""
    known = np.isfinite(found.pit[:, i])
    off = found.difference[known, i]
    return {
        "N": int(known.sum()),
        "BIAS": float(off.mean()),
        "RMS": float(np.sqrt(np.mean(off**2))),
        "SD": float(np.median(found.sd[known, i])),
    }


def _covers(
    found: Scores, i: int, levels: Sequence[float], *, errors: bool = False
) -> dict[str, float]:
    """Share of the stars whose central interval of each level holds one label's reference."""
    held = found.pit[:, i]
    known, out = np.isfinite(held), {}
    for level in levels:
        cover = float(found.inside(level)[known, i].mean())
        out[f"COVER_{100 * level:g}"] = cover
        if errors:
            out[f"COVER_{100 * level:g}_SE"] = cover_error(cover, int(known.sum()))
    return out


def _row(
    found: Scores, i: int, where: str, tolerances: Sequence[Tolerance], unit: str
) -> tuple[dict[str, object], list[str]]:
    """Row of one label, and what fails in it."""
    known = np.isfinite(found.pit[:, i])
    n, label = int(known.sum()), found.names[i]
    if n == 0 or (tolerances and n < _FEWEST):
        raise InvalidDataError(
            f"{where}: {count_text(n, 'star')} have both a posterior and this label, too few to "
            f"judge (at least {_FEWEST}); hold out more stars."
        )
    pull = found.pull[known, i]
    row: dict[str, object] = {
        "LABEL": label,
        "UNIT": unit,
        **_moments(found, i),
        "PULL_MEAN": float(pull.mean()),
        "PULL_SD": float(pull.std(ddof=1)) if n > 1 else float("nan"),
        **_covers(found, i, LEVELS, errors=True),
    }
    row["PIT_P"] = float(kstest(found.pit[known, i], "uniform").pvalue)
    wrong = []
    for tolerance in tolerances:
        cover = float(found.inside(tolerance.level)[known, i].mean())
        low, high = tolerance.limits(n)
        if not low <= cover <= high:
            wrong.append(
                f"{where}: the {100 * tolerance.level:g} % interval holds {100 * cover:.1f} % of "
                f"{count_text(n, 'star')}, allowed are {100 * low:.1f} to {100 * high:.1f} %"
            )
    row["VERDICT"] = ("fail" if wrong else "pass") if tolerances else ""
    return row, wrong


def _places(
    result: xr.DataTree, found: Scores, snr: Mapping[str, float] | None
) -> Iterator[tuple[str, FloatArray]]:
    """What stars are binned by: name, and value of each star of `found`."""
    if snr is not None:
        yield "S/N", np.array([snr.get(s, np.nan) for s in found.star_id.tolist()])
    stats = group_of(result, "star_stats") if "star_stats" in result.children else xr.Dataset()
    if "mahalanobis" in stats:
        own = dict(zip(stats["star"].values.tolist(), stats["mahalanobis"].values, strict=True))
        yield "DISTANCE", np.array([own[s] for s in found.star_id.tolist()], dtype=np.float64)
    for label in [n for n in _PLACES if n in found.names] or found.names[:1]:
        yield label, found.mean[:, found.names.index(label)]


def _joint_row(
    found: Scores, by: str, stars: NDArray[np.bool_], low: float = np.nan, high: float = np.nan
) -> dict[str, object]:
    """Share of some stars inside the regions of all labels."""
    level, n = found.joint[stars], int(stars.sum())
    row: dict[str, object] = {"BY": by, "LOW": low, "HIGH": high, "N": n}
    for nominal in LEVELS:
        cover = float(np.mean(level < nominal)) if n else float("nan")
        row[f"COVER_{100 * nominal:g}"] = cover
        row[f"COVER_{100 * nominal:g}_SE"] = cover_error(cover, n)
    return row


def _joint_rows(found: Scores, by: str, values: FloatArray) -> Iterator[dict[str, object]]:
    known, edges, place = _in_bins(values)
    for k in range(edges.size - 1):
        stars = known & (place == k) & np.isfinite(found.joint)
        if stars.sum() > 1:
            yield _joint_row(found, by, stars, float(edges[k]), float(edges[k + 1]))


def _in_bins(values: FloatArray) -> tuple[NDArray[np.bool_], FloatArray, NDArray[np.intp]]:
    """Which values are known, edges of bins of about equal numbers of them, and each one's bin."""
    known = np.isfinite(values)
    if not known.any():
        return known, np.empty(0), np.zeros(values.size, dtype=np.intp)
    edges = np.quantile(values[known], np.linspace(0, 1, _N_BINS + 1))
    place = np.clip(np.searchsorted(edges[1:-1], values, side="right"), 0, _N_BINS - 1)
    return known, edges, place


def _bin_rows(found: Scores, by: str, values: FloatArray) -> Iterator[dict[str, object]]:
    """Scores of every label in bins of about equal numbers of stars."""
    known, edges, place = _in_bins(values)
    if edges.size == 0:
        return
    normal, inside = found.normal, found.inside(0.68)
    for k in range(_N_BINS):
        for i, label in enumerate(found.names):
            here = known & (place == k) & np.isfinite(normal[:, i])
            n = int(here.sum())
            if n < 2:
                continue
            z, cover = normal[here, i], float(inside[here, i].mean())
            sd = float(z.std(ddof=1))
            yield {
                "LABEL": label, "BY": by, "LOW": edges[k], "HIGH": edges[k + 1],
                "CENTER": float(np.median(values[here])), "N": n,
                "MEAN": float(z.mean()), "MEAN_SE": sd / np.sqrt(n),
                "SD": sd, "SD_SE": sd / np.sqrt(2 * (n - 1)),
                "COVER_68": cover, "COVER_68_SE": cover_error(cover, n),
            }  # fmt: skip


def coverage(result: GivenResult, truth: Labels, levels: Sequence[float] = (0.68, 0.95)) -> Table:
    """How often central intervals hold the true label.

    Parameters
    ----------
    result
        What `infer_labels` returned.
    truth
        True labels; matched by star id. Errors that they come with (a catalogue's) are included.
    levels
        Nominal levels, between 0 and 1.

    Returns
    -------
    astropy.table.Table
        One row per label and kind of posterior: ``LABEL``, ``KIND`` (``formal``, ``calibrated``),
        ``N`` stars, ``BIAS`` and ``RMS`` of posterior mean minus truth, ``SD`` (median posterior
        standard deviation), and for each level ``COVER_68``, ``COVER_95``, … Three standard errors
        of a coverage c are ``3 sqrt(c (1 - c) / N)``.

    Raises
    ------
    InvalidDataError
        On an impossible level, or if no star or no label is in both.
    """
    if any(not 0 < level < 1 for level in levels):
        raise InvalidDataError(f"levels must lie between 0 and 1, got {tuple(levels)}.")
    result = as_result(result)
    rows: list[dict[str, object]] = []
    for kind, group in _GROUPS.items():
        if group not in result.children:
            continue
        found = score(result, truth, group=group)
        rows += [
            {"LABEL": name, "KIND": kind, **_moments(found, i), **_covers(found, i, levels)}
            for i, name in enumerate(found.names)
            if np.isfinite(found.pit[:, i]).any()
        ]
    return Table(rows=rows)
