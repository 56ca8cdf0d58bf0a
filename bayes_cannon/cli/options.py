"""Options of the commands and how their texts are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from bayes_cannon.errors import DownloadError, FitError, InvalidDataError, LabelError

if TYPE_CHECKING:
    from bayes_cannon.spectra.dataset import TrainingSet
    from bayes_cannon.spectra.stored import AnySpectra


Seed = Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing output.")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Number of processes to work in. Default: threads of this one."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address or scheduler file of a running Dask scheduler to work on."),
]


def _show_progress(value: bool) -> bool:
    from bayes_cannon.cli.console import show_progress

    show_progress(value)
    return value


Progress = Annotated[
    bool,
    typer.Option("--progress/--quiet", callback=_show_progress, help="Show or hide progress bars."),
]

_MOST_TOLD = 5
"""Files that could not be used whose reason is printed."""


class Method(StrEnum):
    """Ways to fit the training model."""

    map = "map"
    advi = "advi"


class Missing(StrEnum):
    """What becomes of training stars that lack a label."""

    auto = "auto"
    impute = "impute"
    drop = "drop"


class ReadyWindows(StrEnum):
    """Windows that come with the package."""

    none = "none"
    lines = "lines"


class Flagged(StrEnum):
    """What becomes of spectra with a flag of severity BAD."""

    exclude = "exclude"
    keep = "keep"


class Light(StrEnum):
    """What is said of the light of a second star."""

    free = "free"
    tied = "tied"
    isochrone = "isochrone"


class Sampler(StrEnum):
    """Ways to infer labels."""

    nuts = "nuts"
    laplace = "laplace"


def print_cuts(dataset: TrainingSet) -> None:
    """Print how many stars each cut removed, and which files could not be used.

    Parameters
    ----------
    dataset
        Training set, which counts what its cuts removed.
    """
    from rich.table import Table

    from bayes_cannon.cli.console import OUT

    table = Table("cut", "what it removes", box=None)
    for name in ("removed", "left"):
        table.add_column(name, justify="right")
    for row in dataset.cut_table().iterrows():
        table.add_row(*map(str, row))
    OUT.print(table)
    unread = [problem for problem in dataset.problems if problem.path]
    for problem in unread[:_MOST_TOLD]:
        OUT.print(f"not used: {problem.star_id}: {problem.message}", markup=False)
    if len(unread) > _MOST_TOLD:
        OUT.print(f"not used: {len(unread) - _MOST_TOLD} more, see the dataset's problems")


def bits_of(text: str) -> int | str:
    """Bits of the mask: a number, or the name of a preset.

    Parameters
    ----------
    text
        ``default``, ``lenient``, ``pipeline``, or a number, decimal or with a prefix (``0x…``).

    Raises
    ------
    InvalidDataError
        If it begins like a number and is none.
    """
    if not text[:1].isdigit():
        return text
    try:
        return int(text, 0)
    except ValueError as error:
        raise InvalidDataError(
            f"--bad-bits takes default, lenient, pipeline or a number, not {text!r}."
        ) from error


def check_options(given: Mapping[str, object], release: str) -> None:
    """Raise where an option is given that a data release has no use for.

    Parameters
    ----------
    given
        Values of options, by name; those that were not given are empty.
    release
        Data release.

    Raises
    ------
    DownloadError
        If one of them is given.
    """
    for name, value in given.items():
        if value:
            raise DownloadError(f"{name} does not go with --release {release}.")


def numbers_of_text(option: str, text: str, order: str) -> tuple[float, ...]:
    """Read numbers with commas between them, as many as `order` names.

    Parameters
    ----------
    option
        Name of the option, for messages.
    text
        What was given.
    order
        Names of the numbers, with commas between them.

    Returns
    -------
    tuple of float
        In degrees.

    Raises
    ------
    DownloadError
        If they are not numbers, or not as many.
    """
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != len(order.split(",")):
        raise DownloadError(f"{option} takes {order} in degrees, not {text!r}.")
    return numbers


def factors_of(text: str) -> int | str:
    """Read the number of factors, or ``auto``.

    Parameters
    ----------
    text
        What was given for ``--factors``.

    Raises
    ------
    FitError
        If it is neither.
    """
    if text == "auto":
        return text
    if not (text.isascii() and text.isdigit()):
        raise FitError(f"--factors takes a number or 'auto', not {text!r}.")
    return int(text)


def terms_of(text: str) -> tuple[str, ...] | str:
    """Read the names of known terms, or ``auto`` or ``none``.

    Parameters
    ----------
    text
        What was given for ``--terms``, names with commas between them.

    Raises
    ------
    FitError
        If there is no such term.

    Examples
    --------
    >>> terms_of("ghost,shift"), terms_of("none")
    (('shift', 'ghost'), ())
    """
    from bayes_cannon.spectra.distortions import known_term_names

    if text in ("auto", "none"):
        return text if text == "auto" else ()
    try:
        return known_term_names([name.strip() for name in text.split(",")])
    except InvalidDataError as error:
        raise FitError(f"--terms takes names with commas, 'auto' or 'none': {error}") from error


def windows_of(texts: list[str]) -> dict[str, list[tuple[float, float]]]:
    """``NAME=low:high`` as ranges by label.

    Parameters
    ----------
    texts
        What was given for ``--window``, Å.

    Returns
    -------
    dict
        Pairs (low, high) by label, Å.

    Raises
    ------
    LabelError
        If a text is not of that form.
    """
    windows: dict[str, list[tuple[float, float]]] = {}
    for text in texts:
        name, _, ranges = text.partition("=")
        low, _, high = ranges.partition(":")
        try:
            windows.setdefault(name, []).append((float(low), float(high)))
        except ValueError as error:
            raise LabelError(f"--window takes NAME=low:high in Å, not {text!r}.") from error
    return windows


MOST_CORNERS = 1000
"""Corner plots that are drawn unless more are asked for."""
Corner = Annotated[
    list[str] | None,
    typer.Option(
        help="Corner plots to draw: none, all, a number of stars, or the name of a star; repeat "
        f"for several stars. Default: all stars, at most {MOST_CORNERS}."
    ),
]


def stars_to_plot(wanted: list[str] | None, spectra: AnySpectra) -> list[str]:
    """Ids of the stars that get a corner plot.

    Parameters
    ----------
    wanted
        ``none``, ``all``, a number of stars, or names of stars; where left out, all stars up to
        `MOST_CORNERS`.
    spectra
        Of all stars of the run.

    Raises
    ------
    InvalidDataError
        If ``none``, ``all`` or a number is given beside something else.
    """
    from bayes_cannon.spectra.star_ids import plain_name

    usable: list[str] = spectra.star_id[spectra.usable].tolist()
    if not wanted:
        return usable[:MOST_CORNERS]
    known = set(spectra.star_id.tolist())
    for word in wanted:
        number = word.isascii() and word.isdigit()
        if word in known or not (number or word in ("all", "none")):
            continue
        if len(wanted) > 1:
            raise InvalidDataError(
                f"--corner {word} stands alone; give it once, or names of stars."
            )
        return usable if word == "all" else usable[: int(word) if number else 0]
    # A star that is there several times has names like apo25m/M15/ID and ID#2.
    plain: dict[str, list[str]] = {}
    for star in spectra.star_id.tolist():
        plain.setdefault(plain_name(star), []).append(star)
    return [star for name in wanted for star in plain.get(name, [name])]


@contextmanager
def to_go_on(told: str = "run the same command again to continue") -> Iterator[None]:
    """Say of work that was interrupted what is kept, and how to go on.

    Parameters
    ----------
    told
        What is said of it.

    Raises
    ------
    typer.Exit
        With status 130, on Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped; {told}", err=True)
        raise typer.Exit(130) from None
