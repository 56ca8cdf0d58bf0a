"""The population of a group of stars of a run, into a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.table import Table

from bayes_cannon.analysis.groups.fit import group_table, population
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.storage import check_output, read_tree, write_tree
from bayes_cannon.errors import OutputExistsError
from bayes_cannon.inference.tables import rounded, write_ecsv, write_fits
from bayes_cannon.plots.common import save_figure
from bayes_cannon.plots.ensembles.groups import plot_group_corner, plot_group_forest
from bayes_cannon.runs.results import Run, folder_of, open_run
from bayes_cannon.runs.summary import write_summary

__all__ = [
    "open_population",
    "run_population",
]

_FORMAT, _VERSION = "bayes_cannon.population", 1
_TABLES = ("population", "members")
_FILES = {"population.nc", "forest.png", "corner-mean.png", "corner-scatter.png", "summary.json"}
_OURS = _FILES | {f"{name}.{end}" for name in _TABLES for end in ("ecsv", "fits")}


def run_population(
    run: Run | str | os.PathLike[str],
    stars: Any,
    folder: str | os.PathLike[str],
    *,
    labels: str | Sequence[str] | None = None,
    flagged: Literal["exclude", "keep"] = "exclude",
    scatter_prior: Mapping[str, float] | None = None,
    seed: int | None = None,
    overwrite: bool = False,
) -> xr.DataTree:
    """Infer the population of a group of stars and write what was found.

    Parameters
    ----------
    run
        A run, or its directory.
    stars, labels, flagged, scatter_prior, seed
        As of `bayes_cannon.analysis.population`.
    folder
        Where to write: ``population.nc`` (the draws), ``population`` (a row a label) and
        ``members`` (a row a star: whether it was used and why not, its weight), each as ``.fits``
        and ``.ecsv``, ``forest.png``, ``corner-mean.png``, ``corner-scatter.png``,
        ``summary.json``.
    overwrite
        Replace an earlier population.

    Returns
    -------
    xarray.DataTree
        See `bayes_cannon.analysis.population`.

    Raises
    ------
    NoStarsError
        If fewer than three stars are left.
    OutputExistsError
        If the folder holds something else, or a population and `overwrite` is false.
    """
    out = user_path(folder)
    _refuse_others(out, overwrite=overwrite)
    opened = run if isinstance(run, Run) else open_run(run)
    found = population(
        opened, stars, labels=labels, flagged=flagged, scatter_prior=scatter_prior, seed=seed
    )
    out.mkdir(parents=True, exist_ok=True)
    write_tree(
        found.copy(), out / "population.nc", format_name=_FORMAT, version=_VERSION,
        overwrite=overwrite,
    )  # fmt: skip
    table = group_table(found)
    for name, content in zip(_TABLES, (table, _member_table(found)), strict=True):
        shown = rounded(content)
        write_ecsv(shown, out / f"{name}.ecsv", overwrite=overwrite)
        write_fits(shown, out / f"{name}.fits", name=name.upper(), overwrite=overwrite)
    save_figure(plot_group_forest(found), out / "forest.png")
    for what in ("mean", "scatter"):
        save_figure(plot_group_corner(found, what=what), out / f"corner-{what}.png")
    rows = [dict(zip(table.colnames, row, strict=True)) for row in table]
    prior = found["constant_data"].to_dataset()
    widths = zip(table["LABEL"].tolist(), prior["scatter_prior"].values.tolist(), strict=True)
    write_summary(
        out,
        {
            "simulated": bool(found.attrs["simulated"]),
            "run": str(folder_of(opened)),
            "stars": found.attrs["told"],
            "flagged": flagged,
            "errors": found.attrs["errors"],
            "seed": found["posterior"].attrs["seed"],
            "divergences": int(found["sample_stats"]["diverging"].sum()),
            "nu": float(prior["nu"]),
            "scatter_prior": dict(widths),
            "population": rows,
        },
    )
    return found


def _member_table(found: xr.DataTree) -> Table:
    """A row for each star of the list: what became of it, its weight and labels."""
    listed = found["members"].to_dataset()
    stars = listed["listed"].values.astype(np.str_)
    seen, draws = found["observed_data"].to_dataset(), found["posterior"].to_dataset()
    place = {s: i for i, s in enumerate(seen["star"].values.astype(np.str_).tolist())}
    rows = np.array([place.get(s, -1) for s in stars.tolist()])
    weight = draws["weight"].mean(("chain", "draw")).values
    out = Table(
        {"STAR_ID": stars, "FATE": listed["fate"].values.astype(np.str_),
         "WEIGHT": np.where(rows >= 0, weight[rows], np.nan)},
        meta={"ID": "STAR_ID", "SIMULATE": bool(found.attrs["simulated"])},
    )  # fmt: skip
    for i, name in enumerate(str(n) for n in seen["label_name"].values):
        for suffix, values in (("", seen["center"].values), ("_ERR", seen["sd"].values)):
            out[f"{name}{suffix}"] = np.where(rows >= 0, values[rows, i], np.nan)
    return out


def _refuse_others(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; choose another folder for the population.")
    if others := sorted({p.name for p in folder.iterdir()} - _OURS):
        raise OutputExistsError(
            f"{folder} holds more than an earlier population ({others[0]}); choose another folder."
        )
    check_output(folder / "population.nc", overwrite=overwrite)


def open_population(folder: str | os.PathLike[str]) -> xr.DataTree:
    """Read a population again.

    Parameters
    ----------
    folder
        That `run_population` wrote.

    Raises
    ------
    FileFormatError
        If there is none, or it is damaged.
    """
    path = user_path(folder) / "population.nc"
    return read_tree(path, format_name=_FORMAT, version=_VERSION)
