"""Check a trained model on the stars held out from its training, into a folder."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import xarray as xr

from bayes_cannon.analysis.calibration import Check, check_calibration
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress
from bayes_cannon.base.storage import check_output
from bayes_cannon.errors import InvalidDataError, NoStarsError, OutputExistsError
from bayes_cannon.inference.posterior import group_of
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.inference.tables import rounded, write_ecsv
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.plots.calibration import plot_calibration, plot_scores
from bayes_cannon.plots.common import save_figure
from bayes_cannon.runs.fingerprint import digest_of_model
from bayes_cannon.runs.inputs import spectra_to_infer
from bayes_cannon.runs.results import Run, folder_of, noted_digest, open_run
from bayes_cannon.runs.run import infer_run
from bayes_cannon.runs.summary import write_summary
from bayes_cannon.spectra.labels import Labels
from bayes_cannon.spectra.stored import open_dataset
from bayes_cannon.surveys.simulation.catalogue import read_truth

__all__ = [
    "run_check",
    "write_check",
]


_TABLES = ("coverage.ecsv", "scores.ecsv", "joint.ecsv")
_OURS = {*_TABLES, "figures", "run", "summary.json"}


def run_check(
    cannon: Cannon,
    dataset: Path,
    folder: str | os.PathLike[str],
    *,
    run: Run | str | os.PathLike[str] | None = None,
    truth: Path | None = None,
    settings: InferenceSettings | None = None,
    seed: int | None = None,
    executor: Executor | None = None,
    overwrite: bool = False,
    progress: Progress = None,
) -> Check:
    """Infer the held-out stars of a dataset, check their posteriors and write what was found.

    Parameters
    ----------
    cannon
        The trained model.
    dataset
        File of the dataset; its labels are the reference ``catalogue``.
    folder
        Where to write ``coverage.ecsv``, ``scores.ecsv``, ``joint.ecsv``, ``figures/``,
        ``summary.json`` and, of an inference made here, ``run/`` (which goes on where an earlier
        one was cut off).
    run
        A run of the held-out stars, or its directory, in place of inferring them here.
    truth
        Table of true labels, see `read_truth`: the reference ``truth``.
    settings, seed, executor
        Of the inference, see `infer_labels`.
    overwrite
        Replace an earlier check.
    progress
        Told of (done, total, what), see `bayes_cannon.base.progress`; True draws bars.

    Raises
    ------
    NoStarsError
        If there is no held-out star.
    InvalidDataError
        If settings or a seed are given beside a run, or the run is of another model.
    OutputExistsError
        If the folder holds something else, or a check and `overwrite` is false.
    """
    if run is not None and (settings is not None or seed is not None):
        raise InvalidDataError(
            "settings and seed are those of an inference; a run that is there has its own."
        )
    out = user_path(folder)
    _refuse_others(out, overwrite=overwrite)
    true = None if truth is None else read_truth(truth, cannon.names)
    if run is None:
        spectra, catalogue = spectra_to_infer(cannon, [dataset])
        assert catalogue is not None
        result = infer_run(
            cannon, spectra, out / "run", settings=settings, seed=seed, aspcap=catalogue,
            executor=executor, overwrite=overwrite, progress=progress,
        ).result  # fmt: skip
        snr = dict(zip(spectra.star_id.tolist(), spectra.snr.tolist(), strict=True))
    else:
        stars = open_dataset(dataset)
        catalogue, spectra = stars.labels, stars.spectra
        snr = dict(zip(spectra.star_id.tolist(), spectra.snr.tolist(), strict=True))
        opened = run if isinstance(run, Run) else open_run(run)
        result = _only_new(opened.result, cannon, folder_of(run))
        if noted_digest(opened.folder, "model") not in (None, digest_of_model(cannon)):
            raise InvalidDataError(
                f"the run {opened.folder} was made with another model than the one to be checked; "
                "give that model, or infer the stars with this one."
            )
    references: dict[str, Labels] = {} if true is None else {"truth": true}
    check = check_calibration(result, references | {"catalogue": catalogue}, snr=snr)
    write_check(check, out, overwrite=overwrite)
    return check


def _only_new(result: xr.DataTree, cannon: Cannon, run: Path) -> xr.DataTree:
    """Stars of a run that the model was not trained on."""
    star_id = group_of(result, "posterior")["star"].values.astype(np.str_)
    new = np.flatnonzero(~np.isin(star_id, cannon.training.star_id))
    if new.size == 0:
        raise NoStarsError(f"{run} holds training stars only; check on stars that were held out.")
    return result if new.size == star_id.size else result.isel(star=new)


def _refuse_others(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; choose another folder for the check.")
    if others := sorted({p.name for p in folder.iterdir()} - _OURS):
        raise OutputExistsError(
            f"{folder} holds more than an earlier check ({others[0]}); choose another folder."
        )
    for name in _TABLES:
        check_output(folder / name, overwrite=overwrite)


def write_check(check: Check, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write tables, figures and a summary of a check.

    Parameters
    ----------
    check
        From `check_calibration`.
    folder
        Where to write; made if need be.
    overwrite
        Replace an earlier check.

    Returns
    -------
    Path
        The folder: ``coverage.ecsv``, ``scores.ecsv``, ``joint.ecsv``, ``summary.json``, and in
        ``figures/`` for each reference ``calibration-NAME.png`` and ``scores-NAME.png``.
    """
    out = user_path(folder)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in zip(_TABLES, (check.coverage, check.bins, check.joint), strict=True):
        write_ecsv(rounded(table, digits=5), out / name, overwrite=overwrite)
    for reference in dict.fromkeys(name for name, _ in check.scores):
        figure = plot_calibration(check, reference)
        save_figure(figure, out / "figures" / f"calibration-{reference}.png")
        figure = plot_scores(check, reference)
        save_figure(figure, out / "figures" / f"scores-{reference}.png")
    rows = [dict(zip(check.coverage.colnames, row, strict=True)) for row in check.coverage]
    write_summary(
        out,
        {
            "simulated": check.simulated,
            "passed": check.passed,
            "judged": check.judged,
            "of_moments": check.of_moments,
            "failures": list(check.failures),
            "coverage": rows,
            "joint": [dict(zip(check.joint.colnames, row, strict=True)) for row in check.joint],
        },
    )
    return out
