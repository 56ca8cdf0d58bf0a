"""Checksums of FITS files: the cards CHECKSUM and DATASUM of an HDU.

Both are sums of the HDU's 32-bit words in ones' complement (FITS Standard 4.0, section 4.4.2.7 and
appendix J): DATASUM that of the data; CHECKSUM is such that the sum of the whole HDU is 2**32 - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.fits import AGAIN, BLOCK, CardSource, card_text

__all__ = [
    "block_end",
    "check_sums",
    "sum_of",
    "sum_of_stream",
]

_ALL_ONES = 0xFFFFFFFF
_PIECE = 1 << 24


def sum_of(content: bytes, start: int = 0) -> int:
    """Sum of 32-bit words, most significant byte first, in ones' complement.

    Parameters
    ----------
    content
        Bytes; as if filled up by zeros to whole words.
    start
        Sum of what comes before it, a whole number of words.

    Examples
    --------
    >>> sum_of(bytes([0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 2]))
    2
    """
    content = content + bytes(-len(content) % 4)
    total = start + int(np.frombuffer(content, ">u4").sum(dtype=np.uint64))
    while total > _ALL_ONES:
        total = (total & _ALL_ONES) + (total >> 32)
    return total


def sum_of_stream(stream: IO[bytes], n_bytes: int) -> int:
    """Sum of the next bytes of a stream, see `sum_of`, in bounded memory.

    Parameters
    ----------
    stream
        Open, at the first of the bytes.
    n_bytes
        How many.
    """
    total = 0
    for size in _pieces(n_bytes):
        total = sum_of(stream.read(size), total)
    return total


def _pieces(n_bytes: int) -> Iterator[int]:
    for start in range(0, n_bytes, _PIECE):
        yield min(_PIECE, n_bytes - start)


def check_sums(path: Path, number: int, header: CardSource, of_header: int, of_data: int) -> None:
    """Compare what an HDU adds up to with its cards; without these nothing is compared.

    Parameters
    ----------
    path, number
        Of the file, and of the HDU from 0, for messages.
    header
        Of the HDU.
    of_header, of_data
        Sums of the blocks of header and data, see `sum_of`.

    Raises
    ------
    FileFormatError
        If one of them is another.
    """
    said = card_text(header, "DATASUM")
    if said.isdecimal() and int(said) != of_data:
        raise FileFormatError(
            f"{path} is damaged: the data of HDU {number} add up to {of_data}, its DATASUM says "
            f"{said}; {AGAIN}."
        )
    whole = card_text(header, "CHECKSUM")
    if whole.strip("0") and sum_of(b"", of_header + of_data) not in (0, _ALL_ONES):
        raise FileFormatError(
            f"{path} is damaged: header and data of HDU {number} do not add up to what its "
            f"CHECKSUM says; {AGAIN}."
        )


def block_end(stop: int) -> int:
    """End of the blocks of 2880 bytes that data up to the byte `stop` fill."""
    return -(-stop // BLOCK) * BLOCK
