"""Reading apStar files of SDSS-V's reduction (1.3 and later), by the reader of DR17's.

What differs: a single visit makes one row; headers have neither the limits of the detectors nor
FIELD, TELESCOP and VHELIO, and write NaN as text; the name of the file holds telescope and STARVER;
and bad pixels have smoothed flux with ordinary errors, so that the mask must be applied.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bayes_cannon.base.paths import user_path, without_fits_ending
from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.apogee.apstar import ApStar, read_apstar
from bayes_cannon.surveys.apogee.names import TELESCOPES, read_name
from bayes_cannon.surveys.fits import card_number, card_text
from bayes_cannon.surveys.images import open_images
from bayes_cannon.surveys.mwm.spectra import sdss5_bits
from bayes_cannon.surveys.readers import StarSpectrum

__all__ = [
    "Sdss5ApStar",
    "is_sdss5_apstar",
    "read_sdss5_apstar",
]

_NAME = re.compile(
    rf"apStar-(?P<apred>\d[^-]*)-(?P<telescope>{'|'.join(TELESCOPES)})-(?P<obj>.+?)"
    r"(-(?P<starver>\d{5}))?"
)


def is_sdss5_apstar(name: str) -> bool:
    """Whether this is the name of an apStar file of SDSS-V: its telescope stands in it.

    Parameters
    ----------
    name
        Of a file.

    Examples
    --------
    >>> is_sdss5_apstar("apStar-1.3-apo25m-2M00002479+6025311-59830.fits")
    True
    >>> is_sdss5_apstar("apStar-dr17-2M00002479+6025311.fits")
    False
    """
    return _NAME.fullmatch(without_fits_ending(name)) is not None and read_name(name) is not None


@dataclass(frozen=True, eq=False)
class Sdss5ApStar:
    """A spectrum of an apStar file of SDSS-V.

    Attributes
    ----------
    spectrum : ApStar
        Flux, error, mask and bad pixels, as of DR17.
    sdss_id : str
        Of the header, which has it since 1.3.3; '' without.
    telescope : str
        Of the file's name.
    apred : str
        Version of the reduction.
    v_rad : float
        Barycentric velocity, km/s; NaN where unknown.
    """

    spectrum: ApStar
    sdss_id: str
    telescope: str
    apred: str
    v_rad: float

    @property
    def notes(self) -> Mapping[str, str]:
        """What tables say of the star beside its name: APOGEE_ID and REDUCTION."""
        return {"APOGEE_ID": self.spectrum.star_id, "REDUCTION": self.apred}

    @property
    def star_spectrum(self) -> StarSpectrum:
        """The spectrum as readers of all surveys return it; APOGEE_ID where SDSS_ID is unknown."""
        star = self.spectrum
        return StarSpectrum(
            self.sdss_id or star.star_id, star.flux, star.ivar, star.snr, self.telescope,
            star.simulated, self.notes,
        )  # fmt: skip


def read_sdss5_apstar(
    path: str | os.PathLike[str], *, visit: int | None = None, bad_bits: str | int = "default"
) -> Sdss5ApStar:
    """Read the combined spectrum of a star, or that of a visit.

    Parameters
    ----------
    path
        Of an apStar file of SDSS-V; ``~`` is the home folder.
    visit
        Number of a visit, from 1; left out, the pixel-weighted combination.
    bad_bits
        Further bits that make a pixel bad; bits 0-7 and 14 always do.

    Raises
    ------
    FileFormatError
        As `read_apstar`; and if the file is of DR17 or before.
    """
    source = user_path(path)
    with open_images(source, 1) as file:
        header = file.header
    name = _NAME.fullmatch(without_fits_ending(source.name))
    apred = card_text(header, "APRED") or (name["apred"] if name else "")
    if not apred:
        raise FileFormatError(
            f"{source} has neither APRED in its header nor the name of an apStar file of SDSS-V; "
            "one of DR17 or before is read by read_apstar."
        )
    star = read_apstar(source, visit=visit, bad_bits=sdss5_bits(bad_bits))
    number = card_text(header, "SDSSID")
    velocity = "VRAD" if visit is None else f"VRAD{visit}"
    return Sdss5ApStar(
        star,
        number if number.isdecimal() and int(number) else "",
        name["telescope"] if name else card_text(header, "TELESCOP"),
        apred,
        card_number(header, velocity),
    )
