"""Images of FITS files, read row by row.

A survey has thousands of small files of which a few rows are wanted. Reading just these is about
five times faster than building the objects of a general FITS library for every header.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.paths import user_path
from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.fits import AGAIN, BLOCK, open_bytes, plain_size

__all__ = [
    "FitsImage",
    "Header",
    "ImageFile",
    "open_images",
    "read_hdu",
    "unscaled",
]


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

        Parameters
        ----------
        key
            Of the card.
        default
            Where there is none.
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
        """One row of an image, shape (n_pixels,), scaled and in native byte order.

        Parameters
        ----------
        number
            Of the HDU, from 0.
        row
            Of the image.

        Returns
        -------
        (n_pixels,) array

        Raises
        ------
        FileFormatError
            If the file is cut short.
        """
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

    Parameters
    ----------
    stored : (...) numbers
    scale, zero
        BSCALE and BZERO, or TSCAL and TZERO.

    Returns
    -------
    (...) array
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

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder.
    n_hdus
        How many HDUs are needed.

    Yields
    ------
    ImageFile

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

    Parameters
    ----------
    path
        Of the file, for messages.
    stream
        The open file.
    start
        Where the HDU begins, bytes.
    number
        Of the HDU, from 0.

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
