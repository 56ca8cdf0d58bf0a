"""The labels of one star beside the catalogue's, and the scatter of many stars about it.

`star_table` is about one star, `scatter_table` about the scatter over a set of stars. What others
published is in `PUBLISHED`, with its sources, and stands beside one's own where it is asked for.

What is known about one star, told: labels with formal and calibrated errors, and flags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from astropy.table import Row as TableRow
from astropy.table import Table

from bayes_cannon.analysis.catalogues import catalogue, comparison
from bayes_cannon.base.cards import SIMULATED, Carded, Row
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.rounding import value_with_error
from bayes_cannon.inference.arguments import GivenResult, KnownLabels, as_table
from bayes_cannon.inference.flags import MEANINGS, LabelFlag
from bayes_cannon.inference.tables import catalogue_name, row_of_star, simulated_rows, star_ids
from bayes_cannon.inference.units import known_labels, units_of_table
from bayes_cannon.spectra.label_kinds import shown_label, two_digits
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.star_ids import catalogue_column, rows_of

__all__ = [
    "PUBLISHED",
    "PublishedResult",
    "StarStory",
    "mystery_story",
    "scatter_table",
    "star_table",
]


@dataclass(frozen=True)
class PublishedResult:
    """Accuracy that others reached, to show beside one's own.

    Attributes
    ----------
    name : str
        Short, for a table's row.
    source : str
        Where it comes from, and on which stars.
    scatter : mapping of str to float
        Scatter of held-out stars about the catalogue, per label, K or dex.
    formal : mapping of str to float
        Formal errors quoted with it; empty where none were given.
    """

    name: str
    source: str
    scatter: Mapping[str, float]
    formal: Mapping[str, float]


PUBLISHED: tuple[PublishedResult, ...] = (
    PublishedResult(
        "Ness et al. 2015",
        "ApJ 808, 16; DR10 spectra, cluster giants; formal errors are upper limits",
        MappingProxyType({"TEFF": 95.0, "LOGG": 0.24, "FE_H": 0.08}),
        MappingProxyType({"TEFF": 5.6, "LOGG": 0.01, "FE_H": 0.006}),
    ),
)
"""Published accuracies of The Cannon on APOGEE giants."""

_OURS_SIMULATED = "ours: SIMULATED stars, theirs: real ones, so that the tasks differ"


def star_table(
    result: GivenResult | Table,
    star: str | None = None,
    *,
    aspcap: KnownLabels | None = None,
    published: Sequence[PublishedResult] = (),
) -> Table:
    """The labels of one star beside the catalogue's, with all errors.

    Parameters
    ----------
    result
        What `infer_labels` returned, a run's posteriors, or what `catalogue` made of them.
    star
        Its id; may be left out where there is one star only.
    aspcap
        The catalogue's labels, matched by star id; not needed with a table that has them.
    published
        Whose formal errors stand beside ours, such as `PUBLISHED`; by default nobody's.

    Returns
    -------
    astropy.table.Table
        A row per label: ``LABEL``, ``UNIT``, ``OURS`` (posterior mean), ``ERR`` (calibrated, NaN
        where the model error was not measured), ``FORMAL_ERR``, ``ASPCAP``, ``ASPCAP_ERR``
        (or the name of another catalogue), ``DIFFERENCE`` of ours and theirs, ``PULL`` (over the
        joint error, ours calibrated where known), and ``FORMAL: name`` of each published result
        that has formal errors, whose description is its source. ``meta`` has the star and the
        sources.

    Raises
    ------
    InvalidDataError
        If the star is not there, or none is named among several.
    """
    given = as_table(result)
    table = catalogue(result, aspcap=aspcap) if given is None else given
    place = row_of_star(table, star)
    row, names = table[place], table.meta["LABELS"].split(",")
    noted, their_name = catalogue_name(table), catalogue_name(aspcap, table)
    old, their = catalogue_column(noted), catalogue_column(their_name)
    columns = {"OURS": "", "ERR": "_ERR", "FORMAL_ERR": "_FORMAL_ERR", their: f"_{old}",
               f"{their}_ERR": f"_{old}_ERR"}  # fmt: skip
    star_id = str(star_ids(table)[place])
    units = units_of_table(table, names)
    out = Table({"LABEL": names, "UNIT": [units[n] for n in names]})
    for column, suffix in columns.items():
        out[column] = [float(plain_numbers(row[f"{n}{suffix}"])) for n in names]
    theirs = known_labels(aspcap, units)
    if given is not None and theirs is not None:
        _put_catalogue(out, theirs, star_id, their)
    out["DIFFERENCE"] = out["OURS"] - out[their]
    own = np.where(np.isfinite(out["ERR"]), out["ERR"], out["FORMAL_ERR"])
    out["PULL"] = out["DIFFERENCE"] / np.hypot(own, out[f"{their}_ERR"])
    for other in published:
        if other.formal:
            _add_published(out, f"FORMAL: {other.name}", other, other.formal)
    _finish(out, table, published, STAR=star_id, CATALOG=their_name)
    return out


def _put_catalogue(out: Table, aspcap: Labels, star: str, their: str) -> None:
    """Replace the catalogue's values by those given."""
    row = int(rows_of(aspcap.star_id, [star])[0])
    known = [n in aspcap.names and row >= 0 for n in out["LABEL"]]
    for i, (name, found) in enumerate(zip(out["LABEL"], known, strict=True)):
        out[their][i] = aspcap[name][row] if found else np.nan
        out[f"{their}_ERR"][i] = aspcap.error(name)[row] if found else np.nan


def scatter_table(
    result: GivenResult | Table,
    reference: KnownLabels,
    *,
    published: Sequence[PublishedResult] = (),
) -> Table:
    """Scatter of the labels of many stars about a reference.

    Parameters
    ----------
    result
        What `infer_labels` returned, a run's posteriors, or what `catalogue` made of them; of stars
        that were not trained on.
    reference
        The catalogue's labels, or the truth of a simulation; matched by star id.
    published
        Whose scatter stands beside ours, such as `PUBLISHED`; by default nobody's.

    Returns
    -------
    astropy.table.Table
        A row per label: what `comparison` gives (``N``, ``BIAS``, ``RMS``, ``ROBUST_SCATTER``,
        median ``FORMAL_ERR`` and ``ERR``), and the scatter of each published result under its
        name, whose description is the source; NaN where a label was not published. ``meta`` has
        the sources.

    Raises
    ------
    InvalidDataError
        If no star or no label is in both.
    """
    given = as_table(result)
    table = catalogue(result) if given is None else given
    out = comparison(table, reference)
    for other in published:
        _add_published(out, other.name, other, other.scatter)
    _finish(out, table, published)
    return out


def _add_published(out: Table, column: str, other: PublishedResult, values: object) -> None:
    known = dict(values)  # type: ignore[call-overload]
    out[column] = [float(known.get(str(n), np.nan)) for n in out["LABEL"]]
    out[column].description = other.source


def _finish(out: Table, table: Table, published: Sequence[PublishedResult], **meta: str) -> None:
    """Numbers of a readable length, and where everything comes from."""
    for name in out.colnames:
        if out[name].dtype.kind == "f":
            out[name].info.format = ".4g"
    simulated = bool(table.meta.get("SIMULATE"))
    sources = {other.name: other.source for other in published}
    notes = [_OURS_SIMULATED] if simulated else []
    out.meta.update(meta, SIMULATE=simulated, SOURCES=sources)
    out.meta["comments"] = [*notes, *(f"{name}: {text}" for name, text in sources.items())]


_NOT_DESCRIBED = (
    LabelFlag.POOR_CHI2
    | LabelFlag.OUTSIDE_LABELS
    | LabelFlag.SPARSE_LABELS
    | LabelFlag.EXTREME_FACTORS
)
"""Flags that say that the star is unlike the training set."""
_NO_POSTERIOR = LabelFlag.NO_PIXELS | LabelFlag.FAILED


@dataclass(frozen=True, eq=False, repr=False)
class StarStory(Carded):
    """One star, formal against calibrated.

    Attributes
    ----------
    star : str
    table : astropy.table.Table
        A row per label: ``LABEL``, ``UNIT``, ``MEAN``, ``ERR`` (calibrated), ``FORMAL_ERR``,
        ``RATIO`` of the two, ``Q16``, ``Q50``, ``Q84``; NaN where not known.
    flags : astropy.table.Table
        A row per flag that is set: ``FLAG``, ``MEANING``.
    text : str
        The same in sentences.
    simulated : bool
    """

    star: str
    table: Table
    flags: Table
    text: str
    simulated: bool

    def __str__(self) -> str:
        return self.text

    def to_pandas(self) -> pd.DataFrame:
        """Return `table` as a DataFrame, its index the labels."""
        return self.table.to_pandas(index="LABEL")

    def _facts(self) -> tuple[str, list[Row]]:
        rows = []
        for r in self.table:
            error = r["ERR"] if np.isfinite(r["ERR"]) else r["FORMAL_ERR"]
            if np.isfinite(r["MEAN"]):
                value = value_with_error(float(r["MEAN"]), float(error))
                rows.append((shown_label(str(r["LABEL"])), f"{value} {r['UNIT']}".rstrip()))
        flags = ", ".join(str(name) for name in self.flags["FLAG"])
        return f"{self.star}{SIMULATED if self.simulated else ''}", [*rows, ("flags", flags)]


def mystery_story(result: GivenResult | Table, star: str | None = None) -> StarStory:
    """Tell what is known about one star, a mystery star or any other.

    Parameters
    ----------
    result
        What `infer_labels` returned, a run's posteriors, or what `catalogue` made of them.
    star
        Its id; may be left out where there is one star only.

    Raises
    ------
    InvalidDataError
        If the star is not there, or none is named among several.
    """
    given = as_table(result)
    table = catalogue(result) if given is None else given
    place = row_of_star(table, star)
    row, names = table[place], table.meta["LABELS"].split(",")
    columns = {"MEAN": "", "ERR": "_ERR", "FORMAL_ERR": "_FORMAL_ERR", "RATIO": "", "Q16": "_Q16",
               "Q50": "_Q50", "Q84": "_Q84"}  # fmt: skip
    units = units_of_table(table, names)
    labels = Table({"LABEL": names, "UNIT": [units[n] for n in names]})
    for column, suffix in columns.items():
        labels[column] = [float(plain_numbers(row[f"{n}{suffix}"])) for n in names]
        labels[column].info.format = ".4g"
    labels["RATIO"] = labels["ERR"] / labels["FORMAL_ERR"]
    labels["RATIO"].info.format = ".1f"
    flag = LabelFlag(int(row["LABEL_FLAG"]))
    found = [bit for bit in LabelFlag if flag & bit]
    flags = Table(
        {
            "FLAG": np.array([str(bit.name) for bit in found], dtype=np.str_),
            "MEANING": np.array([MEANINGS[bit] for bit in found], dtype=np.str_),
        }
    )
    simulated = bool(simulated_rows(table)[place])
    name = str(star_ids(table)[place])
    sentences = [_labels_text(name, labels, simulated=simulated), *_errors_text(labels)]
    sentences += _fit_text(row)
    sentences += _flags_text(flag, flags)
    return StarStory(name, labels, flags, " ".join(sentences), simulated)


def _fit_text(row: TableRow) -> list[str]:
    """How well the spectrum is fitted, among left-out training stars where that is known."""
    if "CHI2_RANK" in row.colnames and np.isfinite(rank := float(plain_numbers(row["CHI2_RANK"]))):
        return [
            f"The model fits it worse than {100 * min(rank, 1.0):.3g} % of left-out training stars "
            "of its signal-to-noise ratio."
        ]
    p = float(plain_numbers(row["CHI2_P"]))
    return [f"The posterior-predictive p-value of chi-square is {p:.2g}."] if np.isfinite(p) else []


def _labels_text(star: str, labels: Table, *, simulated: bool) -> str:
    head = f"{star}{' (SIMULATED)' if simulated else ''}"
    parts = []
    for row in labels:
        if not np.isfinite(row["MEAN"]):
            continue
        calibrated = bool(np.isfinite(row["ERR"]))
        error = row["ERR"] if calibrated else row["FORMAL_ERR"]
        formal = f", formal ± {two_digits(row['FORMAL_ERR'])}" if calibrated else ""
        value = value_with_error(float(row["MEAN"]), float(error))
        parts.append(f"{row['LABEL']} {value} {row['UNIT']}".rstrip() + formal)
    return f"{head}: {'; '.join(parts)}." if parts else f"{head} has no posterior."


def _errors_text(labels: Table) -> list[str]:
    """Formal against calibrated."""
    if not np.isfinite(labels["MEAN"]).any():
        return []
    ratio = labels["RATIO"][np.isfinite(labels["RATIO"])]
    if len(ratio) == 0:
        return [
            "These errors are formal ones, of the posterior alone; the model error was not "
            "measured, and without it they are too small."
        ]
    span = f"{ratio.min():.1f}"
    if f"{ratio.max():.1f}" != span:
        span += f" to {ratio.max():.1f}"
    return [
        f"The calibrated errors are {span} times the formal ones: the formal posterior takes the "
        "model as exact, the calibrated one adds how far stars that it had not seen were off in "
        "cross-validation."
    ]


def _flags_text(flag: LabelFlag, flags: Table) -> list[str]:
    if not flag:
        return ["No flag is set."]
    shown = "; ".join(f"{r['FLAG']} ({r['MEANING']})" for r in flags)
    out = [f"Flags: {shown}."]
    if flag & _NOT_DESCRIBED and not flag & _NO_POSTERIOR:
        out.append(
            "The star is unlike those that the model was trained on, and neither of the errors "
            "covers what follows from that."
        )
    return out
