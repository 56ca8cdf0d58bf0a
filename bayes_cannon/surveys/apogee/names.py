"""Names of APOGEE: its telescopes, data releases, versions of the reduction, files of spectra.

What headers and paths of APOGEE files say about a star: its name, place and velocity.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bayes_cannon.base.paths import is_fits_name, without_fits_ending
from bayes_cannon.surveys.fits import CardSource, card_number, card_text, is_simulated

__all__ = [
    "TELESCOPES",
    "SpectrumName",
    "StarFacts",
    "apred_of",
    "is_spectrum_file",
    "name_from_path",
    "read_facts",
    "read_name",
    "release_name",
    "spectrum_file",
    "unique_star_ids",
]


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

    Parameters
    ----------
    name
        Of a file.

    Examples
    --------
    >>> read_name("asStar-dr17-2M03282869-6941456.fits")
    SpectrumName(kind='as', apred='dr17', star_id='2M03282869-6941456', is_commissioning=False)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return SpectrumName(match["kind"], match["apred"], match["id"], bool(match["commissioning"]))


def is_spectrum_file(name: str) -> bool:
    """Whether this is the name of a combined spectrum, apStar or asStar, not commissioning data.

    Parameters
    ----------
    name
        Of a file.
    """
    found = read_name(name)
    return (
        found is not None
        and found.kind != "aspcap"
        and not found.is_commissioning
        and is_fits_name(name)
    )


def spectrum_file(telescope: str, apred: str, star_id: str) -> str:
    """Name of a combined spectrum's file: ``asStar`` for the southern telescope.

    Parameters
    ----------
    telescope
        One of `TELESCOPES`.
    apred
        Version of the reduction.
    star_id
        APOGEE_ID.
    """
    return f"{'as' if telescope == 'lco25m' else 'ap'}Star-{apred}-{star_id}.fits"


def release_name(apred: str) -> str:
    """Data release of a version of the reduction or of ASPCAP: ``'dr16'`` for ``'r12'``.

    Empty where it is not known; of two releases of one version, the first.

    Parameters
    ----------
    apred
        Version of the reduction or of ASPCAP.
    """
    return apred if re.fullmatch(r"dr\d+", apred) else _RELEASES.get(apred, "")


def apred_of(release: str) -> str:
    """Version of the reduction of a data release: ``'r12'`` for ``'dr16'``.

    Parameters
    ----------
    release
        Name of the data release.
    """
    return _APREDS.get(release, release)


@dataclass(frozen=True, eq=False, kw_only=True)
class StarFacts:
    """What a file says of its star, apart from the spectrum.

    Attributes
    ----------
    star_id : str
        OBJID (apStar) or OBJ (aspcapStar) of the header, else from the file's name.
    telescope, field : str
        From the header, else from the path; '' where neither says it.
    release : str
        ``'dr17'`` and the like; '' where unknown.
    snr : float
        Median signal-to-noise ratio per pixel; NaN where unknown.
    vhelio : float
        Barycentric velocity in km/s; NaN where unknown.
    n_visits : int
    ra, dec : float
        Degrees (J2000); NaN where unknown.
    simulated : bool
    path : Path
    """

    star_id: str
    telescope: str
    field: str
    release: str
    snr: float
    vhelio: float
    n_visits: int
    ra: float
    dec: float
    simulated: bool
    path: Path


def read_facts(
    path: Path, header: CardSource, n_visits: int, visit: int | None = None
) -> StarFacts:
    """Read what the primary header and the path say of a star, or of one of its visits.

    Parameters
    ----------
    path
        Of the file.
    header
        Of its primary HDU.
    n_visits
        Visits in the file.
    visit
        Number of a visit, from 1; None: the combination.

    Returns
    -------
    StarFacts
    """
    parts = path.absolute().parts
    name = read_name(path.name)
    in_archive = len(parts) >= 3 and parts[-3] in TELESCOPES
    telescope = card_text(header, "TELESCOP") or (parts[-3] if in_archive else "")
    if not telescope and name and name.kind == "as":
        telescope = "lco25m"
    apred = name.apred if name else card_text(header, "SFILE1").partition("-")[2].partition("-")[0]
    facts = StarFacts(
        star_id=card_text(header, "OBJID") or card_text(header, "OBJ") or name_from_path(path),
        telescope=telescope,
        field=card_text(header, "FIELD") or (parts[-2] if in_archive else ""),
        release=release_name(apred),
        snr=_positive(card_number(header, "SNR")),
        vhelio=card_number(header, "VHELIO"),
        n_visits=n_visits,
        ra=card_number(header, "RA"),
        dec=card_number(header, "DEC"),
        simulated=is_simulated(header),
        path=path,
    )
    return facts if visit is None else _of_visit(facts, header, visit)


def _of_visit(facts: StarFacts, header: CardSource, visit: int) -> StarFacts:
    """S/N and velocity of a visit. DR17 leaves the S/N of a single visit at 0."""
    snr = _positive(card_number(header, f"SNRVIS{visit}"))
    if facts.n_visits == 1 and math.isnan(snr):
        snr = facts.snr
    return replace(facts, snr=snr, vhelio=card_number(header, f"VHELIO{visit}"))


def _positive(value: float) -> float:
    return value if value > 0 else math.nan


def name_from_path(path: Path) -> str:
    """The star's id as the file's name has it; the whole name where it is of another kind.

    Parameters
    ----------
    path
        Of the file.
    """
    name = read_name(path.name)
    return name.star_id if name else without_fits_ending(path.name)


def unique_star_ids(
    ids: Sequence[str] | NDArray[np.str_],
    telescopes: Sequence[str] | NDArray[np.str_],
    fields: Sequence[str] | NDArray[np.str_],
) -> NDArray[np.str_]:
    """Make names of stars unique.

    The id of a star seen in one place stays; where stars of one id are in several places, they
    become ``TELESCOPE/FIELD/APOGEE_ID``. What is still repeated gets ``#2``, ``#3`` and so on.

    Parameters
    ----------
    ids, telescopes, fields : (n,) str

    Returns
    -------
    (n,) str
    """
    plain = [str(name) or "unnamed" for name in ids]
    places = ["/".join(filter(None, map(str, p))) for p in zip(telescopes, fields, strict=True)]
    several = Counter(name for name, _ in set(zip(plain, places, strict=True)))
    names: dict[str, None] = {}
    times: Counter[str] = Counter()
    for name, place in zip(plain, places, strict=True):
        first = f"{place}/{name}" if several[name] > 1 and place else name
        unique = first
        while unique in names:
            times[first] += 1
            unique = f"{first}#{times[first] + 1}"
        names[unique] = None
    return np.array(list(names), dtype=np.str_)
