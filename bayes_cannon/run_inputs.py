"""Where the model and the spectra of a run lie, noted in its summary so that a report finds them.

``summary.json`` gets the entry ``inputs``: for ``cannon`` and for ``spectra`` a list of paths, each
as it is seen from the run's folder (so that a folder may be moved as a whole), and as it was in
full. Whether a file found later is still what the run was made with is told by the run's digests,
see `bayes_cannon.run_digest`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bayes_cannon.user_paths import user_path

__all__ = ["describe_inputs", "find_input", "paths_of"]


def describe_inputs(
    folder: str | os.PathLike[str], inputs: Mapping[str, Sequence[str | os.PathLike[str]]]
) -> dict[str, list[dict[str, str]]]:
    """Describe paths as they are kept in a run's summary.

    Parameters
    ----------
    folder
        The run's directory.
    inputs
        Paths by what they are: ``cannon``, ``spectra``.
    """
    base = user_path(folder).resolve()
    described: dict[str, list[dict[str, str]]] = {}
    for name, paths in inputs.items():
        full = [user_path(path).resolve() for path in paths]
        described[name] = [
            {"from_run": os.path.relpath(path, base), "path": str(path)} for path in full
        ]
    return described


def paths_of(
    folder: str | os.PathLike[str], summary: Mapping[str, Any], name: str
) -> list[tuple[Path, ...]]:
    """Places where each of the noted files may be: as seen from the run, and in full.

    Empty where the run does not note any, or what it notes cannot be read.
    """
    inputs = summary.get("inputs")
    entries = inputs.get(name) if isinstance(inputs, Mapping) else None
    if not isinstance(entries, list) or not all(isinstance(e, Mapping) for e in entries):
        return []
    base = user_path(folder).resolve()
    return [
        (
            Path(os.path.normpath(base / str(entry.get("from_run", "")))),
            Path(str(entry.get("path", ""))),
        )
        for entry in entries
    ]


def find_input(folder: str | os.PathLike[str], summary: Mapping[str, Any], name: str) -> list[Path]:
    """Files and folders that the run notes and that are still there, in order."""
    found = []
    for places in paths_of(folder, summary, name):
        here = [path for path in places if path.exists() and path != user_path(folder).resolve()]
        found += here[:1]
    return found
