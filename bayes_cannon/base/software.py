"""Versions of the software that made a result."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from bayes_cannon._version import __version__

__all__ = [
    "software_versions",
]


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
