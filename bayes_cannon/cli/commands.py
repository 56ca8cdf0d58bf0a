"""The command ``bayes-cannon``.

Every command ends with exit status 0, or with a one-line error and status 2 (a traceback too where
``--verbose`` is given and the error is not one of the package's own). Status 1 says that a command
did what it could, but not all is well: `infer` left stars without a posterior, `check` failed.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bayes_cannon._version import __version__
from bayes_cannon.cli.console import PlainFormatter, error_line, one_line, unexpected_line
from bayes_cannon.cli.options import (
    Method,
    Missing,
    Overwrite,
    Sampler,
    Seed,
    bits_of,
    factors_of,
    print_cuts,
    stars_to_plot,
    windows_of,
)
from bayes_cannon.errors import BayesCannonError, BayesCannonWarning

if TYPE_CHECKING:
    pass

__all__ = [
    "app",
    "main",
]


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Posteriors of stellar labels from APOGEE spectra: The Cannon as two PyMC models.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"bayes-cannon {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say it.")
    ] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="Folder of the survey to write.")],
    n_stars: Annotated[int | None, typer.Option(help="Stars; default all of the library.")] = None,
    label_errors: Annotated[
        float, typer.Option(help="Errors of the catalogue's labels, in units of DR17's.")
    ] = 1.0,
    seed: Seed = 1,
    overwrite: Overwrite = False,
) -> None:
    """Write a simulated survey (marked as simulated in every header)."""
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.surveys.simulation.simulate import simulate_survey
    from bayes_cannon.surveys.simulation.stars import SimulationSettings

    settings = SimulationSettings(label_error_scale=label_errors)
    with watching() as progress:
        simulate_survey(
            out, n_stars=n_stars, seed=seed, settings=settings, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    OUT.print(f"{out}: a simulated survey")


@app.command()
def prepare(
    survey: Annotated[Path, typer.Argument(help="Folder laid out like the SDSS archive.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Dataset to write.")],
    label: Annotated[list[str] | None, typer.Option(help="Label, once each.")] = None,
    snr_min: Annotated[float, typer.Option(help="Least S/N.")] = 50.0,
    logg_max: Annotated[float, typer.Option(help="Largest log g.")] = 4.0,
    teff_max: Annotated[float, typer.Option(help="Largest Teff (K).")] = 5700.0,
    feh_min: Annotated[float, typer.Option(help="Least [Fe/H].")] = -1.0,
    degree: Annotated[int, typer.Option(help="Degree of the continuum, 2 to 5.")] = 4,
    bad_bits: Annotated[
        str, typer.Option(help="Bad bits of the pixel mask: default, lab, pipeline or a number.")
    ] = "default",
    missing_labels: Annotated[
        bool, typer.Option("--missing-labels", help="Keep stars that lack a label.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Read a survey: cuts, masks, continuum; says how many stars each cut removed."""
    from bayes_cannon.base.storage import check_output
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.spectra.continuum import ContinuumSettings
    from bayes_cannon.spectra.labels import DEFAULT_LABELS
    from bayes_cannon.surveys.apogee.cuts import Cuts
    from bayes_cannon.surveys.preparing import prepare as prepare_dataset
    from bayes_cannon.surveys.survey import open_survey

    check_output(out, overwrite=overwrite)
    names = tuple(label) if label else DEFAULT_LABELS
    opened = open_survey(survey, labels=names)
    with watching() as progress:
        dataset = prepare_dataset(
            opened,
            label_names=names,
            cuts=Cuts(snr_min=snr_min, logg_max=logg_max, teff_max=teff_max, feh_min=feh_min),
            bad_bits=bits_of(bad_bits),
            continuum=ContinuumSettings(degree=degree),
            allow_missing_labels=missing_labels,
            progress=progress,
        )
    dataset.save(out, overwrite=overwrite)
    print_cuts(dataset)
    OUT.print(f"{out}: {dataset.n_stars} stars, {dataset.spectra.n_pixels} pixels")


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="Dataset from `prepare`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Trained model to write.")],
    method: Annotated[Method, typer.Option(help="Closed form, or PyMC's ADVI.")] = Method.map,
    factors: Annotated[str, typer.Option(help="Nuisance factors: a number, or auto.")] = "auto",
    degree: Annotated[int, typer.Option(help="Degree of the polynomial, 1 to 3.")] = 2,
    train_fraction: Annotated[
        float, typer.Option(help="Part of the stars to train on; the rest is held out.")
    ] = 0.5,
    snr_min: Annotated[float, typer.Option(help="Train on stars at least this bright.")] = 0.0,
    latent_labels: Annotated[
        bool,
        typer.Option(
            "--latent-labels/--exact-labels",
            help="Whether training labels are off by their errors.",
        ),
    ] = True,
    missing: Annotated[
        Missing,
        typer.Option(help="Stars that lack a label: infer it, leave them out, or what is better."),
    ] = Missing.auto,
    window: Annotated[
        list[str] | None, typer.Option(help="Confine a label: NAME=low:high in Å, vacuum.")
    ] = None,
    seed: Seed = 1,
    overwrite: Overwrite = False,
) -> None:
    """Fit the training model; held-out stars are recorded in its file."""
    from bayes_cannon.base.storage import check_output
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.spectra.dataset import TrainingSet
    from bayes_cannon.training.pipeline import train as train_model
    from bayes_cannon.training.settings import TrainingSettings

    check_output(out, overwrite=overwrite)
    stars = TrainingSet.load(dataset)
    held_out: list[str] = []
    if train_fraction != 1:
        stars, rest = stars.split(train_fraction, seed=seed)
        held_out = rest.star_id.tolist()
    settings = TrainingSettings(
        method=method.value,
        n_factors=factors_of(factors),  # type: ignore[arg-type]
        degree=degree,
        snr_min=snr_min,
        latent_labels=latent_labels,
        missing=missing.value,
    )
    with watching() as progress:
        cannon = train_model(
            stars, settings=settings, windows=windows_of(window or []), held_out=held_out,
            seed=seed, progress=progress,
        )  # fmt: skip
    cannon.save(out, overwrite=overwrite)
    OUT.print(
        f"{out}: {len(cannon.training)} stars, {cannon.n_pixels} pixels, "
        f"{cannon.basis.n_terms} terms, {cannon.n_factors} factors; {len(held_out)} held out"
    )


@app.command()
def infer(
    cannon: Annotated[Path, typer.Argument(help="Trained model.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="A dataset (its held-out stars), or FITS files and folders."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Run to write.")],
    method: Annotated[Sampler, typer.Option(help="Sample, or the Gaussian at the mode.")] = (
        Sampler.nuts
    ),
    draws: Annotated[int, typer.Option(help="Draws per chain.")] = 500,
    chains: Annotated[int, typer.Option(help="Chains.")] = 4,
    priors: Annotated[
        Path | None, typer.Option(help="TOML file of priors, a table for each label.")
    ] = None,
    min_pixels: Annotated[
        int | None,
        typer.Option(
            help="Usable pixels that a star needs; default half of the model's, at most 100."
        ),
    ] = None,
    visit: Annotated[int | None, typer.Option(help="Visit, from 1, instead of all.")] = None,
    corner: Annotated[
        list[str] | None, typer.Option(help="Star that gets a corner plot, or all.")
    ] = None,
    all_stars: Annotated[
        bool, typer.Option("--all-stars", help="Of a dataset, its training stars too.")
    ] = False,
    seed: Seed = 1,
    overwrite: Overwrite = False,
) -> None:
    """Sample the labels of held-out stars, or of the FITS files given.

    A run that was cut off goes on where it was; of a finished one, only what lacks is drawn.
    Exit status 1 says that stars are left without a posterior.
    """
    from bayes_cannon.base.parallel import available_cores
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.inference.settings import InferenceSettings
    from bayes_cannon.models.cannon import Cannon
    from bayes_cannon.models.model_priors import priors_of
    from bayes_cannon.runs.inputs import spectra_to_infer
    from bayes_cannon.runs.run import infer_run

    # What can be wrong with the options is said before any file is read.
    settings = InferenceSettings(
        method=method.value, draws=draws, chains=chains, min_pixels=min_pixels
    )
    model = Cannon.load(cannon)
    given = priors_of(model, priors)
    with watching() as progress:
        spectra, labels = spectra_to_infer(
            model, inputs, visit=visit, all_stars=all_stars, progress=progress
        )
    chosen = stars_to_plot(corner or [], spectra, few=labels is None)
    with _to_go_on(), watching() as progress:
        run = infer_run(
            model, spectra, out, settings=settings, priors=given, seed=seed, aspcap=labels,
            corner=chosen, inputs={"cannon": [cannon], "spectra": inputs},
            processes=min(4, available_cores()), overwrite=overwrite, progress=progress,
        )  # fmt: skip
    s = run.summary
    earlier = f", {s['n_from_earlier']} of them done earlier" if s["n_from_earlier"] else ""
    flags = ", ".join(f"{name} {number}" for name, number in s["flags"].items())
    OUT.print(
        f"{out}: {s['n_stars']} stars{earlier}, {s['n_failed']} without a posterior, "
        f"{s['n_flagged']} flagged{f' ({flags})' if flags else ''}, {s['seconds']:.1f} s"
    )
    if s["n_failed"]:
        raise typer.Exit(1)


@contextmanager
def _to_go_on() -> Iterator[None]:
    """Say of work that was interrupted that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(130) from None


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Run from `infer`.")],
    cannon: Annotated[
        Path | None, typer.Option(help="Trained model, in place of the one the run notes.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Dataset, in place of the one the run notes.")
    ] = None,
    survey: Annotated[Path | None, typer.Option(help="Folder with the raw spectra.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="True labels: truth.ecsv of a simulated survey.")
    ] = None,
    mystery: Annotated[
        Path | None, typer.Option(help="Run of stars without catalogue labels, shown beside.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write; default RUN/report.html.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write figures and one self-contained report.html of a run.

    Model, dataset and raw spectra are found where the run notes them; what is missing is said in
    the report. With -o only that file is written, with all figures inside.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.runs.report.report import write_report

    with watching() as progress:
        made = write_report(
            run, cannon=cannon, dataset=dataset, survey=survey, truth=truth, mystery=mystery,
            out=out, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    for why in dict.fromkeys(made.missing.values()):
        lacking = ", ".join(key for key, reason in made.missing.items() if reason == why)
        OUT.print(one_line(f"not shown ({lacking}): {why}"))
    for key, reason in made.failed.items():
        OUT.print(one_line(f"could not be made ({key}): {reason}"))
    OUT.print(f"{made.path}: a report of {made.size / 1e6:.1f} MB")


@app.command()
def check(
    cannon: Annotated[Path, typer.Argument(help="Trained model.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset with its held-out stars.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("runs/check"),
    run: Annotated[
        Path | None, typer.Option(help="Run of the held-out stars, instead of a new one.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="True labels: truth.ecsv of a simulated survey.")
    ] = None,
    method: Annotated[Sampler, typer.Option(help="Sample, or the Gaussian at the mode.")] = (
        Sampler.nuts
    ),
    seed: Seed = 1,
    overwrite: Overwrite = False,
) -> None:
    """Check on held-out stars that intervals hold what they promise; status 1 if not.

    Coverage, PIT and scores against the catalogue's labels and, with --truth, against true ones.
    """
    from bayes_cannon.cli.console import OUT, print_check, watching
    from bayes_cannon.inference.settings import InferenceSettings
    from bayes_cannon.models.cannon import Cannon
    from bayes_cannon.runs.check import run_check

    with watching() as progress:
        found = run_check(
            Cannon.load(cannon), dataset, out, run=run, truth=truth,
            settings=InferenceSettings(method=method.value) if run is None else None,
            seed=seed if run is None else None, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    print_check(found)
    OUT.print(f"{out}: tables and figures")
    if not found.passed:
        raise typer.Exit(1)


@app.command()
def download(
    out: Annotated[Path, typer.Argument(help="Folder of the survey to make or complete.")],
    release: Annotated[str, typer.Option(help="dr17 or dr16.")] = "dr17",
    field: Annotated[list[str] | None, typer.Option(help="Field, once each.")] = None,
    star: Annotated[
        list[str] | None, typer.Option(help="APOGEE_ID of a single star; no cuts apply to it.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Label besides the five default ones, once each.")
    ] = None,
    allstar: Annotated[
        Path | None, typer.Option(help="allStar file to take the catalogue from.")
    ] = None,
    catalogue_source: Annotated[
        str | None, typer.Option(help="skyserver (default), or allstar-file (4 GB, once).")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many spectra.")] = None,
    snr_min: Annotated[float | None, typer.Option(help="Least S/N.")] = None,
    cuts: Annotated[
        bool, typer.Option(help="Leave out spectra of fields that `prepare` cuts by default.")
    ] = True,
    sas_url: Annotated[str | None, typer.Option(help="Another archive.")] = None,
    skyserver_url: Annotated[str | None, typer.Option(help="Another SkyServer.")] = None,
) -> None:
    """Bring catalogue rows and spectra from SDSS; goes on where it stopped."""
    from bayes_cannon.cli.console import OUT, downloading
    from bayes_cannon.spectra.labels import DEFAULT_LABELS
    from bayes_cannon.surveys.apogee.cuts import Cuts
    from bayes_cannon.surveys.archive.download import download_survey

    try:
        with downloading() as progress:
            report = download_survey(
                out,
                release=release,
                fields=field or (),
                stars=star or (),
                allstar=allstar,
                catalogue_source=catalogue_source,
                limit=limit,
                snr_min=snr_min,
                cuts=Cuts() if cuts else None,
                labels=tuple(dict.fromkeys((*DEFAULT_LABELS, *(label or ())))),
                sas_url=sas_url,
                skyserver_url=skyserver_url,
                details=progress,
            )
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    OUT.print("; ".join(f"{step}: {n}" for step, n in report.selection), markup=False)
    OUT.print(f"{out}: {report}", markup=False)
    for missing in report.missing:
        OUT.print(f"  missing {missing.star_id}: {missing.message}", markup=False)
    if not report.complete:
        raise typer.Exit(2)


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Argument(help="Folder to write; default runs/demo or runs/demo-real.")
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Real giants (Gaia XP, APOGEE labels), no simulation.")
    ] = False,
    n_stars: Annotated[
        int | None, typer.Option(min=1, help="Stars; default all there are.")
    ] = None,
    factors: Annotated[str, typer.Option(help="Nuisance factors: a number, or auto.")] = "auto",
    seed: Seed = 1,
    overwrite: Overwrite = False,
) -> None:
    """Go the whole way: on simulated FITS files, or on the real giants in the package (--real)."""
    from bayes_cannon.cli.demo import run_demo, run_real_demo

    whole_way = run_real_demo if real else run_demo
    folder = out or Path("runs/demo-real" if real else "runs/demo")
    whole_way(
        folder, n_stars=n_stars, n_factors=factors_of(factors), seed=seed, overwrite=overwrite
    )


def _show_warning(message: Warning | str, category: type[Warning], *_: object) -> None:
    if issubclass(category, BayesCannonWarning):
        typer.echo(one_line(f"warning: {message}"), err=True)


def main() -> None:
    """Run the command line."""
    warnings.showwarning = _show_warning  # type: ignore[assignment]
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("stopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    except (BayesCannonError, OSError, MemoryError) as error:
        typer.echo(error_line(error), err=True)
        sys.exit(2)
    except Exception as error:  # no traceback, whatever happened, unless it was asked for
        if logging.getLogger().isEnabledFor(logging.INFO):
            traceback.print_exc()
        typer.echo(unexpected_line(error), err=True)
        sys.exit(2)
