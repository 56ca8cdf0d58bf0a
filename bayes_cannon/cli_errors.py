"""What the command line says when something is wrong: one line, plain signs, a remedy."""

from __future__ import annotations

import errno
import logging
from typing import override

from bayes_cannon.errors import BayesCannonError

__all__ = ["PlainFormatter", "error_line", "one_line", "unexpected_line"]

_FULL = {errno.ENOSPC, errno.EDQUOT}


def one_line(text: str) -> str:
    """Text in one line without control characters, which could steer the user's terminal.

    Names of stars and files come from headers and catalogues, and may hold anything.
    """
    words = " ".join(text.split())
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in words)


def error_line(error: BaseException) -> str:
    """Say in one line what ended a command."""
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
    """Say in one line that something happened that the package did not foresee."""
    return one_line(
        f"error: {type(error).__name__}: {error} (not foreseen; bayes-cannon --verbose COMMAND "
        "shows where it happened, please report it)"
    )


class PlainFormatter(logging.Formatter):
    """Log records in one line each, without control characters."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return one_line(super().format(record))
