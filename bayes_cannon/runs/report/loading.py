"""Finding what a report needs: files given, else those that the run notes, checked by digest."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bayes_cannon.analysis.repeated.comparison import Repeats
from bayes_cannon.base.paths import has_ending, user_path
from bayes_cannon.errors import BayesCannonError, BayesCannonWarning, FileFormatError
from bayes_cannon.inference.tables import star_ids
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.runs.fingerprint import digest_of_model, digest_of_spectra
from bayes_cannon.runs.inputs import find_input, paths_of, spectra_files, spectra_to_infer
from bayes_cannon.runs.repeated import open_repeats
from bayes_cannon.runs.report.inputs import ReportInputs
from bayes_cannon.runs.results import Run, folder_of, noted_digest, open_run
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.stored import is_stored
from bayes_cannon.surveys.apogee.apstar import read_apstar
from bayes_cannon.surveys.apogee.names import is_spectrum_file, name_from_path, unique_star_ids
from bayes_cannon.surveys.apogee.survey import APOGEE
from bayes_cannon.surveys.mwm.layout import split_telescope
from bayes_cannon.surveys.mwm.survey import reader_of_files
from bayes_cannon.surveys.readers import SurveyReader
from bayes_cannon.surveys.simulation.catalogue import read_truth
from bayes_cannon.surveys.survey import open_survey

__all__ = [
    "PathLike",
    "load_inputs",
]


PathLike = str | os.PathLike[str]
_MOST_FILES = 50
"""FITS files that are opened to find out which star each is of."""


@dataclass
class _Found:
    """What was found so far of a run."""

    folder: Path
    summary: Mapping[str, Any]
    star_id: Sequence[str]
    missing: dict[str, str]
    notes: list[str]

    def is_of_run(self, name: str, digest: str, what: str, *, given: bool) -> bool:
        """Whether a model or spectra may be used: a file given is, with a note if it differs."""
        noted = noted_digest(self.folder, name)
        if noted is None or noted == digest:
            return True
        if given:
            self.notes.append(f"{what} is not what this run was made with; figures may not fit.")
            warnings.warn(self.notes[-1], BayesCannonWarning, stacklevel=4)
        return given


def load_inputs(
    run: Run | PathLike,
    *,
    cannon: Cannon | PathLike | None = None,
    dataset: TrainingSet | PathLike | None = None,
    survey: PathLike | None = None,
    truth: Labels | PathLike | None = None,
    mystery: Run | PathLike | None = None,
    repeats: PathLike | None = None,
) -> ReportInputs:
    """Open a run and find what belongs to it.

    Parameters
    ----------
    run
        A run, or its directory.
    cannon
        The trained model; left out, the file that the run notes.
    dataset
        The dataset of the run's stars; left out, the file that the run notes.
    survey
        Folder with the raw spectra; left out, a folder beside the dataset that is named as the
        dataset says.
    truth
        True labels, or a file of them, of simulated stars.
    mystery
        A run of stars without catalogue labels, shown beside this one.
    repeats
        Folder of repeated visits, see `bayes_cannon.runs.run_repeats`.

    Raises
    ------
    FileFormatError
        If the run, or a file that was given, is missing or damaged.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    folder, result, table, summary = folder_of(run), opened.result, opened.table, opened.summary
    star_id = star_ids(table).tolist()
    found = _Found(folder, summary, star_id, {}, [])
    model = _find_cannon(found, cannon)
    stars, spectra, source = _find_spectra(found, dataset, model)
    place = _find_survey(found, stars, source, survey)
    files = _find_files(found, stars, source, place)
    true = truth if truth is None or isinstance(truth, Labels) else read_truth(truth)
    other = None if mystery is None else load_inputs(mystery, cannon=model)
    visits = None if repeats is None else _repeats(found, user_path(repeats))
    inputs = ReportInputs(
        folder, result, table, summary, cannon=model, dataset=stars, spectra=spectra, files=files,
        survey=place, truth=true, mystery=other, repeats=visits, missing=found.missing,
        notes=tuple(found.notes),
    )  # fmt: skip
    if other is None and inputs.unlabelled.any():
        return replace(inputs, mystery=_unlabelled(inputs))
    return inputs


def _repeats(found: _Found, folder: Path) -> Repeats:
    """Repeats of a folder, with a note if they are of another model."""
    noted = noted_digest(folder / "run", "model")
    if noted is not None:
        found.is_of_run("model", noted, f"the model of the repeats in {folder.name}", given=True)
    return open_repeats(folder)


def _unlabelled(inputs: ReportInputs) -> ReportInputs:
    """The part of a run whose stars have no catalogue labels."""
    rows = np.flatnonzero(inputs.unlabelled)
    return replace(inputs, result=inputs.result.isel(star=rows), table=inputs.table[rows])


def _find_cannon(found: _Found, given: Cannon | PathLike | None) -> Cannon | None:
    if isinstance(given, Cannon):
        found.is_of_run("model", digest_of_model(given), "the model that was given", given=True)
        return given
    path = user_path(given) if given is not None else next(iter(_noted(found, "cannon")), None)
    if path is None:
        found.missing["cannon"] = _absent(found, "cannon", "the trained model", "--cannon FILE")
        return None
    try:
        cannon = Cannon.load(path)
    except FileFormatError as error:
        if given is not None:
            raise
        found.missing["cannon"] = str(error)
        return None
    what = f"the model {path.name}"
    if not found.is_of_run("model", digest_of_model(cannon), what, given=given is not None):
        found.missing["cannon"] = (
            f"{what} was changed since the run was made; give the right one with --cannon FILE."
        )
        return None
    return cannon


def _noted(found: _Found, name: str) -> list[Path]:
    return find_input(found.folder, found.summary, name)


def _absent(found: _Found, name: str, what: str, option: str) -> str:
    noted = [places[0].name for places in paths_of(found.folder, found.summary, name)]
    why = f"its {', '.join(noted[:3])} is not there any more" if noted else "it does not say where"
    return f"needs {what} of the run, and {why}; give it with {option}."


def _find_spectra(
    found: _Found, given: TrainingSet | PathLike | None, cannon: Cannon | None
) -> tuple[TrainingSet | None, NormalizedSpectra | None, list[Path]]:
    """Dataset, spectra of the run's stars, and the paths that they came from."""
    if given is not None:
        dataset = given.in_memory() if isinstance(given, TrainingSet) else TrainingSet.load(given)
        source = [] if isinstance(given, TrainingSet) else [user_path(given)]
        spectra = _of_stars(found, dataset.spectra)
        what = "the dataset that was given"
        if spectra is None or spectra.n_stars < len(found.star_id):
            found.notes.append(f"{what} lacks stars of this run; figures show those that it has.")
        else:
            found.is_of_run("spectra", digest_of_spectra(spectra), what, given=True)
        return dataset, spectra, source
    paths = _noted(found, "spectra")
    absent = _absent(found, "spectra", "the dataset", "--dataset FILE")
    found.missing["dataset"] = found.missing["spectra"] = absent
    if len(paths) == 1 and _may_be_dataset(paths[0]):
        return _noted_dataset(found, paths[0])
    if not paths or cannon is None:
        return None, None, paths
    found.missing["dataset"] = "the stars of this run came from FITS files, not from a dataset."
    try:
        spectra = spectra_to_infer(cannon, paths)[0].in_memory()
    except BayesCannonError as error:
        found.missing["spectra"] = str(error)
        return None, None, paths
    return None, _checked(found, spectra, "the FITS files of the run"), paths


def _may_be_dataset(path: Path) -> bool:
    return is_stored(path) or (path.is_file() and not has_ending(path, ".fits", ".gz"))


def _noted_dataset(
    found: _Found, path: Path
) -> tuple[TrainingSet | None, NormalizedSpectra | None, list[Path]]:
    try:
        dataset = TrainingSet.load(path)
    except FileFormatError as error:
        found.missing["dataset"] = found.missing["spectra"] = str(error)
        return None, None, []
    spectra = _checked(found, _of_stars(found, dataset.spectra), f"the dataset {path.name}")
    if spectra is None:
        found.missing["dataset"] = found.missing["spectra"]
        return None, None, []
    del found.missing["dataset"]
    return dataset, spectra, [path]


def _of_stars(found: _Found, spectra: NormalizedSpectra) -> NormalizedSpectra | None:
    """Spectra of the run's stars, in the run's order; None where there are none."""
    known = set(spectra.star_id.tolist())
    stars = [star for star in found.star_id if star in known]
    return spectra.select(stars) if stars else None


def _checked(
    found: _Found, spectra: NormalizedSpectra | None, what: str
) -> NormalizedSpectra | None:
    if spectra is not None and found.is_of_run(
        "spectra", digest_of_spectra(spectra), what, given=False
    ):
        del found.missing["spectra"]
        return spectra
    found.missing["spectra"] = (
        f"{what} changed since the run was made; give the right one with --dataset FILE."
    )
    return None


def _find_survey(
    found: _Found, dataset: TrainingSet | None, source: Sequence[Path], given: PathLike | None
) -> Path | None:
    """Folder of the survey: the one given, else one beside the dataset named as that says."""
    named = "" if dataset is None else str(dataset.settings.get("survey", ""))
    guess = source[0].parent / named if source and named and Path(named).name == named else None
    folder = guess if given is None else user_path(given)
    if folder is not None and folder.is_dir():
        return folder
    if given is not None:
        raise FileFormatError(f"{given} is not a folder; give that of the survey.")
    found.missing["survey"] = (
        _without_survey(found, dataset)
        or "needs the folder of the survey; give it with --survey FOLDER."
    )
    return None


def _find_files(
    found: _Found, dataset: TrainingSet | None, source: Sequence[Path], survey: Path | None
) -> dict[str, Path] | None:
    """FITS files of raw spectra by star."""
    if dataset is not None and survey is not None:
        reader = str(dataset.settings.get("reader", APOGEE.name))
        if reader == APOGEE.name:
            return _files_of_survey(survey, dataset)
        return _files_of_reader(found, survey, dataset, reader)
    there = spectra_files(source) if source and dataset is None else []
    paths = [path for path in there if split_telescope(path)[0].is_file()]
    if dataset is None and 0 < len(paths) <= _MOST_FILES:
        return _files_by_name(found, paths)
    found.missing["files"] = (
        _without_survey(found, dataset)
        or "needs the raw spectra, which a dataset does not hold; give the folder of the survey "
        "with --survey FOLDER."
    )
    return None


def _without_survey(found: _Found, dataset: TrainingSet | None) -> str:
    """Say of spectra that are of no survey, or in no file, what there is of them; else ''."""
    if dataset is not None:
        own = dataset.settings.get("source") == "own spectra"
        return "cannot be shown: the spectra are a user's own, not of a survey." if own else ""
    if paths_of(found.folder, found.summary, "spectra"):
        return ""
    return (
        "cannot be shown: the spectra were given as arrays, not as files; where they are of a "
        "survey, give --dataset FILE and --survey FOLDER."
    )


def _files_by_name(found: _Found, paths: Sequence[Path]) -> dict[str, Path]:
    kind = reader_of_files(APOGEE, [path.name for path in paths])
    if kind is not APOGEE:
        return _files_of_sdss5(found, paths, kind)
    facts, read = [], []
    for path in paths:
        try:
            facts.append(read_apstar(path).facts)
        except BayesCannonError:
            continue
        read.append(path)
    names = unique_star_ids(
        [f.star_id for f in facts], [f.telescope for f in facts], [f.field for f in facts]
    )
    known = set(found.star_id)
    return {n: p for n, p in zip(names.tolist(), read, strict=True) if n in known}


def _files_of_sdss5(found: _Found, paths: Sequence[Path], reader: SurveyReader) -> dict[str, Path]:
    """FITS files of SDSS-V by star."""
    stars, read = [], []
    for path in paths:
        try:
            stars.append(reader.read(path, visit=None, bad_bits=0))
        except BayesCannonError:
            continue
        read.append(path)
    names = unique_star_ids([s.star_id for s in stars], [s.place for s in stars], [""] * len(stars))
    known = set(found.star_id)
    return {n: p for n, p in zip(names.tolist(), read, strict=True) if n in known}


def _files_of_reader(
    found: _Found, folder: Path, dataset: TrainingSet, reader: str
) -> dict[str, Path] | None:
    """Spectra of the dataset's stars as the reader of their survey finds them."""
    try:
        survey = open_survey(folder, dataset.labels.names, reader=reader)
    except BayesCannonError as error:
        found.missing["files"] = str(error)
        return None
    stars = set(dataset.star_id.tolist())
    pairs = zip(survey.catalogue.star_id.tolist(), survey.files.tolist(), strict=True)
    files = {star: Path(file) for star, file in pairs if file and star in stars}
    if not files:
        found.missing["files"] = f"needs the raw spectra; {folder} has none of this run's stars."
    return files or None


def _files_of_survey(folder: Path, dataset: TrainingSet) -> dict[str, Path]:
    """Spectra of the dataset's stars, found by listing: no path is made from a catalogue's text."""
    columns = [dataset.info.get(name) for name in ("telescope", "field", "apogee_id")]
    if any(column is None for column in columns):
        return {}
    wanted: dict[tuple[str, str], dict[str, str]] = {}
    rows = zip(*(np.asarray(c, np.str_).tolist() for c in columns), strict=True)
    for star, (telescope, name, apogee_id) in zip(dataset.star_id.tolist(), rows, strict=True):
        wanted.setdefault((telescope, name), {})[apogee_id] = star
    files: dict[str, Path] = {}
    for telescope in (p for p in folder.iterdir() if p.is_dir()):
        for place in (p for p in telescope.iterdir() if p.is_dir()):
            stars = wanted.get((telescope.name, place.name), {})
            for path in place.iterdir() if stars else ():
                star = stars.get(name_from_path(path))
                if star is not None and is_spectrum_file(path.name):
                    files[star] = path
    return files
