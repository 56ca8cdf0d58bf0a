"""A survey in SDSS-V's layout all the way: the same labels as in DR17's, and other reductions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

import bayes_cannon as bc
from bayes_cannon.errors import BayesCannonWarning, InvalidDataError, OutputExistsError
from bayes_cannon.inference.flags import LabelFlag
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.runs.inputs import spectra_to_infer
from bayes_cannon.runs.report.registry import registered_sections
from bayes_cannon.runs.report.report import write_report
from bayes_cannon.surveys.simulation.catalogue import read_truth
from bayes_cannon.surveys.simulation.stars import SimulationSettings
from bayes_cannon.training.settings import TrainingSettings

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
    assert len(paths) == 1 + 40 + 10 + 1  # the catalogue, stars and decoys, the mystery star
    for path in (paths[0], paths[-1]):
        with fits.open(path, checksum=True) as hdus:
            assert all(hdu.header["SIMULATE"] for hdu in hdus)
            assert all("SIMULATED" in str(hdu.header["HISTORY"]) for hdu in hdus)
    few = SimulationSettings(decoys_per_cut=1, visit_shares=(0.7, 0.3))
    again = bc.surveys.simulate_survey(
        tmp_path / "again", n_stars=2, seed=1, settings=few, layout="mwm"
    )
    first = "spectra/star/00/00/mwmStar-0.6.0-900000000.fits"
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
        assert "another reduction" in str(hdus[1].header["HISTORY"]).replace("\n", "")
    assert made.summary["flags"]["OTHER_REDUCTION"] == 5
    assert "another reduction" in made.summary["reduction"]["note"]
    page = page_of(tmp_path / "run", "spectrum", cannon=cannons[trained])
    assert "Spectra of another reduction" in page
    assert f"Observed spectrum of {'9000000' if given == 'mwm' else '2S'}" in page


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
