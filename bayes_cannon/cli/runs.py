"""The commands about runs: infer, show, report, cite, and demo, which makes one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bayes_cannon.cli.console import one_line
from bayes_cannon.cli.options import (
    MOST_CORNERS,
    Corner,
    Overwrite,
    Progress,
    Sampler,
    Scheduler,
    Seed,
    Workers,
    factors_of,
    stars_to_plot,
    to_go_on,
)

__all__ = [
    "cite",
    "demo",
    "infer",
    "report",
    "show",
]

_FEW = 5
"""Stars whose labels `infer` prints."""


def infer(
    cannon: Annotated[Path, typer.Argument(help="Model file from `train`.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="A dataset, of which the stars are used that the model was not trained on, or "
            "FITS files and folders."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the run to.")],
    method: Annotated[
        Sampler,
        typer.Option(
            help="Sample the posterior (nuts), or use the Gaussian at its mode (laplace)."
        ),
    ] = (Sampler.nuts),
    draws: Annotated[int, typer.Option(help="Number of draws per chain.")] = 500,
    chains: Annotated[int, typer.Option(help="Number of chains.")] = 4,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="draws|thin:N|moments",
            help="What to keep of the posteriors: all draws, about N draws of a star, or means, "
            "covariances and quantiles. Tables are of all draws. Default: draws; of more than "
            "20 000 stars moments.",
        ),
    ] = None,
    priors: Annotated[
        Path | None, typer.Option(help="TOML file of priors, with one table per label.")
    ] = None,
    min_pixels: Annotated[
        int | None,
        typer.Option(
            help="Minimum number of usable pixels. Default: half of the model's, at most 100."
        ),
    ] = None,
    visit: Annotated[
        int | None,
        typer.Option(help="Number of the visit to use, from 1. Default: the combined spectrum."),
    ] = None,
    corner: Corner = None,
    votable: Annotated[
        bool, typer.Option("--votable", help="Write the catalogue as a VOTable, too.")
    ] = False,
    all_stars: Annotated[
        bool, typer.Option("--all-stars", help="Include the training stars of a dataset.")
    ] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Infer the labels of a dataset's stars, or of stars in FITS files.

    Repeat the same command to continue an interrupted run. Exit status 1 means that some stars
    have no posterior.
    """
    from bayes_cannon.base.cards import count_text
    from bayes_cannon.base.engines.opening import open_engine
    from bayes_cannon.base.parallel import available_cores
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.cli.printing import print_labels
    from bayes_cannon.inference.settings import InferenceSettings
    from bayes_cannon.models.cannon import Cannon
    from bayes_cannon.models.model_priors import priors_of
    from bayes_cannon.runs.inputs import spectra_to_infer
    from bayes_cannon.runs.run import infer_run

    # What can be wrong with the options is said before any file is read.
    settings = InferenceSettings(
        method=method.value, draws=draws, chains=chains, min_pixels=min_pixels, keep=keep
    )
    model = Cannon.load(cannon)
    given = priors_of(model, priors)
    with watching() as progress:
        spectra, labels = spectra_to_infer(
            model, inputs, visit=visit, all_stars=all_stars, progress=progress
        )
    chosen = stars_to_plot(corner, spectra)
    with to_go_on(), open_engine(workers, scheduler) as engine, watching() as progress:
        run = infer_run(
            model, spectra, out, settings=settings, priors=given, seed=seed, aspcap=labels,
            corner=chosen, inputs={"cannon": [cannon], "spectra": inputs},
            processes=1 if engine else min(4, available_cores()), executor=engine,
            votable=votable, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    s = run.summary
    earlier = f", {s['n_from_earlier']} of them done earlier" if s["n_from_earlier"] else ""
    flags = ", ".join(f"{name} {number}" for name, number in s["flags"].items())
    stars = count_text(s["n_stars"], "star")
    n_training = len(set(run.star_id.tolist()) & set(model.training.star_id.tolist()))
    of_training = f" ({n_training} of them in the training set)" if n_training else ""
    OUT.print(
        f"{out}: {stars}{earlier}{of_training}, {s['n_failed']} without a posterior, "
        f"{s['n_flagged']} flagged{f' ({flags})' if flags else ''}, {s['seconds']:.1f} s"
    )
    if s["n_stars"] <= _FEW:
        print_labels(run)
    if not corner and spectra.n_stars > len(chosen) == MOST_CORNERS:
        OUT.print(f"corner plots: of the first {MOST_CORNERS} stars; --corner all draws them all")
    if s["n_failed"]:
        raise typer.Exit(1)


def show(
    run: Annotated[Path, typer.Argument(help="Run folder from `infer`.")],
    stars: Annotated[
        list[str], typer.Argument(metavar="STAR...", help="Name of a star of the run, or several.")
    ],
) -> None:
    """Print the labels of a star with both errors, its flags and fit.

    Flags come with advice; S/N, rank of the chi-square and the corner plot's file are told. The
    name may be that of the catalogue, without folders: all spectra of the star are printed.
    """
    from bayes_cannon.cli.printing import print_star
    from bayes_cannon.runs.results import open_run

    opened = open_run(run)
    # Unknown names are refused before anything is printed.
    known = [name for star in stars for name in opened.named(star)]
    rows = {name: opened.row(name) for name in known}
    for name, row in rows.items():
        print_star(opened, name, row)


def report(
    run: Annotated[Path, typer.Argument(help="Run folder from `infer`.")],
    cannon: Annotated[
        Path | None, typer.Option(help="Model file, instead of the one recorded in the run.")
    ] = None,
    dataset: Annotated[
        Path | None, typer.Option(help="Dataset, instead of the one recorded in the run.")
    ] = None,
    survey: Annotated[Path | None, typer.Option(help="Survey folder with the raw spectra.")] = None,
    truth: Annotated[
        Path | None, typer.Option(help="True labels of a simulated survey (truth.ecsv).")
    ] = None,
    mystery: Annotated[
        Path | None,
        typer.Option(help="Another run, of stars without catalogue labels, to include."),
    ] = None,
    repeats: Annotated[Path | None, typer.Option(help="Folder from `repeats`, to include.")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Report file to write. Default: RUN/report.html."),
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="Show accuracies that others published beside ours."),
    ] = False,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Write every figure as PDF, too, for a paper.")
    ] = False,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Write a report of a run: one HTML file, with its figures.

    Model, dataset and raw spectra are read from where the run recorded them. The report lists
    what is missing. With --out, only that file is written, with all figures inside.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.runs.report.report import write_report

    with watching() as progress:
        made = write_report(
            run, cannon=cannon, dataset=dataset, survey=survey, truth=truth, mystery=mystery,
            repeats=repeats, out=out, overwrite=overwrite, published=published, pdf=pdf,
            progress=progress,
        )  # fmt: skip
    for why in dict.fromkeys(made.missing.values()):
        lacking = ", ".join(key for key, reason in made.missing.items() if reason == why)
        OUT.print(one_line(f"not shown ({lacking}): {why}"))
    for key, reason in made.failed.items():
        OUT.print(one_line(f"could not be made ({key}): {reason}"))
    OUT.print(f"{made.path}: a report of {made.size / 1e6:.1f} MB")


def cite(
    run: Annotated[Path, typer.Argument(help="Run folder from `infer`.")],
    bibtex: Annotated[
        bool, typer.Option("--bibtex", help="Print the references as BibTeX instead.")
    ] = False,
) -> None:
    """Write a paragraph on methods for a paper, from what a run recorded.

    What the run does not record is listed on standard error, and not in the paragraph.
    """
    from bayes_cannon.runs.citing import methods_paragraph

    methods = methods_paragraph(run)
    typer.echo(methods.bibtex.rstrip() if bibtex else methods.text)
    if methods.missing and not bibtex:
        typer.echo(one_line(f"not recorded: {', '.join(methods.missing)}"), err=True)


def demo(
    out: Annotated[
        Path | None,
        typer.Argument(help="Folder to write. Default: runs/demo, or runs/demo-real with --real."),
    ] = None,
    real: Annotated[
        bool,
        typer.Option(
            "--real",
            help="Use real giants (Gaia XP spectra, APOGEE labels) instead of a simulation.",
        ),
    ] = False,
    n_stars: Annotated[
        int | None, typer.Option(min=1, help="Number of stars. Default: all.")
    ] = None,
    factors: Annotated[
        str, typer.Option(help="Number of nuisance factors, or auto to choose it.")
    ] = "auto",
    corner: Corner = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Run all stages on a simulated survey or on real giants."""
    from bayes_cannon.base.engines.opening import open_engine
    from bayes_cannon.cli.demo import run_demo, run_real_demo

    whole_way = run_real_demo if real else run_demo
    folder = out or Path("runs/demo-real" if real else "runs/demo")
    with open_engine(workers, scheduler) as engine:
        whole_way(
            folder, n_stars=n_stars, n_factors=factors_of(factors), corner=corner, seed=seed,
            executor=engine, overwrite=overwrite,
        )  # fmt: skip
