"""Progress of the commands: bars on a terminal, a plain line a minute elsewhere.

What the command line says when something is wrong: one line, plain signs, a remedy. Nothing that
takes long to import, for every command, ``--help`` among them, waits for this module.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, override

from rich.console import Console

from bayes_cannon.base.progress import Tell, bars
from bayes_cannon.errors import BayesCannonError

if TYPE_CHECKING:
    from bayes_cannon.surveys.archive.streams import DownloadProgress

__all__ = [
    "OUT",
    "PlainFormatter",
    "downloading",
    "error_line",
    "one_line",
    "show_progress",
    "unexpected_line",
    "watching",
]


# Without markup: the name of a path or of a star may hold brackets.
OUT = Console(highlight=False, soft_wrap=True, markup=False)
_ERR = Console(stderr=True)
_PLAIN_EVERY = 60.0  # seconds between two lines where there is no terminal


def show_progress(shown: bool) -> None:
    """Say whether bars and lines of progress are shown.

    Parameters
    ----------
    shown
        Whether they are.
    """
    _ERR.quiet = not shown


def watching() -> AbstractContextManager[Tell]:
    """Bars that are told of (done, total, what); a plain line a minute without a terminal."""
    return bars(_ERR)


@contextmanager
def downloading() -> Iterator[Callable[[DownloadProgress], None]]:
    """Say how much is to come, then how far it is, with rate and time left.

    A line that changes on a terminal; elsewhere a plain line a minute.
    """
    with _ERR.status("asking for the catalogue") as status:
        said: float | None = None

        def show(progress: DownloadProgress) -> None:
            nonlocal said
            if said is None:
                _ERR.print(
                    f"{progress.files_total} spectra to fetch, about "
                    f"{progress.bytes_total / 1e6:.1f} MB",
                    highlight=False,
                )
                said = progress.seconds
            if _ERR.is_terminal:
                status.update(str(progress))
            elif progress.seconds - said >= _PLAIN_EVERY:
                _ERR.print(str(progress), highlight=False, soft_wrap=True)
                said = progress.seconds

        yield show


_FULL = {errno.ENOSPC, errno.EDQUOT}


def one_line(text: str) -> str:
    """Text in one line without control characters, which could steer the user's terminal.

    Names of stars and files come from headers and catalogues, and may hold anything.

    Parameters
    ----------
    text
        Any text.
    """
    words = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in words)


def error_line(error: BaseException) -> str:
    """Say in one line what ended a command.

    Parameters
    ----------
    error
        What was raised.
    """
    if isinstance(error, BayesCannonError):
        return one_line(f"error: {error}")
    if isinstance(error, MemoryError):
        return "error: there is not enough memory; take fewer stars at a time."
    if isinstance(error, OSError):
        said = error.strerror or str(error) or type(error).__name__
        place = "" if error.filename is None else f" ({error.filename})"
        remedy = "; make space, then run the same command again" if error.errno in _FULL else ""
        return one_line(f"error: {said}{place}{remedy}.")
    return one_line(f"error: {type(error).__name__}: {error}")


def unexpected_line(error: BaseException) -> str:
    """Say in one line that something happened that the package did not foresee.

    Parameters
    ----------
    error
        What was raised.
    """
    return one_line(
        f"error: {type(error).__name__}: {error} (unexpected; please report it, with what "
        "bayes-cannon --verbose COMMAND prints)"
    )


class PlainFormatter(logging.Formatter):
    """Log records in one line each, without control characters."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return one_line(super().format(record))
