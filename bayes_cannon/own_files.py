"""Files of a user's own spectra, read one after the other onto one grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.dataset import StarProblem
from bayes_cannon.errors import FileFormatError, InvalidDataError, NoStarsError
from bayes_cannon.own_arrays import GivenSpectra, as_numbers

__all__ = ["Reader", "read_files", "read_spectrum"]

FloatArray = NDArray[np.float64]
Reader = Callable[[Path], tuple[ArrayLike, ArrayLike, ArrayLike]]
"""Reads one file: wavelength, flux and inverse variance, each of shape (n_pixels,)."""


def read_spectrum(path: Path) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Read a table with columns WAVELENGTH, FLUX, and IVAR or ERROR, capitals or not.

    Pixels where flux or spread is not a number, or the spread not positive, are bad.

    Parameters
    ----------
    path
        A FITS table or any text table that astropy recognises; ECSV is best.

    Returns
    -------
    wavelength, flux, ivar : (n_pixels,) float64

    Raises
    ------
    FileFormatError
        If there is no such table in the file.
    """
    try:
        table = Table.read(path)
    except Exception as error:  # astropy's readers raise of many kinds
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise FileFormatError(f"{path} cannot be read as a table: {first}") from error
    columns = {name.upper(): name for name in table.colnames}
    spread = next((name for name in ("IVAR", "ERROR") if name in columns), None)
    if spread is None or not {"WAVELENGTH", "FLUX"} <= columns.keys():
        raise FileFormatError(
            f"{path} needs columns WAVELENGTH, FLUX, and IVAR or ERROR; "
            f"it has {', '.join(table.colnames)}."
        )
    wavelength, flux, last = (
        as_numbers(table[columns[name]]) for name in ("WAVELENGTH", "FLUX", spread)
    )
    good = np.isfinite(flux) & (last > 0)
    if spread == "ERROR":
        last = np.where(good, last, 1.0) ** -2
    return wavelength, flux, np.where(good, last, 0.0)


def read_files(
    paths: Sequence[Path],
    ids: NDArray[np.str_],
    reader: Reader,
    progress: Callable[[int, int], None] | None,
) -> tuple[GivenSpectra, list[int], list[StarProblem]]:
    """Read one file after the other; all must be on the grid of the first that can be read.

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
    for i, path in enumerate(paths):
        try:
            wavelength, flux, ivar = reader(path)
            row = GivenSpectra.make(wavelength, flux, ivar, None, [str(ids[i])])
            if rows and not _same_grid(rows[0].wavelength, row.wavelength):
                raise InvalidDataError(
                    f"its wavelengths are not those of {paths[kept[0]].name}; "
                    "let the reader bring all spectra to one grid."
                )
            rows.append(row)
            kept.append(i)
        except Exception as error:  # a user's reader may raise anything; the others go on
            text = str(error) or type(error).__name__
            problems.append(StarProblem(str(ids[i]), str(path), text))
        if progress is not None:
            progress(i + 1, len(paths))
    if not rows:
        first = f"; the first, {problems[0].star_id}: {problems[0].message}" if problems else ""
        raise NoStarsError(f"none of {len(paths)} files holds a spectrum that can be used{first}.")
    pixels = GivenSpectra(
        ids[kept],
        rows[0].wavelength,
        np.concatenate([row.flux for row in rows]),
        np.concatenate([row.ivar for row in rows]),
    )
    return pixels, kept, problems


def _same_grid(first: FloatArray, other: FloatArray) -> bool:
    """Whether two grids agree to a hundredth of a pixel."""
    return first.shape == other.shape and bool(
        np.all(np.abs(first - other) <= 0.01 * np.gradient(first))
    )
