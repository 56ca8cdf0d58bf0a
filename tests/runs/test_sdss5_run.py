"""A survey in SDSS-V's layout all the way: the same labels as in DR17's, and other reductions."""

import contextlib
import gzip
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.cli.commands import main
from bayes_cannon.errors import (
    BayesCannonWarning,
    InvalidDataError,
    NoStarsError,
    OutputExistsError,
)
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.runs.inputs import spectra_to_infer
from bayes_cannon.runs.report.registry import registered_sections
from bayes_cannon.runs.report.report import write_report
from bayes_cannon.surveys.simulation.catalogue import read_truth
from bayes_cannon.surveys.simulation.stars import SimulationSettings
from bayes_cannon.surveys.visits import visit_spectra
from bayes_cannon.training.settings import TrainingSettings
from tests.archive_server import Cut, Garbled
from tests.mwm_server import CATALOGUE, VERSION, MwmServer

LAPLACE = InferenceSettings(method="laplace", draws=50, chains=2, n_khat=0)
LABELS = ("TEFF", "LOGG", "FE_H")
LAYOUTS = ("dr17", "mwm")


@pytest.fixture(scope="module")
def surveys(tmp_path_factory) -> dict[str, Path]:
    """One survey of 40 stars, written in both layouts."""
    folder = tmp_path_factory.mktemp("surveys")
    settings = SimulationSettings(decoys_per_cut=1, visit_shares=(0.7, 0.3))
    return {
        layout: bc.surveys.simulate_survey(
            folder / layout, n_stars=40, seed=1, settings=settings, layout=layout
        )
        for layout in LAYOUTS
    }


@pytest.fixture(scope="module")
def datasets(surveys) -> dict[str, bc.TrainingSet]:
    return {layout: bc.prepare(surveys[layout], label_names=LABELS) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def cannons(datasets) -> dict[str, bc.Cannon]:
    """The first thirty stars of each, trained on alike."""
    return {
        layout: bc.train(
            dataset.select(np.arange(30)), settings=TrainingSettings(n_factors=0, folds=0), seed=1
        )
        for layout, dataset in datasets.items()
    }


def page_of(folder: Path, *more: str, **given: object) -> str:
    """A report of the sections that name stars and catalogue."""
    keys = ("summary", "tables", "stars", *more)
    wanted = [s for s in registered_sections() if s.key in keys]
    assert len(wanted) == len(keys)
    report = write_report(folder, sections=wanted, **given)
    assert not report.failed
    assert not set(report.missing) & set(more)
    return (folder / "report.html").read_text(encoding="utf-8")


def test_inputs_are_the_same_to_the_last_bit(datasets) -> None:
    old, new = datasets["dr17"], datasets["mwm"]
    for name in ("flux", "ivar", "snr", "wavelength"):
        np.testing.assert_array_equal(getattr(old.spectra, name), getattr(new.spectra, name), name)
    np.testing.assert_array_equal(old.labels.values, new.labels.values)
    np.testing.assert_array_equal(old.labels.errors, new.labels.errors)
    assert new.spectra.notes["APOGEE_ID"].tolist() == old.info["apogee_id"].tolist()
    assert [s.removed for s in old.cut_steps][3:] == [s.removed for s in new.cut_steps][4:]


def test_abundances_are_those_of_dr17_but_for_rounding(surveys) -> None:
    old, new = (bc.prepare(surveys[layout]).labels for layout in LAYOUTS)
    for name in ("MG_FE", "SI_FE"):
        np.testing.assert_allclose(new[name], old[name], atol=3e-7)
        np.testing.assert_allclose(new.error(name), old.error(name), rtol=1e-5)
    truth = read_truth(surveys["mwm"])
    assert set(new.star_id) < set(truth.star_id)
    number = truth.star_id.tolist().index(str(new.star_id[0]))
    assert abs(new["TEFF"][0] - truth["TEFF"][number]) < 100


def test_files_say_that_they_are_simulated_and_are_equal_for_equal_arguments(
    surveys, tmp_path
) -> None:
    paths = sorted(surveys["mwm"].rglob("*.fits"))
    # The catalogue; stars and decoys, and the mystery star, each with a file of visits.
    assert len(paths) == 1 + 2 * (40 + 10 + 1)
    for path in (paths[0], paths[1], paths[-1]):
        with fits.open(path, checksum=True) as hdus:
            assert all(hdu.header["SIMULATE"] for hdu in hdus)
            assert all("SIMULATED" in str(hdu.header["HISTORY"]) for hdu in hdus)
    few = SimulationSettings(decoys_per_cut=1, visit_shares=(0.7, 0.3))
    again = bc.surveys.simulate_survey(
        tmp_path / "again", n_stars=2, seed=1, settings=few, layout="mwm"
    )
    for kind, product in (("star", "mwmStar"), ("visit", "mwmVisit")):
        first = f"spectra/{kind}/00/00/{product}-0.6.0-900000000.fits"
        assert (again / first).read_bytes() == (surveys["mwm"] / first).read_bytes()
    with pytest.raises(OutputExistsError, match="exists; choose another folder"):
        bc.surveys.simulate_survey(again, n_stars=2, seed=1, layout="mwm")
    bc.surveys.simulate_survey(
        again, n_stars=1, seed=1, layout="dr17", settings=few, overwrite=True
    )
    assert not (again / "spectra").exists()
    with pytest.raises(InvalidDataError, match="layout must be one of dr17, mwm"):
        bc.surveys.simulate_survey(tmp_path / "no", layout="dr18")


def test_models_and_draws_are_the_same(datasets, cannons) -> None:
    old, new = cannons["dr17"], cannons["mwm"]
    np.testing.assert_array_equal(old.theta, new.theta)
    np.testing.assert_array_equal(old.scatter, new.scatter)
    rest = datasets["mwm"].select(np.arange(30, 40)).spectra
    twins = replace(rest, star_id=datasets["dr17"].star_id[30:])  # a star's draws go by its name
    theirs = bc.infer_labels(
        old, datasets["dr17"].select(np.arange(30, 40)), settings=LAPLACE, seed=3
    )
    ours = bc.infer_labels(new, twins, settings=LAPLACE, seed=3)
    for name in LABELS:
        np.testing.assert_array_equal(ours["posterior"][name], theirs["posterior"][name])
    assert not (ours["star_stats"]["label_flag"].values & LabelFlag.OTHER_REDUCTION).any()


@pytest.fixture(scope="module")
def run(datasets, cannons, tmp_path_factory):
    """The rest of the mwm survey, inferred by its own model."""
    rest = datasets["mwm"].select(np.arange(30, 40))
    folder = tmp_path_factory.mktemp("runs") / "mwm"
    return bc.infer_run(cannons["mwm"], rest.spectra, folder, settings=LAPLACE, seed=3, aspcap=rest)


def test_a_run_of_sdss5_names_stars_and_catalogue(run, datasets, cannons, surveys) -> None:
    table = Table.read(run.folder / "catalogue.fits")
    assert table.colnames[:3] == ["SDSS_ID", "APOGEE_ID", "GAIA_ID"]
    assert table["APOGEE_ID"].tolist() == datasets["dr17"].info["apogee_id"][30:].tolist()
    assert table["GAIA_ID"][0].startswith("9000000000900")
    assert {"TEFF_ASPCAP_DR19", "TEFF_ASPCAP_DR19_ERR"} <= set(table.colnames)
    assert "REDUCTION" not in table.colnames  # that of the model, which the header says
    assert (table.meta["REDUCTN"], table.meta["REDUCMOD"]) == ("1.3", "1.3")
    assert run.summary["reduction"] == {"spectra": "1.3", "model": "1.3"}
    assert bc.open_run(run.folder).table["GAIA_ID"].tolist() == table["GAIA_ID"].tolist()
    page = page_of(
        run.folder, "spectrum", cannon=cannons["mwm"], dataset=datasets["mwm"],
        survey=surveys["mwm"],
    )  # fmt: skip
    assert "Observed spectrum of 9000000" in page
    assert "ASPCAP DR19" in page
    assert str(table["APOGEE_ID"][0]) in page
    assert "another reduction" not in page


@pytest.mark.parametrize(("trained", "given"), [("dr17", "mwm"), ("mwm", "dr17")])
def test_a_run_on_another_reduction_says_so_everywhere(
    surveys, cannons, tmp_path, trained: str, given: str
) -> None:
    folder = surveys[given] / ("spectra" if given == "mwm" else "apo25m/N6791")
    paths = sorted(folder.rglob("*.fits"))[:5]
    if given == "mwm":  # a telescope by name, as surveys name it
        telescope = bc.surveys.read_mwmstar(paths[0]).telescope
        paths[0] = Path(f"{paths[0]}[{telescope}]")
    spectra, _ = spectra_to_infer(cannons[trained], [folder])
    assert len(spectra) > 5
    spectra, _ = spectra_to_infer(cannons[trained], paths)
    assert spectra.id_name == ("SDSS_ID" if given == "mwm" else "APOGEE_ID")
    names = {"dr17": "dr17", "mwm": "1.3"}
    with pytest.warns(
        BayesCannonWarning,
        match=f"5 of 5 spectra .* of the reduction {names[given]}, the training set of "
        f"{names[trained]}",
    ):
        made = bc.infer_run(
            cannons[trained], spectra, tmp_path / "run", settings=LAPLACE, seed=1,
            inputs={"spectra": paths},
        )  # fmt: skip
    assert np.all(made.table["LABEL_FLAG"] & LabelFlag.OTHER_REDUCTION)
    assert set(made.table["REDUCTION"]) == {names[given]}
    with fits.open(tmp_path / "run/catalogue.fits") as hdus:
        assert hdus[1].header["REDUCTN"] == names[given]
        assert hdus[1].header["REDUCMOD"] == names[trained]
        history = "".join(hdus[1].header["HISTORY"])
        assert "another reduction" in history
        assert "Their reduced chi-square is" in history
    assert made.summary["flags"]["OTHER_REDUCTION"] == 5
    assert "another reduction" in made.summary["reduction"]["note"]
    page = page_of(tmp_path / "run", "spectrum", cannon=cannons[trained])
    assert "Spectra of another reduction" in page
    assert "Their reduced chi-square is" in page
    assert f"Observed spectrum of {'9000000' if given == 'mwm' else '2S'}" in page


def test_visits_of_sdss5_are_those_of_dr17(surveys, datasets) -> None:
    old, new = (visit_spectra(surveys[k], like=datasets[k]) for k in LAYOUTS)
    assert len(new.table) == len(old.table) > 5
    assert not new.problems
    apogee = dict(zip(new.spectra.star_id, new.spectra.notes["APOGEE_ID"], strict=True))
    order = {(a, v): i for i, (a, v) in enumerate(old.table.iterrows("STAR", "VISIT"))}
    rows = [order[apogee[i], v] for i, v in new.table.iterrows("SDSS_ID", "VISIT")]
    for name in ("flux", "ivar"):
        np.testing.assert_array_equal(
            getattr(new.spectra, name), getattr(old.spectra, name)[rows], name
        )
    np.testing.assert_allclose(new.table["MJD"], old.table["MJD"][rows], atol=1e-6)


def test_stars_without_files_of_visits_say_how_to_get_them(surveys, datasets, tmp_path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(surveys["mwm"], bare, ignore=shutil.ignore_patterns("mwmVisit*"))
    with pytest.raises(NoStarsError, match=r"has no file of visits .* download --visits brings it"):
        visit_spectra(bare, like=datasets["mwm"])


def test_damaged_files_cost_their_stars_alone_and_are_told(surveys, datasets, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(surveys["mwm"], copy, ignore=shutil.ignore_patterns("mwmVisit*"))
    paths = {p.stem.rpartition("-")[2]: p for p in copy.rglob("mwmStar-*.fits")}
    of_data, of_header, cut = datasets["mwm"].star_id[:3].tolist()
    for star, old, new in ((of_data, b"\0\0\0\0", b"\0\0\0\1"), (of_header, b"J_MAG", b"J_MAX")):
        content = paths[star].read_bytes()
        place = content.rfind(old) if star == of_data else content.find(old)
        paths[star].write_bytes(content[:place] + new + content[place + len(new) :])
    paths[cut].write_bytes(paths[cut].read_bytes()[:100_000])
    found = bc.prepare(copy, label_names=LABELS)
    assert found.star_id.tolist() == datasets["mwm"].star_id[3:].tolist()
    why = {problem.star_id: problem.message for problem in found.problems}
    assert "DATASUM says" in why[of_data]
    assert "CHECKSUM says" in why[of_header]
    assert "cut short" in why[cut]
    assert all("download it again" in text for text in why.values())
    (step,) = [s for s in found.cut_steps if s.name == "spectrum readable"]
    assert step.removed == 3


def command(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints, which must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bayes-cannon", *map(str, words)])
        with contextlib.suppress(SystemExit):
            main()
    told, wrong = capsys.readouterr()
    assert "error:" not in wrong, wrong
    return told


def test_from_a_hostile_archive_to_the_report_by_commands(
    surveys, datasets, cannons, tmp_path, capsys, monkeypatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "BAYES_CANNON_SAS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BAYES_CANNON_CACHE", str(tmp_path / "cache"))
    base = tmp_path / "archive" / "dr19" / VERSION
    shutil.copytree(surveys["mwm"] / "spectra", base / "spectra")
    (base / "summary").mkdir()
    (catalogue,) = surveys["mwm"].glob("astraAllStarASPCAP-*.fits")
    (base / "summary" / CATALOGUE).write_bytes(gzip.compress(catalogue.read_bytes(), 1))
    out = tmp_path / "survey"
    with MwmServer(tmp_path / "archive") as server:
        server.script("mwmStar-0.6.0-900000001.fits", Cut(5000))
        server.script("mwmVisit-0.6.0-900000002.fits", Garbled())
        told = command(
            capsys, "download", out, "--release", "dr19", "--cone", "0,0,180", "--visits",
            "--catalogue-source", "allstar-file", "--sas-url", server.sas_url,
        )  # fmt: skip
    assert "100 spectra wanted: 100 fetched" in told
    command(capsys, "prepare", out, "-o", tmp_path / "set.nc", *label_options())
    brought = bc.TrainingSet.load(tmp_path / "set.nc")
    place = {star: row for row, star in enumerate(datasets["mwm"].star_id.tolist())}
    rows = [place[star] for star in brought.star_id.tolist()]
    assert len(rows) == 40
    np.testing.assert_array_equal(brought.spectra.flux, datasets["mwm"].spectra.flux[rows])
    # The model of these thirty stars is there already.
    model, run, repeats = tmp_path / "cannon.nc", tmp_path / "run", tmp_path / "repeats"
    cannons["mwm"].save(model)
    told = command(
        capsys, "infer", model, tmp_path / "set.nc", "-o", run, "--method", "laplace",
        "--corner", "none",
    )  # fmt: skip
    assert "10 stars, 0 without a posterior" in told
    assert "OTHER_REDUCTION" not in told
    told = command(
        capsys, "repeats", model, out, "-o", repeats, "--method", "laplace", "--all-stars",
        "--flagged", "keep",
    )  # fmt: skip
    table = Table.read(repeats / "pairs.fits")
    assert len(table) > 3
    command(capsys, "report", run, "--repeats", repeats, "--survey", out)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "ASPCAP DR19" in page
    assert "Repeated visits" in page


def label_options() -> list[str]:
    return [word for name in LABELS for word in ("--label", name)]


def test_two_reductions_put_together_by_hand_are_not_trained_on(datasets) -> None:
    given = datasets["mwm"]
    names = np.where(np.arange(40) < 20, "1.3", "dr17")
    mixed = replace(given, spectra=replace(given.spectra, notes={"REDUCTION": names}), settings={})
    with pytest.raises(InvalidDataError, match=r"training stars .* reductions \(1.3: 20, dr17: 20"):
        bc.train(mixed, n_factors=0)


def test_kinds_of_files_are_not_mixed_in_one_list(surveys, cannons) -> None:
    paths = [
        next((surveys["mwm"] / "spectra").rglob("*.fits")),
        next((surveys["dr17"] / "apo25m").rglob("*.fits")),
    ]
    with pytest.raises(InvalidDataError, match=r"of several kinds \(apogee, mwm\)"):
        bc.prepare_spectra(paths, like=cannons["dr17"])
