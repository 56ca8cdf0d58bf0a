"""Tables of a report: the run as a whole, its flags, its stars, and their accuracy.

The section of a report about how its run was made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.analysis.calibration import LEVELS, Check
from bayes_cannon.analysis.tables import PUBLISHED, scatter_table, star_table
from bayes_cannon.base.resources import software_versions
from bayes_cannon.inference.flags import (
    ADVICE,
    MEANINGS,
    LabelFlag,
    describe_flag,
    is_flagged,
    severity,
)
from bayes_cannon.inference.tables import reduction_story
from bayes_cannon.inference.units import with_unit
from bayes_cannon.runs.report.inputs import ReportInputs, column
from bayes_cannon.runs.report.page import (
    Column,
    Facts,
    Grid,
    Heading,
    Note,
    Text,
    error_cell,
    measured,
    probability,
)
from bayes_cannon.runs.report.parts import Chosen, Item, chosen_stars
from bayes_cannon.runs.report.registry import section
from bayes_cannon.spectra.label_kinds import shown_label
from bayes_cannon.spectra.star_ids import catalogue_column

__all__ = [
    "coverage_table",
    "cuts_table",
    "original_tables",
    "settings",
    "summary",
]


_MOST_ROWS = 1500
_STAR = Column("star", kind="id")


def _with_unit(name: str, unit: str) -> str:
    return with_unit(shown_label(name), unit)


@section(
    "summary", "Summary",
    "How many stars were inferred, whether the chains converged, and what was found about the "
    "stars. Fit and factors are judged among left-out training stars: 1 % of stars of their kind "
    "get either flag.",
    order=10,
)  # fmt: skip
def summary(inputs: ReportInputs) -> Iterator[Item]:
    """How many stars, how well they were sampled, and what was found about them."""
    yield from (Note(note) for note in inputs.notes)
    if told := reduction_story(inputs.table):
        yield Note(told)
    flag = np.asarray(inputs.table["LABEL_FLAG"], dtype=np.int64)
    rhat, ess = (column(inputs.table, n) for n in ("RHAT_MAX", "ESS_MIN"))
    sampled, n = np.isfinite(rhat), len(flag)
    facts = [
        ("stars", f"{n:,}"),
        ("with a posterior", f"{int(inputs.has_posterior.sum()):,}"),
        ("with a flag", f"{int(is_flagged(flag).sum()):,}"),
        ("labels", f"{len(inputs.names)}"),
    ]
    if sampled.any():
        facts += [
            ("R-hat below 1.01", f"{100 * np.mean(rhat[sampled] < 1.01):.1f} %"),
            ("ESS above 400", f"{100 * np.mean(ess[sampled] > 400):.1f} %"),
            ("divergences", f"{int(np.maximum(column(inputs.table, 'DIVERGENCES'), 0).sum()):,}"),
        ]
    if inputs.cannon is not None:
        facts += [
            ("training stars", f"{inputs.cannon.training.n_stars:,}"),
            ("nuisance factors", f"{inputs.cannon.n_factors}"),
        ]
        if inputs.cannon.terms:
            facts.append(("known terms", ", ".join(inputs.cannon.terms)))
    if "seconds_per_star" in inputs.summary:
        facts.append(("seconds per star", f"{float(inputs.summary['seconds_per_star']):.2g}"))
    yield Facts(facts)
    yield Text(_which_errors(inputs))
    if not flag.any():
        yield Text("No star of the run has a flag.")
        return
    yield _flags(flag)
    yield _flagged(inputs, flag)


def _which_errors(inputs: ReportInputs) -> str:
    if inputs.kind == "calibrated":
        return (
            "Errors in this report are calibrated where nothing else is said: they include the "
            "model error that cross-validation found. Formal errors are those of the model alone."
        )
    return (
        "Errors in this report are formal: the model error was not measured, so that they are too "
        "small. A model trained with held-out folds gives calibrated ones."
    )


def _flags(flag: NDArray[np.int64]) -> Grid:
    rows = [
        (str(bit.name), severity(int(bit)), int(bit), f"{MEANINGS[bit]}. {ADVICE[bit]}",
         int(np.sum(flag & bit != 0)), 100 * float(np.mean(flag & bit != 0)))
        for bit in LabelFlag
        if np.any(flag & bit)
    ]  # fmt: skip
    columns = (Column("flag"), Column("severity"), Column("bit", "d"),
               Column("meaning and advice", kind="wide"),
               Column("stars", "d"), Column("share (%)", ".1f"))  # fmt: skip
    return Grid("Flags of LABEL_FLAG that occur in this run.", columns, rows)


def _flagged(inputs: ReportInputs, flag: NDArray[np.int64]) -> Grid:
    order = np.argsort(-np.array([int(f).bit_count() for f in flag]), kind="stable")
    rows = [
        (inputs.star_id[i], int(flag[i]), "; ".join(describe_flag(int(flag[i]))))
        for i in order
        if flag[i]
    ]
    cut = f", the first {_MOST_ROWS}" if len(rows) > _MOST_ROWS else ""
    columns = (_STAR, Column("LABEL_FLAG", "d"), Column("what was found", kind="wide"))
    return Grid(f"Stars with a flag, those with most first{cut}.", columns, rows[:_MOST_ROWS])


def cuts_table(inputs: ReportInputs) -> Grid | None:
    """How many stars each cut removed; None where the dataset does not say.

    Parameters
    ----------
    inputs
        Of the report.
    """
    if inputs.dataset is None or not inputs.dataset.cut_steps:
        return None
    rows = [tuple(row) for row in inputs.dataset.cut_table().iterrows()]
    columns = (Column("cut"), Column("what it removes", kind="wide"), Column("removed", "d"),
               Column("left", "d"))  # fmt: skip
    return Grid("Cuts, in the order in which they were made.", columns, rows)


@section(
    "tables", "Accuracy",
    "The labels of one star, and the scatter of all stars about the catalogue.",
    order=110,
)  # fmt: skip
def original_tables(inputs: ReportInputs) -> Iterator[Item]:
    """Two tables: the labels of one star, and the scatter over the set."""
    chosen = chosen_stars(inputs)
    if chosen:
        yield Heading("One star")
        yield _one_star(inputs, chosen[0])
    if inputs.aspcap is None:
        yield Note("The run has no catalogue labels to compare with.", gone=True)
        return
    yield Heading("Scatter over all stars")
    yield from _scatter(inputs)


def _one_star(inputs: ReportInputs, chosen: Chosen) -> Grid:
    others = PUBLISHED if inputs.published else ()
    found = star_table(inputs.table, chosen.star, published=others)
    their = catalogue_column(inputs.catalogue)
    quoted = [name for name in found.colnames if name.startswith("FORMAL: ")]
    columns = (
        Column("label", kind="id"), Column(f"this work ({inputs.kind})", "g"),
        Column("formal error", "g"), Column(inputs.catalogue, "g"),
        Column("difference", "g"), Column("pull", "+.1f"),
        *(Column(f"formal error, {name.partition(': ')[2]}", "g") for name in quoted),
    )  # fmt: skip
    key = "ERR" if inputs.kind == "calibrated" else "FORMAL_ERR"
    rows = [
        (_with_unit(str(r["LABEL"]), str(r["UNIT"])), measured(r["OURS"], r[key]),
         error_cell(r["FORMAL_ERR"]), measured(r[their], r[f"{their}_ERR"]),
         measured(r["DIFFERENCE"], np.hypot(r[key], np.nan_to_num(r[f"{their}_ERR"]))),
         float(r["PULL"]), *(error_cell(r[k]) for k in quoted))
        for r in found
    ]  # fmt: skip
    return Grid(f"{chosen.star}: {chosen.why}.", columns, rows)


def _scatter(inputs: ReportInputs) -> Iterator[Item]:
    assert inputs.aspcap is not None
    others = PUBLISHED if inputs.published else ()
    heads = ("bias", "rms", "robust scatter", "calibrated error", "formal error")
    columns = (Column("label", kind="id"), Column("stars", "d"),
               *(Column(title, "g") for title in (*heads, *(p.name for p in others))))  # fmt: skip
    keys = ("RMS", "ROBUST_SCATTER", "ERR", "FORMAL_ERR", *(p.name for p in others))
    references = {f"the catalogue ({inputs.catalogue})": inputs.aspcap}
    if inputs.truth is not None:
        references["the truth of the simulation"] = inputs.truth
    for what, reference in references.items():
        rows = [
            (_with_unit(str(r["LABEL"]), str(r["UNIT"])), int(r["N"]),
             measured(r["BIAS"], r["RMS"] / np.sqrt(r["N"])), *(error_cell(r[k]) for k in keys))
            for r in scatter_table(inputs.table, reference, published=others)
        ]  # fmt: skip
        yield Grid(f"This work minus {what}; errors are medians.", columns, rows)
    if not others:
        return
    told = (f"{p.name[0].upper()}{p.name[1:]}: {p.source.rstrip('.')}." for p in others)
    yield Text(f"The last columns are scatters that others found, on other stars. {' '.join(told)}")
    if inputs.simulated:
        which = inputs.simulated_stars
        of_which = "The" if which.all() else f"{which.sum()} of {which.size}"
        yield Note(
            f"{of_which} stars of this run are simulated: these numbers say how well the method "
            "does on synthetic spectra, not on the sky. The published ones are of real stars."
        )


def coverage_table(check: Check) -> Grid:
    """How often intervals held the reference.

    Parameters
    ----------
    check
        Calibration against that reference.
    """
    columns = (
        Column("label", kind="id"), Column("posterior"), Column("against"), Column("stars", "d"),
        Column("sd of pulls", ".2f"),
        *(Column(f"{100 * v:g} % (found, %)", ".1f") for v in LEVELS),
        Column("PIT p", "g"), Column("verdict"),
    )  # fmt: skip
    rows = [
        (shown_label(str(r["LABEL"])), str(r["KIND"]), str(r["REFERENCE"]), int(r["N"]),
         float(r["PULL_SD"]), *(100 * float(r[f"COVER_{100 * v:g}"]) for v in LEVELS),
         probability(r["PIT_P"]), str(r["VERDICT"]))
        for r in check.coverage
    ]  # fmt: skip
    return Grid(
        "Empirical coverage: fraction of stars whose credible interval contains the reference "
        "value.",
        columns,
        rows,
    )


_VERSIONS = ("pymc", "pytensor", "nutpie", "arviz", "numpy", "scipy", "xarray", "zarr", "astropy",
             "matplotlib")  # fmt: skip


@section(
    "settings", "Settings and versions",
    "Provenance: what made this run.",
    order=170,
)  # fmt: skip
def settings(inputs: ReportInputs) -> Iterator[Item]:
    """Settings of every stage and versions of the programs."""
    parts: dict[str, Any] = {
        "inference": {k: inputs.summary[k] for k in ("method", "seed") if k in inputs.summary}
        | dict(inputs.summary.get("settings") or {}),
        "priors": inputs.summary.get("priors") or {},
    }
    model = inputs.summary.get("model") or (inputs.cannon.settings if inputs.cannon else {})
    parts |= {"training": model.get("training") or {}, "dataset": model.get("dataset") or {}}
    for title, content in parts.items():
        rows = list(_flat(content))
        if rows:
            columns = (Column("setting"), Column("value", kind="wide"))
            yield Grid(f"{title.capitalize()}.", columns, rows)
    if not inputs.summary:
        yield Note("The run has no summary.json, so its settings are not known.", gone=True)
    trained = dict(model.get("versions") or {})
    now = software_versions(*_VERSIONS)
    versions = [(n, str(trained.get(n, "")), v) for n, v in now.items() if v]
    heads = ("program", "when trained", "when this report was made")
    yield Grid("Versions.", tuple(map(Column, heads)), versions)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as names with dots and plain values."""
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, str) and value[:1] in "[{":
            with suppress(ValueError):
                value = json.loads(value)
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value if isinstance(value, str) else json.dumps(value)
