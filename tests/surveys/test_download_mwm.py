"""Downloading stars of SDSS-V from a local archive that behaves, and that does not."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from bayes_cannon.errors import DownloadError, FileFormatError, InvalidDataError
from bayes_cannon.surveys.apogee import allstar as allstar_reading
from bayes_cannon.surveys.archive import mwm as mwm_download
from bayes_cannon.surveys.archive.download import DownloadReport, download_survey
from bayes_cannon.surveys.archive.http import FetchSettings
from bayes_cannon.surveys.archive.integrity import whole_hdus
from bayes_cannon.surveys.archive.mirror import read_manifest
from bayes_cannon.surveys.archive.mwm import download_mwm
from bayes_cannon.surveys.archive.sdssv import (
    MWM_RELEASES,
    astra_catalogue_urls,
    check_mwm,
    find_mwm_release,
    mwm_url,
)
from bayes_cannon.surveys.archive.targets import Box, Cone, Targets, read_targets
from bayes_cannon.surveys.checksums import sum_of
from bayes_cannon.surveys.mwm.layout import star_folder
from tests.archive_server import Always, Cut, Garbled, Page, Status
from tests.mwm_server import (
    CATALOGUE,
    VERSION,
    WITHOUT_ROW,
    MwmServer,
    catalogue_hdus,
    make_mwm_archive,
    star_bytes,
)

SAS = "https://data.sdss.org/sas"
FOLDERS = {
    1: "00/01", 7: "00/07", 42: "00/42", 99: "00/99", 100: "01/00", 101: "01/01", 999: "09/99",
    1234: "12/34", 10000: "00/00", 54392544: "25/44", 117524931: "49/31", 54400160: "01/60",
    54487187: "71/87", 103020000: "00/00", 99560000: "00/00", 115004000: "40/00",
    2147483647: "36/47", 2147483653: "36/53",
}  # fmt: skip
"""Folders of a spread of SDSS_IDs, as sdss-access 3.0.11 (sdss-tree 4.1.4) gives them."""


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("BAYES_CANNON_SAS_URL", "BAYES_CANNON_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return make_mwm_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def catalogue(archive):
    return archive / "dr19" / VERSION / "summary" / CATALOGUE


@pytest.fixture
def server(archive):
    with MwmServer(archive) as running:
        yield running


@pytest.fixture
def bring(server, catalogue, tmp_path):
    """Download into OUT, without waiting."""

    def run(**options: object) -> DownloadReport:
        options = {
            "catalogue": catalogue, "sas_url": server.sas_url,
            "settings": FetchSettings(sleep=lambda _: None), **options,
        }  # fmt: skip
        return download_mwm(tmp_path / "out", **options)

    return run


def ids_in(out: Path, kind: str = "star") -> set[int]:
    return {
        int(path.stem.rpartition("-")[2]) for path in (out / "spectra" / kind).glob("*/*/*.fits")
    }


def assert_whole(out: Path, archive: Path) -> None:
    """Every spectrum is byte for byte that of the archive, in its folders, and in the manifest."""
    listed = read_manifest(out / "manifest.ecsv")
    found = {path.relative_to(out).as_posix(): path for path in out.glob("spectra/*/*/*/*.fits")}
    assert {name for name in listed if name.startswith("spectra/")} == set(found)
    for name, path in found.items():
        content = path.read_bytes()
        assert content == (archive / "dr19" / VERSION / name).read_bytes()
        assert listed[name].sha1 == hashlib.sha1(content).hexdigest()
    assert not list(out.rglob("*.part"))


# Addresses ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("sdss_id", "folders"), FOLDERS.items())
def test_folders_of_an_sdss_id(sdss_id, folders):
    assert star_folder(sdss_id) == folders


def test_addresses_of_spectra_and_catalogues():
    dr19, dr20 = MWM_RELEASES["dr19"], MWM_RELEASES["dr20"]
    address = f"{SAS}/dr19/spectro/astra/0.6.0/spectra/star/25/44/mwmStar-0.6.0-54392544.fits"
    assert mwm_url(SAS, dr19, 54392544) == address
    assert mwm_url(SAS, dr20, 54392544) == address, "DR20 has no spectra of its own"
    assert mwm_url(SAS, dr19, 7, "visit") == (
        f"{SAS}/dr19/spectro/astra/0.6.0/spectra/visit/00/07/mwmVisit-0.6.0-7.fits"
    )
    summary = "spectro/astra/0.6.0/summary/astraAllStarASPCAP-0.6.0.fits"
    assert astra_catalogue_urls(SAS, dr19) == (
        f"{SAS}/dr19/{summary}.gz", f"{SAS}/dr19/{summary}",
    )  # fmt: skip
    assert astra_catalogue_urls(SAS, dr20) == (
        f"{SAS}/dr20/{summary}.gz", f"{SAS}/dr20/{summary}",
        f"{SAS}/dr19/{summary}.gz", f"{SAS}/dr19/{summary}",
    )  # fmt: skip


def test_addresses_are_those_of_sdss_access(monkeypatch, tmp_path):
    access = pytest.importorskip("sdss_access.path", minversion=None)
    monkeypatch.setenv("SAS_BASE_DIR", str(tmp_path))
    path = access.Path(release="dr19", public=True)
    for sdss_id in FOLDERS:
        for kind, name in (("star", "mwmStar"), ("visit", "mwmVisit")):
            theirs = path.url(name, v_astra="0.6.0", sdss_id=sdss_id, component="")
            assert mwm_url(SAS, MWM_RELEASES["dr19"], sdss_id, kind) == theirs
    theirs = path.url("astraAllStarASPCAP", v_astra="0.6.0")
    assert theirs in astra_catalogue_urls(SAS, MWM_RELEASES["dr19"])


def test_releases_by_name():
    assert find_mwm_release("DR20").spectra == "dr19"
    with pytest.raises(
        DownloadError, match="unknown release 'dr21'; there are dr19, dr20 of SDSS-V"
    ):
        find_mwm_release("dr21")
    with pytest.raises(DownloadError, match=r"dr19 and dr20 are of SDSS-V \(download_mwm\)"):
        download_survey("nowhere", release="dr19", fields=("M15",))


# Regions -----------------------------------------------------------------------------------


def test_cone_is_that_of_the_sphere():
    rng = np.random.default_rng(1)
    ra = rng.uniform(0, 360, 4000)
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, 4000)))
    places = SkyCoord(ra, dec, unit="deg")
    for cone in (Cone(0.1, 89.9, 20), Cone(-1, 5, 30), Cone(200, -90, 10), Cone(10, 10, 170)):
        centre = SkyCoord(cone.ra, cone.dec, unit="deg")
        expected = places.separation(centre).deg <= cone.radius
        assert expected.any()
        np.testing.assert_array_equal(cone.holds(ra, dec), expected)
    near = Cone(100, 60, 1 / 3600)
    step = np.array([0.9, 1.1]) / 3600
    assert near.holds(np.full(2, 100.0), 60 + step).tolist() == [True, False]
    assert near.holds(100 + step / np.cos(np.radians(60)), np.full(2, 60.0)).tolist() == [
        True, False,
    ]  # fmt: skip
    assert not Cone(0, 0, 180).holds(np.array([np.nan]), np.array([0.0]))[0]


def test_box_goes_eastward_through_zero():
    ra = np.array([359.0, 0.5, 180.0, 2.0, np.nan])
    dec = np.zeros(5)
    assert Box(358, 1, -1, 1).holds(ra, dec).tolist() == [True, True, False, False, False]
    assert Box(-2, 1, -1, 1).holds(ra, dec).tolist() == [True, True, False, False, False]
    assert Box(1, 358, -1, 1).holds(ra, dec).tolist() == [False, False, True, True, False]
    assert Box(0, 360, 0, 0).holds(ra, dec).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({"cones": [(1, 2)]}, r"a cone is 3 numbers in degrees \(ra, dec, radius\), not \(1, 2\)"),
        ({"boxes": ["1,2,3,4"]}, "a box is 4 numbers in degrees"),
        ({"cones": [(400, 0, 1)]}, "ra of a cone must be -360 to 360 degrees, not 400"),
        ({"cones": [(0, -91, 1)]}, "dec of a cone must be -90 to 90"),
        ({"cones": [(0, 0, float("nan"))]}, "radius of a cone must be 0 to 180"),
        ({"boxes": [(0, 1, 5, 4)]}, "holds nothing; give the southern border first"),
        ({"boxes": [(0, 1, "x", 4)]}, "dec_min of a box must be"),
        ({}, "at least one SDSS_ID, star, field, cone or box"),
        ({"stars": ["a/b"]}, "cannot be the id of a star"),
        ({"sdss_ids": [7], "limit": 0}, "limit must be at least 1"),
        ({"sdss_ids": [7], "streams": 9}, "streams must be 1 to 4"),
        ({"sdss_ids": [7], "catalogue_source": "allstar-file"}, "a source of it: not both"),
        ({"sdss_ids": [7], "catalogue": None, "catalogue_source": "skyserver"}, "unknown source"),
    ],
)
def test_what_cannot_be_asked_for(bring, server, region, message):
    with pytest.raises(DownloadError, match=message):
        bring(**region)
    assert not server.requests


@pytest.mark.parametrize("sdss_id", [0, -3, 1.5, "7"])
def test_what_is_no_sdss_id(bring, sdss_id):
    with pytest.raises(InvalidDataError, match="an SDSS_ID must be"):
        bring(sdss_ids=[sdss_id])


# Good days ---------------------------------------------------------------------------------


def test_everything_that_a_cone_holds(bring, archive, tmp_path):
    told = []
    report = bring(cones=[(322.4, 12.2, 0.5)], details=told.append)
    out = tmp_path / "out"
    assert report.complete
    assert (report.n_wanted, report.n_fetched, report.n_present) == (3, 3, 0)
    assert report.selection == (("rows of the catalogue", 4), ("stars", 3))
    assert ids_in(out) == {54392544, 117524931, 54400160}
    assert report.n_bytes == sum(path.stat().st_size for path in out.glob("spectra/*/*/*/*.fits"))
    assert abs(told[0].bytes_total - report.n_bytes) < 10, "the size is said first"
    assert_whole(out, archive)


@pytest.mark.filterwarnings("error:Checksum", "error:Datasum")
def test_catalogue_of_the_stars_has_the_layout_of_the_whole(bring, tmp_path):
    report = bring(cones=[Cone(322.4, 12.2, 0.5)], boxes=[Box(50, 55, -71, -69)])
    assert report.catalogue.name == "astraAllStarASPCAP-0.6.0-part.fits"
    with fits.open(report.catalogue, checksum=True) as written, catalogue_hdus() as whole:
        assert [hdu.header["NAXIS2"] for hdu in written[1:]] == [0, 5]
        assert written[0].header["RELEASE"] == "dr19"
        assert written[0].header["PIPELINE"] == "ASPCAP"
        kept = whole[2].data[[6, 0, 1, 3, 2]]  # in order of SDSS_ID
        assert written[2].columns.names == whole[2].columns.names
        assert written[2].columns.formats == whole[2].columns.formats
        for name in kept.names:
            np.testing.assert_array_equal(written[2].data[name], kept[name])
    whole_hdus(report.catalogue)


def test_catalogue_keeps_the_rows_of_earlier_downloads(bring, tmp_path):
    first = bring(fields=["M15"]).catalogue
    content = first.read_bytes()
    with fits.open(first) as hdus:
        dated = [hdu.header.comments[n] for hdu in hdus for n in ("CHECKSUM", "DATASUM")]
    assert not any(sign.isdigit() for comment in dated for sign in comment)
    assert bring(fields=["M15"]).catalogue.read_bytes() == content
    second = bring(stars=["2M21290843+1209118"], sdss_ids=[7]).catalogue
    assert second == first
    assert fits.getdata(second, 2)["sdss_id"].tolist() == [7, 54392544, 54392544, 117524931]
    assert len(list((tmp_path / "out").glob("*.fits"))) == 1


def test_catalogue_in_the_folder_stays_alone(bring, catalogue, tmp_path):
    (tmp_path / "out").mkdir()
    own = Path(shutil.copy(catalogue, tmp_path / "out"))
    report = bring(fields=["M15"], catalogue=own)
    assert report.catalogue == own
    assert own.read_bytes() == catalogue.read_bytes()
    assert len(list((tmp_path / "out").glob("*.fits*"))) == 1
    assert own.name in read_manifest(tmp_path / "out/manifest.ecsv")


def test_part_of_another_catalogue(bring, catalogue, tmp_path):
    bring(fields=["M15"])
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / catalogue.name.removesuffix(".gz")
    fits.BinTableHDU.from_columns([fits.Column("sdss_id", "K", array=[7])]).writeto(other)
    with pytest.raises(DownloadError, match=r"-part\.fits has other columns .* another folder"):
        bring(sdss_ids=[7], catalogue=other)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"sdss_ids": [7, 54400160, 7]}, {7, 54400160}),
        ({"sdss_ids": 7}, {7}),
        ({"sdss_ids": np.array([7, 11])}, {7, 11}),
        ({"stars": "2M21290843+1209118"}, {54392544}),
        ({"stars": ["2M21301565+1208229", "2M03282869-6941456"]}, {54400160, 7}),
        ({"fields": ["M15"]}, {54392544, 117524931}),
        ({"fields": ["060+00", "K2_C4"], "stars": ["2M21301565+1208229"]}, {54487187, 7, 54400160}),
        ({"boxes": [(359, 1, 57, 58)]}, {54487187, 103020000}),
        ({"cones": [(0, 57.6, 0.2)]}, {54487187, 103020000}),
    ],
)
def test_stars_by_id_name_field_and_region(bring, tmp_path, archive, asked, wanted):
    report = bring(**asked)
    assert report.complete
    assert ids_in(tmp_path / "out") == wanted
    assert set(fits.getdata(report.catalogue, 2)["sdss_id"].tolist()) == wanted
    assert_whole(tmp_path / "out", archive)


def test_rows_are_found_across_pieces(catalogue, monkeypatch):
    targets = Targets(sdss_ids=(7, 117524931), fields=("M15",), regions=(Cone(0, 57.6, 0.2),))
    whole = read_targets(catalogue, targets)
    monkeypatch.setattr(allstar_reading, "_CHUNK_BYTES", 400)
    pieces = read_targets(catalogue, targets)
    assert whole.rows.dtype == pieces.rows.dtype
    assert whole.rows.tobytes() == pieces.rows.tobytes()
    assert whole.sdss_id.tolist() == [54392544, 54392544, 117524931, 54487187, 103020000, 7]
    assert pieces.asked.tolist() == [0, 0, 0, 1, 1, 2]


def test_spectra_by_id_need_no_catalogue(bring, server, tmp_path, archive):
    report = bring(sdss_ids=[7, WITHOUT_ROW], catalogue=None)
    assert report.complete
    assert report.catalogue is None
    assert ids_in(tmp_path / "out") == {7, WITHOUT_ROW}
    assert not server.asked(".gz")
    assert_whole(tmp_path / "out", archive)
    with pytest.raises(DownloadError, match=r"fields, cones.* 'allstar-file' .*\(1.2 GB\)"):
        bring(fields=["M15"], catalogue=None)
    with pytest.raises(DownloadError, match="S/N are found in the catalogue of dr19"):
        bring(sdss_ids=[7], snr_min=50, catalogue=None)


def test_id_without_a_row_is_fetched_all_the_same(bring, tmp_path, caplog):
    report = bring(sdss_ids=[7, WITHOUT_ROW])
    assert ids_in(tmp_path / "out") == {7, WITHOUT_ROW}
    assert ("SDSS_IDs without a row", 1) in report.selection
    assert "1 of the SDSS_IDs (99560000) have no row" in caplog.text
    assert len(fits.getdata(report.catalogue, 2)) == 1


def test_no_row_at_all_makes_no_catalogue(bring, tmp_path):
    report = bring(sdss_ids=[WITHOUT_ROW])
    assert report.complete
    assert report.catalogue is None
    assert not list((tmp_path / "out").glob("*.fits"))


def test_visits_come_beside_the_stars(bring, tmp_path, archive):
    report = bring(fields=["M15"], visits=True)
    assert report.n_fetched == 4
    assert ids_in(tmp_path / "out", "visit") == ids_in(tmp_path / "out") == {54392544, 117524931}
    assert_whole(tmp_path / "out", archive)


def test_signal_to_noise_is_that_of_the_best_row(bring, tmp_path):
    report = bring(cones=[(322.4, 12.2, 0.5)], snr_min=100)
    assert ids_in(tmp_path / "out") == {54392544}
    assert report.selection == (("rows of the catalogue", 4), ("SNR >= 100", 1), ("stars", 1))
    assert len(fits.getdata(report.catalogue, 2)) == 4, "the catalogue keeps all rows"


def test_limit_takes_in_turn_from_what_was_asked_for(bring, tmp_path):
    report = bring(fields=["M15", "K2_C4"], boxes=[(359, 1, 57, 58)], limit=3)
    assert ids_in(tmp_path / "out") == {54392544, 7, 54487187}
    assert report.selection[-1] == ("at most 3", 3)
    assert bring(sdss_ids=[7, 11, 54400160], catalogue=None, limit=2).n_wanted == 2


def test_second_run_fetches_nothing(bring, server, tmp_path):
    bring(fields=["M15"])
    manifest = (tmp_path / "out/manifest.ecsv").read_bytes()
    server.requests.clear()
    report = bring(fields=["M15"])
    assert (report.n_fetched, report.n_present) == (0, 2)
    assert not server.requests
    assert (tmp_path / "out/manifest.ecsv").read_bytes() == manifest


def test_dr20_takes_the_spectra_of_dr19(bring, server, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_CANNON_CACHE", str(tmp_path / "cache"))
    options = {"release": "dr20", "catalogue": None, "catalogue_source": "allstar-file"}
    report = bring(fields=["M15"], **options)
    assert report.complete
    tried = [r.path.removeprefix("/sas/").partition("/")[0] for r in server.requests
             if r.method == "GET" and "/summary/" in r.path]  # fmt: skip
    assert tried == ["dr20", "dr20", "dr19"], ".fits.gz, .fits, then those of DR19"
    assert fits.getheader(report.catalogue)["RELEASE"] == "dr20"
    server.requests.clear()
    assert bring(fields=["K2_C4"], **options).complete
    assert not server.asked(".gz"), "the catalogue is in the cache"


def test_catalogue_that_is_not_gzipped(bring, archive, tmp_path, monkeypatch):
    tree = shutil.copytree(archive, tmp_path / "tree")
    packed = tree / "dr19" / VERSION / "summary" / CATALOGUE
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    monkeypatch.setenv("BAYES_CANNON_CACHE", str(tmp_path / "cache"))
    with MwmServer(tree) as server:
        report = bring(
            fields=["M15"], catalogue=None, catalogue_source="allstar-file", sas_url=server.sas_url
        )
    assert report.complete
    assert report.catalogue.name == "astraAllStarASPCAP-0.6.0-part.fits"


# Bad days ----------------------------------------------------------------------------------


def test_few_stars_without_a_file_are_normal(bring, server, tmp_path):
    server.script("54400160.fits", Always(Status(404)))
    report = bring(cones=[(322.4, 12.2, 0.5)])
    assert report.complete
    assert (report.n_wanted, report.n_fetched) == (3, 2)
    assert [problem.star_id for problem in report.absent] == ["54400160"]
    assert "1 not in the archive (54400160), as is normal for a few stars." in str(report)
    assert bring(cones=[(322.4, 12.2, 0.5)]).absent == report.absent, "and again"


def test_many_stars_without_a_file_are_not(bring, server, monkeypatch):
    monkeypatch.setattr(mwm_download, "_ABSENT_FEW", 0)
    server.script("54400160.fits", Always(Status(404)))
    report = bring(cones=[(322.4, 12.2, 0.5)])
    assert not report.complete
    assert not report.absent
    assert "the server answered 404" in str(report)


def test_nothing_that_is_there_is_an_error_and_ends_soon(bring, server, monkeypatch):
    monkeypatch.setattr(mwm_download, "_PATIENCE", 5)
    report = bring(sdss_ids=range(1000, 1100), catalogue=None, streams=1)
    assert not report.complete
    assert len(report.missing) == 100
    assert len(server.asked(".fits")) == 5
    assert "not tried, as others failed: the server answered 404" in report.missing[-1].message


def test_archive_with_a_password(bring, server):
    server.script(".fits", Always(Status(401)))
    report = bring(sdss_ids=range(1000, 1100), catalogue=None, streams=1)
    assert not report.complete
    assert "401 Unauthorized: it asks for a password, which goes into ~/.netrc" in str(report)
    assert len(server.asked(".fits")) == 4, "after some in a row no more"


def test_page_in_place_of_a_spectrum(bring, server, tmp_path):
    server.script("mwmStar-0.6.0-7.fits", Always(Page()))
    report = bring(sdss_ids=[7, 11])
    assert [problem.star_id for problem in report.missing] == ["7"]
    assert "an HTML page came in place of a FITS file, twice" in str(report)
    assert ids_in(tmp_path / "out") == {11}


def test_spectrum_that_is_cut_is_gone_on_with(bring, server, tmp_path, archive):
    server.script("mwmStar-0.6.0-7.fits", Cut(20_000))
    assert bring(sdss_ids=[7]).complete
    assert [r.headers.get("Range") for r in server.asked("-7.fits")][1].startswith("bytes=")
    assert_whole(tmp_path / "out", archive)


def test_changed_data_are_found_by_the_checksum_of_the_file(bring, server, tmp_path, archive):
    server.script("mwmStar-0.6.0-7.fits", Garbled())
    assert bring(sdss_ids=[7]).complete, "the second time it came whole"
    assert_whole(tmp_path / "out", archive)
    server.script("mwmStar-0.6.0-11.fits", Always(Garbled()))
    report = bring(sdss_ids=[7, 11])
    assert "the data of HDU 3 were changed (checksum" in str(report)
    assert ids_in(tmp_path / "out") == {7}


def test_damaged_spectrum_on_disk_is_fetched_again(bring, server, tmp_path, archive):
    bring(sdss_ids=[7, 11])
    path = tmp_path / "out/spectra/star/00/07/mwmStar-0.6.0-7.fits"
    content = bytearray(path.read_bytes())
    content[-5000] ^= 0xFF
    path.write_bytes(bytes(content))
    for manifest in (True, False):
        if not manifest:
            (tmp_path / "out/manifest.ecsv").unlink()
            path.write_bytes(bytes(content))
        report = bring(sdss_ids=[7, 11])
        assert (report.n_fetched, report.n_present) == (1, 1)
        assert_whole(tmp_path / "out", archive)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"SIMPLE", "no whole FITS file: .* is not a FITS file"),
        (b"<!DOCTYPE html><html>", "an HTML page came in place of a FITS file"),
        (star_bytes(8), "the file is that of SDSS_ID 8"),
        (star_bytes(7)[: -4 * 2880], "cut short in HDU"),
        (star_bytes(7)[: 3 * 2880], "not a file of the Milky Way Mapper: 3 HDUs"),
        (star_bytes(7), "^$"),
    ],
)
def test_check_of_a_file(tmp_path, content, problem):
    path = tmp_path / "mwmStar-0.6.0-7.fits"
    path.write_bytes(content)
    assert re.search(problem, check_mwm(path, 7)), check_mwm(path, 7)


def test_checksums_are_those_of_astropy(tmp_path, catalogue):
    for number, hdu in enumerate(fits.open(catalogue)):
        if number:
            assert whole_hdus(catalogue)[number].header.get("DATASUM") == hdu.header["DATASUM"]
    rng = np.random.default_rng(2)
    words = rng.integers(0, 2**32, 2880, dtype=np.uint32)
    hdu = fits.ImageHDU(words.astype(">i4"))
    content = hdu.data.astype(">i4").tobytes()
    assert hdu._calculate_datasum() == sum_of(content)
    assert sum_of(content[400:], sum_of(content[:400])) == (sum_of(content))


def test_name_that_the_catalogue_does_not_have(bring, tmp_path):
    report = bring(stars=["2M00000000+0000000"], fields=["M15"])
    assert not report.complete
    assert report.n_fetched == 2
    assert report.missing[0].message == "not in the catalogue of dr19"
    assert "Check the names" in report.advice
    with pytest.raises(DownloadError, match=r"has no stars in the field m15; .* or give a cone"):
        bring(fields=["m15"])
    with pytest.raises(DownloadError, match="has no star in cone_200_0_1; check the numbers"):
        bring(cones=[(200, 0, 1)])


def test_catalogue_that_is_none(bring, tmp_path):
    path = tmp_path / "small.fits"
    fits.BinTableHDU.from_columns([fits.Column("sdss_id", "K", array=[7])]).writeto(path)
    for asked, lacking in (
        ({"fields": ["M15"]}, "field"), ({"cones": [(1, 1, 1)]}, "ra, dec"),
        ({"stars": ["2M1+1"]}, "sdss4_apogee_id"),
    ):  # fmt: skip
        with pytest.raises(FileFormatError, match=f"small.fits lacks {lacking}: the stars"):
            bring(**asked, catalogue=path)
    assert bring(sdss_ids=[7], catalogue=path).complete
    fits.BinTableHDU.from_columns([fits.Column("teff", "E", array=[1])]).writeto(
        path, overwrite=True
    )
    with pytest.raises(FileFormatError, match="no table with a column SDSS_ID"):
        bring(sdss_ids=[7], catalogue=path)


def test_catalogue_that_cannot_be_had(bring, server, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_CANNON_CACHE", str(tmp_path / "cache"))
    options = {"fields": ["M15"], "catalogue": None, "catalogue_source": "allstar-file"}
    server.script(CATALOGUE, Always(Status(401)))
    with pytest.raises(DownloadError, match=r"no catalogue of dr19: .*401 Unauthorized"):
        bring(**options)
    server.good_again()
    server.script(CATALOGUE, Always(Page()))
    with pytest.raises(DownloadError, match=r"no catalogue of dr19: .*web page.*, twice"):
        bring(**options)
    server.good_again()
    server.script(CATALOGUE, Always(Garbled()))
    with pytest.raises(DownloadError, match="no catalogue of dr19"):
        bring(**options)
    assert not list((tmp_path / "cache").rglob("*.fits*"))
