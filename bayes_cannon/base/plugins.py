"""What installed packages add to this one by the entry points in their metadata."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

from bayes_cannon.errors import BayesCannonWarning

__all__ = ["plugins"]

_loaded: dict[tuple[str, str, str], Any] = {}


def plugins[Plugin](group: str, check: Callable[[Any], Plugin]) -> Iterator[Plugin]:
    """Load what packages name in a group of entry points; each once in a process.

    One that cannot be loaded is left out with a warning.

    Parameters
    ----------
    group
        Name of the group, such as ``'bayes_cannon.readers'``.
    check
        Returns what was loaded as it is used, or raises where that cannot be.
    """
    for entry in metadata.entry_points(group=group):
        key = (group, entry.name, entry.value)
        try:
            if key not in _loaded:
                _loaded[key] = check(entry.load())
        except Exception as error:  # another package's code may raise anything
            text = f"{entry.name} ({entry.value}) of {group} cannot be loaded: {error!r}."
            warnings.warn(text, BayesCannonWarning, stacklevel=3)
        else:
            yield _loaded[key]
