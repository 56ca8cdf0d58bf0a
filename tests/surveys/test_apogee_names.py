"""Names of files, releases and versions of APOGEE, and of the software in use."""

import platform

import numpy as np
import pytest

from bayes_cannon._version import __version__
from bayes_cannon.base.resources import software_versions
from bayes_cannon.surveys.apogee.names import (
    SpectrumName,
    apred_of,
    is_spectrum_file,
    read_name,
    release_name,
    spectrum_file,
)
from bayes_cannon.surveys.archive.addresses import RELEASES


@pytest.mark.parametrize(
    ("name", "read", "is_spectrum"),
    [
        ("apStar-r12-2M00+57.fits", ("ap", "r12", "2M00+57", False), True),
        ("apStar-r12-2M00+57.fits.gz", ("ap", "r12", "2M00+57", False), True),
        ("asStar-dr17-2M03-69.fits", ("as", "dr17", "2M03-69", False), True),
        ("apStar-1.3-apo25m-2M00+57.fits", ("ap", "1.3", "2M00+57", False), True),
        ("apStar-dr17-VESTA_1m.fits", ("ap", "dr17", "VESTA_1m", False), True),
        ("aspcapStar-r6-l30e.2-2M00+57.fits", ("aspcap", "r6", "2M00+57", False), False),
        ("apStarC-dr17-2M00+57.fits", ("ap", "dr17", "2M00+57", True), False),
        ("apStar-dr17-2M00+57", ("ap", "dr17", "2M00+57", False), False),
        ("apStar-2M00.fits", None, False),
        ("apVisit-dr17-1-2-3.fits", None, False),
        ("apStar-dr17-../2M00.fits", None, False),
        ("apStar-dr17-2M\n00.fits", None, False),
        ("apStar-dr17-.fits", None, False),
    ],
)
def test_names_of_spectra(name, read, is_spectrum):
    assert read_name(name) == (read and SpectrumName(*read))
    assert is_spectrum_file(name) is is_spectrum


@pytest.mark.parametrize(("telescope", "kind"), [("apo25m", "ap"), ("lco25m", "as")])
def test_name_is_read_as_it_was_written(telescope, kind):
    name = spectrum_file(telescope, "dr17", "2M03282869-6941456")
    assert read_name(name) == (kind, "dr17", "2M03282869-6941456", False)
    assert is_spectrum_file(name)


def test_releases_and_versions_of_the_reduction():
    for release in RELEASES.values():
        assert release_name(release.apred) == release.name
        assert apred_of(release.name) == release.apred
    assert release_name("r8") == "dr14"
    assert apred_of("dr14") == apred_of("dr15") == "r8"
    assert (release_name("dr17"), release_name("1.3"), release_name("v603")) == (
        "dr17", "dr19", "dr12",
    )  # fmt: skip
    assert release_name("r99") == ""
    assert apred_of("dr99") == "dr99"


def test_versions_of_software():
    assert software_versions("numpy", "no.such-thing") == {
        "bayes_cannon": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "no.such-thing": "",
    }
