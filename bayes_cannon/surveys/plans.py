"""Which spectra of a survey become a training set, and what is known of it but the pixels."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.resources import software_versions
from bayes_cannon.errors import InvalidDataError, NoStarsError
from bayes_cannon.spectra.continuum import ContinuumSettings, warn_masked
from bayes_cannon.spectra.dataset import CutStep, Setting, TrainingSet, log_steps
from bayes_cannon.spectra.labels import check_label_names
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.stored import AnySpectra
from bayes_cannon.surveys.apogee.cuts import Cuts, apply_cuts
from bayes_cannon.surveys.reading import Treatment, Windows
from bayes_cannon.surveys.reductions import (
    NOTE,
    reductions_of,
    reductions_text,
    require_one_reduction,
)
from bayes_cannon.surveys.survey import Survey, open_survey

__all__ = [
    "Plan",
    "Readable",
]


_INFO = (
    "APOGEE_ID", "GAIA_ID", "TELESCOPE", "FIELD", "RELEASE", "STARFLAG", "ASPCAPFLAG",
    "RESULT_FLAGS", "NVISITS", "VHELIO_AVG", "VSCATTER", "VERR",
)  # fmt: skip
_NOTED = (
    "APOGEE_ID", "GAIA_ID", "RA", "DEC", "TELESCOPE", "FIELD", "NVISITS", "STARFLAG", "ASPCAPFLAG",
)  # fmt: skip
"""What tables of results say of a star beside its name, where the catalogue has it."""


class Readable(Protocol):
    """What is known of the spectra of a plan once they were read, see `ReadSpectra`."""

    @property
    def kept(self) -> NDArray[np.intp]:
        """Places of the usable ones in the plan, shape (n_stars,)."""

    @property
    def n_readable(self) -> int:
        """How many files hold a spectrum."""

    @property
    def problems(self) -> tuple[StarProblem, ...]:
        """The others."""

    @property
    def masked_chips(self) -> NDArray[np.bool_]:
        """Chips without a usable continuum, shape (n_stars, n_chips)."""

    def spectra(self) -> AnySpectra:
        """Return the spectra, in memory or on disk."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Which spectra of a survey are to be read, and how they are to be treated.

    Attributes
    ----------
    survey : Survey
    names : tuple of str
        Labels to keep.
    cuts : Cuts
    treatment : Treatment
        Of every spectrum.
    steps : tuple of CutStep
        What the cuts removed.
    problems : tuple of StarProblem
        Stars that pass the cuts but have no file.
    rows : (n_planned,) int
        Rows of the catalogue whose spectra are to be read.
    said : (n_planned,) str
        Their reductions according to the catalogue.
    """

    survey: Survey
    names: tuple[str, ...]
    cuts: Cuts
    treatment: Treatment
    steps: tuple[CutStep, ...]
    problems: tuple[StarProblem, ...]
    rows: NDArray[np.intp]
    said: NDArray[np.str_]

    @classmethod
    def make(
        cls,
        survey: Survey | str | os.PathLike[str],
        *,
        label_names: str | Sequence[str],
        cuts: Cuts | None,
        bad_bits: str | int,
        continuum: ContinuumSettings | None,
        windows: Windows | Literal["default"] | None,
        allow_missing_labels: bool,
    ) -> Self:
        """Apply the cuts; no spectrum is read.

        Parameters
        ----------
        survey, label_names, cuts, bad_bits, continuum, windows, allow_missing_labels
            See `prepare`.

        Raises
        ------
        NoStarsError
            If the cuts leave no star.
        InvalidDataError
            If the windows do not fit the spectra.
        """
        names = tuple(name.upper() for name in one_or_more(label_names))
        check_label_names(names)
        for name, given, kind in (
            ("cuts", cuts, Cuts), ("continuum", continuum, ContinuumSettings),
        ):  # fmt: skip
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
        problems = _without_file(survey, survey.catalogue.star_id[result.keep & ~has_file])
        rows = np.flatnonzero(result.keep & has_file)
        _add_step(steps, "spectrum found", "the survey holds a file of the star", rows.size)
        _require_stars(steps, len(survey))
        said = reductions_of(survey.catalogue)[rows]
        require_one_reduction(said, cuts.reductions)
        return cls(survey, names, cuts, treatment, tuple(steps), problems, rows, said)

    @property
    def files(self) -> list[str]:
        """Paths of the spectra."""
        files: list[str] = self.survey.files[self.rows].tolist()
        return files

    @property
    def star_id(self) -> NDArray[np.str_]:
        """Names of the stars, shape (n_planned,)."""
        return np.asarray(self.survey.catalogue.star_id[self.rows])

    @property
    def settings(self) -> dict[str, Setting]:
        """How the spectra are treated and where they come from."""
        return _settings(self.survey, self.cuts, self.names) | self.treatment.settings()

    def training_set[Set: TrainingSet](self, read: Readable, kind: type[Set]) -> Set:
        """Put the training set together once the spectra were read.

        Parameters
        ----------
        read
            What is known of them.
        kind
            Class of the set.

        Raises
        ------
        NoStarsError
            If troubles with the files leave no star.
        """
        survey, steps, problems = self.survey, list(self.steps), self.problems + read.problems
        _add_step(steps, "spectrum readable", "the file holds a spectrum", read.n_readable)
        _add_step(steps, "good pixels", "some pixels are good and have a continuum", read.kept.size)
        spectra = _noted(survey, read.spectra(), self.rows[read.kept])
        own = np.ones(len(spectra), dtype=np.bool_)
        others = _of_others(spectra, self.said[read.kept])
        if others:
            own = ~np.isin(spectra.star_id, [problem.star_id for problem in others])
            text = "the file's spectrum is of the reduction that the catalogue's row is of"
            _add_step(steps, "same reduction", text, int(own.sum()))
            spectra, problems = spectra.select(own), problems + others
        _require_stars(steps, len(survey), problems)
        kept, masked = self.rows[read.kept][own], read.masked_chips[own]
        require_one_reduction(spectra.notes.get(NOTE, np.empty(0, np.str_)), self.cuts.reductions)
        warn_masked(survey.catalogue.star_id[kept], masked)
        log_steps(steps)
        return kind(
            spectra=spectra,  # type: ignore[arg-type]  # a stored set has stored spectra
            labels=survey.catalogue.labels(self.names).select(kept),
            cut_steps=tuple(steps),
            problems=problems,
            settings=self.settings | _made_by(survey, spectra),
            info=_info(survey, kept) | {"n_masked_chips": masked.sum(axis=1)},
        )


def _noted(survey: Survey, spectra: AnySpectra, rows: NDArray[np.intp]) -> AnySpectra:
    """Spectra with the names that the catalogue knows where files do not."""
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
    return replace(spectra, notes=notes)


def _texts(column: Any) -> NDArray[np.str_]:
    """Values of a column as text, numbers with all their digits; '' for what is not known."""
    values = np.ma.masked_array(column)
    texts = np.ma.getdata(values).astype(np.str_)
    missing = np.ma.getmaskarray(values)
    if values.dtype.kind == "f":
        missing = missing | ~np.isfinite(np.ma.getdata(values))
    return np.where(missing, "", np.char.strip(texts))


def _of_others(spectra: AnySpectra, said: NDArray[np.str_]) -> tuple[StarProblem, ...]:
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


def _made_by(survey: Survey, spectra: AnySpectra) -> dict[str, Setting]:
    """Names of the catalogue and of the reductions."""
    made: dict[str, Setting] = {"catalogue": survey.catalogue.name}
    if text := reductions_text(spectra.notes.get(NOTE, np.empty(0, np.str_)).tolist()):
        made["reduction"] = text
    return made


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
        f"none of {count_text(n_stars, 'star')} is left: {removed}{first}; loosen the cuts or add "
        "spectra."
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
