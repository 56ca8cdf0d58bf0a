"""Opening FITS files so that whatever is wrong with one is told in one kind of error.

Images of FITS files, read row by row.

A survey has thousands of small files of which a few rows are wanted. Reading just these is about
ten times faster than building the objects of a general FITS library for every header.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from bayes_cannon.base.paths import user_path
from bayes_cannon.errors import BayesCannonError, FileFormatError

__all__ = [
    "AGAIN",
    "BLOCK",
    "CardSource",
    "FitsFile",
    "FitsImage",
    "Header",
    "ImageFile",
    "card_number",
    "card_text",
    "is_simulated",
    "open_bytes",
    "open_fits",
    "open_images",
    "plain_size",
    "read_hdu",
    "unscaled",
]


BLOCK = 2880
_GZIP = b"\x1f\x8b"
_MAGIC = b"SIMPLE  ="
AGAIN = "download it again, or leave it out"


@contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a FITS file, gzipped or not, as a stream of its plain bytes.

    Raises
    ------
    FileFormatError
        If there is no such file, it may not be read, or its first bytes are not those of FITS;
        also in place of every error of reading that happens while it is open.
    """
    source = user_path(path)
    try:
        _require_file(source)
        with source.open("rb") as raw:
            packed = raw.read(len(_GZIP)) == _GZIP
            raw.seek(0)
            # A gzip reader is not told to be one of bytes by the stubs.
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
            _require_magic(source, stream.read(512))
            stream.seek(0)
            yield stream
    except (BayesCannonError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FileFormatError(f"{source} cannot be read ({reason}); {AGAIN}.") from error


def plain_size(path: Path, stream: IO[bytes]) -> int | None:
    """Size of an open FITS file in bytes; None where it is gzipped.

    Raises
    ------
    FileFormatError
        If it is not a multiple of 2880, as the size of every whole FITS file is.
    """
    if isinstance(stream, gzip.GzipFile):
        return None
    size = os.fstat(stream.fileno()).st_size
    if size % BLOCK:
        raise FileFormatError(
            f"{path} is cut short: its {size} bytes are not a multiple of {BLOCK}; {AGAIN}."
        )
    return size


@dataclass(frozen=True, eq=False)
class FitsFile:
    """An open FITS file.

    Attributes
    ----------
    path : Path
    hdus : astropy.io.fits.HDUList
        Read from the file when asked for, without memory map.
    size : int or None
        Bytes of the file; None where it is gzipped.
    """

    path: Path
    hdus: fits.HDUList
    size: int | None

    def require_whole(self, number: int, what: str) -> None:
        """Check that an HDU is not cut short; `what` says in messages what it holds."""
        info = self.hdus[number].fileinfo()
        end = info["datLoc"] + info["datSpan"]
        if self.size is not None and self.size < end:
            raise FileFormatError(
                f"{self.path} is cut short: {self.size} bytes where HDU {number} ({what}) "
                f"ends at {end}; {AGAIN}."
            )


@contextmanager
def open_fits(path: str | os.PathLike[str]) -> Iterator[FitsFile]:
    """Open a FITS file without memory map and without warnings.

    Raises
    ------
    FileFormatError
        As `open_bytes`, and if the file was cut short.
    """
    source = user_path(path)
    with open_bytes(source) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size = plain_size(source, stream)
        with fits.open(stream, memmap=False, lazy_load_hdus=True) as hdus:
            yield FitsFile(source, hdus, size)


class CardSource(Protocol):
    """A header, of this package or of astropy."""

    def get(self, key: str, default: Any = None) -> Any:
        """Value of a card."""


def card_number(header: CardSource, key: str, default: float = math.nan) -> float:
    """Value of a header card as a number; `default` where missing, unreadable or a fill value.

    The archive writes -9999 and -9999.99 for what is missing, 999999 for unknown velocities, and
    some files hold a bare NaN, which is not FITS.
    """
    try:
        value = float(header.get(key, default))
    except (fits.VerifyError, ValueError, TypeError, OverflowError):
        return default
    return value if math.isfinite(value) and -999 < value < 999999 else default


def card_text(header: CardSource, key: str) -> str:
    """Value of a header card as text without blanks around it; '' where missing or unreadable."""
    try:
        value = header.get(key, "")
    except fits.VerifyError:
        return ""
    return str(value).strip() if isinstance(value, str | int) else ""


def is_simulated(header: CardSource) -> bool:
    """Whether a header marks its file as simulated (``SIMULATE = T``, or a HISTORY line)."""
    if card_text(header, "SIMULATE").upper() in ("TRUE", "T", "1"):
        return True
    return any(str(line).startswith("SIMULATED") for line in header.get("HISTORY", []))


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise FileFormatError(f"{path} is a directory; give the FITS files in it.")
    if not path.exists():
        raise FileFormatError(f"{path} does not exist; check the path, or download the file.")
    if not path.is_file():
        raise FileFormatError(f"{path} is not a regular file; give a FITS file.")


def _require_magic(path: Path, start: bytes) -> None:
    if start.startswith(_MAGIC):
        return
    if not start:
        raise FileFormatError(f"{path} is empty; {AGAIN}.")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<") or b"<html" in text:
        raise FileFormatError(
            f"{path} is a web page saved under the name of a FITS file: the archive answered with "
            f"a page instead of the file; {AGAIN}."
        )
    raise FileFormatError(f"{path} is not a FITS file (it starts with {start[:9]!r}); {AGAIN}.")


_MOST_BLOCKS = 2000  # 72 000 cards; the headers of apStar files have at most some hundreds
_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_QUOTED = re.compile(r"\s*'((?:[^']|'')*)'")


class Header:
    """Cards of a FITS header; a value is looked at when it is asked for.

    Parameters
    ----------
    content : bytes
        Whole blocks of cards of 80 bytes.
    """

    def __init__(self, content: bytes) -> None:
        text = content.decode("ascii", "replace")
        self._values: dict[str, str] = {}
        self._history: list[str] = []
        for start in range(0, len(text), 80):
            key = text[start : start + 8].rstrip()
            if key == "HISTORY":
                self._history.append(text[start + 8 : start + 80].strip())
            elif text[start + 8 : start + 10] == "= ":
                self._values.setdefault(key, text[start + 10 : start + 80])

    def get(self, key: str, default: object = None) -> Any:
        """Value of a card: text, bool, int or float; `default` where missing or unreadable.

        ``HISTORY`` gives a list of all its lines.
        """
        if key == "HISTORY":
            return self._history
        text = self._values.get(key)
        if text is None:
            return default
        quoted = _QUOTED.match(text)
        if quoted:
            return quoted[1].replace("''", "'").rstrip()
        plain = text.partition("/")[0].strip()
        if plain in ("T", "F"):
            return plain == "T"
        for number in (int, float):
            try:
                return number(plain.replace("D", "E"))
            except ValueError:
                continue
        return default


@dataclass(frozen=True, eq=False)
class FitsImage:
    """Header of an HDU, and where its data are.

    Attributes
    ----------
    header : Header
    is_image : bool
        False for tables and other kinds.
    shape : tuple of int
        As NumPy has it: the last axis is that of the pixels; () without data.
    dtype : numpy dtype
        As stored: big-endian.
    start, stop : int
        Bytes of the data in the file, [start, stop).
    """

    header: Header
    is_image: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class ImageFile:
    """First HDUs of an open FITS file.

    Attributes
    ----------
    path : Path
    stream : binary stream
    hdus : tuple of FitsImage
    """

    path: Path
    stream: IO[bytes]
    hdus: tuple[FitsImage, ...]

    @property
    def header(self) -> Header:
        """The primary header."""
        return self.hdus[0].header

    def read_row(self, number: int, row: int) -> NDArray[Any]:
        """One row of an image, shape (n_pixels,), scaled and in native byte order."""
        hdu = self.hdus[number]
        n_bytes = hdu.shape[-1] * hdu.dtype.itemsize
        self.stream.seek(hdu.start + row * n_bytes)
        content = self.stream.read(n_bytes)
        if len(content) < n_bytes:
            raise FileFormatError(f"{self.path} is cut short in HDU {number}; {AGAIN}.")
        stored = np.frombuffer(content, hdu.dtype)
        native = stored.astype(hdu.dtype.newbyteorder("="))
        return unscaled(native, hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0))


def unscaled(stored: NDArray[Any], scale: float, zero: float) -> NDArray[Any]:
    """Undo the scaling of stored numbers: stored * scale + zero.

    FITS has no unsigned integers beyond a byte and stores them less 2**(bits - 1): integers stay
    integers (int64), as 64 bits do not fit into a float.
    """
    if scale == 1 and zero == 0:
        return stored
    if stored.dtype.kind in "iu" and scale == 1 and zero == int(zero):
        shifted = stored.astype(np.int64).view(np.uint64) + np.uint64(int(zero) % 2**64)
        return shifted.view(np.int64)
    return np.asarray(stored.astype(np.float64) * scale + zero)


@contextmanager
def open_images(path: str | os.PathLike[str], n_hdus: int) -> Iterator[ImageFile]:
    """Open a FITS file and find its first HDUs.

    Raises
    ------
    FileFormatError
        If the file is missing, no FITS file, damaged or cut short, or has fewer HDUs.
    """
    source = user_path(path)
    with open_bytes(source) as stream:
        size = plain_size(source, stream)
        hdus: list[FitsImage] = []
        start = 0
        for number in range(n_hdus):
            hdu = read_hdu(source, stream, start, number)
            if size is not None and size < hdu.stop:
                raise FileFormatError(
                    f"{source} is cut short: it has {size} bytes, and HDU {number} ends at "
                    f"{hdu.stop}; {AGAIN}."
                )
            start = -(-hdu.stop // BLOCK) * BLOCK
            hdus.append(hdu)
        yield ImageFile(source, stream, tuple(hdus))


def read_hdu(path: Path, stream: IO[bytes], start: int, number: int) -> FitsImage:
    """Read the header of the HDU that begins at a byte, and work out where its data are.

    Raises
    ------
    FileFormatError
        If there is no whole header, or it does not say what follows.
    """
    content = _read_header(path, stream, start, number)
    header = Header(content)
    bits, n_axes = header.get("BITPIX"), header.get("NAXIS")
    lengths: list[Any] = []
    if type(n_axes) is int and 0 <= n_axes <= 999:
        lengths = [header.get(f"NAXIS{axis}") for axis in range(n_axes, 0, -1)]
    extent = [*lengths, n_axes, header.get("PCOUNT", 0), header.get("GCOUNT", 1)]
    if bits not in _TYPES or not all(type(n) is int and n >= 0 for n in extent):
        raise FileFormatError(f"{path}: the header of HDU {number} is damaged; {AGAIN}.")
    *_, parameters, groups = extent
    dtype = np.dtype(_TYPES[bits])
    first = start + len(content)
    values = groups * (parameters + math.prod(lengths)) if lengths else 0
    return FitsImage(
        header=header,
        is_image=header.get("XTENSION", "IMAGE") == "IMAGE",
        shape=tuple(lengths),
        dtype=dtype,
        start=first,
        stop=first + values * dtype.itemsize,
    )


def _read_header(path: Path, stream: IO[bytes], start: int, number: int) -> bytes:
    """Blocks of a header, up to the one with the END card."""
    stream.seek(start)
    blocks: list[bytes] = []
    while len(blocks) < _MOST_BLOCKS:
        block = stream.read(BLOCK)
        if not block and not blocks:
            raise FileFormatError(
                f"{path} has no HDU {number}, only {number}: it is another kind of file than an "
                f"apStar or aspcapStar file, or was cut short; {AGAIN}."
            )
        if len(block) < BLOCK:
            raise FileFormatError(f"{path} is cut short in the header of HDU {number}; {AGAIN}.")
        blocks.append(block)
        if any(block[card : card + 8] == b"END     " for card in range(0, BLOCK, 80)):
            return b"".join(blocks)
    raise FileFormatError(f"{path}: the header of HDU {number} has no end; {AGAIN}.")
