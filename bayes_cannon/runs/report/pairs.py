"""The sections of a report about pairs: two stars in one spectrum, two visits to one star."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from bayes_cannon.analysis.repeated.comparison import SEES
from bayes_cannon.base.cards import count_text
from bayes_cannon.inference.units import with_unit
from bayes_cannon.plots.ensembles.visits import plot_repeats
from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.report.page import Column, Facts, Grid, Note, Text
from bayes_cannon.runs.report.parts import Drawing, Item
from bayes_cannon.runs.report.registry import section
from bayes_cannon.spectra.label_kinds import shown_label

__all__ = [
    "binary_stars",
    "repeated_visits",
]

_MOST_ROWS = 50
_OF_VISITS = {
    "NVISITS": Column("visits", ".0f"),
    "VSCATTER": Column("velocity scatter of visits (km/s)", ".2f"),
    "VERR": Column("its mean velocity's error (km/s)", ".2f"),
}
"""Radial velocities of the visits in the catalogue, independent of the spectrum's shape."""
_LIGHT = {
    "free": "free", "tied": "tied to the labels of both stars",
    "isochrone": "of two stars on one isochrone",
}  # fmt: skip
_SECOND = {"another model": "another model"}
_VISITED = (
    " Velocities of several visits that scatter by much more than their errors are another sign of "
    "a pair, of which the search does not know."
)
_VISIT_COLUMNS = (
    Column("label", kind="id"), Column("formal error", ".3g"), Column("error seen", ".3g"),
    Column("calibrated error", ".3g"), Column("scale", ".2f"), Column("±", ".2f"),
    Column("floor", ".2g"), Column("floor, 95 % limit", ".2g"), Column("sd of z", ".2f"),
    Column("±", ".2f"), Column("68 % hold (%)", ".0f"), Column("95 % hold (%)", ".0f"),
    Column("sd of z, calibrated", ".2f"),
)  # fmt: skip


@section(
    "binaries", "Binaries",
    "Stars whose spectrum two stars fit better than one, as it happens to few single stars. Of a "
    "candidate use the labels of the first star here, not those of the catalogue.",
    order=95, needs=("binaries",), optional=True,
)  # fmt: skip
def binary_stars(inputs: ReportInputs) -> Iterator[Item]:
    """How many candidates there are, how many are to be expected by chance, and which."""
    table = inputs.binaries
    assert table is not None
    candidate = np.asarray(table["CANDIDATE"], dtype=bool)
    rate = float(table.meta.get("FPR", np.nan))
    p = np.asarray(table["P_BINARY"], dtype=np.float64)
    yield Facts([
        ("stars searched", f"{len(table):,}"),
        ("candidates", f"{int(candidate.sum()):,}"),
        ("expected of single stars alone", f"{rate * len(table):.1f}"),
        ("sum of P(binary)", f"{np.nansum(p):.1f}"),
        ("prior rate of pairs", f"{100 * float(table.meta.get('PRIORRAT', np.nan)):g} %"),
        ("light of the second star", _LIGHT[str(table.meta.get("LIGHTIS", "free"))]),
        ("second stars are of", _SECOND.get(str(table.meta.get("SECOND")), "the same model")),
    ])  # fmt: skip
    yield Text(
        "The rate among single stars was measured on the training stars, each fitted by a model "
        "without it. A dwarf beside a giant has 1 to 3 % of the light in H and is not found."
        + (_VISITED if "VSCATTER" in table.colnames else "")
    )
    rows = np.flatnonzero(candidate)
    rows = rows[np.argsort(-np.asarray(table["SCORE"], dtype=np.float64)[rows], kind="stable")]
    key, names = table.colnames[0], [n for n in inputs.names if f"{n}_1" in table.colnames]
    columns = [
        Column(key), Column("P(binary)", ".3f"), Column("second star's light", ".2f"),
        Column("dv (km/s)", ".1f"),
    ]  # fmt: skip
    wanted = ["P_BINARY", "LIGHT", "DV"]
    for star, name in product((1, 2), names):
        label = f"{name}_{star}"
        wanted.append(label)
        columns.append(Column(f"{name}, star {star}", ".5g"))
        if f"{label}_FORMAL_ERR" in table.colnames:  # else its errors are formal
            wanted.append(f"{label}_ERR")
            columns.append(Column("±", ".3g"))
    for name, column in _OF_VISITS.items():
        if name in table.colnames:
            wanted.append(name)
            columns.append(column)
    shown = [
        (str(table[key][row]), *(float(table[name][row]) for name in wanted))
        for row in rows[:_MOST_ROWS]
    ]
    cut = f", the {_MOST_ROWS} most probable" if rows.size > _MOST_ROWS else ""
    if shown:
        yield Grid(f"Candidates{cut}.", columns, shown)


@section(
    "repeats", "Repeated visits",
    "Differences between visits to one star, beside the errors. Calibrated errors must be longer "
    "than the differences say, as they hold what repeats cannot see, and formal ones not shorter: "
    "an sd of z above 1 is an alarm.",
    order=135, needs=("repeats",), optional=True,
)  # fmt: skip
def repeated_visits(inputs: ReportInputs) -> Iterator[Item]:
    """Scale and floor of the errors from repeated visits, and their figure."""
    found = inputs.repeats
    assert found is not None
    rows = [
        (with_unit(shown_label(str(r["LABEL"])), str(r["UNIT"])),
         *(float(r[key]) for key in ("FORMAL_ERR", "REPEAT_ERR", "CAL_ERR", "SCALE", "SCALE_ERR",
                                     "FLOOR", "FLOOR_LIMIT", "Z_SD", "Z_SD_SE")),
         100 * float(r["COVER_68"]), 100 * float(r["COVER_95"]), float(r["CAL_Z_SD"]))
        for r in found.table
    ]  # fmt: skip
    labels, n_pairs = found.labels, found.pairs.star.size
    yield Grid(
        f"{count_text(n_pairs, 'pair')} of {count_text(labels.star.size, 'visit')} to "
        f"{count_text(labels.n_stars, 'star')}. The error seen from visit to visit is sqrt((scale "
        "× formal)² + floor²); errors are medians.",
        _VISIT_COLUMNS, rows,
    )  # fmt: skip
    kept = "left out" if found.table.meta["FLAGGED"] == "exclude" else "kept"
    yield Text(
        f"{SEES} {count_text(labels.n_flagged, 'visit')} with a flag of severity BAD were {kept}, "
        f"{labels.n_without} have no posterior, {labels.n_alone} were left alone by that."
    )
    if found.simulated and not inputs.simulated:
        yield Note("The repeats are of simulated spectra.")
    yield Drawing("repeats", lambda: plot_repeats(found), "Errors seen by repeated visits")
