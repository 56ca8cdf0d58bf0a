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
from bayes_cannon.inference.tables import star_column, star_ids
from bayes_cannon.surveys.reductions import other_reductions

__all__ = [
    "write_catalogue",
    "write_votable",
]

_MARK = "SIMULATED spectra: not observations"
_MODEL_MARK = "The model was trained on SIMULATED spectra."


def write_catalogue(
    table: Table,
    folder: str | os.PathLike[str],
    *,
    votable: bool = False,
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
        Write ``catalogue.vot``, too.
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
    kinds: dict[str, Callable[[Path], None]] = {
        "fits": partial(_write_fits, table),
        "ecsv": partial(table.write, format="ascii.ecsv"),
    }
    if votable:
        kinds["vot"] = partial(_write_votable, table)
    paths = tuple(user_path(folder) / f"catalogue.{kind}" for kind in kinds)
    for path in paths:
        check_output(path, overwrite=overwrite)
    for path, write in zip(paths, kinds.values(), strict=True):
        write_atomically(path, write, overwrite=overwrite)
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


def _write_fits(table: Table, path: Path) -> None:
    """Write a FITS table; ``dex``, none of the FITS standard's units, goes into the description.

    FITS has ASCII alone: other signs of a star's name are written as Python escapes them.
    """
    bare = table.copy()
    key, labels = star_column(table), _labels_of(table)
    bare[key] = np.char.encode(star_ids(table), "ascii", "backslashreplace")
    bare.meta = {}
    for name, column in bare.columns.items():
        if column.dtype.kind == "U" and name != key:
            bare[name] = np.char.encode(np.asarray(column), "ascii", "backslashreplace")
        bare[name].unit = bare[name].description = bare[name].format = None
    hdu = fits.table_to_hdu(bare)
    hdu.name = "CATALOGUE"
    for number, name in enumerate(table.colnames, start=1):
        unit, text = table[name].unit, table[name].description or ""
        if unit is not None and str(unit) == "dex":
            text = f"{text} [dex]"
        elif unit is not None and str(unit):
            hdu.header.set(f"TUNIT{number}", _ascii(str(unit)), after=f"TFORM{number}")
        if display := display_of(name, labels, str(unit or "")):
            hdu.header[f"TDISP{number}"] = display
        if (null := null_of(name)) is not None:
            hdu.columns[number - 1].null = null
        hdu.header[f"TUCD{number}"] = ucd_of(name, labels, key)
        hdu.header[f"TCOMM{number}"] = _ascii(text)
    for card, value in table.meta.items():
        hdu.header[card] = _ascii(value) if isinstance(value, str) else value
    hdu.header["ORIGIN"] = f"bayes_cannon {__version__}"
    hdu.header["DATE"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if table.meta.get("SIMULATE"):
        hdu.header["HISTORY"] = _MARK
    elif table.meta.get("SIMMODEL"):
        hdu.header["HISTORY"] = _MODEL_MARK
    if told := other_reductions(table):
        hdu.header["HISTORY"] = told
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
    if table.meta.get("SIMULATE") or table.meta.get("SIMMODEL"):
        facts["NOTE"] = _MARK if table.meta.get("SIMULATE") else _MODEL_MARK
    for name, value in facts.items():
        made.infos.append(Info(name=name, value=_text_of(value)))
    document.to_xml(str(path))


def _text_of(value: Any) -> str:
    """Value of a card as text of XML; true and false as Python has them."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _ascii(text: str) -> str:
    """Text as a header of FITS can hold it."""
    return text.encode("ascii", "backslashreplace").decode()
