"""A survey on disk: which catalogue row belongs to which spectrum file.

A survey is a directory laid out like the SDSS archive: ``allStar*.fits`` at its top and
``<telescope>/<field>/{ap,as}Star-*.fits`` below. Files are found by looking through the directory
and rows are matched to what was found; no path is ever made from the text of a catalogue, so a row
cannot lead out of the directory.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import MaskedColumn, Table, vstack
from numpy.typing import NDArray

from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.paths import is_fits_name, user_path
from bayes_cannon.errors import SurveyError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.apogee.allstar import Catalogue, read_allstar
from bayes_cannon.surveys.apogee.names import apred_of, is_spectrum_file, read_name
from bayes_cannon.surveys.folders import files_below

__all__ = [
    "RowProblem",
    "Survey",
    "open_survey",
]


Key = tuple[str, str, str]


@dataclass(frozen=True)
class RowProblem:
    """A catalogue row that is not used, and why.

    Attributes
    ----------
    star_id : str
        Name of the star as in the catalogue.
    message : str
    row : int or None
        Its number in the survey's catalogue; None where the row was left out of it.
    """

    star_id: str
    message: str
    row: int | None = None


@dataclass(frozen=True, eq=False)
class Survey:
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
    problems : tuple of RowProblem
        Rows that cannot be followed, or that repeat another.
    """

    path: Path
    catalogue: Catalogue
    files: NDArray[np.str_]
    orphans: tuple[str, ...] = ()
    problems: tuple[RowProblem, ...] = ()

    def __post_init__(self) -> None:
        if self.files.shape != (len(self.catalogue),):
            raise SurveyError(
                f"{self.files.size} file names for {len(self.catalogue)} rows of the catalogue."
            )

    @property
    def missing(self) -> NDArray[np.str_]:
        """Names of the stars whose spectrum is not there."""
        return np.asarray(self.catalogue.star_id[self.files == ""])

    def __len__(self) -> int:
        return len(self.catalogue)


def open_survey(
    path: str | os.PathLike[str], labels: str | Sequence[str] = DEFAULT_LABELS
) -> Survey:
    """Read a survey's catalogue and find its spectra; the spectra themselves are not read yet.

    Parameters
    ----------
    path
        Directory with ``allStar*.fits`` at its top. Several are read together; of rows with the
        same telescope, field and star, the one of the latest release stays.
    labels
        Names of label columns that the catalogue must have.

    Raises
    ------
    SurveyError
        If there is no such directory, no catalogue at its top, or no spectrum that belongs to it.
    FileFormatError
        If a catalogue is damaged.
    LabelError
        If a catalogue lacks one of the labels.
    """
    labels = one_or_more(labels)
    folder = user_path(path)
    if not folder.is_dir():
        raise SurveyError(f"{folder} is not a directory; give the directory that holds a survey.")
    tables = sorted(p for p in folder.glob("allStar*") if _is_catalogue(p))
    if not tables:
        raise SurveyError(
            f"{folder} has no catalogue: put an allStar*.fits file at its top, "
            "or make a survey with 'bayes-cannon simulate' or 'bayes-cannon download'."
        )
    catalogue, releases, problems = _read_catalogues(tables, labels)
    found = _find_spectra(folder)
    if not found:
        raise SurveyError(
            f"{folder} has no spectra: {folder.name}/<telescope>/<field>/apStar-*.fits is where "
            "they are looked for."
        )
    files, unsafe = _match(catalogue, releases, found)
    if not (files != "").any():
        raise SurveyError(
            f"none of the {len(found)} spectra in {folder} ({name_some(found)}) belongs to one of "
            f"the {len(catalogue)} rows of its catalogue; the folders are named after TELESCOPE "
            "and FIELD, the files after APOGEE_ID."
        )
    orphans = tuple(sorted(set(found) - set(files.tolist())))
    paths = np.array([str(folder / name) if name else "" for name in files.tolist()], dtype=np.str_)
    return Survey(folder, catalogue, paths, orphans, (*problems, *unsafe))


def _is_catalogue(path: Path) -> bool:
    return path.is_file() and is_fits_name(path.name)


def _column(catalogue: Catalogue, name: str) -> NDArray[np.str_]:
    """Text column, stripped; empty strings where the catalogue does not have it."""
    if name not in catalogue.table.colnames:
        return np.full(len(catalogue), "", dtype=np.str_)
    return np.char.strip(np.asarray(catalogue.table[name]).astype(np.str_))


def _row_keys(catalogue: Catalogue) -> list[Key]:
    columns = [_column(catalogue, n).tolist() for n in ("TELESCOPE", "FIELD", "APOGEE_ID")]
    return list(zip(*columns, strict=True))


def _read_catalogues(
    paths: Sequence[Path], labels: Sequence[str]
) -> tuple[Catalogue, list[str], list[RowProblem]]:
    """Read all catalogues into one, latest release first; also the release of each row."""
    parts = [read_allstar(p, labels=labels) for p in paths]
    parts.sort(key=lambda c: c.release, reverse=True)
    releases = [c.release for c in parts for _ in range(len(c))]
    whole = parts[0] if len(parts) == 1 else _stack(parts)
    seen: set[Key] = set()
    problems, keep = [], np.ones(len(whole), dtype=np.bool_)
    for row, key in enumerate(_row_keys(whole)):
        if key in seen:
            keep[row] = False
            message = f"another row of {'/'.join(key)} is used instead"
            problems.append(RowProblem(key[2], message))
        seen.add(key)
    if keep.all():
        return whole, releases, problems
    return whole.select(keep), [r for r, k in zip(releases, keep, strict=True) if k], problems


def _stack(parts: Sequence[Catalogue]) -> Catalogue:
    """Stack catalogues; a column that one of them lacks is filled with NaN or '', or masked."""
    tables = [c.table.copy(copy_data=False) for c in parts]
    for part, table in zip(parts, tables, strict=True):
        if "RELEASE" not in table.colnames:
            table["RELEASE"] = np.full(len(table), part.release, dtype=np.str_)
    stacked = vstack(tables, join_type="outer", metadata_conflicts="silent")
    table = Table({name: _filled(stacked[name]) for name in stacked.colnames})
    release = "+".join(dict.fromkeys(c.release for c in parts))
    return Catalogue(
        table=table,
        release=release,
        path=parts[0].path,
        simulated=any(c.simulated for c in parts),
    )


def _filled(column: Any) -> Any:
    """A column without its mask; whole numbers stay masked, and are 0 there."""
    if not hasattr(column, "filled"):
        return column
    kind = column.dtype.kind
    plain = column.filled({"f": np.nan, "U": "", "S": b"", "b": False}.get(kind, 0))
    if kind in "iu" and np.any(column.mask):
        return MaskedColumn(plain, mask=column.mask)
    return plain


def _find_spectra(folder: Path) -> list[str]:
    """All spectra in a survey, relative to it, those in other places than expected too."""
    return ["/".join(parts) for parts in files_below(folder, is_spectrum_file, depth=2)]


def _match(
    catalogue: Catalogue, releases: Sequence[str], found: Sequence[str]
) -> tuple[NDArray[np.str_], list[RowProblem]]:
    """Find each row's file among those in the survey (relative path, or '')."""
    by_key: dict[Key, list[str]] = defaultdict(list)
    for name in found:
        parts = name.split("/")
        read = read_name(parts[-1])
        if read and len(parts) == 3:
            by_key[parts[0], parts[1], read.star_id].append(name)
    by_star: dict[str, list[Key]] = defaultdict(list)
    for key in by_key:
        by_star[key[2]].append(key)
    files, problems = [], []
    star_ids = catalogue.star_id
    for row, key in enumerate(_row_keys(catalogue)):
        if unsafe := [part for part in key if _is_unsafe(part)]:
            message = f"{unsafe[0]!r} is not the name of a folder or a star; the row is left out"
            problems.append(RowProblem(str(star_ids[row]), message, row))
            files.append("")
            continue
        places = [key] if key in by_key else _places_of_incomplete(key, by_star)
        files.append(_of_release(by_key[places[0]], releases[row]) if len(places) == 1 else "")
    return np.array(files, dtype=np.str_), problems


def _is_unsafe(part: str) -> bool:
    return ".." in part or part == "." or any(c in part for c in "/\\\0")


def _places_of_incomplete(key: Key, by_star: dict[str, list[Key]]) -> list[Key]:
    """Places of a star whose row, in a hand-made catalogue, leaves TELESCOPE or FIELD empty."""
    if key[0] and key[1]:
        return []
    return [p for p in by_star.get(key[2], []) if key[0] in ("", p[0]) and key[1] in ("", p[1])]


def _of_release(names: Sequence[str], release: str) -> str:
    """The file of a row's own release where there are several, else the last by name."""
    apred = f"-{apred_of(release)}-"
    own = [n for n in names if apred in n.rsplit("/", 1)[-1]]
    return sorted(own or names)[-1]
