"""A search for binaries on disk: tables, the completeness map, and the candidates' spectra."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.analysis.binaries.finding import BinarySearch
from bayes_cannon.analysis.catalogued.files import write_catalogue
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.storage import check_output, write_atomically
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.inference.arguments import as_spectra
from bayes_cannon.inference.binaries.pair_posterior import sample_pair
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.binaries import completeness_map, plot_pair, plot_pair_corner
from bayes_cannon.plots.common import save_figure
from bayes_cannon.runs.corners import corner_files
from bayes_cannon.runs.results import RUN_TABLE, Run, folder_of, open_run
from bayes_cannon.runs.tables import MARK, write_ecsv
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.star_ids import ID_NAMES, row_of

__all__ = [
    "give_to_run",
    "read_binaries",
    "write_binaries",
]

TABLES = ("binaries.fits", "binaries.ecsv", "pairs.ecsv")
COMPLETENESS = "completeness.png"


def write_binaries(
    search: BinarySearch,
    folder: str | os.PathLike[str],
    *,
    cannon: Cannon,
    spectra: Any,
    most_figures: int = 10,
    n_sampled: int = 0,
    seed: int | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what a search found.

    ``binaries.fits`` and ``binaries.ecsv`` (one row a star), ``pairs.ecsv`` (the sums of two
    training stars, and which were found), ``completeness.png``, ``spectra/<star>.png`` of the
    most probable candidates, and of those sampled ``posteriors/<star>.nc`` and its corner plot.

    Parameters
    ----------
    search
        What `find_binaries` returned.
    folder
        Where to write; made if need be.
    cannon, spectra
        What was searched.
    most_figures
        Candidates whose spectra are drawn.
    n_sampled, seed
        Candidates whose posterior is sampled (`sample_pair`), training stars left out, and the
        seed of that; None takes a fresh one.
    overwrite
        Replace files that are there.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputExistsError
        If a file exists and `overwrite` is False, or the folder cannot be written.
    """
    out = user_path(folder)
    for name in TABLES:
        check_output(out / name, overwrite=overwrite)
    out.mkdir(parents=True, exist_ok=True)
    table, pairs = search.table.copy(), search.pairs.copy()
    simulated = bool(table.meta.get("SIMULATE"))
    for some in (table, pairs):
        some.meta["comments"] = [
            *([MARK] if simulated else []),
            "a dwarf beside a giant has 1 to 3 % of the light in H and is not found",
        ]
    write_atomically(out / TABLES[0], lambda part: _fits(table, part), overwrite=overwrite)
    for name, some in zip(TABLES[1:], (table, pairs), strict=True):
        write_ecsv(some, out / name, overwrite=overwrite)
    save_figure(completeness_map(search), out / COMPLETENESS)
    plt.close("all")
    stars = search.candidates[:most_figures].tolist()
    for star, path in corner_files(stars, out / "spectra").items():
        figure, axes = plt.subplots(2, 1, figsize=(13, 9), layout="constrained")
        plot_pair(cannon, spectra, search, star, ax=axes[0])
        middle = float(cannon.wavelength[cannon.n_pixels // 2])
        near = cannon.wavelength[np.abs(cannon.wavelength - middle) < 75]
        plot_pair(cannon, spectra, search, star, window=(near[0], near[-1]), ax=axes[1])
        axes[1].set_title("")
        save_figure(figure, path.with_name(path.name.removeprefix("corner-")))
        plt.close(figure)
    _sample(search, out, cannon, as_spectra(spectra), n_sampled, seed)
    return out


def _sample(
    search: BinarySearch,
    out: Path,
    cannon: Cannon,
    spectra: NormalizedSpectra,
    n: int,
    seed: int | None,
) -> None:
    """Sample the most probable candidates; each has a file and a corner plot."""
    # The model knows its training stars: the posterior of one would know itself.
    fresh = ~np.isin(search.candidates, cannon.training.star_id)
    stars = search.candidates[fresh][:n].tolist()
    for star, path in corner_files(stars, out / "posteriors").items():
        row, place = row_of(spectra.star_id, star), row_of(search.found.star_id, star)
        result = sample_pair(
            cannon, star, spectra.flux[row], spectra.ivar[row], search.found.theta[place],
            search.settings, seed=seed,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        result.to_netcdf(path.with_suffix(".nc"), engine="h5netcdf")
        figure = plot_pair_corner(result)
        save_figure(figure, path)
        plt.close(figure)


def give_to_run(run: Run | str | os.PathLike[str], binaries: Table) -> Run:
    """Keep the table of a search in a run: BINARY_CANDIDATE of LABEL_FLAG, and in its report.

    The table becomes ``binaries.ecsv`` of the run, whose catalogue is written anew.

    Parameters
    ----------
    run
        The run, or its folder.
    binaries
        ``BinarySearch.table``, or what `read_binaries` returned.

    Returns
    -------
    Run
        Opened again.

    Raises
    ------
    InvalidDataError
        If the table has none of the run's stars.
    """
    folder = folder_of(run)
    opened = open_run(folder)
    ids = np.asarray(binaries[binaries.colnames[0]], dtype=np.str_)
    if not np.isin(opened.star_id, ids).any():
        raise InvalidDataError(
            f"the table of binaries has none of the stars of the run {folder}; search its stars."
        )
    write_ecsv(binaries, folder / RUN_TABLE, overwrite=True)
    again = open_run(folder)
    write_catalogue(again.table, folder, overwrite=True)
    return open_run(folder)


def _fits(table: Table, path: Path) -> None:
    """Write a FITS table; ids in ASCII, ``dex`` left to the column's comment."""
    bare = table.copy()
    meta, bare.meta = dict(table.meta), {}
    key = table.colnames[0]
    bare[key] = np.char.encode(np.asarray(table[key], np.str_), "ascii", "backslashreplace")
    dex = [name for name in bare.colnames if str(bare[name].unit) == "dex"]
    for name in dex:
        bare[name].unit = None
    hdu = fits.table_to_hdu(bare)
    hdu.name = "BINARIES"
    for name in dex:
        hdu.header[f"TCOMM{table.colnames.index(name) + 1}"] = "dex"
    for line in meta.pop("comments", ()):
        hdu.header["HISTORY"] = line
    for name, value in meta.items():
        hdu.header[name] = value
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)


def read_binaries(path: str | os.PathLike[str]) -> Table:
    """Read the table of a search.

    Parameters
    ----------
    path
        ``binaries.ecsv``, or the folder that `write_binaries` filled.

    Raises
    ------
    FileFormatError
        If the file is missing or is no such table.
    """
    file = user_path(path)
    file = file / TABLES[1] if file.is_dir() else file
    try:
        table = Table.read(file, format="ascii.ecsv")
    except FileNotFoundError as error:
        raise FileFormatError(f"{file} does not exist; run `bayes-cannon binaries`.") from error
    except Exception as error:
        raise FileFormatError(f"{file} cannot be read as an ECSV table.") from error
    if not {"CANDIDATE", "P_BINARY"} <= set(table.colnames):
        raise FileFormatError(f"{file} is no table of binaries: CANDIDATE and P_BINARY are needed.")
    if table.colnames[0] not in ID_NAMES:
        raise InvalidDataError(f"{file} has no column of stars' ids ({', '.join(ID_NAMES)}).")
    return table
