"""Files below a folder: links are followed, loops of links are not."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from bayes_cannon.base.paths import is_fits_name

__all__ = [
    "files_at_top",
    "files_below",
    "is_spectrum",
]


_log = logging.getLogger(__name__)


def is_spectrum(name: str) -> bool:
    """Whether a file's name is that of an apStar or asStar file.

    Parameters
    ----------
    name
        Of a file.
    """
    return name.startswith(("apStar-", "asStar-")) and is_fits_name(name)


def files_at_top(folder: Path, wanted: Callable[[str], object]) -> list[Path]:
    """FITS files in a folder itself, in order of their names: where a survey has its catalogues.

    Parameters
    ----------
    folder
        Where to look.
    wanted
        Says of a file's name whether it is wanted.
    """
    found = files_below(folder, lambda name: is_fits_name(name) and wanted(name), depth=0)
    return [folder / name for (name,) in found if (folder / name).is_file()]


def files_below(
    folder: Path, wanted: Callable[[str], object], *, depth: int | None = None
) -> Iterator[tuple[str, ...]]:
    """Parts of the paths of files below a folder, relative to it, in order of their names.

    Links to files and folders are followed; a folder that was seen on the way down to a link is
    not gone into again. A link that leads nowhere counts as a file, so that reading it says so.
    Hidden files and folders are left aside; a folder that cannot be read is logged.

    Parameters
    ----------
    folder
        Where to look.
    wanted
        Says of a file's name whether it is wanted.
    depth
        Levels of sub-folders gone into; all where left out.

    Yields
    ------
    tuple of str
    """
    yield from _walk(folder, wanted, depth, (), (os.path.realpath(folder),))


def _walk(
    folder: Path,
    wanted: Callable[[str], object],
    depth: int | None,
    above: tuple[str, ...],
    seen: tuple[str, ...],
) -> Iterator[tuple[str, ...]]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        _log.warning("%s cannot be looked into: %s", folder, error.strerror or error)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not _is_folder(entry):
            if wanted(entry.name):
                yield (*above, entry.name)
        elif depth is None or depth > 0:
            real = os.path.realpath(entry.path)
            if real in seen:
                _log.warning("%s is a link to a folder above it; it is not followed", entry.path)
                continue
            below = None if depth is None else depth - 1
            yield from _walk(Path(entry.path), wanted, below, (*above, entry.name), (*seen, real))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
