"""The catalogue of a run as files: FITS, ECSV and VOTable."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.votable import from_table
from astropy.io.votable.tree import CooSys, Info
from astropy.table import Table

from bayes_cannon._version import __version__
from bayes_cannon.analysis.catalogued.columns import display_of, null_of, ucd_of
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.storage import check_output, write_atomically
from bayes_cannon.inference.tables import (
    MARK,
    MODEL_MARK,
    star_column,
    write_ecsv,
    write_fits,
)

__all__ = [
    "write_catalogue",
    "write_votable",
]


def write_catalogue(
    table: Table,
    folder: str | os.PathLike[str],
    *,
    votable: bool = False,
    text: bool = True,
    overwrite: bool = False,
) -> tuple[Path, ...]:
    """Write ``catalogue.fits`` and ``catalogue.ecsv`` into a folder, each whole or not at all.

    Parameters
    ----------
    table
        From `catalogue`.
    folder
        Where to write; made if need be.
    votable
        Write ``catalogue.vot``, too; one that is there is written anew in any case.
    text
        Write ``catalogue.ecsv``, which takes twice the room of the other.
    overwrite
        Replace the files that are there.

    Returns
    -------
    tuple of Path
        The files.

    Raises
    ------
    OutputExistsError
        If one of them exists and `overwrite` is false, or the folder cannot be written.
    """
    out = user_path(folder)
    votable = votable or (overwrite and (out / "catalogue.vot").exists())
    wanted = {"fits": True, "ecsv": text, "vot": votable}
    paths = {kind: out / f"catalogue.{kind}" for kind, some in wanted.items() if some}
    for path in paths.values():
        check_output(path, overwrite=overwrite)
    describe = partial(_describe, table)
    write_fits(table, paths["fits"], name="CATALOGUE", overwrite=overwrite, finish=describe)
    if text:
        write_ecsv(table, paths["ecsv"], overwrite=overwrite)
    if votable:
        write_atomically(paths["vot"], partial(_write_votable, table), overwrite=overwrite)
    return tuple(paths.values())


def write_votable(table: Table, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a catalogue as a VOTable: binary, with UCDs, units, null values and its header.

    Parameters
    ----------
    table
        From `catalogue`, or read from one of its files.
    path
        File to write, such as ``catalogue.vot``.
    overwrite
        Replace a file that is there.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    OutputExistsError
        If it exists and `overwrite` is false, or cannot be written.
    """
    target = user_path(path)
    check_output(target, overwrite=overwrite)
    write_atomically(target, partial(_write_votable, table), overwrite=overwrite)
    return target


def _labels_of(table: Table) -> list[str]:
    return [name for name in str(table.meta.get("LABELS", "")).split(",") if name]


def _describe(table: Table, hdu: fits.BinTableHDU) -> None:
    """Give the columns of a catalogue their formats, null values and UCDs."""
    labels, key = _labels_of(table), star_column(table)
    for number, name in enumerate(table.colnames, start=1):
        if display := display_of(name, labels, str(table[name].unit or "")):
            hdu.header[f"TDISP{number}"] = display
        if (null := null_of(name)) is not None:
            hdu.columns[number - 1].null = null
        hdu.header[f"TUCD{number}"] = ucd_of(name, labels, key)


def _write_votable(table: Table, path: Path) -> None:
    """Write a VOTable in which integers without a value are null and ``dex`` is a unit of its own.

    The IVOA's units do not know dex; in quotes it is one that it need not know.
    """
    plain = table.copy()
    labels, key = _labels_of(table), star_column(table)
    for name in plain.colnames:
        plain[name].unit = plain[name].format = None
        null = null_of(name)
        if null is not None:
            plain[name] = np.ma.masked_equal(np.asarray(plain[name]), null)
    plain.meta = {}
    document = from_table(plain)
    (resource,) = document.resources
    (made,) = resource.tables
    made.name = made.ID = "CATALOGUE"
    made.format = "binary2"
    place = CooSys(ID="ICRS", system="ICRS")
    if {"RA", "DEC"} <= set(table.colnames):
        resource.coordinate_systems.append(place)
    for field in made.fields:
        unit = str(table[field.name].unit or "")
        if unit:
            field.unit = "'dex'" if unit == "dex" else unit
        field.ucd = ucd_of(field.name, labels, key)
        field.description = table[field.name].description or None
        null = null_of(field.name)
        if null is not None:
            field.values.null = null
        if field.name in ("RA", "DEC"):
            field.ref = "ICRS"
    facts = {**table.meta, "ORIGIN": f"bayes_cannon {__version__}"}
    if table.meta.get("SIMULATE") or table.meta.get("SIMMODEL"):
        facts["NOTE"] = MARK if table.meta.get("SIMULATE") else MODEL_MARK
    for name, value in facts.items():
        made.infos.append(Info(name=name, value=_text_of(value)))
    document.to_xml(str(path))


def _text_of(value: Any) -> str:
    """Value of a card as text of XML; true and false as Python has them."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
