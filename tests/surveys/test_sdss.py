"""Addresses of the archive, names, checksum lists, and the catalogue's table."""

from __future__ import annotations

import doctest
import tracemalloc
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from sdss_access.path import Path as SdssPath

from bayes_cannon.errors import DownloadError, FileFormatError, LabelError
from bayes_cannon.spectra.labels import DEFAULT_LABELS
from bayes_cannon.surveys.apogee import allstar as fits_table
from bayes_cannon.surveys.archive import addresses as sdss
from bayes_cannon.surveys.archive.catalogue import (
    catalogue_columns,
    is_commissioning,
    make_table,
    read_allstar_rows,
    spectra_of,
    write_catalogue,
)

SAS = "https://data.sdss.org/sas"

SPREAD = [
    ("2M21290843+1209118", "apo25m", "M15"),
    ("2M00000032+5737103", "apo25m", "060+00"),
    ("2M19485057+5005279", "apo25m", "K04_083+13"),
    ("2M17335483-2753043", "apo25m", "000+02"),
    ("2M03282869-6941456", "lco25m", "K2_C4_168-21"),
    ("2M00373731-7205432", "lco25m", "47TUC"),
    ("AP17204208+6538238", "lco25m", "196.5+12.3-C"),
]


@pytest.fixture
def dr17() -> sdss.Release:
    return sdss.find_release("DR17")


@pytest.mark.parametrize("release", ["dr16", "dr17"])
@pytest.mark.parametrize(("star", "telescope", "field"), SPREAD)
def test_spectrum_address_is_that_of_sdss_access(release, star, telescope, field):
    found = sdss.find_release(release)
    theirs = SdssPath(release=release.upper()).url(
        "apStar", apred=found.apred, apstar="stars", telescope=telescope, field=field,
        prefix="as" if telescope == "lco25m" else "ap", obj=star,
    )  # fmt: skip
    ours = sdss.spectrum_url(SAS, found, sdss.Spectrum(star, telescope, field))
    assert ours == quote(theirs, safe=":/")
    assert "+" not in ours
    assert " " not in ours
    assert unquote(ours) == theirs


@pytest.mark.parametrize("release", ["dr16", "dr17"])
def test_address_of_the_1m_telescope_is_that_of_sdss_access(release):
    found = sdss.find_release(release)
    theirs = SdssPath(release=release.upper()).url(
        "apStar-1m", apred=found.apred, apstar="stars", telescope="apo1m", field="standards",
        prefix="ap", reduction="VESTA_x",
    )  # fmt: skip
    star = sdss.Spectrum("VESTA", "apo1m", "standards", 1, f"apStar-{found.apred}-VESTA_x.fits")
    assert sdss.spectrum_url(SAS, found, star) == theirs
    assert star.parts(found)[2] == f"apStar-{found.apred}-VESTA.fits"


@pytest.mark.parametrize("release", ["dr16", "dr17"])
def test_allstar_address_is_that_of_sdss_access(release):
    found = sdss.find_release(release)
    theirs = SdssPath(release=release.upper()).url(
        "allStar", apred=found.apred, aspcap=found.aspcap
    )
    assert sdss.allstar_url(SAS, found) == theirs


def test_archive_name_is_used_for_the_1m_telescope_only(dr17):
    name = "apStar-dr17-other.fits"
    assert sdss.Spectrum("X", "apo25m", "M15", 1, name).remote_name(dr17) == "apStar-dr17-X.fits"
    for bad in ("../apStar-dr17-x.fits", "apStar-dr17-a/b.fits", "evil.fits", ""):
        star = sdss.Spectrum("X", "apo1m", "s", 1, bad)
        assert star.remote_name(dr17) == "apStar-dr17-X.fits"


def test_manifest_address(dr17):
    assert sdss.manifest_url(SAS, dr17, "lco25m", "060+00") == (
        f"{SAS}/dr17/apogee/spectro/redux/dr17/stars/lco25m/060%2B00/"
        "dr17_stars_lco25m_060%2B00.sha1sum"
    )


def test_examples_in_docstrings():
    results = doctest.testmod(sdss)
    assert results.attempted > 0
    assert results.failed == 0


def test_unknown_release():
    with pytest.raises(DownloadError, match=r"unknown release 'dr18'; there are dr16, dr17"):
        sdss.find_release("dr18")


def test_argument_beats_environment_beats_default(monkeypatch):
    monkeypatch.delenv("BAYES_CANNON_SAS_URL", raising=False)
    monkeypatch.delenv("BAYES_CANNON_SKYSERVER_URL", raising=False)
    assert sdss.sas_root() == SAS
    assert sdss.skyserver_root() == "https://skyserver.sdss.org"
    monkeypatch.setenv("BAYES_CANNON_SAS_URL", "https://mirror.example/sas/")
    monkeypatch.setenv("BAYES_CANNON_SKYSERVER_URL", "http://sky.example")
    assert sdss.sas_root() == "https://mirror.example/sas"
    assert sdss.skyserver_root() == "http://sky.example"
    assert sdss.sas_root("http://127.0.0.1:1") == "http://127.0.0.1:1"


@pytest.mark.parametrize("url", ["ftp://x", "data.sdss.org", "file:///etc", "https://"])
def test_address_without_http(url):
    with pytest.raises(DownloadError, match="is no address to download from"):
        sdss.sas_root(url)


@pytest.mark.parametrize("url", ["https://me:secret@x/sas", "https://x/?a=1", "https://x/#a"])
def test_address_with_password_or_query(url):
    with pytest.raises(DownloadError, match="may hold no user name") as raised:
        sdss.sas_root(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("part", ["", ".", "..", "a/b", "a\\b", "a\0b", "a\nb", "x" * 300])
def test_unsafe_path_parts(part, dr17):
    with pytest.raises(DownloadError, match="cannot be a name in a path"):
        sdss.check_part(part)
    with pytest.raises(DownloadError, match="cannot be a name in a path"):
        sdss.Spectrum("2M1", "apo25m", part).parts(dr17)


@pytest.mark.parametrize("name", ["M15", "060+00", "K2_C4_168-21", "N6791", " M15 ", "196.5+1"])
def test_field_names(name):
    assert sdss.check_field(name) == name.strip()


@pytest.mark.parametrize(
    "name", ["", "M15'", "a b", "..", "../x", "M15;DROP TABLE x", "M15--'", "é", "M15\n'"]
)
def test_names_that_no_field_or_star_has(name):
    with pytest.raises(DownloadError, match="cannot be the name of a field"):
        sdss.check_field(name)
    with pytest.raises(DownloadError, match="cannot be the id of a star"):
        sdss.check_star(name)


def test_checksum_list():
    sha = "0123456789abcdef0123456789abcdef01234567"
    other = "f" * 40
    text = (
        f"{sha}  stars/M15/apStar-dr17-A.fits\n{other} *apStar-dr17-B.fits\n# note\n\n"
        f"nonsense apStar-dr17-C.fits\n{sha.upper()}  ./apStar-dr17-D.fits\r\n"
        f"{sha}  a/apStar-dr17-E.fits\n{other}  b/apStar-dr17-E.fits\n"
    )
    manifest = sdss.parse_manifest(text)
    assert sdss.find_checksum(manifest, "apStar-dr17-A.fits") == sha
    assert sdss.find_checksum(manifest, "apStar-dr17-B.fits") == other
    assert sdss.find_checksum(manifest, "apStar-dr17-C.fits") == ""
    assert sdss.find_checksum(manifest, "apStar-dr17-D.fits") == sha
    assert sdss.find_checksum(manifest, "apStar-dr17-E.fits") == "", "two that differ: unknown"
    assert sdss.find_checksum(manifest, "Star-dr17-A.fits") == "", "only whole names match"
    assert sdss.parse_manifest("<html>maintenance</html>") == {}


@pytest.mark.parametrize(("visits", "size"), [(1, 1.05e6), (3, 2.55e6)])
def test_estimated_size_is_that_of_real_files(visits, size, dr17):
    assert sdss.estimate_bytes(dr17, visits) == pytest.approx(size, rel=0.05)


# The catalogue's table --------------------------------------------------------------------


@pytest.mark.parametrize(("release", "flag", "width"), [("dr16", "i4", 18), ("dr17", "i8", 30)])
def test_columns_have_the_archives_types(release, flag, width):
    columns = {
        c.name: c.dtype for c in catalogue_columns(sdss.find_release(release), DEFAULT_LABELS)
    }
    assert columns["STARFLAG"] == columns["ASPCAPFLAG"] == flag
    assert columns["APOGEE_ID"] == f"U{width}"
    assert {"TEFF_ERR", "LOGG_ERR", "FE_H_FLAG", "MG_FE_FLAG"} <= set(columns)
    assert not {"TEFF_FLAG", "LOGG_FLAG"} & set(columns)


def test_labels_without_errors_or_flags(dr17):
    names = [c.name for c in catalogue_columns(dr17, ("VMICRO", "M_H", "TEFF_SPEC", "VMICRO"))]
    assert names[-4:] == ["VMICRO", "M_H", "M_H_ERR", "TEFF_SPEC"]


@pytest.mark.parametrize("labels", [("TEFF; DROP",), ("teff",), ("",), ()])
def test_label_names_that_cannot_be(labels, dr17):
    with pytest.raises(LabelError, match="no label names"):
        catalogue_columns(dr17, labels)


def _arrays(**more: object) -> dict[str, np.ndarray]:
    arrays = {
        "APOGEE_ID": [" b ", "a", "a"], "TELESCOPE": ["apo25m", "lco25m", "lco25m"],
        "FIELD": ["F ", "F", "F"], "TEFF": [-9999.0, 4500.0, 4500.0],
        "TEFF_ERR": [np.nan, 10.0, 10.0], "STARFLAG": [1, 2**31, 2**31],
        **more,
    }  # fmt: skip
    return {name: np.array(values) for name, values in arrays.items()}


@pytest.mark.parametrize(
    ("release", "missing", "missing_error"), [("dr16", -9999.99, -999.99), ("dr17", np.nan, np.nan)]
)
def test_table_has_the_archives_sentinels_and_each_row_once(release, missing, missing_error):
    table = make_table(_arrays(), sdss.find_release(release), ("TEFF",))
    assert table["APOGEE_ID"].tolist() == ["b", "a"]
    np.testing.assert_array_equal(table["TEFF"], np.array([missing, 4500], dtype=np.float32))
    np.testing.assert_array_equal(table["TEFF_ERR"][0], np.float32(missing_error))
    assert table["STARFLAG"][1] == (-(2**31) if release == "dr16" else 2**31)
    suffix = "r12" if release == "dr16" else "dr17"
    assert table["FILE"].tolist() == [f"apStar-{suffix}-b.fits", f"asStar-{suffix}-a.fits"]


def test_commissioning_rows(dr17):
    files = ["apStarC-dr17-b.fits", "asStar-dr17-a.fits", "asStarC-dr17-a.fits"]
    table = make_table(_arrays(FILE=files), dr17, ("TEFF",))
    np.testing.assert_array_equal(is_commissioning(table), [True, False, True])
    flagged = make_table(_arrays(EXTRATARG=[2, 0, 0]), dr17, ("TEFF",))
    np.testing.assert_array_equal(is_commissioning(flagged), [True, False])


def _write(path: Path, table: Table) -> Path:
    table.write(path)
    return path


def _file_table(n_rows: int = 3) -> Table:
    table = Table(_arrays(SNR=[50.0] * 3, NVISITS=[1] * 3, ASPCAPFLAG=[0] * 3))
    return table[:n_rows]


def test_rows_of_a_file_by_field_and_star(tmp_path, dr17, monkeypatch):
    path = _write(tmp_path / "allStar.fits", _file_table())
    assert len(read_allstar_rows(path, dr17, labels=("TEFF",), fields=("F",))) == 2
    monkeypatch.setattr(fits_table, "_CHUNK_BYTES", 1)
    one = read_allstar_rows(path, dr17, labels=("TEFF",), stars=("a",))
    assert one["APOGEE_ID"].tolist() == ["a"]
    assert spectra_of(one) == [sdss.Spectrum("a", "lco25m", "F", 1, "asStar-dr17-a.fits")]
    none = read_allstar_rows(path, dr17, labels=("TEFF",), fields=("G",))
    assert len(none) == 0


def test_file_without_rows(tmp_path, dr17):
    path = _write(tmp_path / "allStar.fits", _file_table(0))
    assert len(read_allstar_rows(path, dr17, labels=("TEFF",), fields=("F",))) == 0


def test_file_without_a_label_names_near_ones(tmp_path, dr17):
    path = _write(tmp_path / "allStar.fits", _file_table())
    with pytest.raises(LabelError, match=r"no label 'TEF'; near names: TEFF"):
        read_allstar_rows(path, dr17, labels=("TEF",), fields=("F",))


def test_file_without_a_needed_column(tmp_path, dr17):
    table = _file_table()
    table.remove_columns(["SNR", "FIELD"])
    path = _write(tmp_path / "allStar.fits", table)
    with pytest.raises(FileFormatError, match="lacks the columns FIELD, SNR"):
        read_allstar_rows(path, dr17, labels=("TEFF",), fields=("F",))


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"<html></html>", "is a web page"), (b"", "is empty")],
)
def test_file_that_is_no_fits(tmp_path, dr17, content, match):
    path = tmp_path / "allStar.fits"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=match):
        read_allstar_rows(path, dr17, labels=("TEFF",), fields=("F",))
    with pytest.raises(FileFormatError, match="does not exist"):
        read_allstar_rows(tmp_path / "none.fits", dr17, labels=("TEFF",), fields=("F",))


def test_file_whose_fields_are_numbers(tmp_path, dr17):
    table = _file_table()
    table["FIELD"] = [1, 2, 3]
    path = _write(tmp_path / "allStar.fits", table)
    with pytest.raises(FileFormatError, match="column FIELD does not hold text"):
        read_allstar_rows(path, dr17, labels=("TEFF",), fields=("1",))


def test_file_that_is_cut_compressed_or_an_image(tmp_path, dr17):
    path = _write(tmp_path / "allStar.fits", _file_table())
    cut = tmp_path / "cut.fits"
    cut.write_bytes(path.read_bytes()[:-2880])
    with pytest.raises(FileFormatError, match="cut short"):
        read_allstar_rows(cut, dr17, labels=("TEFF",), fields=("F",))
    packed = _write(tmp_path / "allStar.fits.gz", _file_table())
    assert len(read_allstar_rows(packed, dr17, labels=("TEFF",), fields=("F",))) == 2
    image = tmp_path / "image.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros(3))]).writeto(image)
    with pytest.raises(FileFormatError, match="no table with a column APOGEE_ID"):
        read_allstar_rows(image, dr17, labels=("TEFF",), fields=("F",))
    odd = tmp_path / "odd.fits"
    odd.write_bytes(path.read_bytes().replace(b"'2A      '", b"'3A      '", 1))
    with pytest.raises(FileFormatError, match=r"rows have \d+ bytes, their columns \d+"):
        read_allstar_rows(odd, dr17, labels=("TEFF",), fields=("F",))


def test_large_file_is_read_in_bounded_memory(tmp_path, dr17):
    """250 MB with rows as wide as the archive's, all but two of them empty; 40 MB of memory."""
    wide = _file_table(2)
    wide["APOGEE_ID"] = np.array(["b", "a"], dtype="S30")
    wide["FIELD"] = np.array(["F", "F"], dtype="S20")
    wide["PARAM_COV"] = np.zeros((2, 1300), dtype=np.float32)
    path = _write(tmp_path / "allStar.fits", wide)
    with fits.open(path) as hdus:
        width, start = hdus[1].header["NAXIS1"], hdus[1].fileinfo()["datLoc"]
    assert width > 5200
    n_rows = 250_000_000 // width
    with path.open("r+b") as sink:
        head = sink.read(start)
        last = sink.read(2 * width)[width:]
        sink.seek(0)
        sink.write(
            head.replace(b"NAXIS2  =                    2", f"NAXIS2  = {n_rows:20d}".encode())
        )
        sink.truncate(start + n_rows * width)
        sink.seek(start + (n_rows - 1) * width)
        sink.write(last)
        sink.truncate(start + -(-n_rows * width // 2880) * 2880)
    tracemalloc.start()
    try:
        table = read_allstar_rows(path, dr17, labels=("TEFF",), fields=("F",))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert table["APOGEE_ID"].tolist() == ["b", "a"]
    assert path.stat().st_size > 250_000_000
    assert peak < 40e6


def test_catalogue_is_written_whole_and_the_same_each_time(tmp_path, dr17):
    table = make_table(_arrays(), dr17, ("TEFF",))
    first, second = tmp_path / "allStar-a.fits", tmp_path / "allStar-b.fits"
    write_catalogue(table, first, dr17)
    write_catalogue(table, second, dr17)
    assert first.read_bytes() == second.read_bytes()
    with fits.open(first) as hdus:
        assert hdus[0].header["RELEASE"] == "dr17"
        formats = {c.name: c.format for c in hdus[1].columns}
    assert formats["APOGEE_ID"] == "30A"
    assert formats["STARFLAG"] == "K"
    assert formats["TEFF"] == "E"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["allStar-a.fits", "allStar-b.fits"]
