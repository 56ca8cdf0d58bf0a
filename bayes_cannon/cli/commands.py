"""The command ``bayes-cannon``.

Every command ends with exit status 0, or with a one-line error and status 2 (a traceback too where
``--verbose`` is given and the error is not one of the package's own). Status 1 says that a command
did what it could, but not all is well: `infer` left stars without a posterior, `check` failed.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from typing import Annotated

import typer

from bayes_cannon._version import __version__
from bayes_cannon.cli import ensembles, models, runs, surveys
from bayes_cannon.cli.console import (
    PlainFormatter,
    error_line,
    is_not_of_dask,
    one_line,
    unexpected_line,
)
from bayes_cannon.errors import BayesCannonError, BayesCannonWarning

__all__ = [
    "app",
    "main",
]


app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Stellar labels and their posteriors from APOGEE spectra: The Cannon as PyMC models.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"bayes-cannon {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show more messages, and where errors occur.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter("%(levelname)s %(message)s"))
    if not verbose:
        handler.addFilter(is_not_of_dask)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler])


for _command in (
    runs.demo, surveys.simulate, surveys.download, surveys.readers, surveys.prepare,
    models.train, runs.infer, models.check, models.binaries, ensembles.repeats,
    ensembles.population, runs.show, runs.report, runs.cite,
):  # fmt: skip
    app.command()(_command)


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
