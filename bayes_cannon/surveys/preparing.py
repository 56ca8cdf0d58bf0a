"""From a survey to a training set: cuts, masks, continuum normalisation, trimming."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.columns import names_of, one_or_more
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress
from bayes_cannon.base.resources import software_versions
from bayes_cannon.errors import InvalidDataError, NoStarsError
from bayes_cannon.spectra.continuum import ContinuumSettings, warn_masked
from bayes_cannon.spectra.dataset import CutStep, Setting, TrainingSet, log_steps
from bayes_cannon.spectra.labels import DEFAULT_LABELS, check_label_names
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts
from bayes_cannon.surveys.mwm.survey import reader_of_files
from bayes_cannon.surveys.reading import ReadSpectra, Treatment, Windows, read_treated
from bayes_cannon.surveys.reductions import (
    NOTE,
    reductions_of,
    reductions_text,
    require_one_reduction,
)
from bayes_cannon.surveys.survey import Survey, open_survey

__all__ = [
    "prepare",
    "prepare_spectra",
    "settings_like",
    "treatment_of_files",
]

_log = logging.getLogger(__name__)


class Trained(Protocol):
    """A trained model: its settings hold, under ``dataset``, how its training set was made."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings by part: ``dataset``, ``training``, ``versions``."""


_INFO = (
    "APOGEE_ID", "GAIA_ID", "TELESCOPE", "FIELD", "RELEASE", "STARFLAG", "ASPCAPFLAG",
    "RESULT_FLAGS", "NVISITS", "VHELIO_AVG", "VSCATTER", "VERR",
)  # fmt: skip
_NOTED = (
    "APOGEE_ID", "GAIA_ID", "RA", "DEC", "TELESCOPE", "FIELD", "NVISITS", "STARFLAG", "ASPCAPFLAG",
)  # fmt: skip
"""What tables of results say of a star beside its name, where the catalogue has it."""


def prepare(
    survey: Survey | str | os.PathLike[str],
    *,
    label_names: str | Sequence[str] = DEFAULT_LABELS,
    cuts: Cuts | None = None,
    bad_bits: str | int = "default",
    continuum: ContinuumSettings | None = None,
    windows: Windows | Literal["default"] | None = "default",
    allow_missing_labels: bool = False,
    progress: Progress = None,
) -> TrainingSet:
    """Read a survey: cuts, masks, continuum normalisation, trimming to the pixels used.

    The cuts come first, so that only spectra of wanted stars are read, and those in blocks:
    memory is that of the result.

    Parameters
    ----------
    survey
        From `open_survey`, or the path of its directory.
    label_names
        Labels to keep, or the name of one; by default a star must have them all.
    cuts
        Which stars to leave out; left out, those of the survey's reader: of APOGEE ``Cuts()``.
    bad_bits
        Mask bits that make a pixel bad: a preset's name or a number, see
        `bayes_cannon.surveys.resolve_bits` for APOGEE's.
    continuum
        How to normalise, see `bayes_cannon.spectra.continuum`; left out, as the survey's reader
        says: of APOGEE ``ContinuumSettings()``.
    windows
        [start, stop) pixel ranges to keep; they become the chips of the result. Left out, those
        of the survey's reader: of APOGEE what ASPCAP fits. None keeps all.
    allow_missing_labels
        Keep stars that lack labels (NaN).
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    NoStarsError
        If the cuts, or troubles with the files, leave no star.
    InvalidDataError
        If the windows do not fit the spectra.
    """
    names = tuple(name.upper() for name in one_or_more(label_names))
    check_label_names(names)
    for name, given, kind in (("cuts", cuts, Cuts), ("continuum", continuum, ContinuumSettings)):
        if given is not None and not isinstance(given, kind):
            raise InvalidDataError(
                f"{name} must be a {kind.__name__}, not {type(given).__name__}: "
                f"{kind.__name__}(...) takes its settings."
            )
    if not isinstance(survey, Survey):
        survey = open_survey(user_path(survey), names)
    reader = survey.reader
    cuts = reader.cuts if cuts is None else cuts
    if allow_missing_labels:
        cuts = replace(cuts, require_labels=False)
    treatment = Treatment.make(
        reader, bad_bits, reader.continuum if continuum is None else continuum,
        (tuple(reader.windows) or None) if isinstance(windows, str) else windows,
    )  # fmt: skip
    result = apply_cuts(survey.catalogue, cuts, names)
    steps = list(result.rows)
    _require_stars(steps, len(survey))
    has_file = survey.files != ""
    star_id = survey.catalogue.star_id
    problems = _without_file(survey, star_id[result.keep & ~has_file])
    rows = np.flatnonzero(result.keep & has_file)
    _add_step(steps, "spectrum found", "the survey holds a file of the star", rows.size)
    _require_stars(steps, len(survey))
    said = reductions_of(survey.catalogue)
    require_one_reduction(said[rows], cuts.reductions)
    read = read_treated(survey.files[rows].tolist(), star_id[rows], treatment, progress=progress)
    _add_step(steps, "spectrum readable", "the file holds a spectrum", read.n_readable)
    _add_step(steps, "good pixels", "some pixels are good and have a continuum", read.kept.size)
    problems += read.problems
    spectra, own = _noted(survey, read, rows[read.kept])
    others = _of_others(spectra, said[rows[read.kept]])
    if others:
        own = ~np.isin(spectra.star_id, [problem.star_id for problem in others])
        text = "the file's spectrum is of the reduction that the catalogue's row is of"
        _add_step(steps, "same reduction", text, int(own.sum()))
        spectra, problems = spectra.select(own), problems + others
    _require_stars(steps, len(survey), problems)
    kept, masked = rows[read.kept][own], read.masked_chips[own]
    require_one_reduction(spectra.notes.get(NOTE, np.empty(0, np.str_)), cuts.reductions)
    warn_masked(star_id[kept], masked)
    log_steps(steps)
    return TrainingSet(
        spectra=spectra,
        labels=survey.catalogue.labels(names).select(kept),
        cut_steps=tuple(steps),
        problems=problems,
        settings=_settings(survey, cuts, names) | treatment.settings() | _made_by(survey, spectra),
        info=_info(survey, kept) | {"n_masked_chips": masked.sum(axis=1)},
    )


def _noted(
    survey: Survey, read: ReadSpectra, rows: NDArray[np.intp]
) -> tuple[NormalizedSpectra, NDArray[np.bool_]]:
    """Spectra with the names that the catalogue knows where files do not; and a mask of all."""
    spectra = read.spectra()
    notes = dict(spectra.notes)
    table, own_name = survey.catalogue.table, survey.catalogue.id_name
    blank = np.full(len(spectra), "", dtype=np.str_)
    for name in dict.fromkeys((own_name, *_NOTED)):
        if name not in table.colnames:
            continue
        theirs = _texts(table[name][rows])
        if name == own_name and np.array_equal(theirs, spectra.star_id):
            continue
        own = notes.get(name, blank)
        both = np.where(own != "", own, theirs)
        notes |= {name: both} if (both != "").any() else {}
    return replace(spectra, notes=notes), np.ones(len(spectra), dtype=np.bool_)


def _texts(column: Any) -> NDArray[np.str_]:
    """Values of a column as text, numbers with all their digits; '' for what is not known."""
    values = np.ma.masked_array(column)
    texts = np.ma.getdata(values).astype(np.str_)
    missing = np.ma.getmaskarray(values)
    if values.dtype.kind == "f":
        missing = missing | ~np.isfinite(np.ma.getdata(values))
    return np.where(missing, "", np.char.strip(texts))


def _of_others(spectra: NormalizedSpectra, said: NDArray[np.str_]) -> tuple[StarProblem, ...]:
    """Stars whose spectrum is of another reduction than the row of the catalogue."""
    own = spectra.notes.get(NOTE, np.full(len(spectra), "", dtype=np.str_))
    return tuple(
        StarProblem(
            str(spectra.star_id[row]), "",
            f"its spectrum is of the reduction {own[row]}, the catalogue's row of {said[row]}: "
            "labels and spectrum are not of one measurement",
        )
        for row in np.flatnonzero((own != said) & (own != "") & (said != "")).tolist()
    )  # fmt: skip


def _made_by(survey: Survey, spectra: NormalizedSpectra) -> dict[str, Setting]:
    """Names of the catalogue and of the reductions."""
    made: dict[str, Setting] = {"catalogue": survey.catalogue.name}
    if text := reductions_text(spectra.notes.get(NOTE, np.empty(0, np.str_)).tolist()):
        made["reduction"] = text
    return made


def prepare_spectra(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    like: TrainingSet | Trained | Mapping[str, Setting],
    star_ids: Sequence[str] | None = None,
    visit: int | None = None,
    progress: Progress = None,
) -> tuple[NormalizedSpectra, tuple[StarProblem, ...]]:
    """Read FITS files and treat them exactly as a training set was.

    Parameters
    ----------
    paths
        Files of the survey that the training set is of (apStar or asStar files of APOGEE), or one
        of them.
    like
        A training set, a model that was trained on it, or the `settings` of the set.
    star_ids
        Names to give the stars; by default those in the files, made unique where they repeat.
    visit
        Number of a visit, from 1, to read instead of the combined spectrum.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Returns
    -------
    NormalizedSpectra
        The readable spectra with at least one good pixel, in the order of `paths`.
    tuple of StarProblem
        What could not be used, and why.

    Raises
    ------
    NoStarsError
        If there is no usable spectrum.
    InvalidDataError
        If `like` is not the settings of a training set, or names are missing or repeated.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    files = [str(user_path(path)) for path in paths]
    treatment = treatment_of_files(Treatment.from_settings(settings_like(like)), files)
    names = None if star_ids is None else names_of(star_ids, "star_ids")
    if names is not None and names.shape != (len(files),):
        raise InvalidDataError(f"{names.size} star ids for {len(files)} files; give one for each.")
    if names is not None and np.unique(names).size < names.size:
        raise InvalidDataError("star ids for the files must differ from each other.")
    read = read_treated(files, names, treatment, visit=visit, progress=progress)
    if not read.kept.size:
        first = f"; the first: {read.problems[0].message}" if read.problems else "."
        raise NoStarsError(f"none of {len(files)} files holds a usable spectrum{first}")
    spectra = read.spectra()
    own = np.array([star.star_id for star in read.stars], dtype=np.str_)
    if names is None and not np.array_equal(own, spectra.star_id):
        spectra = replace(spectra, notes={**spectra.notes, spectra.id_name: own})
    warn_masked(spectra.star_id, read.masked_chips)
    return spectra, read.problems


def treatment_of_files(treatment: Treatment, files: Sequence[str]) -> Treatment:
    """The same treatment by the reader of APOGEE's other releases where the files are of these.

    Parameters
    ----------
    treatment
        Of a training set.
    files
        To be treated alike.
    """
    reader = reader_of_files(treatment.reader, [Path(file).name for file in files])
    if reader is treatment.reader:
        return treatment
    _log.info(
        "the model was trained on spectra read by %s; these files are read by %s",
        treatment.reader.name, reader.name,
    )  # fmt: skip
    return Treatment.make(reader, treatment.bad_bits, treatment.continuum, treatment.windows)


def settings_like(like: TrainingSet | Trained | Mapping[str, Setting]) -> Mapping[str, Setting]:
    """How a training set was made.

    Parameters
    ----------
    like
        A training set, a model that was trained on it, or the `settings` of the set.

    Raises
    ------
    InvalidDataError
        If it is none of these.
    """
    if isinstance(like, TrainingSet):
        return like.settings
    recorded = getattr(like, "settings", None)
    if isinstance(recorded, Mapping):  # a trained model keeps those of its training set
        settings: Mapping[str, Setting] = recorded.get("dataset") or {}
        return settings
    if not isinstance(like, Mapping):
        raise InvalidDataError(
            "like must be a training set, a trained model or the settings of one, not "
            f"{type(like).__name__}; load a file first (TrainingSet.load)."
        )
    return like


def _without_file(survey: Survey, star_id: NDArray[np.str_]) -> tuple[StarProblem, ...]:
    why = {p.star_id: p.message for p in survey.problems if p.row is not None}
    missing = "its spectrum is not in the survey's directory"
    return tuple(StarProblem(s, "", why.get(s, missing)) for s in star_id.tolist())


def _add_step(steps: list[CutStep], name: str, description: str, remaining: int) -> None:
    removed = steps[-1].remaining - remaining
    steps.append(CutStep(name=name, description=description, removed=removed, remaining=remaining))


def _require_stars(
    steps: Sequence[CutStep], n_stars: int, problems: Sequence[StarProblem] = ()
) -> None:
    """Raise `NoStarsError`, naming what removed the stars, if none is left."""
    if steps[-1].remaining > 0:
        return
    removed = ", ".join(f"{s.name} removed {s.removed}" for s in steps if s.removed)
    unread = [p for p in problems if p.path]
    first = f" (first: {unread[0].star_id}, {unread[0].message})" if unread else ""
    raise NoStarsError(
        f"none of {n_stars} stars is left: {removed}{first}; loosen the cuts or add spectra."
    )


def _settings(survey: Survey, cuts: Cuts, names: Sequence[str]) -> dict[str, Setting]:
    """Where the spectra come from, plain values only."""
    settings: dict[str, Setting] = {
        "survey": survey.path.name,
        "release": survey.catalogue.release,
        "cuts": json.dumps(asdict(cuts)),
        **software_versions("astropy", "numpy"),
    }
    derived = str(survey.catalogue.table.meta.get("DERIVED", ""))
    made = [d for d in derived.split("; ") if d.partition(" = ")[0] in names]
    if made:
        settings["derived_labels"] = f"{'; '.join(made)} (errors in quadrature)"
    manifest = survey.path / "manifest.ecsv"
    if manifest.is_file():  # a downloaded survey: addresses, checksums, versions of every file
        digest = hashlib.sha1(manifest.read_bytes(), usedforsecurity=False)
        settings["manifest_sha1"] = digest.hexdigest()
    return settings


def _info(survey: Survey, rows: NDArray[np.intp]) -> dict[str, NDArray[Any]]:
    """Columns of the catalogue that are of use later, in small letters."""
    info: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys((survey.catalogue.id_name, *_INFO)):
        if name in survey.catalogue.table.colnames:
            column = np.asarray(survey.catalogue.table[name])[rows]
            kind: Any = np.float64 if column.dtype.kind == "f" else np.int64
            info[name.lower()] = column.astype(np.str_ if column.dtype.kind in "SUO" else kind)
    return info
