"""The section of a report about repeated visits."""

from __future__ import annotations

from collections.abc import Iterator

from bayes_cannon.analysis.repeated.comparison import SEES
from bayes_cannon.inference.units import with_unit
from bayes_cannon.plots.ensembles.visits import plot_repeats
from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.report.page import Column, Grid, Note, Text
from bayes_cannon.runs.report.parts import Drawing, Item
from bayes_cannon.runs.report.registry import section
from bayes_cannon.spectra.label_kinds import shown_label

__all__ = ["repeated_visits"]

_COLUMNS = (
    Column("label", kind="id"), Column("formal error", ".3g"), Column("error seen", ".3g"),
    Column("calibrated error", ".3g"), Column("scale", ".2f"), Column("±", ".2f"),
    Column("floor", ".2g"), Column("floor, 95 % limit", ".2g"), Column("sd of z", ".2f"),
    Column("±", ".2f"), Column("68 % hold (%)", ".0f"), Column("95 % hold (%)", ".0f"),
    Column("sd of z, calibrated", ".2f"),
)  # fmt: skip


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
        f"{n_pairs} pairs of {labels.star.size} visits to {labels.n_stars} stars. The error seen "
        "from visit to visit is sqrt((scale × formal)² + floor²); errors are medians.",
        _COLUMNS, rows,
    )  # fmt: skip
    kept = "left out" if found.table.meta["FLAGGED"] == "exclude" else "kept"
    yield Text(
        f"{SEES} {labels.n_flagged} visits with a flag of severity BAD were {kept}, "
        f"{labels.n_without} have no posterior, {labels.n_alone} were left alone by that."
    )
    if found.simulated and not inputs.simulated:
        yield Note("The repeats are of simulated spectra.")
    yield Drawing("repeats", lambda: plot_repeats(found), "Errors seen by repeated visits")
