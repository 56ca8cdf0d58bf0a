"""Names of APOGEE: its telescopes, data releases, versions of the reduction, files of spectra."""

from __future__ import annotations

import re
from typing import NamedTuple

from bayes_cannon.user_paths import is_fits_name

__all__ = [
    "TELESCOPES", "SpectrumName", "apred_of", "is_spectrum_file", "read_name", "release_name",
    "spectrum_file",
]  # fmt: skip

TELESCOPES = ("apo25m", "lco25m", "apo1m")

# apStar-r12-<id>, asStar-dr17-<id>, apStar-1.3-apo25m-<id>, aspcapStar-r6-l30e.2-<id>; ids of
# the south hold a dash themselves.
_NAME = re.compile(
    r"(?P<kind>aspcap|ap|as)Star(?P<commissioning>C?)-(?P<apred>[^-]+)-(l\d[^-]*-)?"
    rf"((?:{'|'.join(TELESCOPES)})-)?(?P<id>[^./\\\x00-\x1f][^/\\\x00-\x1f]*?)(\.(?i:fits))?(\.(?i:gz))?"
)
_APREDS = {
    "dr10": "r3", "dr12": "r5", "dr13": "r6", "dr14": "r8", "dr15": "r8", "dr16": "r12",
    "dr19": "1.3",
}  # fmt: skip
_RELEASES = {
    **{apred: release for release, apred in reversed(_APREDS.items())},
    "v603": "dr12", "l30e.2": "dr13", "l31c.2": "dr14",
}  # fmt: skip


class SpectrumName(NamedTuple):
    """What the name of a file says: ``'ap'``, ``'as'`` or ``'aspcap'``, version, star."""

    kind: str
    apred: str
    star_id: str
    is_commissioning: bool


def read_name(name: str) -> SpectrumName | None:
    """Take the name of a spectrum's file apart; None where it is of another kind.

    >>> read_name("asStar-dr17-2M03282869-6941456.fits")
    SpectrumName(kind='as', apred='dr17', star_id='2M03282869-6941456', is_commissioning=False)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return SpectrumName(match["kind"], match["apred"], match["id"], bool(match["commissioning"]))


def is_spectrum_file(name: str) -> bool:
    """Whether this is the name of a combined spectrum, apStar or asStar, not commissioning data."""
    found = read_name(name)
    return (
        found is not None
        and found.kind != "aspcap"
        and not found.is_commissioning
        and is_fits_name(name)
    )


def spectrum_file(telescope: str, apred: str, star_id: str) -> str:
    """Name of a combined spectrum's file: ``asStar`` for the southern telescope."""
    return f"{'as' if telescope == 'lco25m' else 'ap'}Star-{apred}-{star_id}.fits"


def release_name(apred: str) -> str:
    """Data release of a version of the reduction or of ASPCAP: ``'dr16'`` for ``'r12'``.

    Empty where it is not known; of two releases of one version, the first.
    """
    return apred if re.fullmatch(r"dr\d+", apred) else _RELEASES.get(apred, "")


def apred_of(release: str) -> str:
    """Version of the reduction of a data release: ``'r12'`` for ``'dr16'``."""
    return _APREDS.get(release, release)
