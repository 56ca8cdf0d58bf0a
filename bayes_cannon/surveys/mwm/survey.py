"""Readers of SDSS-V's surveys: folders of mwmStar files, and of the pipeline's apStar files."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.table import Table

from bayes_cannon.base.cards import count_text
from bayes_cannon.errors import FileFormatError, InvalidDataError, SurveyError
from bayes_cannon.spectra.continuum import ContinuumSettings
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.apogee.apstar import read_visits
from bayes_cannon.surveys.apogee.bits import resolve_bits
from bayes_cannon.surveys.apogee.cuts import Cuts
from bayes_cannon.surveys.apogee.layout import ASPCAP_WINDOWS, CHIPS_8575, WAVELENGTH
from bayes_cannon.surveys.apogee.names import name_from_path
from bayes_cannon.surveys.apogee.survey import APOGEE
from bayes_cannon.surveys.catalogue import Catalogue, text_column
from bayes_cannon.surveys.fits import open_fits
from bayes_cannon.surveys.folders import files_at_top, files_below
from bayes_cannon.surveys.mwm.apstar import is_sdss5_apstar, read_sdss5_apstar
from bayes_cannon.surveys.mwm.catalogue import (
    FLAG_BAD_BITS,
    read_astra_catalogue,
    read_drp_allstar,
)
from bayes_cannon.surveys.mwm.layout import read_mwm_name, split_telescope, with_telescope
from bayes_cannon.surveys.mwm.spectra import (
    REPLACED,
    read_mwm_visits,
    read_mwmstar,
    read_mwmvisit,
    sdss5_bits,
)
from bayes_cannon.surveys.readers import StarSpectrum, SurveyReader
from bayes_cannon.surveys.survey import Survey

__all__ = [
    "MWM",
    "SDSS5_APSTAR",
    "MwmReader",
    "Sdss5ApStarReader",
    "reader_of_files",
]

_log = logging.getLogger(__name__)
_ASTRA = re.compile(r"astraAllStarASPCAP-.*")
_DRP = re.compile(r"allStar-\d+\.\d+-(apo25m|lco25m|apo1m).*")
_WHOLE = 50_000
"""Rows of a catalogue up to which all are kept; of a larger one those of the spectra's stars."""


class _Sdss5Reader(SurveyReader):
    """What the readers of SDSS-V's spectra share: APOGEE's grid, and cuts on astra's flags."""

    wavelength = WAVELENGTH
    chips = CHIPS_8575
    windows = ASPCAP_WINDOWS
    continuum = ContinuumSettings()
    cuts = Cuts(aspcap_bad=(), result_bad=FLAG_BAD_BITS)
    id_name = "SDSS_ID"
    catalogue = "ASPCAP DR19"
    expected = (FileFormatError,)

    def mask_bits(self, given: str | int) -> int:
        """Bits of a preset's name or a number, and those of pixels that the pipeline made up.

        Parameters
        ----------
        given
            Name of a preset, or a number, see `bayes_cannon.surveys.apogee.bits`.
        """
        bits = sdss5_bits(given)
        if bits != resolve_bits(given):
            _log.info(
                "pixels of bits %d are left out too: SDSS-V's pipeline replaces their flux and "
                "error", REPLACED & ~resolve_bits(given),
            )  # fmt: skip
        return bits


class MwmReader(_Sdss5Reader):
    """Reads surveys of mwmStar files with astra's catalogue of ASPCAP labels, DR19 and DR20."""

    name = "mwm"
    recognised = "astraAllStarASPCAP-*.fits[.gz] at the top, mwmStar-*.fits[.gz] anywhere below"

    def sniff(self, folder: Path) -> str:
        """Why a folder is no survey of mwmStar files; '' if it is.

        Parameters
        ----------
        folder
            That may be one.
        """
        if not files_at_top(folder, _ASTRA.fullmatch):
            return "has no catalogue astraAllStarASPCAP-*.fits[.gz] at its top."
        if not _any_below(folder, _is_mwmstar):
            return "has no mwmStar-*.fits files."
        return ""

    def open(self, folder: Path, labels: Sequence[str]) -> Survey:
        """Read astra's catalogue, and find the mwmStar files below a folder.

        Parameters
        ----------
        folder
            Of the survey.
        labels
            Names of labels that the catalogue must have.

        Raises
        ------
        SurveyError
            If there is no catalogue, or several, no spectrum, or none that belongs to a row.
        FileFormatError, LabelError
            As `read_astra_catalogue`.
        """
        if why := self.sniff(folder):
            raise SurveyError(f"{folder} {why}")
        found = _by_star(folder)
        catalogue = _catalogue(
            _only(folder, _ASTRA), lambda path, ids: read_astra_catalogue(
                path, labels, sdss_ids=ids
            ), found,
        )  # fmt: skip
        ids = np.asarray(catalogue.table["SDSS_ID"]).tolist()
        telescopes = np.asarray(catalogue.table["TELESCOPE"]).tolist()
        files = [
            with_telescope(str(folder / found[s]), t) if s in found else ""
            for s, t in zip(ids, telescopes, strict=True)
        ]
        orphans = tuple(sorted(set(found.values()) - {found[s] for s in ids if s in found}))
        return _survey(self, folder, catalogue, files, orphans)

    def read(self, path: Path, *, visit: int | None, bad_bits: int) -> StarSpectrum:
        """Read a star's spectrum from an mwmStar file, or that of a visit from mwmVisit.

        Parameters
        ----------
        path
            Of the file; ``FILE[lco25m]`` names the telescope.
        visit
            Number of a visit, from 1; None: the combination.
        bad_bits
            Mask bits that make a pixel bad.

        Raises
        ------
        FileFormatError, InvalidDataError
            As `read_mwmstar` and `read_mwmvisit`.
        """
        if visit is None:
            return read_mwmstar(path, bad_bits=bad_bits).star_spectrum
        return read_mwmvisit(path, visit, bad_bits=bad_bits).star_spectrum

    def visits(self, path: Path) -> tuple[float, ...]:
        """Dates (MJD) of the visits in the mwmVisit file of a star.

        Parameters
        ----------
        path
            Of the mwmStar file.

        Raises
        ------
        FileFormatError
            As `read_mwm_visits`.
        """
        return read_mwm_visits(path)

    def is_spectrum(self, name: str) -> bool:
        """Whether a file's name is that of an mwmStar file.

        Parameters
        ----------
        name
            Of a file.
        """
        return _is_mwmstar(split_telescope(Path(name))[0].name)

    def name_from_path(self, path: Path) -> str:
        """SDSS_ID in the name of a file.

        Parameters
        ----------
        path
            Of a file.
        """
        found = read_mwm_name(split_telescope(path)[0].name)
        return found.sdss_id if found else super().name_from_path(path)


class Sdss5ApStarReader(_Sdss5Reader):
    """Reads surveys of SDSS-V's apStar files with the pipeline's allStar list.

    Labels come from astra's catalogue where it lies beside that; else there are those of the
    radial velocity's template alone.
    """

    name = "sdss5-apstar"
    recognised = (
        "allStar-<apred>-<telescope>.fits at the top (labels: astraAllStarASPCAP-*.fits[.gz] "
        "beside it), apStar-<apred>-<telescope>-*.fits anywhere below"
    )

    def sniff(self, folder: Path) -> str:
        """Why a folder is no survey of SDSS-V's apStar files; '' if it is.

        Parameters
        ----------
        folder
            That may be one.
        """
        if not files_at_top(folder, _DRP.fullmatch):
            return "has no list of stars allStar-<apred>-<telescope>.fits of SDSS-V at its top."
        if not _any_below(folder, is_sdss5_apstar):
            return "has no files apStar-<apred>-<telescope>-*.fits."
        return ""

    def open(self, folder: Path, labels: Sequence[str]) -> Survey:
        """Read the lists of stars and astra's labels, and find the spectra that they name.

        Files are those of the columns ``file`` and ``uri``: their names are never made up.

        Parameters
        ----------
        folder
            Of the survey.
        labels
            Names of labels that astra's catalogue, where there is one, or the list must have.

        Raises
        ------
        SurveyError
            If there is no list of stars, or several, no spectrum, or none that belongs to a row.
        FileFormatError, LabelError
            As `read_drp_allstar` and `read_astra_catalogue`.
        """
        if why := self.sniff(folder):
            raise SurveyError(f"{folder} {why}")
        found = {p[-1]: "/".join(p) for p in files_below(folder, is_sdss5_apstar)}
        astra = files_at_top(folder, _ASTRA.fullmatch)
        path = _only(folder, _DRP)
        catalogue = read_drp_allstar(path, () if astra else labels)
        if astra:
            ids = set(np.asarray(catalogue.table["SDSS_ID"]).tolist())
            labelled = read_astra_catalogue(_only(folder, _ASTRA), labels, sdss_ids=ids)
            catalogue = _joined(catalogue, labelled)
        names = _file_names(catalogue)
        files = [str(folder / found[n]) if n in found else "" for n in names]
        orphans = tuple(sorted(set(found.values()) - {found[n] for n in names if n in found}))
        return _survey(self, folder, catalogue, files, orphans)

    def read(self, path: Path, *, visit: int | None, bad_bits: int) -> StarSpectrum:
        """Read the combined spectrum of an apStar file, or that of a visit.

        Parameters
        ----------
        path
            Of the file.
        visit
            Number of a visit, from 1; None: the combination.
        bad_bits
            Mask bits that make a pixel bad.

        Raises
        ------
        FileFormatError, InvalidDataError
            As `read_sdss5_apstar`.
        """
        return read_sdss5_apstar(path, visit=visit, bad_bits=bad_bits).star_spectrum

    def visits(self, path: Path) -> tuple[float, ...]:
        """Dates (MJD) of the visits that an apStar file holds.

        Parameters
        ----------
        path
            Of the file.

        Raises
        ------
        FileFormatError
            As `read_visits`.
        """
        return read_visits(path)

    def is_spectrum(self, name: str) -> bool:
        """Whether a file's name is that of an apStar file of SDSS-V.

        Parameters
        ----------
        name
            Of a file.
        """
        return is_sdss5_apstar(name)

    def name_from_path(self, path: Path) -> str:
        """APOGEE_ID in the name of a file.

        Parameters
        ----------
        path
            Of a file.
        """
        return re.sub(r"-\d{5}$", "", name_from_path(path))


def reader_of_files(reader: SurveyReader, names: Sequence[str]) -> SurveyReader:
    """The reader of APOGEE's that all files are of, by their names; else the one given.

    A model that was trained on DR17's apStar files is so used on mwmStar files, and the other way
    round. Readers of other surveys stay.

    Parameters
    ----------
    reader
        Of the training set.
    names
        Of the files, without folders.

    Raises
    ------
    InvalidDataError
        If the files are of several kinds.
    """
    family = (MWM, SDSS5_APSTAR, APOGEE)
    if reader not in family or not names:
        return reader
    kinds = {next((r.name for r in family if r.is_spectrum(name)), "") for name in names} - {""}
    if len(kinds) > 1:
        raise InvalidDataError(
            f"the files are of several kinds ({', '.join(sorted(kinds))}), whose stars have "
            "different names; give one kind at a time."
        )
    return next((r for r in family if kinds == {r.name}), reader)


def _is_mwmstar(name: str) -> bool:
    found = read_mwm_name(name)
    return found is not None and found.kind == "Star"


def _only(folder: Path, pattern: re.Pattern[str]) -> Path:
    paths = files_at_top(folder, pattern.fullmatch)
    if len(paths) > 1:
        raise SurveyError(
            f"{folder} has several catalogues ({name_some([p.name for p in paths])}), whose labels "
            "are not mixed; leave one."
        )
    return paths[0]


def _any_below(folder: Path, wanted: Callable[[str], bool]) -> bool:
    return next(files_below(folder, wanted), None) is not None


def _by_star(folder: Path) -> dict[str, str]:
    """The mwmStar file of each star, relative to the folder; of several versions the last."""
    found: dict[str, tuple[str, str]] = {}
    for parts in files_below(folder, _is_mwmstar):
        name = read_mwm_name(parts[-1])
        if name is not None:
            one = (name.v_astra, "/".join(parts))
            found[name.sdss_id] = max(found.get(name.sdss_id, one), one)
    return {star: path for star, (_, path) in found.items()}


def _catalogue(
    path: Path,
    read: Callable[[Path, Collection[str] | None], Catalogue],
    found: Mapping[str, str],
) -> Catalogue:
    """All rows of a catalogue; of a large one those of stars whose spectra are here."""
    with open_fits(path) as file:
        rows = max(
            (int(hdu.header.get("NAXIS2", 0)) for hdu in file.hdus[1:3] if hasattr(hdu, "columns")),
            default=0,
        )
    if rows <= _WHOLE:
        return read(path, None)
    _log.info(
        "%s has %d rows, of which those of the %d stars with spectra here are read",
        path, rows, len(found),
    )  # fmt: skip
    return read(path, found.keys())


def _joined(stars: Catalogue, labelled: Catalogue) -> Catalogue:
    """The pipeline's rows with astra's labels of the same star, telescope and reduction."""
    keys = ("SDSS_ID", "TELESCOPE", "REDUCTION")
    theirs = {key: row for row, key in enumerate(_keys(labelled, keys))}
    rows = np.array([theirs.get(key, -1) for key in _keys(stars, keys)])
    table = Table(stars.table, copy=False)
    for name in labelled.table.colnames:
        if name in table.colnames:
            continue
        column = labelled.table[name]
        values = np.asarray(column)[rows]
        fill = np.nan if values.dtype.kind == "f" else "" if values.dtype.kind == "U" else 0
        table[name] = np.where(rows >= 0, values, np.array(fill, values.dtype))
        table[name].unit, table[name].description = column.unit, column.description
    table.meta.update(labelled.table.meta)
    return replace(stars, table=table, name=labelled.name, release=labelled.release)


def _keys(catalogue: Catalogue, names: Sequence[str]) -> list[tuple[str, ...]]:
    columns = [np.asarray(catalogue.table[n]).astype(np.str_).tolist() for n in names]
    return list(zip(*columns, strict=True))


def _file_names(catalogue: Catalogue) -> list[str]:
    """Name of each row's file: of the column FILE, else the last part of URI."""
    columns = (text_column(catalogue, name).tolist() for name in ("FILE", "URI"))
    return [(f or u).rsplit("/", 1)[-1] for f, u in zip(*columns, strict=True)]


def _survey(
    reader: SurveyReader,
    folder: Path,
    catalogue: Catalogue,
    files: Sequence[str],
    orphans: tuple[str, ...],
) -> Survey:
    if not any(files):
        raise SurveyError(
            f"none of the spectra in {folder} ({name_some(orphans)}) belongs to one of the "
            f"{count_text(len(catalogue), 'row')} of its catalogue {catalogue.path.name}."
        )
    return Survey(folder, catalogue, np.array(files, dtype=np.str_), orphans, (), reader)


MWM = MwmReader()
"""The reader of mwmStar files."""
SDSS5_APSTAR = Sdss5ApStarReader()
"""The reader of SDSS-V's apStar files."""
