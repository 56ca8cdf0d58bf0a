"""A survey's directory as a copy of part of the archive: what is there, what is to come.

The list of a downloaded survey's files, ``manifest.ecsv``: where from, how big, checksums.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from astropy.table import Table

from bayes_cannon.base.resources import software_versions
from bayes_cannon.base.storage import write_atomically
from bayes_cannon.errors import DownloadError
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.surveys.archive.addresses import (
    Release,
    Spectrum,
    estimate_bytes,
    find_checksum,
    manifest_url,
    parse_manifest,
    spectrum_url,
)
from bayes_cannon.surveys.archive.fetch import content_problem, file_sha1
from bayes_cannon.surveys.archive.http import FetchError, HttpClient
from bayes_cannon.surveys.archive.streams import (
    DownloadProgress,
    Job,
    Outcome,
    expected_bytes,
    transfer,
)

__all__ = [
    "ArchiveCopy",
    "ArchiveFolder",
    "Brought",
    "ManifestEntry",
    "check_space",
    "read_manifest",
    "write_manifest",
]


logger = logging.getLogger(__name__)

_CHECKSUMS_BYTES = 20_000_000
_NOT_FOUND = 404


@dataclass(frozen=True)
class Brought:
    """What `ArchiveFolder.fetch` did: counts of spectra, bytes fetched, what is missing.

    `absent` are those that the archive does not have (404); `missing` those of other reasons.
    """

    n_present: int
    n_fetched: int
    n_bytes: int
    missing: tuple[StarProblem, ...]
    absent: tuple[StarProblem, ...] = ()


def check_space(folder: Path, n_bytes: int) -> None:
    """Check that a disk has the space that is needed.

    Parameters
    ----------
    folder
        On the disk.
    n_bytes
        Needed.

    Raises
    ------
    DownloadError
        If it has not.
    """
    free = shutil.disk_usage(folder).free
    if n_bytes > free:
        raise DownloadError(
            f"{n_bytes / 1e9:.2f} GB are to come and {folder} has {free / 1e9:.2f} GB left; "
            "make space, or ask for fewer spectra."
        )


class ArchiveFolder:
    """A folder on the user's disk to which files of the archive are brought.

    Parameters
    ----------
    folder : Path
        The survey's directory.
    root : str
        Address of the archive.
    facts : mapping of str to str
        The release for the manifest: ``name``, and versions of its parts.
    client : HttpClient
    """

    def __init__(
        self, folder: Path, root: str, facts: Mapping[str, str], client: HttpClient
    ) -> None:
        self.folder = folder
        self.root = root
        self.facts = facts
        self.client = client
        found = read_manifest(folder / "manifest.ecsv")
        self._entries = {p: e for p, e in found.items() if (folder / p).is_file()}

    def note(self, path: Path, url: str, *, sha1: str = "", expected: str = "") -> None:
        """Enter a file of the directory into its manifest.

        Parameters
        ----------
        path
            Of a file in the directory.
        url
            Where it is from.
        sha1
            Its checksum; worked out where left out.
        expected
            The archive's checksum, where known.
        """
        found = sha1 or file_sha1(path)
        name = path.relative_to(self.folder).as_posix()
        size = path.stat().st_size
        self._entries[name] = ManifestEntry(name, url, size, found, expected, self.facts["name"])

    def write_manifest(self) -> None:
        """Write ``manifest.ecsv``."""
        meta = {
            "release": dict(self.facts),
            "sas_url": self.root,
            "versions": software_versions("astropy", "numpy", "requests"),
        }
        write_manifest(self.folder / "manifest.ecsv", self._entries, meta)

    def fetch(
        self,
        jobs: Sequence[Job],
        *,
        streams: int,
        progress: Callable[[DownloadProgress], None] | None = None,
        patience: int | None = None,
    ) -> Brought:
        """Fetch the files that are not in the directory, and write the manifest.

        The manifest is written too when the work is interrupted.

        Parameters
        ----------
        jobs
            Files wanted.
        streams
            Files fetched at a time.
        progress
            Called several times a second.
        patience
            Where nothing is in the directory, so many failed and none came, no more are asked for.

        Returns
        -------
        Brought
        """
        lacking = [job for job in jobs if not self._is_present(job)]
        n_present = len(jobs) - len(lacking)
        n_fetched = n_bytes = 0
        missing: list[StarProblem] = []
        absent: list[StarProblem] = []
        try:
            if lacking:
                total = expected_bytes(lacking, self.client)
                logger.info("%d spectra to fetch, about %.1f MB", len(lacking), total / 1e6)
                check_space(self.folder, total)
                outcomes = transfer(
                    lacking,
                    self.client,
                    streams=streams,
                    bytes_total=total,
                    progress=progress,
                    patience=None if n_present else patience,
                )
                with closing(outcomes):
                    for outcome in outcomes:
                        if outcome.file is None:
                            problems = absent if outcome.status == _NOT_FOUND else missing
                            problems.append(_problem(outcome))
                        else:
                            n_fetched += 1
                            n_bytes += outcome.file.size
                            job = outcome.job
                            self.note(job.path, job.url, sha1=outcome.file.sha1, expected=job.sha1)
        finally:
            self.write_manifest()
        return Brought(n_present, n_fetched, n_bytes, tuple(missing), tuple(absent))

    def inside(self, parts: Sequence[str]) -> Path:
        """Path below the directory, whatever symbolic links there are on the way.

        Parameters
        ----------
        parts
            Of the path.

        Raises
        ------
        DownloadError
            If it leads out of the directory.
        """
        path = self.folder.joinpath(*parts)
        if not path.parent.resolve().is_relative_to(self.folder.resolve()):
            raise DownloadError(
                f"{path.parent} leads out of {self.folder} by a symbolic link; "
                "download into the folder that it leads to"
            )
        return path

    def _is_present(self, job: Job) -> bool:
        """Whether a spectrum is on the disk and whole; one that is damaged is put aside."""
        if not job.path.is_file():
            return False
        name = job.path.relative_to(self.folder).as_posix()
        known = self._entries.get(name)
        sha1 = job.sha1 or (known.sha1 if known else "")
        problem = content_problem(job.path, sha1, None if sha1 else job.check)
        if problem:
            logger.warning("%s: %s; it is fetched again", job.path, problem)
            os.replace(job.path, job.path.with_name(job.path.name + ".damaged"))
            self._entries.pop(name, None)
            return False
        self.note(job.path, job.url, sha1=sha1, expected=job.sha1)
        return True


def _problem(outcome: Outcome) -> StarProblem:
    """Report a spectrum that could not be fetched."""
    job = outcome.job
    logger.info("%s: %s", job.url, outcome.reason)
    return StarProblem(job.star_id, job.url, outcome.reason)


class ArchiveCopy(ArchiveFolder):
    """One survey directory of apStar files on one side, the archive on the other.

    Parameters
    ----------
    folder : Path
        The survey's directory.
    root : str
        Address of the archive.
    release : Release
    client : HttpClient
    """

    def __init__(self, folder: Path, root: str, release: Release, client: HttpClient) -> None:
        facts = {"name": release.name, "apred": release.apred, "aspcap": release.aspcap}
        super().__init__(folder, root, facts, client)
        self.release = release

    def bring(
        self,
        spectra: Iterable[Spectrum],
        *,
        streams: int,
        progress: Callable[[DownloadProgress], None] | None = None,
    ) -> Brought:
        """Fetch the spectra that are not in the directory, and write the manifest.

        Parameters
        ----------
        spectra
            Wanted.
        streams
            Files fetched at a time.
        progress
            Called several times a second.

        Returns
        -------
        Brought
            Without `absent`: a spectrum of the catalogue that the archive lacks is missing.
        """
        jobs, unsafe = self._plan(spectra)
        brought = self.fetch(jobs, streams=streams, progress=progress)
        missing = (*unsafe, *brought.missing, *brought.absent)
        return replace(brought, missing=missing, absent=())

    def _plan(self, spectra: Iterable[Spectrum]) -> tuple[list[Job], list[StarProblem]]:
        """What to fetch; rows whose names could lead out of the directory are missing."""
        wanted: dict[Path, Spectrum] = {}
        missing = []
        for spectrum in spectra:
            try:
                path = self.inside(spectrum.parts(self.release))
                spectrum_url(self.root, self.release, spectrum)
            except DownloadError as error:
                missing.append(StarProblem(spectrum.star_id, "", str(error)))
                continue
            wanted.setdefault(path, spectrum)
        sha1s = self._all_checksums(wanted.values())
        jobs = [
            Job(
                star_id=spectrum.star_id,
                url=spectrum_url(self.root, self.release, spectrum),
                path=path,
                sha1=sha1,
                estimate=estimate_bytes(self.release, spectrum.n_visits),
            )
            for (path, spectrum), sha1 in zip(wanted.items(), sha1s, strict=True)
        ]
        return jobs, missing

    def _all_checksums(self, spectra: Iterable[Spectrum]) -> list[str]:
        """The checksums that the archive publishes, '' where it does not; one list a field."""
        lists: dict[tuple[str, str], dict[str, str]] = {}
        ask = True
        found = []
        for spectrum in spectra:
            key = (spectrum.telescope, spectrum.field)
            if key not in lists:
                lists[key], ask = self._checksums(*key, ask=ask)
            found.append(find_checksum(lists[key], spectrum.remote_name(self.release)))
        return found

    def _checksums(self, telescope: str, field: str, *, ask: bool) -> tuple[dict[str, str], bool]:
        """Checksums of a field's spectra, and whether it is worth asking for those of others.

        A list that came once is kept in the directory's ``.cache``. Where there is none, files
        are checked by their structure alone.
        """
        url = manifest_url(self.root, self.release, telescope, field)
        kept = self.folder / ".cache" / f"{self.release.apred}_stars_{telescope}_{field}.sha1sum"
        if kept.exists():
            return parse_manifest(kept.read_text(encoding="utf-8")), ask
        if not ask:
            return {}, ask
        try:
            text = self.client.text(url, max_bytes=_CHECKSUMS_BYTES)
        except FetchError as error:
            logger.warning("no checksums for field %s (%s)", field, error)
            return {}, not error.general
        checksums = parse_manifest(text)
        if checksums:

            def write(part: Path) -> None:
                part.write_text(text, encoding="utf-8")

            write_atomically(kept, write, overwrite=True)
        return checksums, ask


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
    """Read a manifest, by path; what cannot be read is left out and made anew.

    Parameters
    ----------
    path
        Of ``manifest.ecsv``.
    """
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
