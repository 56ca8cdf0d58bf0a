"""Spectra of the single visits to the stars of a survey, for the comparison of repeats.

A file of APOGEE holds the combined spectrum of a star and that of each of its visits. They are
treated here as the training set of a model was, each by itself: a visit has noise, bad pixels, sky
and telluric residuals, a radial velocity and a continuum of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import whole_number
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.errors import InvalidDataError, NoStarsError, SurveyError
from bayes_cannon.spectra.dataset import Setting, TrainingSet
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import NormalizedSpectra
from bayes_cannon.spectra.star_ids import simulated_note
from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts
from bayes_cannon.surveys.preparing import Trained, settings_like
from bayes_cannon.surveys.readers import SurveyReader
from bayes_cannon.surveys.reading import ReadSpectra, Treatment, read_treated
from bayes_cannon.surveys.survey import Survey, open_survey

__all__ = [
    "VisitSpectra",
    "visit_spectra",
]


@dataclass(frozen=True, eq=False)
class VisitSpectra:
    """Spectra of visits, and which star each is of.

    Attributes
    ----------
    spectra : NormalizedSpectra
        With ids like ``2M…/visit-1``.
    table : astropy.table.Table
        A row a visit, in the order of the spectra: the id of the visit in the column that the
        reader names its stars by, ``STAR`` (the star's id), ``VISIT`` (number, from 1), ``MJD``
        (NaN where unknown) and ``SNR`` (per pixel).
    problems : tuple of StarProblem
        Files and visits that could not be used, and why.
    n_cut : int
        Stars that the cuts of the training set leave out.
    n_single : int
        Stars that are left out because they were visited once.
    """

    spectra: NormalizedSpectra
    table: Table
    problems: tuple[StarProblem, ...] = ()
    n_cut: int = 0
    n_single: int = 0


def visit_spectra(
    survey: Survey | str | os.PathLike[str],
    *,
    like: TrainingSet | Trained | Mapping[str, Setting],
    without: Container[str] = (),
    min_visits: int = 2,
    progress: Progress = None,
) -> VisitSpectra:
    """Read every visit to the stars of a survey that were visited several times.

    The stars are those that pass the cuts of the training set, except that they may lack
    catalogue labels. Rows that the catalogue marks as another observation of a star in another
    field are left out with them.

    Parameters
    ----------
    survey
        From `open_survey`, or the path of its directory.
    like
        A training set, a model that was trained on it, or the `settings` of the set.
    without
        Ids of stars to leave out, of the model's training stars say.
    min_visits
        Usable visits that a star must have.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    NoStarsError
        If no star has that many usable visits.
    SurveyError
        If the survey is of another reader than the training set.
    InvalidDataError
        If `like` is not the settings of a training set.
    """
    least = whole_number(min_visits, "min_visits", least=1)
    settings = settings_like(like)
    treatment = Treatment.from_settings(settings)
    if not isinstance(survey, Survey):
        survey = open_survey(user_path(survey), ())
    if survey.reader.name != treatment.reader.name:
        raise SurveyError(
            f"{survey.path} is a survey of {survey.reader.name}, the model was trained on one of "
            f"{treatment.reader.name}; give a survey of the same kind."
        )
    keep = apply_cuts(survey.catalogue, _cuts_of(settings), ()).keep & (survey.files != "")
    keep &= np.array([star not in without for star in survey.catalogue.star_id.tolist()], np.bool_)
    rows = np.flatnonzero(keep)
    names, files = survey.catalogue.star_id[rows], survey.files[rows]
    with as_progress(progress) as tell:
        dates, unread = _visits_of(treatment.reader, names, files, tell)
        many = [k for k in range(rows.size) if len(dates[k]) >= least]
        if not many:
            raise NoStarsError(
                f"none of the {count_text(rows.size, 'star')} that are left of {survey.path} was "
                f"visited {least} times; the spectra of single visits are needed{_first(unread)}."
            )
        parts: list[ReadSpectra] = []
        found: list[tuple[str, int, float]] = []
        for visit in range(1, max(len(dates[k]) for k in many) + 1):
            these = [k for k in many if len(dates[k]) >= visit]
            ids = np.array([f"{names[k]}/visit-{visit}" for k in these], dtype=np.str_)
            part = read_treated(files[these].tolist(), ids, treatment, visit=visit, progress=tell)
            parts.append(part)
            found += [(str(names[these[j]]), visit, dates[these[j]][visit - 1]) for j in part.kept]
    problems = (*unread, *(p for part in parts for p in part.problems))
    star = np.array([f[0] for f in found], dtype=np.str_)
    usable = {name for name, n in zip(*np.unique(star, return_counts=True), strict=True)
              if n >= least}  # fmt: skip
    chosen = [i for i in np.lexsort((np.array([f[1] for f in found]), star)) if star[i] in usable]
    if not chosen:
        raise NoStarsError(
            f"no star of {survey.path} has {count_text(least, 'usable visit')}{_first(problems)}."
        )
    spectra = _joined([part.spectra() for part in parts if part.kept.size]).select(chosen)
    table = Table(
        {
            spectra.id_name: spectra.star_id,
            "STAR": star[chosen],
            "VISIT": np.array([found[i][1] for i in chosen], dtype=np.int64),
            "MJD": np.array([found[i][2] for i in chosen]),
            "SNR": spectra.snr,
        },
        meta={"ID": spectra.id_name, "SIMULATE": spectra.simulated},
    )
    n_single = int(rows.size) - len(many) - len(unread)
    return VisitSpectra(spectra, table, problems, len(survey) - int(keep.sum()), n_single)


def _first(problems: Sequence[StarProblem]) -> str:
    """What was wrong with the first star, for the end of a sentence."""
    return f"; the first problem: {problems[0].message.rstrip('.')}" if problems else ""


def _cuts_of(settings: Mapping[str, Setting]) -> Cuts:
    """Cuts of a training set, but for the one on missing labels."""
    try:
        given: dict[str, Any] = json.loads(str(settings["cuts"]))
        known = {f.name for f in fields(Cuts)}
        return Cuts(**{k: v for k, v in given.items() if k in known} | {"require_labels": False})
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidDataError(
            f"the settings of the training set do not say how its stars were chosen ({error!r}); "
            "visits are those of a survey that was read by prepare()."
        ) from error


def _visits_of(
    reader: SurveyReader, names: NDArray[np.str_], files: NDArray[np.str_], tell: Any
) -> tuple[list[tuple[float, ...]], list[StarProblem]]:
    """Dates of the visits in each file; none of a file that cannot be read."""
    dates: list[tuple[float, ...]] = []
    problems = []
    dates_in = getattr(reader, "visits", lambda _: ())
    for k, (name, path) in enumerate(zip(names.tolist(), files.tolist(), strict=True), start=1):
        try:
            dates.append(tuple(dates_in(user_path(path))))
        except reader.expected as error:
            dates.append(())
            problems.append(StarProblem(name, path, str(error)))
        tell(k, len(names), "counting visits")
    return dates, problems


def _joined(parts: Sequence[NormalizedSpectra]) -> NormalizedSpectra:
    """Spectra of one grid, one after the other."""
    first = parts[0]
    return NormalizedSpectra(
        star_id=np.concatenate([p.star_id for p in parts]),
        wavelength=first.wavelength,
        flux=np.concatenate([p.flux for p in parts]),
        ivar=np.concatenate([p.ivar for p in parts]),
        snr=np.concatenate([p.snr for p in parts]),
        chips=first.chips,
        simulated=any(p.simulated for p in parts),
        medium=first.medium,
        id_name=first.id_name,
        notes={
            name: np.concatenate([p.notes[name] for p in parts])
            for name in first.notes if all(name in p.notes for p in parts)
        } | simulated_note(np.concatenate([p.simulated_stars for p in parts])),
    )  # fmt: skip
