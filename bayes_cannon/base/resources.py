"""Where the files that come with the package are."""

from __future__ import annotations

from pathlib import Path

from bayes_cannon.errors import FileFormatError

__all__ = [
    "data_path",
]


def data_path(name: str) -> Path:
    """Path of a file of the package's `data` folder.

    An installed wheel carries the folder inside the package; a source checkout has it
    beside the package.

    Parameters
    ----------
    name
        Of a file in the package's ``data``.

    Raises
    ------
    FileFormatError
        If the file is in neither place.
    """
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "data", here.parent / "data"):
        if (folder / name).is_file():
            return folder / name
    raise FileFormatError(f"the package's own file {name} is missing; install bayes_cannon again.")
