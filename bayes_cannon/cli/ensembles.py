"""The commands about stars that belong together: repeats (visits to one star)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayes_cannon.cli.options import Flagged, Overwrite, Progress, Sampler, Seed, to_go_on

__all__ = [
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
    seed: Seed = 1,
    overwrite: Overwrite = False,
    _progress: Progress = True,
) -> None:
    """Compare the labels of repeated visits to the same stars.

    Scale and floor of the errors are fitted to the differences. They show only the part of the
    error that differs from visit to visit. Repeat the same command to continue an interrupted one.
    """
    from bayes_cannon.analysis.repeated.comparison import SEES
    from bayes_cannon.cli.console import OUT, watching
    from bayes_cannon.inference.settings import InferenceSettings
    from bayes_cannon.models.cannon import Cannon
    from bayes_cannon.runs.repeated import run_repeats

    with to_go_on(), watching() as progress:
        found = run_repeats(
            Cannon.load(cannon), survey, out, all_stars=all_stars, flagged=flagged.value,
            settings=InferenceSettings(method=method.value), seed=seed, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    OUT.print(str(found))
    OUT.print(SEES)
    OUT.print(f"{out}: tables and figure")
