"""Bits of APOGEE_PIXMASK, the mask of each pixel of an apStar file."""

from __future__ import annotations

from enum import IntFlag
from types import MappingProxyType

from bayes_cannon.errors import InvalidDataError

__all__ = ["BAD_BITS", "PixelBits", "resolve_bits"]


class PixelBits(IntFlag):
    """What a bit of the pixel mask says.

    https://www.sdss4.org/dr17/irspec/apogee-bitmasks. In a combined spectrum a bit is set where
    more than a tenth of a pixel comes from pixels that had it.
    """

    BADPIX = 1 << 0  # bad pixel or strong persistence; older files: no data here
    CRPIX = 1 << 1  # cosmic ray
    SATPIX = 1 << 2  # saturated
    UNFIXABLE = 1 << 3  # could not be repaired
    BADDARK = 1 << 4  # bad in the dark frame
    BADFLAT = 1 << 5  # bad in the flat frame
    BADERR = 1 << 6  # very large error
    NOSKY = 1 << 7  # no estimate of the sky
    LITTROW_GHOST = 1 << 8  # on the Littrow ghost
    PERSIST_HIGH = 1 << 9  # region of high persistence
    PERSIST_MED = 1 << 10  # of medium persistence
    PERSIST_LOW = 1 << 11  # of low persistence
    SIG_SKYLINE = 1 << 12  # near a strong line of the night sky
    SIG_TELLURIC = 1 << 13  # near a strong telluric line
    NOT_ENOUGH_PSF = 1 << 14  # less than half of the PSF on good pixels
    POORSNR = 1 << 15  # not used by the archive
    FERRE_MASK = 1 << 16  # left out by ASPCAP; not set in apStar files


_LEVEL_1 = 0xFF
BAD_BITS = MappingProxyType(
    {
        "default": int(_LEVEL_1 | PixelBits.SIG_SKYLINE | PixelBits.NOT_ENOUGH_PSF),
        "lab": int(_LEVEL_1 | PixelBits.SIG_SKYLINE),
        "pipeline": int(_LEVEL_1 | PixelBits.NOT_ENOUGH_PSF),
    }
)
"""Named choices of bits that make a pixel unusable.

``default`` (20735): what the pipeline gives up, and strong sky lines; ``lab`` (4351): bits 0-7
and sky lines; ``pipeline`` (16639): what the pipeline gives up.
"""


def resolve_bits(bits: str | int) -> int:
    """Bits that make a pixel unusable, as one number.

    Parameters
    ----------
    bits
        A name in `BAD_BITS`, a number (also as text: ``'4351'``, ``'0x10FF'``), or names of
        `PixelBits` joined by ``|``. 0 uses every pixel whose flux and error are usable.

    Raises
    ------
    InvalidDataError
        If it is none of these.

    Examples
    --------
    >>> resolve_bits("lab"), resolve_bits("CRPIX|SATPIX")
    (4351, 6)
    """
    if isinstance(bits, str):
        number = BAD_BITS.get(bits, _parse(bits))
    else:
        number = None if isinstance(bits, bool) else _as_int(bits)
    if number is None or not 0 <= number < 1 << 63:
        raise InvalidDataError(
            f"{bits!r} does not say which pixels are bad; use one of {', '.join(BAD_BITS)}, "
            "a number, or names of bits like 'CRPIX|SATPIX'."
        )
    return number


def _as_int(number: object) -> int | None:
    try:
        return int(number.__index__())  # type: ignore[attr-defined]
    except AttributeError:
        return None


def _parse(text: str) -> int | None:
    """A number as text, or names of bits joined by ``|``."""
    try:
        return int(text, 0)
    except ValueError:
        pass
    total = 0
    for name in text.split("|"):
        bit = PixelBits.__members__.get(name.strip().upper())
        if bit is None:
            return None
        total |= int(bit)
    return total
