r"""Are posteriors calibrated? Coverage, PIT, pulls and scores against truth and catalogue.

What is judged is how often the 68 % and 95 % intervals hold the reference. The allowed range of a
coverage c over n stars is the one stated in `TOLERANCES`, which is about three binomial standard
errors of 300 stars, or three standard errors of n stars where those are wider.

Scores are also looked at in bins: by S/N, by distance from the training labels, by place among
the labels. The bins are cut at posterior means, not at reference values: given the data a
calibrated posterior is right on average, given the truth it need not be.

Where the labels of a reference lie in the posteriors of the same stars.

For a star with draws ``l_d`` and a reference value ``r`` of error ``e`` (0 for a true label), the
posterior says that the reference lies below its value with probability

    PIT = mean_d Phi((r - l_d) / e) ,

the probability integral transform: uniform on (0, 1) where the posterior is calibrated. The error
of the reference is included without drawing any noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import kstest

from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import InvalidDataError
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_result
from bayes_cannon.inference.posterior import group_of, is_simulated, posterior_names
from bayes_cannon.inference.units import known_labels, units_of_result
from bayes_cannon.spectra.labels import Labels

__all__ = [
    "LEVELS",
    "TOLERANCES",
    "Check",
    "Scores",
    "Tolerance",
    "check_calibration",
    "cover_error",
    "coverage",
    "pit",
    "pulls",
    "score",
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

        >>> low, high = Tolerance(0.68, 0.60, 0.76).limits(50)
        >>> round(low, 2), round(high, 2)
        (0.48, 0.88)
        """
        error = 3 * np.sqrt(self.level * (1 - self.level) / max(n, 1))
        low, high = min(self.low, self.level - error), max(self.high, self.level + error)
        return float(max(low, 0.0)), float(min(high, 1.0))


TOLERANCES = (Tolerance(0.68, 0.60, 0.76), Tolerance(0.95, 0.91, 0.985))
"""What the calibrated posteriors of about 300 held-out stars must keep."""


@dataclass(frozen=True, eq=False)
class Check:
    """Result of `check_calibration`.

    Attributes
    ----------
    coverage : astropy.table.Table
        One row per reference, kind of posterior and label, see `check_calibration`.
    bins : astropy.table.Table
        Rank-normalised scores in bins of stars.
    failures : tuple of str
        What is outside its tolerance, one sentence each; empty where all is well.
    scores : mapping of (str, str) to Scores
        By reference and kind.
    judged : str
        Kind of posterior that is judged: ``calibrated``, or ``formal`` where there is no other.
    simulated : bool
    """

    coverage: Table
    bins: Table
    failures: tuple[str, ...]
    scores: Mapping[tuple[str, str], Scores]
    judged: str
    simulated: bool

    @property
    def passed(self) -> bool:
        """Whether every coverage that is judged is within its tolerance."""
        return not self.failures


def cover_error(cover: float, n: int) -> float:
    """Binomial standard error of a coverage found with n stars, not 0 where all or none are in."""
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
        and ``COVER_68``, each with its standard error ``_SE``.

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
    rows, failures, bins = [], [], []
    for (name, kind), found in scores.items():
        for i, label in enumerate(found.names):
            where = f"{name}, {kind}, {label}"
            row, wrong = _row(found, i, where, tolerances if kind == judged else (), units[label])
            rows.append({"REFERENCE": name, "KIND": kind, **row})
            failures += wrong
        for by, values in _places(result, found, snr):
            bins += [
                {"REFERENCE": name, "KIND": kind, **row} for row in _bin_rows(found, by, values)
            ]
    simulated = is_simulated(result)
    coverage, binned = (Table(rows=part, meta={"SIMULATE": simulated}) for part in (rows, bins))
    return Check(coverage, binned, tuple(failures), scores, judged, simulated)


def _row(
    found: Scores, i: int, where: str, tolerances: Sequence[Tolerance], unit: str
) -> tuple[dict[str, object], list[str]]:
    """Row of one label, and what fails in it."""
    known = np.isfinite(found.pit[:, i])
    n, label = int(known.sum()), found.names[i]
    if n == 0 or (tolerances and n < _FEWEST):
        raise InvalidDataError(
            f"{where}: {n} stars have both a posterior and this label, too few to judge "
            f"(at least {_FEWEST}); hold out more stars."
        )
    off, pull = found.difference[known, i], found.pull[known, i]
    row: dict[str, object] = {
        "LABEL": label,
        "UNIT": unit,
        "N": n,
        "BIAS": float(off.mean()),
        "RMS": float(np.sqrt(np.mean(off**2))),
        "SD": float(np.median(found.sd[known, i])),
        "PULL_MEAN": float(pull.mean()),
        "PULL_SD": float(pull.std(ddof=1)) if n > 1 else float("nan"),
    }
    for level in LEVELS:
        cover = float(found.inside(level)[known, i].mean())
        row[f"COVER_{100 * level:g}"] = cover
        row[f"COVER_{100 * level:g}_SE"] = cover_error(cover, n)
    row["PIT_P"] = float(kstest(found.pit[known, i], "uniform").pvalue)
    wrong = []
    for tolerance in tolerances:
        cover = float(found.inside(tolerance.level)[known, i].mean())
        low, high = tolerance.limits(n)
        if not low <= cover <= high:
            wrong.append(
                f"{where}: the {100 * tolerance.level:g} % interval holds {100 * cover:.1f} % of "
                f"{n} stars, allowed are {100 * low:.1f} to {100 * high:.1f} %"
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


def _bin_rows(found: Scores, by: str, values: FloatArray) -> Iterator[dict[str, object]]:
    """Scores of every label in bins of about equal numbers of stars."""
    known = np.isfinite(values)
    if not known.any():
        return
    edges = np.quantile(values[known], np.linspace(0, 1, _N_BINS + 1))
    place = np.clip(np.searchsorted(edges[1:-1], values, side="right"), 0, _N_BINS - 1)
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


_BLOCK = 256
"""Stars whose draws are in memory at one time."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What a reference says about posteriors; NaN where a star lacks the one or the other.

    Attributes
    ----------
    names : tuple of str
        Labels in both.
    star_id : (n_stars,) str
        Stars in both.
    pit : (n_stars, n_labels) float64
        Probability integral transform, in (0, 1).
    mean : (n_stars, n_labels) float64
        Posterior mean, in the labels' units.
    difference : (n_stars, n_labels) float64
        Posterior mean less reference.
    sd : (n_stars, n_labels) float64
        Standard deviation of the posterior.
    pull : (n_stars, n_labels) float64
        Difference in standard deviations, the error of the reference included.
    """

    names: tuple[str, ...]
    star_id: NDArray[np.str_]
    pit: FloatArray
    mean: FloatArray
    difference: FloatArray
    sd: FloatArray
    pull: FloatArray

    @property
    def normal(self) -> FloatArray:
        """Rank-normalised scores, (n_stars, n_labels): N(0, 1) where calibrated."""
        return np.asarray(ndtri(self.pit))

    def inside(self, level: float) -> FloatArray:
        """1 where the central interval of `level` holds the reference, 0 where not, or NaN."""
        held = (np.abs(self.pit - 0.5) < level / 2).astype(np.float64)
        return np.where(np.isnan(self.pit), np.nan, held)


def score(
    result: GivenResult, reference: KnownLabels, *, group: str = "calibrated_posterior"
) -> Scores:
    """Compare posteriors with a reference, matched by star id.

    Parameters
    ----------
    result
        What `infer_labels` returned; read in blocks of stars.
    reference
        True labels, or a catalogue's; its errors are included where they are known.
    group
        ``posterior`` (formal) or ``calibrated_posterior``.

    Raises
    ------
    InvalidDataError
        If no star or no label is in both, or the result lacks the group.
    """
    result = as_result(result)
    units = units_of_result(result, posterior_names(result))
    reference = known_labels(reference, units, "reference")
    if reference is None:
        raise InvalidDataError("there is no reference to compare with.")
    names = tuple(n for n in units if n in reference.names)
    draws = group_of(result, group)
    star_id = draws["star"].values.astype(np.str_)
    place = {star: i for i, star in enumerate(reference.star_id.tolist())}
    both = [(i, place[s]) for i, s in enumerate(star_id.tolist()) if s in place]
    if not names or not both:
        raise InvalidDataError(
            f"the {star_id.size} stars of the result and the {reference.n_stars} of the true "
            "labels share no star, or no label."
        )
    mine, theirs = np.array(both).T
    known = reference.only(names).select(theirs)
    parts = [
        _block(draws, names, mine[rows], known.values[rows], np.nan_to_num(known.errors[rows]))
        for rows in (slice(a, a + _BLOCK) for a in range(0, mine.size, _BLOCK))
    ]
    pit, mean, sd, pull = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Scores(names, star_id[mine], pit, mean, mean - known.values, sd, pull)


def _block(
    draws: xr.Dataset,
    names: tuple[str, ...],
    stars: NDArray[np.intp],
    values: FloatArray,
    errors: FloatArray,
) -> tuple[FloatArray, ...]:
    """PIT, mean, standard deviation and pull of some stars, (n, n_labels) each."""
    part = draws[list(names)].isel(star=stars)
    columns = [
        part[n].transpose("chain", "draw", "star").values.reshape(-1, stars.size) for n in names
    ]
    x = np.stack(columns, axis=-1).astype(np.float64)
    n = len(x)
    below = (np.sum(x < values, axis=0) + 0.5) / (n + 1)
    scale = np.where(errors > 0, errors, 1.0)
    smooth = np.mean(ndtr((values - x) / scale), axis=0)
    pit = np.where(errors > 0, np.clip(smooth, 0.5 / (n + 1), (n + 0.5) / (n + 1)), below)
    known = np.isfinite(x).all(axis=0) & np.isfinite(values)
    mean, sd = x.mean(axis=0), x.std(axis=0, ddof=1)
    pull = (mean - values) / np.hypot(sd, errors)
    return tuple(np.where(known, a, np.nan) for a in (pit, mean, sd, pull))


def pit(result: GivenResult, truth: Labels, *, group: str = "calibrated_posterior") -> FloatArray:
    """Probability integral transform: part of a star's draws below the true label.

    Uniform on (0, 1) where the posterior is calibrated. Shape (n_stars in both, n_labels in both),
    NaN where posterior or truth is missing. See `score`, which also has the labels and stars.
    """
    return score(result, truth, group=group).pit


def pulls(result: GivenResult, truth: Labels, *, group: str = "calibrated_posterior") -> FloatArray:
    """Posterior mean minus truth in posterior standard deviations, shaped as `pit`."""
    return score(result, truth, group=group).pull


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
    kinds = {"formal": "posterior", "calibrated": "calibrated_posterior"}
    rows = []
    for kind, group in kinds.items():
        if group not in result.children:
            continue
        found = score(result, truth, group=group)
        for i, name in enumerate(found.names):
            known = np.isfinite(found.pit[:, i])
            off = found.difference[known, i]
            inside = [np.mean(found.inside(level)[known, i]) for level in levels]
            rms, sd = np.sqrt(np.mean(off**2)), np.median(found.sd[known, i])
            rows.append((name, kind, int(known.sum()), off.mean(), rms, sd, *inside))
    covers = [f"COVER_{100 * level:g}" for level in levels]
    return Table(rows=rows, names=("LABEL", "KIND", "N", "BIAS", "RMS", "SD", *covers))
