"""Repeats of a survey into a folder: labels of every visit, and what their differences say."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from astropy.table import Table

from bayes_cannon.analysis.repeated.comparison import SEES, Repeats, compare_visits, repeats
from bayes_cannon.analysis.repeated.visits import Flagged, labels_of_visits
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress
from bayes_cannon.base.storage import check_output, read_tree, write_tree
from bayes_cannon.errors import FileFormatError, OutputExistsError
from bayes_cannon.inference.arguments import GivenModel, as_model
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.inference.tables import rounded, write_ecsv, write_fits
from bayes_cannon.plots.common import save_figure
from bayes_cannon.plots.ensembles.visits import plot_repeats
from bayes_cannon.runs.results import open_run
from bayes_cannon.runs.run import infer_run
from bayes_cannon.runs.summary import read_summary, write_summary
from bayes_cannon.surveys.survey import Survey
from bayes_cannon.surveys.visits import visit_spectra

__all__ = [
    "open_repeats",
    "run_repeats",
    "write_repeats",
]

_TABLES = ("repeats", "repeats-snr", "pairs")
_FORMAT, _VERSION = "bayes_cannon.repeats", 1
_FILES = {"visits.ecsv", "fit.nc", "repeats.png", "summary.json", "run"}
_OURS = _FILES | {f"{name}.{end}" for name in _TABLES for end in ("ecsv", "fits")}


def run_repeats(
    cannon: GivenModel,
    survey: Survey | str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    all_stars: bool = False,
    flagged: Flagged = "exclude",
    settings: InferenceSettings | None = None,
    seed: int | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: Progress = None,
) -> Repeats:
    """Infer the labels of every visit to the stars of a survey, and compare the repeats.

    Parameters
    ----------
    cannon
        The trained model, its file, or a run of it.
    survey
        From `open_survey`, or the path of its directory. Its stars are chosen by the cuts of the
        model's training set.
    folder
        Where to write: ``repeats``, ``repeats-snr`` (in ranges of S/N) and ``pairs``, each as
        ``.fits`` and ``.ecsv``, ``visits.ecsv``, ``fit.nc`` (draws of scale and floor),
        ``repeats.png``, ``summary.json``, and ``run/`` with the posteriors of the visits, which
        goes on where an earlier one was cut off.
    all_stars
        Take the stars that the model was trained on too.
    flagged
        ``'exclude'`` leaves visits with a flag of severity BAD out, ``'keep'`` does not.
    settings, seed, executor
        Of the inference, see `infer_labels`; the seed also of the fit.
    overwrite
        Replace earlier repeats.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    NoStarsError
        If too few stars have two usable visits.
    SurveyError
        If the survey is of another kind than the model's training set.
    OutputExistsError
        If the folder holds something else, or repeats and `overwrite` is false.
    """
    model, out = as_model(cannon), user_path(folder)
    _refuse_others(out, overwrite=overwrite)
    without = () if all_stars else set(model.training.star_id.tolist())
    visits = visit_spectra(survey, like=model, without=without, progress=progress)
    noted = {"cannon": [cannon]} if isinstance(cannon, str | os.PathLike) else None
    run = infer_run(
        model, visits.spectra, out / "run", settings=settings, seed=seed, inputs=noted,
        executor=executor, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    write_ecsv(visits.table, out / "visits.ecsv", overwrite=True)
    found = repeats(run, visits.table, flagged=flagged, seed=int(run.summary["seed"]))
    more = {
        "stars_cut": visits.n_cut, "stars_with_one_visit": visits.n_single,
        "unreadable": len(visits.problems), "all_stars": all_stars, "method": run.summary["method"],
        "seed": run.summary["seed"],
    }  # fmt: skip
    write_repeats(found, out, more=more, overwrite=overwrite)
    return found


def _refuse_others(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; choose another folder for the repeats.")
    if others := sorted({p.name for p in folder.iterdir()} - _OURS):
        raise OutputExistsError(
            f"{folder} holds more than earlier repeats ({others[0]}); choose another folder."
        )
    check_output(folder / "repeats.ecsv", overwrite=overwrite)


def write_repeats(
    found: Repeats,
    folder: str | os.PathLike[str],
    *,
    more: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write tables, figure and summary of repeats.

    Parameters
    ----------
    found
        From `repeats`.
    folder
        Where to write; made if need be.
    more
        Entries for ``summary.json``.
    overwrite
        Replace earlier repeats.

    Returns
    -------
    Path
        The folder, see `run_repeats`.
    """
    out = user_path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in zip(_TABLES, (found.table, found.bins, found.pair_table()), strict=True):
        shown = rounded(table)
        write_ecsv(shown, out / f"{name}.ecsv", overwrite=overwrite)
        write_fits(shown, out / f"{name}.fits", name=name.upper(), overwrite=overwrite)
    write_tree(
        found.fit, out / "fit.nc", format_name=_FORMAT, version=_VERSION, overwrite=overwrite
    )
    save_figure(plot_repeats(found), out / "repeats.png")
    rows = [dict(zip(found.table.colnames, row, strict=True)) for row in found.table]
    meta = {k: v for k, v in found.table.meta.items() if k not in ("comments", "SIMULATE")}
    counts = {key.lower(): value for key, value in meta.items()}
    write_summary(
        out,
        {"simulated": found.simulated, **counts, **(more or {}), "sees": SEES, "repeats": rows},
    )
    return out


def open_repeats(folder: str | os.PathLike[str]) -> Repeats:
    """Read repeats again from their folder.

    Parameters
    ----------
    folder
        That `run_repeats` wrote.

    Raises
    ------
    FileFormatError
        If it is none, or damaged.
    """
    out = user_path(folder)
    summary, file = read_summary(out), out / "visits.ecsv"
    if not file.is_file() or "flagged" not in summary:
        raise FileFormatError(f"{out} holds no repeats; make them with bayes-cannon repeats.")
    try:
        visits = Table.read(file, format="ascii.ecsv")
    except Exception as error:
        raise FileFormatError(
            f"{file} cannot be read ({type(error).__name__}); make the repeats again."
        ) from error
    fit = read_tree(out / "fit.nc", format_name=_FORMAT, version=_VERSION)
    result, flagged = open_run(out / "run").result, summary["flagged"]
    labels = labels_of_visits(result, visits, flagged=flagged)
    return compare_visits(result, labels, flagged, int(summary["seed"]), fit=fit)
