"""Paths as users give them: text, bytes or path objects, with ``~`` for the home folder."""

from __future__ import annotations

import os
from pathlib import Path

from bayes_cannon.errors import InvalidDataError

__all__ = [
    "has_ending",
    "is_fits_name",
    "user_path",
    "without_fits_ending",
]


_ENDINGS = (".fits", ".fits.gz")


def user_path(path: object) -> Path:
    """Return a path with its ``~`` or ``~name`` expanded.

    Parameters
    ----------
    path : str, bytes or os.PathLike

    Raises
    ------
    InvalidDataError
        If it is something else, or there is no such home folder.
    """
    try:
        given = Path(os.fsdecode(path))  # type: ignore[arg-type]
    except TypeError:
        raise InvalidDataError(
            f"a path must be text or a path object, not {type(path).__name__}."
        ) from None
    try:
        return given.expanduser()
    except RuntimeError as error:
        raise InvalidDataError(f"{given}: {error}; write the folder out.") from error


def has_ending(path: str | os.PathLike[str], *endings: str) -> bool:
    """Whether the name of a file or folder ends so, in capitals or not.

    Parameters
    ----------
    path
        Of the file or folder.
    endings
        Such as ``".zarr"``.

    Examples
    --------
    >>> has_ending("SET.ZARR", ".zarr"), has_ending("set.nc", ".zarr")
    (True, False)
    """
    return Path(path).name.lower().endswith(endings)


def is_fits_name(name: str) -> bool:
    """Whether a file's name ends with .fits or .fits.gz, in capitals or not.

    Parameters
    ----------
    name
        Of a file.
    """
    return has_ending(name, *_ENDINGS)


def without_fits_ending(name: str) -> str:
    """Return a file's name without .fits or .fits.gz, in capitals or not.

    Parameters
    ----------
    name
        Of a file.
    """
    short = name[:-3] if name.lower().endswith(".gz") else name
    return short[:-5] if short.lower().endswith(".fits") else short
