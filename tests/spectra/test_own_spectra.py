"""A user's own spectra: an optical grid, two labels, from arrays or files to posteriors."""

import doctest
import json
from pathlib import Path

import numpy as np
import pytest
from astropy.table import Table

from bayes_cannon.errors import (
    BayesCannonWarning,
    FileFormatError,
    InvalidDataError,
    LabelError,
    NoStarsError,
)
from bayes_cannon.inference.infer import infer_labels
from bayes_cannon.inference.settings import InferenceSettings
from bayes_cannon.spectra import arrays as own_spectra
from bayes_cannon.spectra.arrays import spectra_from_arrays, training_set_from_arrays
from bayes_cannon.spectra.continuum import ContinuumSettings
from bayes_cannon.spectra.dataset import TrainingSet
from bayes_cannon.spectra.tables import read_spectrum, training_set_from_table
from bayes_cannon.surveys.preparing import prepare_spectra
from bayes_cannon.training.pipeline import train

WAVELENGTH = np.linspace(5000.0, 5100.0, 401)
LINES = np.linspace(5004.0, 5096.0, 20)
CHIPS = ((5000.0, 5050.0), (5050.0, 5100.0))
FAR = np.min(np.abs(WAVELENGTH[:, None] - LINES), axis=1) > 1.5
CONTINUUM = ContinuumSettings(degree=2, pixels=tuple(WAVELENGTH[FAR]), min_pixels=10)
NAMES = ("TEFF", "FE_H")


def made_up(n_stars: int, seed: int = 1, scale: float = 1.0) -> dict:
    """Stars with lines whose depths are linear in two labels, under a sloping continuum."""
    rng = np.random.default_rng(seed)
    lines = np.random.default_rng(0)
    slopes = lines.normal(0.0, 0.06, (2, LINES.size))
    teff, fe_h = rng.uniform(4500, 5500, n_stars), rng.uniform(-0.8, 0.3, n_stars)
    depths = 0.25 + np.outer((teff - 5000) / 500, slopes[0]) + np.outer(fe_h, slopes[1])
    profile = np.exp(-0.5 * ((WAVELENGTH - LINES[:, None]) / 0.4) ** 2)
    level = scale * rng.uniform(0.5, 2.0, (n_stars, 1)) * (1 + 0.002 * (WAVELENGTH - 5050))
    error = 0.01 * level
    flux = level * (1 - depths @ profile) + error * rng.normal(size=level.shape)
    return {"flux": flux, "error": error, "level": level, "TEFF": teff, "FE_H": fe_h}


def training_set(stars: dict, **options: object) -> TrainingSet:
    options = {
        "error": stars["error"], "chips": CHIPS, "continuum": CONTINUUM, **options,
    }  # fmt: skip
    return training_set_from_arrays(
        WAVELENGTH, stars["flux"], {n: stars[n] for n in NAMES}, **options
    )


# The whole way -----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 1e-17, 1e4])
def test_training_and_inference_find_the_labels(scale):
    """Also where inverse variances in physical units exceed what float32 can hold."""
    stars, new = made_up(60, seed=1, scale=scale), made_up(30, seed=2, scale=scale)
    dataset = training_set(stars)
    cannon = train(dataset, n_factors=0, seed=1)
    spectra = spectra_from_arrays(
        WAVELENGTH, new["flux"], error=new["error"], chips=CHIPS, continuum=CONTINUUM
    )
    # Not the name of a training star, whose labels would be taken for those of the new one.
    assert spectra.star_id[0] == "spectrum-1"
    assert dataset.star_id[0] == "star-1"
    settings = InferenceSettings(method="laplace")
    posterior = infer_labels(cannon, spectra, settings=settings, seed=1)["posterior"]
    for name, precision in (("TEFF", 15.0), ("FE_H", 0.04)):
        draws = posterior[name]
        error = draws.std(("chain", "draw")).values
        pulls = (draws.mean(("chain", "draw")).values - new[name]) / error
        assert np.all(error < precision)
        # 30 pulls: the mean of their squares is below 2.0 in all but 1 of 1000 cases.
        assert np.mean(pulls**2) < 2.0


def test_saved_and_loaded_like_any_training_set(tmp_path):
    dataset = training_set(made_up(12), units={"FE_H": "dex"}, label_errors={"TEFF": 30.0})
    loaded = TrainingSet.load(dataset.save(tmp_path / "own.nc"))
    np.testing.assert_array_equal(loaded.spectra.flux, dataset.spectra.flux)
    np.testing.assert_array_equal(loaded.labels.error("TEFF"), np.full(12, 30.0))
    assert np.isnan(loaded.labels.error("FE_H")).all()
    assert loaded.labels.units == ("K", "dex")
    assert loaded.settings == dataset.settings
    assert json.loads(loaded.settings["chips"]) == [[0, 200], [200, 401]]
    assert loaded.settings["continuum_degree"] == 2


def test_normalised_flux_is_the_true_one():
    stars = made_up(12)
    spectra = training_set(stars).spectra
    truth = stars["flux"] / stars["level"]
    sigma = stars["error"] / stars["level"]
    # The continuum of about 120 pixels has an error a tenth of a pixel's; 5 sigma of that.
    assert np.max(np.abs(spectra.flux - truth) / sigma) < 1.0
    np.testing.assert_allclose(spectra.snr, 100 * 0.9, rtol=0.15)
    assert spectra.chips == ((0, 200), (200, 401))


def test_spectra_that_are_normalised_already_stay_as_they_are():
    stars = made_up(5)
    flux, error = stars["flux"] / stars["level"], stars["error"] / stars["level"]
    dataset = training_set_from_arrays(
        WAVELENGTH, flux, {"TEFF": stars["TEFF"]}, ivar=error**-2, simulated=True
    )
    np.testing.assert_array_equal(dataset.spectra.flux, flux.astype(np.float32))
    np.testing.assert_allclose(dataset.spectra.ivar, error**-2, rtol=1e-6)
    assert dataset.spectra.simulated
    assert dataset.spectra.chips == ((0, 401),)
    assert "continuum_degree" not in dataset.settings


def test_pixels_outside_the_chips_are_not_used():
    stars = made_up(5)
    flux = stars["flux"] / stars["level"]
    error = stars["error"] / stars["level"]
    chips = ((5010.0, 5040.0), (5060.0, 5090.0))
    inside = ((WAVELENGTH >= 5010) & (WAVELENGTH <= 5040)) | (
        (WAVELENGTH >= 5060) & (WAVELENGTH <= 5090)
    )
    for options in ({}, {"continuum": CONTINUUM}):
        spectra = spectra_from_arrays(WAVELENGTH, flux, error=error, chips=chips, **options)
        np.testing.assert_array_equal(spectra.good, np.broadcast_to(inside, flux.shape))
        assert np.all(spectra.flux[~spectra.good] == 1.0)


def test_example_in_the_documentation_runs():
    tried = doctest.testmod(own_spectra)
    assert tried.attempted > 8
    assert tried.failed == 0


# Bad pixels and stars ----------------------------------------------------------------------


def test_bad_pixels_may_hold_anything():
    stars = made_up(4)
    flux, error = stars["flux"].copy(), stars["error"].copy()
    flux[1, 10:15] = np.nan
    error[1, 10:15] = np.inf
    from_error = spectra_from_arrays(
        WAVELENGTH, flux, error=error, chips=CHIPS, continuum=CONTINUUM
    )
    with np.errstate(divide="ignore"):
        from_ivar = spectra_from_arrays(
            WAVELENGTH, flux, ivar=error**-2.0, chips=CHIPS, continuum=CONTINUUM
        )
    assert np.flatnonzero(~from_error.good[1]).tolist() == [10, 11, 12, 13, 14]
    np.testing.assert_array_equal(from_error.flux, from_ivar.flux)


def test_star_without_good_pixels_is_left_out_and_said():
    stars = made_up(6)
    stars["error"][2] = np.inf
    with pytest.warns(BayesCannonWarning, match=r"1 of 6 stars \(star-3\) are left out; star-3"):
        dataset = training_set(stars)
    assert dataset.n_stars == 5
    np.testing.assert_array_equal(dataset.labels["TEFF"], np.delete(stars["TEFF"], 2))
    assert [(p.star_id, p.message) for p in dataset.problems] == [
        ("star-3", "no pixel is good and has a continuum")
    ]
    assert [s.removed for s in dataset.cut_steps] == [0, 1]
    kept = spectra_from_arrays(
        WAVELENGTH, stars["flux"], error=stars["error"], chips=CHIPS, continuum=CONTINUUM
    )
    assert kept.n_stars == 6, "where labels are to be inferred every star keeps its row"


def test_no_usable_star_is_an_error():
    stars = made_up(3)
    stars["error"][:] = np.inf
    with pytest.raises(NoStarsError, match="none of 3 stars can be used; the first, star-1"):
        training_set(stars)


# Bad input ---------------------------------------------------------------------------------


def changed(change) -> dict:
    """Arguments of `training_set_from_arrays` with one thing wrong."""
    stars = made_up(4)
    arguments = {
        "wavelength": WAVELENGTH.copy(), "flux": stars["flux"], "error": stars["error"],
        "labels": {n: stars[n].copy() for n in NAMES}, "chips": CHIPS, "continuum": CONTINUUM,
    }  # fmt: skip
    change(arguments)
    return arguments


def put(name, index, value):
    def change(arguments: dict) -> None:
        arguments[name][index] = value

    return change


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda a: a.update(flux=a["flux"][:, :-1]), InvalidDataError,
         r"flux \(4, 400\) and error \(4, 401\) must both have shape .* 401 pixels"),
        (lambda a: a.update(error=a["error"][:2]), InvalidDataError, r"error \(2, 401\) must"),
        (lambda a: a.update(error=None), InvalidDataError, "give either ivar or error"),
        (lambda a: a.update(ivar=a["error"]), InvalidDataError, "give either ivar or error"),
        (lambda a: a.update(wavelength=a["wavelength"][::-1]), InvalidDataError,
         "increase from pixel to pixel .*at pixel 0.*sort it with np.argsort"),
        (put("wavelength", 7, np.nan), InvalidDataError, "wavelength must be finite"),
        (lambda a: a.update(wavelength=np.tile(WAVELENGTH, (4, 1))), InvalidDataError,
         "the same for all stars"),
        (put("flux", ..., np.nan), InvalidDataError,
         r"all 4 stars \(star-1, .*have flux that is not finite, in 1604 pixels: errors are pos"),
        (put("error", ..., 0.0), InvalidDataError, r"all 4 stars .* an error that cannot be"),
        (put("error", ..., np.nan), InvalidDataError, "an error that cannot be"),
        (lambda a: a.update(error=None, ivar=-a["error"]), InvalidDataError, "an ivar that cannot"),
        (lambda a: a.update(star_id=["a", "b", "c"]), InvalidDataError, "3 names for 4 stars"),
        (lambda a: a.update(star_id=["a", "b", "c", "a"]), InvalidDataError, "a come more than"),
        (lambda a: a.update(chips=((5050, 5000),)), InvalidDataError, "ordered .low, high. ranges"),
        (lambda a: a.update(chips=((6000, 6100),)), InvalidDataError,
         "must hold some of the pixels, which are at 5000.0-5100.0"),
        (lambda a: a.update(continuum=ContinuumSettings()), InvalidDataError,
         "none of the 529 continuum pixels lies on the grid"),
        (lambda a: a.update(continuum=None, flux=1e3 * a["flux"]), InvalidDataError,
         "they are not normalised; give `continuum`"),
        (lambda a: a["labels"]["FE_H"].put([1, 3], np.nan), LabelError,
         r"2 of 4 stars \(star-2, star-4\) lack labels; leave them out"),
        (lambda a: a["labels"].update(TEFF=np.ones(3)), LabelError, r"TEFF must have shape \(4,\)"),
        (lambda a: a.update(labels={}), LabelError, "labels need names"),
        (lambda a: a.update(labels={"[Fe/H]": np.ones(4)}), LabelError, r"letters.*: \[Fe/H\]"),
        (lambda a: a.update(label_errors={"LOGG": 0.1}), LabelError, "LOGG, which is not a label"),
        (lambda a: a.update(label_errors={"TEFF": -1.0}), LabelError, "errors that are not pos"),
    ],
)  # fmt: skip
def test_bad_input_is_named(change, error, match):
    arguments = changed(change)
    with pytest.raises(error, match=match):
        training_set_from_arrays(
            arguments.pop("wavelength"), arguments.pop("flux"), arguments.pop("labels"), **arguments
        )


def test_missing_labels_can_be_allowed():
    stars = made_up(5)
    stars["FE_H"][1] = np.nan
    dataset = training_set(stars, allow_missing_labels=True)
    assert dataset.labels.complete.tolist() == [True, False, True, True, True]


def test_apstar_files_cannot_be_treated_like_own_spectra():
    settings = training_set(made_up(4)).settings
    with pytest.raises(InvalidDataError, match="made of a user's own spectra"):
        prepare_spectra(["apStar-dr17-2M1.fits"], like=settings)


# Files -------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path) -> tuple[Table, dict]:
    """A table of files and labels, the files of two kinds."""
    stars = made_up(6)
    paths = []
    for i in range(6):
        spread = {"error": stars["error"][i]} if i % 2 else {"IVAR": stars["error"][i] ** -2}
        table = Table({"wavelength": WAVELENGTH, "FLUX": stars["flux"][i], **spread})
        paths.append(f"star{i}.{'ecsv' if i % 2 else 'fits'}")
        table.write(tmp_path / paths[-1])
    table = Table({"PATH": paths, "TEFF": stars["TEFF"], "FE_H": stars["FE_H"]})
    table["TEFF_ERR"] = 25.0
    return table, stars


def from_table(table: Table, folder: Path, **options: object) -> TrainingSet:
    options = {"chips": CHIPS, "continuum": CONTINUUM, **options}
    return training_set_from_table(table, NAMES, folder=folder, **options)


def test_files_give_the_same_training_set_as_arrays(listed, tmp_path):
    table, stars = listed
    told = []
    dataset = from_table(table, tmp_path, progress=lambda *n: told.append(n))
    arrays = training_set(stars)
    np.testing.assert_allclose(dataset.spectra.flux, arrays.spectra.flux, atol=1e-6)
    np.testing.assert_allclose(dataset.spectra.ivar, arrays.spectra.ivar, rtol=1e-5)
    np.testing.assert_array_equal(dataset.labels.values, arrays.labels.values)
    assert (dataset.labels.error("TEFF") == 25.0).all()
    assert dataset.star_id.tolist() == [f"star{i}" for i in range(6)]
    assert told == [(i + 1, 6, "reading spectra") for i in range(6)]


def test_one_broken_file_does_not_stop_the_others(listed, tmp_path):
    table, stars = listed
    (tmp_path / "star0.fits").write_bytes(b"<html>")
    shifted = Table({"WAVELENGTH": WAVELENGTH + 0.1, "FLUX": stars["flux"][3]})
    shifted["ERROR"] = stars["error"][3]
    shifted.write(tmp_path / "star3.ecsv", overwrite=True)
    table["STAR_ID"] = [f"S{i}" for i in range(6)]
    with pytest.warns(
        BayesCannonWarning,
        match=r"2 of 6 stars \(S0, S3\) are left out; S0: .*cannot be read as a table: .*",
    ):
        dataset = from_table(table, tmp_path)
    assert dataset.star_id.tolist() == ["S1", "S2", "S4", "S5"]
    np.testing.assert_array_equal(dataset.labels["TEFF"], stars["TEFF"][[1, 2, 4, 5]])
    assert "not those of star1.ecsv; let the reader bring" in dataset.problems[1].message
    assert [(s.name, s.removed) for s in dataset.cut_steps] == [
        ("table", 0), ("spectrum readable", 2), ("good pixels", 0),
    ]  # fmt: skip


def test_reader_of_the_users_own(listed, tmp_path):
    table, stars = listed

    def reader(path: Path):
        i = int(path.stem.removeprefix("star"))
        if i == 4:
            raise RuntimeError
        return WAVELENGTH, stars["flux"][i], stars["error"][i] ** -2

    with pytest.warns(BayesCannonWarning, match="star4: RuntimeError"):
        dataset = from_table(table, tmp_path / "nowhere", reader=reader)
    expected = np.delete(training_set(stars).spectra.flux, 4, axis=0)
    np.testing.assert_allclose(dataset.spectra.flux, expected, atol=1e-6)


def test_tables_that_cannot_be_used(listed, tmp_path):
    table, _ = listed
    with pytest.raises(LabelError, match="no column LOGG; it has PATH, TEFF, FE_H, TEFF_ERR"):
        training_set_from_table(table, ("TEFF", "LOGG"), folder=tmp_path)
    with pytest.raises(NoStarsError, match=r"none of 6 files .*; the first, star0: "):
        from_table(table, tmp_path / "nowhere")
    with pytest.raises(NoStarsError, match="none of 0 files"):
        from_table(table[:0], tmp_path)
    masked = Table(table, masked=True)
    masked["FE_H"].mask[3] = True
    with pytest.raises(LabelError, match=r"1 of 6 stars \(star3\) lack labels"):
        from_table(masked, tmp_path)
    doubled = table[[0, 0, 1]]
    with pytest.raises(InvalidDataError, match="star0 come more than once"):
        from_table(doubled, tmp_path)


def test_pixels_that_a_file_marks_as_bad(tmp_path):
    flux = np.array([1.0, np.nan, 1.0, 1.0, 1.0])
    error = np.array([0.1, 0.1, np.nan, 0.0, -1.0])
    Table({"Wavelength": np.arange(5.0), "Flux": flux, "Error": error}).write(tmp_path / "a.ecsv")
    _, _, ivar = read_spectrum(tmp_path / "a.ecsv")
    np.testing.assert_allclose(ivar, [100.0, 0, 0, 0, 0])


def test_file_that_holds_something_else(tmp_path):
    Table({"WAVELENGTH": [1.0], "FLUX": [1.0]}).write(tmp_path / "a.ecsv")
    with pytest.raises(FileFormatError, match="needs columns WAVELENGTH, FLUX, and IVAR or ERROR"):
        read_spectrum(tmp_path / "a.ecsv")


def test_a_normalised_spectrum_among_raw_ones_is_left_out():
    rng = np.random.default_rng(4)
    wavelength = np.linspace(5000.0, 5100.0, 301)
    flux = 5800.0 * rng.uniform(0.5, 2, (8, 1)) * (1 + 0.01 * rng.normal(size=(8, 301)))
    flux[3] /= np.median(flux[3])
    error = 0.01 * flux
    continuum = ContinuumSettings(degree=2, pixels=tuple(wavelength[::3]), min_pixels=10)
    given = {"error": error, "continuum": continuum}
    labels = {"TEFF": np.linspace(4500, 5000, 8)}
    with pytest.warns(BayesCannonWarning, match="1 of 8 stars .star-4. are left out"):
        made = training_set_from_arrays(wavelength, flux, labels, **given)
    assert len(made) == 7
    (problem,) = made.problems
    assert "that of a normalised spectrum" in problem.message
    assert "products are not mixed" in problem.message
    alone = training_set_from_arrays(wavelength, flux / flux.mean(1)[:, None], labels, **(
        given | {"error": np.full(flux.shape, 0.01)}
    ))  # fmt: skip
    assert len(alone) == 8  # all alike: nothing is mixed
