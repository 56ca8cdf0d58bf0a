"""The commands about what belongs together: repeats (visits to a star), population (a group)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayes_cannon.cli.options import (
    Flagged,
    Overwrite,
    Progress,
    Sampler,
    Scheduler,
    Seed,
    Workers,
    to_go_on,
)

__all__ = [
    "population",
    "repeats",
]


def repeats(
    cannon: Annotated[Path, typer.Argument(help="Model file from `train`.")],
    survey: Annotated[Path, typer.Argument(help="Survey folder, with the spectra of visits.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write tables and figure to.")],
    all_stars: Annotated[
        bool, typer.Option("--all-stars", help="Include the training stars.")
    ] = False,
    flagged: Annotated[
        Flagged, typer.Option(help="Visits with a BAD flag: exclude or keep them.")
    ] = Flagged.exclude,
    method: Annotated[
        Sampler,
        typer.Option(
            help="Sample the posterior (nuts), or use the Gaussian at its mode (laplace)."
        ),
    ] = Sampler.nuts,
    workers: Workers = None,
    scheduler: Scheduler = None,
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Compare the labels of repeated visits to the same stars.

    Scale and floor of the errors are fitted to the differences. They show only the part of the
    error that differs from visit to visit. Repeat the same command to continue an interrupted one.
    """
    from bayes_cannon.analysis.repeated.comparison import SEES
    from bayes_cannon.base.engines.opening import open_engine
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.inference.settings import InferenceSettings
    from bayes_cannon.runs.repeated import run_repeats

    with to_go_on(), open_engine(workers, scheduler) as engine, watching() as progress:
        found = run_repeats(
            cannon, survey, out, all_stars=all_stars, flagged=flagged.value,
            settings=InferenceSettings(method=method.value), seed=seed, executor=engine,
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
    OUT.print(str(found))
    OUT.print(SEES)
    OUT.print(f"{out}: tables and figure")


def population(
    run: Annotated[Path, typer.Argument(help="Run folder from `infer`.")],
    stars: Annotated[
        Path,
        typer.Option(help="File with the stars of the group: a table, or one name a line."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write tables and figures to.")
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(help="Label to use. Repeat for several labels. Default: all."),
    ] = None,
    flagged: Annotated[
        Flagged, typer.Option(help="Stars with a BAD flag: exclude or keep them.")
    ] = Flagged.exclude,
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Infer the mean and the intrinsic scatter of a group of stars.

    The calibrated posteriors of the stars are the data. Stars that are not in the run are named in
    the table of members.
    """
    from bayes_cannon.analysis.groups.fit import group_table
    from bayes_cannon.base.rounding import error_digits, two_digits
    from bayes_cannon.cli.console import OUT
    from bayes_cannon.runs.groups import run_population

    found = run_population(
        run, stars, out, labels=label or None, flagged=flagged.value, seed=seed,
        overwrite=overwrite,
    )  # fmt: skip
    for row in group_table(found):
        unit = f" {row['UNIT']}" if row["UNIT"] else ""
        error = float(row["MEAN_ERR"])
        mean = f"{row['MEAN']:.{error_digits(error)}f} ± {two_digits(error)}"
        low, high = float(row["SCATTER_LOW"]), float(row["SCATTER_HIGH"])
        digits = error_digits(high - low)
        scatter = f"{row['SCATTER']:.{digits}f} ({low:.{digits}f} to {high:.{digits}f}, 68 %)"
        if row["SCATTER_LOW95"] <= 0:
            scatter = f"below {two_digits(float(row['SCATTER_LIMIT']))} (95 %)"
        OUT.print(f"{row['LABEL']}: mean {mean}{unit}, scatter {scatter}{unit}")
    OUT.print(f"{out}: {found.attrs['told']}")
