"""A run that is read: posteriors, catalogue and summary of its stars, and the model behind them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from astropy.table import Row, Table
from numpy.typing import NDArray

from bayes_cannon._version import __version__
from bayes_cannon.analysis.catalogues import CatalogueTable, catalogue
from bayes_cannon.base.cards import Carded, count_text, simulated_mark
from bayes_cannon.base.cards import Row as Fact
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.stores.blocks import read_json
from bayes_cannon.errors import FileFormatError, InvalidDataError
from bayes_cannon.inference.flags import LabelFlag, describe_flag, is_flagged
from bayes_cannon.inference.posterior import (
    group_of,
    holds_moments,
    is_simulated,
    posterior_names,
    which_simulated,
)
from bayes_cannon.inference.tables import catalogue_name, star_column, star_ids
from bayes_cannon.inference.units import units_of_table
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.runs.fingerprint import digest_of_model
from bayes_cannon.runs.inputs import find_input, paths_of
from bayes_cannon.runs.store import open_posterior
from bayes_cannon.runs.summary import read_summary
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.spectra.star_ids import (
    ID_NAMES,
    catalogue_column,
    id_column,
    near_names,
    plain_name,
)

__all__ = [
    "Run",
    "folder_of",
    "noted_digest",
    "open_run",
    "read_catalogue",
]

RUN_TABLE = "binaries.ecsv"
"""Table of a search for binaries that was given to a run, in its folder."""

_OF_FITS = re.compile(
    r"EXTNAME|EXTVER|HISTORY|COMMENT|comments|ORIGIN|DATE|CHECKSUM|DATASUM|(TCOMM|TUCD|TDISP)\d+"
)
"""Keys of a header that are not the table's own."""
_SUFFIXES = ("", "_ERR", "_FORMAL_ERR", "_Q16", "_Q50", "_Q84")


@dataclass(frozen=True, eq=False, repr=False)
class Run(Carded):
    """Posteriors of many stars in a folder, with all that belongs to them.

    ``run[star]`` is the posterior of one star, ready for ArviZ; iteration goes over the names of
    the stars, as that of a dict. Functions that take a result of `infer_labels` take a run.

    Attributes
    ----------
    folder : Path
    result : xarray.DataTree
        Posteriors, read lazily: groups ``posterior``, ``star_stats``, ``constant_data`` and, where
        the model error was measured, ``calibrated_posterior``; of NUTS, ``sample_stats``. Draws
        have the dims chain, draw, star. Where moments were kept (``keep``), the posteriors have
        ``mean``, ``cov``, ``quantiles`` and, the calibrated one, ``center``, ``scale`` and ``nu``;
        where some draws were, groups ``posterior_moments`` and so on have them, of all draws.
    """

    folder: Path
    result: xr.DataTree
    _cannon: Cannon | None = None

    @classmethod
    def made(
        cls, folder: Path, result: xr.DataTree, table: Table, summary: dict[str, Any],
        cannon: Cannon,
    ) -> Run:  # fmt: skip
        """Run whose parts are at hand, so that none has to be read.

        Parameters
        ----------
        folder, result, table, summary, cannon
            Of the run.
        """
        run = cls(folder, result, cannon)
        vars(run).update(table=table, summary=summary)
        return run

    @cached_property
    def table(self) -> CatalogueTable:
        """The catalogue, one row per star, see `catalogue`; made of the posteriors if need be.

        Raises
        ------
        FileFormatError
            If ``catalogue.fits`` is damaged.
        """
        file = self.folder / "catalogue.fits"
        if not file.exists():
            return _with_candidates(catalogue(self.result), self.folder)
        table = read_catalogue(file)
        written = np.char.encode(self.star_id, "ascii", "backslashreplace").astype(np.str_)
        if not np.array_equal(np.char.rstrip(written), star_ids(table)):
            # The file is of an earlier state of a run that goes on.
            return _with_candidates(catalogue(self.result), self.folder)
        _rename(table, star_column(table), self.star_id)
        return _with_candidates(table, self.folder)

    @property
    def catalogue(self) -> CatalogueTable:
        """The same as `table`."""
        return self.table

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What ``summary.json`` holds; empty where there is none.

        Raises
        ------
        FileFormatError
            If it is damaged.
        """
        return read_summary(self.folder)

    @property
    def settings(self) -> dict[str, Any]:
        """How the labels were inferred: method, seed, draws and so on; empty where not known."""
        noted: dict[str, Any] = {
            key: self.summary[key] for key in ("method", "seed") if key in self.summary
        }
        return noted | dict(self.summary.get("settings") or {})

    @cached_property
    def star_id(self) -> NDArray[np.str_]:
        """Names of the stars, shape (n_stars,)."""
        return np.asarray(group_of(self.result, "posterior")["star"].values, dtype=np.str_)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels."""
        return posterior_names(self.result)

    @property
    def simulated(self) -> bool:
        """Whether the spectra are."""
        return is_simulated(self.result)

    @cached_property
    def cannon(self) -> Cannon:
        """The trained model, read from the file that the run notes.

        Raises
        ------
        FileFormatError
            If the run does not say where it is, or the file is gone, damaged, or of another model.
        """
        if self._cannon is not None:
            return self._cannon
        path = next(iter(find_input(self.folder, self.summary, "cannon")), None)
        if path is None:
            noted = [p[0].name for p in paths_of(self.folder, self.summary, "cannon")]
            why = f"{noted[0]} is not there any more" if noted else "it does not say where it is"
            raise FileFormatError(
                f"the model of the run {self.folder} is not known: {why}; load it with "
                "bc.Cannon.load(FILE)."
            )
        model = Cannon.load(path)
        if noted_digest(self.folder, "model") not in (None, digest_of_model(model)):
            raise FileFormatError(
                f"{path} is not the model that the run {self.folder} was made with; it was changed "
                "since."
            )
        return model

    @property
    def problems(self) -> Table:
        """Stars that need a look: name, LABEL_FLAG, and what was found in words.

        Flags that only remark on a star (it was sampled again) do not count.
        """
        key = star_column(self.table)
        flag = np.asarray(self.table["LABEL_FLAG"], dtype=np.int64)
        rows = np.flatnonzero(is_flagged(flag))
        found = ["; ".join(describe_flag(int(f))) for f in flag[rows]]
        return Table(
            {key: self.star_id[rows], "LABEL_FLAG": flag[rows],
             "FOUND": np.array(found, dtype=np.str_)}
        )  # fmt: skip

    def to_pandas(self) -> pd.DataFrame:
        """Return `table` as a DataFrame, its index the stars' names; see `CatalogueTable`."""
        return self.table.to_pandas()

    def row(self, star: str) -> Row:
        """Row of a star in the catalogue.

        Parameters
        ----------
        star
            Name of the star.

        Raises
        ------
        InvalidDataError
            If the star is not in the run.
        """
        return self.table[self._place(star)]

    def __getitem__(self, star: str) -> xr.DataTree:
        """Posterior of one star: the groups of `result`, without the dim star.

        Raises
        ------
        InvalidDataError
            If the star is not in the run.
        """
        return self.result.isel(star=self._place(star))

    def named(self, star: str) -> list[str]:
        """Names in the run of a star: itself, or ``apo25m/M15/ID`` and ``ID#2`` of ID.

        Parameters
        ----------
        star
            Name of the star; of one that is not in the run it is returned as it is.
        """
        plain = [name for name in self if plain_name(name) == star]
        return [star] if star in self or not plain else plain

    def _place(self, star: str) -> int:
        place = np.flatnonzero(self.star_id == str(star))
        if place.size == 0 and str(star) in self.result.children:
            raise InvalidDataError(f"a run is asked for stars; use run.result[{star!r}].")
        if place.size == 0:
            near = near_names(str(star), self)
            raise InvalidDataError(
                f"no star {star!r} in the run {self.folder}, which has {len(self)} "
                f"({name_some(self.star_id)}){f'; {near}' if near else '.'}"
            )
        return int(place[0])

    def __len__(self) -> int:
        return int(self.star_id.size)

    def __iter__(self) -> Iterator[str]:
        return iter(self.star_id.tolist())

    def __contains__(self, star: object) -> bool:
        return bool(np.any(self.star_id == str(star)))

    def _facts(self) -> tuple[str, list[Fact]]:
        summary, settings = self.summary, self.settings
        calibrated = "calibrated_posterior" in self.result.children
        sampled = {"nuts": "{chains} chains of {draws} draws by NUTS",
                   "laplace": "Gaussian at the mode"}  # fmt: skip
        method = str(settings.get("method", ""))
        known = {"chains": "?", "draws": "?"} | settings
        how = sampled.get(method, method).format(**known)
        found = [f"{summary[key]} {text}" for key, text in
                 (("n_failed", "without a posterior"), ("n_flagged", "flagged"))
                 if summary.get(key)]  # fmt: skip
        model = [places[0].name for places in paths_of(self.folder, summary, "cannon")]
        mark = simulated_mark(which_simulated(self.result))
        title = f"Run of {count_text(len(self), 'star')}{mark}"
        return title, [
            ("folder", str(self.folder)),
            ("labels", ", ".join(self.names)),
            ("errors", "formal and calibrated" if calibrated else "formal only"),
            ("kept", "moments" if holds_moments(group_of(self.result, "posterior")) else ""),
            ("method", f"{how}, seed {settings['seed']}" if "seed" in settings else how),
            ("stars", ", ".join(found)),
            ("model", ", ".join(model)),
        ]


def folder_of(run: Run | str | os.PathLike[str]) -> Path:
    """Folder of a run, however it is given.

    Parameters
    ----------
    run
        A run, or its folder.
    """
    return run.folder if isinstance(run, Run) else user_path(run)


def open_run(folder: str | os.PathLike[str]) -> Run:
    """Open a run; its draws are read when they are needed.

    Parameters
    ----------
    folder
        The run's directory.

    Returns
    -------
    Run
        Of a run that is not finished: the stars that are done, with a warning.

    Raises
    ------
    FileFormatError
        If there is no run, or it is damaged or of a newer format.
    """
    return Run(user_path(folder), open_posterior(folder))


def noted_digest(folder: Path, name: str) -> str | None:
    """Digest that a run notes of its model or spectra; None where another version made it.

    Parameters
    ----------
    folder
        Of the run.
    name
        ``model`` or ``spectra``.
    """
    head = read_json(folder / "progress" / "run.json") or {}
    return str(head[name]) if name in head and head.get("version") == __version__ else None


def read_catalogue(path: Path) -> CatalogueTable:
    """Read ``catalogue.fits`` as `catalogue` made it: text as str, units, descriptions and meta.

    Parameters
    ----------
    path
        Of ``catalogue.fits``.

    Raises
    ------
    FileFormatError
        If the file is damaged or not such a catalogue.
    """
    try:
        table = _as_made(Table.read(path, format="fits", hdu=1, mask_invalid=False))
    except Exception as error:
        raise FileFormatError(
            f"{path} cannot be read as a catalogue ({type(error).__name__}); run the same command "
            "again, which writes it anew."
        ) from error
    names = str(table.meta.get("LABELS", "")).split(",")
    key, their = id_column(table.colnames, table.meta), catalogue_column(catalogue_name(table))
    lacking = [n for n in ("LABEL_FLAG", *names) if n not in table.colnames]
    if key is None or lacking:
        lacking = [*([] if key else [ID_NAMES[0]]), *lacking]
        raise FileFormatError(f"{path} lacks the columns {', '.join(lacking)}; make it again.")
    _rename(table, key, star_ids(table))
    for name, unit in units_of_table(table, names).items():
        for suffix in (*_SUFFIXES, f"_{their}", f"_{their}_ERR"):
            if f"{name}{suffix}" in table.colnames:
                table[f"{name}{suffix}"].unit = unit
    return table


def _with_candidates(table: CatalogueTable, folder: Path) -> CatalogueTable:
    """Set BINARY_CANDIDATE of the stars of a search that was given to the run, in place."""
    file = folder / RUN_TABLE
    if not file.exists():
        return table
    try:
        found = Table.read(file, format="ascii.ecsv")
        names = np.asarray(found[found.colnames[0]], dtype=np.str_)
        candidates = names[np.asarray(found["CANDIDATE"], dtype=bool)]
    except Exception as error:
        raise FileFormatError(f"{file} cannot be read as a table of binaries.") from error
    bit = np.int64(LabelFlag.BINARY_CANDIDATE)
    flag = np.asarray(table["LABEL_FLAG"], dtype=np.int64) & ~bit
    table["LABEL_FLAG"][:] = flag | np.where(np.isin(star_ids(table), candidates), bit, 0)
    return table


def _rename(table: Table, column: str, star_id: NDArray[np.str_]) -> None:
    """Put other names of the stars into their column, which keeps its description."""
    text = table[column].description
    table[column] = star_id
    table[column].description = text


def _as_made(read: Table) -> CatalogueTable:
    """Columns in the byte order of this machine, with the descriptions that FITS keeps apart."""
    table = CatalogueTable()
    for number, name in enumerate(read.colnames, start=1):
        values = np.asarray(read[name])
        text = str(read.meta.get(f"TCOMM{number}", "")).removesuffix(" [dex]")
        table[name] = values.astype(values.dtype.newbyteorder("="))
        table[name].unit, table[name].description = read[name].unit, text or None
    table.meta = {key: value for key, value in read.meta.items() if not _OF_FITS.fullmatch(key)}
    return table
