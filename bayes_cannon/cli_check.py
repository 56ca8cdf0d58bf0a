"""What the command `check` prints."""

from __future__ import annotations

import numpy as np
from astropy.table import Row, Table
from rich.table import Table as Grid

from bayes_cannon.check import LEVELS, Check
from bayes_cannon.cli_progress import OUT
from bayes_cannon.labels import two_digits

__all__ = ["print_check"]


def print_check(check: Check) -> None:
    """Print a table for each reference, bins that stand out, and the verdict."""
    simulated = " of a SIMULATED survey" if check.simulated else ""
    for reference in dict.fromkeys(str(name) for name in check.coverage["REFERENCE"]):
        rows = check.coverage[check.coverage["REFERENCE"] == reference]
        stars = f"{max(rows['N'])} held-out stars{simulated}"
        units = ", ".join(filter(None, dict.fromkeys(str(unit) for unit in rows["UNIT"])))
        units = f"{units}; " if units else ""
        OUT.print(f"\n{stars} against the {reference} ({units}per cent of stars):", markup=False)
        OUT.print(_grid(rows))
    _print_bins(check)
    if check.judged == "formal":
        OUT.print("\nThe model error was not measured: the formal posteriors are judged.")
    for failure in check.failures:
        OUT.print(f"FAIL {failure}", markup=False)
    if check.passed:
        OUT.print("\nEvery coverage that is judged is within its tolerance.")


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
