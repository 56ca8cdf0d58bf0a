import io
import json
import logging
import re
import shutil
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from astropy.table import Table
from rich.console import Console

from bayes_cannon.cli import commands as cli
from bayes_cannon.cli import console as cli_progress
from bayes_cannon.cli.options import stars_to_plot
from bayes_cannon.errors import FileFormatError, InvalidDataError, NoStarsError
from bayes_cannon.runs.inputs import spectra_files, spectra_to_infer
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.surveys.apogee.cuts import Cuts
from bayes_cannon.surveys.apogee.layout import ASPCAP_WINDOWS, WAVELENGTH
from bayes_cannon.surveys.apogee.names import name_from_path
from bayes_cannon.surveys.preparing import prepare, prepare_spectra
from bayes_cannon.surveys.simulation.simulate import simulate_survey
from bayes_cannon.surveys.simulation.stars import SimulationSettings
from bayes_cannon.surveys.survey import open_survey
from tests.models.test_cannon import make_cannon
from tests.run_problem import CANNON, labels_of, make_spectra

PIXELS = np.concatenate([np.arange(a, b) for a, b in ASPCAP_WINDOWS])


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A simulated survey, its dataset, and a model of the same pixels."""
    root = tmp_path_factory.mktemp("inputs") / "survey"
    simulate_survey(root, n_stars=12, seed=3, settings=SimulationSettings(decoys_per_cut=0))
    return root


@pytest.fixture(scope="module")
def model(survey):
    dataset = prepare(open_survey(survey))
    return replace(
        make_cannon(n_pixels=PIXELS.size),
        wavelength=WAVELENGTH[PIXELS],
        used=np.ones(PIXELS.size, dtype=bool),
        settings={"dataset": dict(dataset.settings)},
    )


@pytest.fixture(scope="module")
def files(survey):
    """One file of each star, of those with most visits first."""
    paths = survey.glob("*/*/a[ps]Star-*.fits")
    return sorted(paths, key=lambda p: (-p.stat().st_size, p.name))


@pytest.fixture
def infer(tmp_path, model, monkeypatch, capfd):
    """Run the command; gives its exit status and what it said."""
    model.save(tmp_path / "cannon.nc")

    def run(*arguments):
        options = ["--method", "laplace", "--draws", "20", "--chains", "2"]
        command = ["bayes-cannon", "infer", tmp_path / "cannon.nc", *arguments, *options]
        monkeypatch.setattr(sys, "argv", [str(a) for a in [*command, "-o", tmp_path / "run"]])
        try:
            cli.main()
        except SystemExit as ended:
            said = capfd.readouterr()
            return ended.code, said.out + said.err
        raise AssertionError("the command did not end with an exit status")

    return run


# FITS files


def test_files_and_folders_mixed(model, survey, files, tmp_path):
    folder = tmp_path / "deep" / "down"
    folder.mkdir(parents=True)
    for path in files[:3]:
        shutil.copy(path, folder)
    (folder / "notes.fits").write_text("not a spectrum")
    (folder / f"visit-{files[0].name}").write_text("not a combined spectrum")
    spectra, labels = spectra_to_infer(model, [tmp_path / "deep", files[3], files[4]])
    assert labels is None
    assert spectra.n_stars == 5
    assert spectra.simulated
    assert spectra.flux.dtype == spectra.ivar.dtype == np.float32
    alone, _ = spectra_to_infer(model, [files[4]])
    assert spectra.star_id[4] == alone.star_id[0]
    np.testing.assert_array_equal(spectra.flux[4], alone.flux[0])


def test_compressed_files_in_folders(model, files, tmp_path):
    import gzip

    name = tmp_path / f"{files[0].name}.gz"
    name.write_bytes(gzip.compress(files[0].read_bytes()))
    assert spectra_to_infer(model, [tmp_path])[0].n_stars == 1


def test_linked_folders_and_capital_endings(model, survey, files, tmp_path, caplog):
    """What `prepare` finds is found here: of a real and two linked folders every file."""
    mixed = tmp_path / "mixed"
    folders = sorted({path.parent for path in files})
    shutil.copytree(folders[0], mixed / "apo25m" / "real")
    for k, folder in enumerate(folders[1:]):
        (mixed / f"link-{k}").symlink_to(folder)
    (mixed / "loop").symlink_to(mixed)
    shutil.copy(files[0], mixed / files[0].with_suffix(".FITS").name.replace("-dr17-", "-dr17-X"))
    found = spectra_files([mixed])
    assert len(found) == len(files) + 1
    assert {path.name for path in found} >= {path.name for path in files}
    assert "loop is a link to a folder above it" in caplog.text
    spectra, _ = spectra_to_infer(model, [mixed])
    assert spectra.n_stars == len(files) + 1
    assert spectra.good.any(axis=1).all()
    links = tmp_path / "links"
    links.symlink_to(survey / files[0].parts[-3])
    assert spectra_files([links])
    (tmp_path / "up").mkdir()
    shutil.copy(files[0], tmp_path / "up" / f"{files[0].stem}.FITS")
    capital, _ = spectra_to_infer(model, [tmp_path / "up"])
    assert capital.star_id.tolist() == spectra_to_infer(model, [files[0]])[0].star_id.tolist()


def test_a_survey_with_links_and_capitals(survey, tmp_path):
    whole = prepare(open_survey(survey))
    copy = tmp_path / "copy"
    copy.mkdir()
    for part in survey.iterdir():
        name = part.name.replace(".fits", ".FITS")
        (copy / name).symlink_to(part)
    again = prepare(copy, label_names=np.array(["teff", "LOGG", "FE_H", "MG_FE", "SI_FE"]))
    assert again.star_id.tolist() == whole.star_id.tolist()
    np.testing.assert_array_equal(again.spectra.flux, whole.spectra.flux)
    np.testing.assert_array_equal(again.labels.values, whole.labels.values)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cuts": {"snr_min": 20}}, "cuts must be a Cuts, not dict"),
        ({"cuts": 5}, "cuts must be a Cuts, not int"),
        ({"continuum": 4}, "continuum must be a ContinuumSettings, not int"),
        ({"windows": 5}, "windows must be pairs of pixel numbers"),
        ({"windows": ["ab", "cd"]}, "windows must be pairs"),
        ({"label_names": 5}, "names must be text"),
        ({"bad_bits": None}, "does not say which pixels are bad"),
    ],
)
def test_prepare_says_what_its_arguments_must_be(survey, options, match):
    with pytest.raises(InvalidDataError, match=match):
        prepare(survey, **options)


def test_prepare_takes_one_label_and_says_what_is_left_out(survey, caplog):
    with caplog.at_level(logging.INFO, logger="bayes_cannon"):
        dataset = prepare(str(survey), label_names="TEFF", cuts=Cuts(snr_min=np.float32(100)))
    assert dataset.labels.names == ("TEFF",)
    (cut,) = [s for s in dataset.cut_steps if s.name == "snr"]
    assert cut.removed > 0
    assert f"snr (SNR < 100, or unknown): {cut.removed} stars left out, {cut.remaining} remain" in (
        caplog.text
    )


def test_spectra_are_prepared_like_many_things(model, survey, files):
    dataset = prepare(survey)
    whole, problems = prepare_spectra(files[:2], like=dataset)
    assert not problems
    for like in (dataset.settings, model):
        np.testing.assert_array_equal(prepare_spectra(files[:2], like=like)[0].flux, whole.flux)
    one, _ = prepare_spectra(str(files[0]), like=dataset, star_ids=np.array(["A"], dtype=object))
    assert one.star_id.tolist() == ["A"]
    np.testing.assert_array_equal(one.flux[0], whole.flux[0])
    for like in (files[0], None, [dataset]):
        with pytest.raises(InvalidDataError, match="like must be a training set, a trained"):
            prepare_spectra(files[:2], like=like)


def test_files_of_one_star_get_different_names(model, files):
    spectra, _ = spectra_to_infer(model, [files[0], files[0], files[1], files[0]])
    first = str(spectra.star_id[0])
    assert spectra.star_id.tolist()[1] == f"{first}#2"
    assert spectra.star_id.tolist()[3] == f"{first}#3"


def test_broken_files_are_rows_without_pixels(model, files, tmp_path, caplog):
    broken = [tmp_path / f"apStar-dr17-{name}.fits" for name in ("2Mcut", "2Mhtml", "2Mempty")]
    broken[0].write_bytes(files[0].read_bytes()[:4000])
    broken[1].write_text("<html>not found</html>")
    broken[2].write_text("")
    absent = tmp_path / "apStar-dr17-2Mabsent.fits"
    spectra, _ = spectra_to_infer(model, [broken[0], files[0], tmp_path, files[1], absent])
    assert spectra.star_id[2:].tolist() == ["2Mcut", "2Mcut#2", "2Mempty", "2Mhtml", "2Mabsent"]
    np.testing.assert_array_equal(spectra.good.any(axis=1), [True] * 2 + [False] * 5)
    assert np.isnan(spectra.snr[2:]).all()
    lines = caplog.messages
    assert len(lines) == 5
    for path in [*broken, absent]:
        assert sum(str(path) in line for line in lines) == (2 if path is broken[0] else 1)


def test_a_broken_file_of_a_star_that_is_there(model, files, tmp_path):
    shutil.copy(files[0], tmp_path / files[0].name)
    (tmp_path / files[0].name).write_text("")
    spectra, _ = spectra_to_infer(model, [files[0], tmp_path])
    assert spectra.star_id.tolist() == [f"{spectra.star_id[0]}", f"{spectra.star_id[0]}#2"]


def test_visits(model, files):
    combined, _ = spectra_to_infer(model, [files[0]])
    first, _ = spectra_to_infer(model, [files[0]], visit=1)
    second, _ = spectra_to_infer(model, [files[0]], visit=2)
    assert first.star_id == second.star_id == combined.star_id
    assert not np.array_equal(first.flux, second.flux)
    assert np.median(first.ivar[first.good]) < np.median(combined.ivar[combined.good])


def test_stars_without_the_visit_are_rows_without_pixels(model, files):
    spectra, _ = spectra_to_infer(model, files, visit=3)
    have = spectra.good.any(axis=1)
    assert 0 < have.sum() < len(files) == spectra.n_stars
    with pytest.raises(InvalidDataError, match="visit must be a number from 1 on, got 0"):
        spectra_to_infer(model, files, visit=0)


def test_nothing_usable(model, tmp_path):
    with pytest.raises(NoStarsError, match="no apStar or asStar file below"):
        spectra_to_infer(model, [tmp_path])
    with pytest.raises(NoStarsError, match=r"none of 1 file .* does not exist"):
        spectra_to_infer(model, [tmp_path / "absent.fits"])


def test_an_empty_folder_among_others_is_said(model, files, tmp_path, caplog):
    spectra, _ = spectra_to_infer(model, [tmp_path, files[0]])
    assert spectra.n_stars == 1
    assert f"no apStar or asStar file below {tmp_path}" in caplog.text


def test_models_that_do_not_know_their_preparation(files):
    with pytest.raises(FileFormatError, match="does not say how its spectra were prepared"):
        spectra_to_infer(CANNON, [files[0]])


def test_a_folder_of_real_files(model, shipped_dir, caplog):
    spectra, _ = spectra_to_infer(model, [shipped_dir])
    assert spectra.star_id.tolist() == ["2M17335483-2753043", "2M19485057+5005279"]
    assert spectra.good.any(axis=1).all()
    assert not spectra.simulated
    assert not caplog.messages


def test_real_files_of_several_releases(model, real_dir, caplog):
    found = sorted(real_dir.glob("apStar-*.fits"))
    assert len({path.name.split("-")[1] for path in found}) > 1
    spectra, _ = spectra_to_infer(model, [real_dir])
    assert spectra.n_stars == len(found)
    assert spectra.good.any(axis=1).all()
    assert not spectra.simulated
    assert not caplog.messages


# Datasets


@pytest.fixture
def dataset(tmp_path):
    spectra = make_spectra(6)
    TrainingSet(spectra, labels_of(spectra)).save(tmp_path / "dataset.nc")
    return tmp_path / "dataset.nc"


def trained_on(names, held_out):
    """The model with these names among its training stars."""
    training = CANNON.training
    star_id = np.concatenate([names, training.star_id[len(names) :]])
    return replace(CANNON, training=replace(training, star_id=star_id), held_out=held_out)


def test_held_out_stars_of_a_dataset(dataset):
    names = make_spectra(6).star_id
    model = trained_on(names[[0, 2, 3, 5]], held_out=names[[1]])
    spectra, labels = spectra_to_infer(model, [dataset])
    assert spectra.star_id.tolist() == labels.star_id.tolist() == names[[1, 4]].tolist(), (
        "what training was never given is new as well"
    )
    assert spectra_to_infer(model, [dataset], all_stars=True)[0].n_stars == 6
    none = replace(CANNON, held_out=np.array([], dtype=np.str_))
    assert spectra_to_infer(none, [dataset])[0].n_stars == 6, "none of them was trained on"


def test_a_dataset_of_training_stars_alone(dataset):
    model = trained_on(make_spectra(6).star_id, held_out=np.array(["elsewhere"]))
    with pytest.raises(NoStarsError, match=r"training stars only.*--all-stars"):
        spectra_to_infer(model, [dataset])


def test_a_dataset_stands_alone(dataset, tmp_path):
    with pytest.raises(FileFormatError, match=r"give .*dataset\.nc alone"):
        spectra_to_infer(CANNON, [tmp_path / "a.fits", dataset])
    with pytest.raises(FileFormatError, match="a visit can only be chosen of FITS files"):
        spectra_to_infer(CANNON, [dataset], visit=2)


# The command


def test_command_with_one_broken_file_among_many(infer, files, tmp_path, caplog):
    broken = tmp_path / "apStar-dr17-2Mbroken.fits"
    broken.write_bytes(files[0].read_bytes()[:5000])
    status, said = infer(*files[:4], broken, "--corner", "2Mbroken", "--seed", 3)
    assert status == 1
    assert sum(str(broken) in line for line in caplog.messages) == 1
    assert "stars without a posterior get no corner plot: 2Mbroken" in caplog.messages
    assert "5 stars, 1 without a posterior" in said
    corners = tmp_path / "run" / "figures"
    assert not list(corners.glob("corner-*")), "the only star asked for has no posterior"
    table = Table.read(tmp_path / "run" / "catalogue.fits")
    bad = np.array([str(s).strip() == "2Mbroken" for s in table["APOGEE_ID"]])
    assert bad.sum() == 1
    for column in ("TEFF", "TEFF_FORMAL_ERR", "TEFF_Q50", "LOGG"):
        values = np.ma.filled(np.ma.asarray(table[column], dtype=float), np.nan)
        np.testing.assert_array_equal(np.isnan(values), bad)
    assert (table["LABEL_FLAG"][bad] != 0).all()
    assert np.ma.getmaskarray(table["DIVERGENCES"])[bad].all()
    status, said = infer(*files[:4], broken, "--seed", 3)
    assert status == 1
    assert "5 stars, 5 of them done earlier" in said
    drawn = {path: path.stat().st_mtime_ns for path in corners.glob("corner-*.png")}
    assert len(drawn) == 4, "all that have a posterior"
    first = min(drawn)
    first.unlink()
    infer(*files[:4], broken, "--seed", 3)
    again = {path: path.stat().st_mtime_ns for path in corners.glob("corner-*.png")}
    assert {path for path in drawn if again[path] != drawn[path]} == {first}
    status, said = infer(*files[:4], broken, "--seed", 4)
    assert status == 2
    assert "error: " in said
    assert "a run with other seed; choose another path or pass --overwrite" in said
    assert infer(*files[:4], "--seed", 4, "--overwrite")[0] == 0


def test_command_with_one_visit_of_each_star(infer, files, tmp_path):
    several = [*files[:2], "--corner", name_from_path(files[0])]
    assert infer(*several)[0] == 0
    combined = Table.read(tmp_path / "run" / "catalogue.fits")
    assert infer(*several, "--visit", 1, "--overwrite")[0] == 0
    first = Table.read(tmp_path / "run" / "catalogue.fits")
    assert list(first["APOGEE_ID"]) == list(combined["APOGEE_ID"])
    assert (first["TEFF"] != combined["TEFF"]).all()
    # Fewer photons: wider, and the stars are the brightest of several visits each.
    assert (first["TEFF_FORMAL_ERR"] > combined["TEFF_FORMAL_ERR"]).all()


def test_what_is_wrong_with_options_is_said_before_files_are_read(infer, tmp_path, monkeypatch):
    monkeypatch.setattr("bayes_cannon.runs.inputs.spectra_to_infer", None)
    priors = tmp_path / "priors.toml"
    priors.write_text('[AGE]\ndistribution = "uniform"\nlower = 0\nupper = 14\n')
    status, said = infer(tmp_path, "--priors", priors)
    assert status == 2
    assert "priors are given for AGE" in said


def test_laplace_alone_is_no_flag_and_flags_are_named(infer, files, tmp_path):
    status, said = infer(files[0], "--corner", "all")
    assert status == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    others = set(summary["flags"]) - {"LAPLACE", "SAMPLED_AGAIN"}
    assert summary["n_flagged"] == bool(others)
    assert f"{summary['n_flagged']} flagged (" in said
    assert "LAPLACE 1" in said


def test_corner_takes_all_spectra_of_a_star_by_its_plain_name():
    spectra = make_spectra(4, bad=(3,))
    names = np.array(["apo25m/M15/2M1", "apo25m/M67/2M1", "2M2", "2M2#2"])
    spectra = replace(spectra, star_id=names)

    def chosen(*wanted):
        return stars_to_plot(list(wanted), spectra)

    assert chosen("2M1") == ["apo25m/M15/2M1", "apo25m/M67/2M1"]
    assert chosen("2M2") == ["2M2", "2M2#2"]
    assert chosen("apo25m/M15/2M1", "nobody") == ["apo25m/M15/2M1", "nobody"]
    assert chosen() == chosen("all") == names[:3].tolist(), "the last has no usable pixel"
    assert chosen("none") == []
    assert chosen("2") == names[:2].tolist()
    with pytest.raises(InvalidDataError, match="--corner 2 stands alone"):
        chosen("2M1", "2")
    numbered = replace(spectra, star_id=np.array(["2", "all", "3", "4"]))
    assert stars_to_plot(["2"], numbered) == ["2"], "a star of that name comes first"
    assert stars_to_plot(["all", "3"], numbered) == ["all", "3"]


def test_without_a_word_all_stars_get_a_corner_plot_up_to_a_thousand(monkeypatch):
    spectra = make_spectra(4, bad=())
    assert stars_to_plot(None, spectra) == spectra.star_id.tolist()
    monkeypatch.setattr("bayes_cannon.cli.options.MOST_CORNERS", 3)
    assert stars_to_plot(None, spectra) == spectra.star_id[:3].tolist()
    assert stars_to_plot(["all"], spectra) == spectra.star_id.tolist()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_tells_stars_per_second(monkeypatch, terminal):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=100)
    monkeypatch.setattr(cli_progress, "_ERR", console)
    monkeypatch.setattr("bayes_cannon.base.progress._PLAIN_EVERY", 0.15)
    with cli_progress.watching() as tell:
        for done in (0, 20, 40):
            tell(done, 100, "stars")
            time.sleep(0.2)
    said = shown.getvalue()
    assert "40/100" in said if terminal else "stars: 40 of 100" in said
    rate = float(re.findall(r"([\d.]+)/s", said)[-1])
    assert 30 < rate < 110


def test_command_where_all_files_are_broken(infer, tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"apStar-dr17-{name}.fits").write_text("")
    status, said = infer(tmp_path)
    assert status == 2
    assert "error: none of 2 files holds a usable spectrum" in said
    assert not (tmp_path / "run").exists()


def test_command_with_priors_and_corner_plots(infer, files, tmp_path):
    priors = tmp_path / "priors.toml"
    priors.write_text('[TEFF]\ndistribution = "uniform"\nlower = 4000\nupper = 5000\n')
    status, said = infer(*files[:2], "--priors", priors, "--corner", "all")
    assert status == 0, said
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["priors"]["TEFF"] == {"distribution": "uniform", "lower": 4000, "upper": 5000}
    table = Table.read(tmp_path / "run" / "catalogue.ecsv")
    assert np.all((table["TEFF"] > 4000) & (table["TEFF"] < 5000))
    assert len(list((tmp_path / "run" / "figures").glob("corner-*.png"))) == 2
    assert infer(*files[:2], "--priors", tmp_path / "absent.toml")[0] == 2
    status, said = infer(*files[:2], "--corner", "nobody", "--overwrite")
    assert status == 2
    assert "nobody" in said
