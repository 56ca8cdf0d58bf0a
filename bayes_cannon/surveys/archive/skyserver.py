"""Rows of the APOGEE catalogue by SQL, from SDSS's SkyServer.

The service is SkyServer's ``SqlSearch`` (``SkyServerWS/SearchTools/SqlSearch?cmd=…&format=csv``,
the release in the path), as its documentation and other clients describe it. It was not
verified against the live service: this module is tested against a local server that runs the
same SQL on tables of the same names. The tables are ``apogeeStar`` and ``aspcapStar`` of the
Catalog Archive Server; they are joined on ``apstar_id``, because joining on ``apogee_id`` would
multiply stars that were seen in several fields. Missing numbers are -9999. For release 17 the
service holds the first version of the catalogue (``synspec``); the allStar file is its
correction ``synspec_rev1``, which differs for stars of the southern telescope (lco25m) only.
"""

from __future__ import annotations

import csv
import html
import io
import logging
import re
from collections.abc import Iterator, Sequence

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from bayes_cannon.base.cards import count_text
from bayes_cannon.errors import DownloadError
from bayes_cannon.surveys.archive.addresses import Release, check_field, check_star
from bayes_cannon.surveys.archive.catalogue import CatalogueColumn, catalogue_columns, make_table
from bayes_cannon.surveys.archive.http import HttpClient

__all__ = [
    "build_query",
    "parse_rows",
    "query_catalogue",
    "query_url",
]


logger = logging.getLogger(__name__)

_ROW_CAP = 500_000
_PAUSE = 1.0
_BUSY_PAUSE = 60.0
_BUSY = re.compile(r"quer(y|ies).{0,40}(minute|second)", re.IGNORECASE)
_NOTHING = re.compile(r"no (objects|rows|entries)", re.IGNORECASE)
_PER_QUERY = 50
_MAX_BYTES = 400_000_000


class _BusyError(DownloadError):
    """The service says that too many queries came in too short a time."""


def query_url(root: str, release: Release) -> str:
    """Address of the service for one release.

    Parameters
    ----------
    root
        Address of SkyServer.
    release
        Asked for.
    """
    return f"{root}/{release.name}/SkyServerWS/SearchTools/SqlSearch"


def _quoted(names: Sequence[str]) -> str:
    """SQL list of strings; a quote inside a string is doubled."""
    return ", ".join("'" + name.replace("'", "''") + "'" for name in names)


def build_query(
    columns: Sequence[CatalogueColumn], *, fields: Sequence[str] = (), stars: Sequence[str] = ()
) -> str:
    """SQL for the rows of some fields, or of some stars in whatever fields they were seen.

    Parameters
    ----------
    columns
        Of the catalogue.
    fields, stars
        Names of fields and ids of stars.

    Raises
    ------
    DownloadError
        If a name has characters that no field or star has, or neither is given.
    """
    conditions = []
    if fields:
        conditions.append(f"s.field IN ({_quoted([check_field(f) for f in fields])})")
    if stars:
        conditions.append(f"s.apogee_id IN ({_quoted([check_star(s) for s in stars])})")
    if not conditions:
        raise DownloadError("name at least one field or star to look up.")
    return (
        f"SELECT {', '.join(column.sql for column in columns)} "
        "FROM apogeeStar AS s JOIN aspcapStar AS a ON a.apstar_id = s.apstar_id "
        f"WHERE {' OR '.join(conditions)}"
    )


def _first_line(text: str) -> str:
    """First words of an answer, without HTML tags, for a message."""
    plain = html.unescape(re.sub(r"<[^>]*>", " ", text[:4000]))
    return " ".join(plain.split())[:200] or "an empty answer"


def _column(column: CatalogueColumn, texts: Sequence[str]) -> NDArray[np.generic]:
    """Values of one column of the CSV; an empty cell or ``null`` is unknown."""
    stripped = [text.strip() for text in texts]
    if column.kind == "U":
        return np.array(stripped, dtype=np.str_)
    empty = "0" if column.kind == "i" else "nan"
    filled = [empty if text.lower() in ("", "null") else text for text in stripped]
    try:
        if column.kind == "i":
            return np.array([int(text) for text in filled], dtype=np.int64)
        return np.array(filled, dtype=np.float64)
    except (ValueError, OverflowError) as error:
        raise DownloadError(
            f"SkyServer sent something that is no number in column {column.name}: "
            f"{_first_line(str(error))}."
        ) from None


def _records(text: str) -> Iterator[list[str]]:
    """Rows of comma-separated values."""
    try:
        yield from csv.reader(io.StringIO(text))
    except csv.Error as error:
        raise DownloadError(f"SkyServer's answer is garbled ({error}); try again.") from error


def parse_rows(text: str, columns: Sequence[CatalogueColumn]) -> dict[str, NDArray[np.generic]]:
    """Read an answer of SkyServer: a line ``#Table1`` (or none), names, then comma-separated rows.

    Errors come with status 200 as HTML or text; they are recognised because the line of names
    is not the one asked for.

    Parameters
    ----------
    text
        The answer.
    columns
        Asked for, in their order.

    Returns
    -------
    arrays : dict of str to (n_rows,) arrays
        By the names of `columns`.

    Raises
    ------
    DownloadError
        If the answer is an error page, is cut short, or has as many rows as the service gives
        at most, so that some may lack.
    """
    lines = text.lstrip("\ufeff \r\n").splitlines()
    body = lines[1:] if lines and lines[0].startswith("#") else lines
    names = [column.sql.rpartition(".")[2].strip("[]") for column in columns]
    header = next(_records("\n".join(body[:1])), [])
    if [name.strip().lower() for name in header] != names:
        said = _first_line(text)
        if _NOTHING.search(said) and len(lines) <= 3:
            return {column.name: _column(column, []) for column in columns}
        if _BUSY.search(said):
            raise _BusyError(f"SkyServer is busy: {said}")
        raise DownloadError(f"SkyServer answered with no table but with: {said}")
    rows = [row for row in _records("\n".join(body[1:])) if row]
    if len(rows) >= _ROW_CAP:
        raise DownloadError(
            f"SkyServer sent {count_text(len(rows), 'row')}, the most that it ever sends; ask for "
            "fewer fields, or use the allStar file."
        )
    if any(len(row) != len(columns) for row in rows):
        raise DownloadError("SkyServer's answer is cut short or garbled; try again.")
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    return {c.name: _column(c, texts) for c, texts in zip(columns, cells, strict=True)}


def _ask(
    client: HttpClient, url: str, sql: str, columns: Sequence[CatalogueColumn]
) -> dict[str, NDArray[np.generic]]:
    """One query, asked again after a minute where the service is busy."""
    for attempt in range(3):
        text = client.text(url, params={"cmd": sql, "format": "csv"}, max_bytes=_MAX_BYTES)
        try:
            return parse_rows(text, columns)
        except _BusyError:
            if attempt == 2:
                raise
            logger.info("SkyServer is busy; waiting %.0f s", _BUSY_PAUSE)
            client.sleep(_BUSY_PAUSE)
    raise AssertionError("unreachable")


def query_catalogue(
    root: str,
    release: Release,
    *,
    labels: Sequence[str],
    fields: Sequence[str] = (),
    stars: Sequence[str] = (),
    client: HttpClient | None = None,
) -> Table:
    """Rows of the catalogue for some fields and stars.

    Long lists are split over several queries, with a pause of a second between them.

    Parameters
    ----------
    root : str
        Address of SkyServer, from `addresses.skyserver_root`.
    release : Release
    labels : sequence of str
        Labels wanted, by their names in allStar.
    fields, stars : sequences of str
        Rows of these fields, and all rows of these stars.
    client : HttpClient, optional

    Returns
    -------
    table : astropy.table.Table
        See `catalogue.make_table`.

    Raises
    ------
    DownloadError
        If the service cannot be reached or refuses the query.
    """
    client = client or HttpClient()
    columns = catalogue_columns(release, labels)
    url = query_url(root, release)
    if not fields and not stars:
        raise DownloadError("name at least one field or star to look up.")
    queries = [
        build_query(columns, fields=fields[i : i + _PER_QUERY])
        for i in range(0, len(fields), _PER_QUERY)
    ] + [
        build_query(columns, stars=stars[i : i + _PER_QUERY])
        for i in range(0, len(stars), _PER_QUERY)
    ]
    pieces = []
    for i, sql in enumerate(queries):
        if i:
            client.sleep(_PAUSE)
        logger.info("asking SkyServer for catalogue rows, query %d of %d", i + 1, len(queries))
        try:
            pieces.append(_ask(client, url, sql, columns))
        except DownloadError as error:
            raise DownloadError(
                f"no catalogue from {url}: {error}. Check the network, or use the allStar file."
            ) from error
    arrays = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    return make_table(arrays, release, labels)
