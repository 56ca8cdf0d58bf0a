"""Files of a user's own spectra, and tables of them, whatever their form."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from astropy.io.registry import IORegistryError
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import names_of, one_or_more
from bayes_cannon.base.paths import is_fits_name, user_path
from bayes_cannon.base.progress import Progress
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import FileFormatError, InvalidDataError, LabelError, NoStarsError
from bayes_cannon.spectra.arrays import _training_set
from bayes_cannon.spectra.continuum import ContinuumSettings
from bayes_cannon.spectra.dataset import CutStep, TrainingSet
from bayes_cannon.spectra.given import Chips, GivenSpectra, check_star_ids
from bayes_cannon.spectra.label_kinds import label_kind
from bayes_cannon.spectra.own_labels import (
    columns_of,
    make_labels,
    require_labels,
    take_ids,
    units_told,
)
from bayes_cannon.spectra.problems import StarProblem, read_each
from bayes_cannon.spectra.spectra import check_medium, same_grid

__all__ = [
    "Reader",
    "find_columns",
    "read_files",
    "read_spectrum",
    "read_table",
    "training_set_from_table",
]

Reader = Callable[[Path], tuple[ArrayLike, ArrayLike, ArrayLike]]
"""Reads one file: wavelength, flux and inverse variance, each of shape (n_pixels,)."""


def read_table(path: str | os.PathLike[str], format: str | None = None) -> Table:
    """Read a table from any file that astropy can read.

    Parameters
    ----------
    path
        A file, whose form is found out from its ending and content; what astropy does not
        recognise, as a ``.txt`` or ``.dat`` file, is tried as text with a line of names.
    format
        Name of the form as astropy has it (``'ascii'``, ``'ascii.csv'``, ``'fits'``, …), where it
        is known.

    Raises
    ------
    FileFormatError
        If it cannot be read.
    """
    source = user_path(path)
    if not source.is_file():
        raise FileFormatError(f"{source} does not exist, or is a folder.")
    try:
        try:
            return Table.read(source, format=format)
        except IORegistryError:
            if format is not None or is_fits_name(source.name):
                raise
            return Table.read(source, format="ascii")
    except Exception as error:  # astropy's readers raise of many kinds
        first = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        hint = "" if format else "; name its form with format= (as of astropy's Table.read)"
        raise FileFormatError(f"{source} cannot be read as a table: {first}{hint}.") from error


def read_spectrum(
    path: str | os.PathLike[str], format: str | None = None
) -> tuple[Any, FloatArray, FloatArray]:
    """Read a table with columns WAVELENGTH, FLUX, and IVAR or ERROR, capitals or not.

    Pixels that are masked, or where flux or spread is not a number, or the spread not positive or
    infinite, are bad. Columns with units are converted: wavelengths to Å, the spread to the
    unit of the flux.

    Parameters
    ----------
    path
        A FITS table or a text table, see `read_table`; ECSV is best.
    format
        See `read_table`.

    Returns
    -------
    wavelength, flux, ivar : (n_pixels,) float64

    Raises
    ------
    FileFormatError
        If there is no such table in the file.
    InvalidDataError
        On units that do not fit, or wavelengths that cannot be.
    """
    row = _read_row(user_path(path), format, "star")
    return row.wavelength, row.flux[0], row.ivar[0]


def _read_row(path: Path, format: str | None, name: str) -> GivenSpectra:
    table = read_table(path, format)
    columns: dict[str, Any] = {}
    for column in table.colnames:
        columns.setdefault(column.upper(), table[column])
    spread = next((name for name in ("IVAR", "ERROR") if name in columns), None)
    if spread is None or not {"WAVELENGTH", "FLUX"} <= columns.keys():
        raise FileFormatError(
            f"{path} needs columns WAVELENGTH, FLUX, and IVAR or ERROR; it has "
            f"{', '.join(table.colnames[:8])}{', …' if len(table.colnames) > 8 else ''}. Give its "
            "columns these names, or a reader."
        )
    last = columns[spread]
    return GivenSpectra.make(
        columns["WAVELENGTH"], columns["FLUX"], last if spread == "IVAR" else None,
        last if spread == "ERROR" else None, [name],
    )  # fmt: skip


def read_files(
    paths: Sequence[Path],
    ids: NDArray[np.str_],
    reader: Reader | None,
    progress: Progress = None,
    *,
    format: str | None = None,
    medium: str = "vacuum",
) -> tuple[GivenSpectra, list[int], list[StarProblem]]:
    """Read one file after the other; all must be on the grid of the first that can be read.

    Parameters
    ----------
    paths
        Of the files, one a star.
    ids : (n_stars,) str
        Names of the stars.
    reader
        Reads a file; None: `read_spectrum`.
    progress
        Called with the number of files read and their total.
    format
        Form of the files, as astropy names it.
    medium
        ``'vacuum'`` or ``'air'``.

    Returns
    -------
    GivenSpectra
        What could be read.
    list of int
        Places of those in the list of files.
    list of StarProblem
        The others, and why.

    Raises
    ------
    NoStarsError
        If no file can be used.
    """
    rows: list[GivenSpectra] = []
    kept: list[int] = []
    problems: list[StarProblem] = []

    def read(i: int, path: Path) -> GivenSpectra:
        if reader is None:
            row = _read_row(path, format, str(ids[i]))
        else:
            row = GivenSpectra.make(*_returned(reader(path)), None, [str(ids[i])])
        if rows and not same_grid(rows[0].wavelength, row.wavelength):
            raise InvalidDataError(
                f"its wavelengths are not those of {paths[kept[0]].name}; "
                "let the reader bring all spectra to one grid."
            )
        return row

    def name(i: int, path: Path) -> str:
        return str(ids[i])

    for i, row in read_each(paths, read, name, problems, progress=progress):
        rows.append(row)
        kept.append(i)
    if not rows:
        first = (
            f"; the first, {problems[0].star_id}: {problems[0].message.rstrip('.')}"
            if problems
            else ""
        )
        raise NoStarsError(
            f"none of {count_text(len(paths), 'file')} holds a spectrum that can be used{first}."
        )
    pixels = GivenSpectra(
        ids[kept],
        rows[0].wavelength,
        np.concatenate([row.flux for row in rows]),
        np.concatenate([row.ivar for row in rows]),
        np.concatenate([row.n_masked for row in rows]),
        np.concatenate([row.n_unusable for row in rows]),
        medium,
    )
    return pixels, kept, problems


def _returned(given: Any) -> tuple[Any, Any, Any]:
    """What a reader returned: three arrays."""
    if not isinstance(given, tuple | list) or len(given) != 3:
        raise InvalidDataError("the reader must return wavelength, flux and inverse variance.")
    return given[0], given[1], given[2]


def training_set_from_table(
    table: Table | pd.DataFrame | str | os.PathLike[str],
    labels: str | Sequence[str],
    *,
    folder: str | os.PathLike[str] = ".",
    reader: Reader | None = None,
    units: Mapping[str, str] | None = None,
    chips: Chips | None = (),
    continuum: ContinuumSettings | None = None,
    allow_missing_labels: bool = False,
    simulated: bool = False,
    medium: str = "vacuum",
    format: str | None = None,
    catalogue: str | None = None,
    progress: Progress = None,
) -> TrainingSet:
    """Training set from a table that lists files of spectra and the stars' labels.

    A file that cannot be read, or whose wavelengths are not those of the first one, does not
    stop the others: it is in `TrainingSet.problems`, and a warning says so.

    Parameters
    ----------
    table
        One row a star: column ``PATH``, a column for each label, and, where known, its error in
        ``NAME_ERR``; ``STAR_ID``, ``APOGEE_ID`` or ``SDSS_ID`` with names, or the named index of a
        DataFrame, else the file names without their endings. An astropy table, a pandas DataFrame,
        or the path of a file that `read_table` can read. Capitals in names do not matter, and a
        label that is not there is looked for by the other names of its kind (`LabelKind.aliases`).
    labels
        Names of the label columns, or the name of one.
    folder
        Where paths that are not absolute begin.
    format
        Form of the files of spectra, as astropy names it; left out, it is found out.
    reader
        Takes the path of a file and returns wavelength, flux and inverse variance;
        default `read_spectrum`.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.
    units, chips, continuum, allow_missing_labels, simulated, medium, catalogue
        See `training_set_from_arrays`.

    Raises
    ------
    InvalidDataError, LabelError, NoStarsError
        As `training_set_from_arrays`; also if a column is not there.
    """
    if reader is not None and format is not None:
        raise InvalidDataError("give either a reader, or the format that astropy reads.")
    given = read_table(table) if isinstance(table, str | os.PathLike) else table
    columns = find_columns(columns_of(given, "the table"), ("PATH",), one_or_more(labels))
    base = user_path(folder)
    paths = [base / user_path(path) for path in names_of(columns.pop("PATH"), "PATH")]
    names, id_name = take_ids(given, columns_of(given, "the table"))
    ids = check_star_ids([_stem(p) for p in paths] if names is None else names, len(paths))
    told = {n: unit for n, unit in (units_told(given) or {}).items() if n in columns}
    whole = make_labels(ids, columns, None, told if units is None else units, id_name)
    require_labels(whole, allowed=allow_missing_labels)
    pixels, kept, problems = read_files(
        paths, ids, reader, progress, format=format, medium=check_medium(medium)
    )
    pixels = replace(pixels, id_name=id_name)
    steps = [
        CutStep("table", "all rows of the table", 0, len(paths)),
        CutStep("spectrum readable", "the file holds a spectrum", len(problems), len(kept)),
    ]
    return _training_set(
        pixels, whole.select(kept), steps, problems, chips, continuum, simulated=simulated,
        catalogue=catalogue,
    )  # fmt: skip


def _stem(path: Path) -> str:
    """Name of a file without its ending, .gz and the like included."""
    packed = path.suffix.lower() in (".gz", ".bz2", ".xz")
    return Path(path.stem).stem if packed else path.stem


def _other_names(name: str) -> list[str]:
    """Other names of a label's column, or of its error's, in capitals."""
    label = name.removesuffix("_ERR")
    ending = name[len(label) :]
    return [f"{alias}{ending}".upper() for alias in label_kind(label).aliases]


def find_columns(
    given: Mapping[str, Any],
    needed: Sequence[str],
    labels: Sequence[str],
) -> dict[str, Any]:
    """Columns of a table by the names asked for, whatever their capitals.

    Parameters
    ----------
    given
        Columns by name.
    needed
        Names of columns that must be there.
    labels
        Names of labels that must be there, under a name of their kind (`LabelKind.aliases`);
        their errors, in ``NAME_ERR``, may.

    Raises
    ------
    LabelError
        If a column is not there, or there twice.
    """
    found: dict[str, Any] = {}
    by_capitals: dict[str, list[str]] = {}
    for name in given:
        by_capitals.setdefault(name.upper(), []).append(name)
    lacking = []
    for name in (*needed, *labels, *(f"{label}_ERR" for label in labels)):
        alike = [name] if name in given else by_capitals.get(name.upper(), [])
        if not alike:
            alike = [n for other in _other_names(name) for n in by_capitals.get(other, [])]
        if len(alike) == 1:
            found[name] = given[alike[0]]
        elif alike:
            raise LabelError(f"the table has several columns {name}: {', '.join(alike)}.")
        elif name in needed or name in labels:
            lacking.append(name)
    if lacking:
        raise LabelError(
            f"the table has no column {', '.join(lacking)}; it has {', '.join(given)}."
        )
    return found
