"""A survey on disk: a catalogue, and which of its rows belongs to which spectrum file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.cards import SIMULATED, Carded, Row, count_text, range_text
from bayes_cannon.base.columns import names_of, one_or_more, plain_numbers
from bayes_cannon.base.paths import user_path
from bayes_cannon.errors import InvalidDataError, SurveyError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.spectra.own_labels import columns_of, make_labels
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.star_ids import refuse_unnamed
from bayes_cannon.spectra.tables import find_columns
from bayes_cannon.surveys.catalogue import Catalogue
from bayes_cannon.surveys.readers import SurveyReader, checked_reader, reader_named, reader_of

__all__ = [
    "Survey",
    "open_survey",
    "survey_of",
]


def _apogee() -> SurveyReader:
    return reader_named("apogee")


@dataclass(frozen=True, eq=False, repr=False)
class Survey(Carded):
    """A catalogue and the spectra that belong to it.

    Attributes
    ----------
    path : Path
        The survey's directory.
    catalogue : Catalogue
        All rows of all catalogues at the top of the directory.
    files : (n_rows,) str
        Path of each row's spectrum; empty where there is none.
    orphans : tuple of str
        Spectra without a row, relative to `path`.
    problems : tuple of StarProblem
        Rows that cannot be followed, or that repeat another; `StarProblem.row` is None where the
        row was left out of the catalogue.
    reader : SurveyReader
        Reads its spectra.

    Raises
    ------
    SurveyError
        If there is not one file name for each row.
    InvalidDataError
        If a star's name has line breaks or tabs.
    """

    path: Path
    catalogue: Catalogue
    files: NDArray[np.str_]
    orphans: tuple[str, ...] = ()
    problems: tuple[StarProblem, ...] = ()
    reader: SurveyReader = field(default_factory=_apogee)

    def __post_init__(self) -> None:
        if self.files.shape != (len(self.catalogue),):
            raise SurveyError(
                f"{count_text(self.files.size, 'file name')} for "
                f"{count_text(len(self.catalogue), 'row')} of the catalogue."
            )
        refuse_unnamed(self.catalogue.star_id)

    @property
    def missing(self) -> NDArray[np.str_]:
        """Names of the stars whose spectrum is not there, shape (n_missing,)."""
        return np.asarray(self.catalogue.star_id[self.files == ""])

    def __len__(self) -> int:
        return len(self.catalogue)

    def _facts(self) -> tuple[str, list[Row]]:
        catalogue = self.catalogue
        mark = SIMULATED if catalogue.simulated else ""
        missing = int((self.files == "").sum())
        release = f"{catalogue.release.upper()}, " if catalogue.release else ""
        snr = catalogue.table["SNR"] if "SNR" in catalogue.table.colnames else np.nan
        without = f", {count_text(missing, 'row')} without" if missing else ""
        return f"Survey of {count_text(len(self), 'star')}{mark}", [
            ("folder", str(self.path)),
            ("reader", f"{self.reader.name} ({release}labels of {catalogue.name})"),
            ("spectra", f"{len(self) - missing}{without}"),
            ("S/N per pixel", range_text(plain_numbers(snr))),
            ("labels", ", ".join(catalogue.available_labels())),
        ]


def open_survey(
    path: str | os.PathLike[str],
    labels: str | Sequence[str] = DEFAULT_LABELS,
    *,
    reader: str | SurveyReader | type[SurveyReader] | None = None,
) -> Survey:
    """Read a survey's catalogue and find its spectra; the spectra themselves are not read yet.

    Parameters
    ----------
    path
        Directory of a survey: laid out like the SDSS archive, with ``allStar*.fits`` at its top,
        or as another reader knows it (see `bayes_cannon.surveys.readers`). Several allStar files
        are read together; of rows with the same telescope, field and star, the one of the latest
        release stays.
    labels
        Names of label columns that the catalogue must have.
    reader
        A reader, its class or its name; left out, the one that takes the directory.

    Raises
    ------
    InvalidDataError
        If `reader` is none, see `bayes_cannon.surveys.register_reader`.
    SurveyError
        If there is no such directory, no reader that takes it, no catalogue at its top, or no
        spectrum that belongs to it.
    FileFormatError
        If a catalogue is damaged.
    LabelError
        If a catalogue lacks one of the labels.
    """
    names = one_or_more(labels)
    folder = user_path(path)
    if not folder.is_dir():
        raise SurveyError(f"{folder} is not a directory; give the directory that holds a survey.")
    if reader is None:
        reader = reader_of(folder)
    elif isinstance(reader, str):
        reader = reader_named(reader)
    else:
        reader = checked_reader(reader)
    return reader.open(folder, names)


def survey_of(
    reader: SurveyReader,
    folder: Path,
    table: Any,
    labels: Sequence[str],
    files: Sequence[str | os.PathLike[str]],
    *,
    release: str = "",
    simulated: bool = False,
) -> Survey:
    """Put a survey together from its table, as readers do.

    Labels are converted to the units of their kinds, and fill values become NaN (see
    `bayes_cannon.spectra.training_set_from_table`); other columns stay as they are.

    Parameters
    ----------
    reader
        Reads the spectra.
    folder
        Folder of the survey.
    table
        Catalogue of the survey, a row a star, with the column `SurveyReader.id_name`, the labels
        and, where known, their errors in ``NAME_ERR``: an Astropy table, a DataFrame, or columns
        by name.
    labels
        Labels that it must have.
    files : (n_rows,) paths
        Of each row's spectrum, relative to `folder`; '' where there is none.
    release
        Data release, where there are several.
    simulated
        Whether the spectra are simulated.

    Raises
    ------
    LabelError
        If the table lacks a label or the stars' names, or units cannot be converted.
    InvalidDataError
        If there is not one file for each row, or a name is empty or has line breaks or tabs.
    SurveyError
        If none of the files is there.
    """
    names = tuple(name.upper() for name in labels)
    columns = columns_of(table, "the catalogue")
    found = find_columns(columns, (reader.id_name,), names)
    ids = names_of(found.pop(reader.id_name), reader.id_name)
    refuse_unnamed(ids)
    if len(files) != ids.size:
        raise InvalidDataError(
            f"{count_text(len(files), 'file')} for the {count_text(ids.size, 'row')} of the "
            "catalogue."
        )
    known = make_labels(ids, found, None, None, reader.id_name)
    whole = Table({n.upper(): c for n, c in columns.items()})
    whole[reader.id_name] = ids
    for name, unit in zip(known.names, known.units, strict=True):
        whole[name], whole[f"{name}_ERR"] = known[name], known.error(name)
        whole[name].unit = unit
    catalogue = Catalogue(
        whole, release, folder, simulated, id_name=reader.id_name, name=reader.catalogue
    )
    paths = [str(folder / file) if str(file) else "" for file in files]
    there = np.array([p if p and Path(p).is_file() else "" for p in paths], dtype=np.str_)
    if not (there != "").any():
        first = next((p for p in paths if p), "none is named")
        raise SurveyError(f"{folder} has none of the spectra of its catalogue ({first}).")
    problems = tuple(
        StarProblem(str(catalogue.star_id[row]), paths[row], "the file is not there", row)
        for row in np.flatnonzero(there == "").tolist()
        if paths[row]
    )
    return Survey(folder, catalogue, there, (), problems, reader)
