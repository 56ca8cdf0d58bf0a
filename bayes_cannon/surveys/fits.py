"""Opening FITS files so that whatever is wrong with one is told in one kind of error."""

from __future__ import annotations

import gzip
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, cast

from astropy.io import fits

from bayes_cannon.base.paths import user_path
from bayes_cannon.errors import BayesCannonError, FileFormatError

__all__ = [
    "AGAIN",
    "BLOCK",
    "CardSource",
    "FitsFile",
    "card_number",
    "card_text",
    "is_simulated",
    "open_bytes",
    "open_fits",
    "plain_size",
]


BLOCK = 2880
_GZIP = b"\x1f\x8b"
_MAGIC = b"SIMPLE  ="
AGAIN = "download it again, or leave it out"


@contextmanager
def open_bytes(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a FITS file, gzipped or not, as a stream of its plain bytes.

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder.

    Yields
    ------
    binary stream

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

    Parameters
    ----------
    path
        Of the file, for messages.
    stream
        The open file.

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
        """Check that an HDU is not cut short; `what` says in messages what it holds.

        Parameters
        ----------
        number
            Of the HDU, from 0.
        what
            It holds, for messages.

        Raises
        ------
        FileFormatError
            If it is cut short.
        """
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

    Parameters
    ----------
    path
        Of the file; ``~`` is the home folder.

    Yields
    ------
    FitsFile

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
        """Value of a card.

        Parameters
        ----------
        key
            Of the card.
        default
            Where there is none.
        """


def card_number(header: CardSource, key: str, default: float = math.nan) -> float:
    """Value of a header card as a number; `default` where missing, unreadable or a fill value.

    The archive writes -9999 and -9999.99 for what is missing, 999999 for unknown velocities, and
    some files hold a bare NaN, which is not FITS.

    Parameters
    ----------
    header
        Of an HDU.
    key
        Of the card.
    default
        Where it tells nothing.
    """
    try:
        value = float(header.get(key, default))
    except (fits.VerifyError, ValueError, TypeError, OverflowError):
        return default
    return value if math.isfinite(value) and -999 < value < 999999 else default


def card_text(header: CardSource, key: str) -> str:
    """Value of a header card as text without blanks around it; '' where missing or unreadable.

    Parameters
    ----------
    header
        Of an HDU.
    key
        Of the card.
    """
    try:
        value = header.get(key, "")
    except fits.VerifyError:
        return ""
    return str(value).strip() if isinstance(value, str | int) else ""


def is_simulated(header: CardSource) -> bool:
    """Whether a header marks its file as simulated (``SIMULATE = T``, or a HISTORY line).

    Parameters
    ----------
    header
        Of the primary HDU.
    """
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
