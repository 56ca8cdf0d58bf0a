"""Tables of results as files: few digits, marked where spectra are simulated."""

from __future__ import annotations

from pathlib import Path

from astropy.table import Table

from bayes_cannon.base.storage import write_atomically

__all__ = [
    "MARK",
    "rounded",
    "write_ecsv",
    "write_fits",
]

MARK = "SIMULATED spectra: not observations"
"""What a table of simulated spectra says."""


def rounded(table: Table, *, digits: int = 6) -> Table:
    """Return the table with numbers of few digits, and a comment where it is of a simulation.

    Parameters
    ----------
    table
        With ``SIMULATE`` in its meta data.
    digits
        Significant ones.
    """
    shown = table.copy()
    for name in shown.colnames:
        if shown[name].dtype.kind == "f":
            shown[name] = [float(f"{value:.{digits}g}") for value in shown[name]]
            shown[name].unit = table[name].unit
    if shown.meta.get("SIMULATE"):
        shown.meta["comments"] = [MARK, *shown.meta.get("comments", [])]
    return shown


def write_ecsv(table: Table, path: Path, *, overwrite: bool) -> None:
    """Write a table as ECSV, whole or not at all.

    Parameters
    ----------
    table
        What to write.
    path
        Of the file.
    overwrite
        Replace a file that is there.
    """
    write_atomically(path, lambda part: table.write(part, format="ascii.ecsv"), overwrite=overwrite)


def write_fits(table: Table, path: Path, *, overwrite: bool) -> None:
    """Write a table as FITS, its meta data under keys of eight letters; dex is left unsaid.

    Parameters
    ----------
    table, path, overwrite
        As of `write_ecsv`.
    """
    out = table.copy()
    out.meta = {k.upper()[:8]: v for k, v in table.meta.items() if k != "comments"}
    out.meta["comments"] = table.meta.get("comments", [])
    for name in out.colnames:
        if str(out[name].unit) == "dex":  # which FITS does not know
            out[name].unit, out[name].description = None, "dex"
    write_atomically(path, lambda part: out.write(part, format="fits"), overwrite=overwrite)
