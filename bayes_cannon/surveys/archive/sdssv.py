"""Where the archive keeps the APOGEE spectra and catalogues of SDSS-V; addresses only.

The spectra are those of astra, the pipelines of the Milky Way Mapper: a file a star
(``mwmStar``), and one with its visits (``mwmVisit``), in folders named after the last four digits
of the star's SDSS_ID. See https://www.sdss.org/dr19/mwm/ and the data models of ``mwmStar``,
``mwmVisit`` and ``astraAllStarASPCAP``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bayes_cannon.errors import FileFormatError
from bayes_cannon.surveys.archive.addresses import join_url, named_release
from bayes_cannon.surveys.archive.integrity import whole_hdus
from bayes_cannon.surveys.mwm.layout import star_folder

__all__ = [
    "MWM_BYTES",
    "MWM_RELEASES",
    "MwmRelease",
    "astra_catalogue_urls",
    "check_mwm",
    "find_mwm_release",
    "mwm_parts",
    "mwm_url",
]


@dataclass(frozen=True)
class MwmRelease:
    """What differs between the releases of SDSS-V.

    Attributes
    ----------
    name : str
        First directory of the addresses, e.g. ``'dr19'``.
    v_astra : str
        Version of the spectra and of the catalogue.
    spectra : str
        Release below which the spectra lie.
    catalogue_bytes : int
        Size of the gzipped catalogue, about.
    """

    name: str
    v_astra: str = "0.6.0"
    spectra: str = "dr19"
    catalogue_bytes: int = 1_171_102_556

    @property
    def facts(self) -> dict[str, str]:
        """What a manifest holds of the release."""
        return {"name": self.name, "v_astra": self.v_astra, "spectra": self.spectra}


MWM_RELEASES: dict[str, MwmRelease] = {name: MwmRelease(name) for name in ("dr19", "dr20")}
"""The releases by name. DR20 has no new spectra of APOGEE: its stars are those of DR19."""

MWM_BYTES = {"star": 264_000, "visit": 478_000}
"""Kinds of files of a star with the size of one, about."""

_NAMES = {"star": "mwmStar", "visit": "mwmVisit"}
_N_HDUS = 5


def find_mwm_release(name: str) -> MwmRelease:
    """Return a release by its name, ``'dr19'`` or ``'dr20'`` in any case.

    Parameters
    ----------
    name
        Of the release.

    Raises
    ------
    DownloadError
        If there is none of that name.
    """
    return named_release(name, MWM_RELEASES, "of SDSS-V; dr16 and dr17 are of SDSS-IV")


def mwm_parts(release: MwmRelease, sdss_id: int, kind: str = "star") -> tuple[str, ...]:
    """Path of a star's file below the folder of astra's version, and below a survey's folder.

    Parameters
    ----------
    release
        Of the spectra.
    sdss_id
        Of the star.
    kind
        ``'star'`` or ``'visit'``.

    Examples
    --------
    >>> "/".join(mwm_parts(MWM_RELEASES["dr19"], 117524931))
    'spectra/star/49/31/mwmStar-0.6.0-117524931.fits'
    """
    name = f"{_NAMES[kind]}-{release.v_astra}-{sdss_id}.fits"
    return ("spectra", kind, *star_folder(sdss_id).split("/"), name)


def mwm_url(root: str, release: MwmRelease, sdss_id: int, kind: str = "star") -> str:
    """Address of a star's file.

    Parameters
    ----------
    root
        Address of the archive.
    release, sdss_id, kind
        As of `mwm_parts`.

    Examples
    --------
    >>> mwm_url("https://data.sdss.org/sas", MWM_RELEASES["dr20"], 7, "visit").partition("sas/")[2]
    'dr19/spectro/astra/0.6.0/spectra/visit/00/07/mwmVisit-0.6.0-7.fits'
    """
    folder = (release.spectra, "spectro", "astra", release.v_astra)
    return join_url(root, *folder, *mwm_parts(release, sdss_id, kind))


def astra_catalogue_urls(root: str, release: MwmRelease) -> tuple[str, ...]:
    """Addresses at which the catalogue of ASPCAP may be, the likeliest first.

    Parameters
    ----------
    root
        Address of the archive.
    release
        Of the catalogue.
    """
    name = f"astraAllStarASPCAP-{release.v_astra}.fits"
    return tuple(
        join_url(root, folder, "spectro", "astra", release.v_astra, "summary", name + ending)
        for folder in dict.fromkeys((release.name, release.spectra))
        for ending in (".gz", "")
    )


def check_mwm(path: Path, sdss_id: int) -> str:
    """Say why a file is not the whole mwmStar or mwmVisit file of a star, '' if it is.

    Parameters
    ----------
    path
        Of the file.
    sdss_id
        Of the star; a header that does not tell it is accepted.
    """
    with path.open("rb") as source:
        start = source.read(512).lower()
    if b"<html" in start or b"<!doctype" in start:
        return "an HTML page came in place of a FITS file"
    try:
        hdus = whole_hdus(path)
    except FileFormatError as error:
        return f"no whole FITS file: {error}"
    if len(hdus) < _N_HDUS:
        return f"not a file of the Milky Way Mapper: {len(hdus)} HDUs, not {_N_HDUS}"
    found = hdus[0].header.get("SDSS_ID")
    if isinstance(found, int) and found != sdss_id:
        return f"the file is that of SDSS_ID {found}"
    return ""
