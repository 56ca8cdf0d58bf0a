"""The list of a downloaded survey's files, ``manifest.ecsv``: where from, how big, checksums."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from astropy.table import Table

from bayes_cannon.storage import write_atomically

__all__ = ["ManifestEntry", "read_manifest", "write_manifest"]

logger = logging.getLogger(__name__)

_NAMES = ("path", "url", "size", "sha1", "sha1_expected", "release")


@dataclass(frozen=True)
class ManifestEntry:
    """One file.

    Attributes
    ----------
    path : str
        Relative to the survey's directory, with ``/``.
    url : str
        Where it came from.
    size : int
        In bytes.
    sha1, sha1_expected : str
        Computed from the file; published by the archive, '' if it publishes none.
    release : str
    """

    path: str
    url: str
    size: int
    sha1: str
    sha1_expected: str
    release: str


def read_manifest(path: Path) -> dict[str, ManifestEntry]:
    """Read a manifest, by path; what cannot be read is left out and made anew."""
    if not path.exists():
        return {}
    try:
        table = Table.read(path, format="ascii.ecsv")
        rows = [{name: row[name] for name in _NAMES} for row in table.filled("")]
        entries = [
            ManifestEntry(
                path=str(row["path"]),
                url=str(row["url"]),
                size=int(row["size"]),
                sha1=str(row["sha1"]),
                sha1_expected=str(row["sha1_expected"]),
                release=str(row["release"]),
            )
            for row in rows
        ]
        return {entry.path: entry for entry in entries}
    except Exception as error:
        logger.warning("%s cannot be read (%s) and is made anew", path, error)
        return {}


def write_manifest(
    path: Path, entries: Mapping[str, ManifestEntry], meta: Mapping[str, object]
) -> None:
    """Write a manifest in order of paths, all or nothing, with no dates in it.

    Parameters
    ----------
    path : Path
    entries : mapping of str to ManifestEntry
        By path.
    meta : mapping
        Plain values for the header: release, versions, source of the catalogue.
    """
    rows = [astuple(entries[name]) for name in sorted(entries)]
    types = ("str", "str", "int64", "str", "str", "str")
    table = Table(rows=rows or None, names=_NAMES, dtype=types, meta=dict(meta))
    write_atomically(
        path, lambda part: table.write(part, format="ascii.ecsv", overwrite=True), overwrite=True
    )
