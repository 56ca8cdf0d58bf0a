"""A survey on disk: which catalogue row belongs to which spectrum file.

A survey is a directory laid out like the SDSS archive: ``allStar*.fits`` at its top and
``<telescope>/<field>/{ap,as}Star-*.fits`` below. Files are found by looking through the directory
and rows are matched to what was found; no path is ever made from the text of a catalogue, so a row
cannot lead out of the directory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import MaskedColumn, Table, vstack
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.errors import FileFormatError, SurveyError
from bayes_cannon.spectra.continuum import ContinuumSettings
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.apogee.allstar import read_allstar
from bayes_cannon.surveys.apogee.apstar import read_apstar, read_visits
from bayes_cannon.surveys.apogee.bits import resolve_bits
from bayes_cannon.surveys.apogee.cuts import Cuts
from bayes_cannon.surveys.apogee.layout import ASPCAP_WINDOWS, CHIPS_8575, WAVELENGTH
from bayes_cannon.surveys.apogee.names import (
    TELESCOPES,
    apred_of,
    is_spectrum_file,
    name_from_path,
    read_name,
)
from bayes_cannon.surveys.catalogue import Catalogue, text_column
from bayes_cannon.surveys.folders import files_at_top, files_below, is_spectrum
from bayes_cannon.surveys.readers import StarSpectrum, SurveyReader
from bayes_cannon.surveys.survey import Survey

__all__ = [
    "APOGEE",
    "ApogeeReader",
]


Key = tuple[str, str, str]
_OF_SDSS5 = re.compile(rf"allStar-\d+\.\d+-({'|'.join(TELESCOPES)})\b")


class ApogeeReader(SurveyReader):
    """Reads surveys of apStar and asStar files, DR12 to DR17, with an allStar catalogue."""

    name = "apogee"
    wavelength = WAVELENGTH
    chips = CHIPS_8575
    windows = ASPCAP_WINDOWS
    continuum = ContinuumSettings()
    cuts = Cuts()
    id_name = "APOGEE_ID"
    catalogue = "ASPCAP"
    expected = (FileFormatError,)
    recognised = "allStar*.fits[.gz] of DR12 to DR17 at the top, <telescope>/<field>/apStar-*.fits"

    def sniff(self, folder: Path) -> str:
        """Why a folder is not of APOGEE; '' if it is.

        Parameters
        ----------
        folder
            Of a survey.
        """
        if _catalogues(folder):
            return ""
        return (
            "has no catalogue: put an allStar*.fits file at its top, or make a survey with "
            "'bayes-cannon simulate' or 'bayes-cannon download'."
        )

    def open(self, folder: Path, labels: Sequence[str]) -> Survey:
        """Read all allStar catalogues at the top of a folder, and find the spectra below it.

        Parameters
        ----------
        folder
            Of the survey.
        labels
            Names of labels that the catalogues must have.

        Returns
        -------
        Survey

        Raises
        ------
        SurveyError
            If there is no catalogue, no spectrum, or none that belongs to a row.
        FileFormatError, LabelError
            As `read_allstar`.
        """
        if why := self.sniff(folder):
            raise SurveyError(f"{folder} {why}")
        catalogue, releases, problems = _read_catalogues(_catalogues(folder), labels)
        found = _find_spectra(folder)
        if not found:
            raise SurveyError(
                f"{folder} has no spectra: {folder.name}/<telescope>/<field>/apStar-*.fits is "
                "where they are looked for."
            )
        files, unsafe = _match(catalogue, releases, found)
        if not (files != "").any():
            raise SurveyError(
                f"none of the {count_text(len(found), 'spectrum')} in {folder} "
                f"({name_some(found)}) belongs to one of the {count_text(len(catalogue), 'row')} "
                "of its catalogue; the folders are named after TELESCOPE and FIELD, the files "
                "after APOGEE_ID."
            )
        orphans = tuple(sorted(set(found) - set(files.tolist())))
        paths = np.array(
            [str(folder / name) if name else "" for name in files.tolist()], dtype=np.str_
        )
        return Survey(folder, catalogue, paths, orphans, (*problems, *unsafe), self)

    def read(self, path: Path, *, visit: int | None, bad_bits: int) -> StarSpectrum:
        """Read the combined spectrum of an apStar file, or that of a visit.

        Parameters
        ----------
        path
            Of an apStar or asStar file.
        visit
            Number of a visit, from 1; None: the combination.
        bad_bits
            Mask bits that make a pixel bad.

        Raises
        ------
        FileFormatError, InvalidDataError
            As `read_apstar`.
        """
        return read_apstar(path, visit=visit, bad_bits=bad_bits).star_spectrum

    def visits(self, path: Path) -> tuple[float, ...]:
        """Dates (MJD) of the visits that an apStar file holds, see `read_visits`.

        Parameters
        ----------
        path
            Of an apStar or asStar file.
        """
        return read_visits(path)

    def mask_bits(self, given: str | int) -> int:
        """Bits of a preset's name or a number, see `bayes_cannon.surveys.apogee.bits`.

        Parameters
        ----------
        given
            Name of a preset, or a number.
        """
        return resolve_bits(given)

    def is_spectrum(self, name: str) -> bool:
        """Whether a file's name is that of an apStar or asStar file.

        Parameters
        ----------
        name
            Of a file.
        """
        return is_spectrum(name)

    def name_from_path(self, path: Path) -> str:
        """Name of the star in the name of a file.

        Parameters
        ----------
        path
            Of a file.
        """
        return name_from_path(path)


def _catalogues(folder: Path) -> list[Path]:
    """Catalogues of SDSS-IV at the top of a folder: those of SDSS-V have a telescope's name."""
    return files_at_top(
        folder, lambda name: name.startswith("allStar") and not _OF_SDSS5.match(name)
    )


def _row_keys(catalogue: Catalogue) -> list[Key]:
    columns = [text_column(catalogue, n).tolist() for n in ("TELESCOPE", "FIELD", "APOGEE_ID")]
    return list(zip(*columns, strict=True))


def _read_catalogues(
    paths: Sequence[Path], labels: Sequence[str]
) -> tuple[Catalogue, list[str], list[StarProblem]]:
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
            problems.append(StarProblem(key[2], "", message))
        seen.add(key)
    if keep.all():
        return whole, releases, problems
    return whole.select(keep), [r for r, k in zip(releases, keep, strict=True) if k], problems


def _stack(parts: Sequence[Catalogue]) -> Catalogue:
    """Stack catalogues; a column that one of them lacks is filled with NaN or '', or masked."""
    tables = [c.table.copy(copy_data=False) for c in parts]
    for part, table in zip(parts, tables, strict=True):
        if "RELEASE" not in table.colnames:
            table["RELEASE"] = np.array([part.release] * len(table), dtype=np.str_)
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
) -> tuple[NDArray[np.str_], list[StarProblem]]:
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
            problems.append(StarProblem(str(star_ids[row]), "", message, row))
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


APOGEE = ApogeeReader()
"""The reader of APOGEE's surveys."""
