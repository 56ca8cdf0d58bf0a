"""A local HTTP server that looks like the SDSS archive and SkyServer, and misbehaves on demand.

`make_survey` writes a small survey; `ArchiveServer` serves it under the archive's addresses,
with checksum lists, HTTP ranges and dates, and answers SkyServer queries by running their SQL
on tables of the same names. `ArchiveServer.script` makes single addresses misbehave.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from astropy.io import fits
from astropy.table import Table

APRED = {"dr16": "r12", "dr17": "dr17"}
ALLSTAR = {
    "dr16": "apogee/spectro/aspcap/r12/l33/allStar-r12-l33.fits",
    "dr17": "apogee/spectro/aspcap/dr17/synspec_rev1/allStar-dr17-synspec_rev1.fits",
}
LAST_MODIFIED = "Tue, 07 Dec 2021 12:00:00 GMT"

# Misbehaviour ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """Answer with a status and headers."""

    code: int
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Slow:
    """Send the body in pieces with pauses between them."""

    pause: float
    pieces: int = 4


@dataclass(frozen=True)
class Cut:
    """Announce the whole body and close the connection after so many bytes."""

    after: int


@dataclass(frozen=True)
class Page:
    """Answer with status 200 and a page in place of the file."""

    text: str = "<!DOCTYPE html>\n<html><body><h1>Site maintenance</h1></body></html>\n"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Garbled:
    """Send the file with some bytes of its data changed."""


@dataclass(frozen=True)
class Always:
    """Repeat one misbehaviour for ever."""

    action: object


@dataclass
class Request:
    """One request as it came: method, raw path, decoded path, headers."""

    method: str
    raw: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)


class ArchiveServer:
    """The server; use it as a context manager.

    Parameters
    ----------
    survey : Path
        A survey as `make_survey` writes it.
    release : str
    ranges : bool
        Whether HTTP ranges are served.
    checksums : bool
        Whether the fields have lists of checksums.
    """

    def __init__(
        self, survey: Path, release: str = "dr17", *, ranges: bool = True, checksums: bool = True
    ) -> None:
        self.survey, self.release = survey, release
        self.ranges, self.checksums = ranges, checksums
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self._scripts: dict[str, list[object]] = defaultdict(list)

    def __enter__(self) -> ArchiveServer:
        archive = self

        class Handler(_Handler):
            server_archive = archive

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    @property
    def sas_url(self) -> str:
        return self.url + "/sas"

    @property
    def skyserver_url(self) -> str:
        return self.url + "/skyserver"

    def script(self, ending: str, *actions: object) -> None:
        """Misbehave, action by action, at GETs of addresses that end so; afterwards be good."""
        self._scripts[ending].extend(actions)

    def good_again(self) -> None:
        self._scripts.clear()

    def next_action(self, path: str) -> object | None:
        with self.lock:
            for ending, actions in self._scripts.items():
                if actions and path.endswith(ending):
                    first = actions[0]
                    if isinstance(first, Always):
                        return first.action
                    return actions.pop(0)
        return None

    def asked(self, ending: str, method: str = "GET") -> list[Request]:
        """Requests for addresses that end so."""
        return [r for r in self.requests if r.method == method and r.path.endswith(ending)]

    def file(self, path: str) -> bytes | None:
        """Content at an address below ``/sas``."""
        base = f"/sas/{self.release}/"
        if not path.startswith(base):
            return None
        rest = path.removeprefix(base)
        if rest == ALLSTAR[self.release]:
            return next(self.survey.glob("allStar-*.fits")).read_bytes()
        stars = f"apogee/spectro/redux/{APRED[self.release]}/stars/"
        if not rest.startswith(stars):
            return None
        parts = rest.removeprefix(stars).split("/")
        if len(parts) != 3 or ".." in parts:
            return None
        folder = self.survey / parts[0] / parts[1]
        if parts[2] == f"{APRED[self.release]}_stars_{parts[0]}_{parts[1]}.sha1sum":
            return self._checksum_list(folder) if self.checksums and folder.is_dir() else None
        found = folder / parts[2]
        return found.read_bytes() if found.is_file() else None

    def _checksum_list(self, folder: Path) -> bytes:
        lines = [
            f"{hashlib.sha1(path.read_bytes()).hexdigest()}  stars/{folder.name}/{path.name}\n"
            for path in sorted(folder.glob("*.fits"))
        ]
        return "".join(lines).encode()

    def answer_sql(self, sql: str) -> str:
        """Run a SkyServer query; errors come as SkyServer's do, in place of the table."""
        with sqlite3.connect(":memory:") as base:
            _fill(base, Table.read(next(self.survey.glob("allStar-*.fits")), hdu=1))
            try:
                cursor = base.execute(sql)
            except sqlite3.Error as error:
                return f"<html><body>SQL query failed: {error}</body></html>"
            sink = io.StringIO()
            sink.write("#Table1\n")
            writer = csv.writer(sink, lineterminator="\n")
            writer.writerow([column[0] for column in cursor.description])
            writer.writerows(cursor.fetchall())
        return sink.getvalue()


def _fill(base: sqlite3.Connection, table: Table) -> None:
    """Make the two tables of the Catalog Archive Server from an allStar table."""
    ours = [n for n in table.colnames if table[n].ndim == 1]
    ids = [
        ".".join(("apogee", row["TELESCOPE"], "sc"[bool(row["EXTRATARG"] & 2)], "stars",
                  row["FIELD"], row["APOGEE_ID"]))
        for row in table
    ]  # fmt: skip
    for name in ("apogeeStar", "aspcapStar"):
        columns = ", ".join(f"[{n.lower()}]" for n in ours)
        base.execute(f"CREATE TABLE {name} (apstar_id, {columns})")
        marks = ", ".join("?" * (len(ours) + 1))
        for star, row in zip(ids, table, strict=True):
            cells = [_cell(row[n]) for n in ours]
            base.execute(f"INSERT INTO {name} VALUES ({marks})", [star, *cells])


def _cell(value: object) -> object:
    """A value as the database holds it: -9999 where it is missing."""
    if value is np.ma.masked:
        return -9999.0
    if isinstance(value, str | np.str_ | bytes):
        return str(value).strip()
    if isinstance(value, np.integer | np.bool_):
        return int(value)
    number = float(str(value))
    return number if np.isfinite(number) and number > -999 else -9999.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_archive: ArchiveServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve(head=True)

    def do_GET(self) -> None:
        self._serve(head=False)

    def _serve(self, *, head: bool) -> None:
        archive = self.server_archive
        path = unquote(urlsplit(self.path).path)
        with archive.lock:
            archive.requests.append(
                Request(self.command, self.path, path, dict(self.headers.items()))
            )
        action = None if head else archive.next_action(path)
        try:
            if isinstance(action, Status):
                self._reply(action.code, b"no\n", dict(action.headers))
            elif isinstance(action, Page):
                self._reply(200, action.text.encode(), dict(action.headers))
            elif path.startswith("/skyserver/"):
                self._sql()
            else:
                content = archive.file(path)
                if content is None:
                    self._reply(404, b"not found\n", {})
                else:
                    self._send_file(content, action, head=head)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _sql(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        good = f"/skyserver/{self.server_archive.release}/SkyServerWS/SearchTools/SqlSearch"
        if urlsplit(self.path).path != good or query.get("format") != ["csv"]:
            self._reply(404, b"no such service\n", {})
            return
        answer = self.server_archive.answer_sql(query["cmd"][0])
        self._reply(200, answer.encode(), {"Content-Type": "text/plain"})

    def _reply(self, code: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_file(self, content: bytes, action: object, *, head: bool) -> None:
        archive = self.server_archive
        if isinstance(action, Garbled):
            content = (
                content[:-4000] + bytes(b ^ 0xFF for b in content[-4000:-3900]) + content[-3900:]
            )
        start, code = 0, 200
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and archive.ranges and self.headers.get("If-Range") in (None, LAST_MODIFIED):
            start, code = int(wanted.group(1)), 206
            if start >= len(content):
                self._reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
        self.send_response(code)
        self.send_header("Last-Modified", LAST_MODIFIED)
        self.send_header("Content-Length", str(len(content) - start))
        if code == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if head:
            return
        if isinstance(action, Cut):
            self.wfile.write(content[start : start + action.after])
            self.wfile.flush()
            self.close_connection = True
            return
        for piece in _pieces(content[start:], action):
            self.wfile.write(piece)
            self.wfile.flush()
            if isinstance(action, Slow) and archive.closing.wait(action.pause):
                self.close_connection = True
                return


def _pieces(content: bytes, action: object) -> Iterator[bytes]:
    step = -(-len(content) // action.pieces) if isinstance(action, Slow) else len(content)
    for i in range(0, len(content), max(1, step)):
        yield content[i : i + step]


# A small survey ----------------------------------------------------------------------------

STARS = (
    # id, telescope, field, visits, S/N, EXTRATARG, Teff
    ("2M21290843+1209118", "apo25m", "M15", 1, 180.0, 0, 4700.0),
    ("2M21294979+1211058", "apo25m", "M15", 3, 60.0, 0, 4500.0),
    ("2M21301565+1208229", "apo25m", "M15", 1, 30.0, 0, 5200.0),
    ("2M00000032+5737103", "apo25m", "060+00", 1, 150.0, 0, np.nan),
    ("2M19205338+3748282", "apo25m", "N6791", 1, 90.0, 0, 4300.0),
    ("2M19205338+3748282", "apo25m", "060+00", 1, 95.0, 1 << 4, 4310.0),
    ("2M03282869-6941456", "lco25m", "K2_C4_168-21", 1, 110.0, 0, 4900.0),
    ("2M03533659+2512012", "apo25m", "K2_C4_168-21", 2, 200.0, 0, 4800.0),
    ("VESTA", "apo1m", "standards", 1, 500.0, 1 << 3, 5700.0),
    ("2M21290843+1209118", "apo25m", "M15", 1, 40.0, 1 << 1, 4690.0),
)
"""Stars of the small survey: one in two fields, one of the 1-m telescope, one commissioning."""

FIELDS = ("M15", "060+00", "N6791", "K2_C4_168-21")
N_SPECTRA = 8
"""Spectra in `FIELDS` (the commissioning one is not counted)."""


def apstar_bytes(star: str, n_visits: int, seed: int) -> bytes:
    """An apStar-like file: flux, error and mask of 8575 pixels."""
    rng = np.random.default_rng(seed)
    n_rows = 2 if n_visits == 1 else n_visits + 2
    primary = fits.PrimaryHDU()
    primary.header["OBJID"] = star
    flux = rng.normal(100.0, 1.0, (n_rows, 8575)).astype(np.float32)
    images = [flux, np.ones_like(flux), np.zeros((n_rows, 8575), dtype=np.int16)]
    sink = io.BytesIO()
    fits.HDUList([primary, *(fits.ImageHDU(image) for image in images)]).writeto(sink)
    return sink.getvalue()


def make_survey(root: Path, release: str = "dr17") -> Path:
    """Write `STARS` as the archive has them: spectra, and allStar with columns not needed."""
    apred = APRED[release]
    names: list[str] = []
    for i, (star, telescope, field_name, n_visits, _, extratarg, _) in enumerate(STARS):
        prefix = "as" if telescope == "lco25m" else "ap"
        name = f"{prefix}Star{'C' * bool(extratarg & 2)}-{apred}-{star}.fits"
        if telescope == "apo1m":
            name = f"apStar-{apred}-{star}_1m.fits"
        names.append(name)
        path = root / telescope / field_name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(apstar_bytes(star, n_visits, seed=i))
    allstar_table(names, release).write(root / f"allStar-{release}-test.fits")
    return root


def allstar_table(names: list[str], release: str) -> Table:
    """The archive's catalogue of `STARS`, in no particular order, with unused columns."""
    old = release == "dr16"
    n = len(STARS)
    columns = list(zip(*STARS, strict=True))
    flag = np.int32 if old else np.int64
    teff = np.array(columns[6], dtype=np.float32)
    table = Table()
    table["FILE"] = np.array(names, dtype="S39" if old else "S64")
    table["APOGEE_ID"] = np.array(columns[0], dtype="S18" if old else "S30")
    table["TELESCOPE"] = np.array(columns[1], dtype="S8" if old else "S6")
    table["FIELD"] = np.array(columns[2], dtype="S16" if old else "S20")
    for name in ("RA", "DEC", "GLON", "GLAT"):
        table[name] = np.linspace(10.123456789, 80.987654321, n)
    table["J"] = np.full(n, 9.5, dtype=np.float32)
    table["NVISITS"] = np.array(columns[3], dtype=np.int32)
    table["SNR"] = np.array(columns[4], dtype=np.float32)
    table["STARFLAG"] = (2 ** np.arange(n)).astype(flag)
    table["ANDFLAG"] = np.zeros(n, dtype=flag)
    table["EXTRATARG"] = np.array(columns[5], dtype=np.int16 if old else np.int32)
    for name in ("VHELIO_AVG", "VSCATTER", "VERR"):
        table[name] = np.linspace(-107.3, 0.1, n).astype(np.float32)
    table["PARAM_COV"] = np.zeros((n, 81), dtype=np.float32)
    table["ASPCAPFLAG"] = np.array([-(2**31) if old else 2**41] + [0] * (n - 1), dtype=flag)
    for i, name in enumerate(("TEFF", "LOGG", "FE_H", "MG_FE", "SI_FE", "C_FE")):
        value = teff if i == 0 else np.where(np.isnan(teff), np.nan, 0.1 * i + teff / 1e5)
        error = np.where(np.isnan(teff), np.nan, 0.017 * (i + 1))
        table[name] = _sentinel(value, -9999.99, old=old)
        table[f"{name}_ERR"] = _sentinel(error, -999.99, old=old)
        if name not in ("TEFF", "LOGG"):
            table[f"{name}_FLAG"] = np.arange(n, dtype=np.int32)
    return table[np.random.default_rng(3).permutation(n)]


def _sentinel(values: np.ndarray, missing: float, *, old: bool) -> np.ndarray:
    return np.where(np.isnan(values) & old, missing, values).astype(np.float32)
