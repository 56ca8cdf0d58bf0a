"""The catalogue of a run as files: FITS, ECSV and VOTable."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
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
from bayes_cannon.inference.tables import notes_of_table, star_column, star_ids, write_ecsv
from bayes_cannon.spectra.star_ids import id_column

__all__ = [
    "write_catalogue",
    "write_fits",
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
    kinds: dict[str, Callable[..., object]] = {"fits": partial(write_fits, name="CATALOGUE")}
    if text:
        kinds["ecsv"] = write_ecsv
    if votable or (overwrite and (user_path(folder) / "catalogue.vot").exists()):
        kinds["vot"] = write_votable
    paths = tuple(user_path(folder) / f"catalogue.{kind}" for kind in kinds)
    for path in paths:
        check_output(path, overwrite=overwrite)
    for path, write in zip(paths, kinds.values(), strict=True):
        write(table, path, overwrite=overwrite)
    return paths


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


def write_fits(table: Table, path: Path, *, name: str, overwrite: bool) -> None:
    """Write a table as FITS, whole or not at all: the one writer of results.

    Units and descriptions are in ``TUNITn`` and ``TCOMMn``; ``dex``, none of the FITS standard's
    units, stands behind the description. What `meta` says are cards, its comments HISTORY, and so
    is what a reader must know (`notes_of_table`). FITS has ASCII alone: other signs are written as
    Python escapes them.

    Parameters
    ----------
    table
        What to write; left as it is.
    path
        Of the file.
    name
        Of the HDU (``EXTNAME``).
    overwrite
        Replace a file that is there.
    """
    made = partial(_write_fits, table, name)
    write_atomically(path, made, overwrite=overwrite)


def _write_fits(table: Table, extension: str, path: Path) -> None:
    bare = table.copy()
    key, labels = id_column(table.colnames, table.meta), _labels_of(table)
    if key is not None:
        bare[key] = star_ids(table)
    bare.meta = {}
    for name, column in bare.columns.items():
        if column.dtype.kind == "U":
            bare[name] = np.char.encode(np.asarray(column), "ascii", "backslashreplace")
        bare[name].unit = bare[name].description = bare[name].format = None
    hdu = fits.table_to_hdu(bare)
    hdu.name = extension
    for number, name in enumerate(table.colnames, start=1):
        unit, text = str(table[name].unit or ""), table[name].description or ""
        if unit == "dex":
            text = f"{text} [dex]".strip()
        elif unit:
            hdu.header.set(f"TUNIT{number}", _ascii(unit), after=f"TFORM{number}")
        if labels:  # a catalogue of stars
            if display := display_of(name, labels, unit):
                hdu.header[f"TDISP{number}"] = display
            if (null := null_of(name)) is not None:
                hdu.columns[number - 1].null = null
            hdu.header[f"TUCD{number}"] = ucd_of(name, labels, key or "")
        hdu.header[f"TCOMM{number}"] = _ascii(text)
    for card, value in table.meta.items():
        if card != "comments":
            hdu.header[card.upper()[:8]] = _ascii(value) if isinstance(value, str) else value
    hdu.header["ORIGIN"] = f"bayes_cannon {__version__}"
    hdu.header["DATE"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for line in notes_of_table(table):
        hdu.header["HISTORY"] = _ascii(line)
    hdus = fits.HDUList([fits.PrimaryHDU(), hdu])
    hdus.writeto(path, overwrite=True, checksum=True)


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
    if notes := notes_of_table(table):
        facts["NOTE"] = " ".join(notes)
    for name, value in facts.items():
        made.infos.append(Info(name=name, value=_text_of(value)))
    document.to_xml(str(path))


def _text_of(value: Any) -> str:
    """Value of a card as text of XML; true and false as Python has them."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _ascii(text: str) -> str:
    """Text as a header of FITS can hold it."""
    return text.encode("ascii", "backslashreplace").decode()
