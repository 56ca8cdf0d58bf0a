"""Bits of APOGEE_PIXMASK, the mask of each pixel of an apStar file.

Names of the bits of ASPCAPFLAG and STARFLAG, the flags of the APOGEE catalogue.

https://www.sdss4.org/dr17/irspec/apogee-bitmasks; bits 32 and up of ASPCAPFLAG are of DR17.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from types import MappingProxyType

from bayes_cannon.errors import InvalidDataError

__all__ = [
    "ASPCAP_BITS",
    "BAD_BITS",
    "STAR_BITS",
    "PixelBits",
    "flag_names",
    "resolve_bits",
]


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
        "lenient": int(_LEVEL_1 | PixelBits.SIG_SKYLINE),
        "pipeline": int(_LEVEL_1 | PixelBits.NOT_ENOUGH_PSF),
    }
)
"""Named choices of bits that make a pixel unusable.

``default`` (20735): what the pipeline gives up, and strong sky lines; ``lenient`` (4351): bits 0-7
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
    >>> resolve_bits("lenient"), resolve_bits("CRPIX|SATPIX")
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


_PARAMETERS = ("TEFF", "LOGG", "VMICRO", "M_H", "ALPHA_M", "C_M", "N_M", "STAR", "CHI2", "COLORTE",
               "ROTATION", "SN", "SPEC_HOLE", "ATMOS_HOLE", "VSINI")  # fmt: skip
ASPCAP_BITS: Mapping[int, str] = MappingProxyType(
    {bit: f"{name}_WARN" for bit, name in enumerate(_PARAMETERS)}
    | {bit: f"{name}_BAD" for bit, name in enumerate(_PARAMETERS, 16)}
    | {
        31: "NO_ASPCAP_RESULT",
        32: "MISSING_APSTAR",
        33: "NO_GRID",
        34: "BAD_FRAC_LOWSNR",
        35: "BAD_FRAC_BADPIX",
        36: "FERRE_FAIL",
        40: "PROBLEM_TARGET",
        41: "MULTIPLE_SUSPECT",
    }
)
"""Bit: name in ASPCAPFLAG."""

STAR_BITS: Mapping[int, str] = MappingProxyType(
    {
        0: "BAD_PIXELS",
        1: "COMMISSIONING",
        2: "BRIGHT_NEIGHBOR",
        3: "VERY_BRIGHT_NEIGHBOR",
        4: "LOW_SNR",
        9: "PERSIST_HIGH",
        10: "PERSIST_MED",
        11: "PERSIST_LOW",
        12: "PERSIST_JUMP_POS",
        13: "PERSIST_JUMP_NEG",
        16: "SUSPECT_RV_COMBINATION",
        17: "SUSPECT_BROAD_LINES",
        18: "BAD_RV_COMBINATION",
        19: "RV_REJECT",
        20: "RV_SUSPECT",
        21: "MULTIPLE_SUSPECT",
        22: "RV_FAIL",
        23: "SUSPECT_ROTATION",
        24: "MTPFLUX_LT_75",
        25: "MTPFLUX_LT_50",
    }
)
"""Bit: name in STARFLAG."""


def flag_names(flag: int, bits: Mapping[int, str]) -> list[str]:
    """Names of the bits that are set; ``BIT_n`` for those without a name.

    Parameters
    ----------
    flag
        Value of a bit mask.
    bits
        Name of each bit.

    Examples
    --------
    >>> flag_names(2**23 + 2**7, ASPCAP_BITS)
    ['STAR_WARN', 'STAR_BAD']
    """
    number = int(flag)
    return [bits.get(bit, f"BIT_{bit}") for bit in range(63) if number >> bit & 1]
