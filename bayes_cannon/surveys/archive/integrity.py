"""Whether a FITS file is whole: every header, the length of the data, their checksums (DATASUM).

The checksum of the FITS standard (version 4.0, section 4.4.2.7 and appendix J): the sum of the data
as 32-bit words in ones' complement. A file is read once, from its beginning to its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any, cast

from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.checksums import sum_of
from bayes_cannon.surveys.fits import BLOCK, open_bytes
from bayes_cannon.surveys.images import FitsImage, read_hdu

__all__ = [
    "whole_hdus",
]


_PIECE = BLOCK * 1024


def whole_hdus(path: Path) -> tuple[FitsImage, ...]:
    """Headers of all HDUs of a FITS file, gzipped or not, whose data are whole.

    The data of an HDU with the card DATASUM must have that sum. CHECKSUM, which holds for the
    header as well, is not looked at: programs that mend a header leave it behind.

    Parameters
    ----------
    path
        Of the file.

    Raises
    ------
    FileFormatError
        If the file is no FITS file, was cut short, or its data were changed.
    """
    hdus: list[FitsImage] = []
    with open_bytes(path) as stream:
        start = 0
        while not hdus or cast("Any", stream).peek(1):
            hdu = read_hdu(path, stream, start, len(hdus))
            start = -(-hdu.stop // BLOCK) * BLOCK
            found = _sum(path, stream, start - hdu.start, len(hdus))
            said = str(hdu.header.get("DATASUM", "")).strip()
            if said.isdecimal() and int(said) != found:
                raise FileFormatError(
                    f"the data of HDU {len(hdus)} were changed (checksum {found}, not {said} as "
                    "its header says)"
                )
            hdus.append(hdu)
    return tuple(hdus)


def _sum(path: Path, stream: IO[bytes], n_bytes: int, number: int) -> int:
    """Sum of the next bytes of a file."""
    total = 0
    while n_bytes:
        content = stream.read(min(n_bytes, _PIECE))
        if len(content) % 4 or not content:
            raise FileFormatError(f"the file is cut short in HDU {number}")
        total = sum_of(content, total)
        n_bytes -= len(content)
    return total
