"""Names of the bits of ASPCAPFLAG and STARFLAG, the flags of the APOGEE catalogue.

https://www.sdss4.org/dr17/irspec/apogee-bitmasks; bits 32 and up of ASPCAPFLAG are of DR17.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["ASPCAP_BITS", "STAR_BITS", "flag_names"]

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

    >>> flag_names(2**23 + 2**7, ASPCAP_BITS)
    ['STAR_WARN', 'STAR_BAD']
    """
    number = int(flag)
    return [bits.get(bit, f"BIT_{bit}") for bit in range(63) if number >> bit & 1]
