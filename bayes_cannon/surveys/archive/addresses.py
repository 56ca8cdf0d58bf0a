"""Where the SDSS archive keeps APOGEE spectra and catalogues; addresses only, no network.

The layout is that of the Science Archive Server (SAS), for releases 16 and 17:
``apogee/spectro/redux/<apred>/stars/<telescope>/<field>/{ap,as}Star-<apred>-<id>.fits``.
See https://www.sdss4.org/dr17/irspec/spectro_data.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from bayes_cannon.errors import DownloadError
from bayes_cannon.surveys.apogee.names import is_spectrum_file, spectrum_file

__all__ = [
    "RELEASES",
    "Release",
    "Spectrum",
    "allstar_url",
    "check_field",
    "check_part",
    "check_star",
    "estimate_bytes",
    "find_checksum",
    "find_release",
    "join_url",
    "manifest_url",
    "named_release",
    "parse_manifest",
    "sas_root",
    "skyserver_root",
    "spectrum_url",
]


_DEFAULT_SAS = "https://data.sdss.org/sas"
_DEFAULT_SKYSERVER = "https://skyserver.sdss.org"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+.\-]{0,63}")
_CHECKSUM = re.compile(r"([0-9a-fA-F]{40})\s+\*?(\S.*)")


@dataclass(frozen=True)
class Release:
    """What differs between the data releases.

    Attributes
    ----------
    name : str
        First directory of the addresses, e.g. ``'dr17'``.
    apred, aspcap : str
        Versions of the spectra and of the catalogue.
    allstar_sha1 : str
        Checksum of the full allStar file.
    allstar_bytes : int
        Its size, about.
    row_bytes, extra_bytes : int
        Size of an apStar file: so many bytes per row of its arrays, and in addition.
    single_rows : int
        Rows of the arrays of a star with one visit; one with n > 1 visits has n + 2.
    """

    name: str
    apred: str
    aspcap: str
    allstar_sha1: str
    allstar_bytes: int
    row_bytes: int
    extra_bytes: int
    single_rows: int


RELEASES: dict[str, Release] = {
    "dr16": Release(
        "dr16", "r12", "l33", "66fe854bd000ca1c0a6b50a998877e4a3e41d184",
        3_230_000_000, 222_950, 60_000, 1,
    ),
    "dr17": Release(
        "dr17", "dr17", "synspec_rev1", "7aa2f381de0e8e246f9833cc7da540ef45096702",
        3_970_000_000, 480_200, 110_000, 2,
    ),
}  # fmt: skip
"""The releases that can be downloaded, by name."""


@dataclass(frozen=True)
class Spectrum:
    """One combined spectrum of the archive: a star in a field, seen by a telescope.

    Attributes
    ----------
    star_id, telescope, field : str
        As in the catalogue, without blanks at the ends.
    n_visits : int
        Number of visits combined; only used to estimate the size.
    archive_name : str
        Name of the file in the archive where it does not follow from `star_id`: the 1-m
        telescope's files carry another id, given in the catalogue's FILE column.
    """

    star_id: str
    telescope: str
    field: str
    n_visits: int = 1
    archive_name: str = ""

    def file_name(self, release: Release) -> str:
        """Name of the file on the user's disk: ``asStar`` for the southern telescope.

        Parameters
        ----------
        release
            Of the file.
        """
        return spectrum_file(self.telescope, release.apred, self.star_id)

    def remote_name(self, release: Release) -> str:
        """Name of the file in the archive.

        Parameters
        ----------
        release
            Of the file.
        """
        if self.telescope == "apo1m" and is_spectrum_file(self.archive_name):
            return self.archive_name
        return self.file_name(release)

    def parts(self, release: Release) -> tuple[str, str, str]:
        """Telescope, field and file name: the path below the survey's directory.

        Parameters
        ----------
        release
            Of the file.

        Raises
        ------
        DownloadError
            If one of them could lead out of that directory.
        """
        return (
            check_part(self.telescope),
            check_part(self.field),
            check_part(self.file_name(release)),
        )


def find_release(name: str) -> Release:
    """Return a release by its name, ``'dr16'`` or ``'dr17'`` in any case.

    Parameters
    ----------
    name
        Of the release.

    Raises
    ------
    DownloadError
        If there is none of that name.
    """
    return named_release(name, RELEASES, "of SDSS-IV; dr19 and dr20 are of SDSS-V (download_mwm)")


def named_release[T](name: str, releases: Mapping[str, T], known: str) -> T:
    """Return one of several releases by its name in any case.

    Parameters
    ----------
    name
        Of the release.
    releases
        By name, in small letters.
    known
        What they are of, for the message.

    Raises
    ------
    DownloadError
        If there is none of that name.
    """
    found = releases.get(name.strip().lower())
    if found is None:
        raise DownloadError(
            f"unknown release {name!r}; there are {', '.join(sorted(releases))} {known}."
        )
    return found


def _root(url: str | None, variable: str, default: str) -> str:
    """First of the argument, the environment variable and the default, checked."""
    chosen = (url or os.environ.get(variable) or default).rstrip("/")
    parts = urlsplit(chosen)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(
            f"{chosen!r} is no address to download from; give one that begins with https://."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise DownloadError(
            "an address to download from may hold no user name, password, ? or #; "
            "put a password into ~/.netrc."
        )
    return chosen


def sas_root(url: str | None = None) -> str:
    """Address of the archive: the argument, else ``BAYES_CANNON_SAS_URL``, else data.sdss.org.

    Parameters
    ----------
    url
        Address given by the user.
    """
    return _root(url, "BAYES_CANNON_SAS_URL", _DEFAULT_SAS)


def skyserver_root(url: str | None = None) -> str:
    """Address of SkyServer: the argument, else ``BAYES_CANNON_SKYSERVER_URL``, else SDSS's own.

    Parameters
    ----------
    url
        Address given by the user.
    """
    return _root(url, "BAYES_CANNON_SKYSERVER_URL", _DEFAULT_SKYSERVER)


def check_part(part: str) -> str:
    """Return a name that is to become one part of a path, if it is safe.

    Parameters
    ----------
    part
        Of a path.

    Raises
    ------
    DownloadError
        If it is empty, ``.`` or ``..``, too long, or holds a slash or a sign that is not printed.
    """
    unsafe = part in ("", ".", "..") or len(part.encode("utf-8", "replace")) > 120
    if unsafe or not part.isprintable() or any(c in "/\\" for c in part):
        raise DownloadError(f"{part!r} cannot be a name in a path; the catalogue row is damaged.")
    return part


def check_field(name: str) -> str:
    """Return the name of a field without blanks at its ends, if it can be one.

    Parameters
    ----------
    name
        Of the field.

    Raises
    ------
    DownloadError
        If it holds anything but letters, digits and ``_ + - .``.
    """
    return _checked(name, "name of a field", "M15, 060+00, K2_C4_168-21")


def check_star(name: str) -> str:
    """Return the id of a star without blanks at its ends, if it can be one.

    Parameters
    ----------
    name
        Of the star.

    Raises
    ------
    DownloadError
        If it holds anything but letters, digits and ``_ + - .``.
    """
    return _checked(name, "id of a star", "2M21235315+1244123")


def _checked(name: str, what: str, examples: str) -> str:
    stripped = name.strip()
    if not _NAME.fullmatch(stripped):
        raise DownloadError(f"{name!r} cannot be the {what}; they look like {examples}.")
    return stripped


def join_url(root: str, *parts: str) -> str:
    """Address below `root`; every part percent-quoted, so that ``+`` stays a plus.

    Parameters
    ----------
    root
        Address of the archive.
    parts
        Names of folders and of a file.

    Raises
    ------
    DownloadError
        If a part cannot be one of a path.
    """
    return "/".join((root, *(quote(check_part(part), safe="") for part in parts)))


def _folder(release: Release, telescope: str, field: str) -> tuple[str, ...]:
    """Parts of the address of a field's directory."""
    redux = ("apogee", "spectro", "redux", release.apred, "stars")
    return (release.name, *redux, telescope, field)


def spectrum_url(root: str, release: Release, spectrum: Spectrum) -> str:
    """Address of a combined spectrum (apStar or asStar file).

    Parameters
    ----------
    root
        Address of the archive.
    release
        Of the spectrum.
    spectrum
        Star, field and telescope.

    Examples
    --------
    >>> star = Spectrum("2M21+12", "apo25m", "060+00")
    >>> spectrum_url("https://data.sdss.org/sas", find_release("dr17"), star)[-42:]
    'apo25m/060%2B00/apStar-dr17-2M21%2B12.fits'
    """
    folder = _folder(release, spectrum.telescope, spectrum.field)
    return join_url(root, *folder, spectrum.remote_name(release))


def manifest_url(root: str, release: Release, telescope: str, field: str) -> str:
    """Address of the list of checksums of one field's combined spectra.

    Parameters
    ----------
    root
        Address of the archive.
    release
        Of the spectra.
    telescope, field
        Where they were taken.
    """
    name = f"{release.apred}_stars_{telescope}_{field}.sha1sum"
    return join_url(root, *_folder(release, telescope, field), name)


def allstar_url(root: str, release: Release) -> str:
    """Address of the full allStar catalogue.

    Parameters
    ----------
    root
        Address of the archive.
    release
        Of the catalogue.
    """
    name = f"allStar-{release.apred}-{release.aspcap}.fits"
    folder = (release.name, "apogee", "spectro", "aspcap", release.apred, release.aspcap)
    return join_url(root, *folder, name)


def parse_manifest(text: str) -> dict[str, str]:
    """Read a list of checksums: name (as listed, perhaps with directories) to sha1.

    Lines that are not ``<40 hex digits> <name>`` are passed over.

    Parameters
    ----------
    text
        Content of a ``.sha1sum`` file.
    """
    matches = (_CHECKSUM.fullmatch(line.strip()) for line in text.splitlines())
    return {m.group(2).strip(): m.group(1).lower() for m in matches if m}


def find_checksum(manifest: Mapping[str, str], name: str) -> str:
    """Sha1 of the file called `name`, whatever directories it is listed with; '' if not listed.

    Parameters
    ----------
    manifest
        From `parse_manifest`.
    name
        Of the file.
    """
    if name in manifest:
        return manifest[name]
    found = {sha1 for listed, sha1 in manifest.items() if listed.endswith("/" + name)}
    return found.pop() if len(found) == 1 else ""


def estimate_bytes(release: Release, n_visits: int) -> int:
    """Size of an apStar file with so many visits, about.

    Parameters
    ----------
    release
        Of the file.
    n_visits
        Visits in it.
    """
    rows = release.single_rows if n_visits <= 1 else n_visits + 2
    return release.extra_bytes + release.row_bytes * rows
