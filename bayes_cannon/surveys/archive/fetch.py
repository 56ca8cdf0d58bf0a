"""Fetch a file so that what is on disk is whole: resume, length, checksum, then the name.

A file is written as ``NAME.part`` and takes its name only after every check. Nothing here knows
about astronomy; `bayes_cannon.transfer` says what is fetched and how it is checked.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import requests

from bayes_cannon.surveys.archive.http import (
    CHUNK,
    FetchError,
    HttpClient,
    RetryError,
    Stopped,
    header_number,
    innermost,
)

__all__ = [
    "FetchedFile",
    "content_problem",
    "fetch_file",
    "file_sha1",
]


_GAIN = 1 << 16

Check = Callable[[Path], str]


@dataclass(frozen=True)
class FetchedFile:
    """What came: its size in bytes and its sha1."""

    size: int
    sha1: str


def file_sha1(path: Path) -> str:
    """Sha1 of a file, in hexadecimal digits.

    Parameters
    ----------
    path
        Of the file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


def content_problem(path: Path, sha1: str, check: Check | None) -> str:
    """Say what is wrong with a file's content, '' if nothing.

    Parameters
    ----------
    path : Path
    sha1 : str
        Checksum it must have, '' if unknown.
    check : callable, optional
        Takes the path and returns what is wrong, '' if nothing.
    """
    problem = check(path) if check is not None else ""
    if not problem and sha1:
        found = file_sha1(path)
        if found != sha1:
            return f"wrong checksum (sha1 {found[:8]}…, not {sha1[:8]}… as published)"
    return problem


def fetch_file(
    client: HttpClient,
    url: str,
    path: Path,
    *,
    sha1: str = "",
    check: Check | None = None,
    max_bytes: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> FetchedFile:
    """Fetch a file, going on with ``path.part`` where one is there.

    Parameters
    ----------
    client : HttpClient
    url : str
    path : Path
        Where the file goes; its directory is made.
    sha1 : str
        Checksum it must have, '' if unknown.
    check : callable, optional
        See `content_problem`.
    max_bytes : int, optional
        Largest size accepted, in place of that of the client's settings.
    on_bytes : callable, optional
        Called with the number of bytes of every chunk that arrives.

    Raises
    ------
    FetchError
        If the file cannot be had; `path` is then untouched.
    Stopped
        If the client was stopped; the ``.part`` stays for the next time.
    """
    part = path.with_name(path.name + ".part")
    limit = client.settings.max_bytes if max_bytes is None else max_bytes

    def once() -> FetchedFile:
        _save(client, url, part, limit, on_bytes)
        problem = content_problem(part, sha1, check)
        if problem:
            part.unlink()
            raise RetryError(problem, damaged=True)
        file = FetchedFile(part.stat().st_size, sha1 or file_sha1(part))
        if client.stop.is_set():
            raise Stopped
        os.replace(part, path)
        return file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return client.retrying(once)
    except OSError as error:
        raise FetchError(f"cannot write {part}: {error.strerror or error}", general=True) from error


def _save(
    client: HttpClient, url: str, part: Path, limit: int, on_bytes: Callable[[int], None] | None
) -> None:
    """Bring what `part` lacks; raise unless it then has the length that was announced.

    The server goes on where `part` ends only if its file still has the date that `part` bears
    (``If-Range``); else it sends the whole file.
    """
    start = part.stat().st_size if part.exists() else 0
    headers = {}
    if start:
        date = email.utils.formatdate(part.stat().st_mtime, usegmt=True)
        headers = {"Range": f"bytes={start}-", "If-Range": date}
    with closing(client.open("GET", url, headers=headers)) as response:
        if response.status_code == 416 and _ends_at(response, start):
            return
        if response.status_code == 416 or not _continues(response, start):
            part.unlink(missing_ok=True)
            raise RetryError("the server could not go on where the last attempt ended")
        if response.status_code != 206:
            start = 0
        length = header_number(response, "Content-Length")
        known = length is not None and "Content-Encoding" not in response.headers
        total = start + length if length is not None and known else None
        if total is not None and total > limit:
            raise FetchError(f"the file has {total} bytes, more than the limit of {limit}")
        try:
            size = _write(client, response, part, start, limit, on_bytes)
        finally:
            _date(part, response)
        if total is not None and size != total:
            raise RetryError(
                f"connection cut after {size} of {total} bytes", gain=size > start + _GAIN
            )


def _write(
    client: HttpClient,
    response: requests.Response,
    part: Path,
    start: int,
    limit: int,
    on_bytes: Callable[[int], None] | None,
) -> int:
    """Write the body of an answer behind the first `start` bytes; return the size reached."""
    size = start
    with part.open("ab" if start else "wb") as sink:
        try:
            for chunk in response.iter_content(CHUNK):
                sink.write(chunk)
                size += len(chunk)
                if on_bytes is not None:
                    on_bytes(len(chunk))
                if size > limit:
                    break
                if client.stop.is_set():
                    raise Stopped
        except requests.RequestException as error:
            raise RetryError(
                f"connection cut after {size} bytes ({innermost(error)})",
                gain=size > start + _GAIN,
            ) from error
    if size > limit:
        part.unlink()
        raise FetchError(f"the file is larger than the limit of {limit} bytes")
    return size


def _continues(response: requests.Response, start: int) -> bool:
    """Whether a partial answer begins where it must; a whole one always does."""
    if response.status_code != 206:
        return True
    span = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return span is not None and int(span.group(1)) == start


def _ends_at(response: requests.Response, start: int) -> bool:
    """Whether the server's file has no bytes behind the first `start`."""
    return response.headers.get("Content-Range", "").strip() == f"bytes */{start}"


def _date(part: Path, response: requests.Response) -> None:
    """Give a ``.part`` the server's date, by which the next attempt asks to go on."""
    try:
        changed = email.utils.parsedate_to_datetime(response.headers.get("Last-Modified", ""))
        os.utime(part, (changed.timestamp(), changed.timestamp()))
    except (ValueError, OSError):
        return
