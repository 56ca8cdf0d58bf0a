"""Downloading a survey from a local archive that behaves, and that does not."""

from __future__ import annotations

import dataclasses
import email.utils
import gzip
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from bayes_cannon.base.locks import lock_folder
from bayes_cannon.errors import BayesCannonError, DownloadError, FileFormatError, LabelError
from bayes_cannon.spectra.problems import StarProblem
from bayes_cannon.surveys.archive import addresses as sdss
from bayes_cannon.surveys.archive import mirror as archive_copy
from bayes_cannon.surveys.archive import select as download_select
from bayes_cannon.surveys.archive.download import DownloadReport, download_survey
from bayes_cannon.surveys.archive.fetch import fetch_file
from bayes_cannon.surveys.archive.http import FetchError, FetchSettings, HttpClient, Stopped
from bayes_cannon.surveys.archive.mirror import read_manifest
from bayes_cannon.surveys.archive.streams import DownloadProgress, check_spectrum
from tests.archive_server import (
    FIELDS,
    LAST_MODIFIED,
    N_SPECTRA,
    STARS,
    Always,
    ArchiveServer,
    Cut,
    Garbled,
    Page,
    Slow,
    Status,
    make_survey,
)

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
BRIGHT = "apStar-dr17-2M21290843+1209118.fits"
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("BAYES_CANNON_SAS_URL", "BAYES_CANNON_SKYSERVER_URL", "BAYES_CANNON_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return make_survey(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def server(survey):
    with ArchiveServer(survey) as running:
        yield running


@pytest.fixture
def slept():
    return []


@pytest.fixture
def bring(server, tmp_path, slept):
    """Download into OUT, without waiting."""

    def run(**options: object) -> DownloadReport:
        options = {
            "fields": FIELDS, "sas_url": server.sas_url, "skyserver_url": server.skyserver_url,
            "settings": FetchSettings(sleep=slept.append), **options,
        }  # fmt: skip
        return download_survey(tmp_path / "out", **options)

    return run


def spectra_in(out: Path) -> dict[str, Path]:
    return {path.relative_to(out).as_posix(): path for path in out.glob("*/*/*.fits")}


def assert_whole(out: Path, survey: Path, lacking: tuple[str, ...] = ()) -> None:
    """Every spectrum on disk is byte for byte that of the archive, and none lacks but `lacking`."""
    found = spectra_in(out)
    for name, path in found.items():
        original = survey / name.replace("VESTA.fits", "VESTA_1m.fits")
        assert path.read_bytes() == original.read_bytes(), name
    wanted = {
        path.relative_to(survey).as_posix()
        for path in survey.glob("*/*/*.fits")
        if "StarC-" not in path.name and path.parent.parent.name != "apo1m"
    }
    absent = wanted - set(found)
    assert {Path(name).name for name in absent} == set(lacking)
    listed = read_manifest(out / "manifest.ecsv")
    assert {n for n in listed if n.count("/") == 2} == set(found)
    for name, entry in listed.items():
        content = (out / name).read_bytes()
        assert entry.size == len(content)
        assert entry.sha1 == hashlib.sha1(content).hexdigest()


def assert_next_run_completes(bring, out: Path, survey: Path, server: ArchiveServer) -> None:
    """The next run fetches only what was missing, and nothing else is left in the way."""
    before = set(spectra_in(out))
    server.good_again()
    server.requests.clear()
    report = bring()
    assert report.complete
    assert report.n_present == len(before)
    assert report.n_fetched == N_SPECTRA - len(before)
    assert len(server.asked(".fits")) == report.n_fetched
    assert_whole(out, survey)
    assert not list(out.rglob("*.part"))


# Good days ---------------------------------------------------------------------------------


def test_survey_is_a_copy_of_the_archive(bring, survey, server, tmp_path):
    report = bring()
    out = tmp_path / "out"
    assert report.complete
    assert (report.n_wanted, report.n_fetched, report.n_present) == (N_SPECTRA, N_SPECTRA, 0)
    assert report.n_bytes == sum(path.stat().st_size for path in spectra_in(out).values())
    assert report.selection == (("rows of the catalogue", N_SPECTRA),)
    assert report.catalogue == out / "allStar-dr17-M15_060+00_N6791_K2_C4_168-21.fits"
    assert str(report).endswith("0 there already.")
    assert_whole(out, survey)
    assert (out / "lco25m/K2_C4_168-21/asStar-dr17-2M03282869-6941456.fits").is_file()
    assert all(
        r.headers["User-Agent"].startswith("bayes_cannon/") and "+" not in r.raw
        for r in server.requests if r.path.startswith("/sas")
    )  # fmt: skip
    assert len(server.asked(".sha1sum")) == 5, "one list of checksums a field and telescope"


def test_catalogue_holds_the_archives_columns(bring):
    table = Table.read(bring().catalogue, hdu=1)
    assert table["STARFLAG"].dtype.kind == "i"
    assert table["STARFLAG"].dtype.itemsize == 8
    assert np.sum(np.isnan(np.ma.filled(table["TEFF"], np.nan))) == 1
    assert not any("StarC" in str(name) for name in table["FILE"])
    keys = list(zip(table["TELESCOPE"], table["FIELD"], table["APOGEE_ID"], strict=True))
    assert keys == sorted(set(keys))


@pytest.mark.parametrize("release", ["dr16", "dr17"])
def test_both_sources_give_the_same_files(release, tmp_path, slept):
    root = make_survey(tmp_path / "archive", release)
    allstar = next(root.glob("allStar-*.fits"))
    with ArchiveServer(root, release) as server:
        common = {
            "release": release, "fields": FIELDS, "sas_url": server.sas_url,
            "settings": FetchSettings(sleep=slept.append),
        }  # fmt: skip
        first = download_survey(tmp_path / "a", **common, skyserver_url=server.skyserver_url)
        second = download_survey(tmp_path / "b", **common, allstar=allstar, skyserver_url=CLOSED)
    assert first.complete
    assert second.complete
    assert first.catalogue.read_bytes() == second.catalogue.read_bytes()
    assert set(spectra_in(tmp_path / "a")) == set(spectra_in(tmp_path / "b"))
    assert_whole(tmp_path / "b", root)


def test_whole_allstar_file_is_fetched_once(bring, survey, server, tmp_path, monkeypatch):
    content = next(survey.glob("allStar-*.fits")).read_bytes()
    known = dataclasses.replace(
        sdss.RELEASES["dr17"], allstar_sha1=hashlib.sha1(content).hexdigest(),
        allstar_bytes=len(content),
    )  # fmt: skip
    monkeypatch.setitem(sdss.RELEASES, "dr17", known)
    monkeypatch.setenv("BAYES_CANNON_CACHE", str(tmp_path / "cache"))
    assert bring(catalogue_source="allstar-file", skyserver_url=CLOSED).complete
    assert bring(catalogue_source="allstar-file", skyserver_url=CLOSED).complete
    assert len(server.asked("allStar-dr17-synspec_rev1.fits")) == 1
    assert (tmp_path / "cache/allStar-dr17-synspec_rev1.fits").read_bytes() == content
    assert not list((tmp_path / "out").rglob("allStar-dr17-synspec*"))


def test_allstar_file_with_a_wrong_checksum(bring, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_CANNON_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DownloadError, match=r"no catalogue from .*wrong checksum"):
        bring(catalogue_source="allstar-file")
    assert not list((tmp_path / "cache").glob("*.fits*"))


def test_second_run_fetches_nothing(bring, server, survey, tmp_path):
    bring()
    catalogue = next((tmp_path / "out").glob("allStar*")).read_bytes()
    manifest = (tmp_path / "out" / "manifest.ecsv").read_bytes()
    server.requests.clear()
    report = bring()
    assert report.complete
    assert (report.n_fetched, report.n_present, report.n_bytes) == (0, N_SPECTRA, 0)
    assert [r.path for r in server.requests if not r.path.endswith("SqlSearch")] == []
    assert next((tmp_path / "out").glob("allStar*")).read_bytes() == catalogue
    assert (tmp_path / "out" / "manifest.ecsv").read_bytes() == manifest


def test_manifest_holds_sources_checksums_and_versions(bring, survey, server, tmp_path):
    bring()
    table = Table.read(tmp_path / "out" / "manifest.ecsv", format="ascii.ecsv")
    assert table.colnames == ["path", "url", "size", "sha1", "sha1_expected", "release"]
    assert len(table) == N_SPECTRA + 1
    spectra = table[[p.count("/") == 2 for p in table["path"]]]
    assert all(spectra["sha1"] == spectra["sha1_expected"])
    assert all(url.startswith(server.sas_url) for url in spectra["url"])
    assert table.meta["release"] == {"name": "dr17", "apred": "dr17", "aspcap": "synspec_rev1"}
    assert {"bayes_cannon", "python", "astropy", "numpy"} <= set(table.meta["versions"])


def test_manifest_keeps_what_other_runs_brought(bring, survey, tmp_path):
    bring(fields=("M15",))
    bring(fields=("N6791",))
    listed = read_manifest(tmp_path / "out" / "manifest.ecsv")
    assert {name.split("/")[1] for name in listed if "/" in name} == {"M15", "N6791"}
    (tmp_path / "out" / "apo25m" / "M15" / BRIGHT).unlink()
    bring(fields=("N6791",))
    assert f"apo25m/M15/{BRIGHT}" not in read_manifest(tmp_path / "out" / "manifest.ecsv")


def test_damaged_manifest_is_made_anew(bring, tmp_path, caplog):
    bring()
    path = tmp_path / "out" / "manifest.ecsv"
    good = path.read_bytes()
    path.write_text("not a table")
    with caplog.at_level(logging.WARNING):
        assert bring().complete
    assert "made anew" in caplog.text
    assert path.read_bytes() == good


def test_archive_without_checksums(survey, tmp_path, slept):
    with ArchiveServer(survey, checksums=False) as server:
        report = download_survey(
            tmp_path / "out", fields=FIELDS, sas_url=server.sas_url,
            skyserver_url=server.skyserver_url, settings=FetchSettings(sleep=slept.append),
        )  # fmt: skip
    assert report.complete
    assert_whole(tmp_path / "out", survey)
    entries = read_manifest(tmp_path / "out" / "manifest.ecsv").values()
    assert {e.sha1_expected for e in entries} == {""}


# What to download --------------------------------------------------------------------------


def test_single_star_in_the_fields_of_the_catalogue(bring, tmp_path):
    report = bring(fields=(), stars=("2M19205338+3748282",))
    assert report.complete
    assert {path.parent.name for path in spectra_in(tmp_path / "out").values()} == {
        "N6791", "060+00",
    }  # fmt: skip


def test_star_of_the_1m_telescope_gets_its_catalogue_name(bring, survey, server, tmp_path):
    assert bring(fields=(), stars="VESTA").complete
    assert set(spectra_in(tmp_path / "out")) == {"apo1m/standards/apStar-dr17-VESTA.fits"}
    assert server.asked("apStar-dr17-VESTA_1m.fits")
    entry = read_manifest(tmp_path / "out" / "manifest.ecsv")[
        "apo1m/standards/apStar-dr17-VESTA.fits"
    ]
    assert entry.sha1_expected == entry.sha1


def test_star_that_the_catalogue_does_not_have(bring):
    report = bring(fields=("M15",), stars=("2M00000000+0000000",))
    assert not report.complete
    assert report.n_fetched == 3
    assert report.n_wanted == 4
    assert report.missing == (
        StarProblem("2M00000000+0000000", "", "not in the catalogue of dr17"),
    )
    assert "1 missing (2M00000000+0000000;" in str(report)


def test_field_that_the_catalogue_does_not_have(bring):
    with pytest.raises(DownloadError, match=r"no stars in the fields m15, M16; check the spelling"):
        bring(fields=("M15", "m15", "M16"))


def test_signal_to_noise_and_limit(bring, tmp_path):
    report = bring(snr_min=100.0, limit=3)
    assert report.selection == (
        ("rows of the catalogue", 8), ("SNR >= 100", 4), ("at most 3", 3),
    )  # fmt: skip
    fields = {path.parent.name for path in spectra_in(tmp_path / "out").values()}
    assert fields == {"M15", "060+00", "K2_C4_168-21"}, "in turn from the fields"
    assert len(Table.read(report.catalogue, hdu=1)) == N_SPECTRA, "the catalogue keeps all rows"


def test_limit_larger_than_the_number_of_stars(bring):
    assert bring(limit=1000).n_fetched == N_SPECTRA


def test_cuts_by_a_function_of_the_table(bring, tmp_path):
    report = bring(cuts=lambda table: np.asarray(table["TELESCOPE"]) == "lco25m")
    assert report.n_wanted == 1
    assert report.selection[-1] == ("cuts", 1)
    assert set(spectra_in(tmp_path / "out")) == {
        "lco25m/K2_C4_168-21/asStar-dr17-2M03282869-6941456.fits"
    }


def test_cuts_of_the_package(bring, tmp_path):
    """One star each fails by S/N, labels, a bad flag and as a duplicate."""
    from bayes_cannon.surveys.apogee.cuts import Cuts

    report = bring(cuts=Cuts())
    assert report.complete
    assert {path.stem.split("-", 2)[2] for path in spectra_in(tmp_path / "out").values()} == {
        "2M21294979+1211058", "2M19205338+3748282", "2M03282869-6941456", "2M03533659+2512012",
    }  # fmt: skip
    assert report.n_wanted == 4


def test_cuts_that_leave_nothing(bring):
    report = bring(cuts=lambda table: np.zeros(len(table), dtype=bool))
    assert report.complete
    assert report.n_wanted == 0


def test_cuts_of_a_wrong_kind(bring):
    with pytest.raises(DownloadError, match="each of the 8 rows"):
        bring(cuts=lambda table: np.ones(3, dtype=bool))
    with pytest.raises(DownloadError, match="must be a Cuts or a function, got str"):
        bring(cuts="TEFF < 5700")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"fields": ()}, "at least one field or star"),
        ({"fields": ("M15'--",)}, "cannot be the name of a field"),
        ({"stars": ("../../x",)}, "cannot be the id of a star"),
        ({"release": "dr99"}, "unknown release 'dr99'"),
        ({"catalogue_source": "vizier"}, "unknown source of the catalogue 'vizier'"),
        ({"limit": 0}, "limit must be at least 1"),
        ({"streams": 0}, "streams must be 1 to 4"),
        ({"streams": 5}, "streams must be 1 to 4"),
        ({"labels": ("teff",)}, "no label names: 'teff'"),
        ({"sas_url": "nowhere"}, "is no address to download from"),
        ({"skyserver_url": "nowhere"}, "is no address to download from"),
    ],
)
def test_bad_arguments_ask_nothing_of_the_server(bring, server, options, match):
    with pytest.raises(BayesCannonError, match=match) as raised:
        bring(**options)
    assert isinstance(raised.value, DownloadError | LabelError)
    assert server.requests == []


def test_allstar_that_is_none(bring, tmp_path):
    path = tmp_path / "allStar.fits"
    path.write_bytes(b"<html>")
    with pytest.raises(FileFormatError, match=r"allStar\.fits is a web page"):
        bring(allstar=path)


def test_environment_names_the_servers(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BAYES_CANNON_SAS_URL", server.sas_url)
    monkeypatch.setenv("BAYES_CANNON_SKYSERVER_URL", server.skyserver_url)
    assert download_survey(tmp_path / "out", fields=("N6791",)).n_fetched == 1


def test_environment_names_a_proxy(bring, server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    report = bring(
        sas_url="http://archive.invalid/sas", skyserver_url="http://sky.invalid/skyserver"
    )
    assert report.complete
    assert all("invalid" in r.raw for r in server.requests)


def test_one_name_needs_no_list(bring):
    report = bring(fields="N6791", labels="TEFF")
    assert report.n_fetched == 1
    assert "LOGG" not in Table.read(report.catalogue, hdu=1).colnames


def test_only_stars_that_the_catalogue_does_not_have(bring):
    report = bring(fields=(), stars=("2M1+1", "2M2+2"))
    assert (report.n_wanted, len(report.missing)) == (2, 2)
    assert len(Table.read(report.catalogue, hdu=1)) == 0


def test_simulated_survey_is_left_alone(bring, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "allStar-dr17-simulated.fits").touch()
    with pytest.raises(DownloadError, match="holds a simulated survey"):
        bring()


def test_many_fields_make_a_short_file_name():
    names = tuple(f"{i:03d}+{i:02d}" for i in range(60))
    request = download_select.Request(sdss.find_release("dr17"), names, (), ("TEFF",))
    other = download_select.Request(sdss.find_release("dr17"), names[:-1], (), ("TEFF",))
    assert len(request.catalogue_name()) < 160
    assert request.catalogue_name() != other.catalogue_name()


def test_names_in_the_catalogue_cannot_leave_the_directory(bring, survey, tmp_path):
    table = Table.read(next(survey.glob("allStar-*.fits")), hdu=1).filled(0)
    table = table[(table["FIELD"] == "M15") & (table["EXTRATARG"] == 0)]
    evil = table[[0, 0, 0]]
    evil["APOGEE_ID"] = ["../../../evil", "a/b", "ok"]
    evil["TELESCOPE"] = ["apo25m", "apo25m", ".."]
    allstar = tmp_path / "allStar-evil.fits"
    Table(np.concatenate([table.as_array(), evil.as_array()])).write(allstar)
    report = bring(allstar=allstar, fields=("M15",))
    assert report.n_fetched == 3
    assert {m.star_id for m in report.missing} == {"../../../evil", "a/b", "ok"}
    assert all("cannot be a name in a path" in m.message for m in report.missing)
    assert not list(tmp_path.parent.rglob("*evil*.fits.part"))
    assert {p.name for p in tmp_path.iterdir()} == {"out", "allStar-evil.fits"}


# Bad days ----------------------------------------------------------------------------------


def test_one_star_is_not_there(bring, survey, server, tmp_path):
    server.script(f"M15/{BRIGHT}", Always(Status(404)))
    report = bring()
    assert not report.complete
    assert report.n_fetched == N_SPECTRA - 1
    (missing,) = report.missing
    assert missing.star_id == "2M21290843+1209118"
    assert missing.path.endswith("/M15/apStar-dr17-2M21290843%2B1209118.fits")
    assert missing.message == "the server answered 404 Not Found"
    assert len(server.asked(BRIGHT)) == 1, "404 is final"
    assert_whole(tmp_path / "out", survey, lacking=(BRIGHT,))
    assert_next_run_completes(bring, tmp_path / "out", survey, server)


def test_slow_answers(bring, survey, server, tmp_path):
    server.script(BRIGHT, Slow(0.05))
    server.script("N6791/apStar-dr17-2M19205338+3748282.fits", Slow(0.05))
    assert bring().complete
    assert_whole(tmp_path / "out", survey)


def test_too_slow_an_answer_is_tried_again(bring, survey, server, tmp_path, slept):
    server.script(BRIGHT, Slow(0.6, pieces=2))
    settings = FetchSettings(sleep=slept.append, read_timeout=0.2)
    assert bring(settings=settings).complete
    assert_whole(tmp_path / "out", survey)
    assert len(server.asked(BRIGHT)) == 2
    assert server.asked(BRIGHT)[1].headers["Range"].startswith("bytes=")


def test_retry_after_in_seconds(bring, survey, server, tmp_path, slept):
    server.script(BRIGHT, Status(429, (("Retry-After", "7"),)))
    assert bring(streams=1).complete
    assert 6.5 < max(slept) <= 7.0
    assert len(server.asked(BRIGHT)) == 2
    assert_whole(tmp_path / "out", survey)


def test_retry_after_as_a_date(bring, survey, server, tmp_path, slept):
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    server.script(BRIGHT, Status(503, (("Retry-After", date),)))
    assert bring().complete
    assert 25 < max(slept) <= 30
    assert_whole(tmp_path / "out", survey)


def test_retry_after_that_is_nonsense_or_past(bring, survey, server, tmp_path, slept):
    server.script(BRIGHT, Status(429, (("Retry-After", "soon"),)))
    server.script("2M21294979+1211058.fits", Status(429, (("Retry-After", LAST_MODIFIED),)))
    assert bring().complete
    assert len(slept) == 2, "both wait as if nothing had been said"
    assert all(1.0 <= seconds <= 1.5 for seconds in slept)


def test_retry_after_that_is_too_long(bring, survey, server, tmp_path, slept):
    server.script(BRIGHT, Always(Status(503, (("Retry-After", "86400"),))))
    report = bring()
    assert [m.message for m in report.missing] == [
        "the server answered 503 Service Unavailable, and asks to wait 86400 s; try again later"
    ]
    assert_whole(tmp_path / "out", survey, lacking=(BRIGHT,))
    assert_next_run_completes(bring, tmp_path / "out", survey, server)


def test_unavailable_twice_then_fine(bring, survey, server, tmp_path, slept):
    server.script(BRIGHT, Status(503), Status(503))
    assert bring().complete
    assert len(slept) == 2
    assert 1.0 <= slept[0] <= 1.5
    assert 2.0 <= slept[1] <= 3.0
    assert_whole(tmp_path / "out", survey)


def test_unavailable_for_ever(bring, survey, server, tmp_path, slept):
    server.script(BRIGHT, Always(Status(503)))
    report = bring()
    assert [m.message for m in report.missing] == [
        "the server answered 503 Service Unavailable, after 5 attempts"
    ]
    assert len(server.asked(BRIGHT)) == 5
    assert_whole(tmp_path / "out", survey, lacking=(BRIGHT,))
    assert_next_run_completes(bring, tmp_path / "out", survey, server)


def test_connection_cut_in_the_middle_goes_on_there(bring, survey, server, tmp_path):
    server.script(BRIGHT, Cut(50_000), Cut(30_000))
    assert bring().complete
    assert [r.headers.get("Range") for r in server.asked(BRIGHT)] == [
        None, "bytes=49152-", "bytes=73728-",
    ]  # fmt: skip
    assert_whole(tmp_path / "out", survey)


def test_connection_cut_by_a_server_without_ranges(survey, tmp_path, slept):
    with ArchiveServer(survey, ranges=False) as server:
        server.script(BRIGHT, Cut(50_000), Cut(120_000))
        report = download_survey(
            tmp_path / "out", fields=FIELDS, sas_url=server.sas_url,
            skyserver_url=server.skyserver_url, settings=FetchSettings(sleep=slept.append),
        )  # fmt: skip
    assert report.complete
    assert_whole(tmp_path / "out", survey)


def test_connection_cut_for_ever_keeps_the_part_for_the_next_run(bring, survey, server, tmp_path):
    server.script(BRIGHT, Always(Cut(10_000)))
    report = bring()
    (missing,) = report.missing
    assert "connection cut after" in missing.message
    part = tmp_path / "out" / "apo25m" / "M15" / f"{BRIGHT}.part"
    n_bytes = part.stat().st_size
    assert n_bytes == 5 * 8192
    assert_whole(tmp_path / "out", survey, lacking=(BRIGHT,))
    assert_next_run_completes(bring, tmp_path / "out", survey, server)
    assert server.asked(BRIGHT)[0].headers["Range"] == f"bytes={n_bytes}-"


def test_part_of_another_time_is_not_gone_on_with(bring, survey, server, tmp_path):
    part = tmp_path / "out" / "apo25m" / "M15" / f"{BRIGHT}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"SIMPLE  = something else")
    assert bring().complete
    assert server.asked(BRIGHT)[0].headers["Range"] == "bytes=24-"
    assert_whole(tmp_path / "out", survey)


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_part_that_is_whole_or_too_long(bring, survey, server, tmp_path, extra):
    part = tmp_path / "out" / "apo25m" / "M15" / f"{BRIGHT}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((survey / "apo25m" / "M15" / BRIGHT).read_bytes() + extra)
    when = email.utils.parsedate_to_datetime(LAST_MODIFIED).timestamp()
    os.utime(part, (when, when))
    assert bring().complete
    assert len(server.asked(BRIGHT)) == (2 if extra else 1)
    assert_whole(tmp_path / "out", survey)


def test_wrong_checksum_once(bring, survey, server, tmp_path):
    server.script(BRIGHT, Garbled())
    assert bring().complete
    assert len(server.asked(BRIGHT)) == 2
    assert "Range" not in server.asked(BRIGHT)[1].headers
    assert_whole(tmp_path / "out", survey)


def test_wrong_checksum_for_ever(bring, survey, server, tmp_path):
    server.script(BRIGHT, Always(Garbled()))
    report = bring()
    (missing,) = report.missing
    assert missing.message.startswith("wrong checksum (sha1 ")
    assert len(server.asked(BRIGHT)) == 2
    assert_whole(tmp_path / "out", survey, lacking=(BRIGHT,))
    assert_next_run_completes(bring, tmp_path / "out", survey, server)


def test_html_page_in_place_of_a_spectrum(bring, survey, server, tmp_path):
    server.script(BRIGHT, Always(Page()))
    report = bring()
    (missing,) = report.missing
    assert missing.message == "an HTML page came in place of a FITS file, twice"
    assert_whole(tmp_path / "out", survey, lacking=(BRIGHT,))
    assert_next_run_completes(bring, tmp_path / "out", survey, server)


def test_html_page_in_place_of_checksums(bring, survey, server, tmp_path):
    server.script(".sha1sum", Always(Page()))
    assert bring().complete
    assert_whole(tmp_path / "out", survey)
    assert not list((tmp_path / "out" / ".cache").glob("*.sha1sum"))
    server.good_again()
    assert bring().complete
    entries = read_manifest(tmp_path / "out" / "manifest.ecsv")
    assert all(e.sha1_expected == e.sha1 for name, e in entries.items() if "/" in name)


def test_checksums_that_cannot_be_had(bring, survey, server, tmp_path, caplog):
    server.script(".sha1sum", Always(Status(500)))
    with caplog.at_level(logging.WARNING):
        assert bring().complete
    assert "no checksums for field" in caplog.text
    assert len(server.asked(".sha1sum")) == 5, "given up after the first list"
    assert_whole(tmp_path / "out", survey)


def test_no_network_for_the_catalogue(bring, tmp_path):
    with pytest.raises(DownloadError, match="Check the network, or use the allStar file"):
        bring(skyserver_url=CLOSED)
    assert not spectra_in(tmp_path / "out")


def test_no_network_for_the_spectra(bring, survey, server, tmp_path, slept):
    allstar = next(survey.glob("allStar-*.fits"))
    report = bring(allstar=allstar, sas_url=CLOSED, streams=1)
    assert not report.complete
    assert len(report.missing) == N_SPECTRA
    reasons = [m.message for m in report.missing]
    assert all("Connection refused" in reason for reason in reasons)
    assert sum(reason.startswith("not tried") for reason in reasons) == N_SPECTRA - 4
    assert len(slept) < 25, "a server that is away is not asked for every file"
    assert "Run the same command again" in str(report)
    assert_next_run_completes(bring, tmp_path / "out", survey, server)


def test_file_larger_than_the_limit(bring, survey, server, tmp_path, slept):
    small = (survey / "apo25m" / "M15" / BRIGHT).stat().st_size
    settings = FetchSettings(sleep=slept.append, max_bytes=small + 10)
    report = bring(settings=settings)
    assert {m.star_id for m in report.missing} == {"2M21294979+1211058", "2M03533659+2512012"}
    assert all("more than the limit of" in m.message for m in report.missing)
    assert not list((tmp_path / "out").rglob("*.part"))
    assert_next_run_completes(bring, tmp_path / "out", survey, server)


def test_damaged_spectrum_on_disk_is_put_aside_and_fetched_again(bring, survey, server, tmp_path):
    bring()
    path = tmp_path / "out" / "apo25m" / "M15" / BRIGHT
    content = bytearray(path.read_bytes())
    content[-3000] ^= 1
    path.write_bytes(content)
    server.requests.clear()
    report = bring()
    assert (report.n_fetched, report.n_present) == (1, N_SPECTRA - 1)
    assert path.with_name(f"{BRIGHT}.damaged").read_bytes() == content
    assert_whole(tmp_path / "out", survey)


def test_too_little_space(bring, monkeypatch, tmp_path):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(archive_copy.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"GB are to come and .* has 0\.00 GB left"):
        bring()
    assert not spectra_in(tmp_path / "out")


def test_directory_that_cannot_be_written(bring, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(DownloadError, match="cannot write into"):
        bring()


def test_spectrum_that_cannot_be_written(bring, survey, server, tmp_path):
    (tmp_path / "out" / "apo25m").mkdir(parents=True)
    (tmp_path / "out" / "apo25m" / "M15").write_text("in the way")
    report = bring()
    assert len(report.missing) == 3
    assert all("cannot write" in m.message for m in report.missing)
    assert report.n_fetched == N_SPECTRA - 3


def test_two_downloads_into_one_directory(bring, tmp_path):
    (tmp_path / "out" / ".cache").mkdir(parents=True)
    with (
        lock_folder(tmp_path / "out", ".cache/lock"),
        pytest.raises(DownloadError, match=rf"out is .* by another process \(number {os.getpid()}"),
    ):
        bring()
    assert bring().complete


# Streams, progress, interruption -----------------------------------------------------------


def test_total_size_is_announced_first_and_progress_is_told(bring, server, caplog):
    told: list[DownloadProgress] = []
    with caplog.at_level(logging.INFO, logger="bayes_cannon"):
        report = bring(details=told.append)
    assert f"{N_SPECTRA} spectra to fetch, about " in caplog.text
    assert server.asked(".fits", "HEAD")
    first_get = next(
        i for i, r in enumerate(server.requests) if r.path.endswith(".fits") and r.method == "GET"
    )
    assert all(
        r.method == "HEAD" or not r.path.endswith(".fits") for r in server.requests[:first_get]
    )
    assert told[0].files_done == 0
    assert told[0].bytes_total == pytest.approx(report.n_bytes, rel=0.01)
    assert told[-1].files_done == told[-1].files_total == N_SPECTRA
    assert told[-1].bytes_done == report.n_bytes
    assert told[-1].seconds_left == 0
    done = [p.bytes_done for p in told]
    assert done == sorted(done)


def test_total_is_estimated_where_the_server_does_not_tell(survey, tmp_path, slept):
    class Headless(ArchiveServer):
        def file(self, path):
            head = self.requests[-1].method == "HEAD"
            return None if head else super().file(path)

    told: list[DownloadProgress] = []
    with Headless(survey) as server:
        download_survey(
            tmp_path / "out", fields=("N6791",), sas_url=server.sas_url,
            skyserver_url=server.skyserver_url, details=told.append,
        )  # fmt: skip
    assert told[0].bytes_total == sdss.estimate_bytes(sdss.find_release("dr17"), 1)


def test_progress_in_words():
    progress = DownloadProgress(3, 10, 2_000_000, 6_000_000, 4.0)
    assert progress.rate == 500_000
    assert progress.seconds_left == 8
    assert str(progress) == "3 of 10 spectra, 2.0 of about 6.0 MB, 0.50 MB/s, 8 s left"
    assert DownloadProgress(0, 10, 0, 6, 0.0).seconds_left == np.inf
    assert str(DownloadProgress(0, 1, 0, 6_000_000, 0.0)).endswith("MB/s")
    assert DownloadProgress(10, 10, 5, 6, 1.0).seconds_left == 0


@pytest.mark.parametrize("streams", [1, 4])
def test_no_more_files_at_a_time_than_streams(survey, tmp_path, streams):
    running, most, lock = 0, 0, threading.Lock()

    class Counting(ArchiveServer):
        def file(self, path):
            nonlocal running, most
            if not path.endswith(".fits"):
                return super().file(path)
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            with lock:
                running -= 1
            return super().file(path)

    with Counting(survey) as server:
        report = download_survey(
            tmp_path / "out", fields=FIELDS, sas_url=server.sas_url, streams=streams,
            skyserver_url=server.skyserver_url,
        )  # fmt: skip
    assert report.complete
    assert most <= streams
    assert most > streams // 2


def test_error_in_the_progress_function_comes_out_and_breaks_nothing(
    bring, survey, server, tmp_path
):
    def fail(progress: DownloadProgress) -> None:
        if progress.files_done:
            raise RuntimeError("window closed")

    with pytest.raises(RuntimeError, match="window closed"):
        bring(details=fail)
    out = tmp_path / "out"
    for name, path in spectra_in(out).items():
        assert path.read_bytes() == (survey / name).read_bytes()
    assert_next_run_completes(bring, out, survey, server)


SCRIPT = """
import sys
from bayes_cannon.surveys.archive.download import download_survey
out, sas, allstar = sys.argv[1:]
download_survey(
    out, fields=("M15", "N6791"), allstar=allstar, sas_url=sas, streams=2,
    details=lambda p: print(p.files_done, p.bytes_done, flush=True),
)
"""


def test_interrupt_leaves_nothing_broken(survey, server, bring, tmp_path):
    server.script(BRIGHT, Always(Slow(0.1, pieces=40)))
    out = tmp_path / "out"
    allstar = next(survey.glob("allStar-*.fits"))
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out), server.sas_url, str(allstar)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("3 "):
            break
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert time.monotonic() - begin < 5
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    found = spectra_in(out)
    assert len(found) == 3
    assert not [name for name in found if name.endswith(BRIGHT) and "M15" in name]
    for name, path in found.items():
        assert path.read_bytes() == (survey / name).read_bytes()
    assert len(read_manifest(out / "manifest.ecsv")) == 4
    assert (out / "apo25m" / "M15" / f"{BRIGHT}.part").stat().st_size > 0
    assert_next_run_completes(bring, out, survey, server)
    assert server.asked(BRIGHT)[0].headers["Range"].startswith("bytes=")


# The machinery by itself ---------------------------------------------------------------------


def test_stopped_client_fetches_nothing(server, tmp_path):
    client = HttpClient()
    client.stop.set()
    with pytest.raises(Stopped, match="on purpose"):
        fetch_file(client, server.sas_url + "/x", tmp_path / "x")
    with pytest.raises(Stopped, match="on purpose"):
        client.sleep(10)


def test_answers_larger_than_allowed(server, survey, tmp_path):
    url = sdss.allstar_url(server.sas_url, sdss.find_release("dr17"))
    with pytest.raises(FetchError, match="the answer is larger than 100 bytes"):
        HttpClient().text(url, max_bytes=100)
    with pytest.raises(FetchError, match="more than the limit of 100"):
        fetch_file(HttpClient(), url, tmp_path / "x", max_bytes=100)


def test_addresses_that_are_none(tmp_path):
    for url in ("http://", "nonsense", "ftp://x/y"):
        with pytest.raises(FetchError, match="no valid address"):
            fetch_file(HttpClient(), url, tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not a FITS file"),
        (b"hello", "not a FITS file"),
        (b"\n<HTML>", "an HTML page came in place of a FITS file"),
        (b"SIMPLE  =                    T" + b" " * 2850, "damaged FITS header in extension 0"),
        (b"SIMPLE  = " + bytes(range(33, 97)) * 45, "damaged FITS header in extension 0"),
    ],
)
def test_check_of_files_that_are_no_spectra(tmp_path, content, problem):
    path = tmp_path / "x.fits"
    path.write_bytes(content)
    assert check_spectrum(path).startswith(problem)


def test_check_of_other_fits_files(tmp_path, survey):
    good = (survey / "apo25m" / "M15" / BRIGHT).read_bytes()
    path = tmp_path / "x.fits"
    path.write_bytes(good)
    assert check_spectrum(path) == ""
    path.write_bytes(good[:-2880])
    assert check_spectrum(path) == "FITS file cut short in extension 3"
    path.write_bytes(good[:2880])
    assert check_spectrum(path) == "not an apStar file: no extension"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.zeros((2, 10)))]).writeto(
        path, overwrite=True
    )
    assert check_spectrum(path) == "not an apStar file: 10 pixels, not 8575"


def test_check_of_real_spectra_of_dr17(shipped_dir, tmp_path):
    for packed in sorted(shipped_dir.glob("apStar-*.fits.gz")):
        path = tmp_path / packed.stem
        path.write_bytes(gzip.decompress(packed.read_bytes()))
        assert check_spectrum(path) == ""


@pytest.mark.skipif(not REAL.is_dir(), reason="the real spectra are not here")
def test_check_of_real_spectra():
    paths = [*REAL.glob("apStar-*.fits"), REAL / "mystery_spec_wiped.fits"]
    assert len(paths) > 4
    assert [check_spectrum(path) for path in paths] == [""] * len(paths)


def test_every_star_of_the_small_survey_is_accounted_for():
    wanted = [s for s in STARS if s[2] in FIELDS and not s[5] & 2]
    assert len(wanted) == N_SPECTRA
