"""The whole way on what comes with the package: a simulated survey, or real giants."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

import numpy as np
from astropy.table import Table

from bayes_cannon.analysis.calibration import coverage
from bayes_cannon.analysis.catalogues import comparison
from bayes_cannon.base.cards import count_text
from bayes_cannon.base.parallel import available_cores
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.rounding import error_digits, value_with_error
from bayes_cannon.cli.console import OUT, watching
from bayes_cannon.cli.options import print_cuts, stars_to_plot
from bayes_cannon.errors import OutputExistsError
from bayes_cannon.inference.tables import star_ids
from bayes_cannon.models.cannon import Cannon
from bayes_cannon.runs.corners import corner_files, draw_corners
from bayes_cannon.runs.report.report import write_report
from bayes_cannon.runs.results import Run
from bayes_cannon.runs.run import infer_run
from bayes_cannon.runs.summary import write_summary
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.label_kinds import two_digits
from bayes_cannon.surveys.gaia_xp import load_gaia_xp_giants
from bayes_cannon.surveys.preparing import prepare, prepare_spectra
from bayes_cannon.surveys.simulation.catalogue import read_truth
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.survey import open_survey
from bayes_cannon.training.pipeline import train

__all__ = [
    "run_demo",
    "run_real_demo",
]


_TRAIN_FRACTION = 2 / 3
"""Of the real giants: 1000 of 1500."""


def run_demo(
    out: str | os.PathLike[str],
    *,
    n_stars: int | None = None,
    n_factors: int | Literal["auto"] | str = "auto",
    corner: list[str] | None = None,
    seed: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
) -> Path:
    """Run every stage into one folder, with a line about each.

    Parameters
    ----------
    out
        Folder: ``survey/``, ``dataset.nc``, ``cannon.nc``, ``run/`` with the report,
        ``mystery/``.
    n_stars
        Stars of the simulated survey; None for all of the library.
    n_factors
        Nuisance factors of the training model, or ``"auto"``.
    corner
        Which stars get a corner plot, as for `stars_to_plot`; None for all up to 1000.
    seed
        Of everything.
    executor
        Trains, samples and draws, see `infer_run`.
    overwrite
        Replace an earlier demo.
    """
    folder = user_path(out)
    _clear(folder, overwrite=overwrite)
    clock = _Clock()
    with watching() as progress:
        simulate_survey(folder / "survey", n_stars=n_stars, seed=seed, progress=progress)
    clock.say("simulated a survey (no star in it is real)")
    with watching() as progress:
        dataset = prepare(open_survey(folder / "survey"), progress=progress)
    dataset.save(folder / "dataset.nc")
    print_cuts(dataset)
    clock.say(f"prepared {count_text(dataset.n_stars, 'star')}")
    cannon, run, held_out = _train_and_infer(
        dataset, folder, clock, train_fraction=0.5, n_factors=n_factors, corner=corner,
        seed=seed, executor=executor,
    )  # fmt: skip
    mystery = _mystery(folder, cannon, seed)
    clock.say("sampled the mystery star")
    _report(folder, cannon, run, held_out, mystery, clock)
    return folder


def run_real_demo(
    out: str | os.PathLike[str],
    *,
    n_stars: int | None = None,
    n_factors: int | Literal["auto"] | str = "auto",
    corner: list[str] | None = None,
    seed: int = 1,
    executor: Executor | None = None,
    overwrite: bool = False,
) -> Path:
    """Train on two thirds of the real giants that come with the package, infer the rest.

    See `load_gaia_xp_giants` for the stars. There is no truth for real ones: labels are compared
    with the catalogue's, APOGEE DR17.

    Parameters
    ----------
    out
        Folder: ``dataset.nc``, ``cannon.nc``, ``run/`` with the report.
    n_stars
        Take so many of the stars, at random; None for all.
    n_factors, corner, seed, executor, overwrite
        As in `run_demo`.
    """
    folder = Path(out)
    _clear(folder, overwrite=overwrite)
    clock = _Clock()
    dataset = load_gaia_xp_giants()
    if n_stars is not None and n_stars < dataset.n_stars:
        dataset, _ = dataset.split(n_stars / dataset.n_stars, seed=seed)
    dataset.save(folder / "dataset.nc")
    clock.say(f"read {dataset.n_stars} real giants: Gaia DR3 XP spectra, APOGEE DR17 labels")
    cannon, run, _ = _train_and_infer(
        dataset, folder, clock, train_fraction=_TRAIN_FRACTION, n_factors=n_factors,
        corner=corner, seed=seed, executor=executor,
    )  # fmt: skip
    _report_real(folder, cannon, run, dataset, clock)
    return folder


def _train_and_infer(
    dataset: TrainingSet,
    folder: Path,
    clock: _Clock,
    *,
    train_fraction: float,
    n_factors: int | Literal["auto"] | str,
    corner: list[str] | None,
    seed: int,
    executor: Executor | None,
) -> tuple[Cannon, Run, TrainingSet]:
    """Train on part of the stars, infer the labels of the others; also returns the others."""
    training, held_out = dataset.split(train_fraction, seed=seed)
    with watching() as tell:
        cannon = train(
            training, n_factors=n_factors, held_out=held_out.star_id.tolist(), seed=seed,  # type: ignore[arg-type]
            executor=executor, progress=tell,
        )  # fmt: skip
    cannon.save(folder / "cannon.nc")
    clock.say(
        f"trained on {count_text(training.n_stars, 'star')} with "
        f"{count_text(cannon.n_factors, 'nuisance factor')}"
    )
    with watching() as progress:
        run = infer_run(
            cannon, held_out.spectra, folder / "run", seed=seed, aspcap=held_out.labels,
            inputs={"cannon": [folder / "cannon.nc"], "spectra": [folder / "dataset.nc"]},
            executor=executor, progress=progress,
        )  # fmt: skip
    clock.say(f"sampled the labels of {count_text(len(run.table), 'held-out star')} with NUTS")
    _draw_corners(run, held_out, stars_to_plot(corner, held_out.spectra), executor, clock)
    return cannon, run, held_out


def _draw_corners(
    run: Run, held_out: TrainingSet, stars: list[str], executor: Executor | None, clock: _Clock
) -> None:
    """Draw the corner plots of these stars, those without a posterior left out."""
    done = np.isfinite([run.table[name] for name in run.names]).all(axis=0)
    files = corner_files(run.star_id.tolist(), run.folder / "figures")
    has = set(run.star_id[done].tolist())
    snr = dict(zip(held_out.star_id.tolist(), held_out.spectra.snr.tolist(), strict=True))
    chosen = {star: files[star] for star in stars if star in has}
    with watching() as progress:
        draw_corners(
            run, chosen, aspcap=held_out.labels, snr=snr, executor=executor,
            processes=1 if executor else min(4, available_cores()), progress=progress,
        )  # fmt: skip
    if chosen:
        clock.say(f"drew {count_text(len(chosen), 'corner plot')}")


class _Clock:
    """Prints each stage with its seconds, and keeps them."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.seconds: dict[str, float] = {}

    def say(self, what: str) -> None:
        now = time.monotonic()
        self.seconds[what] = round(now - self.last, 1)
        OUT.print(f"{now - self.last:6.1f} s  {what}")
        self.last = now


def _clear(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        return
    entries = {p.name for p in folder.iterdir()}
    known = {"survey", "dataset.nc", "cannon.nc", "run", "mystery", "figures", "summary.json"}
    if entries and not overwrite:
        raise OutputExistsError(f"{folder} is not empty; choose another path or pass --overwrite.")
    if entries - known:
        raise OutputExistsError(
            f"{folder} holds more than an earlier demo ({sorted(entries - known)[0]}); "
            "choose another path."
        )
    for name in entries & known:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _mystery(folder: Path, cannon: Cannon, seed: int) -> Run:
    paths = sorted((folder / "survey" / "mystery").glob("*.fits"))
    spectra, _ = prepare_spectra(paths, like=cannon.settings["dataset"])
    files = {"cannon": [folder / "cannon.nc"], "spectra": paths}
    return infer_run(cannon, spectra, folder / "mystery", seed=seed, inputs=files)


def _report(
    folder: Path, cannon: Cannon, run: Run, held_out: TrainingSet, mystery: Run, clock: _Clock
) -> None:
    truth = read_truth(folder / "survey")
    against_truth = comparison(run.table, truth)
    with watching() as progress:
        report = write_report(
            run.folder, cannon=cannon, dataset=folder / "dataset.nc", truth=truth,
            mystery=mystery.folder, progress=progress,
        )  # fmt: skip
    clock.say(f"wrote the report, {report.size / 1e6:.1f} MB")
    for key, reason in report.failed.items():
        OUT.print(f"      could not be made ({key}): {reason}")
    OUT.print(
        f"\n{count_text(len(run.table), 'held-out star')} of the SIMULATED survey, ours minus "
        "truth:"
    )
    _print_table(against_truth)
    covered = coverage(run.result, truth)
    _print_coverage(covered)
    star = mystery.table[0]
    values = ", ".join(
        f"{n} {_measured(star[n], star[f'{n}_ERR'], star[f'{n}_FORMAL_ERR'])}" for n in cannon.names
    )
    OUT.print(f"\nmystery star {star_ids(mystery.table)[0]}: {values}")
    summary = {
        "simulated": True,
        "stages": clock.seconds,
        "seconds": round(time.monotonic() - clock.start, 1),
        "against_truth": [dict(zip(r.colnames, map(_json, r), strict=True)) for r in against_truth],
        "coverage": [dict(zip(r.colnames, map(_json, r), strict=True)) for r in covered],
        "run": run.summary,
        "mystery": {n: float(star[n]) for n in cannon.names},
        "cuts": [{"cut": s.name, "removed": s.removed} for s in held_out.cut_steps],
    }
    write_summary(folder, summary)
    OUT.print(f"\n{folder}: done in {summary['seconds']:.0f} s")
    OUT.print(f"open {report.path.resolve().as_uri()}")


def _report_real(
    folder: Path, cannon: Cannon, run: Run, dataset: TrainingSet, clock: _Clock
) -> None:
    against = comparison(run.table, dataset.labels)
    covered = coverage(run.result, dataset.labels)
    with watching() as progress:
        report = write_report(
            run.folder, cannon=cannon, dataset=folder / "dataset.nc", progress=progress
        )
    clock.say(f"wrote the report, {report.size / 1e6:.1f} MB")
    for key, reason in report.failed.items():
        OUT.print(f"      could not be made ({key}): {reason}")
    OUT.print(f"\n{count_text(len(run.table), 'real held-out star')}, ours minus APOGEE DR17:")
    _print_table(against)
    _print_coverage(covered, "catalogue value")
    n_flagged = run.summary["n_flagged"]
    OUT.print(f"{n_flagged} of {count_text(len(run.table), 'star')} have a flag")
    summary = {
        "simulated": False,
        "stages": clock.seconds,
        "seconds": round(time.monotonic() - clock.start, 1),
        "n_factors": cannon.n_factors,
        "against_catalogue": [dict(zip(r.colnames, map(_json, r), strict=True)) for r in against],
        "coverage": [dict(zip(r.colnames, map(_json, r), strict=True)) for r in covered],
        "run": run.summary,
    }
    write_summary(folder, summary)
    OUT.print(f"\n{folder}: done in {summary['seconds']:.0f} s")
    OUT.print(f"open {report.path.resolve().as_uri()}")


def _json(value: object) -> object:
    return str(value) if isinstance(value, str) else float(value)  # type: ignore[arg-type]


def _measured(value: float, error: float, formal: float) -> str:
    """A label with its errors, all to the second digit of the error."""
    return f"{value_with_error(value, error)} (formal {formal:.{error_digits(error)}f})"


def _print_table(against: Table) -> None:
    from rich.table import Table as Grid

    grid = Grid(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("label", no_wrap=True)
    columns = ("bias", "rms", "robust", "error", "formal")
    for name in columns:
        grid.add_column(name, justify="right")
    for row in against:
        own = [row["RMS"], row["ROBUST_SCATTER"], row["ERR"], row["FORMAL_ERR"]]
        bias = value_with_error(float(row["BIAS"]), float(row["RMS"]) / np.sqrt(int(row["N"])))
        text = [bias, *(two_digits(v) if np.isfinite(v) else "–" for v in own)]
        grid.add_row(f"{row['LABEL']} ({row['UNIT']})", *text)
    OUT.print(grid)


def _print_coverage(covered: Table, what: str = "truth") -> None:
    for kind in ("formal", "calibrated"):
        rows = covered[covered["KIND"] == kind]
        if len(rows):
            parts = ", ".join(f"{r['LABEL']} {100 * r['COVER_68']:.0f}" for r in rows)
            OUT.print(f"{what} inside the {kind} 68 % interval, per cent of stars: {parts}")
