"""Bring stars of SDSS-V to the user's disk: mwmStar files and rows of astra's catalogue."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.base.columns import one_or_more
from bayes_cannon.base.paths import user_path
from bayes_cannon.base.progress import Progress, as_progress
from bayes_cannon.errors import DownloadError, FileFormatError
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.spectra.spectra import name_some
from bayes_cannon.surveys.archive.addresses import sas_root
from bayes_cannon.surveys.archive.download import (
    DownloadReport,
    alone_in,
    cache_folder,
    check_streams,
)
from bayes_cannon.surveys.archive.fetch import fetch_file
from bayes_cannon.surveys.archive.http import FetchError, FetchSettings, HttpClient
from bayes_cannon.surveys.archive.integrity import whole_hdus
from bayes_cannon.surveys.archive.mirror import ArchiveFolder, Brought, check_space
from bayes_cannon.surveys.archive.sdssv import (
    MWM_BYTES,
    MwmRelease,
    astra_catalogue_urls,
    check_mwm,
    find_mwm_release,
    mwm_parts,
    mwm_url,
)
from bayes_cannon.surveys.archive.select import check_limits, take_in_turn
from bayes_cannon.surveys.archive.streams import DownloadProgress, Job
from bayes_cannon.surveys.archive.targets import (
    AstraRows,
    Box,
    Cone,
    Targets,
    read_targets,
    write_targets,
)

__all__ = [
    "download_mwm",
]


logger = logging.getLogger(__name__)

_PATIENCE = 50  # files that do not come at the beginning, before no more are asked for
_ABSENT_SHARE = 0.02  # 0.3 per cent are usual
_ABSENT_FEW = 3
_NOT_FOUND = 404
_LARGEST = 10_000_000_000  # bytes of a catalogue

Steps = tuple[tuple[str, int], ...]


def download_mwm(
    out: str | os.PathLike[str],
    *,
    release: str = "dr19",
    sdss_ids: Iterable[int] = (),
    stars: Sequence[str] = (),
    fields: Sequence[str] = (),
    cones: Iterable[Cone | Sequence[float]] = (),
    boxes: Iterable[Box | Sequence[float]] = (),
    catalogue: str | os.PathLike[str] | None = None,
    catalogue_source: str | None = None,
    visits: bool = False,
    limit: int | None = None,
    snr_min: float | None = None,
    sas_url: str | None = None,
    streams: int = 4,
    progress: Progress = None,
    details: Callable[[DownloadProgress], None] | None = None,
    settings: FetchSettings | None = None,
) -> DownloadReport:
    """Download stars of SDSS-V, and their rows of the catalogue of ASPCAP; go on where it stopped.

    Writes ``OUT/spectra/star/AA/BB/mwmStar-<v_astra>-<sdss_id>.fits``, as the archive has them,
    ``OUT/manifest.ecsv``, and with a catalogue ``OUT/astraAllStarASPCAP-<v_astra>-part.fits``: the
    rows that were asked for, now and before, with all columns. Files that are there and whole are
    not fetched again. Some stars of the catalogue (0.3 per cent) have no file in the archive: they
    are counted, and no failure.

    Parameters
    ----------
    out : path
        Directory of the survey.
    release : str
        ``'dr19'`` or ``'dr20'``; the spectra of APOGEE are the same.
    sdss_ids : iterable of int
        SDSS_IDs of stars.
    stars : sequence of str
        Names of 2MASS, such as ``2M00002479+6025311``, looked up in the catalogue.
    fields : sequence of str
        Names of fields, as in the catalogue's column ``field``.
    cones, boxes : iterables
        Regions: `Cone` or (ra, dec, radius), `Box` or (ra_min, ra_max, dec_min, dec_max), degrees.
        Of the catalogue's coordinates, which are single precision (0.1 arcsec).
    catalogue : path, optional
        An astraAllStarASPCAP file on disk, gzipped or not.
    catalogue_source : str, optional
        In place of `catalogue`: ``'allstar-file'`` to download the whole file (1.2 GB) once, into
        the cache of the user or ``BAYES_CANNON_CACHE``. Without either, only `sdss_ids` work, and
        there are no catalogue rows.
    visits : bool
        Whether to bring the mwmVisit files as well.
    limit : int, optional
        At most so many stars, taken in turn from what was asked for.
    snr_min : float, optional
        Minimum S/N per pixel of a star's best row; a star without a row is kept.
    sas_url : str, optional
        Other address of the archive; else the environment variable ``BAYES_CANNON_SAS_URL``, else
        SDSS's own.
    streams : int
        Files at a time, 1 to 4.
    progress, details, settings
        As of `download_survey`.

    Raises
    ------
    DownloadError
        On names and regions that cannot be, fields that the catalogue does not have, a catalogue
        that lacks or cannot be had, too little space on the disk, a directory that is in use.
    FileFormatError
        If `catalogue` is no such catalogue.
    """
    known = find_mwm_release(str(release))
    regions: list[Cone | Box] = []
    for cone in cones:
        regions.append(cone if isinstance(cone, Cone) else Cone(*_numbers(cone, 3, "cone")))
    for box in boxes:
        regions.append(box if isinstance(box, Box) else Box(*_numbers(box, 4, "box")))
    targets = Targets(_ids(sdss_ids), one_or_more(stars), one_or_more(fields), tuple(regions))
    limit, snr_min = check_limits(limit, snr_min)
    wanted = _Wanted(known, targets, limit, snr_min, ("star", "visit")[: 1 + bool(visits)])
    _check_source(wanted, catalogue, catalogue_source)
    streams = check_streams(streams)
    client = HttpClient(settings)
    root = sas_root(sas_url)
    with alone_in(user_path(out)) as folder, as_progress(progress) as tell:
        copy = ArchiveFolder(folder, root, known.facts, client)
        url, path = "", catalogue
        if catalogue_source is not None:
            url, path = _cached_catalogue(root, known, client)
        report, ids = _choose(copy, wanted, path, url)

        def told(now: DownloadProgress) -> None:
            tell(now.files_done, now.files_total, "download")
            if details is not None:
                details(now)

        jobs = [_job(copy, known, int(star), kind) for kind in wanted.kinds for star in ids]
        brought = copy.fetch(jobs, streams=streams, progress=told, patience=_PATIENCE)
    return _completed(report, _judge_absent(brought, len(jobs)))


@dataclass(frozen=True)
class _Wanted:
    """What was asked for, checked."""

    release: MwmRelease
    targets: Targets
    limit: int | None
    snr_min: float | None
    kinds: tuple[str, ...]


def _ids(given: Iterable[int] | int) -> tuple[int, ...]:
    """SDSS_IDs; one may be given as a number."""
    return (int(given),) if isinstance(given, int | np.integer) else tuple(given)


def _numbers(region: Any, n: int, what: str) -> tuple[float, ...]:
    """Numbers of a region."""
    numbers = () if isinstance(region, str) or np.ndim(region) != 1 else tuple(region)
    if len(numbers) != n:
        order = "ra, dec, radius" if n == 3 else "ra_min, ra_max, dec_min, dec_max"
        raise DownloadError(
            f"a {what} is {count_text(n, 'number')} in degrees ({order}), not {region!r}."
        )
    return numbers


def _check_source(wanted: _Wanted, catalogue: object, source: str | None) -> None:
    """Raise where there is no catalogue and only one would tell what to download, or two."""
    name = wanted.release.name
    if catalogue is not None and source is not None:
        raise DownloadError("give a catalogue, or a source of it: not both.")
    if source not in (None, "allstar-file"):
        raise DownloadError(
            f"unknown source of the catalogue {source!r}; for {name} there is 'allstar-file', or "
            "give the file itself as the catalogue."
        )
    if catalogue is None and source is None:
        what = "fields, cones, boxes and names" if wanted.targets.needs_catalogue else ""
        what = what or ("S/N" if wanted.snr_min is not None else "")
        if what:
            size = wanted.release.catalogue_bytes / 1e9
            raise DownloadError(
                f"{what} are found in the catalogue of {name}: give astraAllStarASPCAP-"
                f"{wanted.release.v_astra}.fits.gz as the catalogue, or 'allstar-file' as its "
                f"source to download it once ({size:.1f} GB)."
            )


def _choose(
    copy: ArchiveFolder, wanted: _Wanted, path: str | os.PathLike[str] | None, url: str
) -> tuple[DownloadReport, NDArray[np.int64]]:
    """Find the stars in the catalogue, write their rows; the report so far, and SDSS_IDs."""
    if path is None:
        ids = np.array(wanted.targets.sdss_ids[: wanted.limit], dtype=np.int64)
        without = (("stars by SDSS_ID, without a catalogue", len(ids)),)
        return DownloadReport(None, 0, 0, 0, (), 0, without), ids
    found = read_targets(user_path(path), wanted.targets)
    missing = _not_found(wanted, found)
    written = None
    if len(found.rows):
        written = write_targets(copy.folder, found, wanted.release.name)
        copy.note(written, url or found.path.name)
    ids, steps = _select(wanted, found)
    return DownloadReport(written, 0, 0, 0, missing, 0, steps), ids


def _not_found(wanted: _Wanted, found: AstraRows) -> tuple[StarProblem, ...]:
    """Names that the catalogue does not have; raise where it lacks a field, or holds nothing."""
    name, targets = wanted.release.name, wanted.targets
    fields = [field for field in targets.fields if field in found.absent]
    if fields:
        raise DownloadError(
            f"the catalogue of {name} has no stars in the field{'s' * (len(fields) > 1)} "
            f"{name_some(fields)}; check the spelling, capitals too, or give a cone."
        )
    stars = [star for star in targets.stars if star in found.absent]
    if not len(found.rows) and not targets.sdss_ids and not stars:
        raise DownloadError(
            f"{found.path} has no star in {', '.join(map(str, targets.regions))}; check the "
            "numbers, which are degrees."
        )
    return tuple(StarProblem(star, "", f"not in the catalogue of {name}") for star in stars)


def _select(wanted: _Wanted, found: AstraRows) -> tuple[NDArray[np.int64], Steps]:
    """SDSS_IDs of the stars that are wanted, each once, and the steps to them."""
    targets = wanted.targets
    steps = [("rows of the catalogue", len(found.rows))]
    keep = found.sdss_id > 0
    if not keep.all():
        steps.append(("with an SDSS_ID", int(keep.sum())))
    if wanted.snr_min is not None:
        keep &= found.snr >= wanted.snr_min
        steps.append((f"SNR >= {wanted.snr_min:g}", int(keep.sum())))
    ids, first = np.unique(found.sdss_id[keep], return_index=True)
    asked = found.asked[keep][first]
    unknown = [i for i in targets.sdss_ids if str(i) in found.absent]
    ids = np.concatenate([ids, np.array(unknown, dtype=np.int64)])
    asked = np.concatenate([asked, np.full(len(unknown), np.iinfo(np.int64).max)])
    if unknown:
        logger.warning(
            "%d of the SDSS_IDs (%s) have no row in %s; their spectra are fetched all the same",
            len(unknown), name_some([str(i) for i in unknown]), found.path,
        )  # fmt: skip
        steps.append(("SDSS_IDs without a row", len(unknown)))
    steps.append(("stars", len(ids)))
    if wanted.limit is not None:
        ids = ids[take_in_turn(asked, np.ones(len(ids), dtype=bool), wanted.limit)]
        steps.append((f"at most {wanted.limit}", len(ids)))
    for step, n in steps:
        logger.info("%s: %d", step, n)
    return ids, tuple(steps)


def _job(copy: ArchiveFolder, release: MwmRelease, sdss_id: int, kind: str) -> Job:
    """One file to fetch."""
    return Job(
        star_id=str(sdss_id),
        url=mwm_url(copy.root, release, sdss_id, kind),
        path=copy.inside(mwm_parts(release, sdss_id, kind)),
        sha1="",
        estimate=MWM_BYTES[kind],
        check=partial(check_mwm, sdss_id=sdss_id),
    )


def _judge_absent(brought: Brought, n_wanted: int) -> Brought:
    """Files that the archive does not have are normal as long as they are few."""
    n = len(brought.absent)
    none_came = not brought.n_present and not brought.n_fetched
    if n and (none_came or n > _ABSENT_FEW + _ABSENT_SHARE * n_wanted):
        return replace(brought, missing=(*brought.absent, *brought.missing), absent=())
    return brought


def _completed(report: DownloadReport, brought: Brought) -> DownloadReport:
    """The report of what was chosen with what came of it."""
    missing = (*report.missing, *brought.missing)
    came = brought.n_present + brought.n_fetched
    return replace(
        report,
        n_wanted=came + len(missing) + len(brought.absent),
        n_fetched=brought.n_fetched,
        n_present=brought.n_present,
        missing=missing,
        n_bytes=brought.n_bytes,
        absent=brought.absent,
    )


def _cached_catalogue(root: str, release: MwmRelease, client: HttpClient) -> tuple[str, Path]:
    """The whole catalogue, fetched once; its name in the cache means that it was checked."""
    tried = []
    cache = cache_folder() / release.name
    with alone_in(cache):
        for url in astra_catalogue_urls(root, release):
            path = cache / url.rpartition("/")[2]
            if path.exists():
                return url, path
        for url in astra_catalogue_urls(root, release):
            path = cache / url.rpartition("/")[2]
            try:
                size = client.size(url) or release.catalogue_bytes
                check_space(cache, size)
                logger.info("fetching %s, %.2f GB, into %s", url, size / 1e9, cache)
                fetch_file(client, url, path, check=_catalogue_problem, max_bytes=_LARGEST)
            except FetchError as error:
                tried.append(f"{url}: {error}")
                if error.status == _NOT_FOUND:
                    continue
                break
            return url, path
    raise DownloadError(
        f"no catalogue of {release.name}: {'; '.join(tried)}. Give the file itself as the "
        "catalogue, or name stars by SDSS_ID."
    )


def _catalogue_problem(path: Path) -> str:
    """Why a file is no whole catalogue, '' if it is."""
    try:
        whole_hdus(path)
    except FileFormatError as error:
        return str(error)
    return ""
