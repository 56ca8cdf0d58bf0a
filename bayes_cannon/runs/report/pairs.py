"""The section of a report about stars that may be two."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.report.page import Column, Facts, Grid, Text
from bayes_cannon.runs.report.parts import Item
from bayes_cannon.runs.report.registry import section

__all__ = [
    "binary_stars",
]

_MOST_ROWS = 50


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
    ])  # fmt: skip
    yield Text(
        "The rate among single stars was measured on the training stars, each fitted by a model "
        "without it. A dwarf beside a giant has 1 to 3 % of the light in H and is not found."
    )
    rows = np.flatnonzero(candidate)
    rows = rows[np.argsort(-np.asarray(table["SCORE"], dtype=np.float64)[rows], kind="stable")]
    key, names = table.colnames[0], [n for n in inputs.names if f"{n}_1" in table.colnames]
    columns = [
        Column(key), Column("P(binary)", ".3f"), Column("second star's light", ".2f"),
        Column("dv (km/s)", ".1f"), *(Column(f"{n}, star 1", ".5g") for n in names),
        *(Column(f"{n}, star 2", ".5g") for n in names),
    ]  # fmt: skip
    wanted = ["P_BINARY", "LIGHT", "DV", *(f"{n}_{i}" for i in (1, 2) for n in names)]
    shown = [
        (str(table[key][row]), *(float(table[name][row]) for name in wanted))
        for row in rows[:_MOST_ROWS]
    ]
    cut = f", the {_MOST_ROWS} most probable" if rows.size > _MOST_ROWS else ""
    if shown:
        yield Grid(f"Candidates{cut}.", columns, shown)
