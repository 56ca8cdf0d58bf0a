"""The commands about models: train and check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayes_cannon.base.cards import count_text
from bayes_cannon.cli.options import (
    Light,
    Method,
    Missing,
    Overwrite,
    Progress,
    ReadyWindows,
    Sampler,
    Scheduler,
    Seed,
    Workers,
    factors_of,
    terms_of,
    to_go_on,
    windows_of,
)
from bayes_cannon.errors import InvalidDataError

__all__ = [
    "binaries",
    "check",
    "train",
]

_ANEW = "nothing is kept, and nothing was written; the same command begins anew"
"""What is said where work that is not resumed is interrupted."""


def train(
    dataset: Annotated[Path, typer.Argument(help="Dataset from `prepare`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write.")],
    method: Annotated[
        Method, typer.Option(help="Closed form (map), or variational inference with PyMC (advi).")
    ] = Method.map,
    factors: Annotated[
        str, typer.Option(help="Number of nuisance factors, or auto to choose it.")
    ] = "auto",
    degree: Annotated[
        int, typer.Option(help="Degree of the polynomial in the labels, 1 to 3.")
    ] = 2,
    train_fraction: Annotated[
        float, typer.Option(help="Fraction of the stars to train on. The rest is held out.")
    ] = 0.5,
    snr_min: Annotated[
        float, typer.Option(help="Minimum S/N per pixel of the training stars.")
    ] = 0.0,
    latent_labels: Annotated[
        bool,
        typer.Option(
            "--latent-labels/--exact-labels",
            help="Model the errors of the training labels, or take the labels as exact.",
        ),
    ] = True,
    missing: Annotated[
        Missing,
        typer.Option(
            help="Stars with missing labels: impute the labels, drop the stars, or decide (auto)."
        ),
    ] = Missing.auto,
    window: Annotated[
        list[str] | None,
        typer.Option(
            help="Restrict a label to a range, NAME=low:high (Å in vacuum). Repeat for several."
        ),
    ] = None,
    windows: Annotated[
        ReadyWindows,
        typer.Option(
            help="Confine every abundance to the known lines of its element (lines), except those "
            "given by --window."
        ),
    ] = ReadyWindows.none,
    terms: Annotated[
        str,
        typer.Option(
            help="Known terms beside the factors, with commas (shift,ghost,continuum,broadening), "
            "none, or auto: shift, if predictive density says so where it chooses the factors, too."
        ),
    ] = "auto",
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Train a model on part of a dataset.

    The other stars are held out for tests. The model file records which stars they are.
    """
    from bayes_cannon.analysis.information import line_windows
    from bayes_cannon.base.engines.opening import open_engine
    from bayes_cannon.base.storage import check_netcdf
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.models.cannon import NAMED
    from bayes_cannon.spectra.stored import open_dataset
    from bayes_cannon.training.pipeline import train as train_model
    from bayes_cannon.training.settings import TrainingSettings

    check_netcdf(out, NAMED, overwrite=overwrite)
    stars = open_dataset(dataset)
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
        terms=terms_of(terms),  # type: ignore[arg-type]
    )
    ranges = windows_of(window or [])
    if windows is ReadyWindows.lines:
        ranges = line_windows(stars.labels.names, medium=stars.spectra.medium) | ranges
    with to_go_on(_ANEW), open_engine(workers, scheduler) as engine, watching() as progress:
        cannon = train_model(
            stars, settings=settings, windows=ranges, held_out=held_out,
            seed=seed, executor=engine, progress=progress,
        )  # fmt: skip
    cannon.save(out, overwrite=overwrite)
    OUT.print(
        f"{out}: {count_text(len(cannon.training), 'star')}, {cannon.n_pixels} pixels, "
        f"{cannon.basis.n_terms} terms, {count_text(cannon.n_factors, 'factor')}; {len(held_out)} "
        "held out"
    )
    if cannon.terms:
        OUT.print(f"known terms, rms over stars: {cannon.known_terms}")
    if cannon.model_error is not None and (outliers := cannon.outliers()):
        named = ", ".join(f"{star} ({p:.2f})" for star, p in list(outliers.items())[:5])
        OUT.print(
            f"{count_text(len(outliers), 'probable outlier')} among the training stars, labels far "
            f"from the catalogue's (probability): {named}{', …' if len(outliers) > 5 else ''}",
            markup=False,
        )


def check(
    cannon: Annotated[Path, typer.Argument(help="Model file from `train`.")],
    dataset: Annotated[Path, typer.Argument(help="Dataset that holds the held-out stars.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write tables and figures to.")
    ] = Path("runs/check"),
    run: Annotated[
        Path | None, typer.Option(help="Existing run of the held-out stars, instead of a new one.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(help="True labels of a simulated survey (truth.ecsv).")
    ] = None,
    method: Annotated[
        Sampler,
        typer.Option(
            help="Sample the posterior (nuts), or use the Gaussian at its mode (laplace)."
        ),
    ] = (Sampler.nuts),
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Test the calibration of a model on its held-out stars.

    Coverage, PIT and scores are computed against the catalogue labels and, with --truth, against
    the true labels. Exit status 1 means that a coverage is outside its tolerance.
    """
    from bayes_cannon.base.engines.opening import open_engine
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.cli.printing import print_check
    from bayes_cannon.inference.settings import InferenceSettings
    from bayes_cannon.models.cannon import Cannon
    from bayes_cannon.runs.check import run_check

    with to_go_on(), open_engine(workers, scheduler) as engine, watching() as progress:
        found = run_check(
            Cannon.load(cannon), dataset, out, run=run, truth=truth,
            settings=InferenceSettings(method=method.value) if run is None else None,
            seed=seed if run is None else None, executor=engine, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    print_check(found)
    OUT.print(f"{out}: tables and figures")
    if not found.passed:
        raise typer.Exit(1)


def binaries(
    cannon: Annotated[Path, typer.Argument(help="Model file from `train`.")],
    dataset: Annotated[
        Path, typer.Argument(help="Dataset that the model was trained on, in part.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write tables and figures to.")
    ],
    light: Annotated[
        Light,
        typer.Option(
            help="Light of the second star: free, tied to the labels of both (equal masses), or "
            "of two stars on one isochrone (needs --isochrones)."
        ),
    ] = Light.free,
    isochrones: Annotated[
        list[Path] | None,
        typer.Option(
            help="MIST file (.iso or .iso.cmd) for --light isochrone; several, one for each "
            "[Fe/H]: the option several times."
        ),
    ] = None,
    second_cannon: Annotated[
        Path | None,
        typer.Option(help="Model file of second stars, such as dwarfs. Default: CANNON."),
    ] = None,
    prior_rate: Annotated[
        float, typer.Option(help="Share of pairs among stars, for the probability of each.")
    ] = 0.03,
    false_positives: Annotated[
        float, typer.Option(help="Share of single stars that may become candidates.")
    ] = 0.01,
    folds: Annotated[
        int, typer.Option(help="Models fitted without part of the training stars.")
    ] = 5,
    figures: Annotated[int, typer.Option(min=0, help="Candidates whose spectra are drawn.")] = 10,
    sample: Annotated[
        int,
        typer.Option(min=0, help="Candidates whose posterior is sampled, the most probable first."),
    ] = 0,
    run: Annotated[
        Path | None,
        typer.Option(help="Run that is given the result: BINARY_CANDIDATE in LABEL_FLAG, report."),
    ] = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Look for spectra that are the sum of two stars.

    How often a single star looks like a pair is measured on the training stars, each fitted by a
    model without it. What can be found at all is in pairs.ecsv and completeness.png.
    """
    from bayes_cannon.analysis.binaries.finding import find_binaries
    from bayes_cannon.analysis.isochrones import read_mist
    from bayes_cannon.base.engines.opening import open_engine
    from bayes_cannon.base.storage import check_output
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.models.cannon import Cannon
    from bayes_cannon.runs.binaries import TABLES, give_to_run, write_binaries
    from bayes_cannon.runs.results import open_run
    from bayes_cannon.spectra.dataset import TrainingSet

    for name in TABLES:
        check_output(out / name, overwrite=overwrite)
    model, stars = Cannon.load(cannon), TrainingSet.load(dataset)
    second = None if second_cannon is None else Cannon.load(second_cannon)
    if bool(isochrones) != (light.value == "isochrone"):
        raise InvalidDataError(
            "--isochrones needs --light isochrone."
            if isochrones
            else "--light isochrone needs --isochrones FILE, MIST isochrones of the stars' [Fe/H]."
        )
    if run is not None and set(open_run(run).star_id.tolist()).isdisjoint(stars.star_id.tolist()):
        raise InvalidDataError(f"the run {run} has none of the stars of {dataset}.")
    tracks = read_mist(*isochrones) if isochrones else None
    with to_go_on(_ANEW), open_engine(workers, scheduler) as engine, watching() as progress:
        search = find_binaries(
            model, stars, second=second, light=light.value, isochrones=tracks,
            prior_rate=prior_rate, false_positive_rate=false_positives, folds=folds, seed=seed,
            executor=engine, progress=progress,
        )  # fmt: skip
    with to_go_on(f"{out} is not complete; run the same command again with --overwrite"):
        write_binaries(
            search, out, cannon=model, spectra=stars, most_figures=figures, n_sampled=sample,
            seed=seed, overwrite=overwrite,
        )  # fmt: skip
        if run is not None:
            give_to_run(run, search.table)
    found = search.pairs["FOUND"]
    OUT.print(
        f"{out}: {count_text(len(search.candidates), 'candidate')} of "
        f"{count_text(len(search.table), 'star')} at {100 * false_positives:g} % of single stars; "
        f"{100 * found.mean():.0f} % of {count_text(len(found), 'sum')} of two stars were found",
        markup=False,
    )
    if one_age := search.settings.isochrones:
        OUT.print(
            f"light of {one_age.band} on isochrones of "
            f"{count_text(one_age.log10_age.size, 'age')}: "
            f"{one_age.source}",
            markup=False,
        )
