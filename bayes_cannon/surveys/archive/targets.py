"""Which stars of SDSS-V to download: by SDSS_ID, name, field, or place in the sky.

The catalogue of astra (1.1 million rows of 2 kB) is read once, some rows at a time; of its columns
only those with names, places and S/N are looked at. The rows of the stars that are wanted are kept
as they are stored, and written into a catalogue of the same layout.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from bayes_cannon.base.columns import whole_number
from bayes_cannon.base.paths import without_fits_ending
from bayes_cannon.base.storage import write_atomically
from bayes_cannon.base.typing import FloatArray
from bayes_cannon.errors import DownloadError, FileFormatError
from bayes_cannon.surveys.apogee.allstar import FitsTable, find_table, read_pieces
from bayes_cannon.surveys.archive.addresses import check_field, check_star
from bayes_cannon.surveys.fits import BLOCK, open_fits

__all__ = [
    "AstraRows",
    "Box",
    "Cone",
    "Targets",
    "read_targets",
    "write_targets",
]


_PART = "-part"


def _degrees(value: Any, what: str, low: float, high: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not low <= number <= high:
        raise DownloadError(f"{what} must be {low:g} to {high:g} degrees, not {value!r}.")
    return number


@dataclass(frozen=True)
class Cone:
    """A circle in the sky.

    Attributes
    ----------
    ra, dec : float
        Centre, degrees (ICRS).
    radius : float
        Degrees, up to 180.

    Raises
    ------
    DownloadError
        If one of them cannot be.
    """

    ra: float
    dec: float
    radius: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "ra", _degrees(self.ra, "ra of a cone", -360, 360) % 360)
        object.__setattr__(self, "dec", _degrees(self.dec, "dec of a cone", -90, 90))
        object.__setattr__(self, "radius", _degrees(self.radius, "radius of a cone", 0, 180))

    def holds(self, ra: FloatArray, dec: FloatArray) -> NDArray[np.bool_]:
        """Which places are in the cone, shape (n,); none that is NaN.

        By the haversine formula, which keeps its digits at small distances.

        Parameters
        ----------
        ra, dec : (n,) float64
            Degrees.
        """
        d_ra, d_dec = np.radians(ra - self.ra), np.radians(dec - self.dec)
        cosines = np.cos(np.radians(dec)) * np.cos(np.radians(self.dec))
        half = np.sin(d_dec / 2) ** 2 + cosines * np.sin(d_ra / 2) ** 2
        distance = 2 * np.degrees(np.arcsin(np.sqrt(np.clip(half, 0, 1))))
        return np.asarray(distance <= self.radius)

    def __str__(self) -> str:
        return f"cone_{self.ra:g}_{self.dec:g}_{self.radius:g}"


@dataclass(frozen=True)
class Box:
    """A range of right ascension and declination, borders included.

    Attributes
    ----------
    ra_min, ra_max : float
        Degrees; the box goes eastward from the first to the second, through 0 where that is less.
    dec_min, dec_max : float
        Degrees.

    Raises
    ------
    DownloadError
        If one of them cannot be.
    """

    ra_min: float
    ra_max: float
    dec_min: float
    dec_max: float

    def __post_init__(self) -> None:
        for name, limit in (("ra_min", 360), ("ra_max", 360), ("dec_min", 90), ("dec_max", 90)):
            number = _degrees(getattr(self, name), f"{name} of a box", -limit, limit)
            object.__setattr__(self, name, number)
        if self.dec_min > self.dec_max:
            raise DownloadError(
                f"a box from dec {self.dec_min:g} to {self.dec_max:g} holds nothing; give the "
                "southern border first."
            )

    def holds(self, ra: FloatArray, dec: FloatArray) -> NDArray[np.bool_]:
        """Which places are in the box, shape (n,); none that is NaN.

        Parameters
        ----------
        ra, dec : (n,) float64
            Degrees.
        """
        width = self.ra_max - self.ra_min
        width = width if width >= 360 else width % 360
        return np.asarray(
            ((ra - self.ra_min) % 360 <= width) & (dec >= self.dec_min) & (dec <= self.dec_max)
        )

    def __str__(self) -> str:
        return f"box_{self.ra_min:g}_{self.ra_max:g}_{self.dec_min:g}_{self.dec_max:g}"


@dataclass(frozen=True)
class Targets:
    """What was asked for; a star is wanted where one of these names it.

    Attributes
    ----------
    sdss_ids : tuple of int
    stars : tuple of str
        Names of 2MASS, such as ``2M00002479+6025311``.
    fields : tuple of str
    regions : tuple of Cone or Box

    Raises
    ------
    DownloadError
        If nothing is asked for, or names cannot be.
    InvalidDataError
        On SDSS_IDs that are not whole numbers from 1.
    """

    sdss_ids: tuple[int, ...] = ()
    stars: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    regions: tuple[Cone | Box, ...] = ()

    def __post_init__(self) -> None:
        ids = dict.fromkeys(whole_number(i, "an SDSS_ID", least=1) for i in self.sdss_ids)
        object.__setattr__(self, "sdss_ids", tuple(ids))
        object.__setattr__(self, "stars", tuple(dict.fromkeys(map(check_star, self.stars))))
        object.__setattr__(self, "fields", tuple(dict.fromkeys(map(check_field, self.fields))))
        if not (self.sdss_ids or self.needs_catalogue):
            raise DownloadError(
                "name what to download: at least one SDSS_ID, star, field, cone or box."
            )

    @property
    def needs_catalogue(self) -> bool:
        """Whether only a catalogue tells which stars these are."""
        return bool(self.stars or self.fields or self.regions)


@dataclass(frozen=True, eq=False)
class AstraRows:
    """Rows of a catalogue of astra.

    Attributes
    ----------
    path : Path
        The catalogue.
    headers : tuple of astropy.io.fits.Header
        Of its HDUs, up to the table's.
    rows : (n,) structured array
        As they are stored.
    sdss_id : (n,) int64
        0 where unknown.
    snr : (n,) float64
        NaN where unknown.
    asked : (n,) int64
        Which of the fields, regions and lists of names wants the row, the first where several do.
    absent : tuple of str
        Fields, names and SDSS_IDs that no row has.
    """

    path: Path
    headers: tuple[fits.Header, ...]
    rows: NDArray[np.void]
    sdss_id: NDArray[np.int64]
    snr: FloatArray
    asked: NDArray[np.int64]
    absent: tuple[str, ...]


def read_targets(path: Path, targets: Targets) -> AstraRows:
    """Find the rows of the stars that are wanted in a catalogue of astra, in bounded memory.

    Parameters
    ----------
    path
        Of ``astraAllStarASPCAP-*.fits``, gzipped or not, or another table with ``sdss_id``.
    targets
        What is wanted.

    Raises
    ------
    FileFormatError
        If the file holds no such table, lacks a column that is needed, or is damaged.
    """
    with open_fits(path) as file:
        source = find_table(file, "SDSS_ID", filled=True)
        _check_columns(source, targets)
        headers = _headers_up_to(source.hdu, file.hdus)
        rows, asked, seen = [np.empty(0, source.dtype)], [np.empty(0, np.int64)], set[str]()
        for piece in read_pieces(source):
            first = _asked(source, piece, targets, seen)
            rows.append(piece[first >= 0].copy())
            asked.append(first[first >= 0])
        # Without the type, numpy would turn the stored bytes into those of this machine.
        kept = np.concatenate(rows, dtype=source.dtype)
        snr = np.full(len(kept), np.nan)
        if "SNR" in source.names:
            snr = source.convert("SNR", "number", kept[source.names["SNR"]])
        ids = _whole_numbers(source, kept)
    wanted = (*targets.fields, *targets.stars, *map(str, targets.sdss_ids))
    absent = tuple(name for name in wanted if name not in seen)
    return AstraRows(path, headers, kept, ids, snr, np.concatenate(asked), absent)


_NAME_COLUMNS = ("SDSS4_APOGEE_ID", "OBJ")
"""With names of 2MASS; that of SDSS-IV is empty for stars that only SDSS-V observed."""


def _check_columns(source: FitsTable, targets: Targets) -> None:
    """Raise where a column lacks without which the stars cannot be found."""
    needed = ["FIELD"] * bool(targets.fields) + ["RA", "DEC"] * bool(targets.regions)
    lacking = [name.lower() for name in needed if name not in source.names]
    if targets.stars and not any(name in source.names for name in _NAME_COLUMNS):
        lacking.append("sdss4_apogee_id")
    if lacking:
        raise FileFormatError(
            f"{source.path} lacks {', '.join(lacking)}: the stars that are wanted cannot be found "
            "in it; give the whole astraAllStarASPCAP file."
        )
    if source.hdu.header.get("PCOUNT", 0):
        raise FileFormatError(
            f"{source.path} has columns of variable length, which are not copied; give the "
            "astraAllStarASPCAP file of the archive."
        )


def _headers_up_to(table: Any, hdus: fits.HDUList) -> tuple[fits.Header, ...]:
    headers = []
    for hdu in hdus:
        headers.append(hdu.header.copy())
        if hdu is table:
            break
    return tuple(headers)


def _whole_numbers(source: FitsTable, rows: NDArray[np.void]) -> NDArray[np.int64]:
    """SDSS_IDs of some rows, 0 where unknown."""
    stored = source.convert("SDSS_ID", "count", rows[source.names["SDSS_ID"]])
    return np.asarray(np.ma.filled(stored, 0), dtype=np.int64)


def _asked(
    source: FitsTable, piece: NDArray[np.void], targets: Targets, seen: set[str]
) -> NDArray[np.int64]:
    """Number of the first ask that wants each row, -1 where none does; `seen` gets names found."""
    asks: list[NDArray[np.bool_]] = []
    if targets.fields:
        texts = _texts(source, piece, "FIELD")
        for name in targets.fields:
            asks.append(texts == name)
            seen.update({name} if asks[-1].any() else ())
    if targets.regions:
        ra, dec = (source.convert(n, "number", piece[source.names[n]]) for n in ("RA", "DEC"))
        asks.extend(region.holds(ra, dec) for region in targets.regions)
    if targets.stars:
        for column in (name for name in _NAME_COLUMNS if name in source.names):
            texts = _texts(source, piece, column)
            asks.append(np.isin(texts, np.array(targets.stars, dtype=np.str_)))
            seen.update(texts[asks[-1]].tolist())
    if targets.sdss_ids:
        ids = _whole_numbers(source, piece)
        asks.append(np.isin(ids, np.array(targets.sdss_ids, dtype=np.int64)))
        seen.update(map(str, ids[asks[-1]].tolist()))
    wanted = np.array(asks)
    return np.where(wanted.any(axis=0), wanted.argmax(axis=0), -1)


def _texts(source: FitsTable, piece: NDArray[np.void], column: str) -> NDArray[np.str_]:
    return np.asarray(source.convert(column, "text", piece[source.names[column]]))


def write_targets(folder: Path, found: AstraRows, release: str) -> Path:
    """Write the rows into the folder's catalogue, of the same layout; return its path.

    It is called ``<name of the catalogue>-part.fits``, and keeps the rows of earlier downloads.
    HDUs before the table keep their header and lose their rows. A catalogue that lies in the
    folder already holds all rows, and stays alone.

    Parameters
    ----------
    folder
        Of the survey.
    found
        From `read_targets`.
    release
        Name of the release, for the header.

    Raises
    ------
    DownloadError
        If the part that is there has other columns.
    FileFormatError
        If it cannot be read.
    OutputExistsError
        If it cannot be written.
    """
    if found.path.resolve().parent == folder.resolve():
        return found.path
    path = folder / f"{without_fits_ending(found.path.name).removesuffix(_PART)}{_PART}.fits"
    rows = _with_earlier(path, found)
    hdus = [fits.PrimaryHDU(header=_fresh(found.headers[0]))]
    hdus[0].header["RELEASE"] = (release, "data release")
    *before, own = found.headers[1:]
    hdus += [_table(h, b"", 0) for h in before if h.get("XTENSION") == "BINTABLE"]
    hdus.append(_table(own, rows.tobytes(), len(rows)))
    whole = fits.HDUList(hdus)
    whole.update_extend()
    for hdu in whole:  # astropy's own comment is the time, which the same rows would not share
        hdu.add_checksum(when="checksum")
    write_atomically(path, lambda part: whole.writeto(part, overwrite=True), overwrite=True)
    return path


def _with_earlier(path: Path, found: AstraRows) -> NDArray[np.void]:
    """Rows of the part that is there and those that were found, each once, by SDSS_ID."""
    rows = found.rows
    if path.exists():
        with open_fits(path) as file:
            source = find_table(file, "SDSS_ID", filled=True)
            if source.dtype != rows.dtype:
                raise DownloadError(
                    f"{path} has other columns than {found.path}; download into another folder."
                )
            rows = np.concatenate([*read_pieces(source), rows], dtype=rows.dtype)
    different = list({row.tobytes(): number for number, row in enumerate(rows)}.values())
    kept = rows[sorted(different)]
    name = next(n for n in kept.dtype.names or () if n.upper() == "SDSS_ID")
    return kept[np.argsort(kept[name], kind="stable")]


def _fresh(header: fits.Header) -> fits.Header:
    """A header without checksums, which are worked out anew."""
    copy = header.copy()
    for name in ("CHECKSUM", "DATASUM"):
        copy.remove(name, ignore_missing=True)
    return copy


def _table(header: fits.Header, content: bytes, n_rows: int) -> fits.BinTableHDU:
    """A table of rows as they are stored."""
    card = _fresh(header)
    card["NAXIS2"] = n_rows
    text = card.tostring(sep="", endcard=True, padding=True).encode("ascii")
    return fits.BinTableHDU.fromstring(text + content + b"\0" * (-len(content) % BLOCK))
