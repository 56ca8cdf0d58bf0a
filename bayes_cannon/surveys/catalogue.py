"""The catalogue of a survey: a row a star, its labels with their errors, flags and places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from bayes_cannon.base.cards import SIMULATED, Carded, Row, count_text
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.errors import InvalidDataError, LabelError
from bayes_cannon.spectra.label_kinds import label_unit
from bayes_cannon.spectra.labels import DEFAULT_LABELS, Labels
from bayes_cannon.spectra.spectra import index_of
from bayes_cannon.surveys.apogee.names import unique_star_ids

__all__ = [
    "NOT_LABELS",
    "Catalogue",
    "text_column",
    "upper_names",
]

NOT_LABELS = frozenset({"RA", "DEC", "GLON", "GLAT", "J", "H", "K", "SNR", "SNREV", "VHELIO_AVG",
                        "VSCATTER", "VERR"})  # fmt: skip
"""Columns that are no labels though they may have errors."""


@dataclass(frozen=True, eq=False, repr=False)
class Catalogue(Carded):
    """Rows of a survey's catalogue.

    Attributes
    ----------
    table : astropy.table.Table
        Columns in use, in native byte order; a DataFrame becomes one, with its index where that is
        named. Labels, their errors and other numbers are float64 with NaN for what is missing;
        flags are int64, masked where the file has none; text has no blanks around it.
    release : str
        ``'dr17'`` and the like; '' where unknown.
    path : Path
        File that was read.
    simulated : bool
    known_ids : (n_rows,) str, optional
        Names of the stars, where they were settled by a larger catalogue (see `star_id`).
    id_name : str
        Column with the stars' names.
    name : str
        What the catalogue of labels is called where its values stand beside others.

    Raises
    ------
    InvalidDataError
        If the table has no column with names, or the names do not fit it.
    """

    table: Table
    release: str = ""
    path: Path = field(default_factory=Path)
    simulated: bool = False
    known_ids: NDArray[np.str_] | None = None
    id_name: str = "APOGEE_ID"
    name: str = "ASPCAP"

    def __post_init__(self) -> None:
        if isinstance(self.table, pd.DataFrame):
            named = self.table.index.name is not None
            object.__setattr__(self, "table", Table.from_pandas(self.table, index=named))
        if self.id_name not in self.table.colnames:
            raise InvalidDataError(f"a catalogue's table must have a column {self.id_name}.")
        if self.known_ids is not None and np.shape(self.known_ids) != (len(self.table),):
            raise InvalidDataError(
                f"{count_text(np.size(self.known_ids), 'name')} for "
                f"{count_text(len(self.table), 'row')} of a catalogue."
            )

    def __len__(self) -> int:
        return len(self.table)

    def _facts(self) -> tuple[str, list[Row]]:
        mark = SIMULATED if self.simulated else ""
        title = f"Catalogue {self.name} of {count_text(len(self), 'row')}{mark}"
        return title, [
            ("file", str(self.path) if self.path.name else ""),
            ("release", self.release.upper()),
            ("labels", ", ".join(self.available_labels())),
        ]

    @cached_property
    def star_id(self) -> NDArray[np.str_]:
        """Unique name of each row, shape (n_rows,).

        That of the column `id_name`; ``TELESCOPE/FIELD/name`` for a star seen in several places;
        with ``#2`` and so on for repeated rows. A selection keeps the names of the catalogue it
        was made from.
        """
        if self.known_ids is not None:
            return np.asarray(self.known_ids, dtype=np.str_)
        blank = np.full(len(self), "", dtype=np.str_)
        columns = [
            np.asarray(self.table[n]).astype(np.str_) if n in self.table.colnames else blank
            for n in (self.id_name, "TELESCOPE", "FIELD")
        ]
        return unique_star_ids(*columns)

    def available_labels(self) -> tuple[str, ...]:
        """Names of the labels that were read: the columns that have an error beside them."""
        names = self.table.colnames
        return tuple(n for n in names if f"{n}_ERR" in names and n not in NOT_LABELS)

    def labels(self, names: Sequence[str] = DEFAULT_LABELS) -> Labels:
        """Labels of all rows; errors are NaN where the catalogue gives none.

        Parameters
        ----------
        names
            Of the labels.

        Returns
        -------
        Labels

        Raises
        ------
        LabelError
            If a label was not read.
        """
        wanted = upper_names(names)
        self.require(wanted)
        missing = np.full(len(self), np.nan)
        columns = {
            n: self.table[n] if n in self.table.colnames else missing for n in _with_errors(wanted)
        }
        return Labels(
            names=wanted,
            values=np.array([columns[n] for n in wanted], dtype=np.float64).T,
            errors=np.array([columns[f"{n}_ERR"] for n in wanted], dtype=np.float64).T,
            star_id=self.star_id,
            units=tuple(self._unit(n) for n in wanted),
            id_name=self.id_name,
        )

    def _unit(self, name: str) -> str:
        unit = self.table[name].unit
        return label_unit(name) if unit is None else str(unit)

    def require(self, names: Sequence[str]) -> None:
        """Check that labels are among the columns that were read.

        Parameters
        ----------
        names
            Of the labels, in capitals.

        Raises
        ------
        LabelError
            If one of them was not read.
        """
        unknown = [n for n in names if n not in self.table.colnames]
        if unknown:
            raise LabelError(
                f"{', '.join(unknown)}: not read from {self.path}; there are "
                f"{', '.join(self.available_labels())}. Name others in labels= when reading."
            )

    def select(self, rows: ArrayLike) -> Catalogue:
        """Some of the rows, by integer indices, a boolean mask of shape (n_rows,), or names.

        Parameters
        ----------
        rows
            Row numbers, mask or names.

        Returns
        -------
        Catalogue

        Raises
        ------
        InvalidDataError
            If one of them is not there.
        """
        if np.asarray(rows).dtype == bool and np.shape(rows) != (len(self),):
            raise InvalidDataError(f"a mask of rows must have shape ({len(self)},).")
        index = index_of(self.star_id, rows)
        return replace(self, table=self.table[index], known_ids=self.star_id[index])


def text_column(catalogue: Catalogue, name: str) -> NDArray[np.str_]:
    """A column of text without blanks around it, shape (n_rows,); '' where there is none.

    Parameters
    ----------
    catalogue
        Of a survey.
    name
        Of the column.
    """
    if name not in catalogue.table.colnames:
        return np.full(len(catalogue), "", dtype=np.str_)
    return np.char.strip(np.asarray(catalogue.table[name]).astype(np.str_))


def upper_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns in capitals; one may be given as plain text.

    Parameters
    ----------
    names
        Of columns.
    """
    return tuple(name.upper() for name in one_or_more(names))


def _with_errors(labels: Sequence[str]) -> list[str]:
    return [name for label in labels for name in (label, f"{label}_ERR")]
