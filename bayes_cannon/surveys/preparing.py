"""From a survey to a training set: cuts, masks, continuum normalisation, trimming."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import names_of
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress
from bayes_cannon.errors import InvalidDataError, NoStarsError
from bayes_cannon.spectra.continuum import ContinuumSettings, warn_masked
from bayes_cannon.spectra.dataset import Setting, TrainingSet
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.surveys.apogee.cuts import Cuts
from bayes_cannon.surveys.mwm.survey import reader_of_files
from bayes_cannon.surveys.plans import Plan
from bayes_cannon.surveys.reading import Treatment, Windows, read_treated
from bayes_cannon.surveys.survey import Survey

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
    plan = Plan.make(
        survey, label_names=label_names, cuts=cuts, bad_bits=bad_bits, continuum=continuum,
        windows=windows, allow_missing_labels=allow_missing_labels,
    )  # fmt: skip
    read = read_treated(plan.files, plan.star_id, plan.treatment, progress=progress)
    return plan.training_set(read, TrainingSet)


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
        raise InvalidDataError(
            f"{count_text(names.size, 'star id')} for {count_text(len(files), 'file')}; give one "
            "for each."
        )
    if names is not None and np.unique(names).size < names.size:
        raise InvalidDataError("star ids for the files must differ from each other.")
    read = read_treated(files, names, treatment, visit=visit, progress=progress)
    if not read.kept.size:
        first = f"; the first: {read.problems[0].message}" if read.problems else "."
        raise NoStarsError(
            f"none of {count_text(len(files), 'file')} holds a usable spectrum{first}"
        )
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
