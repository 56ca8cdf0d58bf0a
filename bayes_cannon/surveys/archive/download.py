"""Bring part of the APOGEE survey to the user's disk: catalogue rows and combined spectra."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from astropy.table import Table
from platformdirs import user_cache_dir

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more, whole_number
from bayes_cannon.base.locks import lock_folder
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.base.storage import reason_of
from bayes_cannon.errors import DownloadError, OutputExistsError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.archive.addresses import (
    Release,
    allstar_url,
    find_release,
    sas_root,
    skyserver_root,
)
from bayes_cannon.surveys.archive.catalogue import (
    is_commissioning,
    read_allstar_rows,
    spectra_of,
    write_catalogue,
)
from bayes_cannon.surveys.archive.fetch import fetch_file
from bayes_cannon.surveys.archive.http import FetchError, FetchSettings, HttpClient
from bayes_cannon.surveys.archive.mirror import ArchiveCopy, check_space
from bayes_cannon.surveys.archive.select import MOST_STREAMS, Request, select_spectra
from bayes_cannon.surveys.archive.skyserver import query_catalogue, query_url
from bayes_cannon.surveys.archive.streams import DownloadProgress

__all__ = [
    "DownloadReport",
    "alone_in",
    "cache_folder",
    "check_streams",
    "download_survey",
]


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DownloadReport:
    """What a download brought.

    Attributes
    ----------
    catalogue : Path or None
        The catalogue's file; None where none was asked for.
    n_wanted : int
        Spectra that were asked for, after cuts and limit.
    n_fetched, n_present : int
        Spectra that came now, and that were there already and are whole.
    missing : tuple of StarProblem
        The rest, with reasons.
    n_bytes : int
        Size of the spectra that came now.
    selection : tuple of (str, int)
        Each step from the catalogue's rows to the spectra wanted: what was kept, how many.
    absent : tuple of StarProblem
        Files of SDSS-V that the archive does not have, as is normal for 0.3 per cent of the stars.
    """

    catalogue: Path | None
    n_wanted: int
    n_fetched: int
    n_present: int
    missing: tuple[StarProblem, ...]
    n_bytes: int
    selection: tuple[tuple[str, int], ...]
    absent: tuple[StarProblem, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything that was wanted is there, but for what the archive does not have."""
        return not self.missing

    def __str__(self) -> str:
        text = (
            f"{count_text(self.n_wanted, 'spectrum')} wanted: {self.n_fetched} fetched "
            f"({self.n_bytes / 1e6:.1f} MB), {self.n_present} there already"
        )
        if self.absent:
            some = name_some([a.star_id for a in self.absent])
            text += (
                f", {len(self.absent)} not in the archive ({some}), as is normal for a few stars"
            )
        if self.complete:
            return text + "."
        some = name_some([m.star_id for m in self.missing])
        reason = self.missing[0].message
        return f"{text}, {len(self.missing)} missing ({some}; first: {reason}). {self.advice}"

    @property
    def advice(self) -> str:
        """What to do about what is missing; empty where nothing is."""
        if self.complete:
            return ""
        if any(m.path for m in self.missing):
            return "Run the same command again to fetch what is missing."
        return "Check the names, capitals too."


def download_survey(
    out: str | os.PathLike[str],
    *,
    release: str = "dr17",
    fields: Sequence[str] = (),
    stars: Sequence[str] = (),
    allstar: str | os.PathLike[str] | None = None,
    catalogue_source: str | None = None,
    limit: int | None = None,
    snr_min: float | None = None,
    cuts: object | None = None,
    labels: Sequence[str] = DEFAULT_LABELS,
    sas_url: str | None = None,
    skyserver_url: str | None = None,
    streams: int = 4,
    progress: Progress = None,
    details: Callable[[DownloadProgress], None] | None = None,
    settings: FetchSettings | None = None,
) -> DownloadReport:
    """Download catalogue rows and spectra of some fields and stars; go on where it stopped.

    Writes ``OUT/allStar-<release>-<fields>.fits`` with all the rows of the fields and stars,
    ``OUT/<telescope>/<field>/{ap,as}Star-<apred>-<id>.fits`` and ``OUT/manifest.ecsv``. Spectra
    that are there and whole are not fetched again. One spectrum that cannot be had does not
    stop the others; it is in the report.

    Parameters
    ----------
    out : path
        Directory of the survey.
    release : str
        ``'dr17'`` or ``'dr16'``; for ``'dr19'`` and ``'dr20'`` see `download_mwm`.
    fields, stars : sequences of str
        Names of fields, and ids of single stars, whose fields are found in the catalogue.
    allstar : path, optional
        An allStar or allStarLite file on disk, to take the catalogue rows from.
    catalogue_source : str
        In place of `allstar`: ``'skyserver'`` (a few kB; where left out), or ``'allstar-file'`` to
        download the whole file (4 GB) once, into the cache of the user or ``BAYES_CANNON_CACHE``.
    limit : int, optional
        At most so many spectra, taken in turn from the fields.
    snr_min : float, optional
        Minimum S/N per pixel.
    cuts : Cuts or callable, optional
        Spectra to leave out: the package's cuts, or a function that takes the catalogue's table
        and returns which rows to keep, shape (n_rows,) bool. Single `stars` are spared.
    labels : sequence of str
        Labels whose columns the catalogue gets.
    sas_url, skyserver_url : str, optional
        Other addresses of archive and SkyServer; else the environment variables
        ``BAYES_CANNON_SAS_URL`` and ``BAYES_CANNON_SKYSERVER_URL``, else SDSS's own.
    streams : int
        Files at a time, 1 to 4.
    progress : bool or callable, optional
        Told of (files done, of all, what), see `bayes_cannon.base.progress`; True draws bars.
    details : callable, optional
        Called with a `DownloadProgress` several times a second; first with the total size.
    settings : FetchSettings, optional
        How patiently to fetch.

    Raises
    ------
    DownloadError
        On names that cannot be, fields that the catalogue does not have, a catalogue that
        cannot be had, too little space on the disk, a directory that is in use.
    LabelError
        On labels that the catalogue does not have.
    FileFormatError
        If `allstar` is no allStar file.
    """
    if allstar is not None and catalogue_source is not None:
        raise DownloadError("give an allStar file, or a source of the catalogue: not both.")
    if catalogue_source not in (None, "skyserver", "allstar-file"):
        raise DownloadError(
            f"unknown source of the catalogue {catalogue_source!r}; "
            "there are 'skyserver' and 'allstar-file'."
        )
    streams = check_streams(streams)
    request = Request(
        find_release(str(release)),
        one_or_more(fields),
        one_or_more(stars),
        one_or_more(labels),
        limit,
        snr_min,
        cuts,
    )
    client = HttpClient(settings)
    root, sky = sas_root(sas_url), skyserver_root(skyserver_url)
    with alone_in(user_path(out)) as folder:
        if allstar is not None:
            source, table = user_path(allstar).name, _rows_of_file(allstar, request)
        elif catalogue_source == "allstar-file":
            source = allstar_url(root, request.release)
            table = _rows_of_file(_cached_allstar(source, request.release, client), request)
        else:
            source, table = query_url(sky, request.release), _rows_of_sql(sky, request, client)
        copy = ArchiveCopy(folder, root, request.release, client)
        with as_progress(progress) as tell:

            def told(now: DownloadProgress) -> None:
                tell(now.files_done, now.files_total, "download")
                if details is not None:
                    details(now)

            return _bring(copy, table, source, request, streams, told)


def _bring(
    copy: ArchiveCopy,
    table: Table,
    source: str,
    request: Request,
    streams: int,
    progress: Callable[[DownloadProgress], None],
) -> DownloadReport:
    """Write the catalogue, choose the spectra, fetch them."""
    table = table[~is_commissioning(table)]
    absent = tuple(
        StarProblem(star, "", f"not in the catalogue of {request.release.name}")
        for star in request.absent_stars(table)
    )
    catalogue = copy.folder / request.catalogue_name()
    write_catalogue(table, catalogue, request.release)
    copy.note(catalogue, source)
    selection = select_spectra(table, catalogue, request)
    wanted = spectra_of(table[selection.keep])
    brought = copy.bring(wanted, streams=streams, progress=progress)
    missing = absent + brought.missing
    return DownloadReport(
        catalogue=catalogue,
        n_wanted=brought.n_present + brought.n_fetched + len(missing),
        n_fetched=brought.n_fetched,
        n_present=brought.n_present,
        missing=missing,
        n_bytes=brought.n_bytes,
        selection=selection.steps,
    )


def check_streams(streams: int) -> int:
    """Return a number of files to fetch at a time, if the archive would like it.

    Parameters
    ----------
    streams
        1 to `MOST_STREAMS`.

    Raises
    ------
    DownloadError, InvalidDataError
        If it is not.
    """
    streams = whole_number(streams, "streams")
    if not 1 <= streams <= MOST_STREAMS:
        raise DownloadError(f"streams must be 1 to {MOST_STREAMS}, got {streams}.")
    return streams


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """Make a directory for downloads and keep other downloads out of it meanwhile.

    Parameters
    ----------
    folder
        To make.

    Yields
    ------
    Path

    Raises
    ------
    DownloadError
        If it cannot be written into, or is in use.
    """
    if any(folder.glob("allStar*simulated*.fits")):
        raise DownloadError(f"{folder} holds a simulated survey; choose another directory.")
    with ExitStack() as stack:
        try:
            (folder / ".cache").mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_folder(folder, ".cache/lock"))
        except OSError as error:
            raise DownloadError(f"cannot write into {folder}: {reason_of(error)}.") from error
        except OutputExistsError as error:
            raise DownloadError(str(error)) from error
        try:
            yield folder
        except OutputExistsError as error:
            raise DownloadError(f"{error} What came is kept.") from error
        except OSError as error:
            raise DownloadError(
                f"cannot write into {folder}: {reason_of(error)}; what came is kept."
            ) from error


def _rows_of_file(path: str | os.PathLike[str], request: Request) -> Table:
    """Catalogue rows from an allStar file on disk."""
    return read_allstar_rows(
        path, request.release, labels=request.labels, fields=request.fields, stars=request.stars
    )


def _rows_of_sql(root: str, request: Request, client: HttpClient) -> Table:
    """Catalogue rows from SkyServer."""
    return query_catalogue(
        root,
        request.release,
        labels=request.labels,
        fields=request.fields,
        stars=request.stars,
        client=client,
    )


def cache_folder() -> Path:
    """Where whole catalogues are kept: ``BAYES_CANNON_CACHE``, else the user's cache."""
    return user_path(os.environ.get("BAYES_CANNON_CACHE") or user_cache_dir("bayes_cannon"))


def _cached_allstar(url: str, release: Release, client: HttpClient) -> Path:
    """The whole allStar file, fetched once; its name in the cache means that it was checked."""
    cache = cache_folder()
    path = cache / f"allStar-{release.apred}-{release.aspcap}.fits"
    with alone_in(cache):
        if path.exists():
            return path
        size = client.size(url) or release.allstar_bytes
        check_space(cache, size)
        logger.info("fetching %s, %.2f GB, into %s", url, size / 1e9, cache)
        try:
            fetch_file(
                client, url, path, sha1=release.allstar_sha1, max_bytes=2 * release.allstar_bytes
            )
        except FetchError as error:
            raise DownloadError(f"no catalogue from {url}: {error}.") from error
    return path
