"""Arguments of public functions: the kinds that users have at hand, brought to the one needed.

Each function returns what the package works with, or says in one of the package's own errors what
was given and what to give. A `TrainingSet` is known by what it holds.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np
import xarray as xr
from astropy.table import Table

from bayes_cannon.base.columns import plain_numbers
from bayes_cannon.base.paths import user_path
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.inference.posterior import DIMS, group_of
from bayes_cannon.inference.tables import star_ids
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.own_labels import units_told
from bayes_cannon.spectra.spectra import NormalizedSpectra, ObservedSpectra
from bayes_cannon.spectra.star_ids import ID_NAMES, id_column, index_name
from bayes_cannon.spectra.stored import AnySpectra, StoredSpectra

__all__ = [
    "GivenModel",
    "GivenResult",
    "KnownLabels",
    "RunLike",
    "as_any_spectra",
    "as_draws",
    "as_labels",
    "as_model",
    "as_result",
    "as_spectra",
    "as_table",
]


KnownLabels = Any
"""Labels of stars: `Labels`, a `TrainingSet`, or a table with their names; see `as_labels`."""
_IDS = ", ".join(ID_NAMES)
_META = ("ID", "CATALOG", "LABELS", "UNITS", "KIND", "SIMULATE", "SIMMODEL", "FLAGS", "REDUCTN",
         "REDUCMOD")  # fmt: skip
"""Meta data of catalogues, which a DataFrame keeps in its ``attrs``."""


class RunLike(Protocol):
    """What holds a result of inference, as a `Run` does."""

    @property
    def result(self) -> xr.DataTree:
        """Posteriors of many stars."""


GivenResult = xr.DataTree | RunLike
"""A result of `infer_labels`, or a run."""
GivenModel = Cannon | RunLike | str | os.PathLike[str]
"""A trained model, the path of its file, or a run."""


def as_model(given: GivenModel) -> Cannon:
    """A trained model; that of a run, or read from its file where a path is given.

    Parameters
    ----------
    given
        A `Cannon`, a run, or the path of a model file.

    Raises
    ------
    InvalidDataError
        If it is none of these.
    FileFormatError
        If the file is no model's, or the run's model is not there any more.
    """
    if isinstance(given, str | os.PathLike):
        return Cannon.load(user_path(given))
    of_run = isinstance(getattr(given, "result", None), xr.DataTree)
    held: Any = getattr(given, "cannon", given) if of_run else given
    if not (hasattr(held, "basis") and hasattr(held, "theta")):
        raise InvalidDataError(
            "a trained model is needed, from train() or Cannon.load(), the path of its file, or a "
            f"run of it, not {_kind(given)}."
        )
    model: Cannon = held
    return model


def as_spectra(given: Any) -> NormalizedSpectra:
    """Normalised spectra; those of a `TrainingSet`. Those on disk are read into memory.

    Parameters
    ----------
    given
        `NormalizedSpectra`, or what holds them as ``spectra``.

    Raises
    ------
    InvalidDataError
        If there are none.
    """
    return as_any_spectra(given).in_memory()


def as_any_spectra(given: Any) -> AnySpectra:
    """Normalised spectra, in memory or on disk; those of a `TrainingSet` or a `StoredSet`.

    Parameters
    ----------
    given
        `NormalizedSpectra`, `StoredSpectra`, or what holds them as ``spectra``.

    Raises
    ------
    InvalidDataError
        If there are none.
    """
    held = getattr(given, "spectra", given)
    if isinstance(held, NormalizedSpectra | StoredSpectra):
        return held
    if isinstance(held, ObservedSpectra):
        raise InvalidDataError(
            "these are raw spectra; normalise them as the training set was, by prepare_spectra or "
            "normalize."
        )
    raise InvalidDataError(
        "spectra must be NormalizedSpectra (from spectra_from_arrays or prepare_spectra) or a "
        f"TrainingSet, not {_kind(given)}."
    )


def as_labels(given: Any, what: str = "aspcap") -> Labels | None:
    """Labels of stars, those of a `TrainingSet`, or those of a table; None for None.

    A table (of Astropy or pandas) has its stars in APOGEE_ID, SDSS_ID or STAR_ID, in the column
    that its meta data name in ``ID``, or in the named index of a DataFrame; its other columns of
    numbers are labels, their errors in NAME_ERR. Masked values and fill values (see `Labels`) are
    missing ones.

    Parameters
    ----------
    given
        What the user gave.
    what
        Name of the argument, for messages.

    Raises
    ------
    InvalidDataError
        If it is none of these.
    """
    if given is None or isinstance(given, Labels):
        return given
    held = getattr(given, "labels", None)
    if isinstance(held, Labels):
        return held
    table = _as_astropy(given)
    if table is not None:
        return _labels_of_table(table, what)
    raise InvalidDataError(
        f"{what} must be Labels, a TrainingSet, or a table with one of the columns {_IDS}, not "
        f"{_kind(given)}."
    )


def _as_astropy(given: Any) -> Table | None:
    if isinstance(given, Table):
        return given
    if hasattr(given, "columns") and hasattr(given, "to_numpy"):  # a DataFrame
        return _of_frame(given)
    return None


def _of_frame(frame: Any) -> Table:
    """A DataFrame as a table; a named index holds the stars' names."""
    name = index_name(frame)
    table = Table.from_pandas(frame, index=bool(name))
    table.meta.update({k: v for k, v in frame.attrs.items() if k in _META})
    if name:
        table.meta["ID"] = name
    for label, unit in (units_told(frame) or {}).items():
        table[label].unit = unit or None
    return table


def _labels_of_table(table: Table, what: str) -> Labels:
    column = id_column(table.colnames, table.meta)
    if column is None:
        raise InvalidDataError(
            f"the table {what} has no column with the stars' names ({_IDS}; it has "
            f"{', '.join(table.colnames[:8])})."
        )
    own = str(table.meta.get("LABELS", ""))
    names = own.split(",") if own else _label_columns(table, column)
    if not names:
        raise LabelError(f"the table {what} has no column of numbers besides {column}.")
    values = np.stack([plain_numbers(table[n]) for n in names], axis=1)
    unknown = np.full(len(table), np.nan)
    errors = np.stack(
        [
            plain_numbers(table[f"{n}_ERR"]) if f"{n}_ERR" in table.colnames else unknown
            for n in names
        ],
        axis=1,
    )
    units = tuple(str(table[n].unit or "") for n in names)
    ids = star_ids(table)
    errors = np.where(errors > 0, errors, np.nan)
    return Labels(tuple(names), values, errors, ids, units if any(units) else (), id_name=column)


def _label_columns(table: Table, column: str) -> list[str]:
    numbers = [n for n in table.colnames if table[n].dtype.kind in "fiu" and table[n].ndim == 1]
    names = {column, *ID_NAMES}
    return [n for n in numbers if n not in names and not n.endswith("_ERR")]


def as_result(given: Any) -> xr.DataTree:
    """A result of inference with its dims chain, draw and star.

    Of one star or one chain (``result.sel(star=...)``) the dimension is put back; a run stands for
    its posteriors.

    Parameters
    ----------
    given
        What `infer_labels` returned, whole or a part of it, or a run.

    Raises
    ------
    InvalidDataError
        If it is no such result.
    """
    tree = given
    if isinstance(given, str | os.PathLike):
        raise InvalidDataError(f"open the run first: bc.open_run({str(given)!r}).")
    if not isinstance(given, xr.DataTree):
        tree = getattr(given, "result", None)
    if not isinstance(tree, xr.DataTree):
        raise InvalidDataError(
            f"a result of infer_labels or open_run is needed, not {_kind(given)}."
        )
    posterior = group_of(tree, "posterior")
    lacking = [d for d in DIMS if d not in posterior.dims and d in posterior.coords]
    if not lacking:
        return tree
    groups = {str(name): _restored(node.to_dataset()) for name, node in tree.children.items()}
    whole = xr.DataTree.from_dict(groups)
    whole.attrs.update(tree.attrs)
    return whole


def as_draws(given: Any) -> xr.DataTree | None:
    """The draws of a result or a run, see `as_result`; None for a table, which has none.

    Parameters
    ----------
    given
        A result, a run, or a table.

    Raises
    ------
    InvalidDataError
        If a result lacks its posterior.
    """
    is_result = isinstance(getattr(given, "result", given), xr.DataTree)
    return as_result(given) if is_result else None


def _restored(group: xr.Dataset) -> xr.Dataset:
    """Scalar coordinates of a group made dimensions again, in their order."""
    lacking = [d for d in DIMS if d not in group.dims and d in group.coords]
    out = group.expand_dims(lacking)
    return out.transpose(*(d for d in DIMS if d in out.dims), ...)


def as_table(given: Any, *, whole: bool = True) -> Table | None:
    """A catalogue's table if it is one, from `catalogue` or read back, or a run's; else None.

    It must have all columns of its labels if `whole` is true.

    Parameters
    ----------
    given
        What the user gave.
    whole
        Whether all columns of a catalogue are needed.

    Raises
    ------
    InvalidDataError
        If it is a table without the columns of a catalogue.
    """
    of_run = isinstance(getattr(given, "result", None), xr.DataTree)
    table = _as_astropy(getattr(given, "table", None) if of_run else given)
    if table is None or not whole:
        return table
    names = str(table.meta.get("LABELS", "")).split(",")
    if id_column(table.colnames, table.meta) is None or any(n not in table.colnames for n in names):
        raise InvalidDataError(
            "the table is not one that catalogue() made (it lacks the stars' names, its labels, or "
            "the entry LABELS in its meta data); pass the result of inference itself."
        )
    return table


def _kind(given: Any) -> str:
    """What something is, for messages."""
    if isinstance(given, np.ndarray):
        return f"an array of shape {given.shape}"
    if given is None or isinstance(given, str | int | float):
        return repr(given)
    return f"an object of type {type(given).__name__}"
