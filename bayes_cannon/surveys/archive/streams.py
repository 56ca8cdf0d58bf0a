"""Bring many spectra at once, in a few streams, and say how it goes."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.archive.fetch import Check, FetchedFile, fetch_file
from bayes_cannon.surveys.archive.http import FetchError, HttpClient, Stopped
from bayes_cannon.surveys.fits import BLOCK
from bayes_cannon.surveys.images import read_hdu

__all__ = [
    "DownloadProgress",
    "Job",
    "Outcome",
    "check_spectrum",
    "expected_bytes",
    "transfer",
]


logger = logging.getLogger(__name__)

_N_PIXELS = 8575
_HEADS = 16
_TICK = 0.2
_LEAVE = 2.0


@dataclass(frozen=True)
class DownloadProgress:
    """How far a download is.

    Attributes
    ----------
    files_done, files_total : int
        Spectra, those that failed counted as done.
    bytes_done, bytes_total : int
        What came over the network; the total is an estimate.
    seconds : float
        Time since the first request.
    """

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second so far."""
        return self.bytes_done / self.seconds if self.seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """Time left at this rate; infinite before anything came."""
        left = max(0, self.bytes_total - self.bytes_done)
        if self.files_done == self.files_total or left == 0:
            return 0.0
        return left / self.rate if self.rate > 0 else math.inf

    def __str__(self) -> str:
        left = "" if math.isinf(self.seconds_left) else f", {self.seconds_left:.0f} s left"
        return (
            f"{self.files_done} of {self.files_total} spectra, {self.bytes_done / 1e6:.1f} of "
            f"about {self.bytes_total / 1e6:.1f} MB, {self.rate / 1e6:.2f} MB/s{left}"
        )


def check_spectrum(path: Path) -> str:
    """Say why a file is no whole apStar file, '' if it is one.

    Every header is read and every array must fit into the file; the first extension must have
    rows of 8575 pixels. The values are not looked at.

    Parameters
    ----------
    path
        Of the file.
    """
    size = path.stat().st_size
    with path.open("rb") as source:
        start = source.read(512)
        if not start.startswith(b"SIMPLE  ="):
            page = b"<html" in start.lower() or b"<!doctype" in start.lower()
            return "an HTML page came in place of a FITS file" if page else "not a FITS file"
        place = n_hdus = 0
        while place < size:
            try:
                hdu = read_hdu(path, source, place, n_hdus)
            except FileFormatError:
                return f"damaged FITS header in extension {n_hdus}"
            place = -(-hdu.stop // BLOCK) * BLOCK
            if place > size:
                return f"FITS file cut short in extension {n_hdus}"
            if n_hdus == 1 and hdu.shape[-1:] != (_N_PIXELS,):
                found = hdu.shape[-1] if hdu.shape else 0
                return f"not an apStar file: {found} pixels, not {_N_PIXELS}"
            n_hdus += 1
    return "" if n_hdus > 1 else "not an apStar file: no extension"


@dataclass(frozen=True)
class Job:
    """One file to fetch.

    Attributes
    ----------
    star_id : str
        Of the star, as the user knows it.
    url : str
        From where.
    path : Path
        To where.
    sha1 : str
        Its checksum, '' if unknown.
    estimate : int
        Its size in bytes, about.
    check : callable
        Says what is wrong with the content of a file, '' if nothing.
    """

    star_id: str
    url: str
    path: Path
    sha1: str
    estimate: int
    check: Check = check_spectrum


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a file, or the reason why there is none, with the HTTP status."""

    job: Job
    file: FetchedFile | None
    reason: str = ""
    status: int = 0


def expected_bytes(jobs: Sequence[Job], client: HttpClient) -> int:
    """Total size of the files, about.

    The size that follows from the number of visits is scaled by that of a few files, spread
    evenly, that the server is asked for (HEAD); where it does not answer, it is taken as it is.

    Parameters
    ----------
    jobs
        Files to fetch.
    client
        Asks for their sizes.
    """
    estimate = sum(job.estimate for job in jobs)
    sample = jobs[:: max(1, -(-len(jobs) // _HEADS))]
    told = guessed = refused = 0
    for job in sample:
        size = client.size(job.url)
        if size is None:
            refused += 1
            if refused > 1:
                break
        else:
            told += size
            guessed += job.estimate
    return round(estimate * told / guessed) if told and guessed else estimate


class _Streams:
    """The threads of one transfer and what they share."""

    def __init__(
        self, jobs: Sequence[Job], client: HttpClient, streams: int, patience: int | None
    ) -> None:
        self.client = client
        self.waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            self.waiting.put(job)
        self.done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self.n_bytes = 0
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._most_in_a_row = max(4, streams)
        self._given_up = ""
        self._patience = patience  # None once a file came
        self._failed = 0
        self.threads = [
            threading.Thread(target=self._work, name=f"download-{i}", daemon=True)
            for i in range(min(streams, len(jobs)))
        ]

    def _work(self) -> None:
        """Body of a thread: one job after another."""
        try:
            while not self.client.stop.is_set():
                self.done.put(self._do(self.waiting.get_nowait()))
        except (queue.Empty, Stopped):
            return
        except BaseException as error:
            self.done.put(error)

    def _do(self, job: Job) -> Outcome:
        """Fetch one file; after several failures in a row that are not the files', none more.

        Nor where none of the first came, whatever the reason.
        """
        if self._given_up:
            return Outcome(job, None, f"not tried, as others failed: {self._given_up}")
        try:
            file = fetch_file(
                self.client,
                job.url,
                job.path,
                sha1=job.sha1,
                check=job.check,
                on_bytes=self._count,
            )
        except FetchError as error:
            with self._lock:
                self._in_a_row = self._in_a_row + 1 if error.general else 0
                self._failed += 1
                if self._in_a_row >= self._most_in_a_row or self._failed == self._patience:
                    self._given_up = str(error)
            return Outcome(job, None, str(error), error.status)
        self._in_a_row = 0
        self._patience = None
        return Outcome(job, file)

    def _count(self, n_bytes: int) -> None:
        with self._lock:
            self.n_bytes += n_bytes


def transfer(
    jobs: Sequence[Job],
    client: HttpClient,
    *,
    streams: int,
    bytes_total: int,
    progress: Callable[[DownloadProgress], None] | None = None,
    patience: int | None = None,
) -> Generator[Outcome]:
    """Fetch files in several streams; yield the outcome of each as it is known.

    When the caller stops iterating, or is interrupted, the streams stop within a chunk; what
    they had begun stays as ``.part``. The client is used up afterwards.

    Parameters
    ----------
    jobs : sequence of Job
    client : HttpClient
    streams : int
        Number of threads.
    bytes_total : int
        Estimate to hand to `progress`.
    progress : callable, optional
        Called in the caller's thread, several times a second.
    patience : int, optional
        Where so many failed and none came, no more are asked for.

    Yields
    ------
    Outcome
        Of one file.

    Raises
    ------
    DownloadError
        If server, network or disk fail for all files.
    """
    shared = _Streams(jobs, client, streams, patience)
    begin = time.monotonic()
    n_done = 0

    def tell() -> None:
        if progress is not None:
            total = max(bytes_total, shared.n_bytes)
            seconds = time.monotonic() - begin
            progress(DownloadProgress(n_done, len(jobs), shared.n_bytes, total, seconds))

    try:
        for thread in shared.threads:
            thread.start()
        tell()
        while n_done < len(jobs):
            try:
                outcome = shared.done.get(timeout=_TICK)
            except queue.Empty:
                tell()
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            n_done += 1
            tell()
            yield outcome
    finally:
        client.stop.set()
        end = time.monotonic() + _LEAVE
        for thread in shared.threads:
            if thread.ident is not None:
                thread.join(max(0.0, end - time.monotonic()))
