"""Where the model and the spectra of a run lie, noted in its summary so that a report finds them.

``summary.json`` gets the entry ``inputs``: for ``cannon`` and for ``spectra`` a list of paths, each
as it is seen from the run's folder (so that a folder may be moved as a whole), and as it was in
full. Whether a file found later is still what the run was made with is told by the run's digests,
see `bayes_cannon.run_digest`.

What the command `infer` is given: a dataset, or FITS files and folders of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress
from bayes_cannon.errors import FileFormatError, NoStarsError
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.stored import AnySpectra, is_stored, open_dataset
from bayes_cannon.surveys.apogee.survey import APOGEE
from bayes_cannon.surveys.folders import files_below, is_spectrum
from bayes_cannon.surveys.mwm.layout import split_telescope
from bayes_cannon.surveys.mwm.survey import MWM, SDSS5_APSTAR, reader_of_files
from bayes_cannon.surveys.preparing import prepare_spectra
from bayes_cannon.surveys.readers import SurveyReader
from bayes_cannon.surveys.reading import Treatment

__all__ = [
    "describe_inputs",
    "find_input",
    "paths_of",
    "spectra_files",
    "spectra_to_infer",
]


def describe_inputs(
    folder: str | os.PathLike[str], inputs: Mapping[str, Sequence[str | os.PathLike[str]]]
) -> dict[str, list[dict[str, str]]]:
    """Describe paths as they are kept in a run's summary.

    Parameters
    ----------
    folder
        The run's directory.
    inputs
        Paths by what they are: ``cannon``, ``spectra``.
    """
    base = user_path(folder).resolve()
    described: dict[str, list[dict[str, str]]] = {}
    for name, paths in inputs.items():
        full = [user_path(path).resolve() for path in paths]
        described[name] = [
            {"from_run": os.path.relpath(path, base), "path": str(path)} for path in full
        ]
    return described


def paths_of(
    folder: str | os.PathLike[str], summary: Mapping[str, Any], name: str
) -> list[tuple[Path, ...]]:
    """Places where each of the noted files may be: as seen from the run, and in full.

    Empty where the run does not note any, or what it notes cannot be read.

    Parameters
    ----------
    folder
        The run's directory.
    summary
        What its ``summary.json`` holds.
    name
        ``cannon`` or ``spectra``.
    """
    inputs = summary.get("inputs")
    entries = inputs.get(name) if isinstance(inputs, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        return []
    base = user_path(folder).resolve()
    return [
        (
            Path(os.path.normpath(base / str(entry.get("from_run", "")))),
            Path(str(entry.get("path", ""))),
        )
        for entry in entries
    ]


def find_input(folder: str | os.PathLike[str], summary: Mapping[str, Any], name: str) -> list[Path]:
    """Files and folders that the run notes and that are still there, in order.

    Parameters
    ----------
    folder
        The run's directory.
    summary
        What its ``summary.json`` holds.
    name
        ``cannon`` or ``spectra``.
    """
    found = []
    for places in paths_of(folder, summary, name):
        own = user_path(folder).resolve()
        here = [path for path in places if split_telescope(path)[0].exists() and path != own]
        found += here[:1]
    return found


_log = logging.getLogger(__name__)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


def spectra_to_infer(
    cannon: Cannon,
    inputs: Sequence[Path],
    *,
    visit: int | None = None,
    all_stars: bool = False,
    progress: Progress = None,
) -> tuple[AnySpectra, Labels | None]:
    """Spectra to infer labels of, and the catalogue's labels where they are known.

    Parameters
    ----------
    cannon
        The trained model.
    inputs
        One dataset, of which the stars held out from training are taken, and which stays on disk
        where it is a folder in Zarr's layout; or FITS files, and
        folders searched for apStar and asStar files. A file that cannot be used becomes a star
        without good pixels, and a line in the log; files of one star get different names.
    visit
        Visit to read from FITS files.
    all_stars
        Take all stars of a dataset.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    FileFormatError
        If a dataset is damaged or given together with other inputs, or the model cannot be used
        with FITS files.
    NoStarsError
        If nothing is left to infer: no file can be used, or a dataset has no held-out star.
    """
    inputs = [user_path(path) for path in inputs]
    datasets = [path for path in inputs if _is_dataset(path)]
    if datasets:
        if len(inputs) > 1:
            raise FileFormatError(f"give {datasets[0]} alone: a dataset is inferred by itself.")
        if visit is not None:
            raise FileFormatError(
                f"{datasets[0]} is a dataset, which holds combined spectra; a visit can only be "
                "chosen of FITS files."
            )
        return _of_dataset(cannon, datasets[0], all_stars=all_stars)
    settings = cannon.settings.get("dataset")
    if not settings:
        raise FileFormatError(
            "the trained model does not say how its spectra were prepared, so that FITS files "
            "cannot be treated alike; give a dataset."
        )
    reader = Treatment.from_settings(settings).reader
    paths = spectra_files(inputs, _reader_of_inputs(inputs, reader))
    spectra, problems = prepare_spectra(paths, like=settings, visit=visit, progress=progress)
    return _with_problems(spectra, problems), None


def _reader_of_inputs(inputs: Sequence[Path], reader: SurveyReader) -> SurveyReader:
    """The reader that folders are looked through for: another of APOGEE's where its files are.

    Files of several kinds are refused: one reader would pass over those of the others in silence.
    """
    kinds = (reader, MWM, SDSS5_APSTAR, APOGEE)
    names = [
        parts[-1]
        for folder in inputs
        if folder.is_dir()
        for parts in files_below(folder, lambda name: any(k.is_spectrum(name) for k in kinds))
    ]
    return reader_of_files(reader, names)


def _of_dataset(cannon: Cannon, path: Path, *, all_stars: bool) -> tuple[AnySpectra, Labels]:
    dataset = open_dataset(path)
    if not all_stars:
        dataset = dataset.select(_held_out(cannon, dataset, path))
    return dataset.spectra, dataset.labels


def _is_dataset(path: Path) -> bool:
    if not path.is_file():
        return is_stored(path)
    with path.open("rb") as file:
        return file.read(8) == _HDF5_MAGIC


def _held_out(cannon: Cannon, dataset: TrainingSet, path: Path) -> np.ndarray:
    """All but the training stars: those held out, and those that training was never given."""
    keep = ~np.isin(dataset.star_id, cannon.training.star_id)
    if not keep.any():
        raise NoStarsError(
            f"{path} holds training stars only; use --all-stars to take the training stars."
        )
    return np.asarray(keep)


def spectra_files(inputs: Sequence[Path], reader: SurveyReader | None = None) -> list[Path]:
    """Files to read, links followed; one that is not there is found out later like a broken one.

    Parameters
    ----------
    inputs
        Files, and folders that are searched.
    reader
        Knows the files of its survey by their names; APOGEE's where left out.

    Raises
    ------
    NoStarsError
        If there is none.
    """
    wanted, what = is_spectrum, "apStar or asStar file"
    if reader is not None and reader.name != "apogee":
        wanted, what = reader.is_spectrum, f"spectrum of {reader.name}"
    paths: list[Path] = []
    empty: list[Path] = []
    for given in inputs:
        path = user_path(given)
        found = [path]
        if path.is_dir():
            found = [path.joinpath(*parts) for parts in files_below(path, wanted)]
        paths += found
        if not found:
            empty.append(path)
            _log.warning("there is no %s below %s", what, path)
    if not paths:
        raise NoStarsError(f"there is no {what} below {', '.join(map(str, empty))}.")
    return paths


def _with_problems(
    spectra: NormalizedSpectra, problems: Sequence[StarProblem]
) -> NormalizedSpectra:
    """Add a row without usable pixels for each file that could not be used: it gets its flag."""
    names = set(spectra.star_id.tolist())
    extra: list[str] = []
    for problem in problems:
        said = "" if problem.path in problem.message else f"{problem.path}: "
        _log.warning("%s%s", said, problem.message)
        name = problem.star_id or Path(problem.path).name
        unique, k = name, 1
        while unique in names:
            k += 1
            unique = f"{name}#{k}"
        names.add(unique)
        extra.append(unique)
    if not extra:
        return spectra
    shape = (len(extra), spectra.n_pixels)
    return NormalizedSpectra(
        star_id=np.concatenate([spectra.star_id, np.array(extra, dtype=np.str_)]),
        wavelength=spectra.wavelength,
        flux=np.concatenate([spectra.flux, np.ones(shape, np.float32)]),
        ivar=np.concatenate([spectra.ivar, np.zeros(shape, np.float32)]),
        snr=np.concatenate([spectra.snr, np.full(len(extra), np.nan)]),
        chips=spectra.chips,
        simulated=spectra.simulated,
        medium=spectra.medium,
        id_name=spectra.id_name,
        notes={
            name: np.concatenate([column, np.full(len(extra), "", dtype=np.str_)])
            for name, column in spectra.notes.items()
        },
    )
