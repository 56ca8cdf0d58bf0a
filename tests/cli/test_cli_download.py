"""The command `download` against a local archive, and `prepare` on what it brought."""

import gzip
import hashlib
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table, vstack

from bayes_cannon.cli import commands as cli
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.surveys.archive.mirror import read_manifest
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.simulation.stars import SimulationSettings
from bayes_cannon.surveys.survey import open_survey
from tests.archive_server import Always, ArchiveServer, Page, Slow, Status
from tests.mwm_server import CATALOGUE, VERSION, MwmServer, make_mwm_archive

SHIPPED = sorted((Path(__file__).resolve().parents[1] / "data").glob("apStar-*.fits.gz"))
FIELDS = ("M15", "N6791", "K2_C4_168-21", "060+00")
N_STARS = 30
N_EXTRA = 3
N_DECOYS = 11
"""One star for each cut, four of them for bits of STARFLAG."""
TWICE = "2M03533659+2512012"
"""A star in two fields, of which neither row is marked as a duplicate."""
SOUTHERN = "2M21294979+1211058"
"""A star seen by the southern telescope."""


def copied_row(table: Table, star: str, field: str, telescope: str = "apo25m") -> Table:
    """The first row of a table with another star's name and field."""
    row = table[:1].copy()
    row["APOGEE_ID"], row["FIELD"], row["TELESCOPE"] = star, field, telescope
    row["FILE"] = f"{'as' if telescope == 'lco25m' else 'ap'}Star-dr17-{star}.fits"
    return row


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """A simulated survey with one more star in two fields, and a field of real spectra."""
    root = tmp_path_factory.mktemp("archive") / "survey"
    settings = SimulationSettings(decoys_per_cut=1)
    simulate_survey(root, n_stars=N_STARS, seed=5, settings=settings)
    (old,) = root.glob("allStar-*.fits")
    table = Table.read(old, hdu=1)
    truth = Table.read(root / "truth.ecsv")
    stars = set(truth["APOGEE_ID"][truth["KIND"] == "star"])
    good = table[
        [
            str(n).strip() in stars and str(t).strip() == "apo25m"
            for n, t in table["APOGEE_ID", "TELESCOPE"].iterrows()
        ]
    ]
    first = good[0]
    file = root / "apo25m" / str(first["FIELD"]).strip() / str(first["FILE"]).strip()
    extra = []
    for field in ("M15", "K2_C4_168-21"):
        shutil.copy(file, root / "apo25m" / field / f"apStar-dr17-{TWICE}.fits")
        extra.append(copied_row(good, TWICE, field))
    (root / "lco25m" / "M15").mkdir(parents=True, exist_ok=True)
    shutil.copy(file, root / "lco25m" / "M15" / f"asStar-dr17-{SOUTHERN}.fits")
    extra.append(copied_row(good, SOUTHERN, "M15", telescope="lco25m"))
    (root / "apo25m" / "REAL").mkdir()
    for path in SHIPPED:
        whole = root / "apo25m" / "REAL" / path.stem
        whole.write_bytes(gzip.decompress(path.read_bytes()))
        extra.append(copied_row(good, whole.stem.split("-", 2)[2], "REAL"))
    old.unlink()
    vstack([table, *extra], metadata_conflicts="silent").write(root / "allStar-dr17-all.fits")
    return root


@pytest.fixture
def server(archive, monkeypatch):
    """The archive on a local server, to which the environment points."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ArchiveServer(archive) as running:
        monkeypatch.setenv("BAYES_CANNON_SAS_URL", running.sas_url)
        monkeypatch.setenv("BAYES_CANNON_SKYSERVER_URL", running.skyserver_url)
        yield running


@pytest.fixture
def run(capsys, monkeypatch):
    """Run a command in this process: its status and what it says."""

    def go(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["bayes-cannon", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        said = capsys.readouterr()
        for text in said:
            assert not any(ord(c) < 32 and c != "\n" for c in text), "plain lines only"
        return status, said.out, said.err

    return go


def all_fields(*more: str) -> list[str]:
    return [word for field in (*FIELDS, *more) for word in ("--field", field)]


def spectra_in(out: Path) -> set[str]:
    return {path.relative_to(out).as_posix() for path in out.glob("*/*/*.fits")}


def spectra_of(archive: Path, field: str) -> list[str]:
    """Wanted spectra of a field: those of simulated stars that no cut removes."""
    truth = Table.read(archive / "truth.ecsv")
    stars = set(truth["APOGEE_ID"][truth["KIND"] == "star"])
    rows = Table.read(next(archive.glob("allStar-*.fits")), hdu=1)
    return [
        "/".join(str(row[name]).strip() for name in ("TELESCOPE", "FIELD", "FILE"))
        for row in rows
        if str(row["APOGEE_ID"]).strip() in stars
        and str(row["FIELD"]).strip() == field
        and not row["EXTRATARG"] & 1 << 4
    ]


def names_in(out: Path) -> set[str]:
    return {Path(name).name for name in spectra_in(out)}


def star_of(name: str) -> str:
    return Path(name).stem.split("-", 2)[2]


def removed_by_cut(said: str) -> dict[str, int]:
    """Name of each cut and how many stars it removed, from `prepare`'s table."""
    rows = [line.rsplit(maxsplit=2) for line in said.splitlines()]
    return {
        row[0].split("  ")[0].strip(): int(row[1])
        for row in rows
        if len(row) == 3 and row[1].isdigit() and row[2].isdigit()
    }


def test_download_and_prepare_the_four_fields(server, run, archive, tmp_path):
    out = tmp_path / "survey"
    status, said, err = run("download", out, "--release", "dr17", *all_fields())
    assert status == 0
    n_wanted = N_STARS + N_EXTRA
    assert f"rows of the catalogue: {n_wanted + N_DECOYS}; cuts: {n_wanted}" in said
    assert f"{n_wanted} spectra wanted: {n_wanted} fetched (" in said
    assert err.startswith(f"{n_wanted} spectra to fetch, about "), "the size comes first"
    found = spectra_in(out)
    assert len(found) == n_wanted
    assert any(name.startswith("lco25m/M15/asStar-dr17-") for name in found)
    for name in found:
        assert (out / name).read_bytes() == (archive / name).read_bytes()

    status, said, err = run("prepare", out, "-o", tmp_path / "dataset.nc")
    assert (status, err) == (0, "")
    assert removed_by_cut(said) == {
        "catalogue": 0, "aspcap": 1, "star": 4, "duplicate": 1, "snr": 1, "labels": 1, "logg": 1,
        "teff": 1, "feh": 1, "spectrum found": 0, "spectrum readable": 0, "good pixels": 0,
    }  # fmt: skip
    assert f"{n_wanted} stars, 7514 pixels" in said
    dataset = TrainingSet.load(tmp_path / "dataset.nc")
    twice = {name for name in dataset.star_id.tolist() if TWICE in name}
    assert twice == {f"apo25m/M15/{TWICE}", f"apo25m/K2_C4_168-21/{TWICE}"}
    assert "lco25m" in dataset.info["telescope"]
    assert dataset.spectra.simulated
    manifest = (out / "manifest.ecsv").read_bytes()
    assert dataset.settings["manifest_sha1"] == hashlib.sha1(manifest).hexdigest()


def test_real_spectra_come_and_are_prepared(server, run, tmp_path):
    n_real = len(SHIPPED)
    assert n_real == 2
    status, said, _ = run("download", tmp_path / "real", "--field", "REAL")
    assert status == 0
    assert f"{n_real} fetched" in said
    command = ("prepare", tmp_path / "real", "-o", tmp_path / "real.nc")
    status, said, _ = run(*command)
    assert status == 0
    dataset = TrainingSet.load(tmp_path / "real.nc")
    assert dataset.n_stars == n_real
    assert not dataset.spectra.simulated
    flux = np.where(dataset.spectra.good, dataset.spectra.flux, np.nan)
    assert np.all(np.abs(np.nanmedian(flux, axis=1) - 0.95) < 0.1), "lines below a continuum of 1"


def test_missing_spectra_are_said_and_come_with_the_next_run(server, run, archive, tmp_path):
    out = tmp_path / "survey"
    run("download", out, "--field", "M15", "--limit", 2)
    gone, page = sorted(
        n for n in spectra_of(archive, "M15") if n.rsplit("/")[-1] not in names_in(out)
    )[:2]
    server.script(gone, Always(Status(404)))
    server.script(page, Always(Page()))
    status, said, err = run("download", out, "--field", "M15")
    assert status == 2
    assert "2 there already, 2 missing (" in said
    lines = [line for line in said.splitlines() if line.startswith("  missing ")]
    assert len(lines) == 2
    assert f"missing {star_of(gone)}: the server answered 404" in said
    assert f"missing {star_of(page)}: an HTML page came in place of a FITS file" in said
    assert "Run the same command again" in said
    assert "WARNING" not in err, "the report is enough"
    before = spectra_in(out)

    assert run("prepare", out, "-o", tmp_path / "part.nc")[0] == 0, "what came can be used"

    server.good_again()
    server.requests.clear()
    status, said, _ = run("download", out, "--field", "M15")
    assert status == 0
    assert "2 fetched (" in said
    assert f"{len(before)} there already" in said
    assert {r.path.rsplit("/", 1)[-1] for r in server.asked(".fits")} == {
        Path(gone).name, Path(page).name,
    }  # fmt: skip


def test_options_choose_what_comes(server, run, archive, tmp_path):
    allstar = next(archive.glob("allStar-*.fits"))
    closed = ("--skyserver-url", "http://127.0.0.1:9")
    status, said, _ = run(
        "download", tmp_path / "a", "--field", "N6791", "--allstar", allstar, *closed,
        "--snr-min", 100, "--limit", 2, "--label", "C_FE",
    )  # fmt: skip
    assert status == 0
    assert "SNR >= 100: " in said
    assert "at most 2: 2" in said
    (catalogue,) = (tmp_path / "a").glob("allStar*.fits")
    assert {"C_FE", "C_FE_ERR", "SI_FE"} <= set(Table.read(catalogue, hdu=1).colnames)
    assert run("prepare", tmp_path / "a", "-o", tmp_path / "a.nc", "--label", "C_FE")[0] == 0

    dwarf = Table.read(allstar, hdu=1)
    dwarf = str(dwarf["APOGEE_ID"][np.ma.filled(dwarf["LOGG"], 0) > 4][0]).strip()
    status, said, _ = run("download", tmp_path / "b", "--star", TWICE, "--star", dwarf)
    assert status == 0
    assert "3 spectra wanted: 3 fetched" in said, "no cut removes a star asked for by name"

    status, said, _ = run("download", tmp_path / "c", "--field", "N6791", "--no-cuts")
    assert status == 0
    assert len(spectra_in(tmp_path / "c")) == len(list(archive.glob("*/N6791/*.fits")))


def test_star_that_is_not_in_the_catalogue(server, run, tmp_path):
    status, said, _ = run("download", tmp_path / "out", "--star", "2M00000000+0000000")
    assert status == 2
    assert "missing 2M00000000+0000000: not in the catalogue of dr17" in said
    assert "Check the names" in said
    assert "again" not in said, "another run would not help"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "error: name at least one field or star to download."),
        (("--field", "m15"), "no stars in the field m15; check the spelling, capitals too."),
        (
            ("--field", "M15", "--release", "dr18"),
            "unknown release 'dr18'; there are dr16, dr17 of SDSS-IV",
        ),
        (("--sdss-id", 7), "error: --sdss-id does not go with --release dr17."),
        (("--field", "M15", "--cone", "1,2,3"), "--cone does not go with --release dr17."),
        (("--release", "dr19"), "at least one SDSS_ID, star, field, cone or box."),
        (("--release", "dr19", "--field", "M15"), "give astraAllStarASPCAP-0.6.0.fits.gz as the"),
        (("--release", "dr19", "--cone", "1,2"), "--cone takes RA,DEC,RADIUS in degrees, not '1,"),
        (("--release", "dr20", "--box", "a,1,2,3"), "--box takes RA1,RA2,DEC1,DEC2 in degrees"),
        (("--release", "dr20", "--label", "C_FE"), "--label does not go with --release dr20."),
        (("--field", "M15", "--allstar", "none.fits"), "none.fits does not exist; check the path"),
        (("--field", "M15", "--sas-url", "data.sdss.org"), "give one that begins with https://."),
    ],
)
def test_errors_are_one_line_with_status_2(server, run, tmp_path, arguments, error):
    status, said, err = run("download", tmp_path / "out", *arguments)
    assert (status, said) == (2, "")
    assert error in err
    assert err.count("\n") == 1
    assert not spectra_in(tmp_path / "out")


@pytest.fixture(scope="module")
def mwm_archive(tmp_path_factory) -> Path:
    return make_mwm_archive(tmp_path_factory.mktemp("mwm"))


def test_stars_of_sdss_v(mwm_archive, run, tmp_path, monkeypatch):
    catalogue = mwm_archive / "dr19" / VERSION / "summary" / CATALOGUE
    out = tmp_path / "survey"
    words = ("download", out, "--release", "dr19", "--catalogue", catalogue)
    with MwmServer(mwm_archive) as server:
        monkeypatch.setenv("BAYES_CANNON_SAS_URL", server.sas_url)
        status, said, err = run(
            *words, "--cone", "322.4,12.2,0.5", "--box=-1,1,57,58", "--sdss-id", 7, "--star",
            "2M21290843+1209118", "--visits",
        )  # fmt: skip
        assert status == 0
        assert err.startswith("12 spectra to fetch, about "), "the size comes first"
        assert "rows of the catalogue: 7; stars: 6\n" in said
        assert "12 spectra wanted: 12 fetched (" in said
        assert (out / "spectra/visit/25/44/mwmVisit-0.6.0-54392544.fits").is_file()
        server.script("mwmStar-0.6.0-117524931.fits", Always(Status(404)))
        status, said, _ = run(*words[:1], tmp_path / "b", *words[2:], "--field", "M15")
        assert status == 0
        assert "2 spectra wanted: 1 fetched" in said
        assert "1 not in the archive (117524931), as is normal for a few stars." in said
        status, said, _ = run(
            "download", tmp_path / "c", "--release", "dr20", "--sdss-id", 117524931
        )
        assert status == 2, "nothing came"
        assert "missing 117524931: the server answered 404 Not Found" in said


def test_left_over_files_do_not_disturb_the_survey(server, run, tmp_path):
    out = tmp_path / "survey"
    assert run("download", out, "--field", "N6791")[0] == 0
    assert run("download", out, "--field", "N6791", "--field", "060+00")[0] == 0
    spectrum = next(iter(sorted((out / "apo25m" / "N6791").glob("*.fits"))))
    for ending in (".part", ".damaged"):
        shutil.copy(spectrum, spectrum.with_name(spectrum.name + ending))
        shutil.copy(spectrum, out / f"allStar-dr17-x.fits{ending}")
    shutil.copy(spectrum, out / ".cache" / "apStar-dr17-2M1+1.fits")
    survey = open_survey(out)
    tables = [Table.read(path, hdu=1) for path in out.glob("allStar*.fits")]
    assert sorted(len(t) for t in tables)[0] == len(survey.problems), "repeated rows, nothing else"
    assert all("is used instead" in p.message for p in survey.problems)
    assert len(survey) == max(len(t) for t in tables), "rows of both catalogues once"
    assert survey.orphans == ()
    assert sorted(f for f in survey.files.tolist() if f) == sorted(
        str(out / name) for name in spectra_in(out)
    )
    # Rows cut before the download have no file: with the same cuts that is no loss.
    assert len(survey.missing) > 0
    status, said, err = run("prepare", out, "-o", tmp_path / "d.nc")
    assert (status, err) == (0, "")
    assert removed_by_cut(said)["spectrum found"] == 0
    status, said, err = run("prepare", out, "-o", tmp_path / "e.nc", "--snr-min", 0,
                            "--teff-max", 9000, "--logg-max", 6)  # fmt: skip
    assert (status, err) == (0, "")
    assert removed_by_cut(said)["spectrum found"] > 0


def test_interrupt_leaves_nothing_broken_and_the_next_run_completes(server, run, archive, tmp_path):
    out = tmp_path / "survey"
    for name in spectra_of(archive, "K2_C4_168-21")[4:]:
        server.script(name, Slow(pause=1.0, pieces=20))
    program = "from bayes_cannon.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "download", str(out), "--field", "K2_C4_168-21"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    patience = time.monotonic() + 20
    while not spectra_in(out) and time.monotonic() < patience:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    said, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "stopped; run the same command again to continue"
    assert "Traceback" not in said + err
    came = spectra_in(out)
    assert came
    for name in came:
        assert (out / name).read_bytes() == (archive / name).read_bytes()
    assert {n for n in read_manifest(out / "manifest.ecsv") if n.count("/") == 2} == came
    server.good_again()
    status, said, _ = run("download", out, "--field", "K2_C4_168-21")
    assert status == 0
    assert f"{len(came)} there already" in said
    assert not list(out.rglob("*.part"))
