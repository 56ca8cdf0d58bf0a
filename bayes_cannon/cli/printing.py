"""What `check`, `infer` and `show` print of their results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Row, Table
from rich.table import Table as Grid

from bayes_cannon.analysis.calibration import LEVELS, OF_MOMENTS, Check
from bayes_cannon.analysis.tables import StarStory, mystery_story
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.rounding import error_digits, value_with_error
from bayes_cannon.cli.console import OUT, one_line
from bayes_cannon.inference.flags import ADVICE, MEANINGS, GridEdge, LabelFlag, severity
from bayes_cannon.runs.corners import corner_files
from bayes_cannon.spectra.label_kinds import two_digits

if TYPE_CHECKING:
    from bayes_cannon.runs.results import Run

__all__ = [
    "EDGES",
    "print_check",
    "print_labels",
    "print_star",
]

EDGES = {
    GridEdge.GRIDEDGE_WARN: "in the outer 1 % of the training labels, at either end",
    GridEdge.GRIDEDGE_BAD: "beyond the labels of all training stars",
}
"""What the bits of a label's own flag mean."""


def print_check(check: Check) -> None:
    """Print a table for each reference, bins that stand out, and the verdict.

    Parameters
    ----------
    check
        From `check_calibration`.
    """
    simulated = " of a SIMULATED survey" if check.simulated else ""
    for reference in dict.fromkeys(str(name) for name in check.coverage["REFERENCE"]):
        rows = check.coverage[check.coverage["REFERENCE"] == reference]
        stars = f"{count_text(max(rows['N']), 'held-out star')}{simulated}"
        units = ", ".join(filter(None, dict.fromkeys(str(unit) for unit in rows["UNIT"])))
        units = f"{units}; " if units else ""
        OUT.print(f"\n{stars} against the {reference} ({units}per cent of stars):", markup=False)
        OUT.print(_grid(rows))
        OUT.print(
            f"Regions of all labels together hold {check.joint_text(reference)}", markup=False
        )
    _print_bins(check)
    if check.of_moments:
        OUT.print(f"\n{OF_MOMENTS}")
    if check.judged == "formal":
        OUT.print("\nThe model error was not measured. The formal posteriors are tested.")
    for failure in check.failures:
        OUT.print(f"FAIL {failure}", markup=False)
    if check.passed:
        OUT.print("\nAll tested coverages are within their tolerances.")


def _grid(rows: Table) -> Grid:
    grid = Grid(box=None, pad_edge=False)
    for name in ("posterior", "label"):
        grid.add_column(name, no_wrap=True)
    for name in ("rms", "sd", "pull sd", *(f"{100 * level:g}%" for level in LEVELS), "PIT p"):
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("")
    for row in rows:
        grid.add_row(*_cells(row))
    return grid


def _cells(row: Row) -> list[str]:
    """Label, rms, median sd, sd of the pulls, coverages in per cent with errors, p, verdict."""
    covers = [
        f"{100 * row[f'COVER_{100 * v:g}']:.0f}±{100 * row[f'COVER_{100 * v:g}_SE']:.0f}"
        for v in LEVELS
    ]
    numbers = [two_digits(row[n]) for n in ("RMS", "SD", "PULL_SD")]
    p = "<.001" if row["PIT_P"] < 0.001 else f"{row['PIT_P']:.3f}"
    return [str(row["KIND"]), str(row["LABEL"]), *numbers, *covers, p, str(row["VERDICT"])]


def _print_bins(check: Check) -> None:
    """Name the bins whose scores are off by more than three standard errors."""
    table = check.bins
    table = table[table["KIND"] == check.judged]
    n = np.asarray(table["N"])
    off = np.abs(table["MEAN"]) > 3 / np.sqrt(n)
    wide = np.abs(table["SD"] - 1) > 3 / np.sqrt(2 * (n - 1))
    odd = table[off | wide]
    OUT.print(
        f"\nscores of the {check.judged} posteriors in bins by S/N and by place: {len(odd)} of "
        f"{len(table)} off by more than 3 standard errors in mean (0) or width (1)"
    )
    for row in odd[:6]:
        OUT.print(
            f"  {row['REFERENCE']}: {row['LABEL']} at {row['BY']} {row['LOW']:.4g} to "
            f"{row['HIGH']:.4g}: mean {row['MEAN']:+.2f} ± {row['MEAN_SE']:.2f}, width "
            f"{row['SD']:.2f} ± {row['SD_SE']:.2f}"
        )


def print_labels(run: Run) -> None:
    """Print the labels of every star of a run, with calibrated and formal errors, and its flags.

    Parameters
    ----------
    run
        Of a few stars.
    """
    for star in run:
        story = mystery_story(run.table, star)
        _print_values(story)
        for flag in story.flags:
            OUT.print(f"  {flag['FLAG']}: {flag['MEANING']}")


def _print_values(story: StarStory) -> None:
    """Name of the star, and its labels with their errors."""
    OUT.print(f"\n{one_line(story.star)}{' (SIMULATED)' if story.simulated else ''}")
    known = [row for row in story.table if np.isfinite(row["MEAN"])]
    if not known:
        OUT.print("  no posterior")
    for row in known:
        calibrated = bool(np.isfinite(row["ERR"]))
        error = float(row["ERR"] if calibrated else row["FORMAL_ERR"])
        value = f"{value_with_error(float(row['MEAN']), error)} {row['UNIT']}".rstrip()
        formal = f"{float(row['FORMAL_ERR']):.{error_digits(error)}f}"
        kind = f"(formal ± {formal})" if calibrated else "(formal)"
        OUT.print(f"  {row['LABEL']:8} {value} {kind}")


def print_star(run: Run, star: str, row: Row) -> None:
    """Print all that a run says of a star: labels, S/N, fit, flags with advice, pictures.

    Parameters
    ----------
    run
        That has the star.
    star
        Its name.
    row
        Its row of the catalogue.
    """
    _print_values(mystery_story(run.table, star))
    fit = [
        f"{text} {value:{digits}}"
        for name, text, digits in _OF_FIT
        if name in row.colnames and np.isfinite(value := float(plain_numbers(row[name])))
    ]
    if fit:
        OUT.print(f"  {', '.join(fit)}")
    if "CHI2_RANK" in row.colnames and np.isfinite(rank := float(plain_numbers(row["CHI2_RANK"]))):
        OUT.print(
            f"  chi-square above that of {100 * min(rank, 1.0):.3g} % of left-out training stars "
            "at its S/N"
        )
    flag = int(row["LABEL_FLAG"])
    OUT.print(f"  LABEL_FLAG {flag}" + (f", {severity(flag)}" if severity(flag) else ""))
    for bit in (bit for bit in LabelFlag if flag & bit):
        OUT.print(f"    {bit.name}: {MEANINGS[bit]}. {ADVICE[bit]}")
    for name in run.names:
        own = int(row[f"{name}_FLAG"]) if f"{name}_FLAG" in row.colnames else 0
        for edge in (edge for edge in GridEdge if own & edge):
            OUT.print(f"    {name}_FLAG {edge.name}: {EDGES[edge]}.")
    picture = corner_files(run.star_id.tolist(), run.folder / "figures")[star]
    drawn = picture.is_file()
    OUT.print(
        f"  corner plot: {one_line(str(picture))}"
        if drawn
        else f"  corner plot: none yet; infer … --corner {one_line(star)} draws it"
    )
    page = run.folder / "report.html"
    OUT.print(
        f"  panel: {page}, All stars, click on its name"
        if page.is_file()
        else f"  panel: none yet; bayes-cannon report {run.folder} makes it"
    )


_OF_FIT = (
    ("SNR", "S/N", ".0f"),
    ("CHI2_RED", "reduced chi-square", ".2f"),
    ("N_PIXELS", "pixels", ".0f"),
)
"""Columns of the catalogue that say how good spectrum and fit are."""
