"""What belongs to the installation: files that come with the package, and versions of software."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bayes_cannon._version import __version__
from bayes_cannon.errors import FileFormatError

__all__ = [
    "data_path",
    "software_versions",
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


def software_versions(*names: str) -> dict[str, str]:
    """Versions of this package, of Python and of other packages by name, '' if not installed."""
    return {
        "bayes_cannon": __version__,
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
