"""What is known about one star, told: labels with formal and calibrated errors, and flags."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from astropy.table import Table

from bayes_cannon.arguments import as_table
from bayes_cannon.catalogue import catalogue
from bayes_cannon.label_flags import MEANINGS, LabelFlag
from bayes_cannon.label_units import units_of_table
from bayes_cannon.labels import two_digits
from bayes_cannon.result_tables import row_of_star

__all__ = ["StarStory", "mystery_story"]

_NOT_DESCRIBED = (
    LabelFlag.POOR_CHI2
    | LabelFlag.OUTSIDE_LABELS
    | LabelFlag.SPARSE_LABELS
    | LabelFlag.EXTREME_FACTORS
)
"""Flags that say that the star is unlike the training set."""
_NO_POSTERIOR = LabelFlag.NO_PIXELS | LabelFlag.FAILED


@dataclass(frozen=True, eq=False)
class StarStory:
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


def mystery_story(result: xr.DataTree | Table, star: str | None = None) -> StarStory:
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
    row = table[row_of_star(table, star)]
    names = table.meta["LABELS"].split(",")
    columns = {"MEAN": "", "ERR": "_ERR", "FORMAL_ERR": "_FORMAL_ERR", "RATIO": "", "Q16": "_Q16",
               "Q50": "_Q50", "Q84": "_Q84"}  # fmt: skip
    units = units_of_table(table, names)
    labels = Table({"LABEL": names, "UNIT": [units[n] for n in names]})
    for column, suffix in columns.items():
        values = [np.ma.filled(np.ma.asarray(row[f"{n}{suffix}"], float), np.nan) for n in names]
        labels[column] = np.array(values, dtype=np.float64)
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
    simulated = bool(table.meta.get("SIMULATE"))
    name = str(row["APOGEE_ID"])
    sentences = [_labels_text(name, labels, simulated=simulated), *_errors_text(labels)]
    p = float(np.ma.filled(np.ma.asarray(row["CHI2_P"], float), np.nan))
    if np.isfinite(p):
        sentences.append(f"The posterior-predictive p-value of chi-square is {p:.2g}.")
    sentences += _flags_text(flag, flags)
    return StarStory(name, labels, flags, " ".join(sentences), simulated)


def _labels_text(star: str, labels: Table, *, simulated: bool) -> str:
    head = f"{star}{' (SIMULATED)' if simulated else ''}"
    parts = []
    for row in labels:
        if not np.isfinite(row["MEAN"]):
            continue
        calibrated = bool(np.isfinite(row["ERR"]))
        error = row["ERR"] if calibrated else row["FORMAL_ERR"]
        digits = 0 if row["UNIT"] == "K" else 3
        formal = f", formal ± {two_digits(row['FORMAL_ERR'])}" if calibrated else ""
        value = f"{row['MEAN']:.{digits}f} ± {two_digits(error)}"
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
